"""Names of layers and variables that do not depend on what was made before in the process."""

import contextlib
import re
from collections.abc import Iterator

import keras
from keras.src.backend.common import global_state
from keras.src.utils import naming

# The layer of an export that takes pixels to what the backbone was trained on; it never trains.
NORMALISATION = "normalisation"

_COUNTS = "object_name_uids"
_UNNAMED = re.compile(r"variable(_\d+)?")


@contextlib.contextmanager
def numbered_from_zero() -> Iterator[None]:
    """Layers made inside are numbered (`conv2d_7`) as in a new process, whatever was made before."""
    before = global_state.get_global_attribute(_COUNTS)
    naming.reset_uids()
    try:
        yield
    finally:
        global_state.set_global_attribute(_COUNTS, before)


def variable_name(layer: keras.layers.Layer, variable: keras.Variable) -> str:
    """What a variable is called in its layer: `kernel`; unnamed ones `variable`, `variable_1`, ... in their order.

    Those of layers inside the layer have the path from there, `query/kernel`. Seed generators are numbered over the
    whole process, so that the state of one is called by itself.
    """
    parts = variable.path.split("/")
    name = variable.name
    if _UNNAMED.fullmatch(name):
        unnamed = [each.path for each in layer.variables if _UNNAMED.fullmatch(each.name)]
        place = unnamed.index(variable.path)
        name = f"variable_{place}" if place else "variable"
    if layer.name not in parts[:-1]:
        return name
    return "/".join([*parts[parts.index(layer.name) + 1 : -1], name])
