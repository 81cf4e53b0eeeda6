"""The audit of a data set: what its findings say of labels, splits, duplicates and files, as one JSON document."""

import os

import numpy as np

from data import fingerprints
from data.decode import Decoding
from data.examples import SPLITS, Examples
from data.findings import FORMATS, Findings
from data.names import printable

VERSION = 1
# Groups or pairs, and files of another kind than their name says, that a document lists; all are counted.
LISTED = 10_000
SUFFIXES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".gif": "GIF", ".bmp": "BMP", ".webp": "WEBP"}


def audit(examples: Examples, split: np.ndarray, findings: Findings, *, decoding: Decoding) -> dict:
    """The audit.

    Args:
        split: [N] int8, index into SPLITS.

    Returns:
        JSON-ready, every number finite. An image is `{"name", "label", "split"}`; a name with bytes that cannot be
        printed has them escaped, and `name_hex` holds it as it is, see `name_of`. Keys:
        version: of this structure; root: folder of the files or null; task; class_names; notes;
        decoding: short_side and background that the images were decoded for;
        images: listed (by the source, refused ones included), good, bad, bytes (of the good files), grey (red, green
            and blue are equal in every pixel), turned (by EXIF), flat (no fingerprint, since all is one colour);
        bad: images with a `reason`; label and split are null where the source refused the file;
        classes: split -> of the good images, by class: how many; or of regression, by number: min, mean, max;
        sizes: height, width, aspect (width / height) -> min, median, max; unknown: how many told no size;
        formats: kind of content -> how many; misnamed: count, and `listed` images with `content`;
        duplicates, of equal bytes (or pixels): groups, surplus (images without which nothing would be lost), across
            (groups over several splits), conflicting (groups of several labels), and `listed`: groups with `images`,
            `across`, `conflicting`;
        near_duplicates, by perceptual hash, copies counted once: distance and similarity (the bounds), pairs, across,
            conflicting, crowded (images that were compared with some of their like only), cut_short (whether the
            search ended early), and `listed`: pairs with `images`, `distance`, `similarity`, `across`, `conflicting`.
        What is listed begins with what is worst and is cut after LISTED.
    """
    good = np.ones(len(examples), bool)
    good[list(findings.reasons)] = False
    rows = np.flatnonzero(good)
    bad = [
        {**_image(examples, split, row), "reason": printable(reason)}
        for row, reason in sorted(findings.reasons.items())
    ] + [
        {**_name(name), "label": None, "split": None, "reason": printable(reason)} for name, reason in examples.refused
    ]
    copies = _Copies(examples, split, findings, rows)
    return {
        "version": VERSION,
        "root": None if examples.root is None else printable(examples.root),
        "task": examples.task,
        "class_names": [printable(name) for name in examples.class_names],
        "notes": [printable(note) for note in examples.notes],
        "decoding": {"short_side": decoding.short_side, "background": list(decoding.background)},
        "images": {
            "listed": len(examples) + len(examples.refused),
            "good": len(rows),
            "bad": len(bad),
            "bytes": int(findings.file_sizes[rows].sum()),
            "grey": int(findings.grey[rows].sum()),
            "turned": int((findings.orientations[rows] != 1).sum()),
            "flat": int((~findings.fingerprinted[rows]).sum()),
        },
        "bad": bad,
        "classes": {name: _classes(examples, rows[split[rows] == index]) for index, name in enumerate(SPLITS)},
        "sizes": _sizes(findings.sizes[rows]),
        "formats": {
            name or "unknown": int(count)
            for name, count in zip(FORMATS, np.bincount(findings.formats[rows], minlength=len(FORMATS)), strict=True)
            if count
        },
        "misnamed": _misnamed(examples, split, findings, rows),
        "duplicates": copies.groups(),
        "near_duplicates": copies.near(findings),
    }


def name_of(image: dict) -> bytes:
    """The name of an image of the document, byte for byte."""
    return bytes.fromhex(image["name_hex"]) if "name_hex" in image else image["name"].encode()


def _name(name: bytes) -> dict:
    shown = printable(name)
    return {"name": shown} if shown.encode() == name else {"name": shown, "name_hex": name.hex()}


def _image(examples: Examples, split: np.ndarray, row: int) -> dict:
    label = examples.labels[row]
    if examples.task == "regression":
        shown = [float(value) for value in label]
    else:
        names = [examples.class_names[index] for index in (np.flatnonzero(label) if label.ndim else [label])]
        shown = [printable(name) for name in names]
        shown = shown if label.ndim else shown[0]
    return {**_name(bytes(examples.names[row])), "label": shown, "split": SPLITS[split[row]]}


