"""From what --devices says to replicas."""

import re

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UserError
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
        monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda names, **_: names)

    @pytest.mark.parametrize(
        ("spec", "chosen"), [("gpu", [0, 1, 2]), ("auto", [0, 1, 2]), ("gpu:1", [1]), ("gpu:2,0", [2, 0])]
    )
    def test_are_all_taken_or_those_that_are_named(self, spec, chosen):
        assert devices.set_up(spec) == [f"GPU:{index}" for index in range(len(chosen))]
        assert self.visible == [[f"gpu{index}" for index in chosen]] and self.grows == self.visible[0]

    @pytest.mark.parametrize("spec", ["gpu:3", "gpu:0,0", "gpu:,"])
    def test_that_are_not_there_or_named_twice_are_refused(self, complaint, spec):
        with complaint(f"--devices={spec}", "below 3"):
            devices.set_up(spec)
        assert self.visible == []
