"""The pages of docs/ say what the program says, and lead to what is there."""

import ast
import re
from pathlib import Path

import pytest

from tests import gallery
from trainer import launch
from trainer.recipe import Recipe

PROJECT = Path(__file__).resolve().parent.parent
DOCS = PROJECT / "docs"
SITE = DOCS / "site" / "mkdocs.yml"
PAGES = sorted([*DOCS.rglob("*.md"), PROJECT / "README.md", PROJECT / "WORKSPACE.md"])


def names(paths):
    return [str(path.relative_to(PROJECT)) for path in paths]


def anchors(page: Path) -> set[str]:
    """Of the headings of a page, as GitHub and MkDocs make them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    words = (re.sub(r"[^\w\- ]", "", title.lower()) for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE))
    return {title.replace(" ", "-") for title in words}


def test_the_page_of_recipes_is_made_of_their_headers():
    assert (DOCS / "recipes.md").read_text() == gallery.page(), "python tests/gallery.py > docs/recipes.md"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_its_links_lead_to_pages_and_headings(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def test_the_site_lists_every_page_and_each_once():
    listed = re.findall(r"^ +- (?:[^:\n]+: )?(\S+\.md)$", SITE.read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def test_the_reference_has_a_page_for_each_package_and_no_module_twice():
    below = {}
    for page in (DOCS / "reference").glob("*.md"):
        name = re.search(r"^::: (\S+)$", page.read_text(), re.MULTILINE)[1]
        below[name] = set(re.findall(r'"!\^(\w+)\$"', page.read_text()))
    packages = {path.parent for room in ("data", "trainer") for path in (PROJECT / room).glob("*/__init__.py")}
    dotted = {".".join(path.relative_to(PROJECT).parts) for path in packages}
    assert below.keys() == {"data", "trainer"} | dotted
    for name, left_out in below.items():
        assert left_out == {other.removeprefix(f"{name}.") for other in dotted if other.startswith(f"{name}.")}


def strings() -> str:
    """Every text in the sources, a line each; what is put in at run time is a zero byte."""
    found = []
    for path in (path for room in ("data", "trainer", "scripts") for path in (PROJECT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
                found.append("".join(parts))
    return "\n".join(found)


def test_the_messages_of_the_page_on_trouble_are_those_of_the_program():
    told, program = [], strings()
    for table in re.findall(
        r"^\| message \|.*?(?=\n\n)", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE | re.DOTALL
    ):
        for row in table.splitlines()[2:]:
            told += re.findall(r"`([^`]+)`", row.split(" | ")[0])
    assert len(told) > 40
    for message in told:
        for part in message.split("..."):
            words = part.strip(" :;,()")
            assert words in program, message


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / "from_keras.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("lines", blocks("gin"), ids=lambda lines: lines.split(" ")[0])
def test_what_stands_beside_keras_is_a_recipe(lines):
    launch.parse_gin(["configs/finetune.gin"], ["data_dir = 'photos'", lines])
    launch.call(Recipe)


def test_every_recipe_and_script_that_a_page_names_is_there():
    for page in PAGES:
        for named in re.findall(r"(?:python |\./)?((?:configs|scripts)/[\w/]+\.(?:gin|py|sh))\b", page.read_text()):
            assert (PROJECT / named).is_file(), f"{named} in {page}"
