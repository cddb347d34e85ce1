"""The texts of a JSON file's records: its lines, the elements of its one array, or values one after another.

Which of them it is decides its beginning: `[` that is no line of its own opens an array, `{` alone on a line
an object over several lines. Everything else are lines.

Invariants:
- A line is given byte for byte, but for a byte order mark before it; a blank one is no record.
- An element is given as it stands, in one line. No more than one element is held, of bounded size.
"""

import itertools
import re
from collections.abc import Iterator

import orjson

from streamlearn.errors import ConfigError
from streamlearn.replay.files import MAX_LINE_BYTES, check_text, chunks, shown, whole_lines

Texts = list[tuple[int, bytes]]
"""Texts with their numbers, counted from 1: of lines (as an editor shows them) or of elements."""

_ENOUGH_BYTES = 4096
_MARK = b"\xef\xbb\xbf"
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],"]', re.DOTALL)
_FOLD = re.compile(rb"[ \t]*[\r\n]\s*")


def texts(name: str) -> Iterator[Texts]:
    """The records' texts in groups, each given as soon as it has arrived. Raises `ConfigError`."""
    pieces = chunks(name)
    head = _head(pieces)
    check_text(name, head)
    line, ended, rest = head.removeprefix(_MARK).lstrip().partition(b"\n")
    begun = itertools.chain([line + ended + rest], pieces)
    if line.startswith(b"[") and not _is_a_line(line, rest):
        yield from _elements(name, begun, array=True)
    elif line.rstrip() == b"{":
        yield from _elements(name, begun, array=False)
    else:
        yield from _lines(name, itertools.chain([head], pieces))


def _head(pieces: Iterator[bytes]) -> bytes:
    """So many bytes that they tell what begins with them."""
    head = b""
    for piece in pieces:
        head += piece
        line, ended, _ = head.removeprefix(_MARK).lstrip().partition(b"\n")
        marked = _MARK.startswith(head)  # by as much of a mark as has arrived
        if not marked and line and (ended or line[:1] not in b"[{" or len(line) >= _ENOUGH_BYTES):
            break
    return head


def _is_a_line(line: bytes, rest: bytes) -> bool:
    """True if `[...]` is one of several lines, each with an array, and not all of the file."""
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return bool(rest.strip())


def _lines(name: str, pieces: Iterator[bytes]) -> Iterator[Texts]:
    number = 0
    for text in whole_lines(name, pieces):
        found = (line.removeprefix(_MARK) for line in text.split(b"\n"))
        yield [(at, line) for at, line in enumerate(found, number + 1) if line and not line.isspace()]
        number += text.count(b"\n")


# --- an array, or values one after another ----------------------------------------------------------------


class _Scan:
    """Where the reading of elements is: `text` from the last boundary on, of which `read` bytes were looked
    at, to this `depth`. `shut`: the element has ended, and a comma or the end must follow. `done`: after the
    array.
    """

    def __init__(self, name: str, array: bool) -> None:
        self.name = name
        self.array = array
        self.text = b""
        self.read = 0
        self.depth = 0
        self.shut = False
        self.done = False
        self.count = 0

    def feed(self, piece: bytes) -> Texts:
        """The elements that end in what has arrived. Raises `ConfigError`."""
        self.text += piece
        found: Texts = []
        cut, end = 0, len(self.text)
        for token in _TOKEN.finditer(self.text, self.read):
            sign = token[0]
            if sign == b'"':  # a text that goes on
                end = token.start()
                break
            if self.done:
                self._fail("goes on after the end of its array")
            if sign in b"{[":
                if self.array and self.shut and not self.depth:
                    self._fail(f"has {sign!r} where a comma should stand, or its end")
                self.depth += 1
            elif sign in b"}]" and self.depth:
                self.depth -= 1
                if not self.depth:
                    self._give(found, self.text[cut : token.end()])
                    cut, self.shut = token.end(), True
            elif not self.depth and sign in b",]}":
                between = self.text[cut : token.start()].strip()
                if not self.array or sign == b"}" or (self.shut and between):
                    self._fail(f"has {(between or sign)[:20]!r} where a comma should stand, or its end")
                if between:
                    self._give(found, between)
                cut, self.shut, self.done = token.end(), False, sign == b"]"
        self.text = self.text[cut:]
        self.read = end - cut
        if len(self.text) > MAX_LINE_BYTES:
            self._fail(
                f"has an element of more than {MAX_LINE_BYTES:,} bytes: is the array inside an object?"
            )
        return found

    def finish(self) -> None:
        """Raises `ConfigError` where the file ends too soon."""
        if self.depth or (self.array and not self.done):
            self._fail("ends inside of it: it was cut short, or is no JSON")
        if self.text.strip():
            self._fail(f"has {self.text.strip()[:20]!r} after its end")

    def _give(self, found: Texts, text: bytes) -> None:
        self.count += 1
        found.append((self.count, _FOLD.sub(b"", text.strip())))

    def _fail(self, what: str) -> None:
        kind = "a JSON array" if self.array else "JSON objects over several lines"
        raise ConfigError(
            f"{shown(self.name)} is {kind}, and after element {self.count:,} it {what}; write one object a"
            f" line with jq -c '{'.[]' if self.array else '.'}' {self.name}"
        )


def _elements(name: str, pieces: Iterator[bytes], array: bool) -> Iterator[Texts]:
    scan = _Scan(name, array)
    first = next(pieces)
    for piece in itertools.chain([first[1:] if array else first], pieces):
        if found := scan.feed(piece):
            if found[0][0] == 1:
                _check_first(name, found[0][1], array)
            yield found
    scan.finish()


def _check_first(name: str, text: bytes, array: bool) -> None:
    """Refuse an object that is no record, but the wrapping of all of them. Raises `ConfigError`."""
    try:
        doc = orjson.loads(text)
    except orjson.JSONDecodeError:
        return
    if array or not isinstance(doc, dict):
        return
    for member, part in doc.items():
        if isinstance(part, list) and len(part) > 1 and all(isinstance(one, dict) for one in part):
            quoted = orjson.dumps(member).decode()
            raise ConfigError(
                f"{shown(name)} is one JSON object, and its member {member!r} holds {len(part):,} objects: if"
                f" those are the records, write them one a line: jq -c '.[{quoted}][]' {name} > rows.jsonl"
            )
