"""Pictures that a person would call the same have near fingerprints; the search finds every such pair."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from data import fingerprints
from data.fingerprints import DISTANCE, SIMILARITY, fingerprint, near_pairs


def picture(seed, size=(96, 128)):
    """Smooth blobs of colour: like a photo, most of it lies in the low frequencies."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def pairs(pictures):
    found = [fingerprint(each) for each in pictures]
    return near_pairs(np.array([each.code for each in found], np.uint64), np.stack([f.coefficients for f in found]))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("brighter", lambda image: np.clip(image.astype(int) + 20, 0, 255).astype(np.uint8)),
        ("smaller", lambda image: np.asarray(Image.fromarray(image).resize((64, 48)))),
        (
            "noisy",
            lambda image: np.clip(image + np.random.default_rng(0).normal(0, 8, image.shape), 0, 255).astype("u1"),
        ),
        ("grey", lambda image: np.asarray(Image.fromarray(image).convert("L").convert("RGB"))),
    ],
)
def test_a_picture_and_its_changed_copy_are_near_duplicates(name, change):
    originals = [picture(seed) for seed in range(20)]
    found = pairs([*originals, *map(change, originals)])
    assert found.rows.tolist() == [[row, row + 20] for row in range(20)]


def test_a_mirrored_picture_is_another_one():
    assert not len(pairs([picture(1), picture(1)[:, ::-1]]).rows)


def test_a_picture_without_contrast_has_no_fingerprint():
    assert fingerprint(np.full((8, 8, 3), 77, np.uint8)) is None
    assert fingerprint(np.zeros((1, 1, 3), np.uint8)) is None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_fingerprint_is_that_of_the_picture_the_right_way_up(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture(3)).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        turned = np.asarray(ImageOps.exif_transpose(image))
    expected, found = fingerprint(turned), fingerprint(picture(3), orientation=orientation)
    assert found.code == expected.code and (found.coefficients == expected.coefficients).all()


@given(st.integers(0, 2**32), st.lists(st.sets(st.integers(0, 63), max_size=10), min_size=1, max_size=12))
def test_the_search_finds_what_comparing_all_with_all_finds(seed, flipped):
    """Codes around a few centres, so that distances on both sides of the threshold occur."""
    random = np.random.default_rng(seed)
    centres = random.integers(0, 2**64, 3, dtype=np.uint64)
    codes = np.array([centres[i % 3] ^ np.uint64(sum(2**bit for bit in bits)) for i, bits in enumerate(flipped)])
    coefficients = np.clip(100 + random.normal(0, 40, (len(codes), 64)), -127, 127).astype(np.int8)

    def alike(one, other):
        left, right = coefficients[one].astype(float), coefficients[other].astype(float)
        cosine = left @ right / np.linalg.norm(left) / np.linalg.norm(right)
        return bin(int(codes[one] ^ codes[other])).count("1") <= DISTANCE and cosine >= SIMILARITY

    expected = [list(pair) for pair in itertools.combinations(range(len(codes)), 2) if alike(*pair)]
    found = near_pairs(codes, coefficients)
    assert found.rows.tolist() == expected
    assert not found.crowded and not found.cut_short


def test_nothing_and_one_picture_have_no_pairs():
    for count in (0, 1):
        assert not len(near_pairs(np.zeros(count, np.uint64), np.ones((count, 64), np.int8)).rows)


def test_a_crowd_of_equal_looks_is_searched_in_part_and_says_so(monkeypatch):
    monkeypatch.setattr(fingerprints, "LARGEST_BUCKET", 5)
    found = near_pairs(np.zeros(50, np.uint64), np.ones((50, 64), np.int8))
    assert found.crowded and len(found.rows) == sum(50 - offset for offset in range(1, 6))


def test_a_flood_of_pairs_ends_the_search_and_says_so(monkeypatch):
    monkeypatch.setattr(fingerprints, "MOST_PAIRS", 100)
    found = near_pairs(np.zeros(90, np.uint64), np.ones((90, 64), np.int8))
    assert found.cut_short and 100 <= len(found.rows) < 90 * 89 / 2
