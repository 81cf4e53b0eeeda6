"""A policy that cannot work ends the start, before anything is written."""

import pytest
import tensorflow as tf

from data.augment import operation
from data.errors import UserError
from trainer import launch, rendering
from trainer.recipe import Recipe


def a_recipe(*params: str) -> Recipe:
    launch.parse_gin(["configs/proof.gin"], list(params))
    return launch.call(Recipe)


def with_operations(*operations) -> Recipe:
    recipe = a_recipe()
    object.__setattr__(recipe, "policy", rendering.Policy(tuple(operations)))
    for stage in recipe.stages:
        object.__setattr__(stage, "policy", None)
    return recipe


@pytest.mark.parametrize(
    "pixels",
    [
        lambda images, x: images[:, :-1],
        lambda images, x: tf.reduce_mean(images, axis=-1),
        lambda images, x: images + x,
        lambda images, x: images.no_such_thing,
        lambda images, y: images,
    ],
    ids=["cut", "reduced", "not broadcast", "no attribute", "another argument"],
)
def test_a_function_of_pixels_that_fails_is_named(pixels):
    pixels.__qualname__ = "my_function"
    recipe = with_operations(operation.pixelwise("mine", ranges={"x": (0.0, 1.0)}, pixels=pixels))
    with pytest.raises(UserError, match="my_function"):
        rendering.check(recipe, recipe.stages)


def test_what_works_is_fine():
    def brighter(images, x):
        return images + x[:, None, None, None]

    recipe = with_operations(operation.pixelwise("mine", ranges={"x": (0.0, 1.0)}, pixels=brighter))
    rendering.check(recipe, recipe.stages)


def test_a_flag_that_binds_what_another_flag_has_replaced_is_an_error():
    a_recipe("policy.operations = [@flip()]")
    with pytest.raises(UserError, match=r"rotation\.degrees"):
        launch.parse_gin(["configs/quickstart.gin"], ["train.policy = @light()", "rotation.degrees = 45"])
        launch.call(Recipe)
        launch.check_consumed()


def of_matrix(matrix) -> operation.Operation:
    return operation.geometric("mine", ranges={"x": (0.0, 1.0)}, matrix=matrix)


@pytest.mark.parametrize(
    "matrix",
    [
        lambda size, x: None,
        lambda size, x: tf.no_such_thing,
        lambda size, x: {}["key"],
        lambda size, x: x.numpy(),
        lambda size, x: tf.eye(3, batch_shape=[16]),
        lambda size: 1,
    ],
    ids=["none", "attribute", "key", "only eagerly", "float32", "no number"],
)
def test_a_matrix_that_fails_is_named(matrix):
    recipe = with_operations(of_matrix(matrix))
    with pytest.raises(UserError, match="mine"):
        rendering.check(recipe, recipe.stages)


def test_a_function_of_pixels_that_cannot_be_compiled_is_named():
    def mine(images, x):
        return tf.ensure_shape(tf.py_function(lambda array: array, [images], tf.float32), images.shape)

    recipe = with_operations(operation.pixelwise("by_python", ranges={"x": (0.0, 1.0)}, pixels=mine))
    with pytest.raises(UserError, match="mine"):
        rendering.check(recipe, recipe.stages)


def test_a_choice_of_itself_is_told_in_words():
    with pytest.raises(UserError, match="refers to itself"):
        a_recipe("policy.operations = [@one_of()]", "one_of.operations = [@one_of(), @flip()]")


def test_what_no_float_holds_is_no_number():
    with pytest.raises(UserError, match="a number"):
        a_recipe(f"rotation.degrees = {10**400}")
