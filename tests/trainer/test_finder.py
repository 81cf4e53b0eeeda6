"""scripts/find.py tries learning rates on a copy of the network."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from absl import flags
from PIL import Image

from scripts import find
from trainer import checkpoints

USUAL = {
    "workdir": None, "gin_file": [], "gin_param": [], "devices": "cpu", "init_from": None, "checkpoint": "last",
    "stage": None, "steps": 20, "lowest": 1e-5, "highest": 1e3, "is_parsed": lambda: False,
}  # fmt: skip


@pytest.fixture
def run(monkeypatch, tmp_path):
    """`run(workdir=...)`: rate.json as scripts/find.py writes it."""

    def start(**given):
        output = tmp_path / "new" / "find"
        monkeypatch.setattr(flags, "FLAGS", SimpleNamespace(**(USUAL | {"output": str(output)} | given)))
        assert find.main() == 0
        assert {path.name for path in output.iterdir()} == {"rate.json", "rate.png"}
        assert Image.open(output / "rate.png").size == (1200, 750)
        return json.loads((output / "rate.json").read_text())

    return start


def test_a_new_network_is_tried_with_rates_up_to_where_its_loss_blows_up(run, small, capsys):
    # Without bounds on what an update does, unlike Adam.
    facts = run(gin_file=[small], gin_param=["train.optimizer = @sgd()"], highest=1e12)
    rates, losses = np.array(facts["rates"]), np.array(facts["losses"], float)
    np.testing.assert_allclose(rates[1:] / rates[:-1], 1e17 ** (1 / 19), rtol=1e-9)
    assert rates[0] == pytest.approx(1e-5) and len(rates) == len(losses) < 20
    # Four classes, and an untrained head.
    assert losses[0] == pytest.approx(np.log(4), abs=0.7)
    assert facts["blow_up"] in rates
    assert f"blows up at {facts['blow_up']:.1e}" in capsys.readouterr().out


def test_a_session_lends_its_weights_and_stays_as_it_is(run, finished, content, monkeypatch):
    before, restored = content(finished), []
    restore_group = checkpoints.restore_group

    def watched(prefix, group, named):
        restored.append((prefix.parent, group))
        restore_group(prefix, group, named)

    monkeypatch.setattr(checkpoints, "restore_group", watched)
    facts = run(workdir=str(finished), stage="all", steps=10)
    assert content(finished) == before
    assert restored == [(finished / "checkpoints", "model")]
    assert "stage all" in facts["title"] and len(facts["rates"]) <= 10


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"lowest": 0.0}, ["--lowest=0"]),
        ({"lowest": 2.0, "highest": 1.0}, ["--lowest=2 --highest=1"]),
        ({"workdir": "a", "init_from": "b"}, ["--init_from"]),
        ({"output": None}, ["--output"]),
    ],
)
def test_what_cannot_be_tried_is_refused(monkeypatch, complaint, tmp_path, given, told):
    monkeypatch.setattr(flags, "FLAGS", SimpleNamespace(**(USUAL | {"output": str(tmp_path)} | given)))
    with complaint(*told):
        find.main()
