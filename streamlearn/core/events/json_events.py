"""JSON read with care: a record's bytes to an event or a refusal.

Decoding is `orjson` plus the four things it lets pass: members named twice, integers beyond 64 bits,
nulls among the features, and members of the wrong kind. The common event is proved clean by counting
(see `is_clean`); only a record that fails the count is parsed again, slowly, by the standard library.
Here is the envelope as it is by default; `core.events.mapping` reads values of any other shape.
"""

import json
import re
from collections.abc import Iterable
from itertools import chain
from math import hypot
from typing import Any, Final, NoReturn

import orjson

from streamlearn.core.events.event import (
    MAX_EVENT_BYTES,
    MAX_NUMBER,
    Event,
    EventSpec,
    Feature,
    Refusal,
)
from streamlearn.core.records import UNREADABLE_HEADER, Record

_MAX_DEPTH: Final = 400
_INT_LIMIT: Final = 2.0**63
_BACKSLASH: Final = ord("\\")  # as a number, because bytes search a number ten times faster
_STRINGS: Final = re.compile(rb'"(?:\\.|[^"\\])*"?', re.DOTALL)
_BRACKETS: Final = re.compile(rb"[\[\]{}]")
_PLAIN: Final = frozenset((float, int, str, bool))
_NUMBERS: Final = frozenset((float, int))
_TIMES: Final = frozenset((float, int, str))
SCHEMA_HEADER: Final = "__value_schema_id"
"""The header of a schema's GUID, which newer serializers of the registry do not put before the value."""

_NULLABLE: Final = frozenset((float, int, str, bool, type(None)))


def decode(spec: EventSpec, record: Record) -> Event | Refusal:
    """The event in `record.value`, which must not be None, or why there is none.

    What depends on the stream so far (time unit, label type) is the shard's to check. The common event
    goes straight through here, in few calls: they are most of what an event costs beside its model.
    """
    value = record.value
    assert value is not None, "a tombstone is a skip and never decoded"
    if len(value) > MAX_EVENT_BYTES:
        return Refusal("decode", "too_large")
    try:
        doc = orjson.loads(value)
    except orjson.JSONDecodeError:
        return Refusal("decode", _why_not_json(record, value))
    if type(doc) is not dict:
        return Refusal("decode", "not_object")
    member = doc.get
    x: Any = member(spec.features)
    if type(x) is not dict:
        if type(x) is not list:
            return _worse(value, Refusal("guard", "no_features"))
        x = {str(n): item for n, item in enumerate(x)}
    # Equal counts, no escape and only small numbers prove the text clean, as in `is_clean`.
    suspect = value.count(b":") != len(doc) + len(x) or _BACKSLASH in value
    try:
        # At least as large as the largest, in one pass in C; whatever is no number is no argument for it.
        suspect = suspect or not hypot(*x.values()) < _INT_LIMIT
    except TypeError:
        suspect = True
    for item in doc.values():
        kind = type(item)
        if kind is list or (kind in _NUMBERS and not -_INT_LIMIT < item < _INT_LIMIT):
            suspect = True
    if suspect:
        checked = _checked(value, doc, x)
        if isinstance(checked, Refusal):
            return checked
        x = checked
    ident, ts, y = member(spec.id), member(spec.time), member(spec.label)
    if (
        record.key is None
        and type(ident) is str
        and type(ts) in _TIMES
        and type(y) in _NULLABLE
        and not spec.key
        and not spec.group
    ):
        return Event(ident, None, ts, x, y)  # as most events are
    key = member(spec.key) if spec.key else None
    group = member(spec.group) if spec.group else None
    return checked_event(spec, record, ident, key, ts, x, y, group)


def checked_event(
    spec: EventSpec,
    record: Record,
    ident: Any,
    key: Any,
    ts: Any,
    x: dict[str, Feature],
    y: Any,
    group: Any = None,
) -> Event | Refusal:
    """The event of these parts, as they were found (None: nothing there), or why there is none."""
    if type(ident) is not str and type(ident) is not int:
        if ident is not None:
            return Refusal("guard", "bad_id")
        ident = f"{record.topic}-{record.partition}-{record.offset}"
    if ts is not None and type(ts) not in _TIMES:
        return Refusal("guard", "bad_time")
    if y is not None and type(y) not in _PLAIN:
        return Refusal("label", "label_type")
    if group is not None and type(group) is not str and type(group) is not int:
        return Refusal("guard", "bad_group")
    if spec.key:
        if key is not None and type(key) is not str and type(key) is not int:
            return Refusal("guard", "bad_key")
    else:
        # A key that is not text stays itself on the prediction's record; in the JSON its odd bytes
        # are spelled out, because JSON has no bytes.
        key = None if record.key is None else record.key.decode("utf-8", "backslashreplace")
    return Event(ident, key, ts, x, y, None, group)


def _checked(value: bytes, doc: dict[str, Any], x: dict[str, Any]) -> dict[str, Any] | Refusal:
    """The features without nulls, once whatever looked suspect has proved harmless."""
    if not _NULLABLE.issuperset(map(type, x.values())):
        name = next(name for name, item in x.items() if type(item) not in _NULLABLE)
        return _worse(value, Refusal("guard", "bad_feature", name))
    if not is_clean(value, doc) and (reason := _strictly(value)):
        return Refusal("decode", reason)
    for name, feature in x.items():
        if type(feature) in _NUMBERS and not -MAX_NUMBER <= feature <= MAX_NUMBER:
            return Refusal("guard", "feature_too_large", name)
    return {name: feature for name, feature in x.items() if feature is not None}


