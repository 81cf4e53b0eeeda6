"""Images that need no files are always the same."""

import numpy as np
import pytest

from data import sources


@pytest.fixture(scope="module")
def digits():
    return sources.digits()


def test_digits_are_five_thousand_and_five_hundred_a_class(digits):
    assert len(digits) == 5000
    assert digits.pixels.shape == (5000, 28, 28, 3)
    assert np.bincount(digits.labels).tolist() == [500] * 10
    assert digits.class_names == tuple("0123456789")
    assert len(set(digits.names.tolist())) == 5000
    for channel in (1, 2):
        np.testing.assert_array_equal(digits.pixels[..., channel], digits.pixels[..., 0])
    # A one has less ink than a zero.
    ink = [digits.pixels[digits.labels == label].mean() for label in (0, 1)]
    assert ink[0] > 2 * ink[1] > 0


def test_synthetic_images_have_the_size_and_classes_asked_for_and_are_the_same_each_time():
    arguments = {"examples": 30, "classes": 3, "height": 5, "width": 7, "seed": 4}
    images = sources.synthetic(**arguments)
    assert images.pixels.shape == (30, 5, 7, 3)
    assert np.bincount(images.labels).tolist() == [10] * 3
    np.testing.assert_array_equal(images.pixels, sources.synthetic(**arguments).pixels)
    assert (images.pixels != sources.synthetic(**arguments | {"seed": 5}).pixels).any()


def test_synthetic_classes_can_be_told_apart_by_their_tint():
    images = sources.synthetic(examples=30, classes=3, noise=8.0)
    tints = images.pixels.mean(axis=(1, 2))
    for label in range(3):
        own = tints[images.labels == label]
        others = tints[images.labels != label]
        assert np.ptp(own, axis=0).max() < np.abs(others - own.mean(axis=0)).max(axis=1).min()


def test_some_digits_alone_keep_their_names_and_take_the_order_asked_for(digits):
    some = sources.digits(classes=(7, 3))
    assert some.class_names == ("7", "3") and np.bincount(some.labels).tolist() == [500, 500]
    same = np.isin(digits.labels, (7, 3))
    np.testing.assert_array_equal(some.names, digits.names[same])
    np.testing.assert_array_equal(some.pixels, digits.pixels[same])
    np.testing.assert_array_equal(np.array([7, 3])[some.labels], digits.labels[same])


@pytest.mark.parametrize("classes", [(), (1, 1), (10, 2), ("1", "2"), (True, 2), "12", 3, None])
def test_digits_that_there_are_not_are_the_users_error(classes, complaint):
    with complaint(repr(classes), "digits.classes"):
        sources.digits(classes=classes)
