"""From the bytes of an image to the pixels that an exported network takes, as an evaluation of its session saw them."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from data import decode, exif
from data.augment import apply, geometry
from data.augment.apply import FILLS, INTERPOLATIONS, Rendering
from data.augment.geometry import FITS
from data.augment.views import Views
from data.decode import Decoding
from trainer import data_setup
from trainer.recipe import Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What of a recipe decides on the pixels; all but the normalisation, which is in the exported model.

    Attributes:
        image_size: side of the square.
        short_side, background: see `data.decode.Decoding`.
        fit, crop, samples, fill, fill_value, interpolation: see `trainer.recipe.Recipe`; samples are those of an
            evaluation.
    """

    image_size: int
    short_side: int | None
    background: tuple[int, int, int]
    fit: str
    crop: float
    samples: int
    fill: str
    fill_value: tuple[float, float, float]
    interpolation: str

    @classmethod
    def of(cls, recipe: Recipe) -> "Preprocessing":
        """That of an evaluation."""
        decoding = data_setup.decoding(recipe)
        return cls(
            image_size=recipe.image_size,
            short_side=decoding.short_side,
            background=decoding.background,
            fit=recipe.fit,
            crop=float(recipe.crop),
            samples=recipe.evaluation_samples,
            fill=recipe.fill,
            fill_value=tuple(map(float, recipe.fill_value)),
            interpolation=recipe.interpolation,
        )

    @classmethod
    def read(cls, stored: object) -> "Preprocessing":
        """The fields as JSON keeps them.

        Raises:
            ValueError: they are not what was written.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(stored, dict) or stored.keys() != names:
            raise ValueError(f"preprocessing holds {stored!r}, not {', '.join(sorted(names))}")
        counts = [stored[name] for name in ("image_size", "samples", "short_side") if stored[name] is not None]
        choices = (("fit", FITS), ("fill", FILLS), ("interpolation", INTERPOLATIONS))
        levels = [stored["background"], stored["fill_value"]]
        if (
            stored["image_size"] is None
            or not all(type(count) is int and 1 <= count < 2**16 for count in counts)
            or not all(stored[name] in known for name, known in choices)
            or not (isinstance(stored["crop"], float | int) and 0 < stored["crop"] <= 1)
            or not all(isinstance(row, list) and len(row) == 3 for row in levels)
            or not all(isinstance(level, int | float) and 0 <= level <= 255 for row in levels for level in row)
        ):
            raise ValueError(f"preprocessing holds {stored!r}")
        background, fill_value = map(tuple, levels)
        return cls(**{**stored, "background": background, "fill_value": fill_value})

    def pixels(self, encoded: tf.Tensor, *, views: np.ndarray | None = None) -> tf.Tensor:
        """What the network is shown of an image; in any graph, without XLA.

        Args:
            encoded: scalar string, see `data.decode.decode`; turned as its EXIF data say.
            views: [V, 3, 3], see `data.augment.views.Views.matrices`; None: only the plain image.

        Returns:
            [V or 1, S, S, 3] float32, RGB in 0..255.

        Raises:
            tf.errors.InvalidArgumentError: it does not decode.
        """
        canvas, _ = decode.decode(encoded, decoding=Decoding(self.short_side, self.background))
        size = tf.shape(canvas)[None, :2]
        upright_size, turned = geometry.upright(size, exif.orientation(encoded)[None])
        image_size = self.image_size, self.image_size
        fitted = geometry.fit(upright_size, image_size=image_size, rule=self.fit, crop=self.crop)
        matrices = turned @ fitted if views is None else turned @ fitted @ tf.constant(views, tf.float64)
        rendering = Rendering(
            size=image_size,
            samples=self.samples,
            fill=self.fill,
            fill_value=self.fill_value,
            interpolation=self.interpolation,
            margin=0.5,  # As `trainer.rendering.rendering` has it.
        )
        count = 1 if views is None else len(views)
        flat = tf.reshape(canvas, [1, -1])
        parts = [
            apply.warp(flat, size, tf.cast(matrices[view : view + 1], tf.float32), rendering) for view in range(count)
        ]
        return tf.concat(parts, axis=0)

    def batch(self, encoded: tf.Tensor) -> tf.Tensor:
        """[B] strings -> [B, S, S, 3] float32; fails with the first that does not decode."""
        spec = tf.TensorSpec([self.image_size, self.image_size, 3], tf.float32)
        return tf.map_fn(lambda image: self.pixels(image)[0], encoded, fn_output_signature=spec)

    def decoder(self, views: Views | None = None) -> Callable[[bytes], np.ndarray]:
        """A function (bytes of an image) -> `pixels`, traced once."""
        return _decoder(self, views)


@functools.lru_cache(maxsize=8)
def _decoder(preprocessing: Preprocessing, views: Views | None) -> Callable[[bytes], np.ndarray]:
    size = preprocessing.image_size, preprocessing.image_size
    matrices = None if views is None or views == Views() else views.matrices(size)

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
    def pixels(encoded):
        return preprocessing.pixels(encoded, views=matrices)

    return lambda encoded: pixels(tf.constant(encoded)).numpy()