def _worse(value: bytes, refusal: Refusal) -> Refusal:
    """`refusal`, unless `value` is not even clean JSON."""
    reason = _strictly(value)
    return Refusal("decode", reason) if reason else refusal


def clean_object(record: Record, value: bytes) -> dict[str, Any] | Refusal:
    """The JSON object in `value`, the record's or a part of it, under every check of `decode`."""
    try:
        doc = orjson.loads(value)
    except orjson.JSONDecodeError:
        return Refusal("decode", _why_not_json(record, value))
    if type(doc) is not dict:
        return Refusal("decode", "not_object")
    if not is_clean(value, doc) and (reason := _strictly(value)):
        return Refusal("decode", reason)
    return doc


def names_once(value: bytes, members: int, objects: Iterable[dict[str, Any]]) -> bool:
    """True if a text of flat `objects` with so many `members` in all surely names no member twice, as
    `is_clean` proves it.
    """
    if _BACKSLASH in value:
        return False
    colons = value.count(b":") - members
    if colons:
        for item in chain(*(doc.values() for doc in objects)):
            if type(item) is str:
                colons -= item.count(":")
    return not colons


def is_clean(value: bytes, doc: dict[str, Any]) -> bool:
    """True only when `value`, of which orjson made `doc`, surely names no member twice and holds no integer
    beyond 64 bits. The only proof of that there is; `decode` has it inline for its envelope.

    Without escapes, the colons of a JSON text are one per member plus those inside strings. Counting
    the members that survived decoding and the colons inside the strings we know gives at most that
    number, and one less for every member that was overwritten: equal counts mean that none was.
    orjson turns integers past 2**64 or below -2**63 into floats, so any huge number is looked at again.
    """
    if _BACKSLASH in value:
        return False
    if value.count(b":") != len(doc):
        return _is_clean_inside(value, doc)
    for item in doc.values():  # flat, and no colon in a string: as most values without an envelope
        kind = type(item)
        if kind is float or kind is int:
            if not -_INT_LIMIT < item < _INT_LIMIT:
                return False
        elif kind is list or kind is dict:
            return _is_clean_inside(value, doc)
    return True


def _is_clean_inside(value: bytes, doc: dict[str, Any]) -> bool:
    """The same for objects that hold others, or strings with colons."""
    if value.count(b"[") + value.count(b"{") > _MAX_DEPTH:
        return False
    members = 0
    parts: list[Any] = [doc]
    for item in parts:  # grows by what is found inside
        items = item
        if type(item) is dict:
            members += len(item)
            items = item.values()
        for inner in items:
            kind = type(inner)
            if kind is float or kind is int:
                if not -_INT_LIMIT < inner < _INT_LIMIT:
                    return False
            elif kind is str:
                if ":" in inner:
                    members += inner.count(":")
            elif kind is dict or kind is list:
                parts.append(inner)
    return value.count(b":") == members


class _RefusedError(Exception):
    """Carries a reason out of the standard library's JSON parser."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _RefusedError("duplicate_key")
    return members


def _int64(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise _RefusedError("int_too_large")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise _RefusedError("not_finite")
    return number


def _constant(_text: str) -> NoReturn:
    raise _RefusedError("not_finite")


def _strictly(value: bytes) -> str:
    """The reason to refuse `value`, found by a slow and strict parse; "" when there is none."""
    if _too_deep(value):
        return "too_deep"
    try:
        json.loads(
            value.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_int64,
            parse_float=_finite,
            parse_constant=_constant,
        )
    except _RefusedError as refused:
        return str(refused)
    except UnicodeDecodeError:
        return "not_utf8"
    except json.JSONDecodeError:
        return "not_json"
    return ""


def _why_not_json(record: Record, value: bytes) -> str:
    """The reason for bytes that orjson refused."""
    if not value:
        return "unreadable" if any(name == UNREADABLE_HEADER for name, _ in record.headers) else "empty"
    reason = _strictly(value) or "not_json"
    if unframed(record, value)[0] or any(name == SCHEMA_HEADER for name, _ in record.headers):
        return "confluent_framed"
    return reason


def unframed(record: Record, value: bytes) -> tuple[str, bytes]:
    """The id of the schema that a registry's serializer named ("" where none did), and the value without the
    frame (Confluent's wire format): 0x00 and a 4-byte id, or 0x01 and a 16-byte GUID, before the value; or
    0x01 and the GUID in a header.
    """
    for name, content in record.headers:
        if name == SCHEMA_HEADER and content and content[0] == 1 and len(content) == 17:
            return _guid(content[1:]), value
    if value[:1] == b"\x00" and len(value) > 5:
        return str(int.from_bytes(value[1:5], "big")), value[5:]
    if value[:1] == b"\x01" and len(value) > 17:
        return _guid(value[1:17]), value[17:]
    return "", value


def _guid(data: bytes) -> str:
    text = data.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _too_deep(value: bytes) -> bool:
    """True if brackets outside strings nest past the limit: decided by a scan, not by a stack, so that
    the answer does not depend on how deep the caller stands.
    """
    if value.count(b"[") + value.count(b"{") <= _MAX_DEPTH:
        return False
    depth = 0
    for bracket in _BRACKETS.finditer(_STRINGS.sub(b"", value)):
        depth += 1 if bracket[0] in (b"[", b"{") else -1
        if depth > _MAX_DEPTH:
            return True
    return False


def label_text(label: Any) -> str:
    """A label's JSON text without quotes: how it is written as a key of `probabilities`.

    >>> label_text(True), label_text(3), label_text("walk")
    ('true', '3', 'walk')
    """
    if label is True:
        return "true"
    if label is False:
        return "false"
    return str(label)
