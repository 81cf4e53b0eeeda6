"""Features of images for other programs: what a layer says of each, beside names and labels."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np

from data import feature_store
from data.decode import shrink_array
from data.errors import UserError
from data.examples import SPLITS
from data.feature_store import FeatureStore, Part
from data.frozen import Frozen
from data.inspection import Inspection, inspect
from data.names import printable
from trainer import data_setup, listing
from trainer.recipe import Recipe
from trainer.reports.console import Console

FORMATS = (".npz", ".parquet")
# Rows that are in memory at a time.
CHUNK = 4096


def of_source(recipe: Recipe, console: Console) -> Frozen:
    """The images of a recipe's source that decode, and their splits; others are told. Writes nothing.

    Raises:
        UserError: none decodes, or the source can only be read in sequence.
    """
    found, split, stream = listing.table(recipe, console)
    if stream is not None:
        raise UserError(
            f"{stream.title} can only be read in sequence",
            where="gin binding train.source",
            expected="files or images in memory; or a session, which has packed the images",
            do="train first and give its --workdir",
        )
    decoding = data_setup.decoding(recipe)
    if found.pixels is not None:
        found = dataclasses.replace(found, pixels=shrink_array(found.pixels, decoding=decoding))
        seen = Inspection.of_arrays(found)
    else:
        seen = inspect(found, decoding=decoding, report=console.count("decoding", len(found)))
        console.close()
    for row, reason in seen.bad.items():
        console.say(f"left out {found.where(row)}: {reason}", style="yellow")
    good = seen.reasons == b""
    if not good.any():
        raise data_setup.bad_images(found, seen.bad)
    kept, seen = found.take(good), seen.take(good)
    return Frozen(
        dataclasses.replace(kept, orientations=seen.orientations, kinds=seen.kinds), split[good], seen, decoding
    )


def narrowed(frozen: Frozen, split: str | None) -> Frozen:
    """The part of a table in one split; None: all of it.

    Raises:
        UserError: nothing is in that split.
    """
    if split is None:
        return frozen
    rows = frozen.split == SPLITS.index(split) if split in SPLITS else np.zeros(len(frozen.split), bool)
    if not rows.any():
        raise UserError(
            f"there are no images in the split {split!r}",
            where="--split",
            expected=f"one of {', '.join(frozen.parts())}",
            do="choose one of them",
        )
    return Frozen(frozen.examples.take(rows), frozen.split[rows], frozen.inspection.take(rows), frozen.decoding)


def check_output(output: Path) -> None:
    """Refuses what could not be written, before anything is computed.

    Raises:
        UserError: no folder to write into, or a name that says no format.
    """
    if output.suffix and output.suffix not in FORMATS and not output.is_dir():
        raise UserError(
            f"--output={output}",
            where="command line",
            expected=f"a name in {' or '.join(FORMATS)}, or without an ending: a folder",
            do="rename it",
        )
    if output.suffix == ".parquet":
        _pyarrow()
    folder = output.parent
    taken = output.is_dir() if output.suffix in FORMATS else output.exists() and not output.is_dir()
    if taken or not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise UserError(
            f"the features cannot be written to {output}",
            where="--output",
            expected="a folder that is there and can be written, and nothing else of that name in it",
            do="choose another --output",
        )


def columns(frozen: Frozen, store: FeatureStore, *, labelled: bool) -> dict[str, np.ndarray]:
    """What is known of the rows of the parts of a store, one part below the other.

    Returns:
        names [N] text; split [N] text; view [N] int32, which of the augmented views it is, from 0; broken [N] bool,
        whether the image could not be read; and where `labelled`: labels as in `data.examples.Examples`, class_names.
    """
    found: dict[str, list] = {"names": [], "split": [], "view": [], "broken": [], "labels": []}
    for name, part in store.parts.items():
        table = frozen.parts()[name]
        views, broken = part.rows // len(table), np.zeros(part.rows, bool)
        broken[list(part.broken)] = True
        found["names"] += [printable(bytes(each)) for each in table.names] * views
        found["split"] += [name] * part.rows
        found["view"].append(np.repeat(np.arange(views, dtype=np.int32), len(table)))
        found["broken"].append(broken)
        found["labels"].append(np.concatenate([table.labels] * views))
    joined = {name: np.concatenate(values) for name, values in found.items() if name not in ("names", "split")}
    rows = {"names": np.array(found["names"], np.str_), "split": np.array(found["split"], np.str_), **joined}
    if not labelled:
        del rows["labels"], rows["split"]
        return rows
    return rows | {"class_names": np.array(frozen.examples.class_names, np.str_)}


def write(output: Path, store: FeatureStore, known: dict[str, np.ndarray], *, layer: str, task: str) -> None:
    """Writes beside the output and moves into place; images that could not be read are left out of files."""
    if output.suffix not in FORMATS:
        with open(store.folder / f"{feature_store.ROWS}.part", "wb") as file:
            np.savez(file, **known)
        os.replace(store.folder / f"{feature_store.ROWS}.part", store.folder / feature_store.ROWS)
        return
    good = ~known.pop("broken")
    known = {name: values if name == "class_names" else values[good] for name, values in known.items()}
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        if output.suffix == ".npz":
            values = np.concatenate([_mapped(each) for each in store.parts.values()])[good]
            with open(part, "wb") as file:
                np.savez(file, features=values, layer=layer, **known)
                file.flush()
                os.fsync(file.fileno())
        else:
            _write_parquet(part, store, known, good, layer=layer, task=task)
        os.replace(part, output)
    finally:
        part.unlink(missing_ok=True)


def _mapped(part: Part) -> np.ndarray:
    return np.memmap(part.path, part.dtype, "r", shape=(part.rows, *part.shape))


def _write_parquet(
    path: Path, store: FeatureStore, known: dict[str, np.ndarray], good: np.ndarray, *, layer: str, task: str
) -> None:
    """A row an image: name, split, label, class, view, and features, a flat list whose shape the metadata hold."""
    pyarrow = _pyarrow()
    shape = next(iter(store.parts.values())).shape
    width = int(np.prod(shape))
    known = dict(known)
    class_names = known.pop("class_names", None)
    text = {name: pyarrow.array(known[name].tolist()) for name in ("names", "split") if name in known}
    table = {"name": text.pop("names"), **text, "view": pyarrow.array(known["view"])}
    if class_names is not None:
        table["label"] = pyarrow.array(known["labels"].tolist())
        if task in ("single_label", "binary"):
            table["class"] = pyarrow.array(class_names[known["labels"]].tolist())
    facts = {
        "layer": layer,
        "shape": json.dumps(shape),
        "class_names": json.dumps([] if class_names is None else class_names.tolist()),
    }
    kind = pyarrow.list_(pyarrow.float32(), width)
    fields = [pyarrow.field(name, column.type) for name, column in table.items()]
    schema = pyarrow.schema([*fields, pyarrow.field("features", kind)], metadata=facts)
    start = first = 0
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for part in store.parts.values():
            values = _mapped(part)
            for row in range(0, part.rows, CHUNK):
                some = values[row : row + CHUNK][good[first + row : first + row + CHUNK]].astype(np.float32)
                listed = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(some.reshape(-1)), width)
                rest = [column.slice(start, len(some)) for column in table.values()]
                writer.write_table(pyarrow.Table.from_arrays([*rest, listed], schema=schema))
                start += len(some)
            first += part.rows


def _pyarrow():
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "pyarrow is not installed, which writes Parquet",
            where="--output",
            expected="the package pyarrow, or a name in .npz",
            do="pip install 'onward[parquet]'",
        ) from error
    return pyarrow
