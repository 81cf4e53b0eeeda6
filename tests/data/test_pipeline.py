"""A position of the stream gives the same canvas, label and drawn numbers, however it is reached."""

import dataclasses
from collections.abc import Iterable

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from data import inspection, order, packing, pipeline, sources
from data.augment import geometry
from data.augment.apply import Rendering
from data.augment.policy import Policy
from data.decode import Decoding
from data.examples import Examples
from data.order import Order
from trainer import devices

HEIGHT, WIDTH, SEED = 10, 12, 5
POLICY = Policy(
    (
        geometry.rotation(degrees=30),
        geometry.shift(width=0.2, height=0.1),
        geometry.zoom(low=0.8, high=1.3),
        geometry.flip(),
    )
)
VIEW = pipeline.View(
    image_size=(8, 8),
    fit="cover",
    crop=0.9,
    decoding=Decoding(9),
    capacity=HEIGHT * WIDTH,
)


def in_memory(count: int) -> Examples:
    examples = sources.synthetic(examples=count, classes=2, height=HEIGHT, width=WIDTH)
    return dataclasses.replace(examples, weights=np.arange(1, count + 1, dtype=np.float32) / 2)


def as_files(examples: Examples, root) -> Examples:
    """The same pixels as PNG files; the same rows."""
    for name, pixels in zip(examples.names.tolist(), examples.pixels, strict=True):
        path = root / name.decode()
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, "PNG")
    return dataclasses.replace(examples, pixels=None, root=str(root))


def joined(batches: Iterable[dict]) -> dict[str, np.ndarray]:
    """The columns of some batches, one below the other."""
    batches = list(batches)
    return {name: np.concatenate([batch[name].numpy() for batch in batches]) for name in batches[0]}


def shuffled(examples: Examples, seed: int = SEED) -> Order:
    return Order.of(examples, factors=examples.repeats, seed=seed)


