"""An event and the rules that make a record one: where its parts stand, event time, and refusals.

Invariants:
- Whatever reaches the model passed here: finite numbers, ints within 64 bits, one label type.
- A refusal is a value. Its reason comes from the closed list below, never from an exception's text, so
  that a dead letter is the same bytes on every run and machine.
"""

import datetime
import re
from typing import Any, Final, NamedTuple

import msgspec

Feature = bool | int | float | str
Label = bool | int | float | str

MAX_EVENT_BYTES: Final = 1_000_000
"""A record over this is refused: Kafka's default `max.message.bytes` is 1,048,588 with overhead."""

MAX_OUTPUT_BYTES: Final = 1_000_000
"""No key and value that are larger together are published; headers have `MAX_HEADER_BYTES` of their own."""

MAX_HEADER_BYTES: Final = 8192
"""Headers passed on from the input, with `HEADER_BYTES` each; those past the limit are dropped."""

MAX_NUMBER: Final = 1e150
"""A feature further from zero is refused: its square does not fit in a double, and one such event makes a
scaler, and with it most models, answer NaN for ever."""

MAX_LABEL_LENGTH: Final = 128
"""A text label with more characters is refused: predictions name every class, and with a thousand of them,
all characters escaped, still fit into a record."""

MAX_AHEAD_MS: Final = 3_600_000
"""An event further ahead of its record's timestamp is refused: its clock is broken."""

REASONS: Final[dict[str, str]] = {
    "too_large": f"the record is larger than {MAX_EVENT_BYTES:,} bytes",
    "unreadable": "the log cannot read what it holds here; the header streamlearn.unreadable says why",
    "empty": "the value is empty; an event is a JSON object",
    "not_utf8": "the value is not UTF-8",
    "not_json": "the value is not JSON",
    "not_finite": "the value holds NaN, an infinity or a number too large for a double",
    "too_deep": "the value is nested too deeply",
    "duplicate_key": "an object in the value names a member twice",
    "int_too_large": "an integer does not fit in 64 bits",
    "not_object": "the value is JSON but not an object",
    "no_features": "the member for features is missing or not an object",
    "bad_feature": "a feature is neither a number, a string, true, false nor null",
    "feature_too_large": "a feature is beyond 1e150, so that its square does not fit in a double",
    "bad_id": "the id is neither a string nor an integer",
    "bad_key": "the key is neither a string nor an integer",
    "bad_time": (
        "the time is not in the stream's time unit: mend the source, declare the unit in [event] time_unit,"
        " or `streamlearn control reset time`"
    ),
    "future": (
        "the time, in the stream's unit, is more than one hour ahead of the record's arrival: mend the clock,"
        " or declare another unit in [event] time_unit, or `streamlearn control reset time`"
    ),
    "bad_type": "a value is not of the type that [event] types declares for it",
    "same_path": "two members of the value have the same dotted path",
    "not_csv": "the value is not one line of CSV",
    "csv_ragged": "the line has another number of cells than [event] columns has names",
    "decimal_sign": (
        "a cell is a number with another decimal sign than [event] decimal says: set it, or declare the "
        'column as "str" in [event] types'
    ),
    "envelope": "the value does not have the shape that [event] preset expects",
    "confluent_framed": (
        "the value begins as a schema registry's bytes do: pip install fastavro and set [event] "
        "schema_registry or schema"
    ),
    "schema_unknown": "the schema registry has no schema with the id of this record",
    "schema_kind": "the record's schema is neither Avro without recursion nor JSON Schema",
    "not_avro": "the value's bytes do not fit their Avro schema",
    "feature_type": (
        "a feature has another type than the one learned or declared for it: mend the source, declare the "
        "type in [event] types, or `streamlearn control guard-reset` the feature"
    ),
    "too_many_features": "the event has more features than [guard] features allows: name those to use",
    "too_many_names": "a new feature, but as many names as [guard] names allows have been seen already",
    "text_too_long": "a feature's text or name is longer than [guard] string_length allows",
    "too_many_categories": (
        "a new text, but as many different ones as [guard] categories allows have been seen in this feature: "
        "leave ids and free text out of [event] features, or raise the limit (0 = no limit)"
    ),
    "bad_command": 'the value is not a command, an object like {"command": "guard-reset", "feature": "temp"}',
    "unknown_command": (
        "there is no such command; this version knows guard-reset, freeze, thaw, reset-time and reset-label"
    ),
    "label_type": (
        "the label is not of the type that this model's labels have: mend the source, declare the type of the"
        " label's path in [event] types, or `streamlearn control reset label`"
    ),
    "label_value": "the label is not one this model can learn",
    "label_too_large": "the label is beyond 1e150, so that its square does not fit in a double",
    "label_too_long": f"the label is longer than {MAX_LABEL_LENGTH} characters: give classes short names",
    "too_many_classes": "a new class, but as many different labels as are kept apart (1,000) have been seen",
    "no_label": "the record of the labels topic holds no label: it is missing or null",
    "no_join": "the label names no event: its id, group or key (see [labels]) is no text and no integer",
    "bad_interval": "the label's interval is not two event times, the first before the second",
    "bad_group": "the group is neither a string nor an integer",
    "raised": "the model raised",
    "process_died": "the process was killed each time it tried this record",
    "output_not_finite": (
        "the model answered NaN, an infinity or a number beyond 1e150, also after it had learned what is in"
        " this record"
    ),
    "output_type": "the model answered with something that is neither a label nor a number",
    "output_too_large": "the prediction would be larger than a record may be",
}
"""Every reason of a dead letter, with the sentence that goes into its headers."""


