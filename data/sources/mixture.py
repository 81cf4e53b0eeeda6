"""Several sources as one, each with its share of the stream."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence

import gin
import numpy as np

from data.errors import UserError
from data.examples import Examples, Record, Stream

Source = Examples | Stream


@gin.configurable
def mixture(sources: Sequence[Source | Callable[[], Source]] = (), weights: Sequence[float] | None = None) -> Source:
    """Puts sources together: a table if all are files, or images of one size in memory; a `Stream` otherwise.

    Classes of the same name are one class; outputs stand in the order in which their names appear. Files are named by
    their path below the folder that all roots have in common, other examples INDEX/NAME with the index of their source.
    Groups keep their names: a group that two sources name is one group.

    Args:
        sources: at least two, as references: [@a/folder, @b/table].
        weights: how much of the stream comes from each, in any unit; None: as much as there is.

    Raises:
        UserError: tasks or outputs that do not fit, the same file in two sources, weights that are none.
    """
    if len(sources) < 2 or (weights is not None and len(weights) != len(sources)):
        raise UserError(
            f"{len(sources)} sources" + ("" if weights is None else f" with {len(weights)} weights"),
            where="gin bindings mixture.sources, mixture.weights",
            expected="at least two sources, and a weight for each or none",
            do="mixture.sources = [@a/folder, @b/folder]",
        )
    if weights is not None and not all(np.isfinite(weight) and weight > 0 for weight in weights):
        raise UserError(
            f"weights = {list(weights)}",
            where="gin binding mixture.weights",
            expected="finite numbers above 0",
            do="correct them, or leave the source out",
        )
    shares = () if weights is None else tuple(weight / sum(weights) for weight in weights)
    parts = [source() if callable(source) else source for source in sources]
    _check_parts(parts)
    class_names = _united(parts)
    if all(isinstance(part, Examples) and part.root is not None for part in parts):
        root = os.path.commonpath([part.root for part in parts])
        mixed = _joined(parts, [_below(root, part.root) for part in parts], class_names, root=root)
        return dataclasses.replace(mixed, shares=shares)
    prefixes = [b"%d/" % index for index in range(len(parts))]
    pixels = [part.pixels if isinstance(part, Examples) else None for part in parts]
    if all(array is not None for array in pixels) and len({array.shape[1:] for array in pixels}) == 1:
        mixed = _joined(parts, prefixes, class_names, pixels=np.concatenate(pixels))
        return dataclasses.replace(mixed, shares=shares)
    return _chained(parts, prefixes, class_names, shares)


def _check_parts(parts: Sequence[Source]) -> None:
    strange = [part for part in parts if not isinstance(part, Examples | Stream)]
    if strange:
        raise UserError(
            f"{strange[0]!r} is no source",
            where="gin binding mixture.sources",
            expected="references such as @folder",
            do="mixture.sources = [@a/folder, @b/folder]",
        )
    first = parts[0]
    for index, part in enumerate(parts):
        same = part.class_names == first.class_names or part.task in ("single_label", "multi_label")
        if part.task != first.task or not same:
            raise UserError(
                f"source {index} is {part.task} ({_named(part)}), source 0 is {first.task} ({_named(first)})",
                where="gin binding mixture.sources",
                expected="one task; the same outputs in the same order if it is binary or regression",
                do="state task and class_names of each source",
            )
        if part.shares or (isinstance(part, Examples) and part.store is not None):
            raise UserError(
                f"source {index} is {'a mixture' if part.shares else 'a packed store'}",
                where="gin binding mixture.sources",
                expected="sources that are neither mixtures with weights nor packed stores",
                do="list its sources here; the mixture as a whole can be packed",
            )


def _named(part: Source) -> str:
    return ", ".join((part.class_names or ("(not stated)",))[:10])


def _united(parts: Sequence[Source]) -> tuple[str, ...] | None:
    """All class names in order of appearance; None if a source does not know its own yet."""
    if any(part.class_names is None for part in parts):
        return None
    return tuple(dict.fromkeys(name for part in parts for name in part.class_names))


def _below(root: str, folder: str) -> bytes:
    return b"" if folder == root else os.fsencode(os.path.relpath(folder, root)) + b"/"


def _joined(
    parts: Sequence[Examples],
    prefixes: Sequence[bytes],
    class_names: tuple[str, ...],
    *,
    root: str | None = None,
    pixels: np.ndarray | None = None,
) -> Examples:
    names = [
        np.array([prefix + name for name in part.names.tolist()]) for prefix, part in zip(prefixes, parts, strict=True)
    ]
    all_names = np.concatenate(names)
    distinct, counts = np.unique(all_names, return_counts=True)
    if len(distinct) < len(all_names):
        twice = distinct[counts > 1]
        listed = ", ".join(repr(os.fsdecode(bytes(name))) for name in twice[:5])
        raise UserError(
            f"{len(twice)} files are in more than one source: {listed}",
            where=f"gin binding mixture.sources, below {root}",
            expected="each file in one source",
            do="take them out of one; repeat factors or weights show images more often",
        )
    grouped = any(part.groups is not None for part in parts)
    groups = [part.groups if part.groups is not None else own for part, own in zip(parts, names, strict=True)]
    mixed = Examples.of(
        names=all_names,
        labels=np.concatenate([_relabelled(part.labels, part, class_names) for part in parts]),
        class_names=class_names,
        task=parts[0].task,
        weights=np.concatenate([part.weights for part in parts]),
        repeats=np.concatenate([part.repeats for part in parts]),
        groups=np.concatenate(groups) if grouped else None,
        root=root,
        pixels=pixels,
        stated_split=np.concatenate([part.stated_split for part in parts]),
        orientations=np.concatenate([part.orientations for part in parts]),
        refused=_refused(parts, prefixes),
        notes=_notes(parts),
    )
    origins = np.repeat(np.arange(len(parts), dtype=np.int16), [len(part) for part in parts])
    return dataclasses.replace(mixed, origins=origins)


def _relabelled(labels: np.ndarray, part: Source, class_names: tuple[str, ...]) -> np.ndarray:
    """Labels of one source, [N] or [N, K], over the outputs of all."""
    if part.class_names == class_names:
        return labels
    places = np.array([class_names.index(name) for name in part.class_names])
    if part.task != "multi_label":
        return places[labels]
    targets = np.zeros((len(labels), len(class_names)), np.float32)
    targets[:, places] = labels
    return targets


def _refused(parts: Sequence[Source], prefixes: Sequence[bytes]) -> tuple[tuple[bytes, str], ...]:
    return tuple(
        (prefix + name, reason) for part, prefix in zip(parts, prefixes, strict=True) for name, reason in part.refused
    )


def _notes(parts: Sequence[Source]) -> tuple[str, ...]:
    return tuple(f"source {index}: {note}" for index, part in enumerate(parts) for note in part.notes)


def _chained(
    parts: Sequence[Source], prefixes: Sequence[bytes], class_names: tuple[str, ...] | None, shares: tuple[float, ...]
) -> Stream:
    def records() -> Iterator[Record]:
        for index, (part, prefix) in enumerate(zip(parts, prefixes, strict=True)):
            for record in part.records() if isinstance(part, Stream) else _records(part):
                yield dataclasses.replace(
                    record,
                    name=prefix + record.name,
                    label=_label(record.label, part, class_names),
                    origin=index,
                )

    counts = [part.count if isinstance(part, Stream) else len(part) for part in parts]
    facts = {}
    for index, part in enumerate(parts):
        own = part.fingerprint if isinstance(part, Stream) else _facts(part)
        facts |= {f"{index}/{key}": value for key, value in own.items()}
    return Stream(
        records=records,
        title="mixture of "
        + ", ".join(part.title if isinstance(part, Stream) else part.root or "arrays" for part in parts),
        count=None if None in counts else sum(counts),
        class_names=class_names,
        task=parts[0].task,
        fingerprint=facts | {"shares": repr(shares)},
        shares=shares,
        refused=_refused(parts, prefixes),
        notes=_notes(parts),
    )


def _records(part: Examples) -> Iterator[Record]:
    for row, name in enumerate(part.names.tolist()):
        yield Record(
            name=name,
            image=_content(part, name) if part.pixels is None else part.pixels[row],
            label=part.labels[row] if part.labels.ndim == 2 else int(part.labels[row]),
            weight=float(part.weights[row]),
            repeat=float(part.repeats[row]),
            split=int(part.stated_split[row]),
            group=None if part.groups is None else bytes(part.groups[row]),
        )


def _content(part: Examples, name: bytes) -> bytes:
    """Empty, which does not decode, where the file cannot be read."""
    try:
        with open(os.path.join(os.fsencode(part.root), name), "rb") as file:
            return file.read()
    except OSError:
        return b""


def _facts(part: Examples) -> dict[str, str]:
    facts = {"table": part.fingerprint()}
    if part.root is not None:
        digest = hashlib.sha256()
        for name in part.names.tolist():
            try:
                fact = os.stat(os.path.join(os.fsencode(part.root), name))
                digest.update(b"%d %d\n" % (fact.st_size, fact.st_mtime_ns))
            except OSError:
                digest.update(b"gone\n")
        facts["files"] = digest.hexdigest()
    return facts


def _label(label: int | str | np.ndarray, part: Source, class_names: tuple[str, ...] | None) -> int | str | np.ndarray:
    """A record's label over the outputs of all; the class by its name as long as not all are known."""
    if isinstance(label, np.ndarray):
        return _relabelled(label[None], part, class_names)[0]
    if class_names is None:
        return label if isinstance(label, str) else str(label) if part.class_names is None else part.class_names[label]
    name = label if isinstance(label, str) else part.class_names[label]
    return class_names.index(name)
