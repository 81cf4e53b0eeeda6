"""Keras' `ImageDataGenerator`, moved over: its arguments and its meaning, one warp and one compiled kernel per batch.

docs/imagedatagenerator.md says what each argument becomes, and every difference.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from data.augment.apply import EDGE, FILLS, Rendering, render
from data.augment.geometry import Amount, offsets
from data.augment.imagedatagenerator_files import Listing, check_whole, in_directory, in_frame, share, wrong
from data.augment.imagedatagenerator_flow import (
    DECODED,
    HOST,
    MODES,
    RESAMPLINGS,
    Decoded,
    Flow,
    InMemory,
    Loaded,
    Look,
    Pictures,
    Saving,
    Targets,
    called,
    standardiser,
)
from data.augment.imagedatagenerator_recipe import recipe
from data.augment.imagedatagenerator_slots import (
    Brightness,
    ChannelShift,
    Fixed,
    Standardise,
    affine,
    drawing,
)
from data.augment.operation import Numbers, Operation, Size, check_number, check_range, constant, is_number
from data.augment.policy import Policy
from data.augment.statistics import EPSILON

# `interpolation_order` -> what the kernel calls it.
ORDERS = ("nearest", "bilinear", "spline2", "spline3", "spline4", "spline5")
# An image of another size than the target's ends at the edges of its pixels, not at their centres.
HALF_A_PIXEL = 0.5
# Whole numbers up to it are exact in the kernel's float32.
LARGEST_ID = 2**24
# Images that are augmented at a time while a generator is fitted.
FITTED = 64


def _kept(name: str) -> property:
    """An array that is written out and hashed once, when it is set, however large it is."""

    def get(self: "ImageDataGenerator") -> np.ndarray | None:
        found = self._known.get(name)
        return None if found is None else found.array

    def put(self: "ImageDataGenerator", values: Any) -> None:
        self._known[name] = None if values is None else Fixed.of(_numbers(name, values, method="fit"))

    return property(get, put)


class ImageDataGenerator:
    """Real-time augmentation with the arguments of `keras.preprocessing.image.ImageDataGenerator`.

    Images are [H, W, C] of any numbers, C usually 1, 3 or 4; the arithmetic is float32. Every number that is drawn
    depends on (seed, position in the stream) alone.

    Args:
        featurewise_center: the mean of the set, see `fit`, is taken away, per channel.
        samplewise_center: the mean of each image is taken away.
        featurewise_std_normalization: inputs are divided by the standard deviation of the set, per channel.
        samplewise_std_normalization: each image is divided by its standard deviation.
        zca_whitening: inputs are multiplied by the whitening matrix of the set.
        zca_epsilon: added to the singular values.
        rotation_range: degrees, either way.
        width_shift_range, height_shift_range: a fraction below 1, pixels from 1 on, a whole number n for 0..n-1
            pixels, or a list to choose from; only numbers in a list may be negative. As in Keras,
            `height_shift_range` moves along the width, and `width_shift_range` along the height.
        brightness_range: (lowest, highest) factor.
        shear_range: degrees, either way.
        zoom_range: (lowest, highest) factor, drawn apart for both axes; a number z stands for (1 - z, 1 + z).
        channel_shift_range: added to all channels, either way.
        fill_mode: `nearest`, `constant`, `reflect` or `wrap`, as scipy.ndimage means them.
        cval: what `constant` fills with.
        horizontal_flip, vertical_flip: whether half of the images are mirrored.
        rescale: factor after everything else and the preprocessing function; None or 0: none.
        preprocessing_function: [H, W, C] float32 array -> the same shape; runs in Python.
        data_format: `channels_last`.
        validation_split: share that `subset='validation'` takes, the first of each class.
        interpolation_order: 0 nearest, 1 bilinear, 2 to 5 B-splines.
        dtype: of the batches, a kind of float; None: float32, whatever `keras.config.floatx()` says.

    Attributes:
        mean, std: what `fit` found, or what you set them to; anything that broadcasts to [H, W, C]. Read-only float32
            arrays: to change one, set it anew.
        zca_whitening_matrix: likewise, [D, D] with D = H * W * C.

    Raises:
        UserError: an argument out of its range.
    """

    mean, std, zca_whitening_matrix = _kept("mean"), _kept("std"), _kept("zca_whitening_matrix")

    def __init__(
        self,
        featurewise_center: bool = False,
        samplewise_center: bool = False,
        featurewise_std_normalization: bool = False,
        samplewise_std_normalization: bool = False,
        zca_whitening: bool = False,
        zca_epsilon: float = 1e-6,
        rotation_range: float = 0,
        width_shift_range: Amount = 0.0,
        height_shift_range: Amount = 0.0,
        brightness_range: Sequence[float] | None = None,
        shear_range: float = 0.0,
        zoom_range: float | Sequence[float] = 0.0,
        channel_shift_range: float = 0.0,
        fill_mode: str = "nearest",
        cval: float = 0.0,
        horizontal_flip: bool = False,
        vertical_flip: bool = False,
        rescale: float | None = None,
        preprocessing_function: Callable[[np.ndarray], np.ndarray] | None = None,
        data_format: str | None = None,
        validation_split: float = 0.0,
        interpolation_order: int = 1,
        dtype: Any = None,
    ):
        def expect(name: str, value: Any, fits: bool, expected: str, do: str = "correct it") -> None:
            if not fits:
                raise wrong(name, value, expected, do, method="__init__")

        def number(name: str, value: float) -> float:
            check_number(name, value, where="ImageDataGenerator")
            # NumPy's unsigned numbers have no negative ones.
            return value.item() if isinstance(value, np.generic) else value

        def pair(name: str, value: Sequence[float]) -> list[float]:
            value = value.tolist() if isinstance(value, np.ndarray) else value
            return [number(name, end) for end in check_range(name, value, where="ImageDataGenerator")]

        self.rotation_range = number("rotation_range", rotation_range)
        self.shear_range = number("shear_range", shear_range)
        self.channel_shift_range = number("channel_shift_range", channel_shift_range)
        self.cval = number("cval", cval)
        self.zca_epsilon = number("zca_epsilon", zca_epsilon)
        self.validation_split = number("validation_split", validation_split)
        self.rescale = None if rescale is None else number("rescale", rescale) or None
        expect("fill_mode", fill_mode, fill_mode in FILLS, f"one of {', '.join(FILLS)}")
        if data_format not in ("channels_last", None):
            do = "data_format=None, and np.moveaxis(x, 1, -1) for arrays"
            expect("data_format", data_format, False, "channels_last", do)
        share_given = not validation_split or 0 < validation_split < 1
        expect("validation_split", validation_split, share_given, "a share above 0 and below 1")
        order = isinstance(interpolation_order, int | np.integer) and 0 <= interpolation_order < len(ORDERS)
        expect("interpolation_order", interpolation_order, order, "a whole number, 0 to 5")
        function = preprocessing_function
        expect("preprocessing_function", function, function is None or callable(function), "a function")
        try:
            self.dtype = np.dtype(dtype or "float32")
        except TypeError:
            expect("dtype", dtype, False, "float16, float32 or float64")
        expect("dtype", dtype, self.dtype.kind == "f", "float16, float32 or float64")
        if is_number(zoom_range):
            zoom_range = (1 - float(zoom_range), 1 + float(zoom_range))
        self.zoom_range = pair("zoom_range", zoom_range)
        self.brightness_range = None if brightness_range is None else pair("brightness_range", brightness_range)
        self._shifts = {
            name: offsets(name, value, where=f"ImageDataGenerator({name}=...)")
            for name, value in (("height_shift_range", height_shift_range), ("width_shift_range", width_shift_range))
        }

        self.samplewise_center = _implied(samplewise_center, samplewise_std_normalization, "samplewise_center")
        self.samplewise_std_normalization = samplewise_std_normalization
        self.featurewise_center = _implied(
            featurewise_center, featurewise_std_normalization or zca_whitening, "featurewise_center"
        )
        if zca_whitening and featurewise_std_normalization:
            warnings.warn("zca_whitening replaces featurewise_std_normalization", stacklevel=2)
        self.featurewise_std_normalization = featurewise_std_normalization and not zca_whitening
        self.zca_whitening = zca_whitening
        self.width_shift_range, self.height_shift_range = width_shift_range, height_shift_range
        self.fill_mode = fill_mode
        self.horizontal_flip, self.vertical_flip = horizontal_flip, vertical_flip
        self.preprocessing_function = preprocessing_function
        self.data_format = "channels_last"
        self.interpolation_order = int(interpolation_order)
        self._known: dict[str, Fixed | None] = {}

    @property
    def operations(self) -> tuple[Operation, ...]:
        """What is drawn: the geometry, and as far as asked for a channel shift and a brightness."""
        geometry = affine(
            rotation=self.rotation_range,
            height_shift=self._shifts["height_shift_range"],
            width_shift=self._shifts["width_shift_range"],
            shear=self.shear_range,
            zoom=tuple(self.zoom_range),
            horizontal=bool(self.horizontal_flip),
            vertical=bool(self.vertical_flip),
        )
        colours = []
        if self.channel_shift_range:
            limit, name = self.channel_shift_range, "channel_shift_intensity"
            colours.append(drawing(name, low=-limit, high=limit, slot=ChannelShift()))
        if self.brightness_range is not None:
            low, high = self.brightness_range
            colours.append(drawing("brightness", low=low, high=high, slot=Brightness()))
        return (geometry, *colours)

    def draw(self, positions: np.ndarray, *, seed: int, size: Size) -> dict[str, np.ndarray]:
        """What is drawn at positions of the stream of a seed.

        Args:
            positions: [B] whole numbers.
            size: height and width, of which shifts may be fractions.

        Returns:
            name -> [B] float64, under the names of `get_random_transform`.
        """
        policy, drawn = Policy(self.operations), {}
        places = tf.constant(positions, tf.int64)
        for index, operation in enumerate(policy.operations):
            numbers = operation.numbers(policy.uniform(index, places, seed=seed), size)
            drawn |= {name: value.numpy() for name, value in numbers.items()}
        return drawn

    def get_random_transform(
        self, img_shape: Sequence[int], seed: int | None = None, *, position: int = 0
    ) -> dict[str, Any]:
        """Draws the numbers of one transformation.

        Args:
            img_shape: height, width and perhaps channels.
            seed: of the stream; None takes one from NumPy's global generator.
            position: in that stream. A flow of this seed draws the same for its example number `position`.

        Returns:
            theta and shear in degrees, tx and ty in pixels, zx, zy, flip_horizontal, flip_vertical,
            channel_shift_intensity and brightness, None where the generator has none.
        """
        if np.ndim(img_shape) != 1 or len(img_shape) not in (2, 3):
            expected = "height, width and perhaps channels"
            raise wrong("img_shape", img_shape, expected, method="get_random_transform")
        seed = _seed(seed, method="get_random_transform")
        drawn = self.draw(np.array([position]), seed=seed, size=tuple(map(int, img_shape[:2])))
        found: dict[str, Any] = {name: float(values[0]) for name, values in drawn.items()}
        for name in ("flip_horizontal", "flip_vertical"):
            found[name] = bool(found[name])
        return {"channel_shift_intensity": None, "brightness": None} | found

    def apply_transform(self, x: np.ndarray, transform_parameters: dict[str, Any]) -> np.ndarray:
        """Applies the numbers of `get_random_transform`; any of them may be missing.

        Args:
            x: [H, W, C].

        Returns:
            A new array of the same shape.
        """
        names = {"theta": 0, "tx": 0, "ty": 0, "shear": 0, "zx": 1, "zy": 1, "flip_horizontal": 0, "flip_vertical": 0}
        numbers = {name: np.array([transform_parameters.get(name, usual)], float) for name, usual in names.items()}
        for name in ("channel_shift_intensity", "brightness"):
            if transform_parameters.get(name) is not None:
                numbers[name] = np.array([transform_parameters[name]], float)
        image = _images(x, method="apply_transform", ranks=(3,))
        return self._transformed(image[None], {name: tf.constant(value) for name, value in numbers.items()})[0]

    def random_transform(self, x: np.ndarray, seed: int | None = None) -> np.ndarray:
        """Draws and applies one transformation; [H, W, C] -> a new array of the same shape.

        A kernel is compiled for each new shape: for images of many shapes resize them, or use `flow_from_directory`.
        """
        return self.apply_transform(x, self.get_random_transform(np.shape(x), seed))

    def standardize(self, x: np.ndarray) -> np.ndarray:
        """Preprocessing function, rescale, samplewise and featurewise normalisation and whitening, in this order.

        Args:
            x: [H, W, C], or [B, H, W, C], whose images are standardised one by one.

        Returns:
            A new array of the same shape.
        """
        images = _images(x, method="standardize", ranks=(3, 4)).astype(np.float32)
        images = images[None] if images.ndim == 3 else images
        if self.preprocessing_function is not None:
            images = called(self.preprocessing_function, images)
        with tf.device(HOST):
            found = standardiser(self._standardise(images.shape[1:]))(tf.constant(images)).numpy()
        return found.astype(self.dtype).reshape(np.shape(x))

    def fit(self, x: np.ndarray, augment: bool = False, rounds: int = 1, seed: int | None = None) -> None:
        """Finds what featurewise normalisation and whitening need.

        Args:
            x: [N, H, W, C], rescaled here.
            augment: whether the statistics are those of augmented images.
            rounds: augmentations of each image.
            seed: of these.

        Raises:
            UserError: x has another rank, no images, or numbers that are not finite; rounds below 1.
        """
        images = _images(x, method="fit").astype(self.dtype)
        check_whole("rounds", rounds, low=1, method="fit")
        strange = int((~np.isfinite(images)).sum())
        if not len(images) or strange:
            found = f"{len(images)} images with {strange} numbers that are not finite"
            raise wrong("x", found, "at least one image, and none of those", method="fit")
        if self.rescale:
            images = images * self.dtype.type(self.rescale)
        if augment:
            seed = _seed(seed, method="fit")
            drawn = self.draw(np.arange(rounds * len(images)), seed=seed, size=images.shape[1:3])
            repeated = np.tile(np.arange(len(images)), rounds)
            parts = [slice(start, start + FITTED) for start in range(0, len(repeated), FITTED)]
            images = np.concatenate(
                [
                    self._transformed(
                        images[repeated[part]], {name: tf.constant(values[part]) for name, values in drawn.items()}
                    )
                    for part in parts
                ]
            )
        # Keras adds up in float32: its deviation of 2,000 images of 96 px is 1 % off.
        if self.featurewise_center:
            self.mean = images.mean(axis=(0, 1, 2), keepdims=True, dtype=np.float64)[0]
            images = images - self.mean
        if self.featurewise_std_normalization:
            self.std = images.std(axis=(0, 1, 2), keepdims=True, dtype=np.float64)[0]
            images = images / (self.std + EPSILON)
        if self.zca_whitening:
            flat = images.reshape(len(images), -1)
            directions, sizes, _ = np.linalg.svd(flat.T, full_matrices=False)
            inverse = np.sqrt(len(flat)) / (sizes + self.zca_epsilon)
            self.zca_whitening_matrix = (directions * inverse) @ directions.T

    def flow(
        self,
        x: Any,
        y: Any = None,
        batch_size: int = 32,
        shuffle: bool = True,
        sample_weight: Any = None,
        seed: int | None = None,
        save_to_dir: str | None = None,
        save_prefix: str = "",
        save_format: str = "png",
        ignore_class_split: bool = False,
        subset: str | None = None,
        *,
        masks: np.ndarray | None = None,
    ) -> Flow:
        """Batches of arrays.

        Args:
            x: [N, H, W, C], or (x, other inputs), which are passed on as they are.
            y: [N, ...] labels.
            sample_weight: [N].
            save_to_dir, save_prefix, save_format: where every image is kept, to be looked at.
            ignore_class_split: whether both subsets may have different classes.
            subset: `training` or `validation`, the first `validation_split` of the rows.
            masks: [N, H, W, C], moved as the images are, each pixel that of the nearest one, `constant` filled with 0,
                and not touched otherwise. Batches are (x, masks), or (x, [y, masks]) and so on.

        Raises:
            UserError: arrays of different lengths or odd shapes, a subset without examples.
        """
        images, others = (x[0], x[1]) if isinstance(x, list | tuple) else (x, [])
        others = others if isinstance(others, list) else [others]
        images = _images(images, method="flow")
        named = {"y": y, "sample_weight": sample_weight, "masks": masks} | dict(enumerate(others))
        arrays = {name: _array(str(name), array, method="flow") for name, array in named.items() if array is not None}
        for name, array in arrays.items():
            if array.shape[:1] != images.shape[:1]:
                raise wrong(str(name), array.shape, f"[{len(images)}, ...], a row for each image", method="flow")
        start, stop = share(subset, self.validation_split, method="flow")
        if subset is not None:
            middle = int(len(images) * self.validation_split)
            if y is not None and not ignore_class_split:
                ends = [set(map(str, np.unique(part))) for part in (arrays["y"][:middle], arrays["y"][middle:])]
                if ends[0] != ends[1]:
                    raise wrong(
                        "subset",
                        subset,
                        "the same classes in the validation part, which comes first, and the rest",
                        "shuffle x and y together, or ignore_class_split=True",
                        method="flow",
                    )
            part = slice(int(start * len(images)), int(stop * len(images)))
            images, arrays = images[part], {name: array[part] for name, array in arrays.items()}
        if not len(images):
            raise wrong("x", "no images", "at least one", method="flow")
        if masks is not None:
            numbers = _numbers("masks", masks, method="flow")
            if numbers.ndim != 4 or numbers.shape[1:3] != images.shape[1:3]:
                raise wrong("masks", numbers.shape, f"[N, {images.shape[1]}, {images.shape[2]}, C]", method="flow")
            if numbers.dtype.kind in "iu" and np.abs(numbers.astype(np.float64)).max() > LARGEST_ID:
                raise wrong("masks", numbers.max(), f"whole numbers up to {LARGEST_ID}", method="flow")
        pictures = InMemory(images)
        return Flow(
            pictures,
            self._look(pictures),
            count=len(images),
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            targets=Targets(
                mode="none" if y is None else "values",
                values=() if y is None else (arrays["y"],),
                others=tuple(arrays[name] for name in range(len(others))),
                weights=arrays.get("sample_weight"),
            ),
            masks=arrays.get("masks"),
            saving=Saving(directory=save_to_dir, prefix=save_prefix, format=save_format) if save_to_dir else None,
            labels=arrays.get("y"),
            facts={"x": images, "y": arrays.get("y")},
        )

    def flow_from_directory(
        self,
        directory: str,
        target_size: Size = (256, 256),
        color_mode: str = "rgb",
        classes: Sequence[str] | None = None,
        class_mode: str | None = "categorical",
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int | None = None,
        save_to_dir: str | None = None,
        save_prefix: str = "",
        save_format: str = "png",
        follow_links: bool = False,
        subset: str | None = None,
        interpolation: str = "nearest",
        keep_aspect_ratio: bool = False,
    ) -> Flow:
        """Batches of the files below a folder per class.

        Args:
            target_size: height and width.
            color_mode: `rgb`, `grayscale` or `rgba`.
            classes: folders wanted, in the order of their indexes; None: all, in alphabetic order.
            class_mode: `categorical` (one-hot), `binary` or `sparse` (indexes), `input` (the images), None (no labels).
            follow_links: whether links to folders, or out of `directory`, are followed.
            subset: `training` or `validation`, the first `validation_split` of each class.
            interpolation: `nearest` and `bilinear` are one warp with the augmentation; any other of RESAMPLINGS resizes
                with Pillow before.
            keep_aspect_ratio: whether the centre of the target's shape is seen, and nothing squeezed; with Pillow.

        Raises:
            UserError: wrong arguments, no image, a link out of the folder, a file that is no image.
        """
        listing = in_directory(
            directory,
            classes=classes,
            class_mode=class_mode,
            follow_links=follow_links,
            part=share(subset, self.validation_split, method="flow_from_directory"),
        )
        return self._flow_of_files(
            listing,
            class_mode,
            pictures=self._pictures(listing.paths, target_size, color_mode, interpolation, keep_aspect_ratio),
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            saving=Saving(directory=save_to_dir, prefix=save_prefix, format=save_format) if save_to_dir else None,
            facts={"directory": directory, "target_size": tuple(target_size), "color_mode": color_mode},
        )

    def flow_from_dataframe(
        self,
        dataframe: pd.DataFrame,
        directory: str | None = None,
        x_col: str = "filename",
        y_col: str | Sequence[str] = "class",
        weight_col: str | None = None,
        target_size: Size = (256, 256),
        color_mode: str = "rgb",
        classes: Sequence[str] | None = None,
        class_mode: str | None = "categorical",
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int | None = None,
        save_to_dir: str | None = None,
        save_prefix: str = "",
        save_format: str = "png",
        subset: str | None = None,
        interpolation: str = "nearest",
        validate_filenames: bool = True,
        keep_aspect_ratio: bool = False,
    ) -> Flow:
        """Batches of the files that a table names.

        Args:
            dataframe: a row per file.
            directory: what names start from and do not leave; None: names are absolute, or start from the working
                folder.
            x_col, y_col, weight_col: columns of names, labels (several for `multi_output` and `raw`) and weights.
            class_mode: those of `flow_from_directory`, and `multi_output` (a list of arrays), `raw` (one array).
            subset: `training` or `validation`, the first `validation_split` of the rows.
            validate_filenames: whether rows without an image file are left out.

        The others as in `flow_from_directory`.

        Raises:
            UserError: likewise; and columns that are missing or do not fit the class mode.
        """
        listing = in_frame(
            dataframe,
            directory=directory,
            x_col=x_col,
            y_col=y_col,
            weight_col=weight_col,
            classes=classes,
            class_mode=class_mode,
            validate=validate_filenames,
            part=share(subset, self.validation_split, method="flow_from_dataframe"),
        )
        return self._flow_of_files(
            listing,
            class_mode,
            pictures=self._pictures(listing.paths, target_size, color_mode, interpolation, keep_aspect_ratio),
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            saving=Saving(directory=save_to_dir, prefix=save_prefix, format=save_format) if save_to_dir else None,
            facts={"directory": directory or "", "target_size": tuple(target_size), "color_mode": color_mode},
        )

    def to_gin(self) -> str:
        """The recipe for `scripts/train.py` that does the same; comments say what it cannot, and the normalisation."""
        return recipe(self)

    def _flow_of_files(self, listing: Listing, class_mode: str | None, *, pictures: Pictures, **options: Any) -> Flow:
        classes = listing.classes
        if class_mode == "categorical" and isinstance(classes, list):
            several = np.zeros((len(classes), len(listing.class_indices)), np.int32)
            for row, labels in enumerate(classes):
                several[row, labels] = 1
            values = (several,)
        else:
            values = listing.values or (() if classes is None else (np.asarray(classes),))
        modes = {"categorical": "one_hot", "input": "input", None: "none"}
        options["facts"] |= {"class_mode": class_mode}
        return Flow(
            pictures,
            self._look(pictures),
            count=len(listing.names),
            targets=Targets(
                mode=modes.get(class_mode, "values"),
                classes=len(listing.class_indices),
                values=values,
                weights=listing.weights,
                dtype=None if listing.values else self.dtype,
                listed=class_mode == "multi_output",
            ),
            class_indices=listing.class_indices,
            classes=classes,
            labels=classes
            if not listing.values
            else list(listing.values)
            if len(listing.values) > 1
            else listing.values[0],
            filenames=listing.names,
            filepaths=listing.paths,
            **options,
        )

    def _pictures(
        self, paths: Sequence[str], target_size: Size, color_mode: str, interpolation: str, keep_aspect_ratio: bool
    ) -> Pictures:
        method = "flow_from_directory"
        sides = tuple(target_size) if isinstance(target_size, list | tuple) else ()
        if len(sides) != 2 or not all(isinstance(side, int | np.integer) and side > 0 for side in sides):
            raise wrong("target_size", target_size, "height and width, whole numbers", method=method)
        if color_mode not in MODES:
            raise wrong("color_mode", color_mode, f"one of {', '.join(MODES)}", method=method)
        if interpolation not in RESAMPLINGS:
            raise wrong("interpolation", interpolation, f"one of {', '.join(RESAMPLINGS)}", method=method)
        # Splines need images of one size. Levels of a mask (order 0) must not be averaged on the way.
        merged = (
            self.interpolation_order == 1
            and interpolation in ("nearest", "bilinear")
            and color_mode != "rgba"
            and not keep_aspect_ratio
            and all(path.lower().endswith(DECODED) for path in paths)
        )
        if merged:
            return Decoded(paths, size=sides, grey=color_mode == "grayscale")
        return Loaded(
            paths, size=sides, mode=color_mode, interpolation=interpolation, keep_aspect_ratio=keep_aspect_ratio
        )

    def _look(self, pictures: Pictures | InMemory) -> Look:
        height, width, channels = pictures.shape
        standardise = self._standardise(pictures.shape)
        if self.brightness_range is not None:
            _check_brightness(channels)
        plain = self.preprocessing_function is not None or standardise == Standardise()
        after = () if plain else (constant("standardise", slot=standardise, row=np.zeros(0)),)
        policy = Policy((*self.operations, *after))
        return Look(
            policy=policy,
            rendering=self._rendering(
                (height, width), channels, policy, margin=EDGE if pictures.fitted else HALF_A_PIXEL
            ),
            function=self.preprocessing_function,
            after=standardise,
            dtype=self.dtype,
        )

    def _rendering(self, size: Size, channels: int, policy: Policy, *, margin: float = EDGE) -> Rendering:
        return Rendering(
            size=size,
            program=policy.program,
            channels=channels,
            fill=self.fill_mode,
            # One program for all where it is of no use.
            fill_value=(float(self.cval) if self.fill_mode == "constant" else 0.0,) * channels,
            interpolation=ORDERS[self.interpolation_order],
            margin=margin,
        )

    def _transformed(self, images: np.ndarray, numbers: Numbers) -> np.ndarray:
        """[B, H, W, C] by what was drawn for each, any of the numbers after the geometry missing."""
        size, channels = images.shape[1:3], images.shape[3]
        if "brightness" in numbers:
            _check_brightness(channels)
        operations = (
            self.operations[0],
            drawing("channel_shift_intensity", low=0, high=0, slot=ChannelShift()),
            drawing("brightness", low=0, high=0, slot=Brightness()),
        )
        policy = Policy(operations)
        (matrix,) = operations[0].arrays(numbers, size)
        arrays = [
            operation.arrays(numbers, size)[0]
            if operation.name in numbers
            else tf.constant(np.tile(operation.slots[0].identity(size), (len(images), 1)))
            for operation in operations[1:]
        ]
        with tf.device(HOST):
            found = render(
                tf.constant(np.asarray(images, np.float32).reshape(len(images), -1)),
                tf.constant([size] * len(images), tf.int32),
                tf.cast(matrix, tf.float32),
                [tf.cast(array, tf.float32) for array in arrays],
                rendering=self._rendering(size, channels, policy),
            )
        return found.numpy().astype(self.dtype)

    def _standardise(self, shape: Sequence[int]) -> Standardise:
        """For images of a shape [H, W, C].

        Raises:
            UserError: what was found or set does not fit them.
        """
        shape, entries = tuple(shape), math.prod(shape)
        known = {}
        for argument, name in (
            ("featurewise_center", "mean"),
            ("featurewise_std_normalization", "std"),
            ("zca_whitening", "zca_whitening_matrix"),
        ):
            if not getattr(self, argument):
                continue
            known[name] = self._known.get(name)
            if known[name] is None:
                warnings.warn(f"{argument} has no effect before fit(x)", stacklevel=3)
            elif name == "zca_whitening_matrix":
                if known[name].shape != (entries, entries):
                    raise wrong(name, known[name].shape, f"[{entries}, {entries}] for images {shape}", method="fit")
            elif not _broadcasts(known[name].shape, shape):
                raise wrong(name, known[name].shape, f"a shape that broadcasts to {shape}", method="fit")
        return Standardise(
            rescale=self.rescale or None,
            centre=bool(self.samplewise_center),
            scale=bool(self.samplewise_std_normalization),
            mean=known.get("mean"),
            deviation=known.get("std"),
            whitening=known.get("zca_whitening_matrix"),
        )


def _check_brightness(channels: int) -> None:
    if channels not in (1, 3, 4):
        raise wrong("brightness", f"{channels} channels", "images of 1, 3 or 4 channels", method="__init__")


def _implied(given: bool, by: bool, name: str) -> bool:
    if by and not given:
        warnings.warn(f"{name} is taken for granted by the other arguments", stacklevel=3)
    return given or by


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, to) == to
    except ValueError:
        return False


def _seed(seed: int | None, *, method: str) -> int:
    """The seed, or one from NumPy's global generator."""
    if seed is None:
        return int(np.random.randint(2**31))
    check_whole("seed", seed, low=0, method=method)
    return int(seed)


def _array(name: str, values: Any, *, method: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise wrong(name, "rows of different shapes", "an array", method=method) from error


def _numbers(name: str, values: Any, *, method: str) -> np.ndarray:
    found = _array(name, values, method=method)
    if found.dtype.kind not in "fiub":
        raise wrong(name, f"{found.dtype} {found.shape}", "an array of numbers", method=method)
    return found


def _images(x: Any, *, method: str, ranks: tuple[int, ...] = (4,)) -> np.ndarray:
    images = _numbers("x", x, method=method)
    if images.ndim not in ranks or 0 in images.shape[-3:]:
        shapes = {3: "[H, W, C]", 4: "[N, H, W, C]"}
        raise wrong("x", images.shape, f"numbers {' or '.join(map(shapes.get, ranks))}", method=method)
    if images.shape[-1] not in (1, 3, 4):
        warnings.warn(f"x has {images.shape[-1]} channels in its last axis, usual are 1, 3 or 4", stacklevel=3)
    return images if images.dtype == np.uint8 else images.astype(np.float32)
