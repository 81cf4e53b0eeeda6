"""Interruptions of a process that announces itself: planned by quota, made in their phase, followed by what has to."""

import random
import resource
import sys
from collections import Counter
from pathlib import Path

import pytest

from trainer import checkpoints
from trainer.proofs import interruptions
from trainer.proofs.interruptions import KINDS, PHASES, Interrupter, Interruption, Training, Unexpected, damage, planned

# What every child begins with: `announce` as `trainer.proofs.announcing` does it, and the moment to be held at.
CHILD = """
import os, signal, sys, time
pipe, hold = (argument.split("=")[1] for argument in sys.argv[1:])
def announce(line):
    os.write(int(pipe), line.encode() + b"\\n")
    if hold and line.endswith(hold):
        while os.read(0, 1):
            pass
def stop(number, frame):
    sys.exit(75)
signal.signal(signal.SIGTERM, stop), signal.signal(signal.SIGINT, stop), signal.signal(signal.SIGUSR1, stop)
"""
TRAINS = """
for step in range(0, 1000000, 5):
    announce(f"training {step}")
    time.sleep(0.01)
    announce(f"between {step + 5}")
"""


@pytest.fixture
def interrupt(tmp_path):
    """`interrupt("kill", "training", program)`: what a program made of an interruption, and the training itself."""
    trainings = []

    def run(kind, phase, program, *, hold="", chance=None, patience=60.0):
        interrupter = Interrupter(chance or random.Random(0), checkpoint_bytes=1000, windows=3, patience=patience)
        command = [sys.executable, "-S", "-E", "-c", CHILD + program]
        trainings.append(Training(command, hold=hold, log=tmp_path / "log"))
        return interrupter.interrupt(trainings[-1], Interruption(kind, phase), hold=hold, folder=tmp_path)

    yield run
    for training in trainings:
        interruptions._send(training.pid, 9)


@pytest.fixture
def two_checkpoints(tmp_path) -> Path:
    for step in (10, 20):
        for suffix in ("index", "data-00000-of-00001", "manifest.json"):
            (tmp_path / "checkpoints").mkdir(exist_ok=True)
            (tmp_path / "checkpoints" / f"ckpt-{step}.{suffix}").write_bytes(bytes(range(100)))
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("count", [1, 4, 20, 100])
@pytest.mark.parametrize("phases", [("start-up", "training", "evaluation", "saving"), tuple(PHASES)])
def test_every_phase_has_its_share_and_every_kind_comes_equally_often(count, phases):
    plan = planned(count, kinds=KINDS[:4], phases=phases, chance=random.Random(count))
    assert len(plan) == count
    by_phase, by_kind = Counter(each.phase for each in plan), Counter(each.kind for each in plan)
    assert by_phase.keys() <= set(phases) and max(by_kind.values()) - min(by_kind.values()) <= 1
    if count >= len(phases):
        assert by_phase.keys() == set(phases)
    if count == 100:
        assert by_phase["saving"] >= 10
    # What a run has only once comes first, or its moment would be past, and before there is anything to harm.
    assert all(each.kind != "damage" for each in plan if each.phase in interruptions.ONCE)
    once = [each.phase in interruptions.ONCE for each in plan]
    assert once == sorted(once, reverse=True)
    assert plan == planned(count, kinds=KINDS[:4], phases=phases, chance=random.Random(count))


def test_a_kill_comes_in_the_phase_that_is_wanted(interrupt):
    hit, restored = interrupt(
        "kill", "evaluation", "announce('restored 30')\nannounce('evaluation 35')\ntime.sleep(60)"
    )
    assert hit.phase == "evaluation" and "at step 35" in hit.told
    assert restored.step == 30


def test_a_save_is_held_at_the_moment_that_is_wanted_while_the_steps_go_on(interrupt):
    program = "announce('training 5')\nannounce('saving 5 before the manifest')\nannounce('saving 5 done')"
    hit, _ = interrupt("kill", "saving", program, hold="before the manifest")
    assert hit.phase == "saving" and "before the manifest" in hit.told


