"""Perceptual fingerprints: pictures that look alike have nearly equal ones; finds the alike among a million."""

import dataclasses
import itertools

import numpy as np
from PIL import Image

# The picture is looked at in this many pixels squared, and in FREQUENCIES of its lowest frequencies each way.
SIDE = 32
FREQUENCIES = 8
# A picture that varies less about its mean than this many grey levels (RMS) has no fingerprint: it would be noise.
FLAT = 1.0

# Bits that the codes of two near duplicates differ in at most, and cosine of their coefficients at least. Among the
# 2,527 photos of TrashNet the two keep 31 pairs, all of them one object that has hardly moved. Codes alone would add
# 12, of which 11 show different objects on the same plain ground; the most alike of these have a cosine of .917.
DISTANCE = 8
SIMILARITY = 0.93

# Codes are cut into BANDS: where at most DISTANCE bits differ, at least CLEAN bands are equal (pigeonhole).
CLEAN = 3
BANDS = DISTANCE + CLEAN
# In a bucket of more codes than this, each is compared with so many of its neighbours by value only.
LARGEST_BUCKET = 512
# The search ends when it has found so many pairs.
MOST_PAIRS = 1_000_000
CHUNK = 65536

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Orthonormal DCT-II, the constant left out: rows are frequencies 1 to FREQUENCIES.
_FREQUENCY = np.arange(1, FREQUENCIES + 1)[:, None]
_COSINES = np.sqrt(2 / SIDE) * np.cos(np.pi * (2 * np.arange(SIDE) + 1) * _FREQUENCY / (2 * SIDE))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """How one picture looks, its colours, contrast and sharpness aside.

    Attributes:
        code: 64 bits; pHash, after Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010):
            which of the lowest DCT coefficients are above their median.
        coefficients: [64] int8, these coefficients, the largest scaled to 127.
    """

    code: int
    coefficients: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearPairs:
    """Pairs of near duplicates.

    Attributes:
        rows: [P, 2] int64, the smaller row first, ascending.
        distances: [P] int64, bits that the codes differ in.
        similarities: [P] float64, cosine of the coefficients.
        crowded: pictures that were not compared with all that share a bucket with them.
        cut_short: the search ended at MOST_PAIRS.
    """

    rows: np.ndarray
    distances: np.ndarray
    similarities: np.ndarray
    crowded: int
    cut_short: bool


def fingerprint(canvas: np.ndarray, *, orientation: int = 1) -> Fingerprint | None:
    """The fingerprint of a picture; None where it is flat.

    Args:
        canvas: [h, w, 3] uint8.
        orientation: EXIF orientation by which it is turned first.
    """
    grey = upright(Image.fromarray(canvas), orientation).convert("L")
    pixels = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)
    if pixels.std() < FLAT:
        return None
    coefficients = (_COSINES @ pixels @ _COSINES.T).ravel()
    bits = coefficients > np.median(coefficients)
    largest = np.abs(coefficients).max()
    if not largest:
        return None
    return Fingerprint(
        code=int.from_bytes(np.packbits(bits).tobytes()),
        coefficients=np.round(127 * coefficients / largest).astype(np.int8),
    )


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The image, turned and mirrored as its EXIF orientation (1 to 8) says."""
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def near_pairs(codes: np.ndarray, coefficients: np.ndarray) -> NearPairs:
    """All pairs with codes within DISTANCE and coefficients of at least SIMILARITY, up to the bounds above.

    Codes that agree in CLEAN of the BANDS meet in a bucket and are compared there; every choice of bands is tried.

    Args:
        codes: [N] uint64.
        coefficients: [N, 64] int8.
    """
    count = len(codes)
    # Equal and similar codes stand side by side, also within each bucket: the sorts below are stable.
    places = np.argsort(codes, kind="stable")
    codes, coefficients = codes[places], coefficients[places]
    crowded = np.zeros(count, bool)
    found = np.empty(0, np.int64)
    for chosen in itertools.combinations(_band_masks(), CLEAN):
        keys = codes & np.bitwise_or.reduce(chosen)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        left = np.arange(count)
        for offset in range(1, LARGEST_BUCKET + 1):
            left = left[: np.searchsorted(left, count - offset)]
            left = left[keys[left] == keys[left + offset]]
            if not len(left):
                break
            pairs = _alike(codes, coefficients, order[left], order[left + offset])
            found = np.union1d(found, pairs.min(axis=1) * count + pairs.max(axis=1))
            if len(found) >= MOST_PAIRS:
                break
        else:
            crowded[order[left]] = True
        if len(found) >= MOST_PAIRS:
            break
    left, right = found // max(count, 1), found % max(count, 1)
    rows = np.sort(np.stack([places[left], places[right]], axis=1).astype(np.int64), axis=1)
    ascending = np.lexsort((rows[:, 1], rows[:, 0]))
    return NearPairs(
        rows=rows[ascending],
        distances=np.bitwise_count(codes[left] ^ codes[right]).astype(np.int64)[ascending],
        similarities=_cosines(coefficients, left, right)[ascending],
        crowded=int(crowded.sum()),
        cut_short=len(found) >= MOST_PAIRS,
    )


def _band_masks() -> list[np.uint64]:
    edges = np.linspace(0, 64, BANDS + 1).round().astype(int)
    return [np.uint64(2 ** int(end) - 2 ** int(start)) for start, end in itertools.pairwise(edges)]


def _alike(codes: np.ndarray, coefficients: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[P, 2], the near duplicates among pairs of rows."""
    close = np.bitwise_count(codes[left] ^ codes[right]) <= DISTANCE
    left, right = left[close], right[close]
    alike = _cosines(coefficients, left, right) >= SIMILARITY
    return np.stack([left[alike], right[alike]], axis=1)


def _cosines(coefficients: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    parts = [np.empty(0)]
    for start in range(0, len(left), CHUNK):
        one, other = (coefficients[rows[start : start + CHUNK]].astype(np.float64) for rows in (left, right))
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        parts.append((one * other).sum(axis=1) / lengths)
    return np.concatenate(parts)
