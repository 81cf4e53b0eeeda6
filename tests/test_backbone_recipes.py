"""configs/backbones: each backbone with the size and a policy that suit it."""

import re

import pytest

from trainer import launch
from trainer.models.backbones import BACKBONES
from trainer.recipe import Recipe

FOLDER = launch.PROJECT / "configs" / "backbones"
# The proofs' own, without pre-trained weights.
WITHOUT = {"convnet"}


def test_every_pretrained_backbone_has_one():
    assert {path.stem for path in FOLDER.glob("*.gin")} == BACKBONES.keys() - WITHOUT


@pytest.mark.parametrize("name", sorted(BACKBONES.keys() - WITHOUT))
def test_it_sets_the_native_size_a_policy_and_an_even_batch_on_top_of_any_recipe(name):
    file = FOLDER / f"{name}.gin"
    for base in ("extend", "finetune"):
        launch.parse_gin([f"configs/{base}.gin", str(file)], ["data_dir = 'photos'"])
        recipe = launch.call(Recipe)
        assert recipe.model.backbone.name == name
        assert recipe.image_size == recipe.model.backbone.native_size
        assert len(recipe.policy.operations) >= 2
        assert recipe.batch_size % 2 == 0
    assert re.findall(r"--gin_file=(configs/backbones/\S+)", file.read_text()) == [f"configs/backbones/{name}.gin"]
