"""A session that goes on with another number of replicas."""

import os
import signal
import time

import pytest

from trainer.launch import STOPPED
from trainer.proofs.comparison import Rounding, first_difference
from trainer.session import Session

pytestmark = pytest.mark.usefixtures("no_page")

# Nothing is drawn or normalised within a replica's share of the batch.
BINDINGS = (
    "train.stages = [@all/stage()]", "epochs = 2", "all/stage.batchnorm = 'frozen'", "train.optimizer = @sgd()",
    "model.features = 'block1_relu'", "train.deterministic = True", "split_by_hash.validation = 0.0",
    "split_by_hash.test = 0.0",
)  # fmt: skip
STEPS, BATCH = 15, 8


@pytest.fixture
def trained(open_session, tmp_path, monkeypatch):
    """`trained("name", ("cpu:1", 4), ("cpu:2", None))`: a workdir, trained on these devices up to these steps."""

    def train(name, *parts, bindings=()):
        original = Session._at_boundary
        for devices, stop in parts:

            def stopped(session, stop=stop):
                if session.step == stop and not session.stop.requested:
                    os.kill(os.getpid(), signal.SIGTERM)
                    while not session.stop.requested:  # by the thread that listens
                        time.sleep(0.001)
                original(session)

            monkeypatch.setattr(Session, "_at_boundary", stopped)
            session = open_session(tmp_path / name, *BINDINGS, *bindings, devices=devices)
            assert session.run() == (0 if stop is None else STOPPED)
        return tmp_path / name

    return train


def test_ends_in_the_same_weights_to_rounding_after_the_same_examples(trained, capsys):
    straight = trained("straight", ("cpu:1", None))
    changed = trained("changed", ("cpu:1", 2), ("cpu:2", 4), ("cpu:4", 8), ("cpu:1", None))
    rounding = Rounding(STEPS, terms=BATCH)
    assert first_difference(straight, changed, rounding=rounding) is None
    assert f"{STEPS} train events are equal to" in capsys.readouterr().out
    assert "apart" in first_difference(straight, changed), "sums in another order should differ in some bit"