def _classes(examples: Examples, rows: np.ndarray) -> list:
    labels = examples.labels[rows]
    if examples.task == "regression":
        if not len(rows):
            return [None] * len(examples.class_names)
        columns = labels.astype(np.float64).T
        return [{"min": column.min(), "mean": column.mean(), "max": column.max()} for column in columns]
    if labels.ndim == 2:
        return [int(count) for count in labels.sum(axis=0)]
    return np.bincount(labels, minlength=len(examples.class_names)).tolist()


def _sizes(sizes: np.ndarray) -> dict:
    known = sizes[(sizes > 0).all(axis=1)].astype(np.float64)
    measures = {"height": known[:, 0], "width": known[:, 1], "aspect": known[:, 1] / known[:, 0]}
    described = {
        name: {"min": float(values.min()), "median": float(np.median(values)), "max": float(values.max())}
        for name, values in measures.items()
        if len(values)
    }
    return {**described, "unknown": len(sizes) - len(known)}


def _misnamed(examples: Examples, split: np.ndarray, findings: Findings, rows: np.ndarray) -> dict:
    def differs(row: int) -> bool:
        suffix = os.path.splitext(os.fsdecode(bytes(examples.names[row])))[1].lower()
        content = FORMATS[findings.formats[row]]
        return content in SUFFIXES.values() and SUFFIXES.get(suffix, content) != content

    found = [row for row in rows.tolist() if differs(row)]
    listed = [{**_image(examples, split, row), "content": FORMATS[findings.formats[row]]} for row in found[:LISTED]]
    return {"count": len(found), "listed": listed}


class _Copies:
    """The good images by content: rows of equal bytes make a group.

    Of G groups: `first` is the first row of each, `splits` has a bit for every split it is in, `lowest` and `highest`
    are the extremes of numbers that stand for its labels.
    """

    def __init__(self, examples: Examples, split: np.ndarray, findings: Findings, rows: np.ndarray):
        self._examples, self._split, self._rows = examples, split, rows
        _, first, self._group, self._counts = np.unique(
            findings.digests[rows], return_index=True, return_inverse=True, return_counts=True
        )
        labels = np.unique(examples.labels[rows], axis=0, return_inverse=True)[1].ravel()
        count = len(first)
        self._first = rows[first]
        self._splits = np.zeros(count, np.uint8)
        np.bitwise_or.at(self._splits, self._group, np.uint8(1) << split[rows].astype(np.uint8))
        self._lowest, self._highest = np.full(count, len(rows)), np.full(count, -1)
        np.minimum.at(self._lowest, self._group, labels)
        np.maximum.at(self._highest, self._group, labels)

    def groups(self) -> dict:
        """Groups of more than one image."""
        several = np.flatnonzero(self._counts > 1)
        across = np.bitwise_count(self._splits[several]) > 1
        conflicting = self._lowest[several] < self._highest[several]
        order = np.lexsort((self._first[several], ~across, ~conflicting))
        members = np.argsort(self._group, kind="stable")
        starts = np.cumsum(self._counts) - self._counts
        listed = []
        for place in order[:LISTED]:
            group = several[place]
            rows = self._rows[members[starts[group] : starts[group] + self._counts[group]]]
            listed.append(self._entry(rows, across[place], conflicting[place]))
        return {
            "groups": len(several),
            "surplus": int((self._counts - 1).sum()),
            "across": int(across.sum()),
            "conflicting": int(conflicting.sum()),
            "listed": listed,
        }

    def near(self, findings: Findings) -> dict:
        """Pairs of groups that look alike."""
        groups = np.flatnonzero(findings.fingerprinted[self._first])
        rows = self._first[groups]
        pairs = fingerprints.near_pairs(findings.codes[rows], findings.coefficients[rows])
        left, right = groups[pairs.rows].T
        across = np.bitwise_count(self._splits[left] | self._splits[right]) > 1
        lowest = np.minimum(self._lowest[left], self._lowest[right])
        conflicting = lowest < np.maximum(self._highest[left], self._highest[right])
        order = np.lexsort((self._first[right], self._first[left], -pairs.similarities, ~across, ~conflicting))
        listed = [
            {
                **self._entry(self._first[[left[place], right[place]]], across[place], conflicting[place]),
                "distance": int(pairs.distances[place]),
                "similarity": round(float(pairs.similarities[place]), 4),
            }
            for place in order[:LISTED]
        ]
        return {
            "distance": fingerprints.DISTANCE,
            "similarity": fingerprints.SIMILARITY,
            "pairs": len(left),
            "across": int(across.sum()),
            "conflicting": int(conflicting.sum()),
            "crowded": pairs.crowded,
            "cut_short": pairs.cut_short,
            "listed": listed,
        }

    def _entry(self, rows: np.ndarray, across: np.bool_, conflicting: np.bool_) -> dict:
        images = [_image(self._examples, self._split, row) for row in sorted(rows.tolist())]
        return {"images": images, "across": bool(across), "conflicting": bool(conflicting)}
