"""Packs the images of a recipe, decoded, into a store that any number of runs may share.

python scripts/pack.py --store=stores/photos --gin_file=configs/extend.gin --gin_param="data_dir = 'photos'"
then train with --gin_param="train.store = 'stores/photos'"
"""

from trainer import launch  # isort: skip  (quietens TensorFlow's log before it is imported)

from pathlib import Path

from absl import flags

from data import packing
from data.errors import UserError
from data.examples import Stream
from trainer import data_setup, devices
from trainer.recipe import Recipe
from trainer.reports.console import Console

LISTED = 10


def main() -> int:
    folder = Path(launch.required("store")).expanduser().absolute()
    launch.parse_gin(flags.FLAGS.gin_file, flags.FLAGS.gin_param)
    recipe = launch.call(Recipe)
    devices.set_up("cpu")
    source = launch.call(recipe.source)
    if not isinstance(source, Stream) and source.root is not None and folder == Path(source.root).resolve():
        raise UserError(
            f"the store is the data folder, {folder}",
            where="--store, gin binding folder.root (data_dir)",
            expected="a folder of its own",
            do="--store=stores/NAME",
        )
    console = Console()
    count = source.count if isinstance(source, Stream) else len(source)
    store = packing.pack(
        source,
        folder,
        decoding=data_setup.decoding(recipe),
        say=console.say,
        report=console.count("packing", count),
    )
    console.close()
    bad = store.inspection.bad
    for row, reason in list(bad.items())[:LISTED]:
        console.say(f"not in the store: {store.name(row)}: {reason}", style="yellow")
    if len(bad) > LISTED:
        console.say(f"... and {len(bad) - LISTED} more", style="yellow")
    size = packing.say_bytes(store.manifest["bytes"])
    console.say(f"{len(store.names) - len(bad)} images, {size} in {len(store.manifest['shards'])} files: {folder}")
    if flags.FLAGS.verify:
        damaged = store.damage()
        if damaged:
            raise UserError(
                f"files whose content is not what was packed: {', '.join(damaged)}",
                where=str(folder),
                expected="the checksums in manifest.json",
                do="remove the folder and pack again",
            )
        console.say("every file has the checksum it was packed with")
    return 0


def run() -> None:
    """Entry point of `onward-pack`."""
    launch.define_flags()
    flags.DEFINE_string("store", None, "Folder of the store.")
    flags.DEFINE_bool("verify", False, "Read all of the store and compare it with its checksums.")
    launch.run(main)


if __name__ == "__main__":
    run()
