"""JSON lines: sent as they stand, or, when something is said about columns, read as rows of a table.

Invariants:
- A plain line is sent byte for byte, also when it is not JSON: a replay tests the service, it does not
  protect it. A line of `record` is sent as the record it was made from.
- `key` and event time are only looked at: the key becomes the record's, the time paces.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from streamlearn.core.paths import optional
from streamlearn.core.records import Record
from streamlearn.errors import ConfigError
from streamlearn.log.port import Row
from streamlearn.replay import lines
from streamlearn.replay.files import shown
from streamlearn.replay.json_texts import texts
from streamlearn.replay.mapping import ColumnMapping, SourceRecord, TableEncoder, event_time_s, listed

_ROWS = 1000


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


def record_row(text: bytes, paths: EventPaths) -> tuple[Row, float | None]:
    """The row to send for a line, and its event time."""
    if record := lines.parse(text):
        return _kept_row(record, paths)
    key, time_s = key_and_time(text, paths)
    return Row(key, text), time_s


def _kept_row(record: Record, paths: EventPaths) -> tuple[Row, float | None]:
    time_s = key_and_time(record.value or b"", paths)[1]
    row = Row(record.key, record.value, record.headers, record.partition)
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
            yield encoders[names].record([row.get(name) for name in names], number, numbered)
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
