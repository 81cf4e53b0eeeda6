"""With every kind of operation at once, a position gives the same numbers and pixels, however it is reached."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from data import packing, pipeline, sources
from data.augment import colour, crops, erasing, filters, geometry, mixing, policies, statistics
from data.augment.apply import Rendering, as_rows
from data.augment.operation import one_of
from data.augment.policy import Policy, policy
from data.decode import Decoding
from data.examples import Examples
from data.order import Order
from trainer import devices

SEED, COUNT, SIZE = 5, 96, (20, 24)


@pytest.fixture(scope="module")
def everything() -> Policy:
    return policy(
        [
            (crops.random_resized_crop(scale=(0.3, 1.0)), 0.5),
            geometry.rotation(degrees=20),
            geometry.flip(),
            geometry.perspective(distortion=0.3),
            policies.rand_augment(layers=1, magnitude=9),
            (colour.colour_jitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05), 0.8),
            (statistics.equalize(), 0.1),
            (filters.blur(low=0.1, high=1.0), 0.3),
            (erasing.random_erasing(fill="noise"), 0.5),
            one_of(operations=[mixing.mixup(alpha=0.5), mixing.cutmix()]),
        ],
        during={"one_of": (0.0, 0.75)},
    )


@pytest.fixture(scope="module")
def rendering(everything) -> Rendering:
    unit = as_rows(colour.normalisation(mean=127.5, scale=127.5))
    return Rendering(size=SIZE, program=everything.program, colour=unit)


VIEW = pipeline.View(image_size=SIZE, fit="cover", crop=0.9, decoding=Decoding(20), capacity=24 * 30)


@pytest.fixture(scope="module")
def memory() -> Examples:
    examples = sources.synthetic(examples=23, classes=3, height=24, width=30)
    return dataclasses.replace(examples, weights=np.arange(1, 24, dtype=np.float32))


def batches_of(examples: Examples, chosen: Policy, *, batch: int, **arguments) -> tf.data.Dataset:
    order = Order.of(examples, factors=examples.repeats, seed=SEED)
    arguments = {"start": 0, "seed": SEED, "view": VIEW, "length": COUNT} | arguments
    return pipeline.train_batches(examples, order=order, batch=batch, policy=chosen, **arguments)


def columns(batches, rendering: Rendering) -> dict[str, np.ndarray]:
    """Every column of some batches, arrays of slots by their index, and the pixels."""
    found: dict[str, list] = {}
    for batch in batches:
        pixels = rendering.images(batch)
        flat = {name: column for name, column in batch.items() if name not in ("arrays", "image")}
        flat |= {f"slot {index}": array for index, array in enumerate(batch.get("arrays", ()))} | {"pixels": pixels}
        for name, column in flat.items():
            found.setdefault(name, []).append(np.asarray(column))
    return {name: np.concatenate(parts) for name, parts in found.items()}


@pytest.fixture(scope="module")
def stream(memory, everything, rendering) -> dict[str, np.ndarray]:
    return columns(batches_of(memory, everything, batch=16).take(COUNT // 16), rendering)


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_everything_happens(stream, everything):
    """Else the tests below would say nothing."""
    assert np.isfinite(stream["pixels"]).all() and len(np.unique(stream["pixels"])) > 10_000
    assert len(everything.program) == sum(name.startswith("slot") for name in stream) > 8
    mixed = stream["share"] != 1
    assert mixed[:72].mean() > 0.8 and not mixed[72:].any()
    for index, slot in enumerate(everything.program):
        applied = (stream[f"slot {index}"] != slot.identity(SIZE).astype(np.float32)).reshape(COUNT, -1).any(axis=1)
        assert applied.sum() > 0, slot


def test_another_batch_size(memory, everything, rendering, stream):
    assert_same(columns(batches_of(memory, everything, batch=2).take(COUNT // 2), rendering), stream)


def test_an_odd_batch_without_mixing(memory, everything, rendering, stream):
    """From where nothing is mixed any more, the stream is that of a policy that ends before its mixing."""
    unmixed = dataclasses.replace(everything, operations=everything.operations[:-1], during={})
    plain = dataclasses.replace(rendering, program=unmixed.program)
    found = columns(batches_of(memory, unmixed, batch=3, start=72).take(24 // 3), plain)
    mixing_only = ("share", f"slot {len(unmixed.program)}")
    assert_same(found, {name: column[72:] for name, column in stream.items() if name not in mixing_only})


def test_after_a_resume(memory, everything, rendering, stream):
    found = columns(batches_of(memory, everything, batch=16, start=48).take(3), rendering)
    assert_same(found, {name: column[48:] for name, column in stream.items()})


@pytest.mark.parametrize("placement", ["device", "host"])
def test_two_replicas_and_either_placement(memory, everything, rendering, stream, placement: str):
    strategy = devices.set_up("cpu:2")

    def share_of(context):
        on_host = rendering if placement == "host" else None
        return batches_of(memory, everything, batch=8, rendering=on_host)

    batches = iter(strategy.distribute_datasets_from_function(share_of))
    render = tf.function(lambda batch: strategy.run(rendering.images, args=(batch,)))
    shown = []
    for _ in range(3):
        pixels = strategy.experimental_local_results(render(next(batches)))
        shown.append(np.concatenate([part.numpy() for part in pixels]))
    np.testing.assert_array_equal(np.concatenate(shown), stream["pixels"][:48])


def test_from_files_and_from_a_store(memory, everything, rendering, stream, tmp_path):
    for name, pixels in zip(memory.names, memory.pixels, strict=True):
        (tmp_path / name.decode()).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name.decode()).write_bytes(tf.io.encode_png(pixels).numpy())
    files = dataclasses.replace(memory, pixels=None, root=tmp_path)
    packed = packing.pack(files, tmp_path / "store", decoding=VIEW.decoding).attach(files)
    for examples in (files, packed):
        found = columns(batches_of(examples, everything, batch=16).take(COUNT // 16), rendering)
        assert_same(found, stream)
    on_host = columns(batches_of(files, everything, batch=16, rendering=rendering).take(COUNT // 16), rendering)
    assert_same(on_host, {name: column for name, column in stream.items() if name in on_host})
