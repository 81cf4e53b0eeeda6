"""The way of a session to its first step, and how long each part of it takes. Run as a program by `starts`."""

import json
import sys
import time

STARTED = time.perf_counter()
from trainer import launch  # noqa: E402  (what this takes is measured)

IMPORTED = time.perf_counter()

import dataclasses  # noqa: E402

from trainer.recipe import Recipe  # noqa: E402
from trainer.session import Session  # noqa: E402
from trainer.workdir import Workdir  # noqa: E402

LOADED = time.perf_counter()
FAR = 10**9


class Reached(Exception):
    """The session has got as far as it was wanted to."""


class FirstStep(Session):
    """A session that ends after its second window.

    Args:
        jump: ends after its first window, saved, as if it had done so many steps; None: does not.
    """

    def __init__(self, *arguments, jump: int | None = None, **keywords):
        super().__init__(*arguments, **keywords)
        self.marks, self._jump = {"data": time.perf_counter()}, jump

    def _set_up(self) -> None:
        super()._set_up()
        self.marks["model"] = time.perf_counter()

    def _train_window(self) -> None:
        self.marks.setdefault("restore", time.perf_counter())
        super()._train_window()
        if self._jump is not None:
            self.step = self._jump
            self.state.step.assign(self._jump)
            self._save()
            self._note_saved(self.checkpoints.wait())
            raise Reached
        if "first" in self.marks:
            self.marks["second"] = time.perf_counter()
            raise Reached
        self.marks["first"] = time.perf_counter()

    def seconds(self) -> dict[str, float]:
        """What each part took; `compile` is what the first window took longer than the second, `total` ends with it."""
        names = ("data", "model", "restore", "first", "second")
        at = [LOADED, *(self.marks[name] for name in names)]
        took = {name: after - before for name, before, after in zip(names, at, at[1:], strict=False)}
        step = took.pop("second")
        imports = {"import": IMPORTED - STARTED, "modules": LOADED - IMPORTED}
        found = {**imports, **took, "compile": max(0.0, took["first"] - step)}
        total = self.marks["first"] - STARTED
        return found | {"total": total, "start": total - found["import"] - found["compile"]}


def main() -> None:
    """Takes one JSON argument: gin_file, gin_param, devices, workdir, jump. Prints one JSON line."""
    wanted = json.loads(sys.argv[1])
    launch.parse_gin(wanted["gin_file"], wanted["gin_param"])
    recipe = launch.call(Recipe)
    # Long enough, and nothing but steps.
    stage = dataclasses.replace(recipe.stages[-1], length=(FAR, "steps"))
    never = {"evaluate_every": (FAR, "steps"), "checkpoint_every": (FAR, "steps"), "checkpoint_minutes": None}
    recipe = dataclasses.replace(recipe, stages=[stage], window=1, **never)
    workdir = Workdir(wanted["workdir"])
    session = FirstStep(recipe, workdir, device_spec=wanted["devices"], jump=wanted["jump"])
    try:
        session.run()
    except Reached:
        print(json.dumps({} if wanted["jump"] is not None else session.seconds()), flush=True)
    finally:
        workdir.disown()


if __name__ == "__main__":
    main()
