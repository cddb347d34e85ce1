"""A record as one line of JSON and back: what `record` writes, `tail --json` prints and `replay` reads.

The line is an object with exactly these members, in this order: `topic`, `partition`, `offset`,
`timestamp` (ms), `key`, `value`, `headers` (a list of `{"name", "value"}`). Bytes that are UTF-8 stand as
text, null as null; other bytes stand in base64 under `key_base64` or `value_base64` instead. A header whose
name is not UTF-8 has `name_base64` too, and its odd bytes are spelled `\\xff` in `name`.

Invariant: `parse(line(record))` has the record's key, value and headers, byte for byte.
"""

import base64
import binascii
from typing import Any

import orjson

from streamlearn.core.records import Headers, Record, header_name, header_name_bytes

_HEAD = b'{"topic":'
_PLACE = {"topic", "partition", "offset", "timestamp"}
_SHAPES = [
    _PLACE | {"headers", key, value} for key in ("key", "key_base64") for value in ("value", "value_base64")
]


def line(record: Record) -> bytes:
    """The record as one line, without the newline."""
    return orjson.dumps(
        {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "timestamp": record.timestamp_ms,
            **_written("key", record.key),
            **_written("value", record.value),
            "headers": [{**_named(name), **_written("value", value)} for name, value in record.headers],
        }
    )


def parse(text: bytes) -> Record | None:
    """The record in a line that `line` has written, or None when it is anything else."""
    if not text.startswith(_HEAD):
        return None
    try:
        members = orjson.loads(text)
        if members.keys() not in _SHAPES:
            return None
        headers: Headers = tuple((_name(header), _read("value", header)) for header in members["headers"])
        record = Record(
            members["topic"],
            members["partition"],
            members["offset"],
            members["timestamp"],
            _read("key", members),
            _read("value", members),
            headers,
        )
    except (orjson.JSONDecodeError, binascii.Error, KeyError, TypeError, AttributeError):
        return None
    numbers = (record.partition, record.offset, record.timestamp_ms)
    return record if all(type(number) is int for number in numbers) else None


def _named(name: str) -> dict[str, str]:
    if name.isascii():
        return {"name": name}
    data = header_name_bytes(name)
    spelled = data.decode("utf-8", "backslashreplace")
    return {"name": name} if spelled == name else {"name": spelled, "name_base64": _base64(data)}


def _name(header: dict[str, str]) -> str:
    if "name_base64" in header:
        return header_name(base64.b64decode(header["name_base64"], validate=True))
    return header["name"]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _written(name: str, data: bytes | None) -> dict[str, str | None]:
    if data is None:
        return {name: None}
    try:
        return {name: data.decode("utf-8")}
    except UnicodeDecodeError:
        return {f"{name}_base64": _base64(data)}


def _read(name: str, members: dict[str, Any]) -> bytes | None:
    if name not in members:
        return base64.b64decode(members[f"{name}_base64"], validate=True)
    text: str | None = members[name]
    return None if text is None else text.encode()
