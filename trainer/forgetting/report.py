"""What a network has lost and gained, and how far its weights have moved."""

from collections.abc import Mapping, Sequence

import numpy as np


def old_classes(class_names: Sequence[str], known: Sequence[str]) -> list[int]:
    """Those of the classes that were known before."""
    return [index for index, name in enumerate(class_names) if name in set(known)]


def figures(totals: Mapping[str, np.ndarray], old: Sequence[int]) -> dict[str, float]:
    """Shares of the examples of old and of new classes that are recognised among all classes.

    Args:
        totals: of an evaluation, see `trainer.metrics`; of a task that has a confusion matrix.
        old: classes that were known before.

    Returns:
        `old_accuracy` and `new_accuracy` in 0..1, each only where there are such examples. Weights do not count.
    """
    if "confusion" not in totals or not len(old):
        return {}
    right, count = np.diagonal(totals["confusion"]), totals["confusion"].sum(axis=1)
    known = np.isin(np.arange(len(count)), old)
    return {
        f"{name}_accuracy": float(right[which].sum() / count[which].sum())
        for name, which in (("old", known), ("new", ~known))
        if count[which].any()
    }


def before_and_after(evaluations: Sequence[dict], *, last: int) -> dict:
    """`forgetting` of `summary.json`, out of the `eval` events of a run of `last` steps.

    Returns:
        {"split": name, "old": {"before": accuracy, "after": accuracy}, "new": likewise}, of the last split that was
        evaluated before the first step and after the last one; empty where there is none.
    """
    at = {step: {event["split"]: event for event in evaluations if event["step"] == step} for step in (0, last)}
    split = next((name for name in ("test", "validation") if name in at[0] and name in at[last]), None)
    if split is None:
        return {}
    before, after = at[0][split], at[last][split]
    return {"split": split} | {
        name: {"before": before[figure], "after": after[figure]}
        for name, figure in (("old", "old_accuracy"), ("new", "new_accuracy"))
        if figure in before and figure in after
    }


def drift(before: Mapping[str, np.ndarray], now: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """How far each layer has moved: |now - before| / |before|, norms over all numbers of its variables, in float64.

    Args:
        before, now: `PART/LAYER/VARIABLE` -> array of any shape. Integers (states of random numbers) do not count.

    Returns:
        `PART/LAYER` -> distance in the order of `now`, moving statistics included; None where all numbers were 0 and
        are not any more.
    """
    sums: dict[str, np.ndarray] = {}
    for name, array in now.items():
        start = np.asarray(before[name])
        # bfloat16 is no kind of NumPy's own.
        if start.dtype.kind in "iub":
            continue
        start, end = start.astype(np.float64), np.asarray(array).astype(np.float64)
        layer = "/".join(name.split("/")[:2])
        sums[layer] = sums.get(layer, 0) + np.array([np.square(end - start).sum(), np.square(start).sum()])
    return {layer: _ratio(moved, size) for layer, (moved, size) in sums.items()}


def _ratio(moved: float, size: float) -> float | None:
    if size > 0:
        return float(np.sqrt(moved / size))
    return None if moved else 0.0
