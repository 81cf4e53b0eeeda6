"""What is told where memory gives out."""

import re

import gin
import pytest
import tensorflow as tf

from data.errors import RunFailure
from trainer import failures, launch
from trainer.losses import cross_entropy
from trainer.recipe import Recipe

pytestmark = pytest.mark.usefixtures("no_page")

TOLD = "OOM when allocating tensor with shape[8,16] and type float on GPU:0"
OOM = tf.errors.ResourceExhaustedError(None, None, f"Graph execution error:\n\n {TOLD}\nand a trace")


@gin.configurable(module="tests")
def hungry_loss():
    """Asks for more memory than there is anywhere, but for the three examples that a start tries it on."""
    plain = cross_entropy()

    def loss(labels, logits):
        size = 1 if logits.shape[0] == 3 else 2**20
        return plain(labels, logits) + tf.reduce_sum(tf.random.normal([size, size, size]))

    return loss


def test_a_batch_that_does_not_fit_ends_the_run_with_one_to_try(tmp_path, open_session, complaint):
    session = open_session(tmp_path, "train.loss = @hungry_loss()", "train.stages = [@head/stage()]")
    what = "OOM when allocating tensor with shape[1048576,1048576,1048576]"
    wanted = (what, "step 1, global batch 8 on 1 replica; last good checkpoint: none yet", "batch_size = 4")
    with complaint(*wanted, "train.accumulation = 2", kind=RunFailure):
        session.run()


@pytest.mark.parametrize(
    ("batch", "replicas", "bindings", "tried"),
    [
        (48, 4, (), "batch_size = 24"), (12, 4, (), "batch_size = 4"), (30, 3, (), "batch_size = 15"),
        (12, 2, ("policy.operations = [@mixup()]",), "batch_size = 4"), (4, 4, (), "smaller images"),
        (8, 2, ("train.accumulation = 2",), "train.accumulation = 4"),
    ],
)  # fmt: skip
def test_the_batch_to_try_divides_over_the_replicas(small, batch, replicas, bindings, tried):
    launch.parse_gin([small], [f"batch_size = {batch}", *bindings])
    recipe = launch.call(Recipe)
    told = failures.of_tensorflow(OOM, where="step 3", recipe=recipe, replicas=replicas, last="ckpt-2")
    assert isinstance(told, RunFailure) and told.exit_status == 3
    assert tried in told.do and "ckpt-2" in told.where and told.found == f"out of memory: {TOLD}"


def test_an_evaluation_that_does_not_fit_names_its_own_batch(small):
    launch.parse_gin([small], ["train.evaluation_batch_size = 100"])
    recipe = launch.call(Recipe)
    told = failures.of_tensorflow(OOM, where="test", recipe=recipe, replicas=2, last="", evaluates=True)
    assert re.search(r"evaluation_batch_size = 50\b", told.do) and "--workdir" not in told.do


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (tf.errors.InternalError(None, None, "CUDNN_STATUS_ALLOC_FAILED in cudnnCreate"), True),
        (tf.errors.InternalError(None, None, "Dst tensor is not initialized."), True),
        (tf.errors.UnknownError(None, None, "CUDA_ERROR_OUT_OF_MEMORY: out of memory"), True),
        (tf.errors.InternalError(None, None, "cudaErrorIllegalAddress"), False),
        (tf.errors.ResourceExhaustedError(None, None, "/x/ckpt; No space left on device"), False),
        (tf.errors.UnavailableError(None, None, "recvmsg:Connection reset by peer"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_memory_is_told_from_everything_else(small, error, memory):
    assert failures.is_out_of_memory(error) is memory
    if isinstance(error, tf.errors.OpError) and not memory:
        launch.parse_gin([small], [])
        about = {"recipe": launch.call(Recipe), "replicas": 1, "last": ""}
        assert failures.of_tensorflow(error, where="step 1", **about) is error
