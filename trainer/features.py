"""Features of the frozen part of a network: computed once, on all replicas, and the batches that train the rest."""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from data import feature_store, pipeline
from data.augment.policy import Policy
from data.augment.views import Views
from data.errors import UserError
from data.examples import Examples
from data.feature_store import FeatureStore, Writer
from data.frozen import Frozen
from data.order import Order
from data.pipeline import View
from data.skipping import Ranges
from trainer import devices
from trainer.cluster import ALONE, PATIENCE, Cluster, lane
from trainer.models.cut import Prefix
from trainer.recipe import Recipe
from trainer.rendering import evaluation_policy, rendering, training_policy
from trainer.reports.console import Console

# What is stored of a network that is killed is at most so many seconds behind.
SAVE_SECONDS = 5.0
# Positions whose draws tell policies apart.
PROBED = 64
# How many rows there are with these; [M] of them, of V * N, view after view; what the network says, [M, ...] float32;
# and where there was no image, [M].
Computed = tuple[int, np.ndarray, np.ndarray, np.ndarray]


def check(recipe: Recipe) -> None:
    """Refuses, before anything is written, what cannot be trained on stored features.

    Raises:
        UserError: a policy that mixes pairs of images or of one stage alone, several views in evaluations, or stages
            that see images of another size.
    """
    if recipe.features is None:
        return
    own = next((stage for stage in recipe.stages if stage.policy is not None), None)
    other = next((stage for stage in recipe.stages if recipe.size(stage) != recipe.size()), None)
    if own is not None:
        problem, where = f"the stage {own.name} has a policy of its own", f"{own.name}/stage.policy"
        expected, do = "one policy for all stages, train.policy", "remove it, or train.features = None"
    elif training_policy(recipe).mixes:
        problem, where = "the policy mixes pairs of images", "policy.operations"
        expected, do = "operations on one image: what is stored of a pair is no mixture", "no mixup and cutmix"
    elif recipe.evaluation_views != Views():
        problem, where = f"evaluations average {len(recipe.evaluation_views)} views", "train.evaluation_views"
        expected, do = "the plain view while features train", "give it to scripts/evaluate.py instead"
    elif other is not None:
        problem, where = f"the stage {other.name} sees images of another size", f"{other.name}/stage.image_size"
        expected, do = "train.image_size in every stage", "remove it, or train.features = None"
    else:
        return
    raise UserError(
        f"{problem}, and the stages train on stored features",
        where=f"gin bindings {where}, train.features",
        expected=expected,
        do=do,
    )


def prepare(
    recipe: Recipe,
    prefix: Prefix,
    frozen: Frozen,
    view: View,
    *,
    strategy: tf.distribute.Strategy,
    folder: Path,
    views: dict[str, int | None],
    dtype: str,
    length: int | None,
    console: Console,
    stopping: Callable[[], object] = lambda: None,
    cluster: Cluster = ALONE,
) -> FeatureStore | None:
    """Opens the features of a table of images, or computes what is missing of them.

    Args:
        views: of each split that is wanted, as `computed` takes them.
        length: positions of the whole training, which the `during` of a policy is a share of.
        stopping: whether somebody wants the run to stop.
        cluster: whose workers compute together, each its share of every batch; the chief writes.

    Returns:
        store with a part for each split. None if `stopping` said so.

    Raises:
        UserError, RunFailure: see `data.feature_store.writing` and `Writer.write`.
    """
    tables = {name: table for name, table in frozen.parts().items() if name in views}
    rows = {name: len(table) * (views[name] or 1) for name, table in tables.items()}
    identity = _identity(recipe, prefix, frozen, view, length=length)
    parts = feature_store.parts_of(folder, rows, shape=prefix.shape, dtype=dtype)
    found, changed = feature_store.matching(folder, identity, parts)
    if cluster.told(found is not None):
        return found
    if changed:
        console.say(f"computing the features anew, since these changed: {', '.join(changed)}", style="yellow")
    writing = feature_store.writing(folder, identity, parts, say=console.say)
    with writing if cluster.is_chief else contextlib.nullcontext() as writer:
        if cluster.told(isinstance(writer, FeatureStore), patience=PATIENCE):
            return writer or feature_store.matching(folder, identity, parts)[0]
        writer = _Shared(writer, cluster)
        for name, table in tables.items():
            done = writer.done(name)
            if done == rows[name]:
                continue
            settings = {"strategy": strategy, "start": done, "views": views[name], "length": length}
            batches = computed(recipe, prefix.model, table, view, **settings)
            report = console.count(f"features of {name}", rows[name])
            whole = _fill(writer, name, batches, report=report, stopping=stopping)
            console.close()
            if not whole:
                return None
        return writer.finish() or feature_store.matching(folder, identity, parts)[0]


