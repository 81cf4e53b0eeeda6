"""A profile of training windows, which TensorBoard opens."""

from pathlib import Path

import tensorflow as tf

from trainer.benchmarks.windows import Round

WINDOWS = 2


def write(folder: str, run: Round) -> None:
    """Profiles a few windows of what has run before. `tensorboard --logdir=FOLDER` with the extra `profile` shows it.

    Args:
        folder: gets `plugins/profile/TIME/HOST.xplane.pb`.
    """
    tf.profiler.experimental.start(str(Path(folder).expanduser().absolute()))
    try:
        for number in range(WINDOWS):
            with tf.profiler.experimental.Trace("window", step_num=number, _r=1):
                run()
    finally:
        tf.profiler.experimental.stop()
