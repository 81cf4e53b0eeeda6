"""The data of a session: found, looked at once, split, packed where that pays, frozen."""

import dataclasses
import math
import os
import shutil
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from data import frozen as tables
from data import packing, pipeline, sampling, skipping
from data import store as stores
from data.decode import ANY, Decoding, shrink_array
from data.errors import RunFailure, UserError
from data.examples import SPLITS, Examples, Stream
from data.frozen import Frozen
from data.inspection import Inspection, inspect, look_at
from data.names import printable
from data.order import Order
from data.pipeline import View
from data.read_crop import needs_files
from data.service import Feed
from data.skipping import Ranges
from data.splits import TRAIN
from data.store import Store
from trainer import devices, identity, launch
from trainer.cluster import lane
from trainer.optimization.stages import Stage
from trainer.recipe import Recipe
from trainer.rendering import rendering, training_policy
from trainer.reports.console import Console
from trainer.workdir import Workdir

LISTED = 10
# A store that nobody asked for takes at most this share of the free disk, and of the memory that has to hold its pages.
MODEST = 0.5


def open_data(
    recipe: Recipe, workdir: Workdir, console: Console, *, resuming: bool, allow: Collection[str] | None = None
) -> Frozen:
    """The frozen table of the session; on the first start the source's, with every image decoded once.

    Args:
        resuming: whether there is a table, to train on or to read.
        allow: what of the data may differ in a session that goes on, as `data.frozen` calls it; None: who only reads
            is told of other images.

    Raises:
        UserError: no data, images that do not decode, data that is not that of the session, or no files where a policy
            takes crops from them.
    """
    if _crops_files(recipe):
        if recipe.store not in (None, "auto"):
            raise needs_files(f"train.store = {recipe.store!r}", where="gin binding train.store")
        recipe = dataclasses.replace(recipe, store=None)
    found = _found(recipe, workdir, console, resuming=resuming)
    if resuming:
        return _reopen(recipe, workdir, console, found, allow=allow)
    return _first_look(recipe, workdir, console, found)


def _found(recipe: Recipe, workdir: Workdir, console: Console, *, resuming: bool) -> Examples:
    """What the source gives today; a source that can only be read in sequence is packed for that."""
    found = launch.call(recipe.source)
    if _crops_files(recipe):
        if isinstance(found, Stream):
            raise needs_files(f"{found.title} that can only be read in sequence", where="gin binding train.source")
        if found.root is None:
            raise needs_files("images in memory", where="gin binding train.source")
    if isinstance(found, Stream):
        if recipe.store is None:
            raise UserError(
                f"{found.title} can only be read in sequence and needs a store",
                where="gin binding train.store",
                expected="'auto' (in the workdir), or a folder for it",
                do="train.store = 'auto'",
            )
        store = _packed(found, recipe, workdir, console, start_over=not resuming)
        if resuming and recipe.store == "auto":
            _refuse_damaged(store)
        found = store.examples(found)
    if found.pixels is not None:
        found = dataclasses.replace(found, pixels=shrink_array(found.pixels, decoding=decoding(recipe)))
    return _checked(found, workdir)


def _crops_files(recipe: Recipe) -> bool:
    return any(training_policy(recipe, stage).file_crop for stage in recipe.stages)


def _checked(found: Examples, workdir: Workdir) -> Examples:
    shape = (1, 1) if found.pixels is None else found.pixels.shape[1:3]
    least = 1 if found.task == "regression" else 2
    if len(found.class_names) < least or not len(found) or 0 in shape:
        raise UserError(
            f"{len(found)} examples of the classes {list(found.class_names)}, images of {shape[0]} x {shape[1]}",
            where="gin binding train.source",
            expected="at least two classes, and images with pixels",
            do="correct the source",
        )
    if found.root is not None and workdir.path.resolve() == Path(found.root).resolve():
        raise UserError(
            f"the workdir is the data folder, {found.root}",
            where="--workdir, gin binding folder.root (data_dir)",
            expected="a workdir of its own",
            do="--workdir=runs/NAME",
        )
    return found


