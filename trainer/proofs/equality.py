"""The same training on any devices: what every number of replicas and workers has to agree on.

A small network, once with synchronised batch normalisation, is trained in several ways on the same batches, cut over
whatever replicas there are, and evaluated on a number of images that does not divide over them.
"""

import dataclasses
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from data import pipeline, sources
from data.augment.apply import Rendering, as_rows
from data.augment.colour import normalisation
from data.decode import Decoding
from data.pipeline import ordered
from trainer import devices, metrics
from trainer.cluster import lane
from trainer.losses import cross_entropy
from trainer.optimization import optimizers
from trainer.optimization.clipping import Clipping
from trainer.optimization.loss_scale import LossScale
from trainer.optimization.optimizers import Optimizer, UpdateRule
from trainer.proofs.comparison import Rounding
from trainer.step import evaluation_window, train_window

SIZE, CLASSES, BATCH, STEPS, EVALUATED = 8, 4, 16, 50, 13
# Steps, from 0, of whose batch one image is infinite.
INFINITE = (3, 20)
# What numbers may be apart, of the largest in an array, where a replica adds up its share in half precision.
HALF = 2e-2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A way to train.

    Attributes:
        rule: what updates a variable.
        precision: `float32`, or `mixed_float16`, with images that are infinite in some steps.
        synchronised: whether there is batch normalisation over the global batch.
        clip: bound on the norm of the global gradient.
        accumulation: parts of a replica's batch.
    """

    rule: UpdateRule
    precision: str = "float32"
    synchronised: bool = False
    clip: float | None = None
    accumulation: int = 1


CASES = {
    "sgd": Case(rule=optimizers.sgd(momentum=0.9, weight_decay=1e-3), synchronised=True, clip=0.5),
    "adamw": Case(rule=optimizers.adamw(), clip=0.5, accumulation=2),
    "overflow": Case(rule=optimizers.sgd(momentum=0.9), precision="mixed_float16"),
}


def trained(strategy: tf.distribute.Strategy) -> dict[str, np.ndarray]:
    """All cases on the devices of a strategy: `CASE/WHAT/NAME` -> weights, figures of each step, an evaluation."""
    return {f"{name}/{what}": value for name, case in CASES.items() for what, value in _train(strategy, case).items()}


def differing(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> list[str]:
    """A sentence on each of two results of `trained` that are further apart than rounding explains."""
    rounding = Rounding(STEPS, terms=BATCH)
    sentences = [f"{name} is there once" for name in sorted(one.keys() ^ other.keys())]
    for name in sorted(one.keys() & other.keys()):
        case, what, _ = name.split("/", 2)
        half = CASES[case].precision != "float32" and what == "weights"
        most = max(float(np.abs(each).max(initial=0)) for each in (one[name], other[name]))
        apart = float(np.abs(one[name] - other[name]).max(initial=0))
        share = HALF if half else rounding.share
        if not apart <= share * most:
            sentences.append(f"{name}: {apart:.3g} apart, of at most {most:.3g}")
    return sentences


def _train(strategy: tf.distribute.Strategy, case: Case) -> dict[str, np.ndarray]:
    with strategy.scope():
        model = _network(case)
        variables = {"/".join(each.path.split("/")[-2:]): each for each in model.trainable_variables}
        statistics = {each.path.split("/")[-1]: each for each in model.non_trainable_variables if "moving" in each.path}
        scale = LossScale(dynamic=case.precision == "mixed_float16")
        shown = {"strategy": strategy, "model": model, "task": "single_label", "loss": cross_entropy()}
        window = train_window(
            **shown,
            variables=variables,
            moving_statistics=list(statistics.values()),
            optimizer=Optimizer(case.rule, variables),
            loss_scale=scale,
            step=tf.Variable(0, dtype=tf.int64, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA),
            rendering=Rendering(size=(SIZE, SIZE)),
            length=STEPS,
            clipping=Clipping(norm=case.clip),
            accumulation=case.accumulation,
        )
    rates = tf.constant(np.linspace(0.05, 0.01, STEPS, dtype=np.float32))
    records = window(_stream(strategy, case), rates, tf.constant(STEPS))
    rendering = Rendering(size=(SIZE, SIZE), colour=as_rows(normalisation(mean=127.5, scale=127.5)))
    totals, _ = evaluation_window(**shown, rendering=rendering)(*_evaluated(strategy))
    exact = case.precision == "float32"
    return {
        **{f"weights/{name}": variable.numpy() for name, variable in (variables | statistics).items()},
        **{f"steps/{name}": records[name].numpy() for name in (("loss", "gradient_norm") if exact else ())},
        **{f"steps/{name}": records[name].numpy() for name in ("finite", "loss_scale")},
        **{f"evaluation/{name}": value for name, value in metrics.figures(_numpy(totals), task="single_label").items()},
    }


def _numpy(totals: Mapping[str, tf.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in totals.items()}


def _network(case: Case) -> keras.Model:
    keras.utils.set_random_seed(11)
    layers, l2 = keras.layers, keras.regularizers.L2(1e-3)
    norm = [layers.BatchNormalization(synchronized=True, momentum=0.9, name="norm")] if case.synchronised else []
    every = {"kernel_regularizer": l2, "dtype": case.precision}
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            layers.Conv2D(4, 3, strides=2, use_bias=not norm, name="conv", **every),
            *norm,
            layers.Activation("tanh", dtype=case.precision),
            layers.Flatten(dtype=case.precision),
            layers.Dense(6, activation="tanh", name="hidden", **every),
            layers.Dense(CLASSES, name="head_logits", dtype="float32"),
        ]
    )


def _stream(strategy: tf.distribute.Strategy, case: Case):
    """Batches of random images, whose examples weigh by their class."""
    random = np.random.default_rng(12)
    labels = random.integers(0, CLASSES, (STEPS, BATCH)).astype(np.int32)
    columns = {
        "image": random.normal(size=(STEPS, BATCH, SIZE, SIZE, 3)).astype(np.float32),
        "label": labels,
        "weight": np.float32([1.0, 0.5, 2.0, 1.5])[labels],
    }
    if case.precision != "float32":
        columns["image"][list(INFINITE), -1] = np.inf
    replicas = strategy.num_replicas_in_sync
    cut = {name: each.reshape(STEPS * replicas, BATCH // replicas, *each.shape[2:]) for name, each in columns.items()}

    def of_worker(context):
        own = lane(context)
        numbers = own.numbers(np.arange(STEPS * own.count))
        batches = tf.data.Dataset.from_tensor_slices({name: each[numbers] for name, each in cut.items()})
        return batches.with_options(ordered())

    return devices.batches(strategy, of_worker)


def _evaluated(strategy: tf.distribute.Strategy):
    """The batches of an evaluation, and how many steps they are."""
    examples = sources.synthetic(examples=EVALUATED, height=SIZE, width=SIZE, classes=CLASSES)
    replicas = strategy.num_replicas_in_sync
    shape = {"image_size": (SIZE, SIZE), "capacity": SIZE**2, "uniform": True}
    view = pipeline.View(fit="stretch", crop=1.0, decoding=Decoding(SIZE), **shape)
    settings = {"batch": max(1, 8 // replicas), "replicas": replicas}
    batches = devices.batches(
        strategy, lambda context: pipeline.evaluation_batches(examples, view=view, lane=lane(context), **settings)
    )
    return batches, tf.constant(pipeline.evaluation_elements(EVALUATED, **settings) // replicas)
