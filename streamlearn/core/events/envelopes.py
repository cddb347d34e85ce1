"""Presets of the mapping: how the values of well-known producers are recognised and unwrapped, and where
parts stand. Nobody else knows these producers.

Each is a set of other defaults (`DEFAULTS`, all of which `[event]` can override) and, where the event is
wrapped, a function from the wrapped value to the document that paths refer to:
- `debezium`: the row after the change. Beside its columns stand `__op`, `__source` and `__ts_ms` of the
  envelope. A delete, a truncate and a message are skips. (Debezium's "Data change events".)
- `connect`: the `payload` of Kafka Connect's JsonConverter with `schemas.enable=true`. Where the schema says
  that bytes are a decimal, the number stands instead; so it does in `debezium`.
- `telegraf`: the JSON of Telegraf's serializer, as it is: name, timestamp, tags, fields.
- `cloudevents`: attributes, and `data`; the binary and the structured mode of the Kafka binding 1.0.
"""

import base64
import binascii
import re
from collections.abc import Callable, Collection
from decimal import Decimal
from typing import Any, Final

from streamlearn.core.events.event import NoEvent, Refusal
from streamlearn.core.events.json_events import clean_object
from streamlearn.core.events.paths import MISSING
from streamlearn.core.events.values import from_decimal
from streamlearn.core.records import Record, header_name_bytes

Document = dict[str, Any]
Reader = Callable[[Record, bytes], Document | Refusal | NoEvent]

DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "debezium": {"features": "*", "time": "__source.ts_ms"},
    "connect": {"features": "*"},
    "telegraf": {"features": "fields", "time": "timestamp", "label": "fields.label"},
    "cloudevents": {"features": "data", "time": "time", "label": "data.label"},
}

META: Final[dict[str, frozenset[str]]] = {"debezium": frozenset(("__op", "__source", "__ts_ms"))}
"""Members that a preset adds beside the event's own; "*" does not take them for features."""

_NOT_A_ROW: Final = {"d": "delete", "t": "truncate", "m": "message"}
_OPERATIONS: Final = ("c", "u", "r", *_NOT_A_ROW)
_CE_VERSION: Final = "ce_specversion"
_WRONG: Final = Refusal("decode", "envelope")


def recognised(record: Record, doc: Document) -> str:
    """The preset that reads a record whose value is `doc`, "" where none does. `tombstone`, `delete`: one
    that a preset passes over.
    """
    if _CE_VERSION in _headers(record):
        return "cloudevents"
    payload = _payload(doc)
    if isinstance(payload, dict) and _is_change(payload):
        return "debezium" if isinstance(payload.get("after"), dict) else "delete"
    if payload is not doc:
        return "connect" if isinstance(payload, dict) else "tombstone"
    if isinstance(doc.get("fields"), dict) and {"name", "timestamp"} <= doc.keys():
        return "telegraf"
    return "cloudevents" if {"specversion", "id", "source", "type"} <= doc.keys() else ""


def _is_change(payload: Document) -> bool:
    return payload.get("op") in _OPERATIONS and bool(payload.keys() & {"after", "before"})


def may_hold_part(preset: str, path: str) -> bool:
    """True if an event's id, key, time or label may stand at `path`, and it is nothing of the envelope."""
    if preset == "telegraf":  # a time among the measurements is one of them; its key is one of the tags
        return path == "timestamp" or "." in path
    return preset != "cloudevents" or path in ("id", "time") or path.startswith("data.")


def _payload(doc: Document) -> Any:
    """The payload of a schema and payload pair, or the value itself where there is no such pair."""
    return doc["payload"] if doc.keys() == {"schema", "payload"} else doc


def _headers(record: Record) -> dict[str, bytes]:
    return {name.lower(): value or b"" for name, value in record.headers}


def _debezium(record: Record, value: bytes, read: Reader) -> Document | Refusal | NoEvent:
    doc = read(record, value)
    if type(doc) is not dict:
        return doc
    change = _payload(doc)
    if change is not doc and has_decimals(value):
        change = numbers_in(change, doc["schema"])
    if change is None:
        return NoEvent("tombstone")
    if type(change) is not dict or type(change.get("op")) is not str:
        return _WRONG
    if reason := _NOT_A_ROW.get(change["op"]):
        return NoEvent(reason)
    row = change.get("after")
    if type(row) is not dict:
        return _WRONG
    meta = {"__op": change["op"], "__source": change.get("source"), "__ts_ms": change.get("ts_ms")}
    return row | meta


def _connect(record: Record, value: bytes, read: Reader) -> Document | Refusal | NoEvent:
    doc = read(record, value)
    if type(doc) is not dict:
        return doc
    if doc.keys() != {"schema", "payload"}:
        return _WRONG
    payload = numbers_in(doc["payload"], doc["schema"]) if has_decimals(value) else doc["payload"]
    if payload is None:
        return NoEvent("tombstone")
    return payload if type(payload) is dict else _WRONG


