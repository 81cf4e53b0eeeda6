"""What saving costs: a session that saves in every other turn, and how fast it trains in either."""

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable

from trainer.benchmarks.endurance import of_length
from trainer.benchmarks.results import Result
from trainer.benchmarks.settings import Settings
from trainer.benchmarks.windows import range_of, ratio
from trainer.reports.console import Console
from trainer.session import Session
from trainer.workdir import Workdir

# Saves in a turn, and the share of the speed without that is wanted.
SAVES, WANTED = 3, 0.95


def run(settings: Settings, console: Console) -> Result:
    """--part=saving."""
    recipe, repeats = settings.recipe(), settings.repeats
    every = recipe.checkpoint_every[0]
    turn = SAVES * every
    with tempfile.TemporaryDirectory(prefix="onward-session-") as folder:
        workdir = Workdir(folder)
        where = {"device_spec": settings.devices, "report": console.say}
        session = InTurns(of_length(recipe, (1 + 2 * repeats) * turn), workdir, turn=turn, **where)
        try:
            session.run()
            facts = json.loads(workdir.environment.read_text())
            size = sum(path.stat().st_size for path in workdir.checkpoints.glob(f"ckpt-{session.step}.*"))
        finally:
            workdir.disown()
    images = turn * recipe.batch_size
    rows, without = compare(session.seconds, images=images), "not saving"
    rates = {row["name"]: [images / each for each in session.seconds[row["name"] != without]] for row in rows}
    title = f"{size / 1e6:.0f} MB every {every} steps of {statistics.median(session.seconds[False]) / turn:.2f} s"
    told = [f"{row['name']}: {row['images_per_second']:.1f} images/s, median of {repeats} turns" for row in rows]
    told.append(
        f"saving {title}: {rows[0]['ratio']:.3f} of the speed without ({range_of(rows[0])} over the rounds; "
        f"at least {WANTED} is wanted)"
    )
    return Result(figures={"title": title, "rows": rows, "rates": rates}, sentences=told, environment=facts)


class InTurns(Session):
    """A session of whole turns of the same number of steps: one to warm up, then with and without saving in turn.

    A turn that saves begins with a save, and the last one has as many steps to come to its end as there are between
    saves: each is paid for in its own turn. No turn begins before the saves of the one before are on the disk.

    Args:
        turn: steps of each, a multiple of those from save to save.
        report: is told of each turn.
    """

    def __init__(self, *arguments, turn: int, report: Callable[[str], None], **keywords):
        super().__init__(*arguments, **keywords)
        self.seconds: dict[bool, list[float]] = {True: [], False: []}
        self._turn, self._tell = turn, report
        self._saving, self._plain = self.rhythm, dataclasses.replace(self.rhythm, checkpoint=2 * self.plan.steps)
        self._began = 0.0

    def _at_boundary(self) -> None:
        if self.step % self._turn == 0:
            now, turn = time.perf_counter(), self.step // self._turn
            saves = self.rhythm is self._saving
            if turn > 1:
                self.seconds[saves].append(now - self._began)
                self._tell(f"turn {turn - 1}, {'saving' if saves else 'not saving'}: {now - self._began:.2f} s")
            self._note_saved(self.checkpoints.wait())
            self.rhythm = self._saving if turn % 2 else self._plain
            self._began = time.perf_counter()
        super()._at_boundary()


def compare(seconds: dict[bool, list[float]], *, images: int) -> list[dict]:
    """A row for the turns that save and one for those that do not, see `trainer.benchmarks.windows.compare`.

    Args:
        seconds: of the turns that save (True) and those that do not, in the order in which they were.
        images: in a turn.

    Returns:
        images_per_second (median) of either; ratio to not saving of the same round: median, lowest and highest.
    """
    return [
        {
            "name": name,
            "images_per_second": images / statistics.median(seconds[saves]),
            **ratio(seconds[False], seconds[saves]),
        }
        for saves, name in ((True, "saving"), (False, "not saving"))
    ]
