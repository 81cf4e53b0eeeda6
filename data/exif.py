"""How a file says it is to be turned, found with TensorFlow's operations alone: for graphs that run without Python."""

import tensorflow as tf

# EXIF: CIPA DC-008. JPEG segments: ITU-T T.81. XMP in them: Adobe XMP part 3.
TAG, SHORT, LONG = 0x0112, 3, 4
ENTRY = 12
APP1, SCAN, END = 0xE1, 0xDA, 0xD9
EXIF, XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
ORIENTATION = b"tiff:Orientation"


def orientation(encoded: tf.Tensor) -> tf.Tensor:
    """What `data.inspection.orientation` finds with Pillow, but for profiles that PNG keeps as text.

    Args:
        encoded: scalar string, the bytes of a JPEG, PNG or WebP; others say nothing.

    Returns:
        scalar int32, 1 to 8; 1 where the file says nothing, or nothing that can be read.
    """
    exif, xmp = tf.cond(
        tf.strings.substr(encoded, 0, 3) == b"\xff\xd8\xff",
        lambda: _of_jpeg(encoded),
        lambda: _of_others(encoded),
    )
    stated = _in_exif(exif)
    stated = tf.where(stated < 0, _in_xmp(xmp), stated)
    return tf.where((stated >= 1) & (stated <= 8), stated, 1)


def _of_jpeg(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The first EXIF and the first XMP segment in front of the pixels, without what introduces them."""
    data = tf.io.decode_raw(encoded, tf.uint8)
    length = tf.size(data)

    def byte(at: tf.Tensor) -> tf.Tensor:
        return tf.cast(data[tf.minimum(at, length - 1)], tf.int32)

    def begins(at: tf.Tensor, magic: bytes) -> tf.Tensor:
        return tf.strings.substr(encoded, tf.minimum(at, length), len(magic)) == magic

    def follows(at: tf.Tensor, exif: tf.Tensor, xmp: tf.Tensor) -> tf.Tensor:
        marker = byte(at + 1)
        return (at + 4 <= length) & (byte(at) == 0xFF) & (marker != SCAN) & (marker != END)

    def segment(at: tf.Tensor, exif: tf.Tensor, xmp: tf.Tensor) -> tuple[tf.Tensor, ...]:
        marker, size = byte(at + 1), 256 * byte(at + 2) + byte(at + 3)
        body = tf.strings.substr(encoded, at + 4, tf.maximum(size - 2, 0))

        def taken(found: tf.Tensor, magic: bytes) -> tf.Tensor:
            ours = (marker == APP1) & (tf.strings.length(found) == 0) & begins(at + 4, magic)
            return tf.where(ours, tf.strings.substr(body, len(magic) * tf.cast(ours, tf.int32), size), found)

        # 0xFF in front of a marker fills up.
        return tf.where(marker == 0xFF, at + 1, at + 2 + tf.maximum(size, 2)), taken(exif, EXIF), taken(xmp, XMP)

    return tf.while_loop(follows, segment, (tf.constant(2), tf.constant(b""), tf.constant(b"")))[1:]


def _of_others(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """What follows the names of their chunks: of PNG the EXIF at once, of WebP its length and perhaps a second name."""

    def behind(text: tf.Tensor, name: bytes) -> tf.Tensor:
        parts = tf.strings.split(text, name, maxsplit=1)
        return tf.cond(tf.size(parts) > 1, lambda: parts[1], lambda: tf.constant(b""))

    is_png = tf.strings.substr(encoded, 0, 4) == b"\x89PNG"
    is_webp = tf.strings.substr(encoded, 0, 4) == b"RIFF"

    def of_webp() -> tf.Tensor:
        found = behind(encoded, b"EXIF")
        skipped = 4 + 6 * tf.cast(tf.strings.substr(found + 12 * "\0", 4, 6) == EXIF, tf.int32)
        return tf.strings.substr(found + 12 * "\0", skipped, tf.strings.length(encoded))

    exif = tf.case([(is_png, lambda: behind(encoded, b"eXIf")), (is_webp, of_webp)], default=lambda: tf.constant(b""))
    return exif, tf.where(is_png | is_webp, encoded, b"")


def _in_exif(tiff: tf.Tensor) -> tf.Tensor:
    """The orientation in the first directory of a TIFF header; -1: it says none."""
    data = tf.cast(tf.io.decode_raw(tiff, tf.uint8), tf.int32)
    little = tf.strings.substr(tiff + 2 * "\0", 0, 2) == b"II"
    known = little | (tf.strings.substr(tiff + 2 * "\0", 0, 2) == b"MM")

    def number(columns: tf.Tensor) -> tf.Tensor:
        """[..., n] bytes -> [...]."""
        count = columns.shape[-1]
        ascending = tf.constant([256**place for place in range(count)])
        return tf.reduce_sum(columns * tf.where(little, ascending, ascending[::-1]), axis=-1)

    def found() -> tf.Tensor:
        start = tf.clip_by_value(number(tf.ensure_shape(data[4:8], [4])), 0, tf.size(data) - 2)
        count = number(tf.ensure_shape(data[start : start + 2], [2]))
        room = tf.minimum(count, (tf.size(data) - start - 2) // ENTRY)
        entries = tf.reshape(data[start + 2 : start + 2 + ENTRY * room], [-1, ENTRY])
        tags, kinds = number(entries[:, :2]), number(entries[:, 2:4])
        values = tf.where(kinds == LONG, number(entries[:, 8:12]), number(entries[:, 8:10]))
        stated = tf.boolean_mask(values, (tags == TAG) & ((kinds == SHORT) | (kinds == LONG)))
        return tf.concat([stated, [-1]], axis=0)[0]

    return tf.cond(known & (tf.size(data) >= 10), found, lambda: tf.constant(-1))


def _in_xmp(text: tf.Tensor) -> tf.Tensor:
    """The digit behind the name, as an attribute or as an element; -1: there is none."""
    parts = tf.strings.split(text, ORIENTATION, maxsplit=1)

    def digit() -> tf.Tensor:
        text = parts[1] + 3 * "\0"

        def behind(start: int, count: int) -> tf.Tensor:
            return tf.strings.substr(text, start, count)

        at = tf.where(behind(0, 2) == b'="', behind(2, 1), tf.where(behind(0, 1) == b">", behind(1, 1), "\0"))
        code = tf.cast(tf.io.decode_raw(at, tf.uint8)[0], tf.int32) - ord("0")
        return tf.where((code >= 0) & (code <= 9), code, -1)

    return tf.cond(tf.size(parts) > 1, digit, lambda: tf.constant(-1))
