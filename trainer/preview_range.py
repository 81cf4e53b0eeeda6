"""Whether the numbers that reach the network are those that its weights were trained on."""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from data.augment.apply import Rendering, developed
from data.augment.slots import Matrix
from trainer import rendering
from trainer.preview_captions import said
from trainer.recipe import Recipe

# Levels by which black, white or a pure colour may miss what the backbone knows as that: a fifth of the range, as
# much as brightness is commonly changed by.
TOLERATED = 51.0
# Of the contrast of an image, at most and at least, where a normalisation goes by the image.
CONTRAST = 2.0
# What float32 leaves of the ends of the range.
ROUNDING = 0.01
# Black, blue, green, ... white, [8, 1, 3].
CORNERS = np.array([[red, green, blue] for red in (0, 255) for green in (0, 255) for blue in (0, 255)], float)[:, None]
# Every grey once, [256, 1, 3].
GREYS = np.repeat(np.arange(256.0), 3).reshape(-1, 1, 3)


class Spread:
    """Least, largest, mean and standard deviation of each channel, [3] float64, over all pixels of some images."""

    def __init__(self, images: Sequence[np.ndarray] = ()):
        self.low, self.high = np.full(3, np.inf), np.full(3, -np.inf)
        self._total, self._squares, self._count = np.zeros(3), np.zeros(3), 0
        for image in images:
            self.add(image)

    def add(self, image: np.ndarray) -> None:
        """One more, [H, W, 3]."""
        flat = np.asarray(image, np.float64).reshape(-1, 3)
        self.low, self.high = np.minimum(self.low, flat.min(axis=0)), np.maximum(self.high, flat.max(axis=0))
        self._total += flat.sum(axis=0)
        self._squares += (flat**2).sum(axis=0)
        self._count += len(flat)

    @property
    def mean(self) -> np.ndarray:
        """[3]."""
        return self._total / self._count

    @property
    def std(self) -> np.ndarray:
        """[3]."""
        return np.sqrt(np.maximum(self._squares / self._count - self.mean**2, 0))

    def figures(self) -> list[list[str]]:
        """Of each channel the four numbers in words."""
        return [[said(number) for number in row] for row in zip(self.low, self.high, self.mean, self.std, strict=True)]

    @property
    def width(self) -> float:
        """From the least to the largest value of all channels."""
        return float(self.high.max() - self.low.min())


def linear(image: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """[H, W, 3] in 0..255 by [3, 4] -> [H, W, 3] float64."""
    return image @ colour[:, :3].T.astype(np.float64) + colour[:, 3]


def misfit(recipe: Recipe, originals: Sequence[np.ndarray]) -> list[str]:
    """A sentence where train.normalisation shows pre-trained weights other pixels than they were trained on.

    What the recipe makes of black, white and the pure colours is taken back through the backbone's own normalisation:
    that is what the weights take them for. More than TOLERATED levels away is too far. A normalisation that is more
    than a matrix is judged by what it makes of the examples: their mean, and their contrast.

    Args:
        originals: [H, W, 3] in 0..255 each.
    """
    backbone, pretrained = recipe.model.backbone, recipe.model.pretrained
    if recipe.normalisation is None or pretrained is None or not backbone.knows_colour:
        return []
    policy, size = rendering.evaluation_policy(recipe), (recipe.image_size, recipe.image_size)
    arrays = policy.draw(tf.zeros([1], tf.int64), seed=recipe.seed, size=size).arrays
    steps = Rendering(size=size, program=policy.program)

    def taken_for(image: np.ndarray) -> np.ndarray:
        found = developed(tf.constant(image[None], tf.float32), arrays, steps).numpy()[0]
        return (found - backbone.colour[:, 3]) @ np.linalg.pinv(backbone.colour[:, :3].astype(np.float64)).T

    if all(isinstance(slot, Matrix) for slot in policy.program):
        wrong = _wrong_colours(taken_for(CORNERS))
    else:
        wrong = _wrong_images(Spread(originals), Spread([taken_for(image) for image in originals]))
    names = ", ".join(operation.name for operation in recipe.normalisation) or "none"
    unless = "" if pretrained == "imagenet" else f"; right only if {pretrained} was trained on such pixels"
    return [f"train.normalisation ({names}) does not fit {backbone.name}: {wrong}{unless}"] if wrong else []


def _wrong_colours(found: np.ndarray) -> str | None:
    """What is wrong where the corners of the cube of colours are taken for these."""
    if np.abs(found - CORNERS).max() <= TOLERATED:
        return None
    if np.abs(found - CORNERS[..., ::-1]).max() <= TOLERATED:
        return "red and blue have changed places"
    black, white = (listed(found[corner, 0]) for corner in (0, -1))
    return f"its weights take black for level {black} and white for level {white}, of 0 to 255"


def _wrong_images(before: Spread, after: Spread) -> str | None:
    ratio = after.std / np.maximum(before.std, 1)
    if np.abs(after.mean - before.mean).max() <= TOLERATED and 1 / CONTRAST <= ratio.min() <= ratio.max() <= CONTRAST:
        return None
    return (
        f"its weights take images of mean level {listed(before.mean)} for ones of mean {listed(after.mean)} with "
        f"{listed(ratio)} times the contrast"
    )


def listed(values: np.ndarray) -> str:
    """Of the three channels, one number where they are the same."""
    words = list(map(said, values.tolist()))
    return words[0] if len(set(words)) == 1 else ", ".join(words)


def out_of_range(drawn: Spread, originals: Spread, by_operation: Mapping[str, Spread]) -> list[str]:
    """Sentences where a policy leaves other pixels than 0..255 to the normalisation, or a small part of them.

    Args:
        drawn: pixels of the draws before the normalisation.
        originals: of the images without augmentation.
        by_operation: what each operation alone leaves.
    """
    found = []
    spreads = [drawn, *by_operation.values()]
    low, high = min(each.low.min() for each in spreads), max(each.high.max() for each in spreads)
    if low < -ROUNDING or high > 255 + ROUNDING:
        guilty = [
            name
            for name, each in by_operation.items()
            if each.low.min() < -ROUNDING or each.high.max() > 255 + ROUNDING
        ]
        found.append(
            f"the policy ({', '.join(guilty)}) leaves pixels from {said(low)} to {said(high)} to the normalisation, "
            "which is made for 0 to 255"
        )
    if drawn.width < originals.width / 5:
        found.append(
            f"the policy leaves {said(drawn.width)} levels between the darkest and the brightest pixel, where the "
            f"images have {said(originals.width)}; what rescales belongs into train.normalisation"
        )
    return found
