"""`scripts/launch.py`: workers that are started together, watched, and started again."""

import os
import signal
import threading
import time

import pytest

from data.names import SESSION_LOCK
from trainer import launching
from trainer.checkpoints import steps_in
from trainer.launch import STOPPED
from trainer.ownership import Owner
from trainer.proofs.comparison import Rounding, first_difference
from trainer.reports.log import MetricsLog

# Every worker is a shell: $worker is its number, $start counts how often it was started.
PRELUDE = """
worker=$(echo "$TF_CONFIG" | sed 's/.*"index": \\([0-9]*\\).*/\\1/')
start=$(($(cat "$0/$worker" 2>/dev/null || echo 0) + 1)); echo $start > "$0/$worker"
"""
LOSES_ANOTHER = 'echo "error: lost another worker, worker 1: its connection broke off"; exit 3'


@pytest.fixture
def group(tmp_path):
    """`group("exit 0", workers=2)`: those workers, and what is shown of them."""

    def make(script, *, workers=2, **settings):
        shown = []
        command = ["bash", "-c", PRELUDE + script, str(tmp_path)]
        made = launching.Group(command, workers=workers, logs=tmp_path / "logs", say=shown.append, **settings)
        return made, shown

    return make


def starts(folder, workers=2):
    return [int((folder / str(worker)).read_text()) for worker in range(workers)]


def test_shows_what_the_first_worker_prints_and_keeps_what_all_print(group, tmp_path):
    made, shown = group('echo "here is $worker of $(echo "$TF_CONFIG" | grep -o 127.0.0.1 | wc -l)"', workers=3)
    assert made.run(restarts=0) == 0
    assert shown == ["[worker 0] here is 0 of 3\n"]
    assert [(tmp_path / "logs" / f"worker-{i}.log").read_text() for i in range(3)] == [
        f"here is {i} of 3\n" for i in range(3)
    ]
    made, shown = group("echo here", show_all=True)
    assert made.run(restarts=0) == 0
    assert sorted(shown) == ["[worker 0] here\n", "[worker 1] here\n"]


def test_starts_all_again_after_one_was_killed(group, tmp_path):
    made, shown = group(f"""
        [ $start = 2 ] && exit 0
        [ $worker = 1 ] && kill -9 $$
        sleep .1; {LOSES_ANOTHER}""")
    assert made.run(restarts=3) == 0
    assert starts(tmp_path) == [2, 2]
    assert "worker 1 ended by SIGKILL" in "".join(shown) and "1 of 3 times" in "".join(shown)


def test_gives_up_after_the_stated_number_of_restarts(group, tmp_path):
    made, shown = group(f"[ $worker = 1 ] && exit 7; sleep .1; {LOSES_ANOTHER}")
    assert made.run(restarts=2) == 7
    assert starts(tmp_path) == [3, 3]
    assert "worker 1 ended with status 7" in "".join(shown) and "started again 2 times: no more" in "".join(shown)


@pytest.mark.parametrize("status", [2, 3])
def test_does_not_repeat_what_would_fail_again_and_shows_why_it_did(group, tmp_path, status):
    made, shown = group(f"""
        [ $worker = 1 ] && echo "error: no such thing" && echo "  do:  this" && exit {status}
        sleep .1; {LOSES_ANOTHER}""")
    assert made.run(restarts=3) == status
    assert starts(tmp_path) == [1, 1]
    assert "[worker 1] error: no such thing\n" in shown and "[worker 1]   do:  this\n" in shown


def test_gpus_are_dealt_out_evenly(complaint):
    visible = [each["CUDA_VISIBLE_DEVICES"] for each in launching.dealt(["0", "2", "3", "5", "7"], workers=2)]
    assert visible == ["0,2", "3,5"]
    with complaint("2 workers", "1 GPUs"):
        launching.dealt(["0"], workers=2)


def test_a_worker_that_stopped_has_not_failed_those_that_lost_it(group):
    made, shown = group(f"[ $worker = 0 ] && exit {STOPPED}; {LOSES_ANOTHER}")
    assert made.run(restarts=3) == STOPPED and shown == []


def test_ends_workers_that_do_not_end_when_another_has_failed(group, tmp_path, monkeypatch):
    monkeypatch.setattr(launching, "GRACE", 0.2)
    made, _ = group("[ $worker = 1 ] && exit 2; echo $$ > $0/pid; sleep 100 & wait")
    assert made.run(restarts=0) == 2
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_passes_signals_on_to_all_and_ends_as_they_do(group, tmp_path, number):
    name = signal.Signals(number).name.removeprefix("SIG")
    made, _ = group(f"trap 'echo caught; exit {STOPPED}' {name}; touch $0/ready-$worker; while :; do sleep .01; done")

    def send():
        while len(list(tmp_path.glob("ready-*"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    before = signal.getsignal(number)
    assert made.run(restarts=3) == STOPPED
    thread.join()
    assert starts(tmp_path) == [1, 1]
    assert all((tmp_path / "logs" / f"worker-{i}.log").read_text() == "caught\n" for i in range(2))
    assert signal.getsignal(number) is before


# 600 steps. Nothing is drawn or normalised within a replica's share of the batch.
BINDINGS = (
    "train.stages = [@all/stage()]", "epochs = 80", "all/stage.batchnorm = 'frozen'", "train.optimizer = @sgd()",
    "model.features = 'block1_relu'", "train.deterministic = True", "split_by_hash.validation = 0.0",
    "split_by_hash.test = 0.0", "train.window = 10", "train.checkpoint_every = (50, 'steps')",
    "train.evaluate_every = (1000, 'steps')",
)  # fmt: skip


def wait_until(condition, launched, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition(), launched.printed


def test_two_workers_outlive_the_death_of_one_and_one_process_takes_over(command, small, tmp_path):
    moved, straight = tmp_path / "moved", tmp_path / "straight"
    recipe = ["--devices=cpu", f"--gin_file={small}", *(f"--gin_param={binding}" for binding in BINDINGS)]
    launched = command("launch", "--workers=2", f"--workdir={moved}", *recipe)
    wait_until(lambda: steps_in(moved / "checkpoints"), launched)
    os.kill(Owner.read(moved / SESSION_LOCK).pid, signal.SIGKILL)
    log = moved / "metrics.jsonl"
    wait_until(lambda: (told := MetricsLog(log)).find("resume") and told.events[-1]["event"] == "train", launched)
    assert launched.end(signal.SIGTERM) == STOPPED, launched.printed
    assert "worker 0 ended by SIGKILL" in launched.printed and "SIGTERM: stopped at step" in launched.printed
    step = MetricsLog(log).find("stop")[-1]["step"]
    assert steps_in(moved / "checkpoints")[-1] == step < 600

    for folder in (moved, straight):
        trained = command("train", f"--workdir={folder}", *recipe)
        assert trained.end() == 0, trained.printed
    assert first_difference(straight, moved, rounding=Rounding(600, terms=8)) is None


def test_a_worker_that_never_starts_is_named(command, small, tmp_path):
    addresses = [f"127.0.0.1:{port}" for port in launching.free_ports(2)]
    arguments = [f"--workdir={tmp_path / 'run'}", f"--gin_file={small}", "--devices=cpu", "--start_within=2"]
    alone = command("train", *arguments, environment={"TF_CONFIG": launching.tf_config(addresses, 0)})
    assert alone.end() == 3
    assert f"within 2 s; missing: worker 1 at {addresses[1]}" in alone.printed
    assert "Traceback" not in alone.printed
