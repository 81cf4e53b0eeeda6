"""The training step: equal on 1, 2 and 4 replicas, skipped as one when a gradient is not finite."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from data import pipeline, sources
from data.augment import geometry
from data.augment.apply import Rendering, as_rows
from data.augment.colour import normalisation
from data.augment.policy import Policy
from data.decode import Decoding
from data.examples import Examples
from data.order import Order
from trainer import devices, losses, metrics
from trainer.losses import cross_entropy
from trainer.optimization import optimizers
from trainer.optimization.clipping import Clipping
from trainer.optimization.ema import Average
from trainer.optimization.loss_scale import LARGEST, LossScale
from trainer.optimization.optimizers import Optimizer
from trainer.step import evaluation_window, train_window

SIZE, CLASSES, BATCH = 16, 4, 16
EXAMPLES = sources.synthetic(examples=50, height=SIZE, width=SIZE, classes=CLASSES)
POLICY = Policy((geometry.rotation(degrees=20), geometry.flip()))


@dataclasses.dataclass
class Setup:
    strategy: tf.distribute.Strategy
    model: keras.Model
    variables: dict
    optimizer: Optimizer
    loss_scale: LossScale
    step: tf.Variable
    window: object
    batches: object
    average: Average | None

    def train(self, steps, *, learning_rate=0.05):
        rates = np.full(20, learning_rate, np.float32)
        records = self.window(self.batches, tf.constant(rates), tf.constant(steps))
        return {name: values.numpy()[:steps] for name, values in records.items()}

    def weights(self):
        return {name: variable.numpy() for name, variable in self.variables.items()}


def small_model(*, regularised=False):
    """Convolutions without normalisation and dropout: what replicas must agree on."""
    l2 = keras.regularizers.L2(1e-3) if regularised else None
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            keras.layers.Conv2D(8, 3, strides=2, activation="tanh", kernel_regularizer=l2, name="first"),
            keras.layers.Conv2D(8, 3, strides=2, activation="tanh", name="second"),
            keras.layers.Flatten(),
            keras.layers.Dense(CLASSES, dtype="float32", name="logits"),
        ],
        name="small",
    )


def set_up(
    replicas, *, rule=None, precision="float32", clip_norm=0.5, task="single_label", loss=None, examples=EXAMPLES,
    make_model=small_model, trains=lambda name: True, patience=2000,
    change=lambda element: element, policy=POLICY, ema=None,
):  # fmt: skip
    strategy = devices.set_up(f"cpu:{replicas}")
    keras.utils.set_random_seed(3)
    with strategy.scope():
        keras.config.set_dtype_policy(precision)
        try:
            model = make_model()
        finally:
            keras.config.set_dtype_policy("float32")
        variables = {v.path: v for v in model.trainable_variables if trains(v.path)}
        optimizer = Optimizer(rule or optimizers.sgd(), variables)
        averaged = {"averaged": set(variables), "decay": ema, "warmup": False}
        average = None if ema is None else Average({v.path: v for v in model.variables}, **averaged)
        loss_scale = LossScale(dynamic=precision == "mixed_float16", patience=patience)
        step = tf.Variable(0, dtype=tf.int64, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA, trainable=False)
    moving = [v for v in model.non_trainable_variables if "moving" in v.path]
    window = train_window(
        strategy=strategy, model=model, variables=variables, moving_statistics=moving, optimizer=optimizer,
        loss_scale=loss_scale, step=step, task=task, loss=loss or cross_entropy(),
        clipping=Clipping(norm=clip_norm), rendering=dataclasses.replace(RENDERING, program=policy.program), length=20,
        average=average,
    )  # fmt: skip
    batches = iter(
        strategy.distribute_datasets_from_function(
            lambda context: pipeline.train_batches(
                examples, order=shuffled(examples), start=0, batch=BATCH // replicas, seed=5,
                policy=policy, view=VIEW,
            ).map(change)
        )
    )  # fmt: skip
    return Setup(strategy, model, variables, optimizer, loss_scale, step, window, batches, average)


def shuffled(examples: Examples) -> Order:
    return Order.of(examples, factors=examples.repeats, seed=5)


RENDERING = Rendering(size=(SIZE, SIZE), colour=as_rows(normalisation(mean=127.5, scale=127.5)))
VIEW = pipeline.View(
    image_size=(SIZE, SIZE), fit="stretch", crop=1.0, decoding=Decoding(SIZE),
    capacity=SIZE * SIZE,
)  # fmt: skip


@pytest.mark.parametrize("rule", [optimizers.sgd(weight_decay=1e-2), optimizers.adamw()], ids=["sgd", "adamw"])
def test_1_2_and_4_replicas_end_with_the_same_weights(rule):
    runs = {}
    for replicas in (1, 2, 4):
        setup = set_up(replicas, rule=rule, make_model=lambda: small_model(regularised=True))
        # Adam divides by the root of a second moment that starts at 0: small rates keep rounding small.
        records = setup.train(20, learning_rate=1e-3)
        runs[replicas] = setup.weights(), records
        assert (records["gradient_norm"] > 0.5).any(), "clipping by global norm must be active"
    for replicas in (2, 4):
        for name, expected in runs[1][0].items():
            # 20 steps, each of which may differ by the rounding of a float32 sum (2**-23 of the update's size: at most
            # the learning rate, times a condition of 100 for the quotient of Adam's moments).
            np.testing.assert_allclose(
                runs[replicas][0][name], expected, rtol=0, atol=20 * 1e-3 * 2**-23 * 100 + 2**-22
            )
        np.testing.assert_allclose(runs[replicas][1]["loss"], runs[1][1]["loss"], rtol=2**-18)


def test_gradients_are_those_of_the_weighted_mean_over_the_global_batch():
    weights = np.linspace(0, 2, len(EXAMPLES)).astype(np.float32)
    weighted = dataclasses.replace(EXAMPLES, weights=weights)
    results = {}
    for replicas in (1, 2):
        setup = set_up(replicas, examples=weighted, rule=optimizers.sgd(momentum=0.0), clip_norm=None)
        before = setup.weights()
        setup.train(1, learning_rate=1.0)
        results[replicas] = {name: before[name] - after for name, after in setup.weights().items()}

    reference = set_up(1)
    arguments = {"start": 0, "batch": BATCH, "seed": 5, "policy": POLICY, "view": VIEW}
    batch = next(iter(pipeline.train_batches(weighted, order=shuffled(weighted), **arguments)))
    with tf.GradientTape() as tape:
        logits = reference.model(RENDERING.images(batch))
        losses = keras.losses.sparse_categorical_crossentropy(batch["label"], logits, from_logits=True)
        loss = tf.reduce_sum(losses * batch["weight"]) / tf.reduce_sum(batch["weight"])
    gradients = tape.gradient(loss, [variable.value for variable in reference.variables.values()])
    for name, gradient in zip(reference.variables, gradients, strict=True):
        for replicas in (1, 2):
            # Sums of at most BATCH * 49 positions of float32 products of size below 1.
            np.testing.assert_allclose(results[replicas][name], gradient, rtol=1e-4, atol=BATCH * 49 * 2**-23)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_an_update_is_as_long_as_the_clipped_global_gradient(replicas, precision):
    setup = set_up(replicas, rule=optimizers.sgd(momentum=0.0), clip_norm=0.125, precision=precision)
    before = setup.weights()
    assert setup.train(1, learning_rate=1.0)["gradient_norm"][0] > 0.125
    length = np.sqrt(
        sum(((before[name] - after).astype(np.float64) ** 2).sum() for name, after in setup.weights().items())
    )
    # Each weight, below 1, is rounded to 2**-24 when it is updated: at most 2**-24 times the root of their number.
    assert length == pytest.approx(0.125, abs=2.0**-23 * np.sqrt(sum(value.size for value in before.values())))


def test_an_infinity_on_one_replica_is_skipped_on_both_halves_the_scale_and_training_goes_on():
    infinite = EXAMPLES.weights.copy()
    infinite[order_of(1)[BATCH // 2]] = np.inf  # seen in step 1 by the second replica alone
    poisoned = dataclasses.replace(EXAMPLES, weights=infinite)
    setup = set_up(2, precision="mixed_float16", examples=poisoned)
    before, scale = setup.weights(), float(setup.loss_scale.value.numpy())
    setup.train(1)
    for name, variable in setup.variables.items():
        for replica_value in setup.strategy.experimental_local_results(variable.value):
            np.testing.assert_array_equal(replica_value.numpy(), before[name])
    assert float(setup.loss_scale.value.numpy()) == scale / 2
    assert int(setup.step.numpy()) == 1
    assert all(int(v.numpy()) == 0 for n, v in setup.optimizer.variables().items() if n.endswith("/updates"))

    records = setup.train(1)
    assert records["finite"][0] == 1
    for name, variable in setup.variables.items():
        first, second = (v.numpy() for v in setup.strategy.experimental_local_results(variable.value))
        np.testing.assert_array_equal(first, second)
        assert np.isfinite(first).all()
        assert (first != before[name]).any()


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_skipped_step_leaves_the_moving_statistics_as_they_were(replicas):
    def overflow(element):
        """Pixels of the first step's second half that float16 cannot hold: the statistics turn NaN."""
        hit = tf.reduce_any(element["position"] == BATCH // 2)
        return element | {"image": RENDERING.images(element) * tf.where(hit, 1e6, 1.0)}

    setup = set_up(replicas, precision="mixed_float16", make_model=normalised_model, change=overflow)
    statistics = [v for v in setup.model.variables if "moving" in v.path]
    records = setup.train(1)
    assert records["finite"][0] == 0
    for variable in statistics:
        for value in setup.strategy.experimental_local_results(variable.value):
            np.testing.assert_array_equal(value.numpy(), 1.0 if "variance" in variable.path else 0.0)
    setup.train(1)
    for variable in statistics:
        assert np.isfinite(variable.numpy()).all()
        assert (variable.numpy() != (1.0 if "variance" in variable.path else 0.0)).any()


def normalised_model():
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            keras.layers.Conv2D(8, 3, strides=2, use_bias=False),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Flatten(),
            keras.layers.Dense(CLASSES, dtype="float32", name="logits"),
        ],
        name="small",
    )


