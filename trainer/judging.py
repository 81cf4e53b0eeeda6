"""What evaluations decide: which checkpoints are the best, when rates fall, when training ends early."""

from collections.abc import Callable, Collection, Iterable

from trainer import metrics
from trainer.checkpoints import BEST, BEST_RAW, KEPT
from trainer.optimization.stages import Plan
from trainer.recipe import Recipe
from trainer.state import TrainingState


def deciding_split(parts: Collection[str]) -> str | None:
    """The split whose evaluations decide: never test. None: none does, and the newest checkpoint is the best."""
    return "validation" if "validation" in parts else None


class Judge:
    """Has everything that follows evaluations know of them.

    Args:
        state: holds what follows: the rankings, the plateau, early stopping.
        task: one of `data.examples.TASKS`.
        parts: names of the splits that there are.
        say: gets a sentence where the learning rate falls.

    Attributes:
        split: whose evaluations decide, see `deciding_split`.
        weights: the kinds of weights that are evaluated, the one that decides last; None where there is but one kind.
        metric: name of the figure that decides.
    """

    def __init__(
        self,
        recipe: Recipe,
        state: TrainingState,
        plan: Plan,
        *,
        task: str,
        parts: Collection[str],
        say: Callable[[str], object],
    ):
        self.split = deciding_split(parts)
        self.weights: tuple[str | None, ...] = (None,) if recipe.ema is None else ("raw", "ema")
        self.metric = metrics.decisive(task, recipe.best_by)
        self._recipe, self._state, self._plan, self._task, self._say = recipe, state, plan, task, say

    def take(self, event: dict) -> bool:
        """Takes note of an `eval` event, once; whether it decides and is among the best."""
        step = event["step"]
        # What is known before the first step decides nothing: there is no checkpoint of it.
        if not step or event["split"] != self.split or event.get(self.metric) is None:
            return False
        merit = metrics.merit(event, task=self._task, by=self._recipe.best_by)
        if event.get("weights") != self.weights[-1]:
            return self._state.best_raw.take(step, merit)
        if self._state.early_stopping is not None:
            self._state.early_stopping.take(step, merit)
        if self._state.plateau is not None:
            start = next(planned.start for planned in self._plan.stages if step <= planned.stop)
            if self._state.plateau.take(step, merit, start=start):
                self._say(f"no gain: learning rate times {self._state.plateau.factor(start):g} from here on")
        return self._state.best.take(step, merit)

    @property
    def ends(self) -> bool:
        """Whether training is to end early."""
        return self._state.early_stopping is not None and self._state.early_stopping.done

    @property
    def best(self) -> int | None:
        """Step of the best evaluation; None: there is none."""
        return next(iter(self._state.best.steps), None)

    def places(self, step: int, marked: Iterable[int]) -> dict[str, list[int]]:
        """Which checkpoints stay in which place beside the newest ones.

        Args:
            step: of the newest.
            marked: steps that stay whatever evaluations say.
        """
        if self.split is None:
            best, raw = [step], []
        else:
            best, raw = self._state.best.steps, [] if self._state.best_raw is None else self._state.best_raw.steps
        # What is the best no more is taken from there, in this order.
        return {KEPT: sorted({*best[1:], *raw[1:], *marked}), BEST: best[:1], BEST_RAW: raw[:1]}
