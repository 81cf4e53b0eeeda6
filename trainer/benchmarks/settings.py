"""What the flags of scripts/benchmark.py say."""

import dataclasses
from collections.abc import Sequence

from trainer import launch
from trainer.recipe import Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """A field for each flag of the same name; see scripts/benchmark.py."""

    gin_file: Sequence[str] = ()
    gin_param: Sequence[str] = ()
    devices: str = "auto"
    repeats: int = 5
    images: int = 1000
    steps: int = 10_000
    rows: int = 1_000_000
    epochs: int = 20
    stage: str | None = None
    trace: str | None = None
    replicas: Sequence[str] = ("1", "2", "4")
    most_batch: int | None = None
    only: Sequence[str] = ()

    def recipe(self) -> Recipe:
        """The recipe that they name.

        Raises:
            UserError: as `launch.parse_gin` and `launch.call` do.
        """
        launch.parse_gin(self.gin_file, self.gin_param)
        return launch.call(Recipe)
