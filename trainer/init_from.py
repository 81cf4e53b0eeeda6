"""Weights of another run or program for the first start of a session: `--init_from`."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

import gin
import keras
import numpy as np

from data.errors import UserError
from trainer import checkpoints, launch, manifest, rendering
from trainer.models import checkpoint_file, files
from trainer.models.growing import Outputs
from trainer.models.naming import NORMALISATION
from trainer.models.network import Network
from trainer.models.stored import Array, Reading
from trainer.models.transfer import outputs_layer, transfer
from trainer.models.weights import HEAD, WeightReport, compare, named_variables, write
from trainer.prediction import Meaning
from trainer.recipe import Recipe
from trainer.workdir import Workdir

IMAGENET = "imagenet"
_SEED = "seed_generator_state"


@dataclasses.dataclass(frozen=True)
class Source:
    """Where weights come from.

    Attributes:
        path: what `files.opened` reads.
        outputs: what its outputs stand for, as far as that is written anywhere.
        session: the folder of the session that wrote them; None where none did.
    """

    path: Path
    outputs: Outputs
    session: Path | None = None


def find(path: str) -> Source:
    """What a path names: a workdir (its best checkpoint, else its last), or any file of weights.

    Classes are known of a workdir, of the checkpoints in it, and of exports (see `classes_file`).

    Raises:
        UserError: a workdir without a checkpoint, a list of classes that is damaged, an export that was changed since.
    """
    place = Path(path).expanduser().absolute()
    session = next((folder for folder in (place, *place.parents[:3]) if (folder / "config.gin").is_file()), None)
    if session == place:
        which = "best" if any(place.glob("checkpoints/best/ckpt-*.index")) else "last"
        return Source(checkpoints.find(place / "checkpoints", which), _outputs_of_session(place), place)
    if session and any(place.is_relative_to(session / kept) for kept in ("checkpoints", "initial")):
        return Source(place, _outputs_of_session(session), session)
    return Source(place, _outputs_of_export(place))


def classes_file(path: Path) -> Path:
    """Where an export says what its outputs stand for: in its folder, or in NAME.classes.json beside a file."""
    return path / "classes.json" if path.is_dir() else path.with_name(f"{path.name}.classes.json")


def _outputs_of_session(folder: Path) -> Outputs:
    meaning = Meaning.of(Workdir.existing(str(folder)))
    return Outputs(meaning.task, meaning.names)


def _outputs_of_export(path: Path) -> Outputs:
    in_folder = not path.is_dir() and checkpoint_file.find_prefix(path) is not None
    file = classes_file(path.parent if in_folder else path)
    if not file.is_file():
        return Outputs(None, None)
    try:
        written = json.loads(file.read_text())
        task, names, checksum = (
            (None, written, None)
            if isinstance(written, list)
            else (written["task"], written["classes"], written.get("sha256"))
        )
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise ValueError("it holds no list of names")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"the classes of the weights cannot be read: {error}",
            where=str(file),
            expected="a list of names, or the file as scripts/export.py wrote it",
            do="correct it, or remove it: outputs are then taken in order",
        ) from error
    if checksum is not None and checksum != manifest.sha256(path):
        raise UserError(
            "the file has other content than when it was exported",
            where=str(path),
            expected=f"the checksum in {file.name}",
            do=f"export or copy it again, or remove {file.name} if it was changed on purpose",
        )
    return Outputs(task, tuple(names))


def load(network: Network, path: str, *, ours: Outputs, recipe: Recipe) -> WeightReport:
    """Fills a network with the weights of a source; optimizer and step are not taken.

    Every variable of the backbone has to be there in its shape, and the source may hold nothing else but a head. What
    of a head fits goes over, see `trainer.models.transfer`.

    Args:
        path: see `find`; or `imagenet`, those that `model.weights = 'imagenet'` takes.
        ours: what the outputs of the network stand for.

    Raises:
        UserError: nothing there, damaged, another architecture, class lists that clash. The network is then untouched.
    """
    if path == IMAGENET:
        return dataclasses.replace(recipe.model, pretrained=IMAGENET).load(network.backbone)
    source = find(path)
    with files.opened(network.backbone, source.path) as reading:
        inside, head = _parted(network.backbone, reading)
        normalised = head.pop(NORMALISATION, {})
        notes = _normalised_otherwise([array.read() for array in normalised.values()], source.session, recipe)
        report = compare(
            network.backbone, {name: array.shape for name, array in inside.items()}, source=path, head=HEAD
        )
        named = {id(variable): name for name, variable in network.variables.items()}
        variables = named_variables(network.backbone)
        values = {named[id(variables[name])]: inside[name].read() for name in report.matched}
        found = transfer(
            _our_head(network),
            head,
            outputs_layer=outputs_layer(network.model),
            theirs=source.outputs,
            ours=ours,
            source=path,
        )
    write(network.model, values | found.values, source=path, variables=network.variables)
    weights = [name for name in network.variables if not name.endswith(_SEED)]
    matched = values.keys() | found.values.keys()
    return WeightReport(
        source=path if source.path.name == Path(path).name else f"{path} ({source.path.name})",
        matched=tuple(name for name in weights if name in matched),
        skipped=found.skipped,
        missing=tuple(name for name in weights if name not in matched),
        matched_parameters=report.matched_parameters + found.parameters,
        model_parameters=sum(int(np.prod(network.variables[name].shape)) for name in weights),
        classes=found.classes,
        notes=notes,
    )


def _our_head(network: Network) -> dict[str, dict[str, keras.Variable]]:
    layers: dict[str, dict[str, keras.Variable]] = {}
    for name, variable in network.variables.items():
        part, layer, *_ = name.split("/")
        if part == "head" and not name.endswith(_SEED):
            layers.setdefault(layer, {})[name] = variable
    return layers


def _parted(backbone: keras.Model, reading: Reading) -> tuple[dict[str, Array], dict[str, dict[str, Array]]]:
    """What is the backbone's, and the layers of the head: those around it, and known or dense ones beyond it."""
    known = named_variables(backbone)
    beyond = _layers({name: array for name, array in reading.inside.items() if name not in known})
    head = {
        layer: arrays
        for layer, arrays in beyond.items()
        if layer == NORMALISATION or re.search(HEAD, layer) or _is_dense([array.shape for array in arrays.values()])
    }
    names = {name for arrays in head.values() for name in arrays}
    return {name: array for name, array in reading.inside.items() if name not in names}, _layers(reading.outside) | head


