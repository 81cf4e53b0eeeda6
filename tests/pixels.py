"""Pictures, and what the kernel makes of them where nothing moves."""

import re
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

from data.augment.apply import Rendering, kernel, render
from data.augment.operation import Operation, sometimes
from data.augment.slots import Slot

# Largest relative error of one float32 operation.
ULP = 2.0**-24
# Most batches have this many examples of this size: every other shape is compiled anew.
BATCH = 6
SIZE = (11, 13)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """[*shape, 3] uint8."""
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def fractions(*shape: int, seed: int = 0) -> np.ndarray:
    """[*shape, 3] float32 in 0..255, some of them 0 or 255, some halves, most fractions."""
    random = np.random.default_rng(seed)
    values = random.uniform(-20, 275, (*shape, 3)).clip(0, 255).astype(np.float32)
    return np.where(random.uniform(size=values.shape) < 0.2, np.round(values * 2) / 2, values)


def gradient() -> np.ndarray:
    """[64, 48, 3] uint8: smooth, no channel uses all levels."""
    y, x = np.mgrid[:64, :48]
    return np.stack([60 + y, 200 - 2 * x, 90 + (x + y) // 3], axis=-1).astype(np.uint8)


# What operations are held against Pillow on, by size: name -> [B, H, W, 3] uint8.
PICTURES = {
    "64x48": np.stack(
        [
            noise(64, 48),
            gradient(),
            noise(64, 48, seed=1) // 16,
            np.repeat(noise(64, 48, seed=2)[..., :1], 3, axis=-1),
            np.full((64, 48, 3), (200, 30, 90), np.uint8),
            np.zeros((64, 48, 3), np.uint8),
            np.full((64, 48, 3), 255, np.uint8),
            np.where(noise(64, 48, seed=3) < 200, 255, 254).astype(np.uint8),
        ]
    ),
    "3x5": np.stack([noise(3, 5), np.full((3, 5, 3), 77, np.uint8), noise(3, 5, seed=1) // 64]),
    "1x1": np.stack([noise(1, 1), np.zeros((1, 1, 3), np.uint8)]),
}


def run(images: np.ndarray, program: Sequence[Slot], arrays: Sequence, interpolation: str = "nearest") -> np.ndarray:
    """[B, H, W, 3] uint8 or float32 -> float32, through the identity warp of the kernel, which compiles soonest."""
    rendering = Rendering(size=images.shape[1:3], program=tuple(program), interpolation=interpolation)
    return render(*_arguments(images, arrays), rendering=rendering).numpy()


def with_numbers(images: np.ndarray, operation: Operation, **numbers) -> np.ndarray:
    """What an operation makes of a batch by given numbers, each [B] or one for all."""
    batch, size = len(images), images.shape[1:3]
    given = {name: tf.constant(np.broadcast_to(value, batch), tf.float64) for name, value in numbers.items()}
    return run(images, operation.slots, operation.arrays(given or {"always": tf.ones([batch], tf.float64)}, size))


def drawn(operation: Operation, count: int, size: tuple[int, int], *, seed: int = 0) -> dict[str, np.ndarray]:
    """The numbers of an operation for as many examples."""
    return {name: value.numpy() for name, value in operation.numbers(_uniform(operation, count, seed), size).items()}


def pillow(function: Callable, images: np.ndarray) -> np.ndarray:
    """[B, H, W, 3] uint8 -> float32: what a function of one Pillow image makes of them."""
    return np.stack([np.asarray(function(Image.fromarray(image))) for image in images]).astype(np.float32)


def assert_passes_over(operation: Operation):
    """Examples that an operation is not drawn for keep their bits; the others change as they do without the choice."""
    images, uniform = fractions(BATCH, *SIZE), _uniform(operation, BATCH, 3)
    applied = np.arange(BATCH) % 2 == 0
    chosen = sometimes(operation, 0.5)
    first = tf.constant(np.where(applied, 0.0, 0.9)[:, None])
    found = run(images, chosen.slots, chosen.draw(tf.concat([first, uniform], axis=1), SIZE))
    np.testing.assert_array_equal(found[~applied], images[~applied])
    always = run(images, operation.slots, operation.draw(uniform, SIZE))
    np.testing.assert_array_equal(found[applied], always[applied])
    assert (always != images).any()


def assert_same_bits_in_every_batch(*operations: Operation, batches: Sequence[int] = (1,)):
    """Operations one after the other, on examples at once and on parts of them, through the usual warp."""
    images = fractions(BATCH, *SIZE)
    program = [slot for operation in operations for slot in operation.slots]
    arrays = [array for operation in operations for array in operation.draw(_uniform(operation, BATCH, 3), SIZE)]
    whole = run(images, program, arrays, "bilinear")
    for size in batches:
        for at in range(0, BATCH - size + 1):
            part = run(images[at : at + size], program, [array[at : at + size] for array in arrays], "bilinear")
            np.testing.assert_array_equal(part, whole[at : at + size])


def assert_nothing_is_compiled_in(operation: Operation):
    """Another batch needs no other program: the compiled kernel takes every array of the operation at each call."""
    arrays = operation.draw(_uniform(operation, BATCH, 3), SIZE)
    arguments = _arguments(noise(BATCH, *SIZE), arrays)
    rendering = Rendering(size=SIZE, program=operation.slots)
    text = kernel(rendering).experimental_get_compiler_ir(*arguments)(stage="hlo")
    entry = re.search(r"^ENTRY .*?\n}", text, re.DOTALL | re.MULTILINE)[0]
    taken = re.findall(r"= (\w+\[[\d,]*\])\S* parameter\(", entry)
    for array in arrays:
        assert f"f32[{','.join(map(str, array.shape))}]" in taken


def _uniform(operation: Operation, count: int, seed: int) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).uniform(size=(count, operation.count)))


def _arguments(images: np.ndarray, arrays: Sequence) -> tuple:
    batch, height, width, _ = images.shape
    return (
        tf.constant(images.reshape(batch, -1)),
        tf.constant(np.tile([[height, width]], (batch, 1)), tf.int32),
        tf.eye(3, batch_shape=[batch]),
        tuple(tf.cast(array, tf.float32) for array in arrays),
    )
