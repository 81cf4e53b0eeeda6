"""A crop out of a file shows what a crop of the whole image would, at the resolution that the output asks for."""

import dataclasses
import io
import itertools
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from scipy import ndimage

from data import decode, inspection, packing, pipeline, sources
from data.augment import crops, geometry
from data.augment.apply import Rendering, render
from data.augment.operation import one_of
from data.augment.policy import Policy, policy
from data.decode import Decoding
from data.examples import Examples
from data.order import Order
from data.read_crop import capacity_for, parts, read_crop
from trainer import devices

SEED = 11
DECODING = Decoding(24)
ORIENTATION = 0x0112
# Pixels that the canvases below have room for: the kernel is compiled once for all of them.
ROOM = 8192
JPEG_KINDS = {
    "420": {"subsampling": 2},
    "422": {"subsampling": 1},
    "444": {"subsampling": 0},
    "progressive": {"subsampling": 2, "progressive": True},
    "restarts": {"subsampling": 2, "restart_marker_blocks": 3},
}


def picture(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Smooth enough to be no worst case of JPEG, with different colours everywhere."""
    noise = np.random.default_rng(seed).uniform(0, 255, (height, width, 3))
    smooth = ndimage.gaussian_filter(noise, (1.5, 1.5, 0), mode="nearest")
    return np.clip((smooth - 127) * 4 + 127, 0, 255).astype(np.uint8)


def encoded(pixels: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def turned_by(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def crop_row(*, share: float, aspect: float = 1.0, x: float = 0.5, y: float = 0.5) -> np.ndarray:
    return np.array([*[share] * crops.ATTEMPTS, *[aspect] * crops.ATTEMPTS, x, y, 3 / 4, 4 / 3])


def read(path: Path, crop: np.ndarray, orientation: int, image_size, *, capacity: int = 10**6):
    """Canvas [h, w, 3] and matrix."""
    found = read_crop(
        tf.constant(str(path)),
        tf.constant(crop),
        tf.constant(orientation, tf.int8),
        whole=lambda: (tf.zeros([0], tf.uint8), tf.zeros([2], tf.int32)),
        image_size=image_size,
        decoding=DECODING,
        capacity=capacity,
    )
    canvas, size, matrix = (value.numpy() for value in found)
    assert canvas.dtype == np.uint8 and size.dtype == np.int32 and matrix.dtype == np.float64
    return canvas.reshape(*size, 3), matrix


def seen(canvas: np.ndarray, matrix: np.ndarray, image_size, **rendering) -> np.ndarray:
    """[H, W, 3], what the kernel makes of it."""
    roomy = np.zeros((1, ROOM * 3), np.uint8)
    roomy[0, : canvas.size] = canvas.reshape(-1)
    return render(
        tf.constant(roomy),
        tf.constant([canvas.shape[:2]]),
        tf.constant(matrix[None], tf.float32),
        rendering=Rendering(size=image_size, **rendering),
    ).numpy()[0]


# -- parts of images --------------------------------------------------------------------------------------------------


def part(content: bytes, *, factor: int, start, count) -> np.ndarray:
    size, pixels = decode.open_image(tf.constant(content), decoding=DECODING)
    arguments = {"factor": tf.constant(factor), "start": tf.constant(start), "count": tf.constant(count)}
    return decode.decode_part(tf.constant(content), size, pixels, **arguments).numpy()


def cells(pixels: np.ndarray, factor: int) -> np.ndarray:
    """The mean of each cell, the last row and column repeated where one is not full."""
    missing = [(0, -side % factor) for side in pixels.shape[:2]]
    full = np.pad(pixels, (*missing, (0, 0)), mode="edge").astype(np.float64)
    height, width = full.shape[0] // factor, full.shape[1] // factor
    return np.round(full.reshape(height, factor, width, factor, 3).mean(axis=(1, 3))).astype(np.uint8)


PLACES = st.tuples(*[st.floats(0, 1)] * 4)


def placed(shape, places) -> tuple[list[int], list[int]]:
    """A part, start and count, of an image of this shape."""
    start = [min(int(place * side), side - 1) for place, side in zip(places[:2], shape[:2], strict=True)]
    rooms = [side - first for side, first in zip(shape[:2], start, strict=True)]
    return start, [max(1, round(place * room)) for place, room in zip(places[2:], rooms, strict=True)]


@pytest.mark.parametrize("kind", JPEG_KINDS)
@settings(max_examples=12, deadline=None)
@given(places=PLACES, exponent=st.integers(0, 5))
@example(places=(0, 0, 1, 1), exponent=0)
@example(places=(0, 0, 1, 1), exponent=4)
@example(places=(0.3, 0.3, 0.5, 0.5), exponent=0)
@example(places=(0.3, 0.3, 0.5, 0.5), exponent=1)
def test_a_part_of_a_jpeg_has_the_bits_of_the_whole_decoded_at_that_scale(kind: str, places, exponent: int):
    content = encoded(picture(203, 311), "JPEG", quality=90, **JPEG_KINDS[kind])
    factor, ratio = 2**exponent, min(2**exponent, 8)
    whole = tf.io.decode_jpeg(content, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE").numpy()
    whole = cells(whole, factor // ratio)
    start, count = placed(whole.shape, places)
    expected = whole[start[0] : start[0] + count[0], start[1] : start[1] + count[1]]
    np.testing.assert_array_equal(part(content, factor=factor, start=start, count=count), expected)


@pytest.mark.parametrize("kind, options", [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
@settings(max_examples=12, deadline=None)
@given(places=PLACES, exponent=st.integers(0, 7))
@example(places=(0, 0, 1, 1), exponent=3)
def test_a_part_of_another_file_is_the_mean_of_its_cells(kind: str, options: dict, places, exponent: int):
    pixels = picture(61, 83)
    whole = cells(pixels, 2**exponent)
    start, count = placed(whole.shape, places)
    found = part(encoded(pixels, kind, **options), factor=2**exponent, start=start, count=count)
    np.testing.assert_array_equal(found, whole[start[0] : start[0] + count[0], start[1] : start[1] + count[1]])


@pytest.mark.parametrize("kind, at", [("JPEG", None), ("PNG", 16)])
def test_a_file_that_claims_to_be_enormous_is_refused(tmp_path, kind: str, at: int | None):
    content = bytearray(encoded(picture(8, 8), kind))
    # The frame header of a JPEG: marker, length, precision, then height and width in 16 bits; that of a PNG in 32.
    at = content.index(b"\xff\xc0") + 5 if at is None else at
    stated = struct.pack(">HH", 65000, 65000) if kind == "JPEG" else struct.pack(">II", 65000, 65000)
    content[at : at + len(stated)] = stated
    (tmp_path / "photo").write_bytes(content)
    with pytest.raises(tf.errors.InvalidArgumentError, match="claims to have more than"):
        read(tmp_path / "photo", crop_row(share=0.1), 1, (8, 8))


# -- which part -------------------------------------------------------------------------------------------------------


SIDES = st.integers(1, 5000)
UNIFORM = st.integers(0, 2**32).map(lambda seed: np.random.default_rng(seed).random((1, 22)))
RATIOS = st.tuples(st.floats(-2, 2), st.floats(-2, 2)).map(lambda ends: tuple(math.exp(end) for end in sorted(ends)))


@settings(max_examples=60, deadline=None)
@given(
    height=SIDES,
    width=SIDES,
    orientation=st.integers(1, 8),
    image_size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    ratio=RATIOS,
    low=st.floats(1e-4, 1),
    uniform=UNIFORM,
)
@example(5000, 5000, 1, (224, 224), (1.0, 1.0), 1.0, np.zeros((1, 22)))
@example(1, 5000, 6, (2, 2), (0.2, 5.0), 1.0, np.zeros((1, 22)))
def test_the_part_holds_the_box_at_the_scale_of_the_output(height, width, orientation, image_size, ratio, low, uniform):
    operation = crops.random_resized_crop(scale=(low, 1), ratio=ratio, pixels="decode")
    (crop,) = operation.draw(tf.constant(uniform), image_size)
    stored = tf.constant([[height, width]])
    turn = tf.constant([orientation], tf.int8)
    factor, start, count, matrix = (value.numpy()[0] for value in parts(crop, stored, turn, image_size))
    shown = [width, height] if orientation > 4 else [height, width]
    left, top, box_width, box_height = crops.boxes(crop, tf.constant([shown])).numpy()[0]

    side, short, pixels = max(image_size), min(box_width, box_height), box_width * box_height
    smaller = math.ceil(2 * box_width / factor) * math.ceil(2 * box_height / factor)
    assert factor == 1 or short >= factor * side or smaller > decode.LARGEST * side**2
    assert short < 2 * factor * side and pixels <= decode.LARGEST * (side * factor) ** 2
    within = -(-np.array([height, width]) // factor)
    assert (start >= 0).all() and (count >= 1).all() and (start + count <= within).all()
    assert count.prod() <= capacity_for(image_size, aspect=operation.slots[0].aspect)

    # The edges of the output are those of the box, where EXIF says that the shown pixel is stored.
    corners = [(0, 0), (image_size[1], image_size[0]), (image_size[1], 0)]
    for u, v in corners:
        x, y = left + box_width * u / image_size[1], top + box_height * v / image_size[0]
        x, y = {
            1: (x, y), 2: (width - x, y), 3: (width - x, height - y), 4: (x, height - y),
            5: (y, x), 6: (y, height - x), 7: (width - y, height - x), 8: (width - y, x),
        }[orientation]  # fmt: skip
        found = matrix @ [u - 0.5, v - 0.5, 1]
        # Coordinates below 5,000, and about 16 operations with their share of cancellation.
        close = {"rtol": 0, "atol": 16 * 5000 * 2.0**-52}
        np.testing.assert_allclose(found, [x / factor - start[1] - 0.5, y / factor - start[0] - 0.5, 1], **close)
        # With two pixels around, unless the image ends there.
        for at, first, length, whole in ((x, start[1], count[1], within[1]), (y, start[0], count[0], within[0])):
            assert first == 0 or at / factor - first >= 2 - 1e-9
            assert first + length == whole or first + length - at / factor >= 2 - 1e-9


# -- what is seen -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, orientation", [*(("PNG", turn) for turn in range(1, 9)), ("JPEG", 1), ("JPEG", 6)])
@pytest.mark.parametrize("share, factor", [(0.02, 1), (0.3, 2), (1.0, 4)])
def test_it_is_that_of_pillow_cropped_and_warped_in_float64(tmp_path, orientation, kind, share, factor):
    """160 x 240 pixels, which 4 divides: the cells are the same from whatever corner they are counted."""
    path, image_size = tmp_path / "photo", (24, 20)
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    path.write_bytes(encoded(picture(160, 240), kind, exif=turned_by(orientation), **options))
    crop = crop_row(share=share, aspect=3 / 4 if orientation > 4 else 4 / 3, x=0.37, y=0.81)
    canvas, matrix = read(path, crop, orientation, image_size)

    with Image.open(path) as image:
        # A JPEG is shrunk by the inverse DCT, of which Pillow knows how.
        if kind == "JPEG":
            image.draft("RGB", (240 // factor, 160 // factor))
        stored = np.asarray(image.convert("RGB"))
        reduced = cells(stored, factor) if kind == "PNG" else stored
    small = Image.fromarray(reduced)
    small.getexif()[ORIENTATION] = orientation
    upright = np.asarray(ImageOps.exif_transpose(small)).astype(np.float64)
    shown = np.array(upright.shape[:2]) * factor
    left, top, width, height = crops.boxes(tf.constant(crop[None]), tf.constant(shown[None], tf.int32)).numpy()[0]
    assert min(width, height) // (2 * factor) < 24 <= min(width, height) // factor or factor == 1
    rows = ((np.arange(24) + 0.5) * height / 24 + top) / factor - 0.5
    columns = ((np.arange(20) + 0.5) * width / 20 + left) / factor - 0.5
    grid = np.meshgrid(rows, columns, indexing="ij")
    expected = np.stack([ndimage.map_coordinates(upright[..., c], grid, order=1, mode="nearest") for c in range(3)], -1)
    # Coordinates below 128 come out of three float32 roundings each, and neighbours are at most 255 levels apart.
    np.testing.assert_allclose(seen(canvas, matrix, image_size), expected, rtol=0, atol=2 * 255 * 3 * 128 * 2.0**-24)


@pytest.mark.parametrize("rendering", [{"interpolation": "bicubic"}, {"samples": 2}, {"fill": "reflect"}])
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_resampling_finds_beyond_the_box_what_the_whole_image_has_there(tmp_path, rendering: dict, place: float):
    pixels, path, size = picture(60, 70), tmp_path / "photo.png", (24, 24)
    Image.fromarray(pixels).save(path)
    # About 9 x 9 pixels, enlarged.
    crop = crop_row(share=0.02, x=place, y=place)
    canvas, matrix = read(path, crop, 1, size)
    assert canvas.size < pixels.size / 10
    whole = crops.crop_matrix(tf.constant(crop[None]), tf.constant([[60, 70]]), size)[0].numpy()
    # As above, with the slope of bicubic interpolation.
    close = {"rtol": 0, "atol": 4 * 255 * 3 * 128 * 2.0**-24}
    np.testing.assert_allclose(seen(canvas, matrix, size, **rendering), seen(pixels, whole, size, **rendering), **close)


def test_a_small_crop_keeps_a_fine_grating_that_the_canvas_has_lost(tmp_path):
    """Lines of 16 pixels, the width of a pixel of the canvas."""
    lines = np.where(np.arange(768) % 16 < 8, 0, 255).astype(np.uint8)
    path = tmp_path / "grating.jpg"
    Image.fromarray(np.tile(lines[None, :, None], (768, 1, 3))).save(path, quality=95)
    canvas, size = decode.read_canvas(
        tf.constant(str(path)), tf.constant(decode.ANY), kinds=(decode.ANY,), decoding=Decoding(32), capacity=ROOM
    )
    canvas = canvas.numpy().reshape(*size.numpy(), 3)
    for place in (0.0, 0.37, 1.0):
        crop = crop_row(share=0.1, x=place, y=1 - place)
        from_canvas = crops.crop_matrix(tf.constant(crop[None]), size[None], (32, 32))[0].numpy()
        assert seen(canvas, from_canvas, (32, 32)).std() < 3
        # A box of 243 pixels in cells of 4, two of which are a half period of +-127: interpolation leaves most of it.
        assert seen(*read(path, crop, 1, (32, 32)), (32, 32)).std() > 60


# -- the stream -------------------------------------------------------------------------------------------------------


def of_files(paths: list[Path]) -> Examples:
    found = Examples.of(
        names=[path.name.encode() for path in paths],
        labels=np.arange(len(paths)) % 2,
        class_names=["a", "b"],
        root=str(paths[0].parent),
    )
    looked = inspection.inspect(found, decoding=DECODING)
    return dataclasses.replace(found, orientations=looked.orientations, kinds=looked.kinds)


def view_of(examples: Examples) -> pipeline.View:
    sizes = inspection.inspect(examples, decoding=DECODING).sizes
    capacity = int(sizes.prod(axis=1).max())
    return pipeline.View(image_size=(24, 24), fit="cover", crop=0.9, decoding=DECODING, capacity=capacity)


def batches(examples: Examples, *, batch: int, start: int = 0, **given) -> tf.data.Dataset:
    order = Order.of(examples, factors=examples.repeats, seed=SEED)
    return pipeline.train_batches(examples, order=order, start=start, batch=batch, seed=SEED, **given)


def stream(examples: Examples, *, batch: int, count: int, start: int = 0, **given) -> dict[str, np.ndarray]:
    found = list(batches(examples, batch=batch, start=start, **given).take(count // batch))
    return {name: np.concatenate([one[name].numpy() for one in found]) for name in found[0]}


def assert_same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


CROP = crops.random_resized_crop(scale=(0.05, 0.8), pixels="decode")
POLICY = policy([(CROP, 0.7), geometry.flip(), geometry.rotation(degrees=10)])
COUNT = 48


@pytest.fixture(scope="module")
def photos_of_all_kinds(tmp_path_factory) -> Examples:
    """13 files of many sizes, formats and turns."""
    root, paths = tmp_path_factory.mktemp("photos"), []
    for index in range(13):
        kind = ("jpg", "png", "webp")[index % 3]
        paths.append(root / f"{index:02}.{kind}")
        pixels = picture(40 + 23 * index, 330 - 11 * index, seed=index)
        Image.fromarray(pixels).save(paths[-1], exif=turned_by(index % 8 + 1))
    return of_files(paths)


@pytest.fixture(scope="module")
def straight(photos_of_all_kinds) -> dict[str, np.ndarray]:
    return stream(photos_of_all_kinds, batch=16, count=COUNT, policy=POLICY, view=view_of(photos_of_all_kinds))


@pytest.fixture(scope="module")
def plain(photos_of_all_kinds) -> dict[str, np.ndarray]:
    return stream(photos_of_all_kinds, batch=16, count=32, policy=Policy(), view=view_of(photos_of_all_kinds))


class TestStream:
    def test_it_has_the_columns_of_any_other(self, photos_of_all_kinds, straight, plain):
        view = view_of(photos_of_all_kinds)
        assert straight.keys() == plain.keys()
        for name in set(plain) - {"canvas"}:
            assert straight[name].shape[1:] == plain[name].shape[1:] and straight[name].dtype == plain[name].dtype
        assert straight["canvas"].shape == (COUNT, 3 * max(view.capacity, capacity_for((24, 24), aspect=4 / 3)))

    def test_each_position_shows_what_is_read_for_its_row_and_crop(self, photos_of_all_kinds, straight):
        drawn = POLICY.draw(tf.range(COUNT, dtype=tf.int64), seed=SEED, size=(24, 24))
        cropped = crops.is_crop(drawn.crop).numpy()
        assert 10 < cropped.sum() < COUNT - 5
        for position in np.flatnonzero(cropped):
            row = straight["example"][position]
            path = Path(photos_of_all_kinds.root) / photos_of_all_kinds.names[row].decode()
            crop, turn = drawn.crop[position].numpy(), photos_of_all_kinds.orientations[row]
            canvas, matrix = read(path, crop, turn, (24, 24))
            np.testing.assert_array_equal(straight["size"][position], canvas.shape[:2])
            np.testing.assert_array_equal(straight["canvas"][position, : canvas.size], canvas.reshape(-1))
            assert not straight["canvas"][position, canvas.size :].any()
            expected = np.float32(matrix @ drawn.geometry[position].numpy())
            np.testing.assert_allclose(straight["geometry"][position], expected, rtol=2.0**-23, atol=1e-12)

    def test_where_nothing_is_cropped_it_is_that_of_a_crop_from_the_canvas(self, photos_of_all_kinds, straight):
        other = policy([(crops.random_resized_crop(scale=(0.05, 0.8)), 0.7), *POLICY.operations[1:]])
        view = view_of(photos_of_all_kinds)
        canvases = stream(photos_of_all_kinds, batch=16, count=COUNT, policy=other, view=view)
        drawn = POLICY.draw(tf.range(COUNT, dtype=tf.int64), seed=SEED, size=(24, 24))
        whole = ~crops.is_crop(drawn.crop).numpy()
        for name in ("size", "geometry"):
            np.testing.assert_array_equal(straight[name][whole], canvases[name][whole])
        length = canvases["canvas"].shape[1]
        np.testing.assert_array_equal(straight["canvas"][whole, :length], canvases["canvas"][whole])
        for name in ("label", "weight", "example", "position", "replaced"):
            np.testing.assert_array_equal(straight[name], canvases[name])

    def test_another_batch_size_start_and_two_replicas_give_the_same_positions_the_same_bits(
        self, photos_of_all_kinds, straight
    ):
        strategy = devices.set_up("cpu:2")
        given = {"policy": POLICY, "view": view_of(photos_of_all_kinds)}
        each = iter(
            strategy.distribute_datasets_from_function(
                lambda context: batches(photos_of_all_kinds, batch=3, start=12, **given)
            )
        )
        shares = []
        for _ in range((COUNT - 12) // 6):
            batch = next(each)
            for replica in range(2):
                shares.append({n: strategy.experimental_local_results(c)[replica].numpy() for n, c in batch.items()})
        found = {name: np.concatenate([share[name] for share in shares]) for name in shares[0]}
        assert_same(found, {name: column[12:] for name, column in straight.items()})

    def test_outside_its_time_no_crop_is_read(self, photos_of_all_kinds, plain):
        timed = policy([CROP], during={CROP.name: (0.5, 1.0)})
        view = view_of(photos_of_all_kinds)
        found = stream(photos_of_all_kinds, batch=8, count=32, policy=timed, view=view, length=32)
        np.testing.assert_array_equal(found["size"][:16], plain["size"][:16])
        np.testing.assert_array_equal(found["geometry"][:16], plain["geometry"][:16])
        assert (found["geometry"][16:] != plain["geometry"][16:]).any(axis=(1, 2)).all()


class TestBrokenFiles:
    @pytest.fixture
    def paths(self, tmp_path) -> list[Path]:
        found = [tmp_path / f"{index}.jpg" for index in range(5)]
        for index, path in enumerate(found):
            Image.fromarray(picture(90 + 10 * index, 120, seed=index)).save(path)
        return found

    def test_the_next_row_stands_in_with_the_same_crop_of_its_own_size_and_a_blank_one_where_none_decodes(self, paths):
        examples, always = of_files(paths), Policy((CROP,))
        elements = iter(batches(examples, batch=5, policy=always, view=view_of(examples)))
        stand_in = {1: 2, 4: 0}
        paths[1].write_bytes(b"not an image")
        paths[4].unlink()
        drawn = always.draw(tf.range(20, dtype=tf.int64), seed=SEED, size=(24, 24)).crop.numpy()
        for _ in range(4):
            found = {name: column.numpy() for name, column in next(elements).items()}
            np.testing.assert_array_equal(found["replaced"], np.isin(found["example"], [1, 4]))
            for place, (position, row) in enumerate(zip(found["position"], found["example"].tolist(), strict=True)):
                shown = stand_in.get(row, row)
                canvas, matrix = read(paths[shown], drawn[position], 1, (24, 24))
                np.testing.assert_array_equal(found["size"][place], canvas.shape[:2])
                np.testing.assert_array_equal(found["canvas"][place, : canvas.size], canvas.reshape(-1))
                np.testing.assert_allclose(found["geometry"][place], np.float32(matrix), rtol=2.0**-23, atol=1e-12)
                assert found["label"][place] == shown % 2

        for path in (paths[0], paths[2], paths[3]):
            path.write_bytes(path.read_bytes()[:300])
        # What has been read ahead is of files that were still whole.
        blank = next(each for each in itertools.islice(elements, 1000) if each["replaced"].numpy().all())
        assert not blank["weight"].numpy().any() and not blank["canvas"].numpy().any()
        assert np.isfinite(blank["geometry"]).all()


# -- what is refused --------------------------------------------------------------------------------------------------


def test_images_in_memory_or_in_a_store_have_no_files_to_crop(photos, tmp_path, complaint):
    given = {"batch": 2, "policy": POLICY}
    memory = sources.synthetic(examples=4, classes=2, height=30, width=30)
    view = pipeline.View(image_size=(24, 24), fit="cover", crop=1.0, decoding=DECODING, capacity=900)
    with complaint("random_resized_crop.pixels = 'canvas'", "in memory"):
        batches(memory, view=view, **given)
    files = sources.folder(root=str(photos({"cat/a.png": (30, 30), "dog/b.png": (30, 30)})))
    packed = packing.pack(files, tmp_path / "store", decoding=DECODING).attach(files)
    with complaint("random_resized_crop.pixels = 'canvas'", "store"):
        batches(packed, view=view, **given)


def test_pixels_come_from_the_canvas_or_the_file(complaint):
    assert policy([crops.random_resized_crop()]).file_crop is None
    assert policy([(CROP, 0.5)]).file_crop == policy([one_of(operations=[CROP, geometry.flip()])]).file_crop is not None
    with complaint("random_resized_crop.pixels", "'file'"):
        crops.random_resized_crop(pixels="file")
