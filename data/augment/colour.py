"""Linear colour operations as 3x4 matrices on (red, green, blue, 1) in 0..255."""

import numpy as np


def normalisation(*, mean: float | tuple[float, float, float], scale: float | tuple[float, float, float]) -> np.ndarray:
    """[3, 4] float32 matrix of (x - mean) / scale per channel."""
    mean, scale = np.broadcast_to(mean, 3), np.broadcast_to(scale, 3)
    return np.column_stack([np.diag(1 / scale), -mean / scale]).astype(np.float32)
