"""Everything gin says of a run, as one value."""

import dataclasses
import inspect
import reprlib
from collections.abc import Callable, Mapping, Sequence

import gin
import numpy as np

from data import sampling, sources, splits
from data.augment import colour, crops, curves, erasing, filters, mixing, policies, statistics  # noqa: F401  (for gin)
from data.augment.apply import FILLS, INTERPOLATIONS
from data.augment.geometry import FITS
from data.augment.operation import Operation
from data.augment.policy import Policy
from data.augment.views import Views
from data.durations import Duration
from data.errors import UserError
from data.examples import Examples, Stream
from trainer.losses import Loss
from trainer.models.network import PRECISIONS, Architecture
from trainer.optimization.optimizers import UpdateRule, adamw
from trainer.optimization.stages import Stage


@gin.configurable("train")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run. In gin its fields are `train.FIELD`.

    Attributes:
        source: function that returns the `Examples` table or a `Stream`, for example `@folder`.
        split: function (examples) -> [N] int8 index into train, validation, test.
        sampling: function (training examples) -> [N] how often an epoch shows each: `@natural`, `@balanced`, ...
        class_weights: factors of the loss by class name, or `balanced`; None: all 1. Evaluation knows none.
        store: where decoded images are kept: a folder, `auto` (WORKDIR/store if it takes at most half of the free
            disk and of the memory), None (files are decoded each time). Never changes a pixel. Crops out of files
            (`random_resized_crop.pixels = 'decode'`) allow none: `auto` makes none then.
        model: `@model()`.
        stages: `[@head/stage(), ...]`.
        optimizer: `@adamw()`, `@adam()` or `@sgd()`.
        policy: `@policy()`, what augments training images; a stage may have its own.
        normalisation: operations that draw nothing, `[@rescale()]`, in place of the backbone's own normalisation;
            for networks that were trained on other pixels.
        loss: `@cross_entropy()` or another of `trainer.losses`, or an own function (labels, logits) -> [B] float32;
            None takes the usual one of the task.
        batch_size: global, over all replicas.
        evaluation_batch_size: likewise; batch_size when None.
        image_size: side of what the network sees.
        fit: `stretch`, `cover`, `contain` or `native` (pixel for pixel): how an image becomes a square.
        background: red, green, blue in 0..255 behind transparent images.
        crop: share of that square that is seen.
        samples, evaluation_samples: each pixel of a training or evaluation image is the mean of this number squared of
            points, against aliasing when shrinking.
        evaluation_views: `@views()` or `@five_crop()`: an evaluation averages the predictions of several views.
        fill: what lies outside an image: its `nearest` pixel, a `constant`, its `reflect`ion, or `wrap`.
        fill_value: red, green, blue in 0..255 of that constant.
        interpolation: `nearest`, `bilinear` or `bicubic`.
        placement: where training images are rendered, on the training `device` or on the `host` that feeds it.
        precision: `float32`, `mixed_float16` or `mixed_bfloat16`.
        seed: of weights, order, augmentation and dropout.
        deterministic: same bits in every run on the same kind of machine, at some cost in speed.
        clip_norm: bound on the global gradient norm; None: none.
        window: steps of one call of the compiled loop; reports, checkpoints and stops happen between windows.
        evaluate_every, checkpoint_every: a number and one of steps, epochs, examples; rounded to window ends.
        keep_checkpoints: how many of the newest stay.
        bad_images: `refuse` to start with images that do not decode, or `drop` them from the table, named.
        replace_at_most: share of the images that may break after the start and be replaced by others; beyond it the
            run ends.
    """

    source: Callable[[], Examples | Stream] = sources.digits
    split: Callable[[Examples], np.ndarray] = splits.split_by_hash
    sampling: Callable[[Examples], np.ndarray] = sampling.natural
    class_weights: str | Mapping[str, float] | None = None
    store: str | None = "auto"
    model: Architecture
    stages: Sequence[Stage]
    optimizer: UpdateRule = dataclasses.field(default_factory=adamw)
    policy: Policy = dataclasses.field(default_factory=Policy)
    normalisation: Sequence[Operation] | None = None
    loss: Loss | None = None
    batch_size: int = 32
    evaluation_batch_size: int | None = None
    image_size: int = 224
    fit: str = "cover"
    background: Sequence[int] = (255, 255, 255)
    crop: float = 1.0
    samples: int = 1
    evaluation_samples: int = 1
    evaluation_views: Views = dataclasses.field(default_factory=Views)
    fill: str = "nearest"
    fill_value: Sequence[float] = (0, 0, 0)
    interpolation: str = "bilinear"
    placement: str = "device"
    precision: str = "float32"
    seed: int = 0
    deterministic: bool = False
    clip_norm: float | None = None
    window: int = 10
    evaluate_every: Duration = (1, "epochs")
    checkpoint_every: Duration = (1, "epochs")
    keep_checkpoints: int = 3
    bad_images: str = "refuse"
    replace_at_most: float = 0.01

    def __post_init__(self):
        for name in ("batch_size", "image_size", "window", "keep_checkpoints", "samples", "evaluation_samples"):
            _expect(name, getattr(self, name), _is_count(getattr(self, name)), "a whole number above 0")
        _expect(
            "seed",
            self.seed,
            _is_count(self.seed + 1) and self.seed < 2**32 if isinstance(self.seed, int) else False,
            "a whole number below 2**32",
        )
        evaluation = self.evaluation_batch_size
        _expect("evaluation_batch_size", evaluation, evaluation is None or _is_count(evaluation), "None or above 0")
        number = isinstance(self.crop, int | float) and 0 < self.crop <= 1
        _expect("crop", self.crop, number, "a number above 0, at most 1")
        clip = self.clip_norm
        _expect("clip_norm", clip, clip is None or (_is_number(clip) and clip > 0), "None or above 0")
        _expect("deterministic", self.deterministic, isinstance(self.deterministic, bool), "True or False")
        for name, choices in (
            ("precision", PRECISIONS),
            ("fit", FITS),
            ("fill", FILLS),
            ("interpolation", INTERPOLATIONS),
            ("placement", ("device", "host")),
            ("bad_images", ("refuse", "drop")),
        ):
            _expect(name, getattr(self, name), getattr(self, name) in choices, f"one of {', '.join(choices)}")
        _expect("source", self.source, callable(self.source), "a reference without (): @folder")
        _expect("split", self.split, callable(self.split), "a reference without (): @split_by_hash")
        _expect("sampling", self.sampling, callable(self.sampling), "a reference without (): @balanced")
        weights = self.class_weights
        by_class = isinstance(weights, Mapping) and all(map(_is_number, weights.values()))
        _expect("class_weights", weights, weights in (None, "balanced") or by_class, "None, 'balanced' or {'cat': 2.0}")
        named = self.store is None or (isinstance(self.store, str) and self.store)
        _expect("store", self.store, named, "None, 'auto' or a folder")
        whole = _are_levels(self.background) and all(isinstance(level, int) for level in self.background)
        _expect("background", self.background, whole, "three whole numbers in 0..255, such as (255, 255, 255)")
        _expect("fill_value", self.fill_value, _are_levels(self.fill_value), "three numbers in 0..255")
        share = _is_number(self.replace_at_most) and 0 <= self.replace_at_most <= 1
        _expect("replace_at_most", self.replace_at_most, share, "a number in 0..1")
        loss = self.loss is None or _takes(self.loss, 2)
        _expect("loss", self.loss, loss, "None, @cross_entropy(), or a function (labels, logits)")
        _expect("model", self.model, isinstance(self.model, Architecture), "@model()")
        _expect("optimizer", self.optimizer, isinstance(self.optimizer, UpdateRule), "@adamw(), @adam() or @sgd()")
        _expect("policy", self.policy, isinstance(self.policy, Policy), "@policy()")
        normalisation = self.normalisation
        constant = isinstance(normalisation, list | tuple) and all(map(_draws_nothing, normalisation))
        expected = "None, or operations that draw nothing, such as [@rescale()]"
        _expect("normalisation", normalisation, normalisation is None or constant, expected)
        views = isinstance(self.evaluation_views, Views)
        _expect("evaluation_views", self.evaluation_views, views, "@views() or @five_crop()")
        listed = isinstance(self.stages, list | tuple) and all(isinstance(stage, Stage) for stage in self.stages)
        _expect("stages", self.stages, listed, "a list like [@head/stage(), @blocks/stage()]")


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _are_levels(value) -> bool:
    levels = isinstance(value, list | tuple) and len(value) == 3 and all(map(_is_number, value))
    return levels and all(0 <= level <= 255 for level in value)


def _draws_nothing(operation) -> bool:
    return isinstance(operation, Operation) and operation.count == 0


def _takes(function, count: int) -> bool:
    """Whether it can be called with so many arguments; `@cross_entropy` without () cannot."""
    try:
        inspect.signature(function).bind(*range(count))
    except (TypeError, ValueError):
        return False
    return True


def _expect(name: str, value, holds: bool, expected: str) -> None:
    if not holds:
        raise UserError(
            f"train.{name} = {reprlib.repr(value)}",
            where=f"gin binding train.{name}",
            expected=expected,
            do=f"--gin_param='train.{name} = ...'",
        )
