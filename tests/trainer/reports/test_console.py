"""What a person sees: a live block in a terminal (see also `test_live.py`), and few plain lines elsewhere."""

import os
import re
import sys

import numpy as np
import pytest

from trainer import metrics
from trainer.models.backbones import BACKBONES
from trainer.reports import console as module
from trainer.reports import live
from trainer.reports.console import Console


def evaluation(console, figures, confusion, names):
    right = np.diagonal(confusion)
    errors = {"false_positives": confusion.sum(axis=0) - right, "false_negatives": confusion.sum(axis=1) - right}
    totals = {"confusion": confusion, "true_positives": right, **errors}
    per_output = metrics.per_output(totals, task="single_label")
    console.evaluation("test", figures, per_output=per_output, names=names, confusion=confusion)


def train_event(step, *, loss=0.5, speed=100.0):
    return {
        "step": step, "epoch": step / 10, "loss": loss, "images_per_second": speed, "learning_rate": 1e-3,
        "data_wait": 0.25,
    }  # fmt: skip


class TestElsewhereThanInATerminal:
    def test_progress_is_a_line_now_and_then_and_one_at_the_end(self, capsys, monkeypatch):
        now = [1000.0]
        monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
        console = Console()
        for step in range(1, 101):
            console.train("head", train_event(step), steps=100, batch=8)
            now[0] += 0.5
        lines = capsys.readouterr().out.splitlines()
        # 50 seconds in which a line is due when more than 10 have gone by; and the last step.
        assert [re.match(r"head (\d+)/100", line)[1] for line in lines] == ["1", "22", "43", "64", "85", "100"]
        assert "\x1b" not in "".join(lines)

    def test_a_line_tells_loss_speed_rate_wait_and_time_left(self, capsys, monkeypatch):
        monkeypatch.setattr(module, "PLAIN_SECONDS", -1.0)
        console = Console()
        # The first window is compiled as well: nobody knows how fast the next one is.
        console.train("head", train_event(20, loss=2.0, speed=1.0), steps=1000, batch=50)
        assert "left" not in capsys.readouterr().out
        console.train("head", train_event(40, loss=2.0), steps=1000, batch=50)
        line = capsys.readouterr().out
        # 960 steps of 50 images at 100 a second.
        for part in ("epoch 4.00", "loss 2.000 (mean 2.000)", "100 img/s", "lr 1.0e-03", "wait 25 %", "left 8:00"):
            assert part in line

    def test_loss_is_shown_with_a_running_mean_that_a_nan_does_not_spoil(self, capsys):
        console = Console()
        for step, loss in enumerate((1.0, 2.0, float("nan")), start=1):
            console.train("all", train_event(step, loss=loss), steps=3, batch=1)
        assert "loss nan (mean 1.050)" in capsys.readouterr().out

    def test_long_lines_are_not_broken(self, capsys):
        Console().say("x" * 500 + " [bold] " + "y" * 500)
        assert capsys.readouterr().out == "x" * 500 + " [bold] " + "y" * 500 + "\n"

    def test_names_that_are_no_text_are_escaped(self, capsys):
        console = Console()
        console.say("photos/\udcff.jpg")
        console.header([("data", "photos/\udcff")])
        evaluation(console, {"loss": 1.0}, np.eye(2, dtype=int), ["[old] cat", "\udcff"])
        out = capsys.readouterr().out
        assert out.count("\\xff") == 2 + 3 and out.count(" [old] cat ") == 3

    def test_what_takes_its_time_counts_to_its_end_and_what_does_not_says_nothing(self, capsys, monkeypatch):
        now = [1000.0]
        monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
        console = Console()
        console.say("first")
        console._said = now[0]
        report = console.count("evaluating test", 30)
        for done in range(31):
            report(done)
        assert capsys.readouterr().out == "first\n"
        report = console.count("decoding", 30)
        for done in range(31):
            report(done)
            now[0] += 1.0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "decoding 11/30  left 0:19" and lines[-1] == "decoding 30/30" and len(lines) == 3

    def test_quiet_prints_warnings_and_results_only(self, capsys, tmp_path):
        console = Console(quiet=True)
        console.header([("data", "photos")])
        console.say("a note")
        console.count("decoding", 1)(1)
        console.train("head", train_event(1), steps=1, batch=1)
        console.evaluated({"step": 1, "split": "test", "loss": 1.0, "examples": 3})
        assert not capsys.readouterr().out
        console.say("take care", style="yellow")
        console.results(SUMMARY, tmp_path, commands=[("python more.py", "more")])
        console.stopped("SIGTERM", "step 3 of 9, saved")
        out = capsys.readouterr().out
        assert "take care" in out and "9 steps" in out and "SIGTERM: stopped at step 3 of 9, saved." in out
        assert "more.py" not in out

    def test_what_went_wrong_in_training_is_told_with_its_figures(self, capsys):
        console = Console()
        console.skipped({"step": 4, "reason": "not finite", "loss": 2.0, "loss_scale": 8.0})
        event = {"from": 7, "reason": "spike", "loss": 90.0, "positions": [8, 16], "number": 1}
        console.rolled_back(event, step=2, tries=3, suspects="; all")
        assert capsys.readouterr().out.splitlines() == [
            "step 4 changed nothing: not finite (loss 2, loss scale 8)",
            "step 7: spike (loss 90); back to step 2, and on without the positions 8 to 15: roll-back 1 of 3; all",
        ]

    def test_whoever_prints_is_told_that_nobody_reads(self, monkeypatch):
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "w") as stream:
            monkeypatch.setattr(sys, "stdout", stream)
            with pytest.raises(BrokenPipeError):
                Console().say("hello")
            monkeypatch.undo()
            # What is left in its buffer has nowhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), writer)


