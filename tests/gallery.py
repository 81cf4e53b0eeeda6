"""docs/recipes.md out of the headers of configs/, so that the page says what they say.

python tests/gallery.py > docs/recipes.md
"""

import re
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
# What people begin with, in this order; all others follow by name.
FIRST = (
    *("quickstart", "extend", "finetune", "features", "imagedatagenerator"),
    *("resume_weights", "continual_first", "continual"),
)
FIELD = re.compile(r"(command|result|time|source): +(.*)")
TOP = """\
# The recipes

Each file in `configs/`, with the command that runs it, and what that command has shown. Words and figures are those of
the file's own header; `python tests/gallery.py > docs/recipes.md` makes this page anew, and a test compares. `photos`
stands for your folder, with one folder of images per class.

Every recipe begins with the same settings, which one `--gin_param` each changes: `data_dir`, `image_size`, `batch_size`
(global), `learning_rate`, `epochs`, `backbone`, `precision`, `seed`. Several `--gin_file` are read one after the other;
the last one wins.
"""


def header(path: Path) -> tuple[str, dict[str, str]]:
    """What a recipe says of itself: a sentence or more, and its fields as they are laid out, by name."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    if "" not in lines:
        raise ValueError(f"Received: {path.name} without an empty line in its header  Expected: words, then fields")
    words, rest = lines[: lines.index("")], lines[lines.index("") + 1 :]
    fields: dict[str, str] = {}
    name = None
    for line in rest:
        if match := FIELD.fullmatch(line):
            name = match[1]
            fields[name] = match[2]
        else:
            # Below the first letter of the field.
            fields[name] += f"\n{line.removeprefix(' ' * 9)}"
    return " ".join(words), fields


def entry(path: Path) -> str:
    """The section of one recipe."""
    words, fields = header(path)
    parts = [f"### `configs/{path.relative_to(CONFIGS)}`", flat(words), f"```\n{fields['command']}\n```"]
    told = [f"- **{name}**: {flat(fields[name])}" for name in ("result", "time") if name in fields]
    return "\n\n".join([*parts, *(["\n".join(told)] if told else [])])


def flat(text: str) -> str:
    """In one line, safe in Markdown."""
    return re.sub(r"([*<|])", r"\\\1", " ".join(text.split()))


def table(folder: str) -> str:
    """A row for each recipe of a folder that goes behind others."""
    paths = sorted((CONFIGS / folder).glob("*.gin"))
    rows = [f"| `{path.stem}` | {flat(header(path)[0])} |" for path in paths]
    return "\n".join(["| file | what it sets |", "|---|---|", *rows])


def page() -> str:
    """All of docs/recipes.md."""
    first = [CONFIGS / f"{name}.gin" for name in FIRST]
    others = [path for path in sorted(CONFIGS.glob("*.gin")) if path not in first]
    parts = [TOP.rstrip(), "## To train with", *map(entry, first), "## To prove and to measure with"]
    parts += [*map(entry, others), "## Behind any recipe"]
    for folder, what in (
        ("backbones", "Another backbone at its size, with a policy that suits it"),
        ("policies", "A policy"),
    ):
        example = header(sorted((CONFIGS / folder).glob("*.gin"))[0])[1]["command"]
        parts += [f"### `configs/{folder}/`", f"{what}, for example\n\n```\n{example}\n```", table(folder)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(page(), end="")
