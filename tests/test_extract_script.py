"""scripts/extract.py, as a user starts it."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from data import feature_store
from trainer.models.cut import up_to
from trainer.models.network import model

TESTS = Path(__file__).resolve().parent
IMAGES = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds photos of two classes and the weights of a backbone."""
    folder = tmp_path_factory.mktemp("extract")
    random = np.random.default_rng(0)
    for row in range(IMAGES):
        path = folder / "photos" / ("dog" if row % 2 else "cat") / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    network = model(backbone="convnet", weights=None).build(image_size=16, classes=2, precision="float32")
    network.backbone.save_weights(folder / "known.weights.h5")
    return folder


@pytest.fixture
def given(folder):
    bindings = (f"data_dir = '{folder}/photos'", f"model.weights = '{folder}/known.weights.h5'")
    return [f"--gin_file={TESTS / 'photos.gin'}", "--devices=cpu", *(f"--gin_param={each}" for each in bindings)]


@pytest.fixture
def expected(folder):
    """`expected("cat/0.png", layer)`: what the layer of the backbone says of a photo."""
    network = model(backbone="convnet", weights=f"{folder}/known.weights.h5").build(
        image_size=16, classes=2, precision="float32"
    )

    def say(name, layer=None):
        pixels = np.asarray(Image.open(folder / "photos" / name), np.float32)
        return up_to(network, layer).model(pixels[None] / 127.5 - 1, training=False)[0]

    return say


def test_of_a_recipe_alone_writes_every_photo_that_decodes_for_other_programs(
    command, folder, given, expected, tmp_path
):
    torn = folder / "photos" / "cat" / "torn.jpg"
    torn.write_bytes(b"\xff\xd8\xff\xe0 and no more")
    try:
        to_npz = command("extract", *given, f"--output={tmp_path}/all.npz")
        assert to_npz.end() == 0, to_npz.printed
    finally:
        torn.unlink()
    assert f"left out {torn}" in to_npz.printed
    with np.load(tmp_path / "all.npz", allow_pickle=False) as found:
        found = {name: found[name] for name in found.files}
    assert sorted(found["names"].tolist()) == sorted(
        f"{'dog' if row % 2 else 'cat'}/{row}.png" for row in range(IMAGES)
    )
    assert found["class_names"].tolist() == ["cat", "dog"] and set(found["split"]) <= {"train", "validation", "test"}
    for name, label, features in zip(found["names"], found["labels"], found["features"], strict=True):
        assert found["class_names"][label] == name.split("/")[0]
        # Pixel for pixel: an image of the size of the network is not resampled. Sums in other orders.
        np.testing.assert_allclose(features, expected(name), rtol=1e-4, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["all.npz"]

    to_parquet = command(
        "extract", *given, "--split=train", "--layer=block1_relu", f"--output={tmp_path}/train.parquet"
    )
    assert to_parquet.end() == 0, to_parquet.printed
    table = pyarrow.parquet.read_table(tmp_path / "train.parquet")
    facts = {name.decode(): value.decode() for name, value in table.schema.metadata.items()}
    assert facts["layer"] == "block1_relu" and json.loads(facts["class_names"]) == ["cat", "dog"]
    assert table.num_rows == (found["split"] == "train").sum()
    for row in table.to_pylist():
        assert row["class"] == row["name"].split("/")[0] and (row["split"], row["view"]) == ("train", 0)
        map_ = np.reshape(row["features"], json.loads(facts["shape"]))
        np.testing.assert_allclose(map_, expected(row["name"], "block1_relu"), rtol=1e-4, atol=1e-5)


def test_of_a_session_writes_a_folder_to_be_mapped_with_the_views_that_training_shows(command, given, tmp_path):
    trained = command("train", f"--workdir={tmp_path}/run", *given)
    assert trained.end() == 0, trained.printed
    session = [f"--workdir={tmp_path}/run", "--devices=cpu"]
    extracted = command("extract", *session, "--split=train", "--views=2", f"--output={tmp_path}/views")
    assert extracted.end() == 0, extracted.printed
    part = feature_store.open_features(tmp_path / "views").parts["train"]
    with np.load(tmp_path / "views" / "rows.npz") as rows:
        assert part.rows == len(rows["names"]) and rows["view"].tolist() == sorted([0, 1] * (part.rows // 2))
        assert rows["names"][: part.rows // 2].tolist() == rows["names"][part.rows // 2 :].tolist()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--output={tmp}/a.csv"], ".npz or .parquet"),
        (["--output={tmp}/nowhere/a.npz"], "{tmp}/nowhere/a.npz"),
        (["--output={tmp}/a.npz", "--layer=block1_rel"], "block1_relu"),
        (["--output={tmp}/a.npz", "--split=training"], "--split"),
        (["--output={tmp}/a.npz", "{tmp}/absent.png"], "none of 1 images decodes"),
        ([], "--output"),
    ],
)
def test_what_cannot_be_is_told_and_nothing_is_written(command, given, tmp_path, arguments, told):
    started = command("extract", *given, *(each.format(tmp=tmp_path) for each in arguments))
    assert started.end() == 2
    assert "error: " in started.printed and told.format(tmp=tmp_path) in started.printed
    assert not list(tmp_path.iterdir())