def training(examples: Examples, *, start: int = 0, batch: int, count: int, **changes) -> dict[str, np.ndarray]:
    arguments = {"seed": SEED, "policy": POLICY, "view": VIEW} | changes
    order = shuffled(examples, arguments["seed"])
    stream = pipeline.train_batches(examples, order=order, start=start, batch=batch, **arguments)
    return joined(stream.take(count // batch))


def evaluation(examples: Examples, *, batch: int, replicas: int = 1, start: int = 0) -> dict[str, np.ndarray]:
    return joined(pipeline.evaluation_batches(examples, batch=batch, replicas=replicas, view=VIEW, start=start))


def assert_same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


@pytest.fixture(scope="module")
def memory() -> Examples:
    return in_memory(23)


@pytest.fixture(scope="module")
def files(memory, tmp_path_factory) -> Examples:
    return as_files(memory, tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def stream(memory) -> dict[str, np.ndarray]:
    """The first 96 positions, four epochs and a bit, in batches of 16."""
    return training(memory, batch=16, count=96)


def test_as_many_elements_are_in_the_making_as_there_are_cores_and_as_memory_allows(monkeypatch):
    monkeypatch.setattr(pipeline.os, "sched_getaffinity", lambda pid: set(range(64)))
    assert pipeline.at_once(2**10) == 64
    assert pipeline.at_once(2**26) == 16
    assert pipeline.at_once(2**40) == 1


def test_several_small_batches_are_made_in_one_go_and_large_ones_alone(memory, stream, monkeypatch):
    assert [pipeline._most_together(8, size) for size in (1, 2**21, 2**22, 2**23 + 1, 2**40)] == [8, 8, 4, 1, 1]
    assert pipeline._most_together(1, 1) == 1
    looked, seen = pipeline.geometry.upright, []
    monkeypatch.setattr(
        pipeline.geometry, "upright", lambda size, *more: (seen.append(size.shape[0]), looked(size, *more))[1]
    )
    rendering = Rendering(size=(8, 8))
    together = training(memory, batch=6, count=96, rendering=rendering)
    assert seen.pop() == 6 * pipeline.BLOCK
    monkeypatch.setattr(pipeline, "SMALL", 0)
    assert_same(training(memory, batch=16, count=96), stream)
    assert seen.pop() == 16
    assert_same(training(memory, batch=6, count=96, rendering=rendering), together)
    alone = evaluation(memory, batch=4)
    monkeypatch.undo()
    assert_same(evaluation(memory, batch=4), alone)


class TestTraining:
    def test_columns_have_the_shapes_and_types_that_are_promised(self, memory):
        (batch,) = pipeline.train_batches(
            memory, order=shuffled(memory), start=0, batch=4, seed=SEED, policy=POLICY, view=VIEW
        ).take(1)
        found = {name: (tuple(column.shape), column.dtype.name) for name, column in batch.items()}
        assert found == {
            "canvas": ((4, HEIGHT * WIDTH * 3), "uint8"),
            "size": ((4, 2), "int32"),
            "geometry": ((4, 3, 3), "float32"),
            "label": ((4,), "int32"),
            "weight": ((4,), "float32"),
            "position": ((4,), "int64"),
            "example": ((4,), "int64"),
            "replaced": ((4,), "bool"),
        }

    def test_each_position_shows_the_example_that_the_order_names(self, memory, stream):
        np.testing.assert_array_equal(stream["position"], np.arange(96))
        _, rows = order.permute(tf.range(96, dtype=tf.int64), examples=23, seed=SEED)
        np.testing.assert_array_equal(stream["example"], rows.numpy())
        np.testing.assert_array_equal(stream["canvas"], memory.pixels.reshape(23, -1)[rows.numpy()])
        np.testing.assert_array_equal(stream["label"], memory.labels[rows.numpy()])
        np.testing.assert_array_equal(stream["weight"], memory.weights[rows.numpy()])
        np.testing.assert_array_equal(stream["size"], [[HEIGHT, WIDTH]] * 96)

    def test_the_geometry_is_the_fit_times_what_the_policy_drew(self, stream):
        drawn = POLICY.draw(tf.range(96, dtype=tf.int64), seed=SEED, size=(8, 8)).geometry.numpy()
        fitted = geometry.fit(tf.constant(stream["size"]), image_size=(8, 8), rule="cover", crop=0.9).numpy()
        # One rounding to float32, and that of the product in float64 which is far below it.
        np.testing.assert_allclose(stream["geometry"], fitted @ drawn, rtol=2.0**-23, atol=1e-12)
        assert len(np.unique(stream["geometry"], axis=0)) == 96

    def test_without_a_policy_only_the_fit_is_left(self, memory):
        plain = training(memory, batch=4, count=8, policy=Policy())
        fitted = geometry.fit(tf.constant(plain["size"]), image_size=(8, 8), rule="cover", crop=0.9)
        np.testing.assert_array_equal(plain["geometry"], tf.cast(fitted, tf.float32).numpy())

    @pytest.mark.parametrize("batch", [1, 3, 32])
    def test_any_batch_size_gives_the_same_positions_the_same_bits(self, memory, stream, batch: int):
        assert_same(training(memory, batch=batch, count=96), stream)

    @pytest.mark.parametrize("start", [20, 92])
    def test_any_start_gives_the_same_positions_the_same_bits(self, memory, stream, start: int):
        part = training(memory, start=start, batch=4, count=96 - start)
        assert_same(part, {name: column[start:] for name, column in stream.items()})

    def test_a_far_start_costs_no_skipping_and_is_the_same_stream(self, memory):
        far = 4 * 10**15
        part = training(memory, start=far, batch=4, count=8)
        np.testing.assert_array_equal(part["position"], far + np.arange(8))
        assert_same(part, training(memory, start=far, batch=8, count=8))

    @pytest.mark.parametrize("start", [0, 48])
    def test_a_stream_that_goes_without_positions_is_the_same_but_for_them(self, memory, stream, start: int):
        left_out = ((0, 4), (24, 40))
        shown = np.setdiff1d(np.arange(96), np.concatenate([np.arange(*each) for each in left_out]))[start:]
        part = training(memory, start=start, batch=4, count=len(shown), left_out=left_out)
        assert_same(part, {name: column[shown] for name, column in stream.items()})

    @pytest.mark.parametrize(("kind", "replicas"), [("memory", 1), ("memory", 4), ("files", 2)])
    def test_any_number_of_replicas_gives_the_same_positions_the_same_bits(
        self, request, stream, replicas: int, kind: str
    ):
        strategy = devices.set_up(f"cpu:{replicas}")
        examples = request.getfixturevalue(kind)
        start = 16
        batches = iter(
            strategy.distribute_datasets_from_function(
                lambda context: pipeline.train_batches(
                    examples,
                    order=shuffled(examples),
                    start=start,
                    batch=16 // replicas,
                    seed=SEED,
                    policy=POLICY,
                    view=VIEW,
                )
            )
        )
        shares = []
        for _ in range(5):
            batch = next(batches)
            for replica in range(replicas):
                local = {name: strategy.experimental_local_results(column)[replica] for name, column in batch.items()}
                assert local["label"].shape == (16 // replicas,)
                shares.append(local)
        assert_same(joined(shares), {name: column[start:] for name, column in stream.items()})

    def test_files_and_arrays_of_the_same_pixels_give_the_same_bits(self, files, stream):
        assert_same(training(files, batch=4, count=96), stream)

    def test_another_seed_gives_another_order_and_other_draws(self, memory, stream):
        other = training(memory, batch=16, count=96, seed=SEED + 1)
        assert (other["example"] != stream["example"]).any()
        assert (np.abs(other["geometry"] - stream["geometry"]).max(axis=(1, 2)) > 0).all()

    @pytest.mark.parametrize("count", [1, 5])
    def test_a_batch_larger_than_the_set_still_shows_each_example_once_an_epoch(self, count: int):
        found = training(in_memory(count), batch=16, count=48)
        assert len(found["example"]) == 48
        for epoch in range(48 // count):
            shown = found["example"][epoch * count : (epoch + 1) * count]
            np.testing.assert_array_equal(np.sort(shown), np.arange(count))

    def test_files_of_different_sizes_share_one_canvas_length(self, photos):
        root = photos({"cat/a.png": (9, 9), "cat/b.png": (12, 10), "dog/c.png": (9, 13), "dog/d.png": (40, 60)})
        examples = sources.folder(root=str(root))
        sizes = inspection.inspect(examples, decoding=Decoding(9)).sizes
        view = dataclasses.replace(VIEW, capacity=int(sizes.prod(axis=1).max()))
        found = training(examples, batch=4, count=4, view=view)
        np.testing.assert_array_equal(found["size"], sizes[found["example"]])
        for row, size in enumerate(found["size"]):
            assert not found["canvas"][row, size.prod() * 3 :].any()
            assert found["canvas"][row, : size.prod() * 3].any()


# Row of a broken image -> the row that is shown.
STAND_IN = {7: 9, 8: 9, 15: 16, 22: 0}


class TestBrokenFiles:
    """An image that went bad is replaced by the next row of the table that decodes, and the order stays as it was."""

    @pytest.fixture
    def harmed(self, memory, tmp_path) -> Examples:
        examples = as_files(memory, tmp_path)
        paths = [tmp_path / memory.names[row].decode() for row in (7, 8, 15, 22)]
        paths[0].write_bytes(b"not an image")
        paths[1].unlink()
        paths[2].write_bytes(paths[2].read_bytes()[:-40])
        Image.fromarray(np.zeros((HEIGHT * 3, WIDTH, 3), np.uint8)).save(paths[3], "PNG")
        return examples

    def test_in_training_the_next_good_row_stands_in_with_its_own_label(self, memory, harmed, stream):
        found = training(harmed, batch=16, count=96)
        for name in ("position", "example", "geometry"):
            np.testing.assert_array_equal(found[name], stream[name])
        shown = np.array([STAND_IN.get(row, row) for row in found["example"].tolist()])
        np.testing.assert_array_equal(found["canvas"], memory.pixels.reshape(23, -1)[shown])
        np.testing.assert_array_equal(found["label"], memory.labels[shown])
        np.testing.assert_array_equal(found["weight"], memory.weights[shown])
        np.testing.assert_array_equal(found["replaced"], shown != found["example"])

    def test_where_nothing_decodes_the_image_is_blank_and_of_no_weight(self, memory, tmp_path):
        examples = as_files(memory, tmp_path)
        for name in memory.names:
            (tmp_path / name.decode()).unlink()
        found = training(examples, batch=4, count=8)
        assert found["replaced"].all() and not found["weight"].any() and not found["canvas"].any()

    def test_in_evaluation_it_counts_nothing_and_no_other_image_counts_twice(self, memory, harmed):
        found = evaluation(harmed, batch=8)
        bad = np.isin(found["example"], list(STAND_IN)) & (found["position"] < 23)
        np.testing.assert_array_equal(found["replaced"], bad)
        assert not found["weight"][bad].any()
        good = (found["position"] < 23) & ~bad
        np.testing.assert_array_equal(found["weight"][good], memory.weights[found["example"][good]])


class TestStores:
    @pytest.mark.parametrize("small", [0, 2**24])
    @pytest.mark.parametrize("shard_bytes", [1000, 10**9])
    def test_a_store_and_the_files_it_was_packed_from_give_the_same_bits(
        self, files, stream, tmp_path, monkeypatch, shard_bytes, small
    ):
        monkeypatch.setattr(packing, "SHARD_BYTES", shard_bytes)
        monkeypatch.setattr(pipeline, "SMALL", small)
        packed = packing.pack(files, tmp_path / "store", decoding=VIEW.decoding).attach(files)
        assert_same(training(packed, batch=16, count=96), stream)
        assert_same(evaluation(packed, batch=8), evaluation(files, batch=8))

    def test_canvases_of_many_sizes_kinds_and_turns_come_out_of_a_store_as_out_of_the_files(self, tmp_path):
        random = np.random.default_rng(0)
        names = []
        for index in range(24):
            exif = Image.Exif()
            exif[0x0112] = index % 8 + 1
            pixels = random.integers(0, 256, (9 + 7 * index, 120 - 4 * index, 3), dtype=np.uint8)
            names.append(f"{index:02}.{('jpg', 'png', 'webp')[index % 3]}")
            (tmp_path / "photos").mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "photos" / names[-1], exif=exif)
        found = Examples.of(
            names=[name.encode() for name in names],
            labels=np.arange(24) % 2,
            class_names=["a", "b"],
            root=str(tmp_path / "photos"),
        )
        seen = inspection.inspect(found, decoding=VIEW.decoding)
        found = dataclasses.replace(found, orientations=seen.orientations, kinds=seen.kinds)
        assert len(set(seen.kinds.tolist())) > 2 and set(seen.orientations.tolist()) == set(range(1, 9))
        view = dataclasses.replace(VIEW, capacity=int(seen.sizes.prod(axis=1).max()))
        packed = packing.pack(found, tmp_path / "store", decoding=VIEW.decoding).attach(found)
        assert_same(training(packed, batch=8, count=48, view=view), training(found, batch=8, count=48, view=view))


class TestEvaluation:
    @settings(max_examples=12, deadline=None)
    @given(count=st.integers(1, 40), batch=st.integers(1, 16), replicas=st.sampled_from([1, 2, 3, 4]))
    @example(count=16, batch=4, replicas=4)
    @example(count=17, batch=4, replicas=4)
    @example(count=3, batch=16, replicas=2)
    def test_each_example_counts_exactly_once(self, count: int, batch: int, replicas: int):
        examples = in_memory(count)
        elements = list(pipeline.evaluation_batches(examples, batch=batch, replicas=replicas, view=VIEW))
        assert len(elements) == pipeline.evaluation_elements(count, batch=batch, replicas=replicas)
        assert len(elements) % replicas == 0 and (len(elements) - replicas) * batch < count <= len(elements) * batch
        assert all(element["label"].shape == (batch,) for element in elements)
        found = joined(elements)
        np.testing.assert_array_equal(found["position"], np.arange(len(elements) * batch))
        real = found["position"] < count
        np.testing.assert_array_equal(found["example"][real], np.arange(count))
        np.testing.assert_array_equal(found["weight"][real], examples.weights)
        np.testing.assert_array_equal(found["weight"][~real], 0)
        np.testing.assert_array_equal(found["label"][real], examples.labels)
        np.testing.assert_array_equal(found["canvas"][real], examples.pixels.reshape(count, -1))

    @pytest.mark.parametrize("replicas", [1, 2, 4])
    def test_replicas_share_the_examples_between_them(self, memory, replicas: int):
        strategy = devices.set_up(f"cpu:{replicas}")
        batches = strategy.distribute_datasets_from_function(
            lambda context: pipeline.evaluation_batches(memory, batch=4, replicas=replicas, view=VIEW)
        )
        shares = []
        for batch in batches:
            for replica in range(replicas):
                shares.append(
                    {name: strategy.experimental_local_results(column)[replica] for name, column in batch.items()}
                )
        assert len(shares) == pipeline.evaluation_elements(23, batch=4, replicas=replicas)
        found = joined(shares)
        np.testing.assert_array_equal(np.sort(found["example"][found["weight"] > 0]), np.arange(23))
        assert found["weight"].sum() == memory.weights.sum()

    def test_nothing_is_augmented(self, memory):
        found = evaluation(memory, batch=8)
        fitted = geometry.fit(tf.constant([[HEIGHT, WIDTH]]), image_size=(8, 8), rule="cover", crop=0.9)
        np.testing.assert_array_equal(
            found["geometry"], np.broadcast_to(tf.cast(fitted, tf.float32).numpy(), (len(found["label"]), 3, 3))
        )

    def test_files_and_arrays_of_the_same_pixels_give_the_same_bits(self, memory, files):
        assert_same(evaluation(files, batch=8), evaluation(memory, batch=8))

    def test_it_can_start_at_a_later_element(self, memory):
        whole, rest = evaluation(memory, batch=4, replicas=2), evaluation(memory, batch=4, replicas=2, start=4)
        assert_same(rest, {name: column[16:] for name, column in whole.items()})


def test_a_photo_is_shown_upright_whatever_its_exif_orientation(tmp_path):
    stored = np.random.default_rng(0).integers(0, 256, (8, 12, 20, 3), dtype=np.uint8)
    upright = []
    for orientation, pixels in enumerate(stored, start=1):
        path = tmp_path / "ab"[orientation % 2] / f"{orientation}.png"
        path.parent.mkdir(exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(path, exif=exif)
        with Image.open(path) as image:
            upright.append(np.asarray(ImageOps.exif_transpose(image).convert("RGB")))
    found = sources.folder(root=str(tmp_path))
    found = dataclasses.replace(found, orientations=inspection.inspect(found, decoding=Decoding(12)).orientations)
    assert sorted(found.orientations) == list(range(1, 9))
    view = pipeline.View(image_size=(20, 20), fit="contain", crop=1.0, decoding=Decoding(12), capacity=240)
    batch = next(iter(pipeline.evaluation_batches(found, batch=8, view=view)))
    shown = Rendering(size=(20, 20), fill="constant").images(batch)
    for orientation, pixels in zip(found.orientations, shown.numpy(), strict=True):
        expected = upright[orientation - 1]
        top, left = ((20 - length) // 2 for length in expected.shape[:2])
        np.testing.assert_array_equal(pixels[top : 20 - top, left : 20 - left], expected)
