"""The few examples that a preview is made of: which, where training shows them, and nothing else looked at."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data import packing
from data.augment.policy import Policy
from data.decode import Decoding, shrink_array
from data.errors import UserError
from data.examples import SPLITS, Examples, Stream
from data.frozen import Frozen
from data.inspection import Inspection, inspect
from data.names import printable
from data.order import Order
from data.pipeline import View
from data.splits import TRAIN
from trainer import data_setup, launch, listing, losses, rendering
from trainer.batches import share_of
from trainer.optimization.stages import Planned, plan
from trainer.recipe import Recipe
from trainer.reports.console import Console
from trainer.workdir import Workdir

# Positions that are looked through at a time for those that show an example.
CHUNK = 2**20
# Epochs that are looked through for each draw that is wanted, where sampling shows an example in few of them.
PATIENCE = 4
MOST_PICTURES = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Material:
    """The examples with all that is needed to render them.

    Attributes:
        examples: all that are needed, partners of mixed pairs included.
        view, training_view: how an evaluation and the stage see them.
        shown: rows of the examples that get a row on the sheet.
        positions: for each of those, where the training shows it; empty outside of the train split.
        rows: position -> row, of those and of their partners.
        stage: whose policy it is, with its place in the run.
        policy: what augments in that stage.
        epoch: positions of an epoch.
        length: positions of the whole run.
    """

    examples: Examples
    view: View
    training_view: View
    shown: list[int]
    positions: list[list[int]]
    rows: dict[int, int]
    stage: Planned
    policy: Policy
    epoch: int
    length: int


class _Found(NamedTuple):
    """The table as a session has it, or as one would start with it; `inspection` is None where nobody has looked."""

    examples: Examples
    split: np.ndarray
    inspection: Inspection | None
    decoding: Decoding
    stream: Stream | None = None


@contextlib.contextmanager
def material(
    recipe: Recipe,
    session: Workdir | None,
    console: Console,
    *,
    wanted: Sequence[str],
    draws: int,
    stage: str | None,
    split: str,
    replicas: int,
    frozen: Frozen | None = None,
) -> Iterator[Material]:
    """Finds the examples and looks at them alone. Without a session nothing is written.

    Args:
        session: whose frozen table it is; None: that of the source, as if every image decodes.
        wanted: names or paths of examples, or how many, as text.
        draws: positions of each.
        stage: name of one; None: the first that augments.
        frozen: the table of a session that is open; None: it is found.

    Raises:
        UserError: no such example, stage or split, more pictures than a page holds, or images that do not decode.
    """
    found = _of(frozen) if frozen is not None else _table(recipe, session, console)
    examples, in_train = found.examples, np.flatnonzero(found.split == TRAIN)
    _, order = data_setup.training_part(recipe, examples.take(in_train))
    run = plan(recipe.stages, examples=order.epoch_length, batch=recipe.batch_size)
    # What a training would refuse is refused here.
    share_of(recipe, replicas)
    launch.call(rendering.check, recipe, recipe.stages)
    launch.call(recipe.optimizer.make)
    launch.call(losses.chosen, recipe.loss, examples.task)
    launch.check_consumed()
    planned = _stage(recipe, run.stages, stage)
    part = _part(found.split, split)
    chosen = part[_choose(examples, part, found.split, wanted)]
    if len(chosen) * (1 + draws) > MOST_PICTURES:
        raise UserError(
            f"{len(chosen)} examples and {draws} draws of each",
            where="--examples, --draws",
            expected=f"at most {MOST_PICTURES} pictures",
            do="ask for fewer",
        )
    policy = planned.stage.policy or recipe.policy
    positions: list[list[int]] = [[] for _ in chosen]
    if split == SPLITS[TRAIN] and policy.operations:
        rows, start = np.searchsorted(in_train, chosen), planned.start * recipe.batch_size
        positions = showings(order, rows, start=start, count=draws)
    seats = dict.fromkeys(seat for listed in positions for one in listed for seat in (one, one ^ policy.mixes))
    standing = in_train[order.rows(tf.constant(list(seats), tf.int64))[1].numpy()]
    needed, places = np.unique([*chosen, *standing], return_inverse=True)
    shown, standing = places[: len(chosen)].tolist(), places[len(chosen) :].tolist()
    with contextlib.ExitStack() as stack:
        some, seen = _looked_at(recipe, found, needed, stack)
        bad = seen.bad
        if bad and (recipe.bad_images == "refuse" or bad.keys() >= set(shown)):
            raise data_setup.bad_images(some, bad)
        for row, reason in bad.items():
            console.say(f"left out {some.where(row)}: {reason}", style="yellow")
        good = seen.take(seen.reasons == b"")
        view = data_setup.view(recipe, Frozen(some, np.zeros(len(some), np.int8), good, found.decoding))
        kept = [(row, listed) for row, listed in zip(shown, positions, strict=True) if row not in bad]
        yield Material(
            examples=some,
            view=view,
            training_view=dataclasses.replace(view, image_size=recipe.size(planned.stage)),
            shown=[row for row, _ in kept],
            positions=[listed for _, listed in kept],
            rows=dict(zip(seats, standing, strict=True)),
            stage=planned,
            policy=policy,
            epoch=order.epoch_length,
            length=run.steps * recipe.batch_size,
        )


def _table(recipe: Recipe, session: Workdir | None, console: Console) -> _Found:
    if session is not None:
        return _of(data_setup.open_data(recipe, session, console, resuming=True))
    source, split, stream = listing.table(recipe, console)
    return _Found(source, split, None, data_setup.decoding(recipe), stream)


def _of(frozen: Frozen) -> _Found:
    return _Found(frozen.examples, frozen.split, frozen.inspection, frozen.decoding)


def _stage(recipe: Recipe, stages: Sequence[Planned], name: str | None) -> Planned:
    by_name = {planned.stage.name: planned for planned in stages}
    if name is not None and name not in by_name:
        raise UserError(
            f"no stage is called {name!r}", where="--stage", expected=f"one of {', '.join(by_name)}", do="choose one"
        )
    augmenting = (each for each in stages if (each.stage.policy or recipe.policy).operations)
    return by_name[name] if name is not None else next(augmenting, stages[0])


def _part(split: np.ndarray, name: str) -> np.ndarray:
    """Rows of the table in this split."""
    present = [SPLITS[index] for index in np.unique(split)]
    if name not in present:
        raise UserError(
            f"there are no examples in the split {name!r}",
            where="--split",
            expected=f"one of {', '.join(present)}",
            do="choose one of them",
        )
    return np.flatnonzero(split == SPLITS.index(name))


def _choose(examples: Examples, part: np.ndarray, split: np.ndarray, wanted: Sequence[str]) -> np.ndarray:
    """Indexes into `part`: those of names or paths, or a number of them, evenly."""
    if len(wanted) == 1 and wanted[0].isdecimal():
        count = min(int(wanted[0]), len(part))
        if not count:
            raise UserError(f"--examples={wanted[0]}", where="command line", expected="at least 1", do="--examples=6")
        return ((np.arange(count) + 0.5) * len(part) / count).astype(int)
    rows = []
    for text in wanted:
        row = _row(examples, text)
        if row is None:
            base = os.path.basename(os.fsencode(text))
            alike = [name for name in examples.names[part].tolist() if base and base in name][:3]
            listed = ", ".join(map(printable, alike or examples.names[part[:3]].tolist()))
            raise UserError(
                f"no example is called {text!r}",
                where="--examples",
                expected=f"a number, or names or paths such as {listed}",
                do="correct it; --examples=NAME may be given several times",
            )
        index = np.searchsorted(part, row)
        if index == len(part) or part[index] != row:
            raise UserError(
                f"{text!r} is in the split {SPLITS[split[row]]}",
                where="--examples, --split",
                expected=f"examples of {SPLITS[split[part[0]]]}",
                do=f"--split={SPLITS[split[row]]}",
            )
        rows.append(index)
    return np.array(list(dict.fromkeys(rows)), int)


def _row(examples: Examples, text: str) -> int | None:
    names = [os.fsencode(text)]
    if examples.root is not None:
        names.append(os.fsencode(os.path.relpath(os.path.abspath(text), os.path.abspath(examples.root))))
    for name in names:
        rows = np.flatnonzero(examples.names == name)
        if len(rows):
            return int(rows[0])
    return None


def showings(order: Order, rows: np.ndarray, *, start: int, count: int) -> list[list[int]]:
    """The first positions from `start` on at which each of these rows stands.

    Args:
        rows: [E] of the training table.
        count: how many of each; fewer where epochs show it too seldom.
    """
    found: dict[int, list[int]] = {int(row): [] for row in rows}
    stop = start + order.epoch_length * (PATIENCE * count + 1)
    while count and start < stop and min(map(len, found.values())) < count:
        end = min(stop, start + CHUNK, (start // order.epoch_length + 1) * order.epoch_length)
        standing = order.rows(tf.range(start, end, dtype=tf.int64))[1].numpy()
        for offset in np.flatnonzero(np.isin(standing, rows)).tolist():
            found[int(standing[offset])].append(start + offset)
        start = end
    return [found[int(row)][:count] for row in rows]


def _looked_at(
    recipe: Recipe, found: _Found, rows: np.ndarray, stack: contextlib.ExitStack
) -> tuple[Examples, Inspection]:
    """These rows of the table, and what was seen of them; records of a stream are packed for the time being."""
    some = found.examples.take(rows)
    if found.inspection is not None:
        return some, found.inspection.take(rows)
    if found.stream is not None and some.store is None:
        store = packing.pack(_part_of(found.stream, some), _temporary(stack), decoding=found.decoding)
        some = dataclasses.replace(store.attach(some), pixels=None)
    if some.store is not None:
        seen = some.store.inspection.take(some.store_rows)
        return dataclasses.replace(some, orientations=seen.orientations), seen
    if some.pixels is not None:
        some = dataclasses.replace(some, pixels=shrink_array(some.pixels, decoding=found.decoding))
        return some, Inspection.of_arrays(some)
    seen = inspect(some, decoding=found.decoding)
    return dataclasses.replace(some, orientations=seen.orientations, kinds=seen.kinds), seen


def _temporary(stack: contextlib.ExitStack) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="onward-preview-")))


def _part_of(stream: Stream, some: Examples) -> Stream:
    """These records alone, read up to the last of them."""
    missing, records = set(some.names.tolist()), []
    for record in stream.records():
        if record.name in missing:
            missing.remove(record.name)
            records.append(record)
        if not missing:
            break
    return dataclasses.replace(stream, records=lambda: iter(records), count=len(records))
