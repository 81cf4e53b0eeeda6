"""Random damage to texts and files: what a tired hand, another program or a bad disk does to them."""

import copy
import json
import random
import re
from collections.abc import Callable

# Of no type or size that anybody asked for. Nothing in here names a module or file that is there.
ODD = (
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xe2\x80\xae", "é€😀".encode(), b"\\ud800", b"\r", b"\x1b[31m", b"\n\n",
    b"9" * 400, b"9" * 5000, b"1e999", b"-1e999", b"1e-400", b"NaN", b"-Infinity", b"None", b"-1", b"0", b"2**70",
    b"1j", b"[" * 300, b"{" * 300, b"[" * 100_000, b"(", b")", b"'", b'"', b'"""', b"\\", b"%", b"@", b"#", b"=", b"/",
    b".", b",", b"\nimport nothing_of_this_name\n", b"\nfrom nothing import of_this_name\n",
    b"\ninclude 'nowhere.gin'\n", b"\ninclude 7\n",
    b"@nothing()", b"%nothing", b"@model()", b"@nothing/stage", b"lambda: 0", b"__import__('os')",
    b"true", b"null", b"b'x'", b"{'a': [1]}", b"{'a': 1}", b"(1, 'epochs')", b"(-3, 'steps')", b"(0.5, 'hours')", b"''",
)  # fmt: skip
VALUES = (
    None, True, False, 0, -1, 3, 1.5, -0.0, 1e300, 10**30, float("nan"), float("inf"), "", "x", "\x00", "\ud800",
    "../../x", "é" * 300, "9" * 5000, [], [1], ["x"], [[]], {}, {"x": 1}, {"event": "eval"}, [None] * 3, [[[[[[]]]]]],
)  # fmt: skip
WORD = re.compile(rb"[A-Za-z_]\w*")
LITERAL = re.compile(rb"-?\d[\d.e+-]*|'[^'\n]*'|\"[^\"\n]*\"|[A-Za-z_]\w*\(\)|@[\w/.]+|%\w+|\([^()\n]*\)")


def bytes_of(content: bytes, draw: random.Random) -> bytes:
    """One to three edits that know nothing of what the content means."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        content = draw.choice(BLIND)(content, draw)
    return content


def text(content: bytes, draw: random.Random) -> bytes:
    """One to three edits of lines, words and values."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        content = draw.choice((*BLIND, *WORDY, *WORDY))(content, draw)
    return content


def document(content: bytes, draw: random.Random) -> bytes:
    """Likewise of a JSON document: often of its values, which then are of other types, gone or elsewhere."""
    if draw.random() < 0.5:
        return text(content, draw)
    value = json.loads(content)
    for _ in range(draw.choice((1, 1, 2))):
        value = _other(value, draw)
    return json.dumps(value).encode()


def lines(content: bytes, draw: random.Random) -> bytes:
    """Likewise of JSON lines."""
    if draw.random() < 0.3:
        return text(content, draw)
    rows = content.splitlines(keepends=True)
    for _ in range(draw.choice((1, 1, 2, 3))):
        index = draw.randrange(len(rows))
        rows[index] = json.dumps(_other(json.loads(rows[index]), draw)).encode() + b"\n"
    return b"".join(rows)


def _other(value: object, draw: random.Random) -> object:
    places = list(_places(value, ()))
    where = draw.choice(places)
    if not where or draw.random() < 0.05:
        return copy.deepcopy(draw.choice(VALUES))
    *way, last = where
    inner = value
    for key in way:
        inner = inner[key]
    kind = draw.randrange(4)
    if kind == 0:
        del inner[last]
    elif kind == 1 and isinstance(inner, dict):
        inner[draw.choice((f"{last}s", last[1:], last.upper(), ""))] = inner.pop(last)
    elif kind == 2:
        inner[last] = _at(value, draw.choice(places))
        return json.loads(json.dumps(value))
    else:
        inner[last] = copy.deepcopy(draw.choice(VALUES))
    return value


def _places(value: object, way: tuple) -> list[tuple]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way, *(place for key, each in inner for place in _places(each, (*way, key)))]


def _at(value: object, way: tuple) -> object:
    for key in way:
        value = value[key]
    return json.loads(json.dumps(value))


def _flip(content: bytes, draw: random.Random) -> bytes:
    if not content:
        return b"\x00"
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ draw.randrange(1, 256)]) + content[at + 1 :]


def _slice(content: bytes, draw: random.Random) -> tuple[int, int]:
    start = draw.randrange(len(content) + 1)
    return start, min(len(content), start + int(draw.choice((1, 4, 30, 300)) * draw.random()) + 1)


def _delete(content: bytes, draw: random.Random) -> bytes:
    start, stop = _slice(content, draw)
    return content[:start] + content[stop:]


def _double(content: bytes, draw: random.Random) -> bytes:
    start, stop = _slice(content, draw)
    return content[:stop] + content[start:]


def _truncate(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def _insert(content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content) + 1)
    return content[:at] + draw.choice(ODD) + content[at:]


def _of_lines(change: Callable[[list[bytes], random.Random], None]) -> Callable[[bytes, random.Random], bytes]:
    def changed(content: bytes, draw: random.Random) -> bytes:
        rows = content.splitlines(keepends=True)
        if rows:
            change(rows, draw)
        return b"".join(rows)

    return changed


def _swap(rows: list[bytes], draw: random.Random) -> None:
    one, other = draw.randrange(len(rows)), draw.randrange(len(rows))
    rows[one], rows[other] = rows[other], rows[one]


def _repeat(rows: list[bytes], draw: random.Random) -> None:
    rows.insert(draw.randrange(len(rows)), draw.choice(rows))


def _drop(rows: list[bytes], draw: random.Random) -> None:
    del rows[draw.randrange(len(rows))]


def _misspell(content: bytes, draw: random.Random) -> bytes:
    words = list(WORD.finditer(content))
    if not words:
        return _insert(content, draw)
    found = draw.choice(words)
    word = found[0]
    at = draw.randrange(len(word))
    twice = word[: at + 1] + word[at:]
    wrong = draw.choice((word[:at] + word[at + 1 :], twice, word.swapcase(), word + b"s"))
    return content[: found.start()] + wrong + content[found.end() :]


def _revalue(content: bytes, draw: random.Random) -> bytes:
    """A value becomes an odd one, or another value of the same text."""
    values = list(LITERAL.finditer(content))
    if not values:
        return _insert(content, draw)
    found = draw.choice(values)
    other = draw.choice((draw.choice(values)[0], draw.choice(ODD)))
    return content[: found.start()] + other + content[found.end() :]


BLIND = (_flip, _delete, _double, _truncate, _insert)
WORDY = (_of_lines(_swap), _of_lines(_repeat), _of_lines(_drop), _misspell, _revalue, _revalue, _revalue)