def _layers(arrays: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
    layers: dict[str, dict[str, Array]] = {}
    for name, array in arrays.items():
        layers.setdefault(name.rpartition("/")[0], {})[name] = array
    return layers


def _is_dense(shapes: list[tuple[int, ...]]) -> bool:
    """A kernel of two axes, and perhaps its bias."""
    kernel = next((shape for shape in shapes if len(shape) == 2), None)
    return kernel is not None and sorted(shapes, key=len)[:-1] in ([], [kernel[1:]])


def _normalised_otherwise(stored: list[np.ndarray], session: Path | None, recipe: Recipe) -> tuple[str, ...]:
    """A warning where the source did something else to its pixels than this run does.

    Args:
        stored: the normalisation that an export holds, kernel and offset.
        session: that wrote the weights, whose configuration says it.
    """
    if session is not None:
        theirs = _normalisation_in((session / "config.gin").read_text())
        same = theirs == _normalisation_in(gin.operative_config_str())
    elif stored:
        ours = rendering.colour_matrix(recipe)
        matrix = np.concatenate([np.reshape(array, (-1, 3)) for array in sorted(stored, key=np.ndim, reverse=True)]).T
        same = ours is not None and matrix.shape == ours.shape and np.allclose(matrix, ours, rtol=1e-5, atol=1e-5)
    else:
        same = True
    return () if same else ("its pixels were normalised in another way than this run does (train.normalisation)",)


def _normalisation_in(config: str) -> dict[str, str]:
    """What a configuration says of `train.normalisation`, and of the operations that it names."""
    settings = launch.settings(config)
    rule = settings.get("train.normalisation", "None")
    named = tuple(f"{name}." for name in re.findall(r"@([\w./]+)", rule))
    return {"": rule} | {key: value for key, value in settings.items() if named and key.startswith(named)}
