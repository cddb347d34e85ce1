"""Presets of the mapping: how the values of well-known producers are recognised and unwrapped, and where
parts stand. Nobody else knows these producers.

Each is a set of other defaults (`DEFAULTS`, all of which `[event]` can override) and, where the event is
wrapped, a function from the wrapped value to the document that paths refer to:
- `debezium`: the row after the change. Beside its columns stand `__op`, `__source` and `__ts_ms` of the
  envelope. A delete, a truncate and a message are skips. (Debezium's "Data change events".)
- `connect`: the `payload` of Kafka Connect's JsonConverter with `schemas.enable=true`. Where the schema says
  that bytes are a decimal, the number stands instead (`core.connect`); so it does in `debezium`.
- `telegraf`: the JSON of Telegraf's serializer, as it is: name, timestamp, tags, fields.
- `cloudevents`: attributes, and `data`; the binary and the structured mode of the Kafka binding 1.0.
"""

import base64
import binascii
from collections.abc import Callable
from typing import Any, Final

from streamlearn.core.codec import clean_object
from streamlearn.core.connect import has_decimals, numbers_in
from streamlearn.core.events import Refusal, Skipped
from streamlearn.core.records import Record, header_name_bytes

Document = dict[str, Any]
Reader = Callable[[Record, bytes], Document | Refusal | Skipped]

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
    inner = _payload(doc)
    if isinstance(inner, dict) and inner.get("op") in _OPERATIONS and inner.keys() & {"after", "before"}:
        return "debezium" if isinstance(inner.get("after"), dict) else "delete"
    if inner is not doc:
        return "connect" if isinstance(inner, dict) else "tombstone"
    if isinstance(doc.get("fields"), dict) and {"name", "timestamp"} <= doc.keys():
        return "telegraf"
    return "cloudevents" if "specversion" in doc and {"id", "source", "type"} <= doc.keys() else ""


def may_hold_part(preset: str, path: str) -> bool:
    """True if an event's id, key, time or label may stand at `path`, and it is nothing of the envelope."""
    if preset == "telegraf":  # a time among the measurements is one of them; its key is one of the tags
        return path == "timestamp" or "." in path
    return preset != "cloudevents" or path in ("id", "time") or path.startswith("data.")


def _payload(doc: Document) -> Any:
    """What a schema and payload pair holds, or the value itself where there is no such pair."""
    return doc["payload"] if doc.keys() == {"schema", "payload"} else doc


def _headers(record: Record) -> dict[str, bytes]:
    return {name.lower(): value or b"" for name, value in record.headers}


def _debezium(record: Record, value: bytes, read: Reader) -> Document | Refusal | Skipped:
    doc = read(record, value)
    if type(doc) is not dict:
        return doc
    change = _payload(doc)
    if change is not doc and has_decimals(value):
        change = numbers_in(change, doc["schema"])
    if change is None:
        return Skipped("tombstone")
    if type(change) is not dict or type(change.get("op")) is not str:
        return _WRONG
    if reason := _NOT_A_ROW.get(change["op"]):
        return Skipped(reason)
    row = change.get("after")
    if type(row) is not dict:
        return _WRONG
    meta = {"__op": change["op"], "__source": change.get("source"), "__ts_ms": change.get("ts_ms")}
    return row | meta


def _connect(record: Record, value: bytes, read: Reader) -> Document | Refusal | Skipped:
    doc = read(record, value)
    if type(doc) is not dict:
        return doc
    if doc.keys() != {"schema", "payload"}:
        return _WRONG
    payload = numbers_in(doc["payload"], doc["schema"]) if has_decimals(value) else doc["payload"]
    if payload is None:
        return Skipped("tombstone")
    return payload if type(payload) is dict else _WRONG


def _cloudevents(record: Record, value: bytes, read: Reader) -> Document | Refusal | Skipped:
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


UNWRAP: Final[dict[str, Callable[[Record, bytes, Reader], Document | Refusal | Skipped]]] = {
    "debezium": _debezium,
    "connect": _connect,
    "cloudevents": _cloudevents,
}
"""By the preset's name; one without an entry only has other defaults."""