def _first_look(recipe: Recipe, workdir: Workdir, console: Console, found: Examples) -> Frozen:
    # What is wrong with the rules is better known before all images are decoded.
    training_part(recipe, found.take(split_of(recipe, found) == TRAIN))
    found, inspection = _inspected(found, recipe, workdir, console)
    bad = inspection.bad
    if (bad or found.refused) and recipe.bad_images == "refuse":
        raise bad_images(found, bad, refused=found.refused)
    for where, reason in [*((found.where(row), why) for row, why in bad.items()), *_refused(found)]:
        console.say(f"left out {where}: {reason}", style="yellow")
    good = np.setdiff1d(np.arange(len(found)), np.array(list(bad), int))
    kept, inspection = found.take(good), inspection.take(good)
    kept = dataclasses.replace(kept, orientations=inspection.orientations, kinds=inspection.kinds)
    # Of what is kept, so that exact shares are exact; before the table is sorted, since some rules go by its order.
    split = split_of(recipe, kept)
    if (kept.names[1:] < kept.names[:-1]).any():
        rows = np.argsort(kept.names, kind="stable")
        kept, split, inspection = kept.take(rows), split[rows], inspection.take(rows)
    unseen = _never_shown(recipe, kept.take(split == TRAIN))
    for sentence in (*_untrainable(found, kept, split), *unseen, *_identical(kept, split, inspection)):
        console.say(sentence, style="yellow")
    return Frozen(kept, split, inspection, decoding(recipe))


def split_of(recipe: Recipe, examples: Examples) -> np.ndarray:
    """What the rule says, [N] int8, checked: it may be the user's own."""
    array, count = np.asarray(launch.call(recipe.split, examples)), len(examples)
    if array.shape != (count,) or array.dtype.kind not in "iu" or not np.isin(array, range(len(SPLITS))).all():
        raise UserError(
            f"a split of shape {list(array.shape)}, {array.dtype}, with values {np.unique(array)[:8].tolist()}",
            where="train.split",
            expected=f"[{count}] whole numbers: 0 for {SPLITS[0]}, 1 for {SPLITS[1]}, 2 for {SPLITS[2]}",
            do="correct the rule",
        )
    if not (array == TRAIN).any():
        raise UserError(
            f"none of {count} images is left to train on",
            where="train.split",
            expected=f"at least one that decodes in {SPLITS[TRAIN]}",
            do="replace bad images, or lower the shares of validation and test",
        )
    return array.astype(np.int8)


def _untrainable(found: Examples, kept: Examples, split: np.ndarray) -> Sequence[str]:
    """Refuses what cannot be trained on; a sentence on what cannot be learned."""
    if found.task in ("single_label", "binary"):
        for label in np.setdiff1d(np.arange(len(found.class_names)), kept.labels):
            raise UserError(
                f"no image of the class {found.class_names[label]} decodes",
                where=str(found.root or "train.source"),
                expected="at least one good image per class",
                do="replace the images, or list the classes wanted in class_names of the source",
            )
    return [
        f"the class {name} has no image in train and cannot be learned"
        for name in untrained_classes(kept.take(split == TRAIN))
    ]


def _never_shown(recipe: Recipe, train: Examples) -> Sequence[str]:
    """A sentence on the classes whose training images the sampling leaves out."""
    shown = train.take(np.asarray(launch.call(recipe.sampling, train)) > 0)
    names = [name for name in untrained_classes(shown) if name not in untrained_classes(train)]
    if not names:
        return []
    return [f"train.sampling shows no training image of {', '.join(names)}: what a network knows of them may be lost"]


def _identical(examples: Examples, split: np.ndarray, inspection: Inspection) -> Sequence[str]:
    """Sentences on images that are byte for byte the same, where that spoils labels or evaluation."""
    seen = np.flatnonzero(inspection.digests.any(axis=1))
    keys = inspection.digests[seen].view(f"V{inspection.digests.shape[1]}")[:, 0]
    _, which, times = np.unique(keys, return_inverse=True, return_counts=True)
    several = seen[times[which] > 1]
    groups: dict[bytes, list[int]] = {}
    for row in several.tolist():
        groups.setdefault(inspection.digests[row].tobytes(), []).append(row)
    labels = examples.labels.reshape(len(examples), -1)
    conflicts = [rows for rows in groups.values() if (labels[rows] != labels[rows[0]]).any()]
    across = [rows for rows in groups.values() if (split[rows] != split[rows[0]]).any()]
    return [
        f"{len(found)} images are there more than once {what}, first: "
        f"{' = '.join(printable(bytes(examples.names[row])) for row in found[0][:3])}; scripts/audit.py lists them"
        for found, what in ((conflicts, "with different labels"), (across, "in different splits"))
        if found
    ]


