"""TensorBoard, asked by its own reader, shows the figures of metrics.jsonl and what belongs to them."""

import io

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import STORE_EVERYTHING_SIZE_GUIDANCE, EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util import tensor_util

from trainer.reports import tensorboard
from trainer.reports.log import MetricsLog
from trainer.reports.tensorboard import EventFiles

WINDOW = 5


def read(folder):
    found = EventAccumulator(str(folder), size_guidance=STORE_EVERYTHING_SIZE_GUIDANCE)
    found.Reload()
    return found


def curve(folder, tag="loss"):
    return [(point.step, pytest.approx(point.value)) for point in read(folder).Scalars(tag)]


def pictures(folder, tag):
    """Step -> the pictures, as arrays."""
    events = read(folder).Tensors(tag)
    strings = {event.step: tensor_util.make_ndarray(event.tensor_proto) for event in events}
    return {step: [np.asarray(Image.open(io.BytesIO(png))) for png in found[2:]] for step, found in strings.items()}


def train(step):
    return {"event": "train", "step": step, "epoch": step / 8, "loss": 1 / step, "images_per_second": 50.0}


def evaluation(step, split="validation", **more):
    return {"event": "eval", "step": step, "split": split, "loss": 2 / step, "accuracy": 0.5, "auc": None, **more}


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """`begin(step)`: the log and the files of a session that starts at this step, as each start makes them."""
    monkeypatch.setattr(tensorboard, "EVERY", -1.0)

    def start(step=0):
        log = MetricsLog(tmp_path / "metrics.jsonl")
        log.cut(step)
        files = EventFiles(tmp_path / "tensorboard", log, step=step, window=WINDOW, batch=8)
        log.followed_by(files.take)
        return log, files

    return start


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "tensorboard"


def windows(log, first, last):
    for start in range(first, last, WINDOW):
        log.append([train(step) for step in range(start + 1, start + WINDOW + 1)])


def test_figures_of_training_are_a_point_for_each_window_and_of_evaluations_one_each(begin, folder):
    log, _ = begin()
    windows(log, 0, 20)
    log.append([evaluation(10), evaluation(10, "test")])
    log.append([{"event": "checkpoint", "step": 20, "seconds": 1.0}])
    assert curve(folder / "train") == [(step, 1 / step) for step in (5, 10, 15, 20)]
    assert curve(folder / "train", "images_per_second")[0] == (5, 50.0)
    assert curve(folder / "validation") == [(10, 0.2)] == curve(folder / "test")
    assert set(read(folder / "validation").Tags()["scalars"]) == {"loss", "accuracy"}


def test_both_kinds_of_weights_have_curves_of_their_own(begin, folder):
    log, _ = begin()
    log.append([evaluation(10, weights="raw")])
    log.append([evaluation(10, weights="ema")])
    assert curve(folder / "validation-raw") == curve(folder / "validation-ema") == [(10, 0.2)]
    assert tensorboard.run_of("validation", "ema") == "validation-ema"
    assert "/" not in tensorboard.run_of("../elsewhere", None)


def test_a_session_that_goes_on_has_the_curves_of_its_log_and_nothing_of_later_steps(begin, folder):
    log, files = begin()
    windows(log, 0, 20)
    log.append([evaluation(10), evaluation(20)])
    files.images("picture", np.full((2, 4, 6, 3), 7, np.uint8), step=10)
    files.images("picture", np.full((2, 4, 6, 3), 9, np.uint8), step=20)
    # Killed: nothing is closed. It goes on from step 15.
    log, _ = begin(15)
    assert curve(folder / "train") == [(step, 1 / step) for step in (5, 10, 15)]
    assert curve(folder / "validation") == [(10, 0.2)]
    shown = pictures(folder, "picture")
    assert shown.keys() == {10} and len(shown[10]) == 2 and (shown[10][1] == 7).all()
    assert shown[10][0].shape == (4, 6, 3)
    windows(log, 15, 25)
    assert [step for step, _ in curve(folder / "train")] == [5, 10, 15, 20, 25]
    # The same number of files however often it starts.
    assert len(list(folder.rglob("*tfevents*"))) == 3


def test_figures_that_were_lost_are_there_again(begin, folder):
    log, files = begin()
    windows(log, 0, 10)
    files.close()
    for path in folder.rglob("*tfevents*"):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    (folder / "train" / "events.out.tfevents.0.torn").write_bytes(b"no event file")
    (folder / "events.out.tfevents.0.empty").touch()
    begin(10)
    assert curve(folder / "train") == [(5, 0.2), (10, 0.1)]


def test_points_that_are_made_again_are_so_many_at_most(begin, folder, monkeypatch):
    log, _ = begin()
    windows(log, 0, 200)
    monkeypatch.setattr(tensorboard, "POINTS", 10)
    begin(200)
    assert [step for step, _ in curve(folder / "train")] == list(range(20, 201, 20))


def test_windows_that_come_fast_wait_for_the_next_point_and_the_last_one_is_shown(begin, folder, monkeypatch):
    log, files = begin()
    monkeypatch.setattr(tensorboard, "EVERY", 1000.0)
    windows(log, 0, 20)
    files.close()
    assert [step for step, _ in curve(folder / "train")] == [5, 20]


def test_a_roll_back_takes_the_later_points_away(begin, folder):
    log, files = begin()
    windows(log, 0, 20)
    log.cut(10)
    files.cut(10)
    windows(log, 10, 15)
    assert [step for step, _ in curve(folder / "train")] == [5, 10, 15]


def test_texts_histograms_and_hyperparameters_are_there(begin, folder):
    _, files = begin()
    files.text("config", "    train.seed = 3", step=0)
    files.histograms({"head/kernel": lambda: np.float32([1, 2, 2, 3])}, step=5)
    files.hyperparameters({"learning_rate": 0.1, "backbone": "lite0"}, figures=[("validation", "accuracy")])
    files.done()
    found = read(folder)
    assert b"train.seed = 3" in tensor_util.make_ndarray(found.Tensors("config")[0].tensor_proto).item()
    buckets = tensor_util.make_ndarray(found.Tensors("weights/head/kernel")[0].tensor_proto)
    assert buckets[:, 2].sum() == 4 and buckets[0, 0] == 1 and buckets[-1, 1] == 3
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    values = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert values["learning_rate"].number_value == 0.1 and values["backbone"].string_value == "lite0"
    content = found.SummaryMetadata("_hparams_/experiment").plugin_data.content
    (metric,) = plugin_data_pb2.HParamsPluginData.FromString(content).experiment.metric_infos
    assert (metric.name.group, metric.name.tag) == ("validation", "accuracy")
    assert "_hparams_/session_end_info" in found.Tags()["tensors"]


def test_without_the_package_it_is_left_out_unless_it_was_asked_for(monkeypatch, complaint):
    assert tensorboard.wanted("auto") == tensorboard.TensorBoard() and tensorboard.wanted(None) is None
    monkeypatch.setattr(tensorboard.importlib.util, "find_spec", lambda name: None)
    assert tensorboard.wanted("auto") is None
    with complaint("tensorboard is not installed", "pip install"):
        tensorboard.wanted(tensorboard.tensorboard(images=2))


@pytest.mark.parametrize("wrong", [{"images": -1}, {"images": True}, {"histograms": 1}, {"profile": 2.0}])
def test_a_wrong_setting_is_named(wrong, complaint):
    with complaint(f"tensorboard.{next(iter(wrong))}"):
        tensorboard.tensorboard(**wrong)
