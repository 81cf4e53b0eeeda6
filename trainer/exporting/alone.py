"""Answers of exported files, from their formats' own libraries: nothing of this project is used, or can be imported.

python -I trainer/exporting/alone.py REQUEST.json    (`comparing.fresh` writes the request, and reads what comes back)
"""

import functools
import json
import os
import sys
from collections.abc import Callable

import numpy as np

# [B, S, S, 3] float32 in 0..255 -> logits [B, outputs].
Predict = Callable[[np.ndarray], np.ndarray]
PROJECT = ("data", "trainer", "scripts")
BATCH = 32


def keras_model(path: str, **_) -> Predict:
    """A whole model; what would run code of the file is refused (`safe_mode`)."""
    import keras

    model = keras.saving.load_model(path, compile=False)
    return lambda pixels: np.asarray(model(pixels, training=False))


def weights(path: str, *, architecture: str, **_) -> Predict:
    """Weights alone, in a model as its JSON describes it."""
    import keras

    model = keras.models.model_from_json(architecture)
    model.load_weights(path)
    return lambda pixels: np.asarray(model(pixels, training=False))


def checkpoint(path: str, *, architecture: str, names: list[str], **_) -> Predict:
    """The newest checkpoint in a folder; `names` are its keys, in the order of the model's weights."""
    import keras
    import tensorflow as tf

    model = keras.models.model_from_json(architecture)
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(path))
    model.set_weights([reader.get_tensor(name) for name in names])
    return lambda pixels: np.asarray(model(pixels, training=False))


@functools.lru_cache(maxsize=1)
def _signatures(path: str) -> dict[str, Callable]:
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    # A signature does not keep what it is of.
    return {name: functools.partial(_called, loaded, served) for name, served in loaded.signatures.items()}


def _called(loaded: object, served: Callable, **arguments) -> dict:
    return served(**arguments)


def saved_model(path: str, **_) -> Predict:
    """The signature of a SavedModel that takes pixels."""
    import tensorflow as tf

    served = _signatures(path)["logits"]
    return lambda pixels: served(pixels=tf.constant(pixels))["logits"].numpy()


def served_bytes(path: str, images: list[str]) -> np.ndarray:
    """What the signature that takes the bytes of images says of each; [N, K] probabilities, or values."""
    import tensorflow as tf

    served = _signatures(path)["serving_default"]
    answers = []
    for start in range(0, len(images), BATCH):
        encoded = []
        for image in images[start : start + BATCH]:
            with open(image, "rb") as file:
                encoded.append(file.read())
        told = served(images=tf.constant(encoded))
        answers.append((told["probabilities"] if "probabilities" in told else told["values"]).numpy())
    return np.concatenate(answers)


def lite(path: str, **_) -> Predict:
    """TensorFlow Lite, image by image, with the interpreter of `ai-edge-litert` or else of TensorFlow."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import warnings

        import tensorflow as tf

        warnings.filterwarnings("ignore", message="(?s).*tf.lite.Interpreter is deprecated")
        Interpreter = tf.lite.Interpreter
    interpreter = Interpreter(model_path=path, num_threads=os.cpu_count())
    interpreter.allocate_tensors()
    [given], [told] = interpreter.get_input_details(), interpreter.get_output_details()

    def predict(pixels: np.ndarray) -> np.ndarray:
        answers = []
        for image in pixels:
            interpreter.set_tensor(given["index"], image[None].astype(np.float32))
            interpreter.invoke()
            answers.append(interpreter.get_tensor(told["index"])[0])
        return np.stack(answers)

    return predict


def onnx(path: str, **_) -> Predict:
    """ONNX, in onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: np.asarray(pixels, np.float32)})[0]


LOADERS = {
    "keras": keras_model,
    "h5": keras_model,
    "weights": weights,
    "checkpoint": checkpoint,
    "saved_model": saved_model,
    "tflite": lite,
    "tflite_int8": lite,
    "onnx": onnx,
}


def logits(kind: str, path: str, pixels: np.ndarray, **facts) -> np.ndarray:
    """[N, S, S, 3] float32 in 0..255 -> [N, K], in batches."""
    predict = LOADERS[kind](path, **facts)
    return np.concatenate([predict(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)])


def answer(request: dict) -> dict[str, str]:
    """Writes what each file says of the images.

    Args:
        request: {"pixels": .npy of [N, S, S, 3] float32, "images": their files, "exports": {name: {"kind", "path",
            "answers": .npz to write, and what its loader takes}}}.

    Returns:
        name -> what went wrong; empty where nothing did.
    """
    told = {}
    pixels = np.load(request["pixels"], mmap_mode="r")
    for name, facts in request["exports"].items():
        facts, output = dict(facts), facts["answers"]
        try:
            found = {"logits": logits(facts.pop("kind"), facts.pop("path"), pixels, **facts)}
            if request["exports"][name]["kind"] == "saved_model":
                found["served"] = served_bytes(request["exports"][name]["path"], request["images"])
            np.savez(output, **found)
            told[name] = ""
        # Whatever a library raises is told to whoever asked.
        except Exception as error:
            told[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return told


class _Refused:
    """Finds nothing of this project."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.split(".")[0] in PROJECT:
            raise ImportError(f"{name} is not to be used here")


if __name__ == "__main__":
    sys.meta_path.insert(0, _Refused())
    with open(sys.argv[1]) as file:
        told = answer(json.load(file))
    with open(sys.argv[1] + ".told", "w") as file:
        json.dump(told, file)
