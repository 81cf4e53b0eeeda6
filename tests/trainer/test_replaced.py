"""A later file or flag may name another policy, head or stage; what the earlier one was made of need not be removed."""

import numpy as np
import pytest

from data.errors import UserError
from trainer import launch
from trainer.recipe import Recipe


@pytest.fixture
def recipe_of(tmp_path):
    def read(*params: str, files: tuple[str, ...] = ()) -> Recipe:
        launch.parse_gin(["configs/proof.gin", *files], list(params))
        recipe = launch.call(Recipe)
        launch.call(recipe.source)
        launch.call(recipe.split, launch.call(recipe.source))
        for stage in recipe.stages:
            stage.schedule(np.arange(2), 10, lambda duration, where: 1)
        launch.call(recipe.optimizer.make)
        launch.check_consumed()
        return recipe

    return read


def test_a_recipe_as_it_is_uses_all_its_bindings(recipe_of):
    assert [operation.name for operation in recipe_of().policy.operations] == ["rotation", "flip"]


def test_a_flag_may_name_other_operations(recipe_of):
    recipe = recipe_of("policy.operations = [@flip()]")
    assert [operation.name for operation in recipe.policy.operations] == ["flip"]


def test_a_second_file_may_name_another_policy(recipe_of):
    recipe = recipe_of(files=("configs/policies/light.gin",))
    assert "rotation" not in [operation.name for operation in recipe.policy.operations]


def test_what_a_replaced_stage_was_made_of_is_forgotten_through_all_its_references(recipe_of):
    recipe = recipe_of("train.stages = [@all/stage()]")
    assert [stage.name for stage in recipe.stages] == ["all"]


def test_so_is_the_policy_of_a_replaced_stage_and_all_that_it_was_made_of(recipe_of):
    of_all = next(stage.policy for stage in recipe_of().stages if stage.name == "all")
    assert [operation.name for operation in of_all.operations] == ["shear", "flip", "random_erasing", "one_of"]
    recipe = recipe_of("train.stages = [@head/stage()]")
    assert [stage.policy for stage in recipe.stages] == [None]


def test_what_was_never_used_is_still_an_error(recipe_of):
    with pytest.raises(UserError, match=r"shift\.width"):
        recipe_of("policy.operations = [@flip()]", "shift.width = 0.1")
    with pytest.raises(UserError, match=r"zoom\.low"):
        recipe_of("zoom.low = 0.5")


def test_the_next_recipe_starts_from_nothing(recipe_of):
    recipe_of("policy.operations = [@flip()]")
    with pytest.raises(UserError, match=r"rotation\.degrees"):
        launch.parse_gin(["configs/benchmark.gin"], ["policy.operations = []", "rotation.degrees = 1"])
        launch.parse_gin([], ["rotation.degrees = 1"])
        launch.check_consumed()
