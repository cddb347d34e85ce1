"""JSON lines: sent as they stand, or, when something is said about columns, read as rows of a table.

A JSON file holds its records as lines, as the elements of its one array, or as values one after another. The
beginning decides: `[` that is no line of its own opens an array, `{` alone on a line an object over several
lines. Everything else are lines.

Invariants:
- A plain line is sent byte for byte, but for a byte order mark before it, also when it is not JSON: a replay
  tests the service, it does not protect it. A blank line is no record. A line of `record` is sent as the
  record it was made from.
- An element is given as it stands, in one line. No more than one element is held, of bounded size.
- `key` and event time are only looked at: the key becomes the record's, the time paces.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from streamlearn.core.events.paths import optional
from streamlearn.core.records import Record
from streamlearn.errors import ConfigError
from streamlearn.history.formats import record_json
from streamlearn.history.formats.column_mapping import (
    ColumnMapping,
    SourceRecord,
    TableEncoder,
    event_time_s,
    listed,
)
from streamlearn.history.formats.files import MAX_LINE_BYTES, check_text, chunks, shown, whole_lines
from streamlearn.log.port import ProducerRecord

_ROWS = 1000

Texts = list[tuple[int, bytes]]
"""Texts with their numbers, counted from 1: of lines (as an editor shows them) or of elements."""

_ENOUGH_BYTES = 4096
_MARK = b"\xef\xbb\xbf"
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],"]', re.DOTALL)
_FOLD = re.compile(rb"[ \t]*[\r\n]\s*")


class EventPaths(NamedTuple):
    """Paths at which an event's value holds its parts (`[event]` of the configuration): paths."""

    key: str
    time: str
    time_unit: str
    id: str = "id"
    label: str = "label"
    features: str = "features"


def records(name: str, paths: EventPaths) -> Iterator[SourceRecord | None]:
    """The lines as they stand, or the elements of an array; blank lines are no records."""
    for group in texts(name):
        for number, text in group:
            row, time_s = record_row(text, paths)
            yield SourceRecord(row, time_s, f"{shown(name)} row {number}", number)
        if name == "-":  # after blank lines, too: they end what a pipe has sent
            yield None


def topic_records(name: str, records: Iterable[Record], paths: EventPaths) -> Iterator[SourceRecord]:
    """Records of a topic: key, value, headers and, where it exists, partition are kept."""
    for record in records:
        row, time_s = _kept_row(record, paths)
        yield SourceRecord(row, time_s, f"{name} row {record.offset}", record.offset)


def record_row(text: bytes, paths: EventPaths) -> tuple[ProducerRecord, float | None]:
    """The row to send for a line, and its event time."""
    if record := record_json.parse(text):
        return _kept_row(record, paths)
    key, time_s = key_and_time(text, paths)
    return ProducerRecord(key, text), time_s


def _kept_row(record: Record, paths: EventPaths) -> tuple[ProducerRecord, float | None]:
    time_s = key_and_time(record.value or b"", paths)[1]
    row = ProducerRecord(record.key, record.value, record.headers, record.partition)
    return row, record.timestamp_ms / 1000 if time_s is None else time_s


def key_and_time(value: bytes, paths: EventPaths) -> tuple[bytes | None, float | None]:
    """The event's key and time, as far as the value has them."""
    try:
        event = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None, None
    if not isinstance(event, dict):
        return None, None
    key, ts = optional(paths.key)(event), optional(paths.time)(event)
    return key_bytes(key), event_time_s(ts, paths.time_unit)


def key_bytes(key: Any) -> bytes | None:
    """The key of a record for the member of its event that is the key."""
    return None if key is None else key.encode() if isinstance(key, str) else orjson.dumps(key)


# --- lines as rows of a table -------------------------------------------------------------------------


NumberedObject = tuple[int, Mapping[str, Any]]


def objects(name: str) -> Iterator[list[NumberedObject]]:
    """The lines (or elements) as objects with their numbers. Raises `ConfigError` at one that is none."""
    for group in texts(name):
        rows = [(number, _object(name, number, text)) for number, text in group]
        for first in range(0, len(rows), _ROWS):
            yield rows[first : first + _ROWS]


def record_objects(topic: str, records: Iterable[Record]) -> Iterator[list[NumberedObject]]:
    """The values of records as objects, with their offsets; tombstones are left out."""
    rows = (
        (record.offset, _object(topic, record.offset, record.value))
        for record in records
        if record.value is not None
    )
    while group := list(itertools.islice(rows, _ROWS)):
        yield group


def _object(name: str, number: int, text: bytes) -> Mapping[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ConfigError(
            f"{shown(name)} row {number} is not JSON ({error}): options about columns need JSON objects, one"
            " a line; correct the line, or read another format with --format csv"
        ) from None
    if not isinstance(value, dict):
        raise ConfigError(f"{shown(name)} row {number} is JSON but no object: a row is an object, one a line")
    return value


def table(
    source: str,
    groups: Iterable[list[NumberedObject]],
    mapping: ColumnMapping,
    numbered: int,
    pause: bool = False,
) -> Iterator[SourceRecord | None]:
    """Rows given as objects, as events. Names may be dotted paths; a column that no row of the first group
    has is an error, a later row may lack any. `pause`: None after each group.
    """
    named = [*mapping.roles.named(), *mapping.types]
    dotted = [name for name in named if "." in name]
    encoders: dict[tuple[str, ...], TableEncoder] = {}
    for group in groups:
        rows = [_flat(row, dotted) for _, row in group]
        present = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
        if not encoders:
            _check_columns(source, rows, present, named, mapping.roles.label if pause else "")
        names = tuple(dict.fromkeys([*present, *named]))
        if names not in encoders:
            encoders = {names: TableEncoder(shown(source), names, mapping, text=False)}
        for (number, _), row in zip(group, rows, strict=True):
            yield encoders[names].record(list(map(row.get, names)), number, numbered)
            numbered += 1
        if pause:
            yield None


def _check_columns(
    source: str, rows: list[Mapping[str, Any]], present: list[str], named: list[str], optional_column: str
) -> None:
    for name in named:
        if name not in present and name != optional_column:
            hint = _inside(rows, name) or listed(present, name)
            raise ConfigError(f"{shown(source)} has no column {name!r}; {hint}")


def _inside(rows: list[Mapping[str, Any]], name: str) -> str:
    """A hint for a message: the object that has a name which is no column; "" where none has."""
    for row in rows:
        for member, value in row.items():
            if isinstance(value, dict) and name in value:
                if member == "features":
                    return (
                        "it stands inside 'features', so these are whole events: leave out the options about"
                        f' columns, and declare types in the configuration, like [event] types = {{"{name}" ='
                        ' "str"}'
                    )
                return f"it stands inside {member!r}: write {member}.{name}"
    return ""


def _flat(row: Mapping[str, Any], dotted: list[str]) -> Mapping[str, Any]:
    """The row with the members that dotted paths name beside the others."""
    if not dotted:
        return row
    flat = dict(row)
    for path in dotted:
        if path not in row and (value := optional(path)(row)) is not None:
            flat[path] = value
    return flat


# --- the texts of a file ------------------------------------------------------------------------------


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
        yield from _line_texts(name, itertools.chain([head], pieces))


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


def _line_texts(name: str, pieces: Iterator[bytes]) -> Iterator[Texts]:
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
