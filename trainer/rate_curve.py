"""What the losses at rising learning rates say: where they fall fastest, and where they blow up.

Smith 2017, "Cyclical learning rates for training neural networks". The curve is smoothed symmetrically, so that it does
not lag behind the rates.
"""

import dataclasses
import io
import math

import numpy as np
from scipy.ndimage import gaussian_filter1d

from data.errors import UserError

# Standard deviation of the Gaussian that smooths, as a share of all steps.
SMOOTHING = 0.04
# The loss has to fall below this share of its first value, or else the curve says nothing.
FALLS = 0.98
# How far below the rate of the blow-up one stays.
MARGIN = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """Losses of M steps.

    Attributes:
        rates: [M] float64, rising.
        losses: [M] float64, of single batches; may be NaN or infinite.
        smoothed: [M] float64, the same without noise and without what is above twice the first losses; NaN from the
            first loss on that is not finite.
        steepest: rate at which the loss falls fastest; None if it hardly falls.
        blow_up: lowest rate above that of the lowest loss at which the loss is back at its first value, or not finite;
            None where that was not reached.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    steepest: float | None
    blow_up: float | None

    @property
    def suggested(self) -> float | None:
        """The lower one of the steepest rate and a tenth of the blow-up, in two digits; None as `steepest` is."""
        if self.steepest is None:
            return None
        found = min(self.steepest, math.inf if self.blow_up is None else self.blow_up / MARGIN)
        return float(f"{found:.1e}")

    def facts(self) -> dict:
        """Ready for JSON, with null for what is not finite."""
        columns = {name: _finite(getattr(self, name)) for name in ("rates", "losses", "smoothed")}
        return {"suggested": self.suggested, "steepest": self.steepest, "blow_up": self.blow_up, **columns}


def _finite(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def curve(rates: np.ndarray, losses: np.ndarray) -> Curve:
    """The curve of losses [M] at rates [M].

    Raises:
        UserError: not even the first losses are finite.
    """
    finite = np.isfinite(losses)
    good = len(losses) if finite.all() else int(np.argmin(finite))
    if good < 2:
        raise UserError(
            f"the loss is {losses[good]} at the learning rate {rates[good]:.1e}, step {good + 1}",
            where="--lowest",
            expected="a few steps that end in numbers",
            do="begin with a lower rate, or correct images and labels",
        )
    # What has blown up would lift the curve long before it.
    ceiling = 2 * np.median(losses[: max(1, good // 10)])
    # At its ends the curve goes on as it stands.
    seen = gaussian_filter1d(losses[:good].clip(max=ceiling), max(1.0, SMOOTHING * len(losses)), mode="nearest")
    lowest = int(seen.argmin())
    back = np.flatnonzero(seen[lowest:] > seen[0])
    ends = [lowest + int(back[0])] if back.size else [good] if good < len(losses) else []
    falls = lowest > 0 and seen[lowest] < FALLS * seen[0]
    return Curve(
        rates=rates,
        losses=losses,
        smoothed=np.concatenate([seen, np.full(len(losses) - good, np.nan)]),
        steepest=float(rates[np.gradient(seen[: lowest + 1]).argmin()]) if falls else None,
        blow_up=float(rates[ends[0]]) if ends else None,
    )


def plot(found: Curve, *, title: str) -> bytes:
    """The curve as a PNG, 1200 x 750 pixels."""
    # Importing it takes half a second that other commands need not wait for.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="learning rate", ylabel="training loss", title=title)
    axes.plot(found.rates, found.losses, ".", color="0.7", markersize=4, label="a batch")
    axes.plot(found.rates, found.smoothed, color="C0", label="smoothed")
    for rate, name, colour in (
        (found.steepest, "falls fastest", "C2"),
        (found.blow_up, "blows up", "C3"),
        (found.suggested, "suggested", "C1"),
    ):
        if rate is not None:
            axes.axvline(rate, color=colour, linestyle="--", label=f"{name}: {rate:.1e}")
    known = found.smoothed[np.isfinite(found.smoothed)]
    # What blows up would press all else flat.
    span = max(known[0] - known.min(), 0.05 * abs(known[0]), 1e-6)
    axes.set_ylim(known.min() - 0.3 * span, known[0] + span)
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()
