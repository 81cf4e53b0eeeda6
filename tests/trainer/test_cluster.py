"""Several processes that train together: who they are, what each reads, and that their number changes nothing."""

import json
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from data import pipeline, sources
from data.augment.policy import Policy
from data.decode import Decoding
from data.order import Order
from data.pipeline import Lane, View
from trainer import devices, launching
from trainer.checkpoints import Checkpoints
from trainer.cluster import Cluster, Members
from trainer.launch import PROJECT
from trainer.proofs import equality
from trainer.reports.log import MetricsLog


def tf_config(cluster: dict, kind: str, index: int) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


class TestTheWorkersOfARun:
    def test_are_those_of_tf_config_the_chief_first(self):
        cluster = {"worker": ["b:2", "c:3"], "chief": ["a:1"]}
        assert Members.found(None, environment=tf_config(cluster, "worker", 1)) == Members(("a:1", "b:2", "c:3"), 2)
        assert Members.found(None, environment=tf_config(cluster, "chief", 0)).is_chief

    @pytest.mark.parametrize("environment", [{}, {"TF_CONFIG": ""}, tf_config({"worker": ["a:1"]}, "worker", 0)])
    def test_are_none_where_a_process_works_alone(self, environment):
        assert Members.found(None, environment=environment) is None

    def test_are_listed_with_numbers_for_an_indexed_job_of_kubernetes(self):
        found = Members.found("train-{0..2}.train:2222", environment={"JOB_COMPLETION_INDEX": "1"})
        assert found == Members(("train-0.train:2222", "train-1.train:2222", "train-2.train:2222"), 1)

    def test_are_the_tasks_of_a_slurm_step_in_the_order_of_its_ranks(self, monkeypatch):
        tasks = {"PROCID": "2", "STEP_NUM_TASKS": "4", "STEP_NODELIST": "node[9-10]", "STEP_TASKS_PER_NODE": "2(x2)"}
        for name, value in tasks.items():
            monkeypatch.setenv(f"SLURM_{name}", value)
        assert Members.found("slurm") == Members(("node9:8888", "node9:8889", "node10:8888", "node10:8889"), 2)

    @pytest.mark.parametrize(
        ("named", "environment"),
        [
            ("slurm", {}),
            ("a:1,b:2", {}),
            ("a:1,b:2", {"JOB_COMPLETION_INDEX": "2"}),
            ("a:1,b", {"JOB_COMPLETION_INDEX": "0"}),
            ("a:1,a:1", {"JOB_COMPLETION_INDEX": "0"}),
            (None, {"TF_CONFIG": "{"}),
            (None, {"TF_CONFIG": "[]"}),
            (None, tf_config({"worker": ["a:1", "b:1"]}, "ps", 0)),
            (None, tf_config({"worker": ["a:1", "b:1"], "ps": ["c:1"]}, "worker", 0)),
        ],
    )
    def test_are_asked_for_where_they_cannot_be_made_out(self, named, environment, complaint):
        with complaint("--cluster" if named else "TF_CONFIG"):
            Members.found(named, environment=environment)

    def test_have_one_cpu_each(self, complaint):
        with complaint("cpu:2", "2 workers"):
            devices.set_up("cpu:2", Members(("a:1", "b:1"), 0))


class TestAStreamThatWorkersShare:
    EXAMPLES = sources.synthetic(examples=13, height=4, width=4)
    VIEW = View(image_size=(4, 4), fit="stretch", crop=1.0, decoding=Decoding(4), capacity=16, uniform=True)

    @pytest.mark.parametrize(("workers", "replicas"), [(2, 1), (4, 1), (2, 2), (3, 2)])
    def test_shows_each_batch_to_the_replica_that_has_it_in_one_process(self, workers, replicas):
        every, order = workers * replicas, Order(epoch_length=13, seed=1)
        settings = {"order": order, "start": 60 * every, "batch": 2, "seed": 1, "policy": Policy(), "view": self.VIEW}
        settings |= {"left_out": ((70, 76),)}

        def positions(lane, count):
            batches = pipeline.train_batches(self.EXAMPLES, lane=lane, **settings).take(count)
            return [batch["position"].numpy().tolist() for batch in batches]

        whole = positions(Lane(), 20 * every)
        for worker in range(workers):
            own = positions(Lane(worker * replicas, replicas, every), 20 * replicas)
            for step in range(20):
                first = step * every + worker * replicas
                assert own[step * replicas : (step + 1) * replicas] == whole[first : first + replicas]

    @pytest.mark.parametrize("count", [1, 8, 13])
    def test_shows_each_example_of_an_evaluation_once(self, count):
        table = self.EXAMPLES.take(np.arange(count))
        shown = []
        for worker in range(2):
            batches = list(
                pipeline.evaluation_batches(table, batch=2, replicas=4, view=self.VIEW, lane=Lane(2 * worker, 2, 4))
            )
            assert len(batches) == pipeline.evaluation_elements(count, batch=2, replicas=4) // 2
            for batch in batches:
                shown += batch["example"].numpy()[batch["weight"].numpy() > 0].tolist()
        assert sorted(shown) == list(range(count))


