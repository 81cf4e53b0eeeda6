"""A session on two replicas: stopped and gone on with, it ends in the same bits, random layers and all."""

import pytest

from tests.trainer.test_session import DETERMINISTIC, assert_same_run, stop_at
from trainer.launch import STOPPED

pytestmark = pytest.mark.usefixtures("no_page")

# A head with much dropout trains by itself; gradients are added up in packs.
BINDINGS = (
    DETERMINISTIC, "train.stages = [@head/stage()]", "head/stage.length = (4, 'steps')", "model.head = @linear()",
    "linear.dropout = 0.5", "train.reduction_bytes = 100",
)  # fmt: skip


def test_stopped_and_gone_on_with_on_two_replicas_it_ends_in_the_same_bits(
    tmp_path, open_session, events, monkeypatch, capsys
):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert open_session(straight, *BINDINGS, devices="cpu:2").run() == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "gradients by ReductionToOneDevice, packs of 100 bytes" in told
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        assert open_session(stopped, *BINDINGS, devices="cpu:2").run() == STOPPED
    # How gradients are packed may change: it changes no bit.
    again = open_session(stopped, *BINDINGS[:-1], devices="cpu:2")
    assert again.run() == 0
    assert_same_run(straight, stopped, events, kinds=("train", "eval"))
    told = " ".join(capsys.readouterr().out.split())
    assert "reduction: ReductionToOneDevice, packs of 100 bytes -> ReductionToOneDevice" in told