class _Shared:
    """The chief's writer, as all workers use it."""

    def __init__(self, writer: Writer | None, cluster: Cluster):
        self._writer, self._cluster = writer, cluster

    def done(self, name: str) -> int:
        return self._cluster.told(self._writer and self._writer.done(name))

    def write(self, name: str, rows: np.ndarray, values: np.ndarray, *, broken: np.ndarray) -> None:
        if self._writer is not None:
            self._writer.write(name, rows, values, broken=broken)

    def save(self, name: str, done: int) -> None:
        if self._writer is not None:
            self._writer.save(name, done)

    def finish(self) -> FeatureStore | None:
        store = self._writer and self._writer.finish()
        self._cluster.meet()
        return store


def _fill(
    writer: _Shared,
    name: str,
    batches: Iterator[Computed],
    *,
    report: Callable[[int], None],
    stopping: Callable[[], object],
) -> bool:
    """Whether a part was written to its end."""
    done, saved = writer.done(name), time.monotonic()
    for reached, rows, values, broken in batches:
        if stopping():
            writer.save(name, done)
            return False
        writer.write(name, rows, values, broken=broken)
        done = reached
        report(done)
        if time.monotonic() - saved > SAVE_SECONDS:
            writer.save(name, done)
            saved = time.monotonic()
    writer.save(name, done)
    return True


