"""Patterns that name variables of a network: words, blocks, layers, regular expressions."""

import dataclasses
import difflib
import re

import keras

from data.errors import UserError
from trainer.models.backbones import Backbone
from trainer.models.naming import NORMALISATION
from trainer.models.network import Network

FORMS = "head, backbone, all, last N blocks, last N layers, from NAME, a block, a layer, or an expression"


@dataclasses.dataclass(frozen=True)
class Names:
    """What patterns can name in a network.

    Attributes:
        variables: those that gradients can update, in the order of the model, as `backbone/LAYER/VARIABLE` or
            `head/LAYER/VARIABLE`.
        layers: layers of the backbone that have variables, from the input to the output.
        blocks: names of the layers of each block, blocks and layers from the input to the output.
    """

    variables: tuple[str, ...]
    layers: tuple[str, ...]
    blocks: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, network: Network, backbone: Backbone) -> "Names":
        """Those of a built network."""
        statistics = {
            layer.name
            for layer in network.backbone.layers
            if isinstance(layer, keras.layers.Normalization) or layer.name == NORMALISATION
        }
        variables = [
            name
            for name, variable in network.variables.items()
            if _trains_by_nature(name, variable) and name.split("/")[1] not in statistics
        ]
        layers = [layer.name for layer in network.backbone.layers if layer.weights]
        blocks: dict[str, tuple[str, ...]] = {}
        for layer in layers:
            block = backbone.block_of(layer)
            if block is not None:
                blocks[block] = (*blocks.get(block, ()), layer)
        return cls(tuple(variables), tuple(layers), blocks)

    def matching(self, pattern: str, *, where: str) -> set[str]:
        """The variables that a pattern names.

        Args:
            pattern: `head`: all outside the backbone. `backbone`. `all`. `last N blocks`, `last N layers`: the N of the
                backbone that are nearest to its output; layers without variables do not count. `from NAME`: the block
                or layer of the backbone of that name and all behind it. The name of a block or layer of the backbone.
                Else a regular expression that is searched in names like `backbone/block15_project_conv/kernel`.
            where: the binding, for messages.

        Raises:
            UserError: the pattern is malformed, or names nothing.
        """
        expression = self._expression(pattern, where)
        matched = {name for name in self.variables if expression.search(name)}
        if not matched:
            layers = sorted({name.rsplit("/", 1)[0] for name in self.variables})
            nearest = difflib.get_close_matches(pattern, layers, n=3, cutoff=0.3)
            raise UserError(
                f"the pattern {pattern!r} matches no variable",
                where=where,
                expected=f"{FORMS} for names like {layers[-1]}",
                do=f"nearest: {', '.join(nearest) or ', '.join(layers[:3])}",
            )
        return matched

    def distance(self, name: str) -> int:
        """How many blocks a variable is away from the head: 0 in the head, 1 in the last block, 2 in the one before.

        A layer outside of every block counts to the block before it, at the input to the first.
        """
        part, layer = name.split("/")[:2]
        if part != "backbone":
            return 0
        place = {each: index for index, layers in enumerate(self.blocks.values()) for each in layers}
        before = self.layers[: self.layers.index(layer) + 1]
        return len(self.blocks) - next((place[each] for each in reversed(before) if each in place), 0)

    def _expression(self, pattern: str, where: str) -> re.Pattern:
        last = re.fullmatch(r"last (\d+) (block|layer)s?", pattern)
        if last:
            return _of_layers(self._last(pattern, int(last[1]), f"{last[2]}s", where))
        start = re.fullmatch(r"from (\S+)", pattern)
        if start:
            first = self._named(start[1])
            if not first:
                raise self._unknown(pattern, start[1], where)
            return _of_layers(self.layers[self.layers.index(first[0]) :])
        words = {"head": "^head/", "backbone": "^backbone/", "all": ""}
        if pattern not in words and self._named(pattern):
            return _of_layers(self._named(pattern))
        try:
            return re.compile(words.get(pattern, pattern))
        except re.error as error:
            raise UserError(
                f"{pattern!r} is no regular expression: {error}", where=where, expected=FORMS, do="correct it"
            ) from error

    def _last(self, pattern: str, count: int, kind: str, where: str) -> tuple[str, ...]:
        groups = list(self.blocks.values()) if kind == "blocks" else [(layer,) for layer in self.layers]
        if not 1 <= count <= len(groups):
            listed = f": {', '.join(self.blocks)}" if kind == "blocks" else ""
            raise UserError(
                f"{pattern!r}: the backbone has {len(groups)} {kind}",
                where=where,
                expected=f"1 to {len(groups)}{listed}",
                do="choose a number in that range",
            )
        return tuple(layer for group in groups[-count:] for layer in group)

    def _named(self, name: str) -> tuple[str, ...]:
        """The layers of a block of that name, or the one layer; none where there is neither."""
        return self.blocks.get(name) or ((name,) if name in self.layers else ())

    def _unknown(self, pattern: str, name: str, where: str) -> UserError:
        nearest = difflib.get_close_matches(name, [*self.blocks, *self.layers], n=3, cutoff=0.3)
        return UserError(
            f"{pattern!r}: no block or layer with variables in the backbone is called {name!r}",
            where=where,
            expected=f"a layer, or one of the blocks {', '.join(self.blocks)}",
            do=f"nearest: {', '.join(nearest) or next(iter(self.blocks), self.layers[0])}",
        )


def _of_layers(layers: tuple[str, ...]) -> re.Pattern:
    return re.compile(f"^backbone/({'|'.join(map(re.escape, layers))})/")


def _trains_by_nature(name: str, variable: keras.Variable) -> bool:
    last = name.split("/")[-1]
    return not (last.startswith("moving_") or last == "seed_generator_state") and variable.dtype.startswith("float")
