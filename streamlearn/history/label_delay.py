"""Labels sent later and apart: taken out of the events, and merged with them by event time.

Invariants:
- A label goes out after its event, in the order of the times at which labels become known; none is lost,
  at the end of the stream those that are left go out too.
- Events lose their label member and are otherwise the same values.
- At most `MAX_WAITING` labels wait, and at most that many groups are remembered.
"""

import heapq
import json
import math
import re
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import UTC, timedelta
from typing import Any, NamedTuple

import orjson

from streamlearn.config.values import duration_s
from streamlearn.core.events.event import MS_PER_UNIT, calendar_time, likely_unit
from streamlearn.core.events.json_events import is_clean
from streamlearn.core.events.paths import optional, take
from streamlearn.errors import ConfigError
from streamlearn.history.formats.column_mapping import DUE, SourceRecord, event_time_s
from streamlearn.history.formats.jsonlines import EventPaths
from streamlearn.history.sources import ReadOptions, Source, limited
from streamlearn.log.port import ProducerRecord

MAX_WAITING = 1_000_000
_HUGE_INT = re.compile(rb"(?<!\d)\d{19}")  # the look behind: one try per number, not one per digit
_SYNTAX = (
    "write a duration like 5m, a number of events like 200, field:COLUMN (its time), or end-of:COLUMN (the "
    "group's last event)"
)


class Delay(NamedTuple):
    """When a label is known: `seconds` after the event, just before the event `events` places further, at the
    time in `field`, or at the end of `group`.
    """

    seconds: float = 0.0
    events: int = 0
    field: str = ""
    group: str = ""


class ScheduledRecord(NamedTuple):
    """A record in the order of sending; `is_label`: it goes to the topic of labels."""

    record: SourceRecord
    is_label: bool


class _Event(NamedTuple):
    """An event without its label, the members of its label's record (None without a label), and the time at
    which the label is due.
    """

    record: SourceRecord
    label: dict[str, Any] | None = None
    due_s: float = 0.0


def parse_delay(text: str) -> Delay:
    """The meaning of `--delay`. Raises `ConfigError`."""
    kind, _, column = text.partition(":")
    if column and kind in ("field", "end-of"):
        return Delay(field=column) if kind == "field" else Delay(group=column)
    if text.isascii() and text.isdigit() and int(text) <= MAX_WAITING:
        return Delay(events=int(text))
    try:
        return Delay(seconds=duration_s(text))
    except ValueError:
        raise ConfigError(f"--delay {text}: {_SYNTAX}") from None


def schedule(
    source: Source, options: ReadOptions, delay: Delay | None, limit: int | None
) -> Iterator[ScheduledRecord | None]:
    """The next pass of a source, at most `limit` events of it; with a delay their labels apart. None where
    nothing more has arrived yet.
    """
    if delay is not None:
        yield from LabelDelayer(delay, source, options).records(limit)
        return
    for record in limited(source.items(), limit):
        yield None if record is None else ScheduledRecord(record, False)


