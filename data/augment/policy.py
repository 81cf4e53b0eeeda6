"""A policy draws, for each position of the stream, the numbers that augment its image."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import gin
import tensorflow as tf

from data import draws
from data.augment.mixing import Mix
from data.augment.operation import Operation, Range, Size, blend_in, check_range, sometimes
from data.augment.slots import Crop, Geometry, Slot
from data.errors import UserError

# The vector code of elementwise functions and the code for the rest of a vector may differ in the last bit. Whole
# vectors only, so that a position gets the same numbers in every batch size.
LANES = 16


class Drawn(NamedTuple):
    """What a policy has drawn for B positions.

    Attributes:
        geometry: [B, 3, 3] float64, pixel of the augmented image -> pixel of the image before augmentation.
        arrays: for each slot of `Policy.program` [B, *shape] float32.
        crop: [B, 24] float64, see `data.augment.crops`; None where the policy has no such operation.
        share: [B] float32, share of its own label that an example keeps when it is mixed with its partner, position
            k xor 1; None where the policy mixes nothing.
    """

    geometry: tf.Tensor
    arrays: tuple[tf.Tensor, ...]
    crop: tf.Tensor | None
    share: tf.Tensor | None

    def columns(self) -> dict[str, tf.Tensor | tuple[tf.Tensor, ...]]:
        """By name, what there is."""
        there = {name: value for name, value in self._asdict().items() if value is not None}
        return there if self.arrays else {name: value for name, value in there.items() if name != "arrays"}


@dataclasses.dataclass(frozen=True)
class Policy:
    """Operations, from the input to the output. An empty one changes nothing.

    Attributes:
        operations: geometry first takes effect, in one warp; then what changes pixels, in this order.
        during: name of an operation -> (start, stop), the shares of training between which it is on.
    """

    operations: tuple[Operation, ...] = ()
    during: Mapping[str, Range] = dataclasses.field(default_factory=dict)

    @property
    def program(self) -> tuple[Slot, ...]:
        """What the kernel does to the pixels of a warped image, in this order."""
        slots = (slot for operation in self.operations for slot in operation.slots)
        return tuple(slot for slot in slots if not isinstance(slot, Geometry | Crop))

    @property
    def mixes(self) -> bool:
        """Whether examples are mixed in pairs, so that every batch has to be even."""
        return any(isinstance(slot, Mix) for slot in self.program)

    @property
    def file_crop(self) -> Crop | None:
        """The slot of crops whose pixels come from the file at full resolution, if it has such."""
        slots = (slot for operation in self.operations for slot in operation.slots)
        return next((slot for slot in slots if isinstance(slot, Crop) and slot.pixels == "decode"), None)

    def uniform(self, index: int, positions: tf.Tensor, *, seed: int) -> tf.Tensor:
        """[B, count] float64 in [0, 1), what the operation of this index draws its numbers from."""
        operation = self.operations[index]
        earlier = sum(other.name == operation.name for other in self.operations[:index])
        keys = positions // 2 if operation.paired else positions
        return tf.cast(draws.uniform(seed, keys, f"{operation.name}/{earlier}", operation.count), tf.float64)

    def __repr__(self) -> str:
        return f"a policy of {', '.join(operation.name for operation in self.operations) or 'nothing'}"

    def draw(self, positions: tf.Tensor, *, seed: int, size: Size, length: int | None = None) -> Drawn:
        """Draws and multiplies.

        Args:
            positions: [B] int64.
            size: height and width of the output.
            length: positions of the whole training, which `during` is a share of; None: as at its start.
        """
        count = tf.shape(positions)[0]
        padded = tf.pad(positions, [[0, -count % LANES]])
        through = tf.cast(padded, tf.float64) / length if length else tf.zeros_like(padded, tf.float64)
        geometry = tf.eye(3, batch_shape=tf.shape(padded), dtype=tf.float64)
        arrays, crop, share = [], None, None
        for index, operation in enumerate(self.operations):
            drawn = _drawn(operation, self.uniform(index, padded, seed=seed), size)
            for slot, array in zip(operation.slots, drawn, strict=True):
                _check_shape(operation, array, slot.identity(size).shape)
                if operation.name in self.during:
                    start, stop = self.during[operation.name]
                    array = blend_in(slot, (through >= start) & (through < stop), array, None, size)
                if isinstance(slot, Geometry):
                    geometry = geometry @ array
                elif isinstance(slot, Crop):
                    crop = array[:count]
                else:
                    arrays.append(tf.cast(array, tf.float32)[:count])
                if isinstance(slot, Mix):
                    share = tf.cast(slot.share(array, size), tf.float32)[:count]
        return Drawn(geometry[:count], tuple(arrays), crop, share)


def _drawn(operation: Operation, uniform: tf.Tensor, size: Size) -> Sequence[tf.Tensor]:
    """What it draws; one's own may fail in any way."""
    try:
        return operation.draw(uniform, size)
    except UserError:
        raise
    except Exception as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise UserError(
            f"the operation {operation.name} fails: {type(error).__name__}: {first[:200]}",
            where="gin binding policy.operations",
            expected="tensors in float64, of B numbers each, made in a tf.function",
            do="correct the function that makes its matrix or curve",
        ) from error


