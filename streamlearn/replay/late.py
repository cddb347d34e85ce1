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

from streamlearn.core.codec import is_clean
from streamlearn.core.events import MS_PER_UNIT, calendar_time, unit_of
from streamlearn.core.paths import optional, take
from streamlearn.errors import ConfigError
from streamlearn.log.port import Row
from streamlearn.replay.jsonlines import Members
from streamlearn.replay.mapping import DUE, time_of
from streamlearn.replay.sources import Item
from streamlearn.setting_kinds import duration_s

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


class Sent(NamedTuple):
    """An item, and whether it is a label."""

    item: Item
    label: bool


class _Known(NamedTuple):
    """An event without its label, and what is known of the label: its record's members, and due time."""

    event: Item
    doc: dict[str, Any] | None = None
    due_s: float = 0.0


def delay_of(text: str) -> Delay:
    """The meaning of `--delay`. Raises `ConfigError`."""
    kind, colon, column = text.partition(":")
    if colon and column and kind == "field":
        return Delay(field=column)
    if colon and column and kind == "end-of":
        return Delay(group=column)
    if text.isascii() and text.isdigit() and int(text) <= MAX_WAITING:
        return Delay(events=int(text)) if int(text) else Delay()
    try:
        return Delay(seconds=duration_s(text))
    except ValueError:
        raise ConfigError(f"--delay {text}: {_SYNTAX}") from None


class Late:
    """One pass: `scan` first where a group's end must be known before (`scans`), then `merge`.

    `members`: where events hold id, time and label. `tabular`: the mapping has put group and due time into
    members of their own. `once`: the source can be read only once, so that a group must stand together.
    """

    def __init__(self, delay: Delay, members: Members, tabular: bool, once: bool) -> None:
        self._delay = delay
        self._members = members
        self._id_in, self._time_in = optional(members.id), optional(members.time)
        self._tabular = tabular
        self.scans = bool(delay.group) and not once
        self._last: dict[Any, int] = {}
        self._labels: dict[Any, Any] = {}
        self._closed: set[Any] = set()

    def scan(self, items: Iterable[Item | None]) -> None:
        """Find each group's last event and its label. Raises `ConfigError` when a group has two labels."""
        self._last, self._labels = {}, {}
        for number, item in enumerate(item for item in items if item is not None):
            doc = _object(item)
            if doc is not None:
                group = self._group(item, doc)
                self._last[group] = number
                self._note(item, group, optional(self._members.label)(doc))

    def merge(self, items: Iterable[Item | None]) -> Iterator[Sent | None]:
        """Events and labels in the order in which the world would have given them."""
        waiting: list[tuple[float, int, Item]] = []
        clock_s = -math.inf
        number = 0
        if self._delay.events:
            yield from self._by_count(items)
            return
        for found in self._by_group(items) if self._delay.group else self._by_event(items):
            if found is None:
                yield None
                continue
            event, doc, due_s = found
            if event.time_s is not None:
                clock_s = max(clock_s, event.time_s)
            yield from _due(waiting, -math.inf if event.time_s is None else event.time_s)
            yield Sent(event, False)
            if doc is None:
                continue
            due_s = max(due_s, clock_s)
            row = Row(event.row.key, orjson.dumps(doc), (), event.row.partition)
            heapq.heappush(waiting, (due_s, number, Item(row, due_s, event.place)))
            number += 1
            if len(waiting) > MAX_WAITING:
                raise ConfigError(
                    f"{event.place}: more than {MAX_WAITING} labels wait for their time; shorten --delay, or"
                    " check its times"
                )
            yield from _due(waiting, clock_s)
        yield from _due(waiting, math.inf)

    def _by_count(self, items: Iterable[Item | None]) -> Iterator[Sent | None]:
        """Each label just before the event that many places further, whatever the times say."""
        waiting: deque[tuple[Item, dict[str, Any]] | None] = deque()
        now: dict[str, Any] = {}
        for item in items:
            if item is None:
                yield None
                continue
            doc = _object(item)
            ts = None if doc is None else self._time_in(doc)
            now = {} if ts is None else {"ts": ts}
            if len(waiting) == self._delay.events and (due := waiting.popleft()) is not None:
                yield _label_of(*due, now)
            label = None if doc is None else take(doc, self._members.label)
            if doc is None or label is None:
                waiting.append(None)
                yield Sent(item, False)
                continue
            waiting.append((item, {"id": self._id(item, doc), "label": label}))
            yield Sent(_with(item, _dumped(doc)), False)
        yield from (_label_of(*due, now) for due in waiting if due is not None)

    def _by_event(self, items: Iterable[Item | None]) -> Iterator[_Known | None]:
        for item in items:
            yield None if item is None else self._known(item)

    def _known(self, item: Item) -> _Known:
        doc = _object(item)
        if doc is None:
            return _Known(item)
        label, due = take(doc, self._members.label), self._due_ts(doc)
        event = _with(item, _dumped(doc))
        if label is None:
            return _Known(event)
        ts, time_s = self._time(item, doc)
        if self._delay.field:
            if due is None:
                return _Known(event)  # it never becomes known
            due_s = time_of(due, self._members.time_unit)
            if due_s is None:
                raise ConfigError(f"{item.place}: {self._delay.field} is {due!r}, which is no time (--delay)")
        else:
            due_s = time_s + self._delay.seconds
            due = later(ts, self._members.time_unit, self._delay.seconds)
        return _Known(event, {"id": self._id(item, doc), "label": label, "ts": due}, due_s)

    def _by_group(self, items: Iterable[Item | None]) -> Iterator[_Known | None]:
        """With a scan, the label comes with the group's last event; without one, when the next begins."""
        held: _Known | None = None
        held_group: Any = None
        number = -1
        for item in items:
            if item is None:
                yield None
                continue
            number += 1
            doc = _object(item)
            if doc is None:
                yield _Known(item)
                continue
            group, label = self._group(item, doc), take(doc, self._members.label)
            event = _with(item, _dumped(doc))
            ts, time_s = self._time(item, doc)
            if self.scans:
                ends = self._last[group] == number and self._labels.get(group) is not None
                record = {"group": group, "label": self._labels.get(group), "ts": ts} if ends else None
                yield _Known(event, record, time_s)
                continue
            if held is not None and held_group != group:
                self._close(item, group, held_group)
                yield self._released(held, held_group)
                held = None
            self._note(item, group, label)
            if held is not None:
                yield _Known(held.event)
            held, held_group = _Known(event, {"ts": ts}, time_s), group
        if held is not None:
            yield self._released(held, held_group)

    def _released(self, held: _Known, group: Any) -> _Known:
        label = self._labels.pop(group, None)
        ts = (held.doc or {}).get("ts")
        return held._replace(doc=None if label is None else {"group": group, "label": label, "ts": ts})

    def _close(self, item: Item, group: Any, before: Any) -> None:
        self._closed.add(before)
        if group in self._closed:
            raise ConfigError(
                f"{item.place}: the group {group!r} comes again after its end, and this source can be read"
                " only once: sort it by group, or save it to a file"
            )
        if len(self._closed) > MAX_WAITING:
            raise ConfigError(f"{item.place}: more than {MAX_WAITING} groups; check --delay end-of")

    def _note(self, item: Item, group: Any, label: Any) -> None:
        if label is None:
            return
        known = self._labels.setdefault(group, label)
        if known != label or type(known) is not type(label):
            raise ConfigError(
                f"{item.place}: the group {group!r} has the label {label!r} here and {known!r} before: with"
                " --delay end-of a group has one label"
            )
        if len(self._labels) > MAX_WAITING:
            raise ConfigError(f"{item.place}: more than {MAX_WAITING} groups; check --delay end-of")

    def _group(self, item: Item, doc: dict[str, Any]) -> Any:
        found = self._look(doc, "group", self._delay.group)
        if found is None or isinstance(found, dict | list):
            raise ConfigError(
                f"{item.place} has no group in {self._delay.group!r} (--delay end-of): give it one"
            )
        return found

    def _due_ts(self, doc: dict[str, Any]) -> Any:
        if not self._delay.field:
            return None
        found = self._look(doc, DUE, self._delay.field)
        if self._tabular:
            doc.pop(DUE, None)
        return found

    def _look(self, doc: dict[str, Any], member: str, path: str) -> Any:
        if self._tabular:
            return doc.get(member)
        for place in (doc, optional(self._members.features)(doc)):
            if type(place) is dict and (found := optional(path)(place)) is not None:
                return found
        return doc.get(member)

    def _time(self, item: Item, doc: dict[str, Any]) -> tuple[Any, float]:
        ts = self._time_in(doc)
        time_s = time_of(ts, self._members.time_unit)
        if time_s is None:
            raise ConfigError(
                f"{item.place} has no event time, and labels that come later need one: name the column that"
                " holds it with --time"
            )
        return ts, time_s

    def _id(self, item: Item, doc: dict[str, Any]) -> Any:
        found = self._id_in(doc)
        if found is None:
            raise ConfigError(
                f"{item.place} has no id, so that its label could not be joined: name the column with --id"
            )
        return found


