"""What trains in each stage, layer by layer: written when a run starts, since only then is there a network to ask."""

import math

from trainer.models.network import layer_of
from trainer.optimization.stages import Plan
from trainer.recipe import Recipe
from trainer.state import TrainingState, batchnorm_mode


def describe(recipe: Recipe, plan: Plan, state: TrainingState) -> dict:
    """`stages.json`.

    Returns:
        stages: a list of dicts with name, start, stop, trains, batchnorm, image_size, operations; layers: a list of
        dicts with name, parameters, whether it is a batch normalisation, and stages, for each of them the number of
        parameters that train, and the least and the greatest factor of their learning rate (null where nothing trains).
    """
    trainables = [state.trainable[planned.stage.name] for planned in plan.stages]
    layers: dict[str, list[str]] = {}
    for name in state.network.variables:
        if not name.endswith("/seed_generator_state"):
            layers.setdefault(layer_of(name), []).append(name)
    sizes = {name: math.prod(variable.shape) for name, variable in state.network.variables.items()}

    def cell(names: list[str], index: int) -> dict:
        factors = [trainables[index].factors[name] for name in names if name in trainables[index].factors]
        return {
            "trained": sum(sizes[name] for name in names if name in trainables[index].factors),
            "low": min(factors, default=None),
            "high": max(factors, default=None),
        }

    return {
        "stages": [
            {
                "name": planned.stage.name,
                "start": planned.start,
                "stop": planned.stop,
                "trains": list(planned.stage.trains),
                "batchnorm": batchnorm_mode(recipe, planned.stage),
                "image_size": recipe.size(planned.stage)[0],
                "operations": [operation.name for operation in (planned.stage.policy or recipe.policy).operations],
            }
            for planned in plan.stages
        ],
        "layers": [
            {
                "name": layer,
                "parameters": sum(sizes[name] for name in names),
                "normalises": any(name.endswith("/moving_mean") for name in names),
                "stages": [cell(names, index) for index in range(len(trainables))],
            }
            for layer, names in layers.items()
        ],
    }
