"""A new session begins with the weights of another run or program: the backbone whole, the head as far as it goes."""

import dataclasses
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from data.errors import UserError
from trainer import checkpoints, init_from, initial, launch
from trainer.models import backbones, model_file
from trainer.models.growing import Outputs
from trainer.models.heads import linear, mlp
from trainer.models.network import model
from trainer.recipe import Recipe
from trainer.workdir import Workdir

pytestmark = pytest.mark.usefixtures("no_page")

KERAS_2 = Path(__file__).parent / "models" / "keras_2"
NAMES = ("class0", "class1", "class2", "class3")
DETERMINISTIC = "train.deterministic = True"


@pytest.fixture
def recipe(small):
    launch.parse_gin([small], [])
    return launch.call(Recipe)


def built(head=None, *, classes=3, size=16, backbone=None):
    architecture = model(backbone="convnet", weights=None, head=head)
    if backbone is not None:
        entry = dataclasses.replace(backbones.find("convnet"), build=lambda shape: backbone(shape))
        architecture = dataclasses.replace(architecture, backbone=entry)
    return architecture.build(image_size=size, classes=classes, precision="float32")


def values(network):
    return {name: value.numpy() for name, value in network.values().items() if "seed_generator" not in name}


def scrambled(keras_model, seed=0):
    random = np.random.default_rng(seed)
    keras_model.set_weights(
        [random.normal(size=weight.shape).astype(weight.dtype) for weight in keras_model.get_weights()]
    )
    return keras_model


def named(*names, task="single_label"):
    return Outputs(task, names)