def computed(
    recipe: Recipe,
    prefix: keras.Model,
    examples: Examples,
    view: View,
    *,
    strategy: tf.distribute.Strategy,
    start: int = 0,
    views: int | None = None,
    length: int | None = None,
) -> Iterator[Computed]:
    """What a part of a network says of each example, on all replicas.

    Args:
        start: how many rows there are already; some before it may come again.
        views: so many augmented views of each example: those that a training with natural sampling shows in its first
            epochs. None: the plain image, as an evaluation sees it.
        length: positions of the whole training.

    Yields:
        the rows in the order in which training, or evaluation, shows them.
    """
    replicas, count = strategy.num_replicas_in_sync, len(examples)
    together = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    batch = max(1, (recipe.evaluation_batch_size or recipe.batch_size) // replicas)
    policy = evaluation_policy(recipe) if views is None else training_policy(recipe)
    rendered = rendering(recipe, policy, samples=recipe.evaluation_samples if views is None else recipe.samples)
    steps = start // (batch * replicas)

    def dataset(context: tf.distribute.InputContext) -> tf.data.Dataset:
        if views is None:
            first = steps * replicas
            return pipeline.evaluation_batches(
                examples,
                batch=batch,
                replicas=replicas,
                view=view,
                policy=policy,
                start=first,
                lane=lane(context),
            )
        return pipeline.train_batches(
            examples,
            order=Order(epoch_length=count, seed=recipe.seed),
            start=steps * batch * replicas,
            batch=batch,
            seed=recipe.seed,
            policy=policy,
            view=view,
            length=length,
            rendering=rendered if recipe.placement == "host" else None,
            lane=lane(context),
        )

    def of_replica(batch):
        values = prefix(rendered.images(batch), training=False)
        columns = tf.cast(values, tf.float32), batch["position"], batch["example"], tf.cast(batch["replaced"], tf.int32)
        if not together:
            return columns
        replica = tf.distribute.get_replica_context()
        # TensorFlow cannot gather what is an argument of this function.
        return tuple(replica.all_gather(tf.identity(column), axis=0) for column in columns)

    @tf.function(autograph=False)
    def step(iterator):
        columns = strategy.run(of_replica, args=(next(iterator),))
        shares = [strategy.experimental_local_results(column) for column in columns]
        return [parts[:1] if together else parts for parts in shares]

    batches, rows = devices.batches(strategy, dataset), count * (views or 1)
    for done in range(steps * batch * replicas, rows, batch * replicas):
        columns = (np.concatenate([part.numpy() for part in parts]) for parts in step(batches))
        values, positions, shown, broken = columns
        inside = positions < rows
        places = positions // count * count + shown
        yield min(done + batch * replicas, rows), places[inside], values[inside], broken[inside].astype(bool)


def _identity(recipe: Recipe, prefix: Prefix, frozen: Frozen, view: View, *, length: int | None) -> dict[str, object]:
    """All that the features are made from, by name, ready for JSON."""
    images, weights = hashlib.sha256(), hashlib.sha256()
    for column in (frozen.examples.names, frozen.inspection.digests, frozen.examples.orientations, frozen.split):
        images.update(repr((column.dtype.str, column.shape)).encode() + np.ascontiguousarray(column).tobytes())
    for name, variable in sorted(prefix.variables.items()):
        if not name.endswith("seed_generator_state"):
            value = np.ascontiguousarray(variable.value.numpy())
            weights.update(repr((name, value.dtype.str, value.shape)).encode() + value.tobytes())
    plain, augmented = evaluation_policy(recipe), training_policy(recipe)
    seen = [view.image_size, view.fit, view.crop, list(view.decoding.background), recipe.fill, recipe.interpolation]
    return {
        "images": images.hexdigest(),
        "layer": prefix.layer,
        "weights": weights.hexdigest(),
        "precision": recipe.precision,
        "view": repr([*seen, recipe.fill_value, recipe.samples, recipe.evaluation_samples]),
        "normalisation": repr(recipe.model.backbone.colour.tolist() if recipe.normalisation is None else "own"),
        "plain view": _drawn(plain, recipe, view, length=length),
        "augmented views": _drawn(augmented, recipe, view, length=length),
    }


def _drawn(policy: Policy, recipe: Recipe, view: View, *, length: int | None) -> str:
    """What tells a policy apart: what it draws, and the names of what it does to pixels."""
    drawn = policy.draw(tf.range(PROBED, dtype=tf.int64), seed=recipe.seed, size=view.image_size, length=length)
    digest = hashlib.sha256()
    for array in (drawn.geometry, *drawn.arrays, *([] if drawn.crop is None else [drawn.crop])):
        digest.update(repr(tuple(array.shape)).encode() + array.numpy().tobytes())
    draws = any(operation.count for operation in policy.operations)
    during = (sorted(policy.during.items()), length) if policy.during else None
    slots = [getattr(getattr(slot, "function", None), "__qualname__", type(slot).__name__) for slot in policy.program]
    return repr((digest.hexdigest(), slots, recipe.seed if draws else None, during))


class FeatureBatches:
    """The batches of a session, in training and evaluation, out of a store.

    Args:
        tables: the examples of each part of the store; those of train with the weights to train with.
    """

    def __init__(
        self,
        recipe: Recipe,
        store: FeatureStore,
        tables: dict[str, Examples],
        *,
        strategy: tf.distribute.Strategy,
    ):
        self._recipe, self._store, self._tables, self._strategy = recipe, store, tables, strategy

    def stream(self, order: Order, *, step: int, left_out: Ranges = ()) -> Iterator:
        """The training batches of every replica from a step on; `left_out`: positions that the run goes without."""
        batch = self._recipe.batch_size
        return devices.batches(
            self._strategy,
            lambda context: pipeline.feature_batches(
                self._tables["train"],
                self._store.parts["train"],
                order=order,
                start=step * batch,
                batch=batch // self._strategy.num_replicas_in_sync,
                left_out=left_out,
                lane=lane(context),
            ),
        )

    def evaluation(self, split: str) -> tuple[Iterator, int]:
        """The batches of every replica that hold each example of a split once, and how many steps these are."""
        replicas, examples = self._strategy.num_replicas_in_sync, self._tables[split]
        batch = max(1, (self._recipe.evaluation_batch_size or self._recipe.batch_size) // replicas)
        found = devices.batches(
            self._strategy,
            lambda context: pipeline.feature_evaluation_batches(
                examples, self._store.parts[split], batch=batch, replicas=replicas, lane=lane(context)
            ),
        )
        return found, pipeline.evaluation_elements(len(examples), batch=batch, replicas=replicas) // replicas

    def broken(self) -> list[str]:
        """Where the images are that could not be read when the features were computed."""
        found = {}
        for name, part in self._store.parts.items():
            table = self._tables[name]
            found |= {table.where(row % len(table)): None for row in part.broken}
        return list(found)
