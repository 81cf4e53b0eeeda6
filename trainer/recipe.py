"""Everything gin says of a run, as one value."""

import dataclasses
import inspect
import itertools
import math
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
from data.errors import UserError, expect
from data.examples import Examples, Stream
from data.service import DataService
from trainer.forgetting.anchor import Anchor
from trainer.forgetting.distillation import Distillation
from trainer.guard import Guard, guard
from trainer.losses import Loss
from trainer.models.cut import Features
from trainer.models.network import PRECISIONS, Architecture
from trainer.optimization import unfreezing  # noqa: F401  (for gin)
from trainer.optimization.early_stopping import EarlyStopping
from trainer.optimization.optimizers import UpdateRule, adamw
from trainer.optimization.plateau import Plateau
from trainer.optimization.schedules import SCALINGS, batch_factor
from trainer.optimization.stages import Stage
from trainer.ranking import CAPACITY
from trainer.reduction import REDUCTIONS
from trainer.reports.tensorboard import TensorBoard

# Choices of `train.xla`; AUTO also of `train.precision`.
NEVER, ALWAYS, AUTO = "never", "always", "auto"


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
        stages: `[@head/stage(), ...]`, or `@unfreezing()`; entries that are lists count as their entries.
        features: `@features()`: what the frozen part of the network says of each image is computed once, and the stages
            train on that. None: every step begins with the images.
        optimizer: `@adamw()`, `@sgd()` or another of `trainer.optimization.optimizers`.
        learning_rate_scaling: `linear` or `square_root`: the rates of the schedules are meant for batches of
            `reference_batch` and grow so with `batch_size`; None: they are taken as they are.
        reference_batch: see there.
        plateau: `@plateau()` lowers the learning rate where evaluations stop getting better; None: the schedule alone
            decides.
        policy: `@policy()`, what augments training images; a stage may have its own.
        normalisation: operations that draw nothing, `[@rescale()]`, in place of the backbone's own normalisation;
            for networks that were trained on other pixels.
        loss: `@cross_entropy()` or another of `trainer.losses`, or an own function (labels, logits) -> [B] float32;
            None takes the usual one of the task.
        distillation: `@distillation()`: the network as it was before the first step teaches what it knew to the one
            that trains; needs --init_from. None: no teacher.
        anchor: `@anchor()` draws weights to what they were before the first step; None: they are free.
        batch_size: global, over all replicas.
        evaluation_batch_size: likewise; batch_size when None.
        image_size: side of what the network sees, in every evaluation and in stages that do not name another.
        fit: `stretch`, `cover`, `contain` or `native` (pixel for pixel): how an image becomes a square.
        background: red, green, blue in 0..255 behind transparent images.
        crop: share of that square that is seen.
        samples, evaluation_samples: each pixel of a training or evaluation image is the mean of this number squared of
            points, against aliasing when shrinking.
        evaluation_views: `@views()` or `@five_crop()`: an evaluation averages the predictions of several views.
        fill: what lies outside an image: its `nearest` pixel, a `constant`, its `reflect`ion, or `wrap`.
        fill_value: red, green, blue in 0..255 of that constant.
        interpolation: `nearest`, `bilinear` or `bicubic`.
        data_service: `@data_service()`: other hosts make the training batches, see `data.service`; None: this one does.
            Never changes which batches those are.
        placement: where training images are rendered, on the training `device` or on the `host` that feeds it.
        precision: `float32`, `mixed_float16`, `mixed_bfloat16`, or `auto`: the first start measures which is fastest.
        xla: whether XLA compiles forward and backward pass of a step: `never`, `always`, or `auto`: the first start
            measures whether that is faster, on one GPU.
        reduction: how gradients are added up over the replicas: `auto` (NCCL on GPUs, one device on CPUs, a ring over
            workers without GPUs), `nccl`, `hierarchical`, `one_device`, or, of several workers, `ring`.
        reduction_bytes: gradients of at most so many bytes are added up at once, the last layers' first, so that they
            are on their way while earlier layers are at work; None: all at once.
        threads: of the host, over which one operation is spread; None: as many as there are cores. Where each operation
            is small, 1 leaves the cores to operations beside each other and to the input; `--part=sweep` tries it.
        seed: of weights, order, augmentation and dropout.
        deterministic: same bits in every run on the same kind of machine, at some cost in speed.
        accumulation: parts in which each replica's share of the batch passes through the network, one after the other,
            to save memory; one update a batch as ever. Batch normalisation that trains sees each part by itself.
        clip_norm, clip_value, clip_adaptive: bound on the norm of the global gradient, on each number of it, or on the
            norm of each unit's share of that unit's weights (Brock et al. 2021; .01 is usual); at most one of them.
        ema: what an update leaves of a moving average of the weights, for example .999; evaluations then see both, and
            the average decides which checkpoint is best. None: no average.
        ema_warmup: the average forgets faster at first: it keeps at most (1 + n) / (10 + n) after n steps.
        window: steps of one call of the compiled loop; reports, checkpoints and stops happen between windows.
        evaluate_every, checkpoint_every: a number and one of steps, epochs, examples; rounded to window ends.
        checkpoint_minutes: a checkpoint also after so many minutes without one; None: the clock decides nothing.
        keep_checkpoints: how many of the newest stay.
        keep_every: distance of checkpoints that stay for ever, in `checkpoints/kept/`, as checkpoint_every; None: none.
        keep_best: how many of the best stay, 1 to 16: the best in `checkpoints/best/`, the others in `kept/`. With a
            moving average that is judged by the average; the best by the weights themselves is in `best_raw/`.
        best_by: figure of an evaluation that decides which is best, such as loss; None: the usual one of the task.
        best_gain: by how much an evaluation has to be better to be the best.
        early_stopping: `@early_stopping()` ends the training where evaluations stop getting better; None: stages do.
        guard: `@guard()`, what happens when losses, gradients or weights go bad.
        stop_within: seconds that a signal leaves for the step at hand to end; after them the process ends without it.
        tensorboard: what `tensorboard --logdir` shows of the run: `@tensorboard()`; `auto`: what is usual, where the
            package is installed; None: nothing. Shapes no weight.
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
    features: Features | None = None
    optimizer: UpdateRule = dataclasses.field(default_factory=adamw)
    policy: Policy = dataclasses.field(default_factory=Policy)
    normalisation: Sequence[Operation] | None = None
    loss: Loss | None = None
    distillation: Distillation | None = None
    anchor: Anchor | None = None
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
    data_service: DataService | None = None
    placement: str = "device"
    precision: str = "float32"
    xla: str = "never"
    reduction: str = "auto"
    reduction_bytes: int | None = None
    threads: int | None = None
    seed: int = 0
    deterministic: bool = False
    learning_rate_scaling: str | None = None
    reference_batch: int = 256
    plateau: Plateau | None = None
    accumulation: int = 1
    clip_norm: float | None = None
    clip_value: float | None = None
    clip_adaptive: float | None = None
    ema: float | None = None
    ema_warmup: bool = True
    window: int = 10
    evaluate_every: Duration = (1, "epochs")
    checkpoint_every: Duration = (1, "epochs")
    checkpoint_minutes: float | None = None
    keep_checkpoints: int = 3
    keep_every: Duration | None = None
    keep_best: int = 1
    best_by: str | None = None
    best_gain: float = 0.0
    early_stopping: EarlyStopping | None = None
    guard: Guard = dataclasses.field(default_factory=guard)
    stop_within: float = 60.0
    tensorboard: TensorBoard | str | None = "auto"
    bad_images: str = "refuse"
    replace_at_most: float = 0.01

    def __post_init__(self):
        counts = ("batch_size", "image_size", "window", "keep_checkpoints", "samples", "evaluation_samples")
        for name in (*counts, "accumulation", "reference_batch"):
            expect(f"train.{name}", getattr(self, name), _is_count(getattr(self, name)), "a whole number above 0")
        expect(
            "train.seed",
            self.seed,
            _is_count(self.seed + 1) and self.seed < 2**32 if isinstance(self.seed, int) else False,
            "a whole number below 2**32",
        )
        evaluation = self.evaluation_batch_size
        expect(
            "train.evaluation_batch_size", evaluation, evaluation is None or _is_count(evaluation), "None or above 0"
        )
        packed = self.reduction_bytes
        expect(
            "train.reduction_bytes", packed, packed is None or _is_count(packed), "None or a number of bytes above 0"
        )
        threads = self.threads
        expect("train.threads", threads, threads is None or _is_count(threads), "None or a whole number above 0")
        number = isinstance(self.crop, int | float) and 0 < self.crop <= 1
        expect("train.crop", self.crop, number, "a number above 0, at most 1")
        clips = {name: getattr(self, name) for name in ("clip_norm", "clip_value", "clip_adaptive")}
        for name, clip in clips.items():
            expect(f"train.{name}", clip, clip is None or (_is_number(clip) and clip > 0), "None or above 0")
        used = [name for name, clip in clips.items() if clip is not None]
        for name in used[1:]:
            expect(f"train.{name}", clips[name], False, f"None beside train.{used[0]}: one bound on the gradient")
        decay = self.ema is None or (_is_number(self.ema) and 0 <= self.ema < 1)
        expect("train.ema", self.ema, decay, "None, or a number in 0..1 and below 1, such as .999")
        expect("train.ema_warmup", self.ema_warmup, isinstance(self.ema_warmup, bool), "True or False")
        scaling = self.learning_rate_scaling
        expect("train.learning_rate_scaling", scaling, scaling in (None, *SCALINGS), f"None, {' or '.join(SCALINGS)}")
        expect("train.plateau", self.plateau, isinstance(self.plateau, Plateau | None), "None or @plateau()")
        early = self.early_stopping
        expect("train.early_stopping", early, isinstance(early, EarlyStopping | None), "None or @early_stopping()")
        board = self.tensorboard in (None, AUTO) or isinstance(self.tensorboard, TensorBoard)
        expect("train.tensorboard", self.tensorboard, board, "auto, @tensorboard() or None")
        expect("train.guard", self.guard, isinstance(self.guard, Guard), "@guard()")
        best = _is_count(self.keep_best) and self.keep_best <= CAPACITY
        expect("train.keep_best", self.keep_best, best, f"a whole number, 1 to {CAPACITY}")
        gain = _is_number(self.best_gain) and 0 <= self.best_gain < math.inf
        expect("train.best_gain", self.best_gain, gain, "a number, at least 0")
        minutes = self.checkpoint_minutes
        timed = minutes is None or (_is_number(minutes) and minutes > 0)
        expect("train.checkpoint_minutes", minutes, timed, "None, or minutes, more than 0")
        within = _is_number(self.stop_within) and 0 < self.stop_within < math.inf
        expect("train.stop_within", self.stop_within, within, "seconds, more than 0")
        expect("train.deterministic", self.deterministic, isinstance(self.deterministic, bool), "True or False")
        for name, choices in (
            ("precision", (*PRECISIONS, AUTO)),
            ("xla", (NEVER, ALWAYS, AUTO)),
            ("reduction", REDUCTIONS),
            ("fit", FITS),
            ("fill", FILLS),
            ("interpolation", INTERPOLATIONS),
            ("placement", ("device", "host")),
            ("bad_images", ("refuse", "drop")),
        ):
            expect(f"train.{name}", getattr(self, name), getattr(self, name) in choices, f"one of {', '.join(choices)}")
        expect("train.source", self.source, callable(self.source), "a reference without (): @folder")
        expect("train.split", self.split, callable(self.split), "a reference without (): @split_by_hash")
        expect("train.sampling", self.sampling, callable(self.sampling), "a reference without (): @balanced")
        weights = self.class_weights
        by_class = isinstance(weights, Mapping) and all(map(_is_number, weights.values()))
        expect(
            "train.class_weights",
            weights,
            weights in (None, "balanced") or by_class,
            "None, 'balanced' or {'cat': 2.0}",
        )
        named = self.store is None or (isinstance(self.store, str) and self.store)
        expect("train.store", self.store, named, "None, 'auto' or a folder")
        whole = _are_levels(self.background) and all(isinstance(level, int) for level in self.background)
        expect("train.background", self.background, whole, "three whole numbers in 0..255, such as (255, 255, 255)")
        expect("train.fill_value", self.fill_value, _are_levels(self.fill_value), "three numbers in 0..255")
        share = _is_number(self.replace_at_most) and 0 <= self.replace_at_most <= 1
        expect("train.replace_at_most", self.replace_at_most, share, "a number in 0..1")
        loss = self.loss is None or _takes(self.loss, 2)
        expect("train.loss", self.loss, loss, "None, @cross_entropy(), or a function (labels, logits)")
        teacher = self.distillation is None or isinstance(self.distillation, Distillation)
        expect("train.distillation", self.distillation, teacher, "None or @distillation()")
        held = self.anchor is None or isinstance(self.anchor, Anchor)
        expect("train.anchor", self.anchor, held, "None or @anchor()")
        expect("train.model", self.model, isinstance(self.model, Architecture), "@model()")
        features = self.features is None or isinstance(self.features, Features)
        expect("train.features", self.features, features, "None or @features()")
        service = self.data_service
        served = service is None or (isinstance(service, DataService) and self.features is None)
        expect("train.data_service", service, served, "None, or @data_service() where train.features is None")
        expect("train.optimizer", self.optimizer, isinstance(self.optimizer, UpdateRule), "@adamw(), @sgd() or another")
        expect("train.policy", self.policy, isinstance(self.policy, Policy), "@policy()")
        normalisation = self.normalisation
        constant = isinstance(normalisation, list | tuple) and all(map(_draws_nothing, normalisation))
        expected = "None, or operations that draw nothing, such as [@rescale()]"
        expect("train.normalisation", normalisation, normalisation is None or constant, expected)
        _expect_known_pixels(self)
        views = isinstance(self.evaluation_views, Views)
        expect("train.evaluation_views", self.evaluation_views, views, "@views() or @five_crop()")
        listed = isinstance(self.stages, list | tuple)
        entries = [each if isinstance(each, list | tuple) else [each] for each in self.stages] if listed else []
        stages = tuple(itertools.chain.from_iterable(entries))
        right = listed and all(isinstance(stage, Stage) for stage in stages)
        expect("train.stages", self.stages, right, "a list like [@head/stage(), @blocks/stage()], or @unfreezing()")
        object.__setattr__(self, "stages", stages)

    @property
    def rate_factor(self) -> float:
        """What batches of this size make of the learning rates of the schedules."""
        return batch_factor(self.learning_rate_scaling, batch=self.batch_size, reference=self.reference_batch)

    def size(self, stage: Stage | None = None) -> tuple[int, int]:
        """Height and width of what the network sees in a stage; None: in every evaluation."""
        side = self.image_size if stage is None or stage.image_size is None else stage.image_size
        return side, side


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _are_levels(value) -> bool:
    levels = isinstance(value, list | tuple) and len(value) == 3 and all(map(_is_number, value))
    return levels and all(0 <= level <= 255 for level in value)


def _expect_known_pixels(recipe: Recipe) -> None:
    backbone = recipe.model.backbone
    if recipe.normalisation is None and not backbone.knows_colour:
        raise UserError(
            f"nobody knows which pixels {backbone.name} wants: it does not begin with a rescaling of its own",
            where="gin binding train.normalisation, for model.backbone (backbone)",
            expected="operations that make 0..255 what it was trained on",
            do="train.normalisation = [@standardise()] with standardise.mean = 127.5 and standardise.std = 127.5 for "
            "-1..1, or [] where it wants 0..255",
        )


def _draws_nothing(operation) -> bool:
    return isinstance(operation, Operation) and operation.count == 0


def _takes(function, count: int) -> bool:
    """Whether it can be called with so many arguments; `@cross_entropy` without () cannot."""
    try:
        inspect.signature(function).bind(*range(count))
    except (TypeError, ValueError):
        return False
    return True
