"""What saving costs: a session that saves in every other turn, and how fast it trains in either."""

import dataclasses
import statistics
import time
from collections.abc import Callable

from trainer.session import Session

# Saves in a turn, and the share of the speed without that is wanted.
SAVES, WANTED = 3, 0.95


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
    """A row for the turns that save and one for those that do not, see `trainer.benchmark.compare`.

    Args:
        seconds: of the turns that save (True) and those that do not, in the order in which they were.
        images: in a turn.

    Returns:
        images_per_second (median) of either; ratio to not saving of the same round: median, lowest and highest.
    """
    rows = []
    for saves, name in ((True, "saving"), (False, "not saving")):
        ratios = [plain / own for plain, own in zip(seconds[False], seconds[saves], strict=True)]
        rows.append(
            {
                "name": name,
                "images_per_second": images / statistics.median(seconds[saves]),
                "ratio": statistics.median(ratios),
                "lowest_ratio": min(ratios),
                "highest_ratio": max(ratios),
            }
        )
    return rows