def _check_shape(operation: Operation, array: tf.Tensor, shape: tuple[int, ...]) -> None:
    if not tf.is_tensor(array) or tuple(array.shape[1:]) != shape or array.dtype != tf.float64:
        found = f"{array.dtype.name} of shape {array.shape}" if tf.is_tensor(array) else f"{type(array).__name__}"
        raise UserError(
            f"{found} from the operation {operation.name}",
            where="gin binding policy.operations",
            expected=f"float64 of shape [B, {', '.join(map(str, shape))}] for B positions",
            do="correct the function that makes its matrix or curve",
        )


@gin.configurable
def policy(
    operations: Sequence[Operation | tuple[Operation, float]] = (), during: Mapping[str, Range] | None = None
) -> Policy:
    """A policy out of `@rotation()`, `@brightness()`, `@mixup()`, ... or operations of your own.

    Args:
        operations: in their order, each alone or with its probability: `[@flip(), (@rotation(), 0.5)]`.
        during: operations that are not always on: `{'mixup': (0.0, 0.9)}`, shares of training.

    Raises:
        UserError: something else than operations, a range that is none, or two operations that mix or crop.
    """
    where = "gin binding policy.operations"
    listed = operations if isinstance(operations, list | tuple) else [operations]
    chosen = []
    for entry in listed:
        pair = entry if isinstance(entry, tuple) and len(entry) == 2 else (entry, 1)
        if not isinstance(pair[0], Operation):
            raise UserError(
                f"{entry!r} in policy.operations",
                where=where,
                expected="operations, each alone or with its probability",
                do="policy.operations = [@flip(), (@rotation(), 0.5)]; mind the ()",
            )
        chosen.append(sometimes(*pair))
    for kind, what in ((Mix, "mix examples in pairs"), (Crop, "crop images by their own size")):
        several = [operation.name for operation in chosen for slot in operation.slots if isinstance(slot, kind)]
        if len(several) > 1:
            raise UserError(
                f"{' and '.join(several)} all {what}",
                where=where,
                expected="one such operation",
                do="choose one of them, or @one_of() of alike ones",
            )
    ranges = {}
    if not isinstance(during, Mapping | None):
        raise UserError(
            f"policy.during = {during!r}",
            where="gin binding policy.during",
            expected="names of operations with shares of training",
            do="policy.during = {'mixup': (0.0, 0.9)}",
        )
    for name, value in (during or {}).items():
        if name not in {operation.name for operation in chosen}:
            raise UserError(
                f"policy.during names {name!r}",
                where="gin binding policy.during",
                expected=f"one of {', '.join(operation.name for operation in chosen) or 'no operation'}",
                do="correct the name",
            )
        ranges[name] = check_range(f"policy.during[{name!r}]", value, where="gin binding policy.during", low=0, high=1)
    return Policy(tuple(chosen), ranges)
