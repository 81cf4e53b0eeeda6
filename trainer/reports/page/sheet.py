"""A few training images as an evaluation sees them and as the training draws them, for a report."""

from PIL import Image

from data.frozen import Frozen
from trainer import preview, preview_material
from trainer.preview import Section
from trainer.recipe import Recipe
from trainer.reports import pages
from trainer.reports.console import Console

EXAMPLES, DRAWS = 4, 5
# Pictures up to this side are kept exact; others are shown no larger.
EXACT = 64


def section(recipe: Recipe, frozen: Frozen, console: Console) -> Section | None:
    """The pictures; None where nothing augments.

    Args:
        console: is told of images that do not decode any more.

    Raises:
        UserError: none of them decodes.
    """
    if not any((stage.policy or recipe.policy).operations for stage in recipe.stages):
        return None
    with preview_material.material(
        recipe,
        None,
        console,
        frozen=frozen,
        wanted=[str(EXAMPLES)],
        draws=DRAWS,
        stage=None,
        split="train",
        replicas=1,
    ) as material:
        return preview.make(recipe, material, split="train", magnitudes=False).sections[0]


def address(picture: preview.Picture) -> str:
    """`data:` address of a picture of the section."""
    image = Image.fromarray(picture.pixels)
    if max(image.size) <= EXACT:
        return pages.address(image, "PNG")
    image.thumbnail((pages.THUMBNAIL, pages.THUMBNAIL))
    return pages.address(image, "JPEG", quality=80)
