"""What was drawn for a picture, in words; and all that an operation can do.

Numbers of an operation that is made of others have names that say whose they are, as `Operation.numbers` gives them:
`INDEX.OPERATION.NUMBER`. Where one of several is chosen, `0.one_of.chosen` says which of those under `1.`, or, in
layers, `LAYER.chosen` which of those under `LAYER.`. `applied` is 0 where an operation is passed over.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from data.examples import Examples

# Numbers of one operation that a caption holds.
MOST_NUMBERS = 8
# Numbers that say nothing to a reader.
SILENT = ("applied", "always")


def said(number: float) -> str:
    """At most three significant digits and six decimals."""
    rounded = float(f"{number:.3g}")
    text = f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:.6f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def label(examples: Examples, row: int) -> str:
    """What an example is labelled as."""
    value, names = examples.labels[row], examples.class_names
    if examples.task == "regression":
        return ", ".join(f"{name} {said(number)}" for name, number in zip(names, value, strict=True))
    if examples.task == "multi_label":
        return ", ".join(name for name, holds in zip(names, value, strict=True) if holds) or "no class"
    return names[value]


def spoken(name: str, numbers: Mapping[str, float]) -> list[str]:
    """A line for each operation that does something, such as `rotation: degrees 8.31`.

    Args:
        numbers: what the operation of this name drew for one example.
    """
    lines = []
    for operation, drawn in done(name, numbers):
        # NAME_0, NAME_1, ... are tries of the same draw: the first stands for all.
        firsts = {number: re.sub(r"_\d+$", "_0", number) for number in drawn}
        tries = [number for number, first in firsts.items() if number != first and first in drawn]
        listed = [
            f"{number.removesuffix('_0') if number in map(firsts.get, tries) else number} {said(value)}"
            for number, value in drawn.items()
            if number not in tries
        ]
        text = f": {', '.join(listed[:MOST_NUMBERS])}" if listed else ""
        more = " ..." if tries or len(listed) > MOST_NUMBERS else ""
        lines.append((operation + text + more).replace("_", " "))
    return lines


def done(name: str, numbers: Mapping[str, float]) -> list[tuple[str, dict[str, float]]]:
    """The operations that do something, with what they drew; see `spoken`."""
    if not numbers.get("applied", 1):
        return []
    plain = {key: value for key, value in numbers.items() if "." not in key and key not in SILENT}
    found = [(name, plain)] if plain or not any("." in key for key in numbers) else []
    for choice, start in _choices(numbers).items():
        for index, operation, within in _members(numbers, start):
            if not choice or int(numbers[choice]) == index:
                inner = {key[len(within) :]: value for key, value in numbers.items() if key.startswith(within)}
                found += done(operation, inner)
    return found


def variants(name: str, keys: Iterable[str]) -> list[tuple[str, dict[str, float]]]:
    """What an operation can do: a label, and numbers that make it do that, to be put in place of those drawn.

    There is one for each member of a choice. Of several choices one works at a time.

    Args:
        keys: names of its numbers.
    """
    keys = list(keys)
    applied = {key: 1.0 for key in keys if key.split(".")[-1] == "applied"}
    none = {key: -1.0 for key in keys if key.split(".")[-1] == "chosen"}
    return [(label, applied | none | chosen) for label, chosen in _variants(name, keys)]


def _variants(name: str, keys: list[str]) -> list[tuple[str, dict[str, float]]]:
    found: list[tuple[str, dict[str, float]]] = []
    for choice, start in _choices(keys).items():
        # What an earlier layer can do is not shown again.
        earlier = {label for label, _ in found}
        for index, operation, within in _members(keys, start):
            inner = [key[len(within) :] for key in keys if key.startswith(within)]
            for label, chosen in _variants(operation, inner):
                numbers = {within + key: value for key, value in chosen.items()}
                numbers |= {choice: float(index)} if choice else {}
                if numbers and f"{name}: {label}" not in earlier:
                    found.append((f"{name}: {label}", numbers))
    return found or [(name, {})]


def _choices(keys: Iterable[str]) -> dict[str, str]:
    """The number that says which member is chosen -> what the names of those members start with; '' -> '' for all."""
    found = {}
    for key in keys:
        if key == "0.one_of.chosen":
            found[key] = "1."
        elif re.fullmatch(r"\d+\.chosen", key):
            found[key] = key.removesuffix("chosen")
    return found or {"": ""}


def _members(keys: Iterable[str], start: str) -> Iterator[tuple[int, str, str]]:
    """Index, operation, and what the names of its numbers start with."""
    members = dict.fromkeys(tuple(key[len(start) :].split(".", 2)[:2]) for key in keys if _is_member(key, start))
    return ((int(index), operation, f"{start}{index}.{operation}.") for index, operation in members)


def _is_member(key: str, start: str) -> bool:
    return key.startswith(start) and key[len(start) :].count(".") >= 2
