"""Every figure that is wanted of the project, measured one after the other, in a table."""

import dataclasses
from collections.abc import Callable

from data.errors import UserError
from trainer.benchmarks import augmentation, growth, inputs, loop, rates, saving, starts, stored_features, trials
from trainer.benchmarks.results import Result, Table
from trainer.benchmarks.settings import Settings
from trainer.reports.console import Console

# Seen: a figure, and the least and most of it over the rounds.
Seen = tuple[float, float, float]
FILES, TINY, EXTEND = "configs/benchmark_files.gin", "configs/benchmark_tiny.gin", "configs/extend.gin"
# Parts whose faults are functions that were traced more than once.
COUNTED = ("rates", "loop", "growth")
NOT_HERE = "not measured here"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One figure.

    Attributes:
        wanted: at least so much, or, with `at_most`, at most.
        part, config: that measure it.
        seen: document of that part -> the figure.
        unit: behind the figure.
        repeats: turns of each contestant, at least.
    """

    what: str
    wanted: float
    part: str
    config: str
    seen: Callable[[dict], Seen]
    at_most: bool = False
    unit: str = "x"
    repeats: int = 1

    def met(self, figure: float) -> bool:
        """Whether a figure is as wanted."""
        return figure <= self.wanted if self.at_most else figure >= self.wanted


def _ratio(row: dict) -> Seen:
    return row["ratio"], row["lowest_ratio"], row["highest_ratio"]


def _named(name: str, *, among: str = "rows") -> Callable[[dict], Seen]:
    return lambda document: _ratio(next(row for row in document[among] if row["name"] == name))


def _end_to_end(document: dict) -> Seen:
    both, step = (document["images_per_second"][name] for name in (rates.BOTH, rates.STEP))
    return tuple(both[key] / step["median"] for key in ("median", "p10", "p90"))


def _best_fit(document: dict) -> Seen:
    return _ratio(min((row for row in document["rows"] if row["name"] != loop.ONWARD), key=lambda row: row["ratio"]))


def _started(document: dict) -> Seen:
    return tuple(document["start"][key] for key in ("median", "lowest", "highest"))


def _bytes(document: dict) -> Seen:
    return (document["rows"][0]["bytes_an_example"],) * 3


ROWS = (
    Row(what="end to end over step alone, MobileNetV2 96 px batch 16 from files, affine policy", wanted=0.95,
        part="rates", config=FILES, seen=_end_to_end),
    Row(what="the same against keras fit, data in memory, best of its settings", wanted=1.25,
        part="loop", config=FILES, seen=_best_fit),
    Row(what="tiny convolution model, 32 px, batch 64, against keras fit, best of its settings", wanted=1.2,
        part="loop", config=TINY, seen=_best_fit, repeats=9),
    *(
        Row(what=f"{name}, to float batches, wall clock, against {peer}", wanted=wanted, part="augment", config=EXTEND,
            seen=_named(f"{name} / {peer}", among="ratios"))
        for name, peer, measure, wanted in augmentation.WANTED if measure == "wall" and peer != augmentation.AFFINE
    ),
    Row(what="host CPU an image against read and decode alone (aim 1.15)", wanted=1.35, at_most=True,
        part="input", config=EXTEND, seen=_named(inputs.FILES)),
    Row(what="head on a feature store against keras fit on the frozen backbone",
        wanted=stored_features.TRAINED["head"][1], part="features", config="configs/features.gin", seen=_named("head")),
    Row(what=f"time to the first step at step {starts.STEP:,} against a fresh start", wanted=starts.MOST_RATIO,
        at_most=True, part="start", config="configs/quickstart.gin", seen=lambda document: _ratio(document["resumed"])),
    Row(what="start of a session to its first step, without import of TensorFlow and compile of the model",
        wanted=starts.MOST_SECONDS, at_most=True, unit="s", part="start", config="configs/quickstart.gin",
        seen=_started),
    Row(what="saving 100 MB every 20 steps: speed against that without", wanted=saving.WANTED, part="saving",
        config="configs/saving.gin", seen=_named("saving")),
    Row(what="growth: time a step, 1,000,000 against 1,000 examples", wanted=growth.MOST_TIMES, at_most=True,
        part="growth", config=FILES, seen=_named("growth")),
    Row(what="growth: memory of each further example", wanted=growth.MOST_BYTES, at_most=True, unit="bytes",
        part="growth", config=FILES, seen=_bytes),
)  # fmt: skip
GPU = (
    ("ResNet-50, images/s of a GPU, against NVIDIA's table for it", "--part=rates --devices=gpu:0", "resnet50", 256),
    ("EfficientNet-B0, images/s of a GPU, likewise", "--part=rates --devices=gpu:0", "efficientnet_b0", 256),
    ("ResNet-50, efficiency of 8 GPUs", "--part=scaling --devices=gpu --replicas=1,2,4,8", "resnet50", 256),
)


def run(settings: Settings, console: Console) -> Result:
    """--part=all. Each part in a process of its own, one after the other."""
    rows = [row for row in ROWS if not settings.only or any(word in f"{row.part} {row.what}" for word in settings.only)]
    _check(settings, rows)
    documents: dict[tuple[str, str], dict] = {}
    found = []
    for row in rows:
        key = row.part, row.config
        if key not in documents:
            console.say(f"--part={row.part} --gin_file={row.config}")
            repeats = max(settings.repeats, row.repeats)
            own = dataclasses.replace(settings, gin_file=[row.config], repeats=repeats)
            documents[key] = trials.run(row.part, own, limited=False).expected()
        figure, low, high = row.seen(documents[key])
        found.append(
            {"name": row.what, "wanted": row.wanted, "at_most": row.at_most, "unit": row.unit, "seen": figure,
             "lowest": low, "highest": high, "met": row.met(figure), "part": row.part, "config": row.config}
        )  # fmt: skip
        console.say(" | ".join(cells(found[-1])))
    measured = {
        f"{part} {config}: {name}": all_
        for (part, config), document in documents.items()
        for name, all_ in document.get("rates", {}).items()
    }
    missed = [f"{row['name']}: {_figure(row, 'seen')}, wanted {_wanted(row)}" for row in found if not row["met"]]
    # Of all other parts a fault is a figure that is missed.
    counted = {f"{part} {config}": each for (part, config), each in documents.items() if part in COUNTED}
    gpu = [] if settings.only else [(what, "", NOT_HERE, "", "") for what, *_ in GPU]
    return Result(
        figures={"rows": found, "rates": measured, "gpu": [{"name": what, "seen": NOT_HERE} for what, *_ in GPU]},
        tables=[Table("", ("what", "wanted", "seen", "over the rounds", "as wanted"), [*map(cells, found), *gpu])],
        sentences=[f"{what}: {gpu_command(*how)}" for what, *how in GPU if gpu],
        faults=[*missed, *trials.faults(counted)],
        environment=next(iter(documents.values()))["environment"],
    )


def _check(settings: Settings, rows: list[Row]) -> None:
    if not rows:
        raise UserError(
            f"--only={','.join(settings.only)}",
            where="command line",
            expected="words, one of which is in the part or the name of a row: loop, saving, growth, tiny, ...",
            do="correct it, or leave it out",
        )
    photos = {FILES, EXTEND, "configs/features.gin"}
    given = any(binding.replace(" ", "").startswith("data_dir=") for binding in settings.gin_param)
    if settings.gin_file or not (given or photos.isdisjoint(row.config for row in rows)):
        raise UserError(
            "--part=all with a recipe" if settings.gin_file else "--part=all without photos",
            where="command line",
            expected="no --gin_file, each row has its own; and a folder of JPEG files, one folder a class",
            do="--part=all --gin_param=\"data_dir = 'photos'\"",
        )


def gpu_command(flags: str, backbone: str, batch: int) -> str:
    """What to type on a machine with GPUs."""
    # What is chosen by measuring may differ with the number of replicas: the efficiency would be that of two programs.
    settled = "--part=scaling" in flags
    chosen = ["precision = 'mixed_float16'"] if settled else ["precision = 'auto'", "train.xla = 'auto'"]
    bindings = [f"backbone = '{backbone}'", "image_size = 224", f"batch_size = {batch}", *chosen]
    given = " ".join(f'--gin_param="{each}"' for each in bindings)
    return f"python scripts/benchmark.py {flags} --gin_file=configs/benchmark.gin {given}"


def cells(row: dict) -> tuple[str, ...]:
    """A row for people."""
    spread = f"{_figure(row, 'lowest')} to {_figure(row, 'highest')}"
    return row["name"], _wanted(row), _figure(row, "seen"), spread, "yes" if row["met"] else "NO"


def _wanted(row: dict) -> str:
    return f"{_figure(row, 'wanted')} at {'most' if row['at_most'] else 'least'}"


def _figure(row: dict, name: str) -> str:
    return f"{row[name]:.{0 if row['unit'] == 'bytes' else 2}f} {row['unit']}"