def order_of(step):
    from data import order

    positions = tf.range((step - 1) * BATCH, step * BATCH, dtype=tf.int64)
    return order.permute(positions, examples=len(EXAMPLES), seed=5)[1].numpy()


def test_an_overflow_of_the_scaled_loss_is_found_and_the_scale_settles_where_training_works():
    setup = set_up(2, precision="mixed_float16")
    setup.loss_scale.value.assign(2.0**30)
    records = setup.train(20)
    assert records["finite"][0] == 0
    settled = np.flatnonzero(records["finite"])[0]
    np.testing.assert_array_equal(records["loss_scale"][: settled + 1], 2.0 ** (30 - np.arange(settled + 1)))
    assert records["finite"][settled:].all()


def test_the_scale_doubles_after_enough_finite_steps_and_never_falls_below_one():
    setup = set_up(1, precision="mixed_float16", patience=3)
    setup.loss_scale.value.assign(4.0)
    np.testing.assert_array_equal(setup.train(7)["loss_scale"], [4, 4, 4, 8, 8, 8, 16])
    setup.loss_scale.value.assign(LARGEST)
    assert setup.train(4)["loss_scale"].max() == LARGEST
    setup.loss_scale.value.assign(1.0)
    setup.loss_scale.update(tf.constant(False))
    assert float(setup.loss_scale.value.numpy()) == 1.0