def test_a_process_that_works_alone_agrees_with_itself():
    alone = Cluster()
    assert alone.is_chief and alone.told({"step": 3}) == {"step": 3}
    alone.meet()


class TestAWorkerThatIsNotTheChief:
    OTHER = types.SimpleNamespace(is_chief=False, told=lambda value, patience: 4)

    def test_restores_what_the_chief_names_and_saves_and_removes_nothing(self, tmp_path):
        variable = tf.Variable(4.0)
        chief = Checkpoints(tmp_path, {"state": {"x": variable}}, keep=3)
        chief.save(4)
        variable.assign(6.0)
        chief.save(6)
        (tmp_path / "ckpt-8_temp").mkdir()
        before = sorted(path.name for path in tmp_path.rglob("*"))
        other = Checkpoints(tmp_path, {"state": {"x": variable}}, keep=1, cluster=self.OTHER)
        assert other.restore_newest() == (4, []) and variable.numpy() == 4.0
        other.save(9, places={"best": [6]})
        other.keep_in("best", [4])
        assert sorted(path.name for path in tmp_path.rglob("*")) == before

    def test_keeps_what_it_logs_to_itself(self, tmp_path):
        path = tmp_path / "metrics.jsonl"
        MetricsLog(path).append([{"event": "stage", "step": 0}, {"event": "stage", "step": 5}])
        written = path.read_bytes()
        other = MetricsLog(path, writes=False)
        other.cut(3)
        other.append([{"event": "stop", "step": 2}])
        assert [event["step"] for event in other.find("stage") + other.find("stop")] == [0, 2]
        assert path.read_bytes() == written


@pytest.fixture(scope="module")
def two_workers(command, tmp_path_factory):
    """What two processes make of the small trainings."""
    folder = tmp_path_factory.mktemp("workers")
    addresses = [f"127.0.0.1:{port}" for port in launching.free_ports(2)]
    arguments = [
        f"--workdir={folder}",
        f"--result={folder / 'result.npz'}",
        "--devices=cpu",
        "--workers=2",
        "--replicas=1",
    ]
    environments = [{"TF_CONFIG": launching.tf_config(addresses, index)} for index in range(2)]
    workers = [command("check_devices", *arguments, environment=each) for each in environments]
    statuses = [worker.end() for worker in workers]
    assert statuses == [0, 0], [worker.printed for worker in workers]
    with np.load(folder / "result.npz") as found:
        return dict(found)


@pytest.fixture(scope="module")
def two_replicas():
    return equality.trained(devices.set_up("cpu:2"))


def test_two_workers_end_with_the_weights_and_figures_of_two_replicas(two_workers, two_replicas):
    assert equality.differing(two_replicas, two_workers) == []


def test_two_workers_skip_what_is_infinite_on_one_of_them_and_halve_the_scale_as_one(two_workers):
    finite, scale = (two_workers[f"overflow/steps/{name}"] for name in ("finite", "loss_scale"))
    assert np.flatnonzero(finite == 0).tolist() == list(equality.INFINITE)
    assert scale[-1] == scale[0] / 4
    weights = [value for name, value in two_workers.items() if name.startswith("overflow/weights")]
    assert weights and all(np.isfinite(each).all() for each in weights)


def test_a_difference_in_one_weight_is_told(two_replicas):
    name = "sgd/weights/conv/kernel"
    changed = two_replicas | {name: two_replicas[name] * 1.001}
    assert [name in sentence for sentence in equality.differing(two_replicas, changed)] == [True]


@pytest.mark.gpu
@pytest.mark.skipif(not tf.config.list_physical_devices("GPU"), reason="no GPU that TensorFlow can use")
def test_one_two_and_four_gpus_and_two_workers_of_two_are_equal(tmp_path):
    command = [sys.executable, str(PROJECT / "scripts" / "check_devices.py"), "--devices=gpu", f"--workdir={tmp_path}"]
    proof = subprocess.run(command, capture_output=True, text=True)
    assert proof.returncode == 0, proof.stdout + proof.stderr
    assert "2 workers, 2 GPU replicas each" in proof.stdout
