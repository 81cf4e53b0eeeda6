"""Encoded bytes become uint8 canvases, and what does not decode is named."""

import io
import math
import struct

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from data import decode
from data.decode import ANY, PLAIN_PNG, Decoding

RANDOM = np.random.default_rng(7)
COLOURS = RANDOM.integers(0, 256, (23, 31, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(content: bytes, *, short_side: int | None = 64, background=(255, 255, 255)) -> np.ndarray:
    return decode.decode(tf.constant(content), decoding=Decoding(short_side, background))[0].numpy()


class TestKinds:
    @pytest.mark.parametrize("kind, options", [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
    @pytest.mark.parametrize("mode", ["RGB", "L"])
    def test_lossless_files_give_the_pixels_that_pillow_gives(self, kind: str, options: dict, mode: str):
        content = encoded(Image.fromarray(COLOURS).convert(mode), kind, **options)
        pixels = decoded(content)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))

    @pytest.mark.parametrize("mode", ["P", "1"])
    def test_png_with_palette_or_single_bits(self, mode: str):
        content = encoded(Image.fromarray(COLOURS).convert(mode), "PNG")
        np.testing.assert_array_equal(
            decoded(content), np.asarray(Image.open(io.BytesIO(content)).convert(mode).convert("RGB"))
        )

    @pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (10, 200, 90)])
    @pytest.mark.parametrize("kind, mode", [("PNG", "RGBA"), ("PNG", "LA"), ("PNG", "P"), ("WEBP", "RGBA")])
    def test_the_background_shows_through_where_an_image_is_transparent(self, kind: str, mode: str, background):
        alpha = RANDOM.integers(0, 256, (23, 31, 1), dtype=np.uint8)
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        if mode == "P":
            content = encoded(Image.fromarray(COLOURS).quantize(16), kind, transparency=bytes(range(0, 256, 16)))
        else:
            content = encoded(Image.fromarray(np.dstack([COLOURS, alpha])).convert(mode), kind, **options)
        rgba = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA")).astype(np.float64)
        assert rgba[..., 3].min() < 255
        share = rgba[..., 3:] / 255
        expected = np.round(rgba[..., :3] * share + np.array(background) * (1 - share))
        np.testing.assert_array_equal(decoded(content, background=background), expected)

    def test_sixteen_bits_are_rounded_to_eight(self):
        deep = RANDOM.integers(0, 2**16, (9, 11)).astype(np.uint16)
        expected = np.repeat(np.round(deep / 257)[..., None], 3, axis=-1)
        np.testing.assert_array_equal(decoded(encoded(deep, "PNG")), expected)

    @pytest.mark.parametrize("options", [{"progressive": True}, {"optimize": True}, {"subsampling": 0}])
    def test_jpeg_of_every_layout_is_within_rounding_of_pillow(self, options: dict):
        smooth = np.asarray(Image.fromarray(COLOURS).resize((93, 69), Image.Resampling.BICUBIC))
        content = encoded(smooth, "JPEG", quality=90, **options)
        expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
        assert np.abs(decoded(content) - expected).max() <= 3

    def test_a_cmyk_jpeg_is_shown_in_its_colours(self):
        # Plain colours; both convert CMYK to RGB as (1 - ink) * (1 - black), in 8 bits each: two roundings.
        flat = np.kron(
            np.array([[[200, 30, 60], [20, 160, 90], [240, 240, 235]]], np.uint8), np.ones((16, 16, 1), np.uint8)
        )
        content = encoded(Image.fromarray(flat).convert("CMYK"), "JPEG", quality=100, subsampling=0)
        assert np.abs(decoded(content).astype(int) - flat).max() <= 5

    def test_an_animated_webp_is_refused(self):
        frames = [Image.fromarray(np.full((6, 5, 3), value, np.uint8)) for value in (50, 200)]
        content = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
        with pytest.raises(tf.errors.InvalidArgumentError, match="animated"):
            decoded(content)

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

    def test_at_native_resolution_nothing_is_shrunk_and_what_is_too_large_is_refused(self, monkeypatch):
        pixels = np.zeros((300, 500, 3), np.uint8)
        assert decoded(encoded(pixels, "JPEG"), short_side=None).shape == pixels.shape
        monkeypatch.setattr(decode, "LARGEST_UNSHRUNK", 300 * 500 - 1)
        with pytest.raises(tf.errors.InvalidArgumentError, match="too large"):
            # Another background, so that nothing traced before is used.
            decoded(encoded(pixels, "PNG"), short_side=None, background=(1, 2, 3))