class LabelDelayer:
    """One pass of a source whose labels come later than their events, as records of their own."""

    def __init__(self, delay: Delay, source: Source, options: ReadOptions) -> None:
        self._delay = delay
        self._source = source
        plain = EventPaths("key", "ts", options.paths.time_unit)
        self._paths = plain if source.tabular else options.paths
        self._id_in, self._time_in = optional(self._paths.id), optional(self._paths.time)
        self._scans = bool(delay.group) and not source.once
        """The end of each group is looked for first; else each group must stand together."""
        self._last: dict[Any, int] = {}
        self._labels: dict[Any, Any] = {}
        self._closed: set[Any] = set()

    def records(self, limit: int | None) -> Iterator[ScheduledRecord | None]:
        """At most `limit` events, merged with their labels by the times at which these are known."""
        if self._scans:
            self._scan(limited(self._source.preview(), limit))
        records = limited(self._source.items(), limit)
        return self._by_count(records) if self._delay.events else self._by_time(records)

    def _scan(self, records: Iterable[SourceRecord | None]) -> None:
        """Find each group's last event and its label. Raises `ConfigError` when a group has two labels."""
        for number, record in enumerate(record for record in records if record is not None):
            doc = _object(record)
            if doc is not None:
                group = self._group(record, doc)
                self._last[group] = number
                self._keep_label(record, group, optional(self._paths.label)(doc))

    def _by_time(self, records: Iterable[SourceRecord | None]) -> Iterator[ScheduledRecord | None]:
        """Merge events and labels by availability time."""
        waiting: list[tuple[float, int, SourceRecord]] = []
        clock_s = -math.inf
        number = 0
        events = self._by_group(records) if self._delay.group else map(self._event, records)
        for event in events:
            if event is None:
                yield None
                continue
            time_s = event.record.time_s
            clock_s = clock_s if time_s is None else max(clock_s, time_s)
            yield from _due(waiting, -math.inf if time_s is None else time_s)
            yield ScheduledRecord(event.record, False)
            if event.label is None:
                continue
            due_s = max(event.due_s, clock_s)
            heapq.heappush(waiting, (due_s, number, _label_record(event.record, event.label, due_s)))
            number += 1
            if len(waiting) > MAX_WAITING:
                raise ConfigError(
                    f"{event.record.place}: more than {MAX_WAITING} labels wait for their time; shorten"
                    " --delay, or check its times"
                )
            yield from _due(waiting, clock_s)
        yield from _due(waiting, math.inf)

    def _by_count(self, records: Iterable[SourceRecord | None]) -> Iterator[ScheduledRecord | None]:
        """Each label just before the event that many places further, whatever the times say."""
        waiting: deque[tuple[SourceRecord, dict[str, Any]] | None] = deque()
        now: dict[str, Any] = {}
        for record in records:
            if record is None:
                yield None
                continue
            doc = _object(record)
            ts = None if doc is None else self._time_in(doc)
            now = {} if ts is None else {"ts": ts}
            if len(waiting) == self._delay.events and (due := waiting.popleft()) is not None:
                yield _scheduled_label(*due, now)
            event = self._counted(record, doc)
            waiting.append(None if event.label is None else (record, event.label))
            yield ScheduledRecord(event.record, False)
        yield from (_scheduled_label(*due, now) for due in waiting if due is not None)

    def _counted(self, record: SourceRecord, doc: dict[str, Any] | None) -> _Event:
        label = None if doc is None else take(doc, self._paths.label)
        if doc is None or label is None:
            return _Event(record)
        return _Event(_with(record, _dumped(doc)), {"id": self._id(record, doc), "label": label})

    def _event(self, record: SourceRecord | None) -> _Event | None:
        if record is None:
            return None
        doc = _object(record)
        if doc is None:
            return _Event(record)
        label, due = take(doc, self._paths.label), self._due_ts(doc)
        event = _with(record, _dumped(doc))
        if label is None:
            return _Event(event)
        ts, time_s = self._time(record, doc)
        if self._delay.field:
            if due is None:
                return _Event(event)  # it never becomes known
            due_s = event_time_s(due, self._paths.time_unit)
            if due_s is None:
                raise ConfigError(
                    f"{record.place}: {self._delay.field} is {due!r}, which is no time (--delay)"
                )
        else:
            due_s = time_s + self._delay.seconds
            due = later(ts, self._paths.time_unit, self._delay.seconds)
        return _Event(event, {"id": self._id(record, doc), "label": label, "ts": due}, due_s)

    def _by_group(self, records: Iterable[SourceRecord | None]) -> Iterator[_Event | None]:
        return self._ends_by_scan(records) if self._scans else self._ends_by_next(records)

    def _ends_by_scan(self, records: Iterable[SourceRecord | None]) -> Iterator[_Event | None]:
        """After a scan, the label comes with the group's last event."""
        number = -1
        for record in records:
            if record is None:
                yield None
                continue
            number += 1
            member = self._group_member(record)
            if member is None:
                yield _Event(record)
                continue
            event, group, _ = member
            label = self._labels.get(group) if self._last[group] == number else None
            yield _labelled(event, group, label)

    def _ends_by_next(self, records: Iterable[SourceRecord | None]) -> Iterator[_Event | None]:
        """Without a scan, the label comes when the next group begins."""
        last: _Event | None = None
        last_group: Any = None
        for record in records:
            member = None if record is None else self._group_member(record)
            if record is None or member is None:
                yield None if record is None else _Event(record)
                continue
            event, group, label = member
            if last is not None and last_group != group:
                self._close(record, group, last_group)
                yield _labelled(last, last_group, self._labels.pop(last_group, None))
                last = None
            self._keep_label(record, group, label)
            if last is not None:
                yield _Event(last.record)
            last, last_group = event, group
        if last is not None:
            yield _labelled(last, last_group, self._labels.pop(last_group, None))

    def _group_member(self, record: SourceRecord) -> tuple[_Event, Any, Any] | None:
        """The event without its label, its group, and its own label; None for what is no object."""
        doc = _object(record)
        if doc is None:
            return None
        group, label = self._group(record, doc), take(doc, self._paths.label)
        event = _with(record, _dumped(doc))
        ts, time_s = self._time(record, doc)
        return _Event(event, {"ts": ts}, time_s), group, label

    def _close(self, record: SourceRecord, group: Any, before: Any) -> None:
        self._closed.add(before)
        if group in self._closed:
            raise ConfigError(
                f"{record.place}: the group {group!r} comes again after its end, and this source can be read"
                " only once: sort it by group, or save it to a file"
            )
        if len(self._closed) > MAX_WAITING:
            raise ConfigError(f"{record.place}: more than {MAX_WAITING} groups; check --delay end-of")

    def _keep_label(self, record: SourceRecord, group: Any, label: Any) -> None:
        if label is None:
            return
        first = self._labels.setdefault(group, label)
        if first != label or type(first) is not type(label):
            raise ConfigError(
                f"{record.place}: the group {group!r} has the label {label!r} here and {first!r} before: with"
                " --delay end-of a group has one label"
            )
        if len(self._labels) > MAX_WAITING:
            raise ConfigError(f"{record.place}: more than {MAX_WAITING} groups; check --delay end-of")

    def _group(self, record: SourceRecord, doc: dict[str, Any]) -> Any:
        group = self._look_up(doc, "group", self._delay.group)
        if group is None or isinstance(group, dict | list):
            raise ConfigError(
                f"{record.place} has no group in {self._delay.group!r} (--delay end-of): give it one"
            )
        return group

    def _due_ts(self, doc: dict[str, Any]) -> Any:
        if not self._delay.field:
            return None
        ts = self._look_up(doc, DUE, self._delay.field)
        if self._source.tabular:
            doc.pop(DUE, None)
        return ts

    def _look_up(self, doc: dict[str, Any], member: str, path: str) -> Any:
        """The value at a path into the event or its features; that of a table's row is a member."""
        if not self._source.tabular:
            for parent in (doc, optional(self._paths.features)(doc)):
                if type(parent) is dict and (value := optional(path)(parent)) is not None:
                    return value
        return doc.get(member)

    def _time(self, record: SourceRecord, doc: dict[str, Any]) -> tuple[Any, float]:
        ts = self._time_in(doc)
        time_s = event_time_s(ts, self._paths.time_unit)
        if time_s is None:
            raise ConfigError(
                f"{record.place} has no event time, and labels that come later need one: name the column that"
                " holds it with --time"
            )
        return ts, time_s

    def _id(self, record: SourceRecord, doc: dict[str, Any]) -> Any:
        ident = self._id_in(doc)
        if ident is None:
            raise ConfigError(
                f"{record.place} has no id, so that its label could not be joined: name the column with --id"
            )
        return ident


