"""Four logical CPUs for the whole test process: TensorFlow cannot change its devices once it has used them."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import gin
import pytest
import tensorflow as tf

from trainer import devices


@pytest.fixture(scope="session", autouse=True)
def four_logical_cpus():
    devices.set_up("cpu:4")
    assert len(tf.config.list_logical_devices("CPU")) == 4


@pytest.fixture(autouse=True)
def empty_gin():
    gin.clear_config()
