"""From what --devices says to replicas."""

import os
import re
import time

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UserError
from data.pipeline import ordered
from trainer import devices


@pytest.mark.parametrize(("spec", "count"), [("cpu", 1), ("cpu:1", 1), ("cpu:3", 3), ("cpu:4", 4)])
def test_logical_cpus_are_as_many_replicas(spec, count):
    strategy = devices.set_up(spec)
    assert strategy.num_replicas_in_sync == count
    names = [re.search(r"CPU:\d+$", name)[0] for name in strategy.extended.worker_devices]
    assert names == [f"CPU:{index}" for index in range(count)]


def test_replicas_that_follow_one_another_in_a_process_do_not_disturb_each_other():
    for spec in ("cpu:2", "cpu:4", "cpu:2"):
        strategy = devices.set_up(spec)
        with strategy.scope():
            variable = tf.Variable(1.0)

        @tf.function
        def total(strategy=strategy, variable=variable):
            sums = strategy.run(lambda: tf.distribute.get_replica_context().all_reduce("SUM", variable + 0.0))
            return strategy.experimental_local_results(sums)

        assert [float(value) for value in total()] == [int(spec[-1])] * int(spec[-1])


def test_batches_are_brought_to_each_device_before_they_are_asked_for():
    strategy = devices.set_up("cpu:2")
    made = []

    def batch(number):
        tf.numpy_function(made.append, [number], [])
        return number

    def dataset(context):
        return tf.data.Dataset.range(100).map(batch)

    stream = iter(strategy.distribute_datasets_from_function(dataset))
    assert strategy.experimental_local_results(next(stream))[1].numpy() == 1
    # One behind what is asked for, of each device, lies there without anybody asking.
    deadline = time.monotonic() + 60
    while len(made) < 2 * (1 + devices.AHEAD) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(made) >= 2 * (1 + devices.AHEAD)


