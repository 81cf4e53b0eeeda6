"""What losses at rising learning rates say."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from trainer.rate_curve import MARGIN, curve, plot

RATES = np.geomspace(1e-6, 10, 141)
# By decades: level, a fall that is steepest at 1e-3, level to 1e-1, then steeply up; back at its first value at 0.3.
DECADES = np.log10(RATES)
IDEAL = (
    2 - 1 / (1 + np.exp(-4 * (DECADES + 3))) + 1e-3 * np.exp(np.maximum(DECADES + 1, 0) * np.log(1000) / np.log10(3))
)


def within(found, expected, *, factor=1.6):
    assert expected / factor < found < expected * factor


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_the_rates_of_the_steepest_fall_and_of_the_blow_up_are_found_without_lag(noise):
    found = curve(RATES, IDEAL + np.random.default_rng(0).normal(0, noise, len(RATES)))
    within(found.steepest, 1e-3)
    within(found.blow_up, 10 ** DECADES[np.flatnonzero((IDEAL > 2) & (DECADES > -1))[0]], factor=2)
    within(found.suggested, 1e-3)


def test_the_lower_one_of_the_two_is_suggested_in_two_digits():
    # Steep until right before the loss blows up.
    losses = np.where(DECADES < -1, 2 - np.maximum(DECADES + 3, 0) ** 2 / 4, 5.0)
    found = curve(RATES, losses)
    assert found.steepest > found.blow_up / MARGIN
    assert found.suggested == float(f"{found.blow_up / MARGIN:.1e}")


def test_a_loss_that_is_not_finite_has_blown_up_and_leaves_what_was_before():
    losses = IDEAL.copy()
    losses[100:] = np.nan
    found = curve(RATES, losses)
    assert found.blow_up == RATES[100]
    within(found.steepest, 1e-3)
    assert np.isnan(found.smoothed[100:]).all() and np.isfinite(found.smoothed[:100]).all()
    facts = found.facts()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts and facts["losses"][100] is None


@pytest.mark.parametrize("losses", [np.ones(141), np.linspace(1, 3, 141)], ids=["level", "rising"])
def test_nothing_is_suggested_where_the_loss_hardly_falls(losses):
    found = curve(RATES, losses)
    assert found.steepest is None and found.suggested is None


def test_a_loss_that_did_not_blow_up_is_said_to_have_not():
    found = curve(RATES[:90], IDEAL[:90])
    assert found.blow_up is None
    within(found.suggested, 1e-3)


def test_losses_that_are_nothing_from_the_beginning_are_refused(complaint):
    with complaint("nan", "1.0e-06", "--lowest"):
        curve(RATES, np.full(141, np.nan))


@pytest.mark.parametrize("losses", [IDEAL, np.zeros(141)], ids=["usual", "nothing"])
def test_the_plot_is_a_picture(losses):
    picture = Image.open(io.BytesIO(plot(curve(RATES, losses), title="a title")))
    assert picture.format == "PNG" and picture.size == (1200, 750)
