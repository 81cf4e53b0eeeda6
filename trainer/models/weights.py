"""Arrays by name into a model: every variable is compared before the first one is written."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np

from data.errors import UserError

HEAD = r"^(fc\d*|predictions|conv_preds|logits|classifier|head(_\w+)?)\b"
_SHOWN = 5


@dataclass(frozen=True)
class WeightReport:
    """What of a file went into which part of a model.

    Attributes:
        source: the file, as the user knows it.
        matched: the model's variables that were assigned, `layer/variable`, in the model's order.
        skipped: entries of the file that the model has no place for (a classifier).
        missing: the model's variables that the file lacks.
        matched_parameters, model_parameters: numbers assigned, and in all variables of the model.
    """

    source: str
    matched: tuple[str, ...]
    skipped: tuple[str, ...]
    missing: tuple[str, ...]
    matched_parameters: int
    model_parameters: int

    def summary(self) -> str:
        """One line: how many variables and parameters, from where, and what was left out."""
        line = (
            f"{len(self.matched)} of {len(self.matched) + len(self.missing)} variables, "
            f"{self.matched_parameters:,} of {self.model_parameters:,} parameters "
            f"({100 * self.matched_parameters / max(self.model_parameters, 1):.1f} %) from {self.source}"
        )
        for word, names in (("skipped", self.skipped), ("missing", self.missing)):
            if names:
                line += f"; {len(names)} {word}: {_first(names)}"
        return line


def named_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """The weights of a built model by `layer/variable`; nested models are opened, seed states left out.

    A layer made of layers gives longer names, `attention/query/kernel`.

    Raises:
        UserError: two variables would have the same name.
    """
    named: dict[str, keras.Variable] = {}
    seen: set[int] = set()
    for layer in [*leaves(model), model]:
        for variable in layer.weights:
            if id(variable) in seen:
                continue
            seen.add(id(variable))
            name = _variable_name(layer, variable)
            if name in named:
                raise UserError(
                    f"two variables of the model are called {name}",
                    where=f"model {model.name!r}",
                    expected="a name of its own for every layer, in nested models too",
                    do="give the layers different names, or load the nested models one by one",
                )
            named[name] = variable
    return named


def assign(model: keras.Model, arrays: Mapping[str, np.ndarray], *, source: str, head: str = HEAD) -> WeightReport:
    """Gives every variable of the model the array of its name.

    Args:
        model: a built model.
        arrays: by `layer/variable`, in the variable's shape; numbers of any type, cast to the variable's.
        source: what to call the origin in messages.
        head: regular expression of the entries that the model may lack.

    Raises:
        UserError: a variable has no entry or one of another shape, or an entry is left over that is not
            part of the head. The model is then untouched.
    """
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    report = compare(model, shapes, source=source, head=head)
    write(model, {name: np.asarray(arrays[name]) for name in report.matched}, source=source)
    return report


def compare(model: keras.Model, shapes: Mapping[str, tuple[int, ...]], *, source: str, head: str) -> WeightReport:
    """What loading entries of these names and shapes would do; changes nothing.

    Raises:
        UserError: as `assign` does.
    """
    variables = named_variables(model)
    missing = tuple(name for name in variables if name not in shapes)
    skipped = tuple(name for name in shapes if name not in variables)
    present = tuple(name for name in variables if name in shapes)
    reshaped = tuple(name for name in present if tuple(variables[name].shape) != shapes[name])
    foreign = tuple(name for name in skipped if not re.search(head, name))
    complaints = []
    if missing:
        complaints.append(f"{len(missing)} missing from the file: {_first(missing)}")
    if reshaped:
        named = [f"{name} {shapes[name]}, the model's {tuple(variables[name].shape)}" for name in reshaped]
        complaints.append(f"{len(reshaped)} of another shape: {_first(named)}")
    if foreign:
        complaints.append(f"{len(foreign)} unknown to the model: {_first(foreign)}")
    if complaints:
        fitting = len(present) - len(reshaped)
        raise UserError(
            f"{fitting} of {len(variables)} variables of model {model.name!r} fit, so none was loaded; "
            + "; ".join(complaints),
            where=source,
            expected=f"every variable of the model in its shape, and nothing else but a head like {head!r}",
            do="build the model that was saved (same backbone, width and classes), or name another head",
        )
    return WeightReport(
        source=source,
        matched=present,
        skipped=skipped,
        missing=missing,
        matched_parameters=sum(_size(variables[name]) for name in present),
        model_parameters=sum(map(_size, variables.values())),
    )


def write(model: keras.Model, values: Mapping[str, np.ndarray], *, source: str) -> None:
    """Assigns values that `compare` has found to fit.

    Raises:
        UserError: one holds no real numbers; nothing was assigned.
    """
    for name, value in values.items():
        if not np.can_cast(value.dtype, np.float64, "same_kind"):
            raise UserError(
                f"{name} holds {value.dtype}",
                where=source,
                expected="real numbers",
                do="save the weights again with Keras",
            )
    variables = named_variables(model)
    for name, value in values.items():
        variables[name].assign(value)
    for layer in leaves(model):
        if layer.weights and hasattr(layer, "finalize_state"):
            layer.finalize_state()


def leaves(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers of a model that are not themselves models."""
    found = []
    for layer in model.layers:
        found.extend(leaves(layer) if isinstance(layer, keras.Model) else [layer])
    return found


def _variable_name(layer: keras.layers.Layer, variable: keras.Variable) -> str:
    parts = variable.path.split("/")
    if layer.name not in parts[:-1]:
        return f"{layer.name}/{variable.name}"
    return "/".join(parts[parts.index(layer.name) :])


def _size(variable: keras.Variable) -> int:
    return int(np.prod(variable.shape, dtype=np.int64))


def _first(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