def _labelled(event: _Event, group: Any, label: Any) -> _Event:
    """The event as the last one of its group, whose label comes with it; None for no label."""
    ts = (event.label or {}).get("ts")
    return event._replace(label=None if label is None else {"group": group, "label": label, "ts": ts})


def _label_record(event: SourceRecord, members: dict[str, Any], time_s: float | None) -> SourceRecord:
    row = ProducerRecord(event.row.key, orjson.dumps(members), (), event.row.partition)
    return SourceRecord(row, time_s, event.place)


def _scheduled_label(event: SourceRecord, members: dict[str, Any], now: dict[str, Any]) -> ScheduledRecord:
    return ScheduledRecord(_label_record(event, {**members, **now}, event.time_s), True)


def _due(waiting: list[tuple[float, int, SourceRecord]], until_s: float) -> Iterator[ScheduledRecord]:
    while waiting and waiting[0][0] <= until_s:
        yield ScheduledRecord(heapq.heappop(waiting)[2], True)


def _object(record: SourceRecord) -> dict[str, Any] | None:
    """The event as an object, or None for what is none: that is sent as it stands."""
    value = record.row.value or b""
    try:
        # orjson makes floats of integers beyond 64 bits; those are left as they are.
        doc = orjson.loads(value)
        if type(doc) is dict and not is_clean(value, doc) and _HUGE_INT.search(value):
            doc = json.loads(value)
    except ValueError:
        return None
    return doc if isinstance(doc, dict) else None


def _with(record: SourceRecord, value: bytes) -> SourceRecord:
    return record._replace(row=record.row._replace(value=value))


def _dumped(doc: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(doc)
    except TypeError:  # an integer beyond 64 bits
        return json.dumps(doc, ensure_ascii=False, separators=(",", ":")).encode()


def later(ts: Any, time_unit: str, seconds: float) -> Any:
    """The event time `seconds` after `ts`, in the unit and type in which `ts` stands.

    >>> later(1700000000, "auto", 300.0), later("2026-01-31T08:00:00+01:00", "auto", 1.5)
    (1700000300, '2026-01-31T08:00:01.500000+01:00')
    """
    if isinstance(ts, str):
        when = calendar_time(ts)
        assert when is not None, "its time was read"
        return (when + timedelta(seconds=seconds)).astimezone(when.tzinfo or UTC).isoformat()
    unit = likely_unit(ts) if time_unit == "auto" else time_unit
    moved = seconds * 1000 / MS_PER_UNIT[unit]
    return ts + (int(moved) if isinstance(ts, int) and moved == int(moved) else moved)
