"""Writes exports beside their places, has them compared, and only then moves them into place."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import tensorflow as tf

from data.errors import RunFailure, UserError
from trainer import init_from, manifest
from trainer.exporting import comparing
from trainer.exporting.comparing import SAME, Agreement
from trainer.exporting.formats import Format, silence
from trainer.exporting.network import Exported
from trainer.reports.console import Console
from trainer.workdir import read_json, write_json


def write(
    exported: Exported,
    outputs: Mapping[Path, Format],
    images: Sequence[str],
    *,
    overwrite: bool = False,
    console: Console | None = None,
) -> dict[Path, Agreement]:
    """Writes a network in one or several formats; all are moved into place once all agree with the session, or none.

    What the outputs stand for, and what makes pixels of images, goes with each, see `init_from.classes_file`.

    Args:
        images: files on which they are compared, see `comparing.compare`.

    Raises:
        UserError: there is something already, a place cannot be written, or the network cannot be written so.
        RunFailure: no space, or what was read again predicts something else.
    """
    for output, form in outputs.items():
        _check_place(output, form, overwrite=overwrite)
    with contextlib.ExitStack() as stack:
        paths = {stack.enter_context(_beside(output)) / output.name: output for output in outputs}
        for path, output in paths.items():
            _write(exported, path, outputs[output], output)
        agreements = comparing.compare(
            exported, {path: outputs[output] for path, output in paths.items()}, images, console=console
        )
        for path, output in paths.items():
            _expect(agreements[path], exported, outputs[output])
        for path, output in paths.items():
            described = init_from.classes_file(path)
            write_json(described, _description(exported, path, outputs[output]))
            if outputs[output].suffix:
                os.replace(described, init_from.classes_file(output))
            elif output.exists():
                os.replace(output, path.parent / "earlier")
            os.replace(path, output)
    return {output: agreements[path] for path, output in paths.items()}


def _write(exported: Exported, path: Path, form: Format, output: Path) -> None:
    try:
        with silence():
            form.write(exported, path)
    except UserError:
        raise
    except (OSError, tf.errors.ResourceExhaustedError):
        raise
    # What a converter raises is its own.
    except Exception as error:
        raise UserError(
            f"this network cannot be written as {form.name}: {' '.join(str(error).split())[:300]}",
            where=f"--output={output}",
            expected="layers that the format knows",
            do="choose --format=weights, saved_model or checkpoint",
        ) from error


def _expect(agreement: Agreement, exported: Exported, form: Format) -> None:
    if agreement.holds:
        return
    limit = f"{SAME:.0%} of the images" if agreement.limit is None else f"at most {agreement.limit:g}"
    raise RunFailure(
        f"written as {form.name} and read again, {agreement}",
        where=str(exported.prefix),
        expected=limit,
        do="compare on more images, --compare=500, or export it without rounding, as .tflite"
        if form.rounded
        else "choose another --format, and report this",
    )


def _description(exported: Exported, path: Path, form: Format) -> dict:
    recipe = exported.recipe
    return {
        "format": form.name,
        "task": exported.meaning.task,
        "classes": list(exported.meaning.names),
        "outputs": "logits",
        "input": f"[B, {recipe.image_size}, {recipe.image_size}, 3] float32, RGB in 0..255",
        "preprocessing": dataclasses.asdict(exported.preprocessing),
        "backbone": recipe.model.backbone.name,
        "checkpoint": exported.prefix.name,
        "weights": "ema" if exported.group == "ema" else "raw",
        **({} if path.is_dir() else {"sha256": manifest.sha256(path)}),
    }


def _check_place(output: Path, form: Format, *, overwrite: bool) -> None:
    if not output.exists():
        return
    ours = output.is_file() if form.suffix else output.is_dir() and _is_export(output)
    if not overwrite or not ours:
        raise UserError(
            f"{output} is there already{'' if ours else ', and it is no export of this format'}",
            where="--output",
            expected="a new name, or --overwrite of an earlier export",
            do="choose another --output" + (", or add --overwrite" if ours else ""),
        )


def _is_export(folder: Path) -> bool:
    """Whether `write` made it; a session has a classes.json too, a plain list."""
    try:
        return "outputs" in read_json(folder / "classes.json")
    except UserError:
        return False


@contextlib.contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """A folder on the same disk, gone at the end."""
    folder = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        folder.mkdir()
    except OSError as error:
        raise UserError(
            f"the export cannot be written: {error}",
            where="--output",
            expected="a name in a folder that is there and can be written",
            do="choose another --output",
        ) from error
    try:
        yield folder
    except (OSError, tf.errors.OpError) as error:
        raise RunFailure(
            f"the export cannot be written: {str(error).splitlines()[0]}",
            where=str(output),
            expected="space for it",
            do="make room, then run the same command again",
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
