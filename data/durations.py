"""Lengths in steps, epochs or examples, written `(3, 'epochs')` so that gin macros fit in, or `'3 epochs'`."""

import math

from data.errors import UserError

UNITS = ("steps", "epochs", "examples")
Duration = tuple[float, str] | list | str


def steps(duration: Duration, *, examples: int, batch: int, where: str) -> int:
    """Converts a duration into whole steps, rounded up.

    Args:
        examples: size of the training set.
        batch: global batch.
        where: gin binding the duration comes from, for the message.

    Raises:
        UserError: not a non-negative number and a unit.
    """
    parts = duration.split() if isinstance(duration, str) else duration
    try:
        amount, unit = parts
        amount = float(amount)
        unit = unit if unit in UNITS else f"{unit}s"
        if not (0 <= amount < math.inf and unit in UNITS):
            raise ValueError
    except (TypeError, ValueError):
        raise UserError(
            f"{duration!r} is no duration",
            where=f"gin binding {where}",
            expected="a number and one of steps, epochs, examples",
            do="for example (3, 'epochs') or '500 steps'",
        ) from None
    exact = amount * {"steps": batch, "epochs": examples, "examples": 1}[unit] / batch
    # Without the tolerance 0.07 epochs of 100 examples at batch 7 come out as 2 steps.
    return math.ceil(exact * (1 - 1e-12))