def _inspected(found: Examples, recipe: Recipe, workdir: Workdir, console: Console) -> tuple[Examples, Inspection]:
    """Looks at every image, packing what it decodes where that is wanted."""
    if found.store is not None:
        return found, found.store.inspection.take(found.store_rows)
    if found.pixels is not None:
        return found, Inspection.of_arrays(found)
    if recipe.store is not None and (recipe.store != "auto" or _pays(found, recipe, workdir)):
        try:
            store = _packed(found, recipe, workdir, console, start_over=True)
            attached = store.attach(found)
            return attached, store.inspection.take(attached.store_rows)
        except RunFailure as error:
            if recipe.store != "auto":
                raise
            console.say(f"training from the files: {error.found}", style="yellow")
            shutil.rmtree(workdir.store, ignore_errors=True)
    try:
        report = console.count("decoding", len(found))
        return found, inspect(found, decoding=decoding(recipe), report=report)
    finally:
        console.close()


def _pays(found: Examples, recipe: Recipe, workdir: Workdir) -> bool:
    size = packing.expected_bytes(found, decoding=decoding(recipe)) or 0
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return size <= MODEST * min(memory, shutil.disk_usage(workdir.path).free)


def _packed(
    source: Examples | Stream, recipe: Recipe, workdir: Workdir, console: Console, *, start_over: bool
) -> Store:
    ours = recipe.store == "auto"
    count = source.count if isinstance(source, Stream) else len(source)
    try:
        return packing.pack(
            source,
            _store_folder(recipe, workdir),
            decoding=decoding(recipe),
            # A store in the workdir is ours to throw away; one that others share is not.
            start_over=start_over and ours,
            say=console.say,
            report=console.count("packing", count),
        )
    finally:
        console.close()


def _store_folder(recipe: Recipe, workdir: Workdir) -> Path:
    return workdir.store if recipe.store == "auto" else Path(recipe.store).expanduser().absolute()


def _reopen(
    recipe: Recipe, workdir: Workdir, console: Console, found: Examples, *, allow: Collection[str] | None
) -> Frozen:
    session = identity.of(workdir)
    frozen, gone = tables.restore(workdir.examples, found, session=session, allow=allow)
    # The split is the frozen one. The rule still takes its bindings, so that they are part of every config.
    launch.call(recipe.split, frozen.examples)
    if frozen.examples.root is None:
        binds = tables.IMAGES not in (allow or ())
        return _same_images(recipe, frozen, console, binds=binds, where=str(workdir.examples))
    if len(gone) > allowed(recipe, frozen):
        raise too_many_broken(recipe, frozen, len(gone), where=str(workdir.path))
    if decoding(recipe) != frozen.decoding:
        return _decoded_anew(recipe, workdir, console, frozen, allow=allow)
    # A session that found no store worth while has none in its workdir.
    if recipe.store not in (None, "auto") or (recipe.store and (workdir.store / stores.MANIFEST).exists()):
        store = _kept(_store_folder(recipe, workdir), frozen, console, ours=recipe.store == "auto")
        if store is not None:
            return dataclasses.replace(frozen, examples=store.attach(frozen.examples))
    changed = np.isin(frozen.examples.names, stores.changed_files(frozen.examples, frozen.inspection))
    others = frozen.examples.take(changed)
    # Those that broke are replaced where they are shown.
    decode = (not sight.reason for sight in look_at(others, decoding=frozen.decoding))
    binds = allow is not None and tables.IMAGES not in allow and any(decode)
    _expect_same(others, console, binds=binds, where=str(workdir.examples))
    return _seen_anew(frozen, np.flatnonzero(changed)) if tables.IMAGES in (allow or ()) else frozen


def _seen_anew(frozen: Frozen, rows: np.ndarray) -> Frozen:
    """The same table; what is known of the images at these rows, where they decode, is that of today."""
    seen = inspect(frozen.examples.take(rows), decoding=frozen.decoding)
    good = seen.reasons == b""
    columns = {name: getattr(frozen.inspection, name).copy() for name in Inspection.names()}
    for name, column in columns.items():
        column[rows[good]] = getattr(seen, name)[good]
    inspection = Inspection(**columns)
    examples = dataclasses.replace(frozen.examples, kinds=inspection.kinds, orientations=inspection.orientations)
    return dataclasses.replace(frozen, examples=examples, inspection=inspection)


def _expect_same(others: Examples, console: Console, *, binds: bool, where: str) -> None:
    """Refuses, or tells of, examples whose images are others than at the first start.

    Args:
        binds: whether a session goes on with them that was not allowed to.
    """
    if not len(others):
        return
    listed = ", ".join(others.where(row) for row in range(min(len(others), LISTED)))
    found = f"{len(others)} images are not what they were when the session started: {listed}"
    if not binds:
        console.say(found, style="yellow")
        return
    raise UserError(
        found,
        where=where,
        expected="the same images under the same names",
        do=f"put them back, start a new --workdir, or go on with those of today: --allow_change={tables.IMAGES}",
    )