def test_a_single_cpu_takes_elements_as_they_are_made_and_two_have_theirs_handed_over():
    def of_worker(context):
        assert (context.num_input_pipelines, context.input_pipeline_id) == (1, 0)
        assert context.num_replicas_in_sync == replicas
        return tf.data.Dataset.range(4).map(lambda number: {"number": number})

    for spec, replicas in (("cpu", 1), ("cpu:2", 2)):
        strategy = devices.set_up(spec)
        stream = devices.batches(strategy, of_worker)
        assert isinstance(stream, tf.data.Iterator) == (replicas == 1)

        @tf.function
        def taken(stream, strategy=strategy):
            return strategy.run(lambda batch: batch["number"], args=(next(stream),))

        parts = [strategy.experimental_local_results(taken(stream)) for _ in range(4 // replicas)]
        assert [int(number) for part in parts for number in part] == [0, 1, 2, 3]
        assert devices.in_effect(strategy)["batches_ahead"] == (None if replicas == 1 else devices.AHEAD)


def test_without_a_strategy_batches_come_as_they_are():
    stream = devices.batches(tf.distribute.get_strategy(), lambda _: tf.data.Dataset.range(2))
    assert [int(number) for number in stream] == [0, 1]


@pytest.mark.parametrize("spec", ["cpu", "cpu:2"])
def test_no_part_of_a_distributed_dataset_is_tuned(spec, monkeypatch):
    strategy, tuned = devices.set_up(spec), []
    begin = tf.data.Dataset.__iter__
    # Those that lie on the devices are made and begun by TensorFlow.
    monkeypatch.setattr(
        tf.data.Dataset, "__iter__", lambda self: (tuned.append(self.options().autotune.enabled), begin(self))[1]
    )
    iter(strategy.distribute_datasets_from_function(lambda _: tf.data.Dataset.range(4).with_options(ordered())))
    assert tuned == [False] * strategy.num_replicas_in_sync


def test_threads_cannot_change_once_tensorflow_is_in_use(complaint):
    before = tf.config.threading.get_intra_op_parallelism_threads()
    with complaint("train.threads = 3"):
        devices.set_up("cpu", threads=3)
    assert tf.config.threading.get_intra_op_parallelism_threads() == before


@settings(max_examples=50)
@given(
    st.text(alphabet="acgptu:,0123 -", max_size=8) | st.sampled_from(["", "gpu:", "tpu", "CPU", "cpu:two", "auto:1"])
)
def test_anything_else_is_refused_with_what_is_known(text):
    if re.fullmatch(r"auto|cpu(:\d+)?|gpu(:[\d,]+)?", text):
        return
    with pytest.raises(UserError, match="auto, cpu, cpu:N") as caught:
        devices.set_up(text)
    assert f"--devices={text}" in caught.value.found


@pytest.mark.parametrize("spec", ["cpu:0", "cpu:00"])
def test_no_cpu_at_all_is_refused(complaint, spec):
    with complaint("--devices=cpu:0", "at least one"):
        devices.set_up(spec)


@pytest.mark.parametrize("spec", ["cpu:1000", f"cpu:{'9' * 5000}"])
def test_more_logical_cpus_than_anybody_uses_are_refused(complaint, spec):
    with complaint(f"--devices={spec}", "cpu:N"):
        devices.set_up(spec)


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU")
class TestWithoutAGpu:
    @pytest.mark.parametrize("spec", ["gpu", "gpu:0", "gpu:0,1"])
    def test_asking_for_one_tells_how_to_get_it(self, complaint, spec):
        with complaint(f"--devices={spec}", "no GPU", "cuda"):
            devices.set_up(spec)

    def test_auto_is_the_cpu(self):
        assert devices.set_up("auto").extended.worker_devices[0].endswith("CPU:0")


class TestGpus:
    """Their choice alone: the strategy on them needs some."""

    @pytest.fixture(autouse=True)
    def three_gpus(self, monkeypatch):
        gpus = [f"gpu{index}" for index in range(3)]
        self.visible, self.grows = [], []
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
        monkeypatch.setattr(tf.config, "set_visible_devices", lambda chosen, kind: self.visible.append(chosen))
        monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, grow: self.grows.append(gpu))
        monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda names, *, cross_device_ops: names)
        for name in devices.GPU_THREADS:
            # So that it is taken back: the test process has no GPU that would ask for it.
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)

    @pytest.mark.parametrize(
        ("spec", "chosen"), [("gpu", [0, 1, 2]), ("auto", [0, 1, 2]), ("gpu:1", [1]), ("gpu:2,0", [2, 0])]
    )
    def test_are_all_taken_or_those_that_are_named(self, spec, chosen):
        assert devices.set_up(spec) == [f"GPU:{index}" for index in range(len(chosen))]
        assert self.visible == [[f"gpu{index}" for index in chosen]] and self.grows == self.visible[0]

    def test_have_threads_of_their_own_unless_the_environment_says_otherwise(self, monkeypatch):
        devices.set_up("gpu")
        assert {name: os.environ[name] for name in devices.GPU_THREADS} == devices.GPU_THREADS
        monkeypatch.setenv("TF_GPU_THREAD_MODE", "global")
        devices.set_up("gpu")
        assert os.environ["TF_GPU_THREAD_MODE"] == "global"

    def test_add_up_as_the_recipe_says(self, complaint, monkeypatch):
        monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda names, *, cross_device_ops: cross_device_ops)
        assert isinstance(devices.set_up("gpu", reduce_by="nccl"), tf.distribute.NcclAllReduce)
        with complaint("'hierarchical' with 3 devices"):
            devices.set_up("gpu", reduce_by="hierarchical")

    @pytest.mark.parametrize("spec", ["gpu:3", "gpu:0,0", "gpu:,"])
    def test_that_are_not_there_or_named_twice_are_refused(self, complaint, spec):
        with complaint(f"--devices={spec}", "below 3"):
            devices.set_up(spec)
        assert self.visible == []