def test_what_does_not_train_keeps_every_bit_and_so_does_its_average():
    def frozen_but_for_logits():
        model = normalised_model()
        for layer in model.layers[:-1]:
            layer.trainable = False
        return model

    rule = optimizers.adamw(weight_decay=0.5, decay_vectors=True)
    setup = set_up(2, rule=rule, make_model=frozen_but_for_logits, ema=0.5)
    before = {variable.path: variable.numpy() for variable in setup.model.variables}
    averages = setup.average.variables()
    assert sum("moving_" in name for name in before) == 2
    setup.train(5)
    for variable in setup.model.variables:
        name, still = variable.path, not variable.path.startswith("small/logits")
        for each in (variable.value, averages[name]):
            for value in setup.strategy.experimental_local_results(each):
                assert (value.numpy().tobytes() == before[name].tobytes()) == still, name
        assert (averages[name].numpy() == variable.numpy()).all() == still


@pytest.mark.parametrize("replicas", [1, 2])
def test_images_that_stand_in_for_broken_ones_are_counted_over_all_replicas(replicas):
    def stand_in(element):
        return element | {"replaced": element["position"] % 5 == 0}

    records = set_up(replicas, change=stand_in).train(4)
    # Positions 0 to 63, 16 a step.
    np.testing.assert_array_equal(records["replaced"], [4, 3, 3, 3])
    assert (set_up(replicas).train(1)["replaced"] == 0).all()


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_batch_of_weight_0_teaches_nothing_and_is_finite(replicas):
    setup = set_up(
        replicas,
        rule=optimizers.sgd(momentum=0.0),
        change=lambda element: element | {"weight": tf.zeros_like(element["weight"])},
    )
    before = setup.weights()
    records = setup.train(1)
    assert (records["finite"][0], records["loss"][0], records["accuracy"][0]) == (1, 0, 0)
    for name, value in setup.weights().items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("task", ["binary", "multi_label", "regression"])