def _same_images(recipe: Recipe, frozen: Frozen, console: Console, *, binds: bool, where: str) -> Frozen:
    """Images in memory or of a stream, which are all read again at each start."""
    examples = frozen.examples
    in_memory = examples.store is None
    now = Inspection.of_arrays(examples) if in_memory else examples.store.inspection.take(examples.store_rows)
    resized = decoding(recipe) != frozen.decoding
    # Of images in memory only what they were shrunk to is known, of others the bytes that they came in.
    if not (resized and in_memory):
        others = (frozen.inspection.digests != now.digests).any(axis=1)
        _expect_same(examples.take(others), console, binds=binds, where=where)
    return dataclasses.replace(frozen, inspection=now, decoding=decoding(recipe))


def _kept(folder: Path, frozen: Frozen, console: Console, *, ours: bool) -> Store | None:
    """The store that the session was started with; None where it is gone or damaged: the files give the same pixels.

    Args:
        ours: whether it is the session's own, and small enough to be read to the end.
    """
    try:
        store = stores.open_for(folder, frozen.examples, frozen.inspection, decoding=frozen.decoding)
        if ours:
            _refuse_damaged(store)
        return store
    except UserError as error:
        console.say(f"training from the files: {error.found}", style="yellow")
        return None


def _refuse_damaged(store: Store) -> None:
    damaged = store.damage()
    if damaged:
        raise UserError(
            f"{len(damaged)} files of decoded images are not what was written: {', '.join(damaged[:LISTED])}",
            where=str(store.folder),
            expected="the store as it was packed",
            do="put them back, or remove the folder: images that can be read again are packed or read again",
        )


def _decoded_anew(
    recipe: Recipe, workdir: Workdir, console: Console, frozen: Frozen, *, allow: Collection[str] | None
) -> Frozen:
    """The same table at another size, if `--allow_change` lets it differ, from the files: a store stays as it is."""
    examples = frozen.examples
    try:
        seen = inspect(examples, decoding=decoding(recipe), report=console.count("decoding", len(examples)))
    finally:
        console.close()
    if len(seen.bad) > allowed(recipe, frozen):
        raise too_many_broken(recipe, frozen, len(seen.bad), where=str(workdir.path))
    others = (seen.digests != frozen.inspection.digests).any(axis=1)
    # Those that broke are replaced where they are shown.
    binds = allow is not None and tables.IMAGES not in allow and (others & (seen.reasons == b"")).any()
    _expect_same(examples.take(others), console, binds=binds, where=str(workdir.examples))
    seen = dataclasses.replace(seen, reasons=np.full(len(examples), b"", np.bytes_))
    examples = dataclasses.replace(examples, kinds=seen.kinds, orientations=seen.orientations)
    return Frozen(examples, frozen.split, seen, decoding(recipe))


def allowed(recipe: Recipe, frozen: Frozen) -> int:
    """How many images may break after the start."""
    return math.ceil(recipe.replace_at_most * len(frozen.examples))


def too_many_broken(recipe: Recipe, frozen: Frozen, broken: int, *, where: str) -> RunFailure:
    """The error that ends a run whose images break away."""
    return RunFailure(
        f"{broken} of {len(frozen.examples)} images broke since the session started",
        where=f"{frozen.examples.root}; {where}",
        expected=f"at most {allowed(recipe, frozen)}: train.replace_at_most = {recipe.replace_at_most}",
        do="put the images back as they were and run the same command again; or raise train.replace_at_most",
    )


def untrained_classes(train: Examples) -> list[str]:
    """Classes without an example in train: the model cannot learn them."""
    if train.task == "regression":
        return []
    counts = (
        train.labels.sum(axis=0)
        if train.task == "multi_label"
        else np.bincount(train.labels, minlength=len(train.class_names))
    )
    return [name for name, count in zip(train.class_names, counts, strict=True) if not count]


def training_part(recipe: Recipe, train: Examples) -> tuple[Examples, Order]:
    """The table to train on, with the class weights in its weights, and which of it stands at which position.

    Args:
        train: the examples of the split train.
    """
    factors = launch.call(recipe.sampling, train)
    if recipe.class_weights is not None:
        weights = train.weights * sampling.class_weights(train, recipe.class_weights)
        train = dataclasses.replace(train, weights=weights)
    return train, Order.of(train, factors=factors, seed=recipe.seed)


def decoding(recipe: Recipe) -> Decoding:
    """How images become canvases: large enough to fill the view of every stage without enlarging."""
    largest = max(max(recipe.size(stage)) for stage in (None, *recipe.stages))
    short_side = None if recipe.fit == "native" else math.ceil(largest / recipe.crop)
    return Decoding(short_side, tuple(recipe.background))