class EventSpec(msgspec.Struct, frozen=True):
    """The field mapping: the places of an event's parts in a record's value (`[event]`, docs/events.md).

    A path is as `core.events.paths` reads it. Part of an era: a new member needs a default, so that old eras
    decode.

    Attributes:
        id, time, label: Paths of the event's id, time and label.
        key: The path of the event's key; "" for the record's key.
        time_unit: `auto`, `s`, `ms`, `us`, `ns` or `rfc3339`.
        features: The path of an object or array, a tuple of paths, "*" for all other members, "" for none.
        format: `json`, `csv` (a line), `avro` (as registries frame it) or `avro-bare`.
        preset: The envelope's name (`debezium`, `connect`, ...), "" for none.
        columns, delimiter: Names of the cells of a CSV line, and the sign between them.
        where: An expression; records for which it is false are skipped.
        types: Declared types of features, and of the label, by path.
        carry: Paths that are copied into the prediction.
        time_as: The feature under which the event's time is given to the model, "" for none.
        duplicates: The number of newest ids among which a repeated id is skipped; 0 for no check.
        schema: The text of a schema (not its file's name), "" for none.
        registry: True when schemas come from a registry.
        group: The path of the group that labels are joined by, "" unless they are.
        missing: Texts that mean that there is no value.
        decimal: The decimal sign of numbers that come as text.

    Example:
        >>> EventSpec(id="meta.id", features=("temp", "rpm")).label
        'label'
    """

    id: str = "id"
    key: str = ""
    time: str = "ts"
    time_unit: str = "auto"
    features: str | tuple[str, ...] = "features"
    label: str = "label"
    format: str = "json"
    preset: str = ""
    columns: tuple[str, ...] = ()
    delimiter: str = ","
    where: str = ""
    types: dict[str, str] = {}
    carry: tuple[str, ...] = ()
    time_as: str = ""
    duplicates: int = 0
    schema: str = ""
    registry: bool = False
    group: str = ""
    missing: tuple[str, ...] = ()
    decimal: str = "."


class Event(msgspec.Struct, gc=False):
    """A decoded record.

    Attributes:
        id: The event's id; `topic-partition-offset` of its record when it has none of its own.
        key: The key for the prediction, None for none.
        ts: The time as it came, to be echoed; None when the event has none: then its record's timestamp is
            its time.
        x: Features by name: finite numbers, texts and booleans.
        y: The label inside the event; None for none.
        carry: Values that are copied into the prediction, by path; None when nothing is asked for.
        group: The group that labels are joined by.
        time_ms: The event time in milliseconds since 1970, set once the stream's time unit is known.

    Example:
        >>> Event("e1", None, 1700000000.5, {"temp": 21.5}, y=True).x
        {'temp': 21.5}
    """

    id: str | int
    key: str | int | None
    ts: str | int | float | None
    x: dict[str, Any]
    y: Label | None
    carry: dict[str, Any] | None = None
    group: str | int | None = None
    time_ms: float = 0.0


