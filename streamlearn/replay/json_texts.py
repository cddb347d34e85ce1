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
        lines = enumerate((line.removeprefix(_MARK) for line in text.split(b"\n")), number + 1)
        yield [(line_number, line) for line_number, line in lines if line and not line.isspace()]
        number += text.count(b"\n")


# --- an array, or values one after another ----------------------------------------------------------------


class _Scan:
    """Position in the reading of elements: `_text` from the last boundary on, of which `_read` bytes were
    looked at, to this `_depth`. `_complete`: the element has ended, and a comma or the end must follow.
    `_closed`: the array has ended.
    """

    def __init__(self, name: str, array: bool) -> None:
        self._name = name
        self._array = array
        self._text = b""
        self._read = 0
        self._depth = 0
        self._complete = False
        self._closed = False
        self._count = 0

    def feed(self, piece: bytes) -> Texts:
        """The elements that end in what has arrived. Raises `ConfigError`."""
        self._text += piece
        elements: Texts = []
        cut, end = 0, len(self._text)
        for token in _TOKEN.finditer(self._text, self._read):
            if token[0] == b'"':  # a text that goes on
                end = token.start()
                break
            if self._closed:
                self._fail("goes on after the end of its array")
            text = self._element(token, cut)
            if text is None:
                continue
            cut = token.end()
            if text:
                self._count += 1
                elements.append((self._count, _FOLD.sub(b"", text)))
        self._text = self._text[cut:]
        self._read = end - cut
        if len(self._text) > MAX_LINE_BYTES:
            self._fail(
                f"has an element of more than {MAX_LINE_BYTES:,} bytes: is the array inside an object?"
            )
        return elements

    def _element(self, token: re.Match[bytes], cut: int) -> bytes | None:
        """The text since `cut` up to a boundary, empty where no element ends there; None for no boundary."""
        sign = token[0]
        if sign in b"{[":
            if self._array and self._complete and not self._depth:
                self._fail(f"has {sign!r} where a comma should stand, or its end")
            self._depth += 1
        elif sign in b"}]" and self._depth:
            self._depth -= 1
            if not self._depth:
                self._complete = True
                return self._text[cut : token.end()].strip()
        elif not self._depth and sign in b",]}":
            return self._before_separator(sign, self._text[cut : token.start()].strip())
        return None

    def _before_separator(self, sign: bytes, text: bytes) -> bytes:
        """The element before a comma or the end of the array, which is no object and no array."""
        if not self._array or sign == b"}" or (self._complete and text):
            self._fail(f"has {(text or sign)[:20]!r} where a comma should stand, or its end")
        self._complete, self._closed = False, sign == b"]"
        return text

    def finish(self) -> None:
        """Raises `ConfigError` where the file ends too soon."""
        if self._depth or (self._array and not self._closed):
            self._fail("ends inside of it: it was cut short, or is no JSON")
        if self._text.strip():
            self._fail(f"has {self._text.strip()[:20]!r} after its end")

    def _fail(self, problem: str) -> None:
        kind = "a JSON array" if self._array else "JSON objects over several lines"
        raise ConfigError(
            f"{shown(self._name)} is {kind}, and after element {self._count:,} it {problem}; write one object"
            f" a line with jq -c '{'.[]' if self._array else '.'}' {self._name}"
        )


def _elements(name: str, pieces: Iterator[bytes], array: bool) -> Iterator[Texts]:
    scan = _Scan(name, array)
    first = next(pieces)
    for piece in itertools.chain([first[1:] if array else first], pieces):
        if group := scan.feed(piece):
            if group[0][0] == 1:
                _check_first(name, group[0][1], array)
            yield group
    scan.finish()


def _check_first(name: str, text: bytes, array: bool) -> None:
    """Refuse an object that is no record, but the wrapping of all of them. Raises `ConfigError`."""
    try:
        doc = orjson.loads(text)
    except orjson.JSONDecodeError:
        return
    if array or not isinstance(doc, dict):
        return
    for member, value in doc.items():
        if isinstance(value, list) and len(value) > 1 and all(isinstance(item, dict) for item in value):
            quoted = orjson.dumps(member).decode()
            raise ConfigError(
                f"{shown(name)} is one JSON object, and its member {member!r} holds {len(value):,} objects:"
                f" if those are the records, write them one a line: jq -c '.[{quoted}][]' {name} > rows.jsonl"
            )
