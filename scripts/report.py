"""Writes what there is to know of a session as one page that needs nothing else; also beside a training that runs.

python scripts/report.py --workdir=runs/photos
python scripts/report.py --workdir=runs/photos --compare=runs/other --compare=runs/third

The first writes WORKDIR/report.html, as a training does at its end. With --compare the sessions stand side by side in
WORKDIR/compare.html. --output names another file.
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

from pathlib import Path

from absl import flags

from data.errors import UserError
from trainer import devices
from trainer.reports.console import Console
from trainer.reports.page import run as runs
from trainer.reports.page import writing
from trainer.workdir import Workdir

MOST_RUNS = 6


def main() -> int:
    workdir = Workdir.existing(launch.required("workdir"))
    others = [Workdir.existing(path) for path in flags.FLAGS.compare]
    if len(others) >= MOST_RUNS:
        raise UserError(
            f"{len(others) + 1} sessions",
            where="--workdir, --compare",
            expected=f"at most {MOST_RUNS} side by side",
            do="compare fewer at a time",
        )
    output = Path(flags.FLAGS.output or (workdir.path / "compare.html" if others else workdir.report))
    console = Console()
    if others:
        page = writing.several([runs.read(each) for each in (workdir, *others)])
    else:
        devices.set_up(flags.FLAGS.devices)
        page = writing.on_demand(workdir, console, drifts=flags.FLAGS.drift)
    writing.write(output.expanduser().absolute(), page)
    console.close()
    console.say(f"page: {output}")
    return 0


def run() -> None:
    """Entry point of `onward-report`."""
    launch.define_flags()
    # A training that runs may have the GPUs.
    flags.FLAGS.set_default("devices", "cpu")
    flags.DEFINE_bool(
        "drift", False, "Also compare the layers with the pre-trained weights of the recipe; builds the network."
    )
    flags.DEFINE_multi_string(
        "compare", [], "Workdir of another session, to stand beside it; may be given several times."
    )
    flags.DEFINE_string(
        "output", None, "HTML file to write; WORKDIR/report.html, or with --compare WORKDIR/compare.html."
    )
    launch.run(main)


if __name__ == "__main__":
    run()
