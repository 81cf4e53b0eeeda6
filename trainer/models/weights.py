"""Arrays by name into a model: every variable is compared before the first one is written."""

import dataclasses
import re
from collections.abc import Mapping

import keras
import numpy as np

from data.errors import UserError
from trainer.models.growing import ClassChange
from trainer.models.naming import variable_name

HEAD = r"^(fc\d*|predictions|conv_preds|logits|classifier|head(_\w+)?)\b"
_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class WeightReport:
    """What of a file went into which part of a model.

    Attributes:
        source: the file, as the user knows it.
        matched: the model's variables that were assigned, `layer/variable`, in the model's order.
        skipped: entries of the file that the model has no place for (a classifier).
        missing: the model's variables that the file lacks.
        matched_parameters, model_parameters: numbers assigned, and in all variables of the model.
        classes: what became of the source's classes; None where only a backbone was filled.
        notes: what else the user should know.
    """

    source: str
    matched: tuple[str, ...]
    skipped: tuple[str, ...]
    missing: tuple[str, ...]
    matched_parameters: int
    model_parameters: int
    classes: ClassChange | None = None
    notes: tuple[str, ...] = ()

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
        for told in (*([self.classes.summary()] if self.classes else []), *self.notes):
            line += f"; {told}"
        return line

    def facts(self) -> dict:
        """The same for `metrics.jsonl`; of names that went over, their number."""
        return {
            "source": self.source,
            "matched": len(self.matched),
            "skipped": list(self.skipped),
            "missing": list(self.missing),
            "matched_parameters": self.matched_parameters,
            "model_parameters": self.model_parameters,
            "classes": None if self.classes is None else dataclasses.asdict(self.classes),
            "notes": list(self.notes),
            "summary": self.summary(),
        }


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
            name = f"{layer.name}/{variable_name(layer, variable)}"
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
            do="build the model that was saved (same backbone, same width); a whole model with another kind of head "
            "can itself be the backbone: model.backbone = 'FILE'",
        )
    return WeightReport(
        source=source,
        matched=present,
        skipped=skipped,
        missing=missing,
        matched_parameters=sum(_size(variables[name]) for name in present),
        model_parameters=sum(map(_size, variables.values())),
    )


def write(
    model: keras.Model,
    values: Mapping[str, np.ndarray],
    *,
    source: str,
    variables: Mapping[str, keras.Variable] | None = None,
) -> None:
    """Assigns values that `compare` has found to fit.

    Args:
        variables: those of the model by the names of the values; None: `named_variables`.

    Raises:
        UserError: one holds no real numbers, or not only finite ones; nothing was assigned.
    """
    for name, value in values.items():
        real = np.can_cast(value.dtype, np.float64, "same_kind")
        if not real or not np.isfinite(value).all():
            raise UserError(
                f"{name} holds {'NaN or infinity' if real else value.dtype}",
                where=source,
                expected="real, finite numbers",
                do="take weights from before they broke, or save them again with Keras",
            )
    variables = named_variables(model) if variables is None else variables
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


def _size(variable: keras.Variable) -> int:
    return int(np.prod(variable.shape, dtype=np.int64))


def _first(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
