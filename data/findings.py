"""What an audit finds of each image, noted in a journal so that no image is looked at twice."""

import base64
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.fingerprints import FREQUENCIES
from data.inspection import DIGEST_BYTES

# Kinds of content; the first where nobody knows.
FORMATS = ("", "JPEG", "PNG", "GIF", "BMP", "WEBP", "array")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found of one image.

    Attributes:
        name, file_size, file_time, reason, orientation: as in `data.inspection.Sight`.
        digest: 32 hexadecimal digits.
        height, width: of the image at its full size, the right way up; 0 where its header does not tell Pillow.
        format: one of FORMATS.
        grey: whether red, green and blue are equal in every pixel.
        code, coefficients: see `data.fingerprints`; None where there is no fingerprint.
    """

    name: bytes
    file_size: int = 0
    file_time: int = 0
    reason: str = ""
    digest: str = "00" * DIGEST_BYTES
    orientation: int = 1
    height: int = 0
    width: int = 0
    format: str = ""
    grey: bool = False
    code: int | None = None
    coefficients: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
    """The findings of N images as columns.

    Attributes:
        reasons: row -> why the image is bad; rows that are not in it are good.
        file_sizes: [N] int64, bytes.
        digests: [N] 16 bytes each.
        orientations: [N] int8.
        sizes: [N, 2] int32, height and width.
        formats: [N] int8, index into FORMATS.
        grey, fingerprinted: [N] bool.
        codes: [N] uint64.
        coefficients: [N, 64] int8.
    """

    reasons: dict[int, str]
    file_sizes: np.ndarray
    digests: np.ndarray
    orientations: np.ndarray
    sizes: np.ndarray
    formats: np.ndarray
    grey: np.ndarray
    fingerprinted: np.ndarray
    codes: np.ndarray
    coefficients: np.ndarray


class Journal:
    """Findings in a file, one JSON object a line, only ever added to. Of several on one image the last one counts.

    Args:
        path: the file.
        facts: what the findings depend on. A journal of other facts starts over.

    Lines that cannot be read, such as one that was being written when the process was killed, count as not there.
    """

    def __init__(self, path: Path, facts: dict):
        self.path = path
        self._header = json.dumps({"audit": 1, **facts}, sort_keys=True)
        whole = self._is_ours()
        self._file = open(path, "a" if whole else "w", encoding="utf-8")  # noqa: SIM115, `close` closes it
        # A torn last line must not take the next one with it.
        self._file.write("\n" if whole else self._header + "\n")
        self._file.flush()

    def _is_ours(self) -> bool:
        try:
            with open(self.path, encoding="utf-8", errors="replace") as file:
                return file.readline().rstrip("\n") == self._header
        except FileNotFoundError:
            return False

    def append(self, finding: Finding) -> None:
        """Notes one image; it stays noted when the process is killed."""
        line = dataclasses.asdict(finding)
        line["name"] = os.fsdecode(finding.name)
        if finding.coefficients is not None:
            line["coefficients"] = base64.b64encode(finding.coefficients.tobytes()).decode()
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def __iter__(self) -> Iterator[Finding]:
        """The findings in the order in which they were noted."""
        with open(self.path, encoding="utf-8", errors="replace") as file:
            for text in file:
                try:
                    line = json.loads(text)
                    line["name"] = os.fsencode(line["name"])
                    if line["coefficients"] is not None:
                        values = np.frombuffer(base64.b64decode(line["coefficients"]), np.int8)
                        line["coefficients"] = values.reshape(FREQUENCIES**2)
                    yield Finding(**line)
                except (ValueError, KeyError, TypeError):
                    continue

    def good(self) -> dict[bytes, tuple[int, int]]:
        """Name -> size and time of the file, of the images that were good; bad ones are worth another look."""
        known = {}
        for finding in self:
            known.pop(finding.name, None)
            if not finding.reason:
                known[finding.name] = finding.file_size, finding.file_time
        return known

    def columns(self, names: np.ndarray) -> Findings:
        """The findings of these images, all of which were looked at."""
        count, rows = len(names), {name: row for row, name in enumerate(names.tolist())}
        findings = Findings(
            reasons={},
            file_sizes=np.zeros(count, np.int64),
            digests=np.zeros(count, f"S{DIGEST_BYTES}"),
            orientations=np.ones(count, np.int8),
            sizes=np.zeros((count, 2), np.int32),
            formats=np.zeros(count, np.int8),
            grey=np.zeros(count, bool),
            fingerprinted=np.zeros(count, bool),
            codes=np.zeros(count, np.uint64),
            coefficients=np.zeros((count, FREQUENCIES**2), np.int8),
        )
        for finding in self:
            row = rows.get(finding.name)
            if row is None:
                continue
            findings.reasons.pop(row, None)
            if finding.reason:
                findings.reasons[row] = finding.reason
            findings.file_sizes[row] = finding.file_size
            findings.digests[row] = bytes.fromhex(finding.digest)
            findings.orientations[row] = finding.orientation
            findings.sizes[row] = finding.height, finding.width
            findings.formats[row] = FORMATS.index(finding.format)
            findings.grey[row] = finding.grey
            findings.fingerprinted[row] = finding.code is not None
            if finding.code is not None:
                findings.codes[row] = finding.code
                findings.coefficients[row] = finding.coefficients
        return findings

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