def _cloudevents(record: Record, value: bytes, read: Reader) -> Document | Refusal | NoEvent:
    headers = _headers(record)
    kind = headers.get("content-type", b"").partition(b";")[0].strip().lower()
    if _CE_VERSION in headers and not kind.startswith(b"application/cloudevents"):
        data = read(record, value)
        if type(data) is not dict:
            return data
        attributes: Document = {
            header_name_bytes(name[3:]).decode("utf-8", "backslashreplace"): value.decode(
                "utf-8", "backslashreplace"
            )
            for name, value in headers.items()
            if name.startswith("ce_")
        }
        return attributes | {"data": data}
    doc = read(record, value)
    if type(doc) is not dict:
        return doc
    if "specversion" not in doc:
        return _WRONG
    return _with_data(record, doc)


def _with_data(record: Record, doc: Document) -> Document | Refusal:
    """A structured event whose data, where they came in base 64, stand in `data`."""
    encoded = doc.pop("data_base64", None)
    if encoded is None:
        return doc
    if type(encoded) is not str or "data" in doc:
        return _WRONG
    try:
        value = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return _WRONG
    data = clean_object(record, value)
    return doc | {"data": data} if type(data) is dict else data


UNWRAP: Final[dict[str, Callable[[Record, bytes, Reader], Document | Refusal | NoEvent]]] = {
    "debezium": _debezium,
    "connect": _connect,
    "cloudevents": _cloudevents,
}
"""By the preset's name; one without an entry only has other defaults."""

# --- decimals of Kafka Connect ----------------------------------------------------------------------------
# Base 64 of an integer's bytes, and the schema beside them says so: `org.apache.kafka.connect.data.Decimal`,
# whose scale is a parameter of the schema, or Debezium's `VariableScaleDecimal`, which carries its own. Times
# and dates stay the integers they are. What the schema calls a decimal is a number afterwards, or nothing
# that a preset expects (`BAD`).

BAD: Final[Any] = object()
"""In place of a payload that holds a decimal which is none."""

MAX_BYTES: Final = 128
"""A longer integer is no double, whatever its scale that a database knows."""

_DECIMAL: Final = "org.apache.kafka.connect.data.Decimal"
_VARIABLE: Final = "io.debezium.data.VariableScaleDecimal"
_MAX_SCALE: Final = 400
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]{2,22}={0,2}", re.ASCII)


def has_decimals(value: bytes) -> bool:
    """Tell if the schema in a record's value may know decimals; cheap, because each record is asked."""
    return b"connect.data.Decimal" in value or b"VariableScaleDecimal" in value


def look_like_decimals(texts: Collection[str]) -> bool:
    """Tell if texts are perhaps decimals whose schema did not come with them: base 64 of a few bytes each,
    some of them filled up with `=`, as no words are.

    >>> look_like_decimals(["BAg=", "AMgA", "Ew==", "A+g="]), look_like_decimals(["north", "east", "west"])
    (True, False)
    """
    filled = sum(text.endswith("=") for text in texts)
    return 5 * filled >= len(texts) > 2 and all(
        len(text) % 4 == 0 and _BASE64.fullmatch(text) for text in texts
    )


def numbers_in(value: Any, schema: Any) -> Any:
    """`value` with numbers where `schema` has decimals, changed in place where it can be; `BAD` where one is
    none.

    >>> kind = {"name": "org.apache.kafka.connect.data.Decimal", "parameters": {"scale": "4"}}
    >>> numbers_in({"price": "BAg="}, {"type": "struct", "fields": [{**kind, "field": "price"}]})
    {'price': 0.1032}
    """
    if type(schema) is not dict or value is None:
        return value
    name = schema.get("name")
    if name == _DECIMAL:
        parameters = schema.get("parameters")
        return _number(value, parameters.get("scale") if type(parameters) is dict else None)
    if name == _VARIABLE:
        return _number(value.get("value"), value.get("scale")) if type(value) is dict else BAD
    if type(value) is list:
        return _all(value, range(len(value)), schema.get("items"))
    if type(value) is dict:
        fields = schema.get("fields")
        return _members(value, fields) if type(fields) is list else _all(value, value, schema.get("values"))
    return value


def _members(value: dict[str, Any], fields: list[Any]) -> Any:
    for field in fields:
        name = field.get("field") if type(field) is dict else None
        if type(name) is str and name in value:
            value[name] = numbers_in(value[name], field)
            if value[name] is BAD:
                return BAD
    return value


def _all(value: Any, keys: Any, schema: Any) -> Any:
    for key in keys:
        value[key] = numbers_in(value[key], schema)
        if value[key] is BAD:
            return BAD
    return value


def _number(value: Any, scale: Any) -> Any:
    """The number of an unscaled integer's bytes; what came as a number or as its digits is that already."""
    if type(value) in (int, float) or value is None:
        return value
    try:
        digits = int(scale)
        unscaled = base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        return BAD
    if not 0 < len(unscaled) <= MAX_BYTES or abs(digits) > _MAX_SCALE:
        return BAD
    whole = int.from_bytes(unscaled, "big", signed=True)
    number = from_decimal(Decimal(f"{whole}e{-digits}"))
    return BAD if number is MISSING else number
