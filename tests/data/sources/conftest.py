"""One small set of images in every form a source reads."""

import importlib
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import tensorflow_datasets
from PIL import Image

from data import sources
from data.examples import Examples, Stream

COUNT = 12
NUMBERS = itertools.count()
BUILDER = '''
import numpy as np
import tensorflow_datasets as tfds


class {name}(tfds.core.GeneratorBasedBuilder):
    """The small set, prepared."""

    VERSION = tfds.core.Version("1.0.0")
    ROOT = {root!r}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({{
                "image": tfds.features.Image(encoding_format="png"),
                "label": tfds.features.ClassLabel(names=["cat", "dog", "emu"]),
                "file": tfds.features.Text(),
                "array": tfds.features.Tensor(shape=(8, 10, 3), dtype=np.uint8),
                "tags": tfds.features.Sequence(tfds.features.ClassLabel(names=["old", "small", "wet"])),
                "score": np.float32,
            }}),
        )

    def _split_generators(self, dl_manager):
        return {{"train": self._generate_examples()}}

    def _generate_examples(self):
        import PIL.Image
        import pathlib
        for row, path in enumerate(sorted(pathlib.Path(self.ROOT).glob("*/*.png"))):
            yield row, {{
                "image": str(path),
                "label": path.parent.name,
                "file": f"{{path.parent.name}}/{{path.name}}",
                "array": np.asarray(PIL.Image.open(path)),
                "tags": [0, 1] if row % 2 else [],
                "score": row / 2,
            }}
'''


@pytest.fixture
def builder_module(tmp_path, monkeypatch) -> Callable[[Path], str]:
    """`builder_module(root)` writes a module with a TFDS builder of the PNG files below a root and returns its name."""

    def write(root: Path) -> str:
        # TFDS keeps builders by the name of their class for the whole process.
        name = f"smallset{next(NUMBERS)}"
        (tmp_path / f"{name}.py").write_text(BUILDER.format(name=name.title(), root=str(root)))
        monkeypatch.syspath_prepend(str(tmp_path))
        return name

    return write


@pytest.fixture
def prepared(builder_module, tmp_path) -> Callable[[Path], dict]:
    """`prepared(root)` prepares that set and returns the arguments by which `tfds` finds it."""

    def prepare(root: Path) -> dict:
        module = builder_module(root)
        importlib.import_module(module)
        arguments = {"name": module, "data_dir": str(tmp_path / "prepared")}
        tensorflow_datasets.builder(**arguments).download_and_prepare()
        return arguments | {"module": module}

    return prepare


@pytest.fixture
def write_records() -> Callable[..., str]:
    """`write_records(path, {"label": 1, ...}, ...)` writes a TFRecord file of tf.train.Example and returns its path."""

    def example(features: dict) -> bytes:
        message = tf.train.Example()
        for name, values in features.items():
            values = values if isinstance(values, list) else [values]
            feature = message.features.feature[name]
            kind = {bytes: feature.bytes_list, int: feature.int64_list, float: feature.float_list}[type(values[0])]
            kind.value.extend(values)
        return message.SerializeToString()

    def write(path: Path, *rows: dict, compression: str = "") -> str:
        with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions(compression_type=compression)) as writer:
            for row in rows:
                writer.write(example(row))
        return str(path)

    return write


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder of twelve PNG pictures of 8 x 10 pixels in three classes."""
    root = tmp_path / "pictures"
    random = np.random.default_rng(7)
    for row in range(COUNT):
        path = root / ("cat", "dog", "emu")[row % 3] / f"{row:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 10, 3), dtype=np.uint8)).save(path)
    return root


@pytest.fixture
def same_set(pictures, prepared, write_records, tmp_path) -> dict[str, Examples | Stream]:
    """The pictures through five sources, with the same names, labels and class names each time."""
    paths = sorted(pictures.glob("*/*.png"))
    names = [f"{path.parent.name}/{path.name}" for path in paths]
    labels = [path.parent.name for path in paths]
    table = pictures / "table.csv"
    pd.DataFrame({"image": names, "label": labels}).sample(frac=1, random_state=3).to_csv(table, index=False)
    archive = tmp_path / "arrays.npz"
    np.savez(archive, images=np.stack([np.asarray(Image.open(path)) for path in paths]), labels=labels, names=names)
    records = tmp_path / "records.tfrecord"
    write_records(
        records,
        *(
            {"image": path.read_bytes(), "label": label.encode(), "name": name.encode()}
            for path, name, label in zip(paths, names, labels, strict=True)
        ),
    )
    return {
        "folder": sources.folder(root=str(pictures)),
        "table": sources.table(str(table)),
        "arrays": sources.arrays(str(archive), name_key="names"),
        "tfds": sources.tfds(**prepared(pictures), name_feature="file"),
        "tfrecord": sources.tfrecord(
            str(records), image="image", label="label", name="name", class_names=["cat", "dog", "emu"]
        ),
    }
