"""EXIF orientation found in the graph is the one that Pillow finds."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data import exif
from data.inspection import orientation

XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description {}/></x:xmpmeta>'
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def found():
    """What the graph finds in the bytes of a file."""
    graph = tf.function(exif.orientation, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
    return lambda encoded: int(graph(tf.constant(encoded)))


def written(form, value=None, *, order=b"MM", kind="H", before=b"", **more):
    """An image whose first directory has some entries, and the orientation as one of them."""
    byte = ">" if order == b"MM" else "<"
    entries = [struct.pack(f"{byte}HHI4s", 0x0100, 4, 1, struct.pack(f"{byte}I", 7))]
    if value is not None:
        stated = struct.pack(f"{byte}{kind}", value).ljust(4, b"\0")
        entries.append(struct.pack(f"{byte}HHI4s", 0x0112, 3 if kind == "H" else 4, 1, stated))
    directory = struct.pack(f"{byte}H", len(entries)) + b"".join(entries) + bytes(4)
    tiff = order + struct.pack(f"{byte}HI", 42, 8 + len(before)) + before + directory
    file = io.BytesIO()
    IMAGE.save(file, form, exif=b"Exif\0\0" + tiff, **more)
    return file.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("order", "kind", "before"),
    [(b"MM", "H", b""), (b"II", "H", b"four"), (b"MM", "I", b"twelve bytes"), (b"II", "I", b"")],
)
def test_every_orientation_in_every_format_and_order_of_bytes(found, form, order, kind, before):
    for value in range(1, 9):
        encoded = written(form, value, order=order, kind=kind, before=before)
        assert found(encoded) == orientation(encoded) == value


@pytest.mark.parametrize("value", [0, 9, 300])
def test_numbers_that_are_no_orientation_say_nothing(found, value):
    encoded = written("JPEG", value)
    assert found(encoded) == orientation(encoded) == 1


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("stated", ['tiff:Orientation="6"', "><tiff:Orientation>6</tiff:Orientation><a"])
def test_xmp_says_it_where_exif_does_not(found, form, stated):
    file = io.BytesIO()
    if form == "PNG":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.format(stated))
        IMAGE.save(file, form, pnginfo=info)
        assert found(file.getvalue()) == 6
        return
    IMAGE.save(file, form, xmp=XMP.format(stated).encode())
    assert found(file.getvalue()) == orientation(file.getvalue()) == 6
    for value, expected in ((None, 6), (3, 3)):
        encoded = written(form, value, xmp=XMP.format(stated).encode())
        assert found(encoded) == orientation(encoded) == expected


def test_what_says_nothing_is_upright(found):
    for form in ("JPEG", "PNG", "WEBP", "BMP", "GIF"):
        file = io.BytesIO()
        IMAGE.save(file, form)
        assert found(file.getvalue()) == orientation(file.getvalue()) == 1


# The image that follows another in a file of several is not the one that is shown.
def test_a_second_image_behind_the_first_says_nothing(found):
    file = io.BytesIO()
    IMAGE.save(file, "JPEG")
    assert found(file.getvalue() + written("JPEG", 6)) == 1


@settings(max_examples=150)
@given(data=st.data())
def test_damage_is_never_an_error(found, data):
    content = bytearray(written(data.draw(st.sampled_from(["JPEG", "PNG", "WEBP"])), 6, order=b"II", before=b"1234"))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, min(len(content), 90) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    assert found(bytes(content)) in range(1, 9)
