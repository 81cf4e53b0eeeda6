"""A batch in parts, on replicas or both, gives the update of the whole batch, whatever acts on its gradient."""

import numpy as np
import pytest

from tests.trainer import tiny
from trainer.optimization import optimizers
from trainer.optimization.clipping import Clipping

STEPS, BATCH, RATE = 10, 32, 0.05
BATCHES = tiny.material(STEPS, BATCH)
# Parts of very different weight, and pairs of mixed examples.
BATCHES["weight"] = (np.arange(STEPS * BATCH) % 7 / 3).astype(np.float32).reshape(STEPS, BATCH)
BATCHES["share"] = np.repeat(np.linspace(0.2, 1, STEPS * BATCH // 2, dtype=np.float32), 2).reshape(STEPS, BATCH)
UNITS = {"conv/kernel": (0, 1, 2), "conv/bias": (0,), "hidden/kernel": (0,), "hidden/bias": (0,)}
BOUNDS = {
    "value": Clipping(value=0.02),
    "norm": Clipping(norm=0.1),
    "adaptive": Clipping(adaptive=0.05, units=UNITS),
}


def trained(replicas, parts, clipping):
    run = tiny.Run(
        optimizers.sgd(weight_decay=0.1), replicas=replicas, accumulation=parts, clipping=clipping, ema=0.7,
        make=lambda: tiny.network(l2=0.01), length=STEPS,
    )  # fmt: skip
    return run, run.train(BATCHES, np.full(STEPS, RATE, np.float32))


@pytest.fixture(scope="module")
def whole():
    """Weights, averages and records of one replica that takes each batch in one."""
    found = {}
    for name, clipping in BOUNDS.items():
        run, records = trained(1, 1, clipping)
        found[name] = (run.weights(), run.averages(), records)
    return found


@pytest.mark.parametrize(("bound", "replicas", "parts"), [("value", 1, 4), ("norm", 2, 1), ("adaptive", 2, 2)])
def test_parts_and_replicas_come_to_the_update_of_the_whole_batch(whole, bound, replicas, parts):
    weights, averages, records = whole[bound]
    run, recorded = trained(replicas, parts, BOUNDS[bound])
    # Sums of 32 numbers below 1 in another order: 32 * 2**-24 of a gradient, times the rate, 10 times that with
    # momentum, in each step; and weights below 1 are rounded twice a step by 2**-25.
    rounding = STEPS * (32 * 2**-24 * RATE * 10 + 2 * 2**-25)
    for name, expected in weights.items():
        np.testing.assert_allclose(run.weights()[name], expected, rtol=0, atol=rounding)
        np.testing.assert_allclose(run.averages()[name], averages[name], rtol=0, atol=rounding)
    for name in ("loss", "accuracy", "gradient_norm"):
        np.testing.assert_allclose(recorded[name], records[name], rtol=64 * 2**-23)
    kernel, others = weights["hidden/kernel"], [found["hidden/kernel"] for found, _, _ in whole.values()]
    assert sorted(np.abs(kernel - other).max() > 1e-3 for other in others) == [False, True, True]
    assert np.abs(kernel - averages["hidden/kernel"]).max() > 10 * rounding
