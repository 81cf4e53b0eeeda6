"""The operations of one's own that WORKSPACE.md shows do what it says."""

import re

import gin
import numpy as np
import pytest
import tensorflow as tf

from data.augment.apply import Rendering, render
from data.augment.operation import one_of
from data.augment.policy import policy
from trainer.launch import PROJECT


@pytest.fixture(scope="module")
def shown() -> dict:
    """The names that the page's example defines."""
    (code,) = re.findall(
        r"```python\n(import gin\nimport tensorflow.*?)```", (PROJECT / "WORKSPACE.md").read_text(), re.S
    )
    names: dict = {}
    try:
        exec(code, names)
        yield names
    finally:
        for name in ("squeeze", "warmth", "fade", "vignette"):
            gin.config._REGISTRY.pop(gin.config._REGISTRY.get_match(name).selector)


def rendered(chosen, image: np.ndarray, count: int = 16) -> np.ndarray:
    size = image.shape[:2]
    drawn = chosen.draw(tf.range(count, dtype=tf.int64), seed=1, size=size)
    canvas = tf.constant(np.broadcast_to(image.reshape(1, -1), (count, image.size)))
    matrices = tf.cast(drawn.geometry, tf.float32)
    sizes = tf.constant(np.int32([size] * count))
    return render(canvas, sizes, matrices, drawn.arrays, rendering=Rendering(size=size, program=chosen.program)).numpy()


def test_they_change_pictures_and_an_operation_that_is_passed_over_does_not(shown):
    image = np.random.default_rng(0).integers(60, 200, (12, 16, 3), dtype=np.uint8)
    for name, argument in (("squeeze", 1.5), ("warmth", 30.0), ("fade", 40.0), ("vignette", 0.9)):
        operation = shown[name](most=argument)
        changed = rendered(policy([operation]), image)
        assert (np.abs(changed - image).max(axis=(1, 2, 3)) > 0.01).sum() >= 14, name
        np.testing.assert_array_equal(rendered(policy([(operation, 0.0)]), image, count=2), [image] * 2)


def test_they_can_be_chosen_from(shown):
    image = np.random.default_rng(0).integers(60, 200, (12, 16, 3), dtype=np.uint8)
    choice = one_of(operations=[shown["warmth"](most=30.0), shown["fade"](most=40.0), shown["vignette"](most=0.9)])
    assert (np.abs(rendered(policy([choice]), image) - image).max(axis=(1, 2, 3)) > 0.01).sum() >= 14