def view(recipe: Recipe, frozen: Frozen) -> View:
    """How the pipeline shows these canvases to the network in an evaluation."""
    lengths = frozen.inspection.sizes.astype(np.int64).prod(axis=1)
    return View(
        image_size=recipe.size(),
        fit=recipe.fit,
        crop=recipe.crop,
        decoding=frozen.decoding,
        capacity=int(lengths.max()),
        uniform=bool((lengths == lengths[0]).all()),
    )


def stream(
    recipe: Recipe,
    examples: Examples,
    order: Order,
    view: View,
    *,
    stage: Stage,
    strategy: tf.distribute.Strategy,
    step: int,
    steps: int,
    left_out: Ranges = (),
    say: Callable[[str], object] = print,
) -> Iterator:
    """The training batches of every replica from a step of a stage on, in a run of so many steps.

    Args:
        view: of an evaluation; that of the stage is of its image size.
        left_out: positions that the run goes without, see `data.skipping`.
        say: gets a sentence on the hosts of `train.data_service`, where one is lost.

    Raises:
        UserError: those hosts do not answer, or see other images.
    """
    policy = training_policy(recipe, stage)
    view = dataclasses.replace(view, image_size=recipe.size(stage))
    on_host = rendering(recipe, policy, samples=recipe.samples, stage=stage) if recipe.placement == "host" else None

    start, share = step * recipe.batch_size, recipe.batch_size // strategy.num_replicas_in_sync
    feeds: list[Feed] = []

    def batches(context: tf.distribute.InputContext) -> tf.data.Dataset:
        def make(place: int, *, served: bool = False) -> tf.data.Dataset:
            return pipeline.train_batches(
                examples if recipe.data_service is None else _anywhere(examples),
                order=order,
                start=start,
                batch=share,
                seed=recipe.seed,
                policy=policy,
                view=view,
                length=steps * recipe.batch_size,
                rendering=on_host,
                left_out=left_out,
                lane=dataclasses.replace(lane(context), start=place),
                served=served,
            )

        def positions(place: int) -> np.ndarray:
            indexes = start + lane(context).numbers(place) * share + tf.range(share, dtype=tf.int64)
            return skipping.shown(indexes, left_out).numpy()

        if recipe.data_service is None:
            return make(0)
        feeds.append(Feed(make, service=recipe.data_service, positions=positions, say=say))
        return feeds[-1].dataset

    stream = devices.batches(strategy, batches)
    for feed in feeds:
        weakref.finalize(stream, feed.close)
    return stream


def _anywhere(examples: Examples) -> Examples:
    """The same, for hosts that work in other folders."""
    return examples if examples.root is None else dataclasses.replace(examples, root=os.path.abspath(examples.root))


def broken(examples: Examples, view: View) -> dict[str, str]:
    """Where -> reason, of the images among these that do not decode any more or do not fit their canvas."""
    if examples.root is None or examples.store is not None:
        return {}
    seen = inspect(examples, decoding=view.decoding)
    bad = seen.bad
    lengths = seen.sizes.astype(np.int64).prod(axis=1)
    for row in np.flatnonzero((lengths != view.capacity) if view.uniform else (lengths > view.capacity)):
        bad.setdefault(int(row), "larger than any image, or of another size than all, when the session started")
    for row in np.flatnonzero((seen.kinds != examples.kinds) & (examples.kinds != ANY)):
        bad.setdefault(int(row), "of another kind than when the session started")
    return {examples.where(row): reason for row, reason in sorted(bad.items())}


def bad_images(examples: Examples, bad: dict[int, str], *, refused: Sequence[tuple[bytes, str]] = ()) -> UserError:
    """The error that names images which do not decode, or which the source will not read."""
    told = [*(f"{examples.where(row)}: {reason}" for row, reason in bad.items())]
    told += [f"{where}: {reason}" for where, reason in (_refused(examples) if refused else [])]
    more = f"; and {len(told) - LISTED} more" if len(told) > LISTED else ""
    return UserError(
        f"{len(told)} of {len(examples) + len(refused)} images do not decode: {'; '.join(told[:LISTED])}{more}",
        where=str(examples.root or "train.source"),
        expected="JPEG, PNG, WebP, BMP or GIF files that are whole",
        do="mend or remove them (scripts/audit.py lists all), or start with --gin_param=\"train.bad_images = 'drop'\"",
    )


def _refused(examples: Examples) -> list[tuple[str, str]]:
    root = os.fsencode(examples.root or "")
    return [(printable(os.path.join(root, name)), reason) for name, reason in examples.refused]
