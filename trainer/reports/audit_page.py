"""The audit as one page that needs nothing else, with small pictures of what it flags."""

import os
from collections.abc import Iterator, Mapping

import numpy as np

from data.audit import name_of
from data.examples import Examples, Stream
from data.inspection import Looker, in_order
from trainer.reports import pages

# Of each kind, what the page shows; the rest is in audit.json.
SHOWN = {"duplicates": 40, "near_duplicates": 60, "bad": 200, "misnamed": 50}
# Names of one group of duplicates, and classes.
NAMES, CLASSES = 12, 200


def render(document: dict, *, thumbnails: Mapping[bytes, str]) -> str:
    """The page.

    Args:
        document: see `data.audit.audit`.
        thumbnails: name -> address of its picture, as `thumbnails` gives them; may lack some.
    """
    values = {
        "summary": summary(document),
        "thumbnail": lambda image: thumbnails.get(name_of(image)),
        "shown": SHOWN,
        "names_shown": NAMES,
        "classes_shown": CLASSES,
    }
    return pages.render("audit.html", document | values)


def summary(document: dict) -> list[tuple[str, str]]:
    """The audit in a few lines, as name and value."""
    images, exact, near = (document[key] for key in ("images", "duplicates", "near_duplicates"))
    good = images["good"]
    in_files = f", {images['bytes'] / 1e6:.1f} MB in files" if images["bytes"] else ""
    rows = [
        ("images", f"{images['listed']}: {good} good, {images['bad']} bad{in_files}"),
        ("equal", f"{exact['groups']} groups of the same content{_flags(exact)}"),
        ("alike", f"{near['pairs']} pairs of near duplicates{_flags(near)}"),
    ]
    if "height" in document["sizes"]:
        height, width = (document["sizes"][side] for side in ("height", "width"))
        spans = f"{height['min']:.0f} to {height['max']:.0f} high, {width['min']:.0f} to {width['max']:.0f} wide"
        rows.append(("sizes", f"{spans}; median {height['median']:.0f} x {width['median']:.0f}"))
    formats = ", ".join(f"{count} {name}" for name, count in document["formats"].items())
    misnamed = document["misnamed"]["count"]
    rows.append(("content", f"{formats or 'none'}{f'; {misnamed} not what their name says' if misnamed else ''}"))
    rows.append(("grey", f"{images['grey']} of {good}; {images['turned']} turned by EXIF"))
    for split, counts in document["classes"].items():
        if document["task"] != "regression" and any(counts):
            named = ", ".join(
                f"{name} {count}" for name, count in zip(document["class_names"][:12], counts[:12], strict=True)
            )
            rows.append((split, named + (", ..." if len(counts) > 12 else "")))
    return rows


def _flags(found: Mapping[str, int]) -> str:
    return f", {found['conflicting']} with conflicting labels, {found['across']} across splits"


def thumbnails(document: dict, source: Examples | Stream, *, looker: Looker) -> dict[bytes, str]:
    """Pictures of the duplicates that the page shows: name -> `data:` address of a JPEG, see `pages.thumbnail`.

    What has changed since it was looked at, and no longer decodes, is left out.
    """
    groups = document["duplicates"]["listed"][: SHOWN["duplicates"]]
    pairs = document["near_duplicates"]["listed"][: SHOWN["near_duplicates"]]
    wanted = {name_of(image) for entry in groups for image in entry["images"][:1]}
    wanted |= {name_of(image) for entry in pairs for image in entry["images"]}

    def picture(found: tuple[bytes, bytes | np.ndarray | None]) -> tuple[bytes, str | None]:
        name, image = found
        sight = looker.file(os.path.join(os.fsencode(source.root), name)) if image is None else looker.image(image)
        return name, None if sight.canvas is None else pages.thumbnail(sight.canvas, sight.orientation)

    return {name: address for name, address in in_order(picture, _images(source, wanted)) if address}


def _images(source: Examples | Stream, wanted: set[bytes]) -> Iterator[tuple[bytes, bytes | np.ndarray | None]]:
    """Name and image of each that is wanted; None for a file."""
    if isinstance(source, Stream):
        missing = set(wanted)
        records = source.records() if missing else iter(())
        for record in records:
            if record.name in missing:
                missing.remove(record.name)
                yield record.name, record.image
            if not missing:
                return
        return
    for row in np.flatnonzero(np.isin(source.names, np.array(sorted(wanted), source.names.dtype))):
        yield bytes(source.names[row]), None if source.pixels is None else source.pixels[row]
