"""The input pipeline, cut behind each of its stages: what each of them costs."""

import os
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from data import pipeline
from data.augment.policy import Policy
from trainer.benchmarks.inputs import Cost, costs
from trainer.benchmarks.subject import Subject
from trainer.rendering import rendering, training_policy

READ, DECODE, DRAW, RENDER, TRANSFER = "read", "decode", "draw", "render", "transfer"
# That a round goes through at least.
IMAGES = 512


def pipelines(subject: Subject) -> dict[str, Iterator]:
    """The batches of one replica, each pipeline with one stage more than the one before.

    Those without a stage of their own are left out: images in memory or in a store are not decoded, a device renders
    for itself, and a CPU has no other memory to transfer to. Crops out of files are drawn before they are decoded;
    then `decode` is both.
    """
    recipe, stage = subject.recipe, subject.stage
    policy = training_policy(recipe, stage)
    in_files = subject.examples.root is not None and subject.examples.store is None
    found = {READ: _read(subject) if in_files else _batches(subject, Policy())}
    if in_files:
        found[DECODE] = _batches(subject, policy if policy.file_crop else Policy())
    if not policy.file_crop:
        found[DRAW] = _batches(subject, policy)
    if recipe.placement == "host":
        found[RENDER] = _batches(subject, policy, rendered=True)
    batches = {name: iter(batches) for name, batches in found.items()}
    if "GPU" in subject.strategy.extended.worker_devices[0]:
        batches[TRANSFER] = subject.stream()
    return batches


def _share(subject: Subject) -> int:
    return subject.recipe.batch_size // subject.strategy.num_replicas_in_sync


def _batches(subject: Subject, policy: Policy, *, rendered: bool = False) -> tf.data.Dataset:
    recipe, stage = subject.recipe, subject.stage
    return pipeline.train_batches(
        subject.examples,
        order=subject.order,
        start=0,
        batch=_share(subject),
        seed=recipe.seed,
        policy=policy,
        view=subject.view_of_stage(),
        length=subject.plan.steps * recipe.batch_size,
        rendering=rendering(recipe, policy, samples=recipe.samples, stage=stage) if rendered else None,
    )


def _read(subject: Subject) -> tf.data.Dataset:
    """The bytes of the files, in the order of the stream."""
    examples, order, batch = subject.examples, subject.order, _share(subject)
    root, names = os.path.join(os.fsencode(examples.root), b""), tf.constant(examples.names)

    def read(rows):
        files = tf.data.Dataset.from_tensor_slices(rows).map(lambda row: tf.io.read_file(root + tf.gather(names, row)))
        return files.batch(batch, drop_remainder=True).get_single_element()

    numbers = tf.data.Dataset.range(np.iinfo(np.int64).max // batch)
    rows = numbers.map(lambda number: order.rows(number * batch + tf.range(batch, dtype=tf.int64))[1])
    return rows.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(2)


def measured(
    subject: Subject, *, repeats: int, report: Callable[[str], None], last: bool = False
) -> dict[str, list[Cost]]:
    """Cost of an image in the pipeline up to each stage, over the rounds; `last`: only of all of it."""
    images = max(IMAGES, 4 * _share(subject))
    found = pipelines(subject)
    found = dict([list(found.items())[-1]]) if last else found
    batch = {name: subject.recipe.batch_size if name == TRANSFER else _share(subject) for name in found}
    return costs(found, images=images, batch=batch, repeats=repeats, report=report)


def stages(measured: dict[str, list[Cost]]) -> list[dict]:
    """What each stage adds to the pipeline before it, in the order of the stages.

    Returns:
        name, wall_ms and cpu_ms an image (median over the rounds, at least 0), share of the time on the clock.
    """
    rows, before = [], None
    for name, all_ in measured.items():
        previous = before or [Cost(0.0, 0.0)] * len(all_)
        added = [(own.wall - other.wall, own.cpu - other.cpu) for own, other in zip(all_, previous, strict=True)]
        wall, cpu = (max(0.0, float(np.median(each))) for each in zip(*added, strict=True))
        rows.append({"name": name, "wall_ms": 1e3 * wall, "cpu_ms": 1e3 * cpu})
        before = all_
    whole = sum(row["wall_ms"] for row in rows) or 1.0
    return [row | {"share": row["wall_ms"] / whole} for row in rows]
