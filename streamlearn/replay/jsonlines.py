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
from streamlearn.replay.mapping import Batch, Layout, Meaning, listed, time_of

_ROWS = 1000


class Members(NamedTuple):
    """Paths at which an event's value holds its parts (`[event]` of the configuration): paths."""

    key: str
    time: str
    time_unit: str
    id: str = "id"
    label: str = "label"
    features: str = "features"


def batches(name: str, members: Members) -> Iterator[Batch]:
    """The lines as they stand, or the elements of an array; blank lines are no records."""
    for found in texts(name):
        for at in range(0, max(1, len(found)), _ROWS):  # of blank lines, too: they end what a pipe has sent
            some = found[at : at + _ROWS]
            yield _batch([record_row(text, members) for _, text in some], [n for n, _ in some], name == "-")


def recorded(records: Iterable[Record], members: Members) -> Iterator[Batch]:
    """Records of a topic: key, value, headers and, where it exists, partition are kept."""
    offset_rows = ((record.offset, _recorded(record, members)) for record in records)
    while some := list(itertools.islice(offset_rows, _ROWS)):
        yield _batch([row for _, row in some], [offset for offset, _ in some])


def _batch(found: list[tuple[Row, float | None]], places: list[int], pause: bool = False) -> Batch:
    return Batch([row for row, _ in found], [time_s for _, time_s in found], places, pause)


def record_row(text: bytes, members: Members) -> tuple[Row, float | None]:
    """The row to send for a line, and its event time."""
    if record := lines.parse(text):
        return _recorded(record, members)
    key, time_s = look(text, members)
    return Row(key, text), time_s


def _recorded(record: Record, members: Members) -> tuple[Row, float | None]:
    time_s = look(record.value or b"", members)[1]
    row = Row(record.key, record.value, record.headers, record.partition)
    return row, record.timestamp_ms / 1000 if time_s is None else time_s


def look(value: bytes, members: Members) -> tuple[bytes | None, float | None]:
    """The event's key and time, as far as the value has them."""
    try:
        event = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None, None
    if not isinstance(event, dict):
        return None, None
    key, ts = optional(members.key)(event), optional(members.time)(event)
    return key_bytes(key), time_of(ts, members.time_unit)


def key_bytes(key: Any) -> bytes | None:
    """The key of a record for the member of its event that is the key."""
    return None if key is None else key.encode() if isinstance(key, str) else orjson.dumps(key)


# --- lines as rows of a table -------------------------------------------------------------------------


def objects(name: str) -> Iterator[list[tuple[int, Mapping[str, Any]]]]:
    """The lines (or elements) as objects with their numbers. Raises `ConfigError` at one that is none."""
    for found in texts(name):
        rows = [(at, _object(name, at, text)) for at, text in found]
        for at in range(0, len(rows), _ROWS):
            yield rows[at : at + _ROWS]


def record_objects(topic: str, records: Iterable[Record]) -> Iterator[list[tuple[int, Mapping[str, Any]]]]:
    """The values of records as objects, with their offsets; tombstones are left out."""
    rows = ((one.offset, _object(topic, one.offset, one.value)) for one in records if one.value is not None)
    while some := list(itertools.islice(rows, _ROWS)):
        yield some


def _object(name: str, at: int, text: bytes) -> Mapping[str, Any]:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ConfigError(
            f"{shown(name)} row {at} is not JSON ({error}): options about columns need JSON objects, one a"
            " line; correct the line, or read another format with --format csv"
        ) from None
    if not isinstance(found, dict):
        raise ConfigError(f"{shown(name)} row {at} is JSON but no object: a row is an object, one a line")
    return found


def table(
    source: str,
    groups: Iterable[list[tuple[int, Mapping[str, Any]]]],
    meaning: Meaning,
    numbered: int,
    pause: bool = False,
) -> Iterator[Batch]:
    """Rows given as objects, as events. Names may be dotted paths; a column that no row of the first group
    has is an error, a later row may lack any.
    """
    wanted = [*meaning.roles.named(), *meaning.types]
    dotted = [name for name in wanted if "." in name]
    layouts: dict[tuple[str, ...], Layout] = {}
    first = True
    for group in groups:
        rows = [_flat(row, dotted) for _, row in group]
        present = list(dict.fromkeys(name for row in rows for name in row))
        if first:
            for name in wanted:
                if name not in present and not (pause and name == meaning.roles.label):
                    found = _inside(rows, name) or listed(present, name)
                    raise ConfigError(f"{shown(source)} has no column {name!r}; {found}")
        first = False
        names = tuple(dict.fromkeys([*present, *wanted]))
        layout = layouts.get(names)
        if layout is None:
            layouts = {names: Layout(shown(source), names, meaning, text=False)}
            layout = layouts[names]
        layout.begin(numbered)
        numbered += len(rows)
        yield layout.batch(
            [[row.get(name) for row in rows] for name in names], [at for at, _ in group], pause
        )


def _inside(rows: list[Mapping[str, Any]], name: str) -> str:
    """Where a name stands that is no column, and what to do, for a message; "" where it is nowhere."""
    for row in rows:
        for member, part in row.items():
            if isinstance(part, dict) and name in part:
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
    found = dict(row)
    for path in dotted:
        if path not in row and (value := optional(path)(row)) is not None:
            found[path] = value
    return found