def _label_of(event: Item, members: dict[str, Any], now: dict[str, Any]) -> Sent:
    row = Row(event.row.key, orjson.dumps({**members, **now}), (), event.row.partition)
    return Sent(Item(row, event.time_s, event.place), True)


def _due(waiting: list[tuple[float, int, Item]], until_s: float) -> Iterator[Sent]:
    while waiting and waiting[0][0] <= until_s:
        yield Sent(heapq.heappop(waiting)[2], True)


def _object(item: Item) -> dict[str, Any] | None:
    """The event as an object, or None for what is none: that is sent as it stands."""
    value = item.row.value or b""
    try:
        # orjson makes floats of integers beyond 64 bits; those are left as they are.
        doc = orjson.loads(value)
        if type(doc) is dict and not is_clean(value, doc) and _HUGE_INT.search(value):
            doc = json.loads(value)
    except ValueError:
        return None
    return doc if isinstance(doc, dict) else None


def _with(item: Item, value: bytes) -> Item:
    """`item` with another value: made anew, because `_replace` takes three times as long."""
    row = item.row
    return Item(Row(row.key, value, row.headers, row.partition), item.time_s, item.place, item.number)


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
    unit = unit_of(ts) if time_unit == "auto" else time_unit
    moved = seconds * 1000 / MS_PER_UNIT[unit]
    return ts + (int(moved) if isinstance(ts, int) and moved == int(moved) else moved)