def test_1_and_2_replicas_show_the_same_figures_of_every_task(task):
    def relabelled(element):
        """Labels in the shape of the task, made of the class."""
        classes = tf.one_hot(element["label"], CLASSES)
        labels = {"binary": element["label"] % 2, "multi_label": classes, "regression": 3 * classes - 1}[task]
        return element | {"label": labels}

    def model():
        whole = small_model()
        return keras.Sequential([whole, keras.layers.Dense(1, name="one")]) if task == "binary" else whole

    records = {}
    for replicas in (1, 2):
        setup = set_up(replicas, task=task, loss=losses.chosen(None, task), change=relabelled, make_model=model)
        records[replicas] = setup.train(5)
    for name in ("loss", metrics.running(task)):
        # Sums of 16 float32 numbers in another order, after 5 steps.
        np.testing.assert_allclose(records[2][name], records[1][name], rtol=2**-18)
    assert records[1]["loss"][-1] < records[1]["loss"][0]


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_computes_in_half_and_keeps_weights_logits_and_loss_in_float32(precision):
    setup = set_up(1, precision=precision)
    assert setup.model.layers[0].compute_dtype == precision.removeprefix("mixed_")
    assert {variable.dtype for variable in setup.variables.values()} == {"float32"}
    assert setup.model(np.zeros((1, SIZE, SIZE, 3), np.float32)).dtype == tf.float32
    losses = setup.train(20)["loss"]
    assert losses[-1] < losses[0]


def test_windows_of_any_length_give_the_same_bits_and_one_trace():
    whole, pieces = set_up(1), set_up(1)
    whole.train(10)
    for length in (1, 3, 4, 2):
        pieces.train(length)
    for name, value in whole.weights().items():
        np.testing.assert_array_equal(pieces.weights()[name], value)
    assert pieces.window.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_loss_of_ones_own_may_have_an_if_over_tensors(replicas):
    usual = cross_entropy()

    def own(labels, logits):
        losses = usual(labels, logits)
        if tf.reduce_sum(losses) > 0:
            losses = losses * 2
        return losses

    doubled, plain = set_up(replicas, loss=own), set_up(replicas, loss=usual)
    # A factor of two is exact, also in the sums.
    np.testing.assert_array_equal(doubled.train(1)["loss"], 2 * plain.train(1)["loss"])
    evaluate = evaluation_window(
        strategy=doubled.strategy, model=doubled.model, task="single_label", loss=own, rendering=RENDERING
    )
    batches = doubled.strategy.distribute_datasets_from_function(
        lambda context: pipeline.evaluation_batches(EXAMPLES.take(np.arange(4)), batch=4, replicas=replicas, view=VIEW)
    )
    sums, _ = evaluate(iter(batches), tf.constant(1))
    assert np.isfinite(sums["loss"].numpy())


@pytest.mark.parametrize("replicas", [1, 2, 4])
@pytest.mark.parametrize("examples", [1, 7, 50])
def test_evaluation_counts_each_example_once(replicas, examples):
    setup = set_up(replicas)
    part = EXAMPLES.take(np.arange(examples))
    evaluate = evaluation_window(
        strategy=setup.strategy, model=setup.model, task="single_label", loss=cross_entropy(),
        rendering=RENDERING,
    )  # fmt: skip
    batch = 4
    batches = iter(
        setup.strategy.distribute_datasets_from_function(
            lambda context: pipeline.evaluation_batches(part, batch=batch, replicas=replicas, view=VIEW)
        )
    )
    steps = pipeline.evaluation_elements(examples, batch=batch, replicas=replicas) // replicas
    sums, told = evaluate(batches, tf.constant(steps))
    totals = metrics.add(metrics.zeros(CLASSES, task="single_label"), sums)
    logits = setup.model(part.pixels.astype(np.float32) / 127.5 - 1).numpy()
    predicted = logits.argmax(axis=1)
    expected = np.zeros((CLASSES, CLASSES), np.int64)
    np.add.at(expected, (part.labels, predicted), 1)
    np.testing.assert_array_equal(totals["confusion"], expected)
    figures = metrics.figures(totals, task="single_label")
    assert figures["examples"] == examples and totals["replaced"] == 0
    # Each by itself as well, and padding at positions behind the end.
    inside = told["position"].numpy() < examples
    rows = told["position"].numpy()[inside]
    assert sorted(rows) == list(range(examples))
    np.testing.assert_allclose(told["logits"].numpy()[inside], logits[rows], rtol=1e-5, atol=1e-6)
    assert figures["accuracy"] == pytest.approx((predicted == part.labels).mean(), abs=1e-12)
