"""The weights that a session begins with, and what it keeps of them for its teacher, its anchor and its reports."""

from collections.abc import Callable, Sequence

from trainer import init_from, initial
from trainer.forgetting import report
from trainer.models.growing import Outputs
from trainer.models.network import Network
from trainer.recipe import Recipe
from trainer.reports.log import MetricsLog
from trainer.state import TrainingState
from trainer.workdir import Workdir


class Beginning:
    """Loads the weights of `--init_from` where a session begins with them, and tells the state what they were.

    Args:
        state: with the weights of the recipe, or with random ones that are to be replaced.
        outputs: of the network.
        log: of the session.
        resuming: whether a checkpoint will replace all weights.
        source: what `--init_from` says.
        say: tells the user a sentence.

    Attributes:
        facts: of `WeightReport.facts`; None where the weights are random.
        old: classes whose outputs came with the weights.

    Raises:
        UserError: weights that do not fit, or kept ones that are lost.
    """

    def __init__(
        self,
        recipe: Recipe,
        state: TrainingState,
        workdir: Workdir,
        *,
        outputs: Outputs,
        log: MetricsLog,
        resuming: bool,
        source: str | None,
        say: Callable[[str], None],
    ):
        self._workdir, self._network = workdir, state.network
        self._keeps = source is not None or recipe.anchor is not None
        if resuming:
            if source is not None:
                say(f"--init_from={source} is not read: this session goes on from its checkpoint")
            started = next(iter(log.find("start")), {})
            self.facts = started.get("weights", {"summary": "those of the checkpoint"})
            known = initial.known(workdir) if initial.is_kept(workdir) else ()
        else:
            loaded = state.network.loaded
            if source is not None:
                loaded = init_from.load(state.network, source, ours=outputs, recipe=recipe)
            self.facts = loaded and loaded.facts()
            known = self._known
        self.old = report.old_classes(outputs.names, known)
        if recipe.distillation is not None or recipe.anchor is not None:
            first = initial.fitting(workdir, state.network) if resuming else state.network.arrays()
            state.remember(first, old=self.old)

    @property
    def _known(self) -> Sequence[str]:
        classes = self.facts and self.facts.get("classes")
        return classes["kept"] if classes else ()

    def keep(self) -> None:
        """Writes the weights as they are before the first step, where something will ask for them."""
        if self._keeps:
            initial.save(self._workdir, self._network, known=self._known)
        else:
            initial.remove(self._workdir)


def drift(workdir: Workdir, network: Network) -> dict[str, float | None]:
    """How far each layer is from what was kept, see `forgetting.report.drift`; empty where nothing was.

    Raises:
        UserError: what was kept is lost.
    """
    if not initial.is_kept(workdir):
        return {}
    return report.drift(initial.fitting(workdir, network), network.arrays())