def tiny(shape):
    """The backbone of the files in keras_2, see make.py there."""
    image = keras.Input(shape)
    x = layers.Conv2D(4, 3, name="conv1")(image)
    x = layers.BatchNormalization(name="bn1")(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    return keras.Model(image, layers.Conv2D(4, 1, name="conv2")(layers.Dropout(0.5)(x)))


class TestAFileThatKeras2Wrote:
    @pytest.mark.parametrize("file", ["whole.h5", "checkpoint/of_keras_2", "checkpoint/of_keras_2.index"])
    def test_goes_on_with_the_same_predictions(self, recipe, file):
        network = built(size=8, backbone=tiny)
        report = init_from.load(network, str(KERAS_2 / file), ours=named("a", "b", "c"), recipe=recipe)
        with np.load(KERAS_2 / "answers.npz") as stored:
            # Written by Keras 2; float32 sums of at most 4 x 9 products.
            np.testing.assert_allclose(network.model(stored["images"], training=False), stored["logits"], atol=1e-5)
        assert report.missing == report.skipped == () and "taken in order" in report.summary()


def trained(backbone, size):
    """The backbone in a classifier that has been trained for a step, with an optimizer that has state; its answers."""
    image = keras.Input((size, size, 3))
    x = layers.GlobalAveragePooling2D()(backbone(layers.Rescaling(1 / 127.5, -1)(image)))
    whole = keras.Model(image, layers.Dense(3, name="dense_5")(layers.Dropout(0.2)(x)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Eagerly: tracing would take longer than the step.
    whole.compile("adam", loss, run_eagerly=True)
    pixels = np.random.default_rng(0).uniform(0, 255, (4, size, size, 3)).astype(np.float32)
    whole.fit(pixels, np.arange(4) % 3, verbose=0)
    assert any(np.any(variable) for variable in whole.optimizer.variables[2:])
    return whole, pixels, np.asarray(whole(pixels, training=False))


class TestAModelOfAnotherProgram:
    def test_as_a_legacy_file_with_a_nested_mobilenet_goes_on_with_the_same_predictions(self, tmp_path, recipe):
        backbone = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, include_top=False, weights=None)
        whole, pixels, logits = trained(backbone, 32)
        whole.save(tmp_path / "whole.h5")
        network = model(backbone="mobilenetv2_035", weights=None).build(image_size=32, classes=3, precision="float32")
        report = init_from.load(network, str(tmp_path / "whole.h5"), ours=named("a", "b", "c"), recipe=recipe)
        assert len(report.matched) == 262 and report.missing == report.skipped == ()
        ours = network.model(pixels / 127.5 - 1, training=False)
        np.testing.assert_allclose(ours, logits, rtol=0, atol=1e-5)

        other = built()
        before = values(other)
        with pytest.raises(UserError, match=r"of 15 variables .* none was loaded; .*of another shape"):
            init_from.load(other, str(tmp_path / "whole.h5"), ours=named("a", "b", "c"), recipe=recipe)
        assert all(np.array_equal(value, before[name]) for name, value in values(other).items())

    @pytest.mark.parametrize("how", ["saved", "exported", "checkpoint", "whole.keras"])
    def test_goes_on_with_the_same_predictions(self, tmp_path, recipe, how):
        whole, pixels, logits = trained(tiny((8, 8, 3)), 8)
        path = tmp_path / how
        if how == "saved":
            tf.saved_model.save(whole, str(path))
        elif how == "exported":
            whole.export(path, verbose=False)
        elif how == "checkpoint":
            path = Path(tf.train.Checkpoint(model=whole, optimizer=whole.optimizer).save(path))
        else:
            whole.save(path)
        network = built(size=8, backbone=tiny)
        report = init_from.load(network, str(path), ours=named("a", "b", "c"), recipe=recipe)
        assert report.missing == report.skipped == () and "taken in order" in report.summary()
        ours = network.model(pixels / 127.5 - 1, training=False)
        np.testing.assert_allclose(ours, logits, rtol=0, atol=1e-5)

        fewer = built(size=8, backbone=tiny, classes=2)
        before = values(fewer)["head/head_logits/kernel"]
        report = init_from.load(fewer, str(path), ours=named("a", "b"), recipe=recipe)
        assert report.missing == ("head/head_logits/kernel", "head/head_logits/bias") and len(report.skipped) == 2
        assert "3 outputs and does not name them" in report.summary()
        assert np.array_equal(values(fewer)["head/head_logits/kernel"], before)


class TestAHead:
    """Of sources that Keras wrote, around the same backbone."""

    @pytest.fixture(scope="class")
    def save(self, tmp_path_factory):
        def write(network, names=None):
            path = tmp_path_factory.mktemp("source") / "source.weights.h5"
            scrambled(network.model).save_weights(path)
            if names is not None:
                init_from.classes_file(path).write_text(json.dumps(names))
            return str(path)

        return write

    def test_keeps_the_rows_of_the_classes_it_knew_by_name(self, save, recipe):
        source, network = built(mlp(hidden=(5, 6))), built(mlp(hidden=(5, 6)), classes=4)
        path, fresh = save(source, ["dog", "cat", "emu"]), values(network)
        report = init_from.load(network, path, ours=named("ant", "cat", "dog", "bee"), recipe=recipe)
        theirs, ours = values(source), values(network)
        for variable in ("kernel", "bias"):
            name = f"head/head_logits/{variable}"
            np.testing.assert_array_equal(ours[name][..., [2, 1]], theirs[name][..., [0, 1]])
            np.testing.assert_array_equal(ours[name][..., [0, 3]], fresh[name][..., [0, 3]])
            del ours[name], theirs[name]
        assert all(np.array_equal(value, theirs[name]) for name, value in ours.items())
        assert (report.classes.kept, report.classes.new, report.classes.dropped) == (
            ("cat", "dog"), ("ant", "bee"), ("emu",),
        )  # fmt: skip
        # Two of four rows of 6 weights and a bias do not come from the source.
        assert report.model_parameters - report.matched_parameters == 2 * 7
        assert "classes: 2 kept (cat, dog), 2 new (ant, bee), 1 dropped (emu)" in report.summary()

    def test_goes_over_as_far_as_the_layers_agree(self, save, recipe):
        network = built(mlp(hidden=(5, 7)))
        path, fresh = save(source := built(mlp(hidden=(5, 6)))), values(network)
        report = init_from.load(network, path, ours=named("a", "b", "c"), recipe=recipe)
        theirs, ours = values(source), values(network)
        for name in ("head/head_hidden0/kernel", "head/head_hidden0/bias"):
            np.testing.assert_array_equal(ours[name], theirs[name])
        changed = {name for name in ours if not np.array_equal(ours[name], fresh[name])}
        assert {"head/head_hidden1/bias", "head/head_logits/kernel"} <= set(report.missing)
        assert changed.isdisjoint(report.missing) and changed <= set(report.matched)
        assert [name.split("/")[0] for name in report.skipped] == ["head_hidden1"] * 2 + ["head_logits"] * 2

    def test_of_another_shape_starts_fresh_and_is_told(self, save, recipe):
        path = save(built(linear()), ["a", "b", "c"])
        network = built(mlp())
        report = init_from.load(network, path, ours=named("a", "b", "c"), recipe=recipe)
        assert all(name.startswith("backbone/") for name in report.matched)
        assert len(report.missing) == 4 and len(report.skipped) == 2
        assert report.classes.new == ("a", "b", "c") and "another one" in report.summary()

    def test_whose_outputs_several_layers_make_goes_over_for_the_same_classes_only(self, save, recipe):
        """Rows of its last layer alone would stand behind columns of the one before in another order."""

        def normalised(features, classes):
            return layers.BatchNormalization(name="head_bn")(linear()(features, classes))

        path, network = save(source := built(normalised), ["a", "b", "c"]), built(normalised)
        fresh = values(network)
        report = init_from.load(network, path, ours=named("c", "a", "b"), recipe=recipe)
        head = [name for name in fresh if name.startswith("head/")]
        assert all(np.array_equal(values(network)[name], fresh[name]) for name in head)
        assert report.classes.kept == () and "several layers make the outputs" in report.summary()
        report = init_from.load(network, path, ours=named("a", "b", "c"), recipe=recipe)
        assert all(np.array_equal(value, values(network)[name]) for name, value in values(source).items())
        assert report.missing == () and report.classes.kept == ("a", "b", "c")

    def test_may_be_absent(self, tmp_path, recipe):
        built().backbone.save_weights(tmp_path / "backbone.weights.h5")
        report = init_from.load(
            built(), str(tmp_path / "backbone.weights.h5"), ours=named("a", "b", "c"), recipe=recipe
        )
        assert report.classes.note == "it has no head, ours starts fresh" and len(report.missing) == 2

    def test_whose_classes_clash_is_told_and_changes_nothing(self, save, recipe, complaint):
        network = built()
        before = values(network)
        for names in (["a", "b"], ["a", "b", "b"]):
            with complaint("source.weights.h5", names[-1]):
                init_from.load(network, save(built(), names), ours=named("a", "b", "c"), recipe=recipe)
        assert all(np.array_equal(value, before[name]) for name, value in values(network).items())

    @pytest.mark.parametrize("text", ["{", "[]", "[1]", '{"classes": ["a"]}', "3"])
    def test_whose_list_of_classes_is_damaged_is_told(self, save, recipe, complaint, text):
        path = save(built())
        init_from.classes_file(Path(path)).write_text(text)
        with complaint("source.weights.h5.classes.json"):
            init_from.find(path)

    def test_beside_layers_that_are_no_head_is_told(self, tmp_path, recipe, complaint):
        """A backbone with one block more, not nested: what is left over is no dense layer."""
        image = keras.Input((16, 16, 3))
        x = layers.Conv2D(8, 1, name="block3_conv")(built().backbone(image))
        keras.Model(image, layers.Dense(3)(layers.Flatten()(x))).export(tmp_path / "more", verbose=False)
        with complaint("2 unknown to the model: block3_conv/kernel"):
            init_from.load(built(), str(tmp_path / "more"), ours=named("a", "b", "c"), recipe=recipe)


class TestWeightsThatBroke:
    def test_are_told_and_change_nothing(self, tmp_path, recipe, complaint):
        source, network = built(), built()
        kernel = source.variables["head/head_logits/kernel"]
        kernel.assign(kernel.numpy() * np.nan)
        source.model.save_weights(tmp_path / "broken.weights.h5")
        before = values(network)
        with complaint("head/head_logits/kernel holds NaN", "broken.weights.h5"):
            init_from.load(network, str(tmp_path / "broken.weights.h5"), ours=named("a", "b", "c"), recipe=recipe)
        assert all(np.array_equal(value, before[name]) for name, value in values(network).items())


class TestACheckpointOfAnotherProgram:
    def test_without_names_is_told(self, tmp_path, recipe, complaint):
        tf.train.Checkpoint(first=tf.Variable([1.0]), second=tf.Variable([2.0])).write(str(tmp_path / "ck"))
        with complaint("names of its variables cannot be read", "2 of 2", str(tmp_path / "ck")):
            init_from.load(built(), str(tmp_path / "ck"), ours=named("a", "b", "c"), recipe=recipe)

    def test_that_is_not_there_is_told(self, tmp_path, recipe, complaint):
        for path, told in ((tmp_path, "holds no weights"), (tmp_path / "ckpt-3", "no such file")):
            with complaint(told, str(path)):
                init_from.load(built(), str(path), ours=named("a", "b", "c"), recipe=recipe)


def begun(session):
    """All that a session does before its first step."""
    for part in (session._set_up, session._restore, session._record_start):
        part()
    return session


class TestASession:
    def test_begins_with_the_best_checkpoint_of_another_and_keeps_it(
        self, finished_once, tmp_path, open_session, events, capsys
    ):
        session = begun(open_session(tmp_path, "synthetic.classes = 6", init_from=str(finished_once)))
        best = checkpoints.find(finished_once / "checkpoints", "best")
        theirs, kept = checkpoints.read(best), initial.read(session.workdir)
        ours = session.state.network.values()
        assert kept.keys() == ours.keys()
        assert all(np.array_equal(value, ours[name].numpy()) for name, value in kept.items())
        for name in ours:
            if name.startswith("backbone/") and "seed_generator" not in name:
                np.testing.assert_array_equal(kept[name], theirs[f"model/{name}"])
        kernel = theirs["model/head/head_logits/kernel"]
        np.testing.assert_array_equal(kept["head/head_logits/kernel"][:, :4], kernel)
        assert initial.known(session.workdir) == NAMES
        # No state of an optimizer, no step.
        assert session.step == 0 and not any(
            np.any(each.numpy()) for each in session.state.optimizer.variables().values()
        )
        report = events(tmp_path, "start")[0]["weights"]
        assert report["classes"]["kept"] == list(NAMES) and report["classes"]["new"] == ["class4", "class5"]
        assert report["source"] == f"{finished_once} ({best.name})"
        assert "4 kept (class0, class1, class2, class3), 2 new" in " ".join(capsys.readouterr().out.split())

        session._save()
        session.checkpoints.wait()
        again = begun(open_session(tmp_path, "synthetic.classes = 6", init_from="nowhere"))
        told = " ".join(capsys.readouterr().out.split())
        assert "--init_from=nowhere is not read" in told and "2 new" in told
        assert again.beginning.facts == report

    def test_goes_on_with_a_whole_model_that_keras_2_wrote_head_included(self, tmp_path, open_session, events):
        """Nested backbone, optimizer state and all."""
        file = Path(__file__).parent / "models" / "keras_2" / "whole.h5"
        bindings = (f"model.backbone = '{file}'", "synthetic.classes = 3", "train.image_size = 8")
        pixels = ("train.normalisation = [@standardise()]", "standardise.mean = 127.5", "standardise.std = 127.5")
        short = ("train.stages = [@all/stage()]", "all/stage.length = (2, 'steps')")
        assert open_session(tmp_path, *bindings, *pixels, *short, init_from=str(file)).run() == 0
        weights = events(tmp_path, "start")[0]["weights"]
        assert weights["missing"] == [] and weights["skipped"] == []
        moved = json.loads((tmp_path / "summary.json").read_text())["drift"]
        assert moved["head/head_logits"] > 0 and moved["backbone/conv2"] > 0
        with np.load(file.with_name("answers.npz")) as answers:
            whole = model_file.read(file, True)
            np.testing.assert_allclose(whole.predict(answers["images"], verbose=0), answers["logits"], atol=1e-5)

    @pytest.mark.parametrize(
        ("bindings", "warned"), [((), False), (("train.normalisation = [@rescale()]", "rescale.factor = 0.5"), True)]
    )
    def test_is_warned_where_the_other_saw_other_pixels(
        self, finished_once, tmp_path, open_session, events, bindings, warned
    ):
        begun(open_session(tmp_path, *bindings, init_from=str(finished_once)))
        told = events(tmp_path, "start")[0]["weights"]["notes"]
        assert any("normalised in another way" in note for note in told) == warned

    def test_that_was_cut_short_before_its_first_checkpoint_begins_anew(self, finished_once, tmp_path, open_session):
        begun(open_session(tmp_path, init_from=str(finished_once / "checkpoints" / "ckpt-9")))
        first = initial.read(Workdir.existing(str(tmp_path)))
        begun(open_session(tmp_path, init_from=str(finished_once / "checkpoints" / "ckpt-6")))
        second = initial.read(Workdir.existing(str(tmp_path)))
        name = "head/head_logits/kernel"
        stored = [checkpoints.read(finished_once / "checkpoints" / f"ckpt-{step}")[f"model/{name}"] for step in (9, 6)]
        assert np.array_equal(first[name], stored[0]) and np.array_equal(second[name], stored[1])
        begun(open_session(tmp_path))
        assert not (tmp_path / "initial").exists()

    def test_is_none_the_worse_for_a_source_that_does_not_fit(self, tmp_path, open_session, complaint):
        (tmp_path / "text.h5").write_text("no weights")
        folder = tmp_path / "run"
        session = open_session(folder, init_from=str(tmp_path / "text.h5"))
        with complaint("neither HDF5", "text.h5"):
            session.run()
        assert {path.name for path in folder.iterdir()} <= {"onward.lock", "store"}

    def test_does_not_begin_with_weights_that_were_lost(self, finished, tmp_path, open_session, complaint):
        for path in finished.glob("checkpoints/best/*.data*"):
            path.write_bytes(path.read_bytes()[:-1])
        with complaint("damaged", "checkpoints/best/ckpt-"):
            begun(open_session(tmp_path / "run", init_from=str(finished)))
        shutil.rmtree(finished / "checkpoints")
        with complaint("no checkpoint 'last'", str(finished)):
            begun(open_session(tmp_path / "run", init_from=str(finished)))
