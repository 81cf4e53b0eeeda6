"""The three rates on 1, 2, 4 replicas: the same batch cut up (strong scaling), and a batch for each (weak)."""

from data.errors import UserError
from trainer.benchmarks import rates, trials
from trainer.benchmarks.results import Result, Table
from trainer.benchmarks.settings import Settings
from trainer.reports.console import Console

STRONG, WEAK = "strong", "weak"


def run(settings: Settings, console: Console) -> Result:
    """--part=scaling. Each number of replicas in a process of its own: TensorFlow cannot change its devices."""
    counts = _counts(settings)
    kind = settings.devices.split(":")[0]
    batch = settings.recipe().batch_size
    documents = {}
    for way in (STRONG, WEAK):
        for count in counts:
            images = batch if way == STRONG else batch * count
            if (1, images) == (count, batch) and (STRONG, 1) in documents:
                documents[way, count] = documents[STRONG, 1]
                continue
            console.say(f"{way} scaling, {count} replicas, batch {images}")
            bindings = [f"train.batch_size = {images}"]
            trial = trials.run("rates", settings, bindings=bindings, devices=devices_of(kind, count))
            documents[way, count] = trial.expected()
    rows = [row(way, count, documents[way, count], alone=documents[way, counts[0]]) for way, count in documents]
    measured = {
        f"{way}, {count} replicas": document["rates"][rates.BOTH] for (way, count), document in documents.items()
    }
    last = documents[STRONG, counts[-1]]
    told = [] if last["environment"]["device_kind"] == "GPU" else [shared(last["environment"]["cores"])]
    return Result(
        figures={"title": documents[STRONG, counts[0]]["title"], "rows": rows, "rates": measured},
        tables=[table(documents[STRONG, counts[0]]["title"], rows)],
        sentences=told,
        faults=trials.faults({f"{way}, {count} replicas": document for (way, count), document in documents.items()}),
        environment=last["environment"],
    )


def _counts(settings: Settings) -> list[int]:
    if not settings.replicas or not all(each.isdigit() and int(each) for each in settings.replicas):
        raise UserError(
            f"--replicas={','.join(settings.replicas)}",
            where="command line",
            expected="numbers of devices, such as 1,2,4",
            do="correct it",
        )
    return sorted(set(map(int, settings.replicas)))


def devices_of(kind: str, count: int) -> str:
    """`--devices` for so many of a kind; `auto` means CPUs, which are logical ones."""
    return f"gpu:{','.join(map(str, range(count)))}" if kind == "gpu" else f"cpu:{count}"


def shared(cores: int) -> str:
    """What replicas on one CPU cannot show."""
    return (
        f"logical devices share the {cores} cores of this host: the table shows what replicas cost, not what they bring"
    )


def row(way: str, count: int, document: dict, *, alone: dict) -> dict:
    """A row of the table: rates, efficiency against the fewest replicas, and the share of the reduction."""
    speed, of_one = (each["images_per_second"][rates.BOTH]["median"] for each in (document, alone))
    return {
        "name": f"{way}, {count}",
        "scaling": way,
        "replicas": count,
        "batch_size": document["batch_size"],
        "images_per_second": speed,
        "images_per_second_per_device": speed / count,
        "speedup": speed / of_one,
        "efficiency": speed / of_one * alone["replicas"] / count,
        "reduction_share": document["reduction_share"],
    }


def table(title: str, rows: list[dict]) -> Table:
    """The rows for people."""
    columns = ("scaling", "replicas", "batch", "images/s", "per device", "speed-up", "efficiency", "reduction")
    cells = [
        (
            each["scaling"],
            str(each["replicas"]),
            str(each["batch_size"]),
            f"{each['images_per_second']:.1f}",
            f"{each['images_per_second_per_device']:.1f}",
            f"{each['speedup']:.2f} x",
            f"{each['efficiency']:.2f}",
            f"{100 * each['reduction_share']:.1f} %",
        )
        for each in rows
    ]
    return Table(title, columns, cells)
