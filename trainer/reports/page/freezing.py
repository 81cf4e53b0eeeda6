"""`stages.json` as a table: neighbouring layers that the stages treat alike are one row."""

import dataclasses

from data.names import printable
from trainer.reports.page.chart import said

ROWS = 60


@dataclasses.dataclass(kw_only=True)
class Layers:
    """Neighbours in the network.

    Attributes:
        first, last: their names.
        parameters: of all of them.
        cells: for each stage what it says, and `trains` or `stays`.
    """

    first: str
    last: str
    count: int
    parameters: int
    cells: list[tuple[str, str]]


def rows(stages: dict) -> tuple[list[Layers], int]:
    """The rows of the table, from the input to the output, and how many are left out in the middle.

    A batch normalisation, whose mode is that of the stage, goes with the layer in front of it.
    """
    found: list[Layers] = []
    for layer in stages.get("layers", []):
        name, cells = printable(layer["name"]), [_cell(each) for each in layer["stages"]]
        if found and (found[-1].cells == cells or layer["normalises"]):
            last = found[-1]
            last.last, last.count, last.parameters = name, last.count + 1, last.parameters + layer["parameters"]
        else:
            found.append(Layers(first=name, last=name, count=1, parameters=layer["parameters"], cells=cells))
    if len(found) <= ROWS:
        return found, 0
    return [*found[: ROWS // 2], *found[-ROWS // 2 :]], len(found) - ROWS


def _cell(stage: dict) -> tuple[str, str]:
    if not stage["trained"]:
        return "frozen", "stays"
    low, high = stage["low"], stage["high"]
    if low == high:
        return "trains" if low == 1 else f"rate × {said(low)}", "trains"
    return f"rate × {said(low)} to {said(high)}", "trains"
