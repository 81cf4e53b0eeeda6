"""How far a session has moved from the pre-trained weights of its recipe, where it has kept no weights of its own."""

from data.errors import UserError
from trainer import checkpoints
from trainer.forgetting import report
from trainer.recipe import Recipe
from trainer.workdir import Workdir

BACKBONE = "backbone/"


def from_pretrained(recipe: Recipe, workdir: Workdir, *, outputs: int) -> dict[str, float | None]:
    """As `trainer.forgetting.report.drift` has it, of the layers of the backbone and the newest checkpoint.

    Builds the network with the weights that the recipe names.

    Args:
        outputs: of the network.

    Raises:
        UserError: the recipe names none, or there is no checkpoint of such a network.
    """
    if recipe.model.pretrained is None:
        raise UserError(
            "the session began with random weights",
            where="gin binding model.weights",
            expected="pre-trained weights to compare with",
            do="leave --drift out",
        )
    prefix = checkpoints.find(workdir.checkpoints, "last")
    now = {
        name.removeprefix("model/"): value
        for name, value in checkpoints.read(prefix).items()
        if name.startswith("model/")
    }
    network = recipe.model.build(image_size=recipe.image_size, classes=outputs, precision=recipe.precision)
    before = network.arrays()
    others = sorted(
        name
        for name in before
        if name.startswith(BACKBONE) and (name not in now or now[name].shape != before[name].shape)
    )
    if others:
        raise UserError(
            f"{len(others)} variables are those of another network, first: {others[0]}",
            where=str(prefix),
            expected=f"a checkpoint of {recipe.model.backbone.name}",
            do="leave --drift out",
        )
    return report.drift(before, {name: now[name] for name in before if name.startswith(BACKBONE)})
