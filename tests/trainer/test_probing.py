"""What is measured is measured on images of the source that decode."""

import numpy as np
import pytest

from trainer import launch, probing
from trainer.recipe import Recipe


@pytest.fixture
def listed(photos):
    """A recipe and the table of a folder with four images, two of them torn."""
    root = photos({f"{kind}/{index}.png": (18, 20) for kind in ("cat", "dog") for index in range(2)})
    for kind in ("cat", "dog"):
        (root / kind / "0.png").write_bytes(b"torn")
    launch.parse_gin(["tests/photos.gin"], [f"data_dir = '{root}'"])
    recipe = launch.call(Recipe)
    return recipe, launch.call(recipe.source)


def test_images_that_do_not_decode_are_left_out(listed):
    recipe, table = listed
    frozen = probing.sample(recipe, table)
    assert sorted(frozen.examples.names.tolist()) == [b"cat/1.png", b"dog/1.png"]
    assert frozen.inspection.sizes.tolist() == [[18, 20], [18, 20]]
    assert frozen.parts().keys() == {"train"}


def test_where_none_decodes_the_message_names_them(listed, complaint):
    recipe, table = listed
    with complaint("cat/0.png"):
        probing.sample(recipe, table.take(np.array([0, 2])))


def test_a_sample_is_spread_evenly_over_the_table(small):
    launch.parse_gin([small], [])
    recipe = launch.call(Recipe)
    frozen = probing.sample(recipe, launch.call(recipe.source), count=4)
    assert [int(name[-2:]) for name in frozen.examples.names.tolist()] == [0, 19, 39, 59]