def test_a_stop_has_to_end_with_its_own_status(interrupt):
    hit, _ = interrupt("term", "training", TRAINS)
    assert hit.phase == "training" and "status 75" in hit.told
    with pytest.raises(Unexpected, match="status 1, not 75"):
        interrupt("term", "training", "def stop(number, frame): sys.exit(1)\nsignal.signal(15, stop)\n"
                  "signal.signal(2, stop), signal.signal(10, stop)" + TRAINS)  # fmt: skip


def test_a_stop_that_never_comes_is_told_and_ended(interrupt, monkeypatch):
    monkeypatch.setattr(interruptions, "STOPS_WITHIN", 0.1)
    deaf = "for number in (2, 10, 15): signal.signal(number, signal.SIG_IGN)" + TRAINS
    with pytest.raises(Unexpected, match="had not ended after"):
        interrupt("term", "training", deaf)


def test_a_full_disk_is_a_limit_on_what_the_process_writes_and_has_to_be_told(interrupt, tmp_path):
    program = """
import resource
announce("evaluation 0")
try:
    while True:
        open(%r, "ab", 0).write(bytes(2000))
        time.sleep(0.001)
except OSError as error:
    print(%s)
    sys.exit(3)
"""
    hit, _ = interrupt("disk", "evaluation", program % (str(tmp_path / "file"), "'error: ' + str(error)"))
    assert "status 3" in hit.told and "File too large" in (tmp_path / "log").read_text()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    with pytest.raises(Unexpected, match="nothing told"):
        interrupt("disk", "evaluation", program % (str(tmp_path / "file"), "'something'"))


@pytest.mark.parametrize("kind", ["term", "disk"])
def test_a_traceback_is_no_end(interrupt, kind):
    status = {"term": 75, "disk": 3}[kind]
    program = f"""
def stop(number, frame):
    print("error: Traceback (most recent call last)")
    sys.exit({status})
for number in (2, 10, 15):
    signal.signal(number, stop)
import resource
announce("evaluation 1")
for _ in range(6000):
    if resource.getrlimit(resource.RLIMIT_FSIZE)[0] < 2000: stop(0, None)
    time.sleep(.01)
"""
    with pytest.raises(Unexpected, match=f"status {status}"):
        interrupt(kind, "evaluation", program)


def test_a_run_that_ends_before_was_not_interrupted(interrupt):
    assert interrupt("kill", "evaluation", "announce('training 0')") == (None, None)
    with pytest.raises(Unexpected, match="nobody interrupted"):
        interrupt("kill", "evaluation", "sys.exit(2)")


def test_a_run_that_stands_still_is_told_and_ended(interrupt):
    with pytest.raises(Unexpected, match="nothing happened for"):
        interrupt("kill", "saving", "announce('evaluation 5')\ntime.sleep(60)", hold="before the links", patience=0.2)


def test_harm_waits_for_a_second_checkpoint(interrupt, tmp_path):
    program = f"""
import pathlib
announce("evaluation 20")
announce("saving 10 before the manifest")
folder = pathlib.Path({str(tmp_path)!r}, "checkpoints")
folder.mkdir()
for step in (10, 20):
    for suffix in ("index", "data"):
        (folder / f"ckpt-{{step}}.{{suffix}}").write_bytes(bytes(50))
announce("saving 10 done")
time.sleep(60)
"""
    hit, _ = interrupt("damage", "saving", program, hold="before the manifest")
    assert hit.phase == "evaluation" and "ckpt-20." in hit.told and hit.goes_on_from == (10,)


@pytest.mark.parametrize("seed", range(12))
def test_harm_is_done_to_one_file_of_the_newest_checkpoint(two_checkpoints, seed):
    before = {path.name: path.read_bytes() for path in two_checkpoints.iterdir()}
    told, goes_on_from = damage(two_checkpoints, random.Random(seed))
    after = {path.name: path.read_bytes() for path in two_checkpoints.iterdir()}
    [harmed] = [name for name in before if after.get(name) != before[name]]
    assert harmed.startswith("ckpt-20.") and harmed in told
    assert goes_on_from == ((10, 20) if "manifest" in harmed else (10,))
    assert checkpoints.steps_in(two_checkpoints)[0] == 10