class Refusal(NamedTuple):
    """The reason for which a record is a dead letter. A refusal is a value and not an exception.

    Attributes:
        stage: The stage that refused the record.
        reason: A key of `REASONS`, the closed list; never an exception's text.
        feature: The path or feature that the reason is about, "" for the record as a whole.

    Example:
        >>> REASONS[Refusal("decode", "not_utf8").reason]
        'the value is not UTF-8'
    """

    stage: str
    reason: str
    feature: str = ""


class NoEvent(NamedTuple):
    """A record that by rule has no output; counted as `skip.<reason>`. `reason`: `tombstone`, `where`,
    `duplicate`, `header`, `delete`, `truncate` or `message`.
    """

    reason: str


_LEAP: Final = re.compile(r"(.*[T ]23:59):60(.*)", re.ASCII)
_SECOND: Final = datetime.timedelta(seconds=1)
MS_PER_UNIT: Final[dict[str, float]] = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}


def likely_unit(ts: str | int | float) -> str:
    """The time unit that makes `ts` a plausible date: what `time_unit = "auto"` settles on.

    A number of seconds since 1970 has up to 11 digits until the year 5138, and each finer unit has
    three more.

    >>> likely_unit(1_700_000_000.5), likely_unit(1_700_000_000_500), likely_unit("2026-01-01T00:00:00Z")
    ('s', 'ms', 'rfc3339')
    """
    if isinstance(ts, str):
        return "rfc3339"
    size = abs(ts)
    for unit, limit in (("s", 1e11), ("ms", 1e14), ("us", 1e17)):
        if size < limit:
            return unit
    return "ns"


def calendar_time(text: str) -> datetime.datetime | None:
    """The date and time that a text in ISO 8601 names, with a zone or without one; None where it names none.
    A leap second, which no calendar here knows, is the second after it.

    >>> calendar_time("2016-12-31t23:59:60z").isoformat(), calendar_time("2026-02-30")
    ('2017-01-01T00:00:00+00:00', None)
    """
    text = text.upper()  # RFC 3339 allows "t" and "z"
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        leap = _LEAP.fullmatch(text)
    try:
        return leap and datetime.datetime.fromisoformat(f"{leap[1]}:59{leap[2]}") + _SECOND
    except (ValueError, OverflowError):
        return None


def event_time_ms(ts: str | int | float, unit: str) -> float | None:
    """`ts` in milliseconds since 1970, or None when it is not of `unit`.

    >>> event_time_ms(1.5, "s"), event_time_ms("1970-01-01T00:00:01+00:00", "rfc3339")
    (1500.0, 1000.0)
    """
    if unit == "rfc3339":
        if not isinstance(ts, str):
            return None
        moment = calendar_time(ts)
        if moment is None or moment.tzinfo is None:
            return None  # RFC 3339 demands an offset; without one it would be a guess
        try:
            return moment.timestamp() * 1e3
        except (ValueError, OverflowError):
            return None
    if isinstance(ts, str):
        return None
    return ts * MS_PER_UNIT[unit]


def beyond_limits(y: Label) -> str:
    """The reason to refuse a label that would harm a model or its predictions, though its type is right; ""
    for none.
    """
    if type(y) is str:
        return "label_too_long" if len(y) > MAX_LABEL_LENGTH else ""
    return "" if -MAX_NUMBER <= y <= MAX_NUMBER else "label_too_large"  # type: ignore[operator]


def as_moment(ts: str | int | float | None, time_ms: float) -> datetime.datetime | None:
    """The event time as a model gets it: at the offset a text names, else in UTC. None when no calendar
    reaches so far.

    >>> as_moment("2026-01-31T08:00:00+01:00", 0).hour, as_moment(7, 3.6e6).hour
    (8, 1)
    """
    if isinstance(ts, str):
        return calendar_time(ts)
    try:
        return _EPOCH + datetime.timedelta(milliseconds=time_ms)
    except (ValueError, OverflowError):
        return None


_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
