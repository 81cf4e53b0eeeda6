"""Pairs are mixed, and the share of each label is the share of its pixels."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from data.augment import mixing
from data.augment.operation import one_of, sometimes
from data.augment.policy import Policy
from tests import pixels

COUNT = 4000


def draw(operation, count: int = COUNT, size: tuple[int, int] = (40, 100)) -> np.ndarray:
    """[count, 5], the arrays of as many pairs."""
    numbers = {name: tf.constant(value) for name, value in pixels.drawn(operation, count, size).items()}
    return operation.arrays(numbers, size)[0].numpy()


def mixed(images: np.ndarray, operation, positions: int = 0, *, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Images and the shares of their labels, of a policy of this one operation."""
    policy = Policy((operation,))
    drawn = policy.draw(tf.range(positions, positions + len(images), dtype=tf.int64), seed=1, size=size)
    return pixels.run(images, policy.program, drawn.arrays), drawn.share.numpy()


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.2, 0.4, 1.0, 3.0, 32.0, 100.0])
def test_the_share_of_mixup_is_distributed_as_beta(alpha: float):
    found = draw(mixing.mixup(alpha=alpha))[:, 0]
    assert (found >= 0).all() and (found <= 1).all()
    # The table misplaces 1 / QUANTILES of the probability at most. A false alarm once in a hundred thousand.
    # Not nearer to 1 than float64 comes: of Beta(0.01, 0.01), a third rounds to exactly 1.
    near = np.geomspace(1e-300, 0.5, 2000)
    points = np.concatenate([near, 1 - near[near > 1e-15]])
    below = np.searchsorted(np.sort(found), points, side="right") / COUNT
    distance = np.abs(below - scipy.stats.beta(alpha, alpha).cdf(points)).max()
    assert distance < scipy.stats.kstwo(COUNT).ppf(1 - 1e-5) + 1 / mixing.QUANTILES


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("size", [(1000, 1000), (600, 2400)])
def test_the_box_of_cutmix_has_the_area_of_a_share_drawn_from_beta(alpha: float, size: tuple[int, int]):
    operation = mixing.cutmix(alpha=alpha)
    _, top, left, bottom, right = draw(operation, size=size).T
    height, width = bottom - top, right - left
    whole = (top > 0) & (left > 0) & (bottom < size[0]) & (right < size[1])
    # The aspect of the image, in whole pixels, whatever its shape; a box cut off has less.
    assert whole.mean() > 0.05
    assert np.abs(height / size[0] - width / size[1])[whole].max() <= 1 / min(size)
    # As drawn, before the cut: lambda is the first of its numbers.
    uniform = np.random.default_rng(0).uniform(size=(COUNT, operation.count))[:, 0]
    wanted = 1 - scipy.stats.beta(alpha, alpha).ppf(uniform)
    # Of each side less than a pixel is lost, and lambda is out by a cell of the table in probability.
    low, high = (1 - scipy.stats.beta(alpha, alpha).ppf(np.clip(uniform + d / 4096, 0, 1)) for d in (1, -1))
    area = height * width / (size[0] * size[1])
    assert (area <= high + 1e-9).all()
    least = (np.sqrt(low) - 1 / min(size)).clip(0) ** 2
    assert (area >= least - 1e-9)[whole].all()
    assert np.corrcoef(area[whole], wanted[whole])[0, 1] > 0.99


def test_the_centre_of_a_box_is_anywhere():
    _, top, left, bottom, right = draw(mixing.cutmix(alpha=100.0), size=(300, 700)).T
    # Boxes of about half the area: their centres are even where no border cuts them off.
    for first, last, length in ((top, bottom, 300), (left, right, 700)):
        centre = (first + last) / 2 / length
        free = (first > 0) & (last < length)
        edges = np.quantile(centre[free], [0.05, 0.95])
        kept = centre[free][(centre[free] > edges[0]) & (centre[free] < edges[1])]
        assert scipy.stats.kstest((kept - kept.min()) / np.ptp(kept), "uniform").pvalue > 1e-5


@settings(max_examples=30)
@given(start=st.integers(0, 2**40))
@pytest.mark.parametrize("make", [mixing.mixup, mixing.cutmix])
def test_the_share_of_a_label_is_the_share_of_its_pixels(make, start: int):
    """Even positions all 0, odd ones all 1: what is left of the own value is the share."""
    images = np.zeros((pixels.BATCH, *pixels.SIZE, 3), np.uint8)
    images[1::2] = 1
    found, share = mixed(images, make(alpha=1.0), 2 * start, size=pixels.SIZE)
    ones = found.mean(axis=(1, 2, 3), dtype=np.float64)
    own = np.where(images[:, 0, 0, 0] == 1, ones, 1 - ones)
    # Roundings of the share, of 1 less it and of their sum.
    np.testing.assert_allclose(share, own, rtol=0, atol=4 * pixels.ULP)
    # Both of a pair keep the same.
    np.testing.assert_array_equal(share[::2], share[1::2])


