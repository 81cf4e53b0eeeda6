"""Names of files and classes: their natural order, and how they are shown whatever bytes they hold."""

import os
import re

# A folder that holds this file is the workdir of a session, not a class of images.
SESSION_LOCK = "onward.lock"
# Likewise of a store.
STORE_LOCK = "store.lock"


def natural(name: str) -> tuple[list, str]:
    """Sort key that puts `class9` before `class10`."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


def printable(name: bytes | str) -> str:
    """One line for people: bytes that are no UTF-8, line breaks and control characters are escaped."""
    return "".join(character if character.isprintable() else _escaped(character) for character in os.fsdecode(name))


def _escaped(character: str) -> str:
    if 0xDC80 <= ord(character) <= 0xDCFF:  # A byte that is no UTF-8, as `os.fsdecode` keeps it.
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape", "backslashreplace").decode()
