"""Grad-CAM: which places of an image speak for a class, by the last feature map of a network."""

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from data.errors import UserError
from trainer.exporting.comparing import shares
from trainer.exporting.network import Exported
from trainer.exporting.reading import batched, shown
from trainer.models import feature_map
from trainer.models.naming import NORMALISATION
from trainer.prediction import Meaning
from trainer.reports import pages

# Of an overlay: how much of the photo the strongest place covers, and its colours from weak to strong.
COVER = 0.65
WEAK, STRONG = np.array([255.0, 221.0, 51.0]), np.array([204.0, 0.0, 0.0])


class GradCam:
    """Maps of a model, from what it makes of the pixels up to a layer.

    Selvaraju et al. 2017 (https://arxiv.org/abs/1610.02391), equations 1 and 2: with A the feature map [h, w, C] and y
    the score of a class before softmax or sigmoid, a_k is the mean over all places of dy / dA_k, and the map is
    max(0, sum over k of a_k A_k). Weights that are frozen change nothing in that.

    Args:
        model: functional, [B, S, S, 3] float32 -> logits [B, K], float32.
        layer: whose feature map; None: the last one of more than one pixel.

    Raises:
        UserError: there is no such layer, or no feature map.
    """

    def __init__(self, model: keras.Model, layer: str | None = None):
        flat = feature_map.flat(model)
        found = feature_map.tensors(flat)
        maps = {
            name: tensor
            for name, tensor in list(found.items())[1:]  # The first is the image.
            if name != NORMALISATION and len(tensor.shape) == 4 and tuple(tensor.shape[1:3]) != (1, 1)
        }
        if not maps or (layer is not None and layer not in maps):
            nearest = difflib.get_close_matches(layer or "", maps, n=3, cutoff=0.4) or list(maps)[-3:]
            raise UserError(
                f"the layer {layer!r} gives no feature map" if maps else "the network has no feature map",
                where="--layer",
                expected="a layer that gives a feature map [B, h, w, C] of more than one pixel",
                do=f"for example {', '.join(nearest)}" if maps else "explain a convolutional network",
            )
        self.layer = layer or list(maps)[-1]
        self._model = keras.Model(flat.inputs[0], [maps[self.layer], flat.outputs[0]])
        self._maps = tf.function(self._traced, reduce_retracing=True, autograph=False)

    def maps(self, pixels: np.ndarray, outputs: np.ndarray, signs: np.ndarray) -> np.ndarray:
        """[B, h, w] float32, at least 0.

        Args:
            pixels: [B, S, S, 3] float32.
            outputs: [B] int, which output speaks for the class of each.
            signs: [B] float32, 1; or -1 for the class that the output speaks against, as the first of a binary task.
        """
        arguments = pixels, np.asarray(outputs, np.int32), np.asarray(signs, np.float32)
        return self._maps(*map(tf.constant, arguments)).numpy()

    def _traced(self, pixels: tf.Tensor, outputs: tf.Tensor, signs: tf.Tensor) -> tf.Tensor:
        # Where all weights are frozen the tape would see nothing.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(pixels)
            features, logits = self._model(pixels, training=False)
            score = tf.reduce_sum(tf.gather(logits, outputs, batch_dims=1) * signs)
        weights = tf.reduce_mean(tape.gradient(score, features), axis=(1, 2), keepdims=True)
        return tf.nn.relu(tf.reduce_sum(weights * features, axis=-1))


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What speaks for a class in one image.

    Attributes:
        name: of the image.
        reason: why there is none; empty where there is one.
        explained: the class, or what a number of a regression is called.
        figure: its probability, or the number.
        picture: [S, 2 S, 3] uint8, what the network is shown, and the same with the map over it.
    """

    name: str
    reason: str = ""
    explained: str = ""
    figure: float = 0.0
    picture: np.ndarray | None = None


def explain(
    exported: Exported, images: dict[str, str], *, class_name: str | None = None, layer: str | None = None
) -> tuple[str, Iterator[Explanation]]:
    """Grad-CAM of each image, in float32 whatever the session trained in.

    Args:
        images: as `prediction.listed` gives them.
        class_name: what to explain; None: of each image the most probable class, of a regression the first number.

    Returns:
        the layer, and the explanations.

    Raises:
        UserError: no such class, or layer.
    """
    meaning = exported.meaning
    wanted = None if class_name is None else _index(class_name, meaning)
    cam = GradCam(exported.model, layer)

    def explanations() -> Iterator[Explanation]:
        named = [name for name, reason in images.items() if not reason]
        seen = shown(exported.preprocessing, named)
        for some in batched(images.items()):
            parts = [(name, *((None, reason) if reason else next(seen))) for name, reason in some]
            good = [pixels[0] for _, pixels, _ in parts if pixels is not None]
            found = iter(_explained(cam, exported, np.stack(good), wanted) if good else [])
            for name, pixels, reason in parts:
                yield Explanation(name, reason) if pixels is None else Explanation(name, "", *next(found))

    return cam.layer, explanations()


def _index(class_name: str, meaning: Meaning) -> int:
    if class_name in meaning.names:
        return meaning.names.index(class_name)
    nearest = difflib.get_close_matches(class_name, meaning.names, n=3, cutoff=0.4)
    raise UserError(
        f"no class is called {class_name!r}",
        where="--class_name",
        expected=f"one of {', '.join(meaning.names)}",
        do=f"did you mean {' or '.join(nearest)}?" if nearest else "correct the name",
    )


def _explained(
    cam: GradCam, exported: Exported, pixels: np.ndarray, wanted: int | None
) -> list[tuple[str, float, np.ndarray]]:
    """Class, figure and picture of each of [B, S, S, 3]."""
    meaning = exported.meaning
    figures = shares(np.asarray(exported.model(pixels, training=False)), meaning.task)
    if meaning.task == "binary":
        figures = np.concatenate([1 - figures, figures], axis=1)
    first = np.zeros(len(pixels), int) if meaning.task == "regression" else figures.argmax(axis=1)
    classes = first if wanted is None else np.full(len(pixels), wanted)
    binary = meaning.task == "binary"
    outputs, signs = (np.zeros_like(classes), 2.0 * classes - 1) if binary else (classes, np.ones(len(classes)))
    maps = cam.maps(pixels, outputs, signs)
    return [
        (meaning.names[which], float(row[which]), np.hstack([_whole(image), overlay(image, each)]))
        for image, each, which, row in zip(pixels, maps, classes, figures, strict=True)
    ]


def _whole(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def overlay(image: np.ndarray, found: np.ndarray) -> np.ndarray:
    """A photo with a map over it: the strongest place red, weak ones yellow, where nothing speaks the photo alone.

    Args:
        image: [H, W, 3], 0..255.
        found: [h, w], at least 0; laid over the whole image, bilinear.

    Returns:
        [H, W, 3] uint8.
    """
    height, width = image.shape[:2]
    highest = found.max()
    share = found / highest if highest > 0 else np.zeros_like(found)
    large = Image.fromarray(share.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    heat = np.clip(np.asarray(large), 0, 1)[..., None]
    colour = WEAK + (STRONG - WEAK) * heat
    return _whole(image + COVER * heat * (colour - image))


def page(rows: Sequence[dict[str, str]], *, layer: str, source: str) -> str:
    """The index of a folder of explanations, as HTML.

    Args:
        rows: of each image name, picture (its file), explained, figure, reason.
        source: what explained them.
    """
    return pages.render("explain.html", {"rows": rows, "layer": layer, "source": source})


def save(picture: np.ndarray, path: Path) -> None:
    """Writes [H, W, 3] uint8 as PNG."""
    Image.fromarray(picture).save(path, "PNG")