@pytest.mark.parametrize("size", [(11, 13), (3, 5), (64, 48), (1, 1)])
def test_the_partner_of_a_position_is_its_neighbour(size: tuple[int, int]):
    images = pixels.noise(pixels.BATCH, *size)
    partners = images[np.arange(pixels.BATCH) ^ 1]
    found, share = mixed(images, mixing.mixup(alpha=1.0), size=size)
    weight = share[:, None, None, None].astype(np.float64)
    expected = weight * images + (1 - weight) * partners
    # Two products and a sum of at most 255, and 1 less the share.
    np.testing.assert_allclose(found, expected, rtol=0, atol=4 * 255 * pixels.ULP)
    found, share = mixed(images, mixing.cutmix(), 10, size=size)
    own = (found == images).all(axis=-1)
    assert (own | (found == partners).all(axis=-1)).all()
    # By chance the partner's pixel is the same; never so in these pictures.
    np.testing.assert_allclose(own.mean(axis=(1, 2)), share, rtol=0, atol=pixels.ULP)


def test_a_pair_is_mixed_alike_whatever_the_batch():
    images = pixels.fractions(12, *pixels.SIZE)
    for operation in (mixing.mixup(), mixing.cutmix()):
        whole, share = mixed(images, operation, 40, size=pixels.SIZE)
        for size in (2, 6):
            for at in range(0, 12, size):
                part, shares = mixed(images[at : at + size], operation, 40 + at, size=pixels.SIZE)
                np.testing.assert_array_equal(part, whole[at : at + size])
                np.testing.assert_array_equal(shares, share[at : at + size])


def test_an_odd_batch_is_refused():
    with pytest.raises(ValueError, match="a batch of 3 to be mixed in pairs"):
        mixed(pixels.noise(3, *pixels.SIZE), mixing.mixup(), size=pixels.SIZE)


def test_pairs_that_are_passed_over_keep_bits_and_label():
    images = pixels.fractions(40, *pixels.SIZE)
    for operation in (mixing.mixup(alpha=1.0), mixing.cutmix()):
        found, share = mixed(images, sometimes(operation, 0.5), size=pixels.SIZE)
        passed = share == 1
        assert 0.1 < passed.mean() < 0.9
        np.testing.assert_array_equal(passed[::2], passed[1::2])
        np.testing.assert_array_equal(found[passed], images[passed])
        always, shares = mixed(images, operation, size=pixels.SIZE)
        assert (shares < 1).all() and (always != images).any(axis=(1, 2, 3)).all()


def test_one_of_both_mixes_each_pair_in_one_way():
    images = np.zeros((40, *pixels.SIZE, 3), np.uint8)
    images[1::2] = 100
    choice = one_of(operations=[mixing.mixup(alpha=1.0), mixing.cutmix()], weights=[1, 2])
    assert choice.slots == (mixing.Mix(),) and choice.paired
    found, share = mixed(images, choice, size=pixels.SIZE)
    boxed = np.isin(found, (0, 100)).all(axis=(1, 2, 3))
    flat = (found == found[:, :1, :1]).all(axis=(1, 2, 3))
    assert (boxed | flat).all() and boxed.any() and flat.any()
    np.testing.assert_array_equal(boxed[::2], boxed[1::2])
    own = found.mean(axis=(1, 2, 3), dtype=np.float64) / 100
    np.testing.assert_allclose(share, np.where(np.arange(40) % 2, own, 1 - own), rtol=0, atol=4 * pixels.ULP)
    numbers = choice.numbers(tf.constant(np.random.default_rng(0).uniform(size=(COUNT, choice.count))), pixels.SIZE)
    # Five standard deviations.
    cut = numbers["0.one_of.chosen"].numpy().mean()
    assert abs(cut - 2 / 3) < 5 * np.sqrt(2 / 9 / COUNT)


@pytest.mark.parametrize("make", [mixing.mixup, mixing.cutmix])
@pytest.mark.parametrize("alpha", [0, -1, 101, "0.2", None, float("nan"), True])
def test_a_wrong_alpha_is_the_users_error(make, alpha, complaint):
    with complaint("alpha", "expected"):
        make(alpha=alpha)
