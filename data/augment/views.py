"""Test-time augmentation: several views of each image, whose predictions are averaged."""

import dataclasses
from collections.abc import Sequence

import gin
import numpy as np

from data.augment.geometry import check_switch
from data.augment.operation import Size, check_number
from data.errors import UserError

# Rows of a matrix [3][3] on (x, y, 1), where x and y run from -1 to 1 between the edges of the image.
Rows = tuple[tuple[float, float, float], ...]


def _rows(matrix: np.ndarray) -> Rows:
    # No -0.0.
    return tuple(tuple(map(float, row)) for row in matrix + 0.0)


def _scaled(scale: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    return np.array([[scale, 0, x], [0, scale, y], [0, 0, 1]], float)


IDENTITY = np.eye(3)
MIRROR = np.diag([-1.0, 1.0, 1.0])
# 90 degrees clockwise as one sees it.
QUARTER = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])


@dataclasses.dataclass(frozen=True)
class Views:
    """V views of every image; by default only the image as evaluation sees it.

    Attributes:
        relative: of each view the affine matrix, point of the view -> point of the image, both with x and y from -1
            to 1 between their edges.
    """

    relative: tuple[Rows, ...] = (_rows(IDENTITY),)

    def __len__(self) -> int:
        return len(self.relative)

    def matrices(self, size: Size) -> np.ndarray:
        """[V, 3, 3] float64, pixel of a view -> pixel of the plain image.

        Args:
            size: height and width of both.
        """
        height, width = size
        units = np.array([width / 2, height / 2, 1])
        centre = np.array([[0, 0, (width - 1) / 2], [0, 0, (height - 1) / 2], [0, 0, 0]])
        about_centre = np.array(self.relative) * (units[:, None] / units)
        return (IDENTITY + centre) @ about_centre @ (IDENTITY - centre)


@gin.configurable
def views(*, flip: bool = True, scales: Sequence[float] = (1.0,), turns: bool = False) -> Views:
    """Every combination of scales, turns and mirror images; the plain image first if the first scale is 1.

    Args:
        flip: each also mirrored, left and right swapped.
        scales: how much is seen of height and width, in 0.1..10: below 1 the centre enlarged; above 1 more than the
            plain image, as far as the recipe's crop has left any, then its fill.
        turns: each also turned by 90, 180 and 270 degrees; an oblong image is stretched to fill, see `quarter_turn`.

    Raises:
        UserError: no switch, or no such scales.
    """
    check_switch("views.flip", flip)
    check_switch("views.turns", turns)
    if not isinstance(scales, list | tuple) or not scales:
        raise UserError(
            f"scales = {scales!r}", where="gin binding views.scales", expected="numbers", do="views.scales = (1.0, 0.8)"
        )
    for scale in scales:
        check_number("scales", scale, where="gin binding views.scales", low=0.1, high=10)
    return Views(
        tuple(
            _rows(_scaled(scale) @ np.linalg.matrix_power(QUARTER, turn) @ mirror)
            for scale in scales
            for turn in (range(4) if turns else [0])
            for mirror in ([IDENTITY, MIRROR] if flip else [IDENTITY])
        )
    )


@gin.configurable
def five_crop(*, share: float = 0.875, flip: bool = False) -> Views:
    """The four corners (upper left, upper right, lower left, lower right) and the centre, each over the whole output.

    Args:
        share: of height and width that each shows, in 0.1..1.
        flip: each also mirrored, which makes ten.

    Raises:
        UserError: no such share, or no switch.
    """
    check_number("share", share, where="gin binding five_crop.share", low=0.1, high=1)
    check_switch("five_crop.flip", flip)
    places = [(-1, -1), (1, -1), (-1, 1), (1, 1), (0, 0)]
    return Views(
        tuple(
            _rows(_scaled(share, x * (1 - share), y * (1 - share)) @ mirror)
            for x, y in places
            for mirror in ([IDENTITY, MIRROR] if flip else [IDENTITY])
        )
    )