class TestInATerminal:
    @pytest.fixture(autouse=True)
    def terminal(self, monkeypatch):
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", "80")

    def test_progress_is_a_block_that_is_taken_away_in_the_end(self, capsys):
        console = Console()
        for step in range(1, 101):
            console.train("head", train_event(step), steps=100, batch=8)
        console.say("in between")
        console.close()
        console.close()
        out = capsys.readouterr().out
        assert "in between" in out and "100/100" in out and "100 %" in out
        assert out.count("\n") < 100, "lines of its own for every step would be a flood"
        assert "\x1b[2K" in out, "the block is erased"

    def test_an_error_finds_no_block_on_the_terminal(self, capsys):
        with pytest.raises(ZeroDivisionError), live.taken_away():
            Console().train("head", train_event(100), steps=100, batch=8)
            assert "\x1b[2K" not in capsys.readouterr().out
            raise ZeroDivisionError
        assert "\x1b[2K" in capsys.readouterr().out

    def test_a_header_keeps_long_values_beside_their_names(self, capsys):
        Console().header([("data", "x" * 100), ("model", "y")])
        lines = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()
        assert [line.rstrip() for line in lines] == [f"data   {'x' * 73}", f"       {'x' * 27}", "model  y"]

    def test_what_is_prepared_is_shown_without_a_count(self, capsys):
        console = Console()
        console.preparing("head: the first steps are compiled")
        console.close()
        assert "head: the first steps are compiled" in capsys.readouterr().out

    def test_a_terminal_that_can_do_nothing_gets_plain_lines(self, capsys, monkeypatch):
        monkeypatch.setenv("TERM", "dumb")
        console = Console()
        console.train("head", train_event(100), steps=100, batch=8)
        console.close()
        assert capsys.readouterr().out.startswith("head 100/100  epoch 10.00  loss 0.500")


SUMMARY = {
    "steps": 9, "epochs": 1.64, "images_per_second": 120.4, "seconds": 3725.0,
    "final": {"test": {"loss": 0.1234, "accuracy": 0.5, "top5_accuracy": 1.0, "examples": 11}},
    "best": {"split": "validation", "metric": "accuracy", "value": 0.6, "step": 6},
}  # fmt: skip


def test_results_are_a_table_of_splits_with_the_way_to_the_folder(capsys, tmp_path):
    Console().results(SUMMARY, tmp_path, commands=[("python more.py", "more")])
    out = capsys.readouterr().out
    for part in ("9 steps, 1.6 epochs in 1:02:05, 120 images/s", "test", "11", "0.5000", "1.0000", "0.1234"):
        assert part in out
    assert "best validation accuracy: 0.6000 at step 6" in out and f"workdir: {tmp_path}" in out
    assert out.endswith("next:\n  python more.py  more\n")
    Console().results(SUMMARY | {"best": {}, "final": {}}, tmp_path)
    assert "best" not in capsys.readouterr().out


def test_an_evaluation_shows_recall_and_precision_by_class(capsys):
    confusion = np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    evaluation(Console(), {"accuracy": 7 / 8, "examples": 8}, confusion, ["cat", "dog", "emu"])
    out = capsys.readouterr().out
    rows = {
        name: re.search(rf"│ {name} +│ (\S+) +│ (\S+) +│ (\S+) +│ (\S+) +│\n", out).groups()
        for name in ("cat", "dog", "emu")
    }
    assert rows == {
        "cat": ("4", "0.7500", "1.0000", "0.8571"), "dog": ("4", "1.0000", "0.8000", "0.8889"),
        "emu": ("0", "-", "-", "-"),
    }  # fmt: skip
    assert "accuracy 0.8750" in out and "confusion matrix" in out


def test_a_confusion_matrix_that_does_not_fit_is_not_shown(capsys):
    evaluation(Console(), {"accuracy": 1.0}, np.eye(13, dtype=int), [f"class{n}" for n in range(13)])
    out = capsys.readouterr().out
    assert "class12" in out and "confusion matrix" not in out


def test_every_backbone_has_a_row_with_its_size_parameters_and_blocks(capsys):
    Console().backbones(BACKBONES.values())
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    rows = {row[0]: row[1:] for row in rows if row}
    assert rows.keys() == BACKBONES.keys()
    assert rows["resnet50"] == ["224", "23,587,712", "17", "yes"] and rows["convnet"][-1] == "no"
