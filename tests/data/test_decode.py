"""Encoded bytes become uint8 canvases, and what does not decode is named."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from data import decode, sources
from data.examples import Examples

RANDOM = np.random.default_rng(7)
COLOURS = RANDOM.integers(0, 256, (23, 31, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(content: bytes, *, short_side: int = 64) -> np.ndarray:
    return decode.decode(tf.constant(content), short_side=short_side).numpy()


class TestKinds:
    @pytest.mark.parametrize("kind", ["PNG", "BMP"])
    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
    def test_lossless_files_give_the_pixels_that_pillow_gives(self, kind: str, mode: str):
        content = encoded(Image.fromarray(COLOURS).convert(mode), kind)
        pixels = decoded(content)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))

    @pytest.mark.parametrize("mode", ["LA", "P", "1"])
    def test_png_with_grey_and_alpha_palette_or_single_bits(self, mode: str):
        content = encoded(Image.fromarray(COLOURS).convert(mode), "PNG")
        np.testing.assert_array_equal(
            decoded(content), np.asarray(Image.open(io.BytesIO(content)).convert(mode).convert("RGB"))
        )

    def test_alpha_is_dropped_and_the_colour_below_it_kept(self):
        pixels = np.dstack([COLOURS, np.zeros((23, 31), np.uint8)])
        np.testing.assert_array_equal(decoded(encoded(pixels, "PNG")), COLOURS)

    def test_of_sixteen_bits_the_upper_eight_stay(self):
        deep = RANDOM.integers(0, 2**16, (9, 11)).astype(np.uint16)
        expected = np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, axis=-1)
        np.testing.assert_array_equal(decoded(encoded(deep, "PNG")), expected)

    def test_a_gif_gives_its_first_frame(self):
        frames = [Image.fromarray(np.full((6, 5, 3), value, np.uint8)) for value in (50, 200)]
        content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
        np.testing.assert_array_equal(decoded(content), np.full((6, 5, 3), 50))

    @pytest.mark.parametrize("mode", ["RGB", "L"])
    def test_jpeg_is_within_rounding_of_pillow(self, mode: str):
        content = encoded(Image.fromarray(COLOURS).convert(mode), "JPEG", quality=90, subsampling=0)
        expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
        # Decoders that meet IEEE 1180 differ by at most 1 in Y, Cb and Cr; 1 + 1.772 more in blue, rounded: 3.
        assert np.abs(decoded(content) - expected).max() <= 3

    @pytest.mark.parametrize("kind, suffix", [("JPEG", "png"), ("PNG", "jpg"), ("BMP", "gif"), ("GIF", "jpeg")])
    def test_the_content_decides_and_not_the_suffix(self, kind: str, suffix: str, tmp_path):
        for name in ("cat", "dog"):
            (tmp_path / name).mkdir()
            (tmp_path / name / f"x.{suffix}").write_bytes(encoded(COLOURS, kind))
        sizes, bad = decode.inspect(sources.folder(root=str(tmp_path)), short_side=64)
        assert not bad and sizes.tolist() == [[23, 31]] * 2


def wanted_factor(height: int, width: int, short_side: int) -> int:
    """The larger of: what the short side allows, what the canvas demands."""
    allowed = max(2**power for power in range(16) if power == 0 or min(height, width) >= short_side * 2**power)

    def pixels(factor: int) -> int:
        return math.ceil(height / factor) * math.ceil(width / factor)

    demanded = min(2**power for power in range(17) if pixels(2**power) <= decode.LARGEST * short_side**2)
    return max(allowed, demanded)


class TestShrinking:
    @settings(max_examples=100, deadline=None)
    @given(
        shapes=st.lists(st.tuples(st.integers(1, 65_500), st.integers(1, 65_500)), min_size=1, max_size=40),
        short_side=st.integers(4, 2000),
    )
    @example(shapes=[(1, 65_500), (65_500, 1), (65_500, 65_500), (1, 1), (448, 448), (447, 448)], short_side=224)
    def test_the_factor_agrees_with_plain_python(self, shapes: list[tuple[int, int]], short_side: int):
        height, width = tf.constant([shape[0] for shape in shapes]), tf.constant([shape[1] for shape in shapes])
        factors = decode.shrink_factor(height, width, short_side=short_side).numpy().tolist()
        assert factors == [wanted_factor(*shape, short_side) for shape in shapes]

    @settings(max_examples=60, deadline=None)
    @given(height=st.integers(1, 300), width=st.integers(1, 300), short_side=st.integers(8, 80))
    @example(height=200, width=260, short_side=10)
    @example(height=16, width=300, short_side=8)
    def test_the_canvas_keeps_the_short_side_and_fits_whatever_the_kind(self, height: int, width: int, short_side: int):
        pixels = np.zeros((height, width, 3), np.uint8)
        factor = wanted_factor(height, width, short_side)
        expected = (math.ceil(height / factor), math.ceil(width / factor), 3)
        for kind in ("JPEG", "PNG"):
            shape = decoded(encoded(pixels, kind), short_side=short_side).shape
            assert shape == expected
            assert shape[0] * shape[1] <= decode.LARGEST * short_side**2
            if height * width <= decode.LARGEST * short_side**2:
                assert min(shape[:2]) >= min(short_side, height, width)

    @pytest.mark.parametrize("kind", ["JPEG", "PNG"])
    @pytest.mark.parametrize("shape", [(20_000, 9), (9, 20_000), (4, 3000)])
    def test_a_very_long_image_fits_the_largest_canvas(self, kind: str, shape: tuple[int, int]):
        small = decoded(encoded(np.zeros((*shape, 3), np.uint8), kind), short_side=16).shape
        assert 0 < small[0] * small[1] <= decode.LARGEST * 16**2

    @pytest.mark.parametrize("factor", [2, 4, 8, 16, 32])
    def test_a_shrunk_jpeg_shows_its_blocks_where_they_were(self, factor: int):
        # Blocks of one grey are a constant term alone; quality 100 keeps it within half a level, rounding adds a half.
        blocks = RANDOM.integers(0, 256, (8, 12), dtype=np.uint8)
        side = max(8, factor)
        grey = np.kron(blocks, np.ones((side, side), np.uint8))
        content = encoded(np.dstack([grey] * 3), "JPEG", quality=100, subsampling=0)
        short = 8 * side // factor
        pixels = decoded(content, short_side=short).astype(int)
        expected = np.kron(blocks, np.ones((side // factor, side // factor), np.uint8)).astype(int)
        assert pixels.shape == (*expected.shape, 3)
        assert np.abs(pixels - expected[..., None]).max() <= 1

    @pytest.mark.parametrize("factor", [2, 4, 8])
    def test_a_jpeg_is_shrunk_inside_its_transform_as_pillow_drafts_it(self, factor: int):
        pixels = RANDOM.integers(0, 256, (96, 128, 3), dtype=np.uint8)
        content = encoded(pixels, "JPEG", quality=90, subsampling=0)
        draft = Image.open(io.BytesIO(content))
        draft.draft("RGB", (128 // factor, 96 // factor))
        expected = np.asarray(draft).astype(int)
        assert expected.shape == (96 // factor, 128 // factor, 3)
        # As above. At factor 2 the mean of the decoded noise would be further away than that.
        assert np.abs(decoded(content, short_side=96 // factor) - expected).max() <= 3

    @pytest.mark.parametrize("factor", [2, 4, 8])
    def test_a_shrunk_png_is_the_rounded_mean_of_squares(self, factor: int):
        # Sums of whole numbers and a division by a power of two are exact in float32.
        pixels = RANDOM.integers(0, 256, (16 * factor, 18 * factor, 3), dtype=np.uint8)
        means = pixels.reshape(16, factor, 18, factor, 3).mean(axis=(1, 3))
        np.testing.assert_array_equal(decoded(encoded(pixels, "PNG"), short_side=16), np.round(means))

    def test_where_the_factor_does_not_divide_the_sides_the_whole_image_is_still_covered(self):
        pixels = RANDOM.integers(0, 256, (33, 37, 3), dtype=np.uint8)

        def shares(length: int, count: int) -> np.ndarray:
            """[count, length]: how much of each pixel falls into each cell of the shorter row, as a mean."""
            edges = np.arange(count + 1) * length / count
            upper = np.minimum(edges[1:, None], np.arange(1, length + 1))
            return np.maximum(upper - np.maximum(edges[:-1, None], np.arange(length)), 0) * count / length

        expected = np.einsum("ih,jw,hwc->ijc", shares(33, 17), shares(37, 19), pixels)
        # Rounding adds a half, the shares of the edges in float32 a little: 16 * 2**-24 * 255 is below 0.001.
        assert np.abs(decoded(encoded(pixels, "PNG"), short_side=16) - expected).max() < 0.501


BROKEN = {
    "empty": b"",
    "text": b"<html>404 Not Found</html>",
    "half a jpeg": encoded(COLOURS, "JPEG")[:-200],
    "half a png": encoded(COLOURS, "PNG")[:-200],
    "half a bmp": encoded(COLOURS, "BMP")[:-200],
    "half a gif": encoded(COLOURS, "GIF")[:-200],
    "head of a jpeg": b"\xff\xd8\xff",
    "head of a png": b"\x89PNG\r\n\x1a\n",
    "tiff": encoded(COLOURS, "TIFF"),
}


class TestInspect:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        for name, kind in (("cat/1.jpg", "JPEG"), ("cat/2.png", "PNG"), ("dog/3.bmp", "BMP"), ("dog/4.gif", "GIF")):
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encoded(COLOURS, kind))
        return tmp_path

    def test_every_row_has_a_size_or_a_reason(self, folder):
        for name, content in BROKEN.items():
            (folder / "dog" / f"{name}.jpg").write_bytes(content)
        (folder / "cat" / "gone.jpg").symlink_to("never.jpg")
        found = sources.folder(root=str(folder))
        sizes, bad = decode.inspect(found, short_side=64)
        broken = {f"dog/{name}.jpg" for name in BROKEN} | {"cat/gone.jpg"}
        assert {found.names[row].decode() for row in bad} == broken
        assert list(bad) == sorted(bad)
        for row in range(len(found)):
            assert sizes[row].tolist() == ([0, 0] if row in bad else [23, 31])
        for reason in bad.values():
            assert reason and "\n" not in reason and "{{" not in reason and "Op:" not in reason

    def test_reasons_tell_the_faults_apart(self, folder):
        for name, content in BROKEN.items():
            (folder / "dog" / f"{name}.jpg").write_bytes(content)
        found = sources.folder(root=str(folder))
        _, bad = decode.inspect(found, short_side=64)
        reasons = {found.names[row].decode()[len("dog/") : -len(".jpg")]: reason for row, reason in bad.items()}
        assert "empty" in reasons["empty"].lower()
        assert "format" in reasons["text"]
        for kind in ("jpeg", "png", "gif"):
            assert kind in reasons[f"half a {kind}"].lower()
        assert "size" in reasons["half a bmp"]

    def test_progress_counts_every_image_once(self, folder):
        (folder / "dog" / "bad.jpg").write_bytes(b"")
        told = []
        decode.inspect(sources.folder(root=str(folder)), short_side=64, report=told.append)
        assert told == [1, 2, 3, 4, 5]

    def test_names_that_are_not_utf8_are_read(self, folder):
        with open(str(folder).encode() + b"/cat/caf\xe9.png", "wb") as file:
            file.write(encoded(COLOURS[:5], "PNG"))
        found = sources.folder(root=str(folder))
        sizes, bad = decode.inspect(found, short_side=64)
        assert not bad
        assert sizes[found.names.tolist().index(b"cat/caf\xe9.png")].tolist() == [5, 31]


class TestCanvas:
    def test_the_rows_come_one_after_the_other_and_then_zeros(self, tmp_path):
        path = tmp_path / "x.png"
        path.write_bytes(encoded(COLOURS | 1, "PNG"))
        canvas, size = decode.read_canvas(tf.constant(str(path)), short_side=64, capacity=800)
        assert size.numpy().tolist() == [23, 31] and canvas.shape == (2400,)
        np.testing.assert_array_equal(canvas[: 23 * 31 * 3].numpy(), (COLOURS | 1).reshape(-1))
        assert not canvas[23 * 31 * 3 :].numpy().any()

    def test_an_image_that_fills_the_canvas_fits(self, tmp_path):
        path = tmp_path / "x.png"
        path.write_bytes(encoded(COLOURS, "PNG"))
        canvas, _ = decode.read_canvas(tf.constant(str(path)), short_side=64, capacity=23 * 31)
        np.testing.assert_array_equal(canvas.numpy(), COLOURS.reshape(-1))

    def test_an_image_that_grew_is_refused_and_not_cut(self, tmp_path):
        path = tmp_path / "x.png"
        path.write_bytes(encoded(COLOURS, "PNG"))
        with pytest.raises(tf.errors.OpError, match="image grew"):
            decode.read_canvas(tf.constant(str(path)), short_side=64, capacity=23 * 31 - 1)


def test_a_bmp_with_a_colour_palette_is_refused_and_a_grey_one_is_not(tmp_path):
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (20, 31, 3), dtype=np.uint8))
    image.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.bmp")
    image.convert("L").save(tmp_path / "grey.bmp")
    names = [b"grey.bmp", b"palette.bmp"]
    table = Examples.of(names=names, labels=[0, 1], class_names=["a", "b"], root=str(tmp_path))
    sizes, bad = decode.inspect(table, short_side=16)
    assert sizes[0].tolist() == [20, 31]
    assert list(bad) == [1] and "palette" in bad[1]
