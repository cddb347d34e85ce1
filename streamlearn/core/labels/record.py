"""Records of the labels topic: each label, its events, and when it became available.

Invariant: a refusal is a value, of stage `label`, with a reason of the closed list.
"""

import hashlib
from collections.abc import Callable
from typing import Any, Final

import msgspec
import orjson

from streamlearn.core.events.clocks import time_in
from streamlearn.core.events.event import MAX_EVENT_BYTES, MS_PER_UNIT, Event, Label, Refusal
from streamlearn.core.events.json_events import clean_object, is_clean
from streamlearn.core.events.paths import MISSING, getter
from streamlearn.core.records import Record

LONG_NAME: Final = 128


class LabelSpec(msgspec.Struct, frozen=True):
    """The rules by which labels on a topic of their own are joined (`[labels]`, docs/labels.md).

    Part of an era: a new member needs a default, so that old eras decode.

    Attributes:
        topic: The labels topic.
        join: `id`, `group`, or `interval` (key, start, end).
        id, label, time, group, key, start, end: Paths in a label's record.
        ttl_ms: Milliseconds of event time that an event waits for its label.
        early_ttl_ms: Milliseconds of event time that a label waits for its event.
        pending_max: The largest number of waiting events.
        default: The label learned when the time is up; None to forget the event.
        learn: `label`, or `event`: a detector without labels learns at once.
        orphans_max_share: The share of labels without an event above which an alert is published, 0 to 1.

    Example:
        >>> LabelSpec("labels", ttl_ms=60_000.0).join
        'id'
    """

    topic: str
    join: str = "id"
    id: str = "id"
    label: str = "label"
    time: str = "ts"
    group: str = "group"
    key: str = "key"
    start: str = "from"
    end: str = "to"
    ttl_ms: float = 86_400_000.0
    early_ttl_ms: float = 3_600_000.0
    pending_max: int = 1_000_000
    default: Label | None = None
    learn: str = "label"
    orphans_max_share: float = 0.5


class LabelRecord(msgspec.Struct, array_like=True, gc=False):
    """A label record: join key, optional event-time interval, label, when it became available (None: unsaid),
    and its place in the labels topic.
    """

    join: str
    y: Label
    time_ms: float | None
    start_ms: float = 0.0
    end_ms: float = 0.0
    partition: int = 0
    offset: int = 0

    def holds_at(self, time_ms: float) -> bool:
        """Tell if a moment is in the interval."""
        return self.start_ms <= time_ms < self.end_ms


class EarlyLabel(msgspec.Struct, array_like=True):
    """A label that waits for events, or goes on waiting for more of them (`used`)."""

    label: LabelRecord
    arrived_ms: int
    deadline_ms: float
    used: bool = False
    gone: bool = False


def short(name: str | int) -> str:
    """A join key as it is remembered: a long one by its hash, because a hundred thousand are."""
    name = name if type(name) is str else str(name)
    if len(name) <= LONG_NAME:
        return name
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def join_name(kind: str, event: Event) -> str | None:
    """An event's join key under `[labels] join = kind`; None for an event that has none."""
    name = spelled_name(kind, event)
    return None if name is None else short(name)


def spelled_name(kind: str, event: Event) -> str | int | None:
    """The join key as it stands in a label's record, however long."""
    return event.id if kind == "id" else event.group if kind == "group" else event.key


Reader = Callable[[Record, str, str, float], LabelRecord | Refusal]
"""Reads a label's record: by the stream's time unit ("" while it is open), the unit that leads, and the
latest time that can be in it.
"""


def label_reader(spec: LabelSpec) -> Reader:
    """Compile the reader of label records as `spec` has them."""
    read_any = _general_reader(spec)
    if spec.join == "id" and not any("." in path for path in (spec.id, spec.label, spec.time)):
        return _flat_reader(spec, read_any)
    return read_any


_TIMES: Final = frozenset((str, int, float))


def _flat_reader(spec: LabelSpec, read_any: Reader) -> Reader:
    """Compile a reader of most label records in few calls: flat, with a short id and true, false or a text
    for a label; `read_any` reads all others.
    """
    id_path, label_path, time_path = spec.id, spec.label, spec.time

    def read(record: Record, unit: str, leading: str, latest_ms: float) -> LabelRecord | Refusal:
        value, scale = record.value, MS_PER_UNIT.get(unit)
        if value is None or scale is None or len(value) > MAX_EVENT_BYTES:
            return read_any(record, unit, leading, latest_ms)
        try:
            doc = orjson.loads(value)
        except orjson.JSONDecodeError:
            return read_any(record, unit, leading, latest_ms)
        if type(doc) is dict and is_clean(value, doc):
            name, y, ts = doc.get(id_path), doc.get(label_path), doc.get(time_path)
            if (
                type(name) is str
                and len(name) <= LONG_NAME
                and (type(y) is bool or type(y) is str)
                and (type(ts) is int or type(ts) is float)
                and (time_ms := ts * scale) <= latest_ms
            ):
                return LabelRecord(name, y, time_ms, 0.0, 0.0, record.partition, record.offset)
        return read_any(record, unit, leading, latest_ms)

    return read


def _general_reader(spec: LabelSpec) -> Reader:
    """Compile the reader of every label record."""
    get_name = getter({"id": spec.id, "group": spec.group, "interval": spec.key}[spec.join])
    get_label, get_time, get_start, get_end = map(getter, (spec.label, spec.time, spec.start, spec.end))

    def read(record: Record, unit: str, leading: str, latest_ms: float) -> LabelRecord | Refusal:
        value = record.value
        assert value is not None, "a tombstone is a skip and never read"
        if len(value) > MAX_EVENT_BYTES:
            return Refusal("label", "too_large")
        doc = clean_object(record, value)
        if type(doc) is not dict:
            assert isinstance(doc, Refusal)
            return doc._replace(stage="label")
        name, y, ts = get_name(doc), get_label(doc), get_time(doc)
        if type(name) is not str and type(name) is not int:
            return Refusal("label", "no_join")
        if y is None or y is MISSING:
            return Refusal("label", "no_label")
        time_ms = _available_ms(ts, unit, leading, latest_ms)
        if isinstance(time_ms, Refusal):
            return time_ms
        label = LabelRecord(short(name), y, time_ms, 0.0, 0.0, record.partition, record.offset)
        if spec.join == "interval":
            start_ms, end_ms = (_ms(get(doc), unit, leading, latest_ms) for get in (get_start, get_end))
            if start_ms is None or end_ms is None or not start_ms < end_ms:
                return Refusal("label", "bad_interval")
            label.start_ms, label.end_ms = start_ms, end_ms
        return label

    return read


def _available_ms(ts: Any, unit: str, leading: str, latest_ms: float) -> float | Refusal | None:
    """The time of a label; None where its record tells none."""
    if ts is None or ts is MISSING:
        return None
    time_ms = _ms(ts, unit, leading, latest_ms)
    if time_ms is None:
        return Refusal("label", "bad_time")
    return time_ms if time_ms <= latest_ms else Refusal("label", "future")


def _ms(ts: Any, unit: str, leading: str, latest_ms: float) -> float | None:
    return time_in(ts, unit, leading, latest_ms)[0] if type(ts) in _TIMES else None
