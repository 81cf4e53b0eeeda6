"""What of a session is shown in TensorBoard: the curves of its log, and pictures that training has seen."""

import io

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import STORE_EVERYTHING_SIZE_GUIDANCE, EventAccumulator
from tensorboard.util import tensor_util

from trainer import board
from trainer.reports import tensorboard

WANTED = (
    "train.tensorboard = @tensorboard()",
    "tensorboard.images = 3",
    "tensorboard.histograms = True",
    "tensorboard.profile = 1",
)


def read(folder):
    found = EventAccumulator(str(folder), size_guidance=STORE_EVERYTHING_SIZE_GUIDANCE)
    found.Reload()
    return found


@pytest.fixture(scope="module")
def shown(open_session, tmp_path_factory):
    """The workdir of the small recipe, gone on from the middle of its way."""
    folder, before = tmp_path_factory.mktemp("shown") / "run", tensorboard.EVERY
    tensorboard.EVERY = -1.0
    session = open_session(folder, *WANTED)
    train_window = session._train_window

    def stopping():
        train_window()
        if session.step >= 5:
            session.stop.requested = "SIGTERM"

    session._train_window = stopping
    assert session.run() == 75
    assert open_session(folder, *WANTED).run() == 0
    tensorboard.EVERY = before
    return folder


def test_curves_are_those_of_the_log(shown, events):
    logged = {event["step"]: event for event in events(shown, "train", times=True)}
    found = read(shown / "tensorboard" / "train")
    for tag in ("loss", "accuracy", "learning_rate", "gradient_norm", "images_per_second", "data_wait"):
        points = found.Scalars(tag)
        # Windows of two steps; the first stage ends after three.
        assert [point.step for point in points] == [2, 4, 6, 8, 9]
        assert all(np.float32(logged[point.step][tag]) == np.float32(point.value) for point in points)
    for split in ("validation", "test"):
        expected = [
            (event["step"], np.float32(event["loss"])) for event in events(shown, "eval") if event["split"] == split
        ]
        points = read(shown / "tensorboard" / split).Scalars("loss")
        assert [(point.step, np.float32(point.value)) for point in points] == expected


def test_pictures_texts_and_histograms_are_there_from_both_starts(shown):
    found = read(shown / "tensorboard")
    steps = {tag: [event.step for event in found.Tensors(tag)] for tag in found.Tags()["tensors"]}
    assert steps["augmented/head"] == [0] and steps["augmented/all"] == [3]
    assert steps["confusion/validation"] == [3, 6, 9] and steps["confusion/test"] == [9]
    assert steps["config"] == [0, 6]
    assert steps["weights/head/head_logits/kernel"] == [3, 6, 9]
    assert steps["_hparams_/session_start_info"] == [0]


def test_augmented_images_are_those_that_the_network_saw(shown):
    """Of 16 x 16 pixels in 0..255, with the variety of images, not the range of a normalisation."""
    tensor = tensor_util.make_ndarray(read(shown / "tensorboard").Tensors("augmented/all")[0].tensor_proto)
    assert tensor[:2].tolist() == [b"16", b"16"] and len(tensor) == 2 + 3
    images = np.stack([np.asarray(Image.open(io.BytesIO(png))) for png in tensor[2:]])
    assert images.shape == (3, 16, 16, 3) and images.std() > 20 and 20 < images.mean() < 235


def test_a_profile_is_there_of_each_start_that_had_windows_enough(shown):
    assert len(list((shown / "tensorboard").glob("plugins/profile/*/*.xplane.pb"))) == 1


def test_a_normalisation_is_undone_to_the_level():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3))
    colour = np.hstack([np.diag([0.01, 0.02, 0.03])[::-1], [[-1.0], [-2.0], [0.5]]])
    images = pixels @ colour[:, :3].T + colour[:, 3]
    assert (board._levels(images, colour) == pixels).all()
    stretched = board._levels(images, None)
    assert stretched.min() == 0 and stretched.max() == 255


def test_hyperparameters_are_the_settings_that_are_values():
    config = (
        "batch_size = 8\ntrain.batch_size = %batch_size\ntrain.optimizer = @adam()\nhead/stage.length = (3, 'steps')\n"
    )
    found = board.hyperparameters(config + "train.deterministic = True\nbackbone = 'convnet'\ntrain.ema = None\n")
    assert found == {
        "batch_size": 8, "train.optimizer": "@adam()", "train.deterministic": True, "backbone": "convnet",
    }  # fmt: skip
