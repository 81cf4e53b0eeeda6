"""Stages that train on stored features: the same training as on images, computed once, whatever comes between."""

import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
import tensorflow as tf

from data import feature_store, pipeline
from data.errors import RunFailure
from data.order import Order
from trainer import checkpoints, data_setup, features, launch
from trainer.evaluation import Evaluator
from trainer.launch import STOPPED
from trainer.recipe import Recipe

pytestmark = pytest.mark.usefixtures("no_page")

# The last block and the head train for two epochs of 44 examples; each epoch shows another view.
TRAINING = (
    "train.stages = [@head/stage()]",
    "head/stage.trains = ['head', 'last 1 blocks']",
    "head/stage.batchnorm = 'frozen'",
    "head/stage.length = (2, 'epochs')",
    "train.evaluate_every = (1, 'epochs')",
    "train.checkpoint_every = (1, 'epochs')",
    "train.deterministic = True",
)
STORED = (*TRAINING, "train.features = @features()", "features.views = 2", "features.dtype = 'float32'")
VIEWS, EXAMPLES, STEPS = 2, 44, 11


@pytest.fixture(scope="module")
def straight(tmp_path_factory, open_session):
    """The folder of a run on stored features that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert open_session(folder, *STORED).run() == 0
    return folder


def weights(folder, which="last"):
    return checkpoints.read(checkpoints.find(folder / "checkpoints", which))


def assert_same_bits(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.tobytes() == theirs[name].tobytes(), name


def stored(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestTrainingOnFeatures:
    def test_is_training_on_images_as_long_as_there_are_new_views(self, straight, tmp_path, open_session, events):
        assert open_session(tmp_path, *TRAINING).run() == 0
        for ours, theirs in zip(events(straight, "train"), events(tmp_path, "train"), strict=True):
            # The same numbers in other orders of addition, along 11 steps of Adam.
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        for name, value in weights(tmp_path).items():
            # One step of Adam moves a weight by 1e-3.
            np.testing.assert_allclose(weights(straight)[name], value, rtol=1e-4, atol=1e-5, err_msg=name)

    def test_changes_nothing_in_front_of_the_cut_by_a_bit(self, straight, open_session, tmp_path):
        session = open_session(tmp_path, *STORED)
        session._set_up()
        trains = session.state.trainable["head"].names
        assert session.state.cut.prefix.layer == "block1_relu"
        trained, at_start = weights(straight), session.state.network.values()
        for name, variable in at_start.items():
            same = trained[f"model/{name}"].tobytes() == variable.numpy().tobytes()
            assert same != (name in trains or name.endswith("seed_generator_state")), name

    def test_evaluates_as_the_whole_network_does_on_images(self, straight, open_session, events):
        session = open_session(straight, *STORED)
        session._set_up()
        checkpoints.restore_group(
            checkpoints.find(straight / "checkpoints", "last"), "model", session.state.network.values()
        )
        on_images = Evaluator(
            session.recipe, session.state.network, session.view, strategy=session.strategy, task=session.task,
            loss=session.loss,
        )  # fmt: skip
        for split in ("validation", "test"):
            totals = on_images.evaluate(session.parts[split])
            event = events(straight, "eval")[-2 + (split == "test")]
            assert (event["split"], event["examples"]) == (split, len(session.parts[split]))
            assert event["loss"] == pytest.approx(totals["loss"] / totals["weight"], rel=1e-5)
            assert event["accuracy"] == totals["correct"] / totals["weight"]

    def test_on_two_replicas_is_training_on_one(self, straight, tmp_path, open_session, events):
        assert open_session(tmp_path, *STORED, devices="cpu:2").run() == 0
        ours, theirs = (
            feature_store.open_features(folder / "features").parts["train"].reader()(tf.range(VIEWS * EXAMPLES))
            for folder in (tmp_path, straight)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        # Dropout draws for a replica's share, otherwise than for the whole batch: only the first loss of an untrained
        # head is that of the same network. Evaluations know no dropout.
        assert [event["step"] for event in events(tmp_path, "train")] == list(range(1, STEPS + 1))
        for mine, other in zip(events(tmp_path, "eval"), events(straight, "eval"), strict=True):
            assert mine["loss"] == pytest.approx(other["loss"], rel=1e-2)


class TestFeaturesAreComputedOnce:
    def test_and_used_again_by_the_next_session_with_the_folder(self, straight, tmp_path, open_session, monkeypatch):
        monkeypatch.setattr(features, "computed", None)
        session = open_session(tmp_path, *STORED, f"features.folder = '{straight}/features'")
        session._set_up()
        session._restore()
        session._record_start()
        assert session._prepare_features()
        assert session.features._store.folder == straight / "features"

    @pytest.mark.parametrize("at", [3, 12])
    def test_and_go_on_where_a_stop_left_them(self, straight, tmp_path, open_session, monkeypatch, at):
        """In the middle of the training views, and in those for validation."""
        original, calls = feature_store.Writer.write, []

        def write(self, *arguments, **named):
            calls.append(arguments[0])
            if len(calls) == at:
                os.kill(os.getpid(), signal.SIGTERM)
                while not session.stop.requested:  # by the thread that listens
                    time.sleep(0.001)
            return original(self, *arguments, **named)

        monkeypatch.setattr(feature_store.Writer, "write", write)
        session = open_session(tmp_path, *STORED)
        assert session.run() == STOPPED
        assert not (tmp_path / "features" / "manifest.json").exists()
        assert open_session(tmp_path, *STORED).run() == 0
        # 11 batches of training views, 1 of validation and 2 of test, each written once.
        assert len(calls) == 14
        assert stored(tmp_path / "features") == stored(straight / "features")
        assert_same_bits(weights(tmp_path), weights(straight))

    def test_anew_when_they_are_lost_and_training_goes_on_to_the_same_bits(self, straight, tmp_path, open_session):
        folder = shutil.copytree(straight, tmp_path / "run")
        for path in (folder / "checkpoints").rglob("ckpt-11*"):
            path.unlink()
        log = [line for line in (folder / "metrics.jsonl").read_text().splitlines() if '"stop"' not in line]
        (folder / "metrics.jsonl").write_text("\n".join(log) + "\n")
        (folder / "features" / "features-train.bin").write_bytes(b"torn")
        assert open_session(folder, *STORED).run() == 0
        assert stored(folder / "features") == stored(straight / "features")
        assert_same_bits(weights(folder), weights(straight))

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ("train.seed = 1", "augmented views"),
            ("rotation.degrees = 21", "augmented views"),
            ("train.samples = 2", "view"),
            ("synthetic.seed = 1", "images"),
            ("train.precision = 'mixed_bfloat16'", "precision"),
            ("features.layer = 'block0_relu'", "layer"),
            ("features.views = 1", "shape or number"),
            ("features.dtype = 'float16'", "shape or number"),
        ],
    )
    def test_and_again_for_what_they_were_not_computed_from(
        self, straight, tmp_path, open_session, monkeypatch, change, told
    ):
        session = open_session(tmp_path, *STORED, change, f"features.folder = '{straight}/features'")
        session._set_up()
        said = []
        session.console.say = lambda text, **style: said.append(text)
        session._restore()
        session._record_start()
        # Told, and then thrown away and computed: stopped between the two.
        monkeypatch.setattr(feature_store, "writing", None)
        with pytest.raises(TypeError):
            session._prepare_features()
        assert said[-1].startswith("computing the features anew") and told in said[-1]


class TestBrokenImages:
    @pytest.fixture
    def make(self, photos, open_session):
        root = photos({f"{name}/{index}.png": (16, 16) for name in ("cat", "dog") for index in range(20)})

        def make(workdir, *bindings):
            source = ("train.source = @folder", f"data_dir = '{root}'", "folder.root = %data_dir", "train.store = None")
            return open_session(workdir, *STORED, *source, *bindings)

        return make

    def test_are_replaced_recorded_once_and_left_out_of_evaluations(self, make, tmp_path, events, complaint):
        session = make(tmp_path / "run", "train.replace_at_most = 0.1")
        broken = [session.parts[split].where(2) for split in ("train", "test")]
        for path in broken:
            with open(path, "wb") as file:
                file.write(b"\x89PNG torn")
        assert session.run() == 0
        assert [event["image"] for event in events(tmp_path / "run", "replaced")] == broken
        part = session.features._store.parts["train"]
        rows = len(session.train)
        assert part.broken == (2, 2 + rows)
        assert part.stand_ins(rows)[[1, 2, 3, 2 + rows]].tolist() == [1, 3, 3, 3 + rows]
        test = events(tmp_path / "run", "eval")[-1]
        assert (test["split"], test["examples"], test["replaced"]) == ("test", len(session.parts["test"]) - 1, 1)
        # The next start tells nothing twice, and counts.
        log = tmp_path / "run" / "metrics.jsonl"
        log.write_text("".join(line for line in log.read_text().splitlines(True) if '"stop"' not in line))
        with complaint("2 of 40 images broke", kind=RunFailure):
            make(tmp_path / "run", "train.replace_at_most = 0.01").run()
        assert [event["image"] for event in events(tmp_path / "run", "replaced")] == broken


@pytest.mark.parametrize(
    ("bindings", "told"),
    [
        (("policy.operations = [@mixup()]",), ("mixes pairs", "policy.operations")),
        (("head/stage.policy = @policy()",), ("stage head", "head/stage.policy")),
        (("train.evaluation_views = @five_crop()",), ("5 views", "train.evaluation_views")),
        (("head/stage.image_size = 24",), ("another size", "head/stage.image_size")),
    ],
)
def test_what_cannot_be_trained_on_features_is_refused_before_anything_is_written(
    bindings, told, tmp_path, open_session, complaint
):
    with complaint(*told):
        open_session(tmp_path, *STORED, *bindings)
    assert not list(tmp_path.glob("[!o]*"))


def test_a_reference_without_brackets_is_no_setting(small, complaint):
    launch.parse_gin([small], ["train.features = @features"])
    with complaint("train.features", "@features()"):
        launch.call(Recipe)


def test_features_too_large_for_float16_are_no_infinities(tmp_path, open_session, complaint):
    session = open_session(tmp_path, *STORED, "features.dtype = 'float16'")
    session._set_up()
    session.state.network.variables["backbone/block1_bn/gamma"].assign(np.full(32, 1e7, np.float32))
    session._restore()
    session._record_start()
    with complaint("not finite as float16", "features.dtype = 'float32'"):
        session._prepare_features()


def test_the_stream_shows_in_each_epoch_the_next_view_of_each_example(straight, open_session):
    session = open_session(straight, *STORED)
    part = feature_store.open_features(straight / "features").parts["train"]
    table, order = data_setup.training_part(session.recipe, session.parts["train"])
    batches = pipeline.feature_batches(table, part, order=order, start=8, batch=8).take(15)
    rows = {name: np.concatenate([batch[name] for batch in batches]) for name in ("position", "example", "image")}
    assert rows["position"].tolist() == list(range(8, 128))
    epochs = rows["position"] // EXAMPLES
    assert rows["example"].tolist() == order.rows(tf.range(8, 128, dtype=tf.int64))[1].numpy().tolist()
    expected = part.reader()(epochs % VIEWS * EXAMPLES + rows["example"])
    np.testing.assert_array_equal(rows["image"], expected)
    fewer = pipeline.feature_batches(table, part, order=order, start=8, batch=8, left_out=((16, 32),)).take(13)
    assert np.concatenate([batch["position"] for batch in fewer]).tolist() == [*range(8, 16), *range(32, 128)]
    np.testing.assert_array_equal(np.concatenate([batch["image"] for batch in fewer])[8:], expected[24:])
    # The two views of an example are not the same picture.
    assert (part.reader()([0]) != part.reader()([EXAMPLES])).numpy().any()


def test_a_disk_without_room_is_told_before_anything_is_computed(tmp_path, open_session, complaint, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    session = open_session(tmp_path, *STORED)
    monkeypatch.setattr(feature_store.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(features, "computed", None)
    with complaint("1 kB are free", "features.folder", kind=RunFailure):
        session.run()


def test_a_folder_of_other_files_stays_as_it_is(tmp_path, open_session, complaint):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text(json.dumps({"thesis": "draft"}))
    (tmp_path / "mine" / "canvases-00000.bin").write_bytes(b"pixels")
    with complaint("canvases-00000.bin", f"{tmp_path}/mine"):
        open_session(tmp_path / "run", *STORED, f"features.folder = '{tmp_path}/mine'").run()
    assert json.loads((tmp_path / "mine" / "manifest.json").read_text()) == {"thesis": "draft"}


def test_numbers_of_float16_are_read_exactly():
    bits = np.arange(2**16, dtype=np.uint16)
    finite = bits[np.isfinite(bits.view(np.float16))]
    read = tf.function(feature_store._from_half)(finite).numpy()
    assert read.tobytes() == finite.view(np.float16).astype(np.float32).tobytes()


def test_the_order_of_the_views_is_that_of_the_first_epochs():
    order = Order(epoch_length=EXAMPLES, seed=0)
    epochs, rows = order.rows(tf.range(VIEWS * EXAMPLES, dtype=tf.int64))
    assert sorted((epochs * EXAMPLES + rows).numpy().tolist()) == list(range(VIEWS * EXAMPLES))
