"""What an `ImageDataGenerator` does, as a recipe of Onward."""

from typing import TYPE_CHECKING

import numpy as np

from data.augment.statistics import EPSILON

if TYPE_CHECKING:
    from data.augment.imagedatagenerator import ImageDataGenerator

INTERPOLATIONS = ("nearest", "bilinear")


def recipe(generator: "ImageDataGenerator") -> str:
    """gin bindings, one a line; what gin cannot say, or Onward does otherwise, stands in a comment before them."""
    operations, bindings, notes = _policy(generator)
    lines = [f"# {note}" for note in notes]
    lines += ["train.policy = @policy()", f"policy.operations = [{', '.join(f'@{name}()' for name in operations)}]"]
    lines += bindings
    lines += ["train.fit = 'stretch'", f"train.fill = {generator.fill_mode!r}"]
    if generator.fill_mode == "constant":
        if 0 <= generator.cval <= 255:
            lines.append(f"train.fill_value = {(float(generator.cval),) * 3}")
        else:
            lines.append(
                f"# cval = {generator.cval!r}: a fill value is a level, 0..255; choose one for train.fill_value"
            )
    order = generator.interpolation_order
    if order > 1:
        lines.append(f"# interpolation_order = {order}: bicubic is the nearest that Onward has")
    lines.append(f"train.interpolation = {(*INTERPOLATIONS, 'bicubic')[min(order, 2)]!r}")
    if generator.validation_split:
        lines += [
            "train.split = @split_as_keras",
            "split_as_keras.rule = 'imagedatagenerator'",
            f"split_as_keras.validation = {float(generator.validation_split)!r}",
        ]
    return "\n".join([*lines, *_normalisation(generator), ""])


def _plain(value):
    """Numbers and lists that gin reads."""
    if isinstance(value, list | tuple | range | np.ndarray):
        return [_plain(entry) for entry in value]
    return int(value) if isinstance(value, int | np.integer) else float(value)


def _policy(generator: "ImageDataGenerator") -> tuple[list[str], list[str], list[str]]:
    """Names of operations in the order of Keras, their bindings, and what to know of them."""
    operations, bindings, notes = [], [], []

    def add(name: str, **values) -> None:
        operations.append(name)
        bindings.extend(f"{name}.{argument} = {value!r}" for argument, value in values.items())

    if generator.rotation_range:
        add("rotation", degrees=abs(_plain(generator.rotation_range)))
    # Keras' `apply_affine_transform` swaps the axes.
    across, down = (
        _plain(value) if np.any(value) else 0 for value in (generator.height_shift_range, generator.width_shift_range)
    )
    if across or down:
        add("shift", width=across, height=down)
        notes.append("shift.width is Keras' height_shift_range: Keras moves along the width by it, and the other way")
    if generator.shear_range:
        add("shear", degrees=abs(_plain(generator.shear_range)))
    low, high = map(_plain, generator.zoom_range)
    if low <= 0:
        notes.append(f"zoom_range = {generator.zoom_range}: a factor is above 0; raise the lowest, then use zoom")
    elif (low, high) != (1, 1):
        add("zoom", low=low, high=high)
    if generator.horizontal_flip or generator.vertical_flip:
        add(
            "flip",
            horizontal=0.5 if generator.horizontal_flip else 0.0,
            vertical=0.5 if generator.vertical_flip else 0.0,
        )
    if generator.channel_shift_range:
        add("channel_shift", intensity=min(255, abs(_plain(generator.channel_shift_range))))
        notes.append("channel_shift holds pixels in 0..255, Keras between the least and the largest of the image")
    if generator.brightness_range is not None:
        low, high = map(_plain, generator.brightness_range)
        add("brightness", low=max(0, low), high=max(0, high))
        notes.append("brightness keeps fractions of levels, Keras cuts them off")
    if generator.preprocessing_function is not None:
        notes.append(
            "preprocessing_function: leave it out if it is the backbone's preprocess_input, which Onward applies;"
        )
        notes.append("otherwise write it as an operation of your own, see WORKSPACE.md")
    if generator.zca_whitening:
        notes.append("zca_whitening has no counterpart: whiten the images beforehand, or leave it out")
    return operations, bindings, notes


def _normalisation(generator: "ImageDataGenerator") -> list[str]:
    """Comments: a backbone of Onward brings the normalisation that it was trained with."""
    names, bindings = [], []
    if generator.rescale:
        names.append("rescale")
        bindings.append(f"rescale.factor = {float(generator.rescale)!r}")
    if generator.samplewise_std_normalization:
        names.append("samplewise_standardise")
    elif generator.samplewise_center:
        names.append("samplewise_centre")
    for wanted, found, argument, more in (
        (generator.featurewise_center, generator.mean, "mean", 0.0),
        (generator.featurewise_std_normalization, generator.std, "std", EPSILON),
    ):
        if wanted:
            names += ["standardise"] if "standardise" not in names else []
            values = None if found is None else (np.asarray(found, float) + more).reshape(-1).tolist()
            known = values is not None and len(values) in (1, 3)
            shown = (
                repr(values[0] if len(values) == 1 else tuple(values)) if known else f"<what fit() finds as {argument}>"
            )
            bindings.append(f"standardise.{argument} = {shown}")
    lines = [f"train.normalisation = [{', '.join(f'@{name}()' for name in names)}]", *bindings]
    return ["# In place of the backbone's own normalisation, for a network that was trained on these numbers:"] + [
        f"# {line}" for line in lines
    ]
