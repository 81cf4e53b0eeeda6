"""Policies in training: pairs mixed in the loss, policies of stages and of shares of training, either placement."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from data import pipeline
from data.augment import erasing, geometry, mixing  # noqa: F401, erasing: gin has to know its name
from data.augment.operation import one_of
from data.augment.policy import Policy
from data.examples import TASKS
from tests.trainer.test_step import BATCH, CLASSES, EXAMPLES, RENDERING, VIEW, set_up, shuffled
from trainer import data_setup, launch, losses, metrics
from trainer.optimization import optimizers
from trainer.recipe import Recipe
from trainer.rendering import rendering, training_policy
from trainer.step import weighted

pytestmark = pytest.mark.usefixtures("no_page")

MIXING = one_of(operations=[mixing.mixup(alpha=1.0), mixing.cutmix(alpha=1.0)])
POLICY = Policy((geometry.rotation(degrees=20), geometry.flip(), MIXING))


def log_sum_exp(logits):
    highest = logits.max(axis=-1, keepdims=True)
    return np.log(np.exp(logits - highest).sum(axis=-1)) + highest[..., 0]


def single_label(labels, logits):
    return log_sum_exp(logits) - np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]


def sigmoid_entropy(labels, logits):
    return (np.logaddexp(0, logits) - labels.reshape(logits.shape) * logits).mean(axis=1)


# [B] losses and shares of right decisions (absolute errors) in NumPy.
LOSSES = {
    "single_label": single_label,
    "binary": sigmoid_entropy,
    "multi_label": sigmoid_entropy,
    "regression": lambda labels, values: ((values - labels) ** 2).mean(axis=1),
}
SCORES = {
    "single_label": lambda labels, logits: logits.argmax(axis=1) == labels,
    "binary": lambda labels, logits: (logits[:, 0] > 0) == (labels == 1),
    "multi_label": lambda labels, logits: ((logits > 0) == (labels == 1)).mean(axis=1),
    "regression": lambda labels, values: np.abs(values - labels).mean(axis=1),
}
# From no weight at all to four times another's.
WEIGHTED = dataclasses.replace(EXAMPLES, weights=np.float32(np.arange(len(EXAMPLES)) % 5 / 2))


@pytest.mark.parametrize("task", TASKS)
@given(seed=st.integers(0, 2**32 - 1), pairs=st.integers(1, 8), largest=st.sampled_from([1.0, 30.0]))
def test_the_loss_of_mixed_examples_counts_both_labels_by_share_and_weight(task, seed, pairs, largest):
    random, count = np.random.default_rng(seed), 2 * pairs
    outputs = 1 if task == "binary" else CLASSES
    logits = np.float32(random.normal(0, largest, (count, outputs)))
    labels = {
        "single_label": np.int32(random.integers(0, CLASSES, count)),
        "binary": np.int32(random.integers(0, 2, count)),
        "multi_label": np.float32(random.integers(0, 2, (count, CLASSES))),
        "regression": np.float32(random.normal(0, 1, (count, CLASSES))),
    }[task]
    weight = np.float32(random.integers(0, 4, count) / 2)
    share = np.float32(np.repeat(random.choice([0, 1, random.uniform()], pairs), 2))
    batch = {name: tf.constant(value) for name, value in (("label", labels), ("weight", weight), ("share", share))}
    loss = losses.chosen(None, task)
    partner = np.arange(count) ^ 1
    of = {
        LOSSES[task]: lambda labels: loss(labels, logits),
        SCORES[task]: lambda labels: metrics.score(labels, tf.constant(logits), task=task),
    }
    for values, function in of.items():
        own, other = (values(each, logits.astype(np.float64)) for each in (labels, labels[partner]))
        expected = np.float64(share) * own * weight + (1 - np.float64(share)) * other * weight[partner]
        # Each of some ten float32 roundings of numbers that are at most `largest` and the greatest loss.
        bound = 10 * 2**-23 * (1.5 * max(np.abs(own).max(), np.abs(other).max()) + 8 * largest)
        np.testing.assert_allclose(weighted(batch, function), expected, rtol=0, atol=bound)
        unmixed = weighted({"label": batch["label"], "weight": batch["weight"]}, function)
        np.testing.assert_allclose(unmixed, own * weight, rtol=0, atol=bound)


def test_a_step_shows_and_follows_the_mixed_loss_of_its_batch():
    setup = set_up(1, policy=POLICY, examples=WEIGHTED, rule=optimizers.sgd(momentum=0.0), clip_norm=None)
    given = {"order": shuffled(WEIGHTED), "start": 0, "batch": BATCH, "seed": 5, "policy": POLICY, "view": VIEW}
    batch = next(iter(pipeline.train_batches(WEIGHTED, **given)))
    images = dataclasses.replace(RENDERING, program=POLICY.program).images(batch)
    place = {position: index for index, position in enumerate(batch["position"].numpy().tolist())}
    partner = np.array([place[position ^ 1] for position in place])
    share, weight, labels = (batch[name].numpy() for name in ("share", "weight", "label"))
    assert (weight == 0).any() and ((share > 0.05) & (share < 0.95)).sum() > BATCH / 4
    assert (labels[partner] != labels).any()

    with tf.GradientTape() as tape:
        logits = setup.model(images)
        # A target that is spread over both labels is another way to write the same loss.
        own, other = share * weight, (1 - share) * weight[partner]
        targets = own[:, None] * np.eye(CLASSES)[labels] + other[:, None] * np.eye(CLASSES)[labels[partner]]
        loss = -tf.reduce_sum(np.float32(targets) * tf.nn.log_softmax(logits)) / weight.sum()
    gradients = tape.gradient(loss, [variable.value for variable in setup.variables.values()])
    before = setup.weights()
    record = setup.train(1, learning_rate=1.0)
    # Logits out of some 300 float32 products each, and a sum of 16.
    assert record["loss"][0] == pytest.approx(float(loss), rel=2**-18)
    right = logits.numpy().argmax(axis=1)
    accuracy = (own * (right == labels) + other * (right == labels[partner])).sum() / weight.sum()
    assert record["accuracy"][0] == pytest.approx(accuracy, rel=2**-18)
    for (name, after), gradient in zip(setup.weights().items(), gradients, strict=True):
        # Sums of at most BATCH * 49 positions of float32 products of size below 1.
        np.testing.assert_allclose(before[name] - after, gradient, rtol=1e-4, atol=BATCH * 49 * 2**-23)


def test_1_and_2_replicas_end_with_the_same_weights_when_pairs_are_mixed():
    runs = {}
    for replicas in (1, 2):
        setup = set_up(replicas, rule=optimizers.sgd(), policy=POLICY, examples=WEIGHTED)
        records = setup.train(10, learning_rate=1e-2)
        runs[replicas] = setup.weights(), records
    before = set_up(1).weights()
    for name, expected in runs[1][0].items():
        assert np.abs(expected - before[name]).max() > 1e-3
        # 10 steps, each of which may differ by the rounding of a sum of float32: 2**-23 of an update, which is at
        # most the learning rate, 10 times that with momentum, times a condition of 100 for sums that cancel.
        np.testing.assert_allclose(runs[2][0][name], expected, rtol=0, atol=10 * 1e-2 * 10 * 2**-23 * 100 + 2**-22)
    np.testing.assert_allclose(runs[2][1]["loss"], runs[1][1]["loss"], rtol=2**-18)


def recipe_of(small, *bindings):
    launch.parse_gin([small], bindings)
    return launch.call(Recipe)


# -- policies of stages and of shares of training -------------------------------------------------------------------

OF_STAGE = ("all/stage.policy = @late/policy()", "late/policy.operations = [@flip(), @mixup()]", "mixup.alpha = 1.0")
DURING = ("late/policy.during = {'mixup': (0.0, 0.5)}",)


@pytest.fixture
def stream(open_session, tmp_path):
    """`stream("all", *bindings)`: recipe, stage, and the batches of that stage of a session of the small recipe."""

    def make(name, *bindings, step=0, replicas=1):
        session = open_session(tmp_path / "run", *bindings, devices=f"cpu:{replicas}")
        stage = next(planned.stage for planned in session.plan.stages if planned.stage.name == name)
        view = data_setup.view(session.recipe, session.data)
        batches = data_setup.stream(
            session.recipe, session.train, session.order, view, stage=stage, strategy=session.strategy, step=step,
            steps=session.plan.steps,
        )  # fmt: skip
        return session, stage, batches

    return make


def test_a_stage_may_have_a_policy_of_its_own_in_place_of_that_of_training(stream):
    session, stage, batches = stream("head", *OF_STAGE)
    recipe = session.recipe
    assert training_policy(recipe, stage) == training_policy(recipe) and "share" not in next(batches)
    _, stage, batches = stream("all", *OF_STAGE)
    own = training_policy(recipe, stage)
    assert [operation.name for operation in own.operations] == ["flip", "mixup"]
    batch = next(batches)
    drawn = stage.policy.draw(batch["position"], seed=recipe.seed, size=(16, 16))
    np.testing.assert_array_equal(batch["share"], drawn.share)
    np.testing.assert_array_equal(batch["arrays"][0], drawn.arrays[0])
    # Images of the size of the network: what remains is the flip.
    np.testing.assert_array_equal(batch["geometry"], tf.cast(drawn.geometry, tf.float32))
    assert session.recipe.policy.operations[0].name == "rotation"


def test_an_operation_that_is_on_during_a_share_of_training_leaves_every_bit_alone_afterwards(stream):
    session, stage, batches = stream("all", *OF_STAGE, *DURING)
    steps, batch_size, recipe = session.plan.steps, session.recipe.batch_size, session.recipe
    assert steps * batch_size == 72, "the middle of training is in the middle of a batch"
    mixed = rendering(recipe, training_policy(recipe, stage), samples=1)
    nothing = [slot.identity(mixed.size).astype(np.float32) for slot in mixed.program]
    for _ in range(steps):
        batch = next(batches)
        on = batch["position"].numpy() < 36
        share = batch["share"].numpy()
        assert (share[on] < 1).all() and (share[~on] == 1).all()
        images = mixed.images(batch).numpy()
        unchanged = tuple(tf.constant(np.broadcast_to(row, (len(on), *row.shape))) for row in nothing)
        equal = (images == mixed.images(batch | {"arrays": unchanged}).numpy()).all(axis=(1, 2, 3))
        np.testing.assert_array_equal(equal, ~on)


def test_a_stream_that_starts_later_goes_on_with_the_same_bits(stream):
    _, _, straight = stream("all", *OF_STAGE, *DURING)
    batches = [next(straight) for _ in range(6)]
    _, _, resumed = stream("all", *OF_STAGE, *DURING, step=4)
    for batch in batches[4:]:
        tf.nest.map_structure(np.testing.assert_array_equal, next(resumed), batch)


# -- where images are rendered --------------------------------------------------------------------------------------

EVERYTHING = (
    "train.policy = @policy()", "train.samples = 2",
    "policy.operations = "
    "[@random_resized_crop(), @rotation(), @flip(), (@brightness(), 0.5), @random_erasing(), @one_of()]",
    "one_of.operations = [@mixup(), @cutmix()]",
)  # fmt: skip


def test_the_host_renders_the_pixels_that_the_device_does_mixing_included(stream):
    session, stage, on_device = stream("head", *EVERYTHING, replicas=2)
    recipe, strategy = session.recipe, session.strategy
    rendered = rendering(recipe, training_policy(recipe, stage), samples=recipe.samples)

    @tf.function
    def images(batch):
        return strategy.run(rendered.images, args=(batch,))

    device = [
        (strategy.experimental_local_results(images(batch)), batch) for batch in (next(on_device), next(on_device))
    ]
    _, _, on_host = stream("head", *EVERYTHING, "train.placement = 'host'", replicas=2)
    for expected, batch in device:
        host = next(on_host)
        assert not {"canvas", "geometry", "arrays"} & host.keys()
        for name in ("label", "weight", "position", "share"):
            pairs = zip(*(strategy.experimental_local_results(each[name]) for each in (host, batch)), strict=True)
            for mine, other in pairs:
                np.testing.assert_array_equal(mine, other)
        given = strategy.experimental_local_results(images(host))
        for mine, other in zip(given, expected, strict=True):
            assert mine.shape == (recipe.batch_size // 2, 16, 16, 3)
            assert mine.numpy().tobytes() == other.numpy().tobytes()
