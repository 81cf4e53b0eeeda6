"""Interruptions of a training, from outside: in which phases, of which kinds, when, and what has to follow."""

import contextlib
import dataclasses
import os
import random
import resource
import select
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from trainer import checkpoints, launch
from trainer.proofs.announcing import PASSING, SAVED, SAVING

# kill: SIGKILL. term: a signal that asks for a stop. disk: from then on no file may grow past a limit.
# damage: a kill, then one file of the newest checkpoint is harmed. devices: a kill, then another number of replicas.
KINDS = ("kill", "term", "disk", "damage", "devices")
# Shares of the interruptions. The first two phases are there where a run packs images or computes features.
PHASES = {"packing": 1, "features": 2, "start-up": 4, "training": 7, "evaluation": 3, "saving": 6}
ONCE = ("packing", "features")
DEVICES = ("cpu:1", "cpu:2", "cpu:4")
# Seconds: that a stop may take, see `trainer.signals`; and that a phase is thought to take until one was seen.
STOPS_WITHIN = 70.0
FIRST_GUESS = {"start-up": 5.0}


class Unexpected(Exception):
    """A training did not do what an interruption asks of it; says what it did."""


@dataclasses.dataclass(frozen=True)
class Interruption:
    """What is to happen.

    Attributes:
        kind: of KINDS.
        phase: of PHASES.
    """

    kind: str
    phase: str


@dataclasses.dataclass(frozen=True)
class Hit:
    """What did happen.

    Attributes:
        phase: in which it was.
        told: a sentence on it.
        goes_on_from: steps that the next start may go on from; None: not known.
    """

    phase: str
    told: str
    goes_on_from: tuple[int, ...] | None = None