class TestKindsOfDecoding:
    """What `decode` says of a file lets `decode_kind` skip the looking and get the same pixels."""

    @pytest.mark.parametrize("factor", [1, 2, 4, 8, 16])
    def test_the_kind_leads_to_the_same_pixels(self, factor: int):
        smooth = np.asarray(Image.fromarray(COLOURS).resize((31 * factor, 23 * factor), Image.Resampling.BICUBIC))
        decoding = Decoding(23)
        for content, expected in (
            (encoded(smooth, "JPEG"), int(math.log2(factor)) if factor <= 8 else ANY),
            (encoded(smooth, "PNG"), PLAIN_PNG if factor == 1 else ANY),
            (encoded(smooth, "BMP"), ANY),
        ):
            pixels, kind = decode.decode(tf.constant(content), decoding=decoding)
            assert kind.numpy() == expected
            for kinds in ([expected], [0, 1, 2, 3, ANY, PLAIN_PNG]):
                again = decode.decode_kind(tf.constant(content), kind, kinds=kinds, decoding=decoding)
                np.testing.assert_array_equal(again, pixels)

    @pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "I;16"])
    @pytest.mark.parametrize("transparent", [False, True])
    def test_a_png_is_plain_where_nothing_has_to_be_done_to_its_pixels(self, mode: str, transparent: bool):
        levels = COLOURS[..., 0].astype(np.uint16) * 257 if mode == "I;16" else COLOURS
        image = Image.fromarray(levels) if mode == "I;16" else Image.fromarray(COLOURS).convert(mode)
        named = {"RGB": (255, 0, 0), "L": 9, "P": 0, "1": 0, "I;16": 9}
        stream = io.BytesIO()
        image.save(stream, "PNG", **({"transparency": named[mode]} if transparent and mode in named else {}))
        content, decoding = tf.constant(stream.getvalue()), Decoding(23)
        pixels, kind = decode.decode(content, decoding=decoding)
        assert kind.numpy() == (PLAIN_PNG if mode in ("RGB", "L") and not transparent else ANY)
        again = decode.decode_kind(content, kind, kinds=[int(kind)], decoding=decoding)
        np.testing.assert_array_equal(again, pixels)

    def test_a_file_that_is_no_plain_png_any_more_is_refused(self):
        kind = {"kind": tf.constant(PLAIN_PNG), "kinds": [PLAIN_PNG], "decoding": Decoding(23)}
        other = [encoded(COLOURS, "JPEG"), encoded(COLOURS, "BMP"), b""]
        other.append(encoded(np.dstack([COLOURS, COLOURS[..., 0]]), "PNG"))
        for content in other:
            with pytest.raises(tf.errors.InvalidArgumentError, match="no plain PNG any more"):
                decode.decode_kind(tf.constant(content), **kind)


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
    @given(height=st.integers(1, 300), width=st.integers(1, 300), short_side=st.sampled_from([8, 10, 23, 80]))
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


class TestCanvas:
    def read(self, path, *, capacity: int):
        kind = tf.constant(ANY)
        return decode.read_canvas(tf.constant(str(path)), kind, kinds=[ANY], decoding=Decoding(64), capacity=capacity)

    @pytest.mark.parametrize("capacity", [23 * 31, 800])
    def test_the_rows_come_one_after_the_other(self, tmp_path, capacity: int):
        path = tmp_path / "x.png"
        path.write_bytes(encoded(COLOURS, "PNG"))
        canvas, size = self.read(path, capacity=capacity)
        assert size.numpy().tolist() == [23, 31]
        np.testing.assert_array_equal(canvas.numpy(), COLOURS.reshape(-1))

    def test_an_image_that_grew_is_refused_and_not_cut(self, tmp_path):
        path = tmp_path / "x.png"
        path.write_bytes(encoded(COLOURS, "PNG"))
        with pytest.raises(tf.errors.OpError, match="another size"):
            self.read(path, capacity=23 * 31 - 1)


def test_a_bmp_with_a_colour_palette_is_refused_and_a_grey_one_is_not():
    image = Image.fromarray(COLOURS)
    assert decoded(encoded(image.convert("L"), "BMP")).shape == (23, 31, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="palette"):
        decoded(encoded(image.convert("P", palette=Image.Palette.ADAPTIVE), "BMP"))


@pytest.mark.parametrize(
    "header", [b"RIFF\x10\0\0\0WEBPVP8X", b"RIFF\x10\0\0\0WEBP", b"BM", b"\x89PNG\r\n\x1a\n" + b"\0" * 20]
)
def test_a_header_alone_is_an_error_and_no_crash(header: bytes):
    with pytest.raises(tf.errors.OpError):
        decoded(header)


def test_a_png_that_claims_to_be_enormous_is_refused():
    content = bytearray(encoded(COLOURS, "PNG"))
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    with pytest.raises(tf.errors.OpError):
        decoded(bytes(content))
