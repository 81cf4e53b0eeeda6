"""Writes the page of a session, or of several side by side."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from data.errors import UserError
from data.examples import Stream
from data.frozen import Frozen
from data.names import printable
from data.store import MANIFEST
from trainer import data_setup, launch
from trainer.preview import Section
from trainer.recipe import Recipe
from trainer.reports import pages
from trainer.reports.console import Console
from trainer.reports.page import comparison, content, drift, pictures, sheet
from trainer.reports.page import run as runs
from trainer.reports.page.pictures import Picture
from trainer.reports.page.run import Run
from trainer.workdir import Workdir, write_text


def at_end(workdir: Workdir, recipe: Recipe, data: Frozen, console: Console) -> None:
    """Writes WORKDIR/report.html for a training that has ended. Whatever fails is told in one line."""
    try:
        page = single(
            runs.read(workdir),
            picture=pictures.of_examples(data.examples),
            sheet=lambda: sheet.section(recipe, data, console),
        )
        write_text(workdir.report, page)
        console.say(f"report: {workdir.report}")
    # A page is never worth a training that has come to its end.
    except Exception as error:
        told = error.found if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        console.say(f"no report: {printable(' '.join(told.split()))[:300]}", style="yellow")


def on_demand(workdir: Workdir, console: Console, *, drifts: bool = False) -> str:
    """The page of a session as it stands. Nothing is written, and what cannot be had is left out of the page.

    Args:
        console: is told of images that have changed.
        drifts: whether it is compared with the pre-trained weights of its recipe.

    Raises:
        UserError: that comparison cannot be had.
    """
    found = runs.read(workdir)
    recipe, data, reason = _opened(workdir, console)
    if drifts:
        if data is None:
            raise reason
        moved = drift.from_pretrained(recipe, workdir, outputs=data.examples.outputs)
        found = dataclasses.replace(found, summary=found.summary | {"drift": moved})

    def rendered() -> Section | None:
        if data is None:
            raise reason
        return sheet.section(recipe, data, console)

    return single(found, picture=_picture(found, data), sheet=rendered)


def _opened(workdir: Workdir, console: Console) -> tuple[Recipe | None, Frozen | None, UserError | None]:
    """The recipe and the data of a session, or why they cannot be had."""
    try:
        if not workdir.examples.exists():
            raise _nothing_yet(workdir.examples)
        launch.parse_gin([str(workdir.config)], [])
        recipe = launch.call(Recipe)
        store = workdir.store if recipe.store == "auto" else Path(recipe.store or "").expanduser()
        # To open such a source would be to pack it.
        if isinstance(launch.call(recipe.source), Stream) and not (store / MANIFEST).exists():
            raise _nothing_yet(store / MANIFEST)
        return recipe, data_setup.open_data(recipe, workdir, console, resuming=True), None
    except UserError as error:
        return None, None, error


def _nothing_yet(path: Path) -> UserError:
    return UserError(
        f"{path.name} is not there",
        where=str(path),
        expected="the data of a session that has begun to train",
        do="wait until it has, or put the file back",
    )


def _picture(found: Run, data: Frozen | None) -> Picture:
    if data is not None:
        return pictures.of_examples(data.examples)
    root = next((details.root for details in found.details.values() if details.root), None)
    return pictures.of_files(root) if root else lambda name: None


def single(run: Run, *, picture: Picture, sheet: Callable[[], Section | None]) -> str:
    """The page of one session."""
    return pages.render(
        "report.html", {"run": run, "parts": content.parts(run, picture=picture, sheet=sheet), **_helpers()}
    )


def several(found: Sequence[Run]) -> str:
    """The page of several sessions, side by side."""
    return pages.render("compare.html", {"runs": found, **comparison.parts(found), **_helpers()})


def _helpers() -> dict[str, object]:
    return {"sheet_address": sheet.address}


def write(path: Path, page: str) -> None:
    """Writes a page, whole or not at all.

    Raises:
        UserError: there is no such folder, or it cannot be written.
    """
    try:
        write_text(path, page)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise UserError(
            f"the report cannot be written: {error}",
            where="--output",
            expected="a file in a folder that is there and can be written",
            do="choose another --output",
        ) from error