def planned(count: int, *, kinds: Sequence[str], phases: Collection[str], chance: random.Random) -> list[Interruption]:
    """So many interruptions: phases by their shares, at least one each where there are enough, kinds equally often.

    Phases that a run has only once come first, all else is in random order.
    """
    shares = {phase: share for phase, share in PHASES.items() if phase in phases}
    quota = {phase: count * share // sum(shares.values()) for phase, share in shares.items()}
    for phase in sorted(shares, key=lambda phase: (quota[phase], -shares[phase])):
        if sum(quota.values()) < count:
            quota[phase] += 1
    quota["training"] += count - sum(quota.values())
    of_phase = [phase for phase, times in quota.items() for _ in range(times)]
    of_kind = [kinds[index % len(kinds)] for index in range(count)]
    chance.shuffle(of_phase)
    chance.shuffle(of_kind)
    of_phase.sort(key=lambda phase: [*ONCE, phase].index(phase))
    # In those there is nothing to harm yet.
    once = sum(phase in ONCE for phase in of_phase)
    of_kind.sort(key=lambda kind: kind == "damage")
    late = of_kind[once:]
    chance.shuffle(late)
    of_kind[once:] = late
    return [Interruption(kind, phase) for kind, phase in zip(of_kind, of_phase, strict=True)]


@dataclasses.dataclass(frozen=True)
class Announcement:
    """See `trainer.proofs.announcing`; `at` is the second of `time.monotonic` when it was read."""

    phase: str
    step: int
    detail: str
    at: float


class Training:
    """A process that trains and announces what it does.

    Args:
        command: to start it; flags for announcing are added.
        hold: the moment of saving at which it waits, until it is let go; empty: none.
        log: what it prints is added to this file. A pipe lies between: no limit on files touches it.
    """

    def __init__(self, command: Sequence[str], *, hold: str, log: Path):
        self.began, self.printed = time.monotonic(), ""
        self._log = log
        reader, writer = os.pipe()
        self._process = subprocess.Popen(
            [*command, f"--announce={writer}", f"--hold={hold}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=[writer],
        )  # fmt: skip
        os.close(writer)
        self._unread = {reader: b"", self._process.stdout.fileno(): b""}
        self._reader, self._open = reader, set(self._unread)

    @property
    def pid(self) -> int:
        return self._process.pid

    def announcements(self, until: float | None) -> list[Announcement] | None:
        """What it has announced since; waits for something until then (None: for ever). None: it has ended."""
        while True:
            left = None if until is None else max(0.0, until - time.monotonic())
            ready = select.select(list(self._open), [], [], left)[0]
            if not ready:
                return []
            for end in ready:
                received = os.read(end, 65536)
                self._unread[end] += received
                if not received:
                    self._open.discard(end)
            if self._reader not in self._open:
                return None
            *lines, self._unread[self._reader] = self._unread[self._reader].split(b"\n")
            if lines:
                return [_announcement(line.decode()) for line in lines]

    def let_go(self) -> None:
        """Ends its waiting."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def end(self, *, within: float | None = None) -> int | None:
        """Its exit status, negative for a signal; None: it was killed because it did not end in that many seconds."""
        deadline = None if within is None else time.monotonic() + within
        late = False
        while self._open and not late:
            self.announcements(deadline)
            late = deadline is not None and time.monotonic() > deadline
        if late:
            self._process.kill()
        status = self._process.wait()
        self.let_go()
        self.printed = self._unread[self._process.stdout.fileno()].decode(errors="replace")
        self._process.stdout.close()
        os.close(self._reader)
        with open(self._log, "a") as log:
            log.write(self.printed)
        return None if late else status


def _announcement(line: str) -> Announcement:
    phase, step, *detail = line.split(" ", 2)
    return Announcement(phase, int(step), "".join(detail), time.monotonic())


class Interrupter:
    """Interrupts trainings in one workdir after the other, and learns how long their phases take.

    Args:
        chance: draws the moments.
        checkpoint_bytes: of the largest file of a checkpoint.
        windows: that a training is let go on for, at most, before it is interrupted in one.
        patience: seconds after which a training that announces nothing counts as one that hangs.
    """

    def __init__(self, chance: random.Random, *, checkpoint_bytes: int, windows: int, patience: float):
        self._chance, self._bytes, self._windows, self._patience = chance, checkpoint_bytes, windows, patience
        self._seconds = dict(FIRST_GUESS)
        self.slowest_stop = 0.0

    def moment(self, interruption: Interruption) -> str:
        """The moment at which a training is to be held for it."""
        return self._chance.choice(SAVING) if interruption.phase == "saving" else ""

    def interrupt(
        self, training: Training, interruption: Interruption, *, hold: str, folder: Path, saved: bool = False
    ) -> tuple[Hit | None, Announcement | None]:
        """Interrupts a training when it is where it shall be, and waits for its end.

        Args:
            hold: as the training was told.
            folder: its workdir.
            saved: whether it has to save something of its own before it is interrupted.

        Returns:
            what happened, None where it came to its own end before; what it said of the step it went on from.

        Raises:
            Unexpected: it did not end as it has to.
        """
        watch = _Watch(training.began, self._seconds)
        wanted, share = interruption.phase, self._chance.random()
        turn = self._chance.randint(1, {"training": self._windows, "features": 3}.get(wanted, 1))
        due = training.began + share * self._seconds["start-up"] if wanted == "start-up" else None
        heard = training.began
        while True:
            announced = training.announcements(due or heard + self._patience)
            if announced is None:
                return self._own_end(training), watch.restored
            if not announced and due is None:
                training.end(within=0)
                _, step, doing = watch.doing(wanted)
                raise Unexpected(f"{doing}, at step {step}: nothing happened for {self._patience:.0f} s")
            heard = time.monotonic()
            for announcement in announced:
                seen = watch.take(announcement)
                there = announcement.phase == wanted and announcement.detail == (hold or announcement.detail)
                if there and seen >= turn:
                    held = hold and hold != PASSING
                    due = due or announcement.at + (0 if held else share * watch.guess(announcement))
            if due is None or time.monotonic() < due:
                continue
            steps = checkpoints.steps_in(folder / "checkpoints")
            own = watch.restored is not None and steps and steps[-1] > watch.restored.step
            if (interruption.kind == "damage" and len(steps) < 2) or (saved and not own):
                # Later, when there is one before it; a training is held only once.
                hold, due, turn = "", None, 1
                wanted = "training" if wanted == "start-up" else wanted
                training.let_go()
                continue
            return self._strike(training, interruption, watch, folder), watch.restored

    def _own_end(self, training: Training) -> None:
        status = training.end()
        if status:
            raise Unexpected(f"a training that nobody interrupted ended with status {status}")

    def _strike(self, training: Training, interruption: Interruption, watch: "_Watch", folder: Path) -> Hit | None:
        phase, step, doing = watch.doing(interruption.phase)
        kind, began = interruption.kind, time.monotonic()
        if kind == "term":
            # Python itself shows where SIGINT found it before anything listens.
            numbers = (signal.SIGTERM, signal.SIGUSR1) if phase == "start-up" else (*[signal.SIGTERM] * 2, 2, 10)
            number = signal.Signals(self._chance.choice(numbers))
            doing, expected = f"{number.name} {doing}", (launch.STOPPED, -number if phase == "start-up" else 75)
            _send(training.pid, number)
        elif kind == "disk":
            limit = self._chance.choice((0, self._chance.randrange(self._bytes)))
            doing, expected = f"no file may grow past {limit} bytes {doing}", (3,)
            with contextlib.suppress(ProcessLookupError):
                hard = resource.prlimit(training.pid, resource.RLIMIT_FSIZE)[1]
                resource.prlimit(training.pid, resource.RLIMIT_FSIZE, (limit, hard))
        else:
            doing, expected = f"kill -9 {doing}", (-signal.SIGKILL,)
            _send(training.pid, signal.SIGKILL)
        training.let_go()
        status = training.end(within=STOPS_WITHIN if kind == "term" else None)
        seconds = time.monotonic() - began
        told = f"{doing}, at step {step}"
        if status is None:
            raise Unexpected(f"{told}: it had not ended after {STOPS_WITHIN:g} s and was killed")
        if status == 0:
            return None
        if status not in expected or "Traceback" in training.printed:
            raise Unexpected(f"{told}: status {status}, not {expected[0]}")
        if kind == "disk" and "error:" not in training.printed:
            raise Unexpected(f"{told}: nothing told about it")
        if status > 0:
            told += f": status {status} after {seconds:.1f} s"
        if kind == "term":
            self.slowest_stop = max(self.slowest_stop, seconds)
        goes_on_from = None
        if kind == "damage":
            harm, goes_on_from = damage(folder / "checkpoints", self._chance)
            told += f"; {harm}"
        return Hit(phase, told, goes_on_from)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


class _Watch:
    """What one training is doing; it may save while it does something else."""

    def __init__(self, began: float, seconds: dict[str, float]):
        self._seconds = seconds
        self._main = Announcement("start-up", 0, "", began)
        self._saving: Announcement | None = None
        self._seen: Counter[str] = Counter()
        self.restored: Announcement | None = None

    def take(self, announcement: Announcement) -> int:
        """Takes note of an announcement; how many of its phase there have been."""
        if announcement.phase == "restored":
            self.restored = announcement
            return 0
        before = self._saving if announcement.phase == "saving" else self._main
        if before is not None:
            self._seconds[self._key(before)] = announcement.at - before.at
        self._seen[announcement.phase] += 1
        if announcement.phase == "saving":
            self._saving = None if announcement.detail == SAVED else announcement
        else:
            self._main = announcement
        return self._seen[announcement.phase]

    def guess(self, announcement: Announcement) -> float:
        """Seconds that what was announced will take."""
        return self._seconds.get(self._key(announcement), 0.02)

    def _key(self, announcement: Announcement) -> str:
        # The first window of a process is traced.
        first = " first" if announcement.phase == "training" and self._seen["training"] == 1 else ""
        return f"{announcement.phase} {announcement.detail}{first}".rstrip()

    def doing(self, wanted: str) -> tuple[str, int, str]:
        """Phase, step and a few words; of several phases at once the wanted one."""
        main, saving = self._main, self._saving
        if saving is not None and wanted != main.phase:
            return "saving", saving.step, f"while saving ({saving.detail})"
        words = {"start-up": "in start-up", "between": "between windows"}.get(main.phase, f"in {main.phase}")
        if saving is not None:
            words += f" while checkpoint {saving.step} is saved"
        return main.phase, main.step, words


def damage(folder: Path, chance: random.Random) -> tuple[str, tuple[int, ...]]:
    """Harms one file of the newest of at least two checkpoints, in place: links to it suffer as well.

    Returns:
        what was done; the steps a start may then go on from.
    """
    *_, before, newest = checkpoints.steps_in(folder)
    path = chance.choice(sorted(folder.glob(f"ckpt-{newest}.*")))
    size = path.stat().st_size
    how = chance.choice(("deleted", "cut short", "a byte flipped"))
    if how == "deleted":
        path.unlink()
    elif how == "cut short":
        os.truncate(path, chance.randrange(size))
    else:
        place = chance.randrange(size)
        with open(path, "r+b") as file:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ (1 << chance.randrange(8))]))
    # Without its manifest, which can be made out, a checkpoint may still be whole.
    return f"{path.name}: {how}", (before, newest) if ".manifest." in path.name else (before,)
