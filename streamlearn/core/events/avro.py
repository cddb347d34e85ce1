"""Avro bytes to a document such as JSON gives, with `fastavro` (the extra `avro`).

Times and dates stay the integers they are written as; decimals become numbers as JSON's do; bytes become
base 64, as Kafka Connect writes them.

Invariants:
- Bytes must fit their schema from the first to the last.
- No bytes can make reading endless or endlessly deep: a schema that contains itself, or an array whose
  items take no bytes, is not read at all.
"""

import base64
import io
from collections.abc import Callable, Iterable
from decimal import Decimal
from math import isfinite
from typing import Any, Final

import orjson

from streamlearn.core.events.event import Refusal
from streamlearn.core.events.paths import MISSING
from streamlearn.core.events.values import from_decimal

MAX_DEPTH: Final = 64
_PRIMITIVES: Final = frozenset(("null", "boolean", "int", "long", "float", "double", "bytes", "string"))
_NAMED: Final = frozenset(("record", "error", "enum", "fixed"))


class _NotFiniteError(Exception):
    """A NaN or an infinity stands somewhere in the value."""


def avro_reader(text: str, references: Iterable[str] = ()) -> Callable[[bytes], dict[str, Any] | Refusal]:
    """Compile a reader of bytes of the schema `text`. Raises `ValueError` for a schema that is not read."""
    import fastavro

    try:
        sizes: dict[str, Any] = {}
        names: dict[str, Any] = {}
        for reference in references:
            fastavro.parse_schema(_checked(orjson.loads(reference), sizes, "", 0), named_schemas=names)
        schema = fastavro.parse_schema(_checked(orjson.loads(text), sizes, "", 0), named_schemas=names)
    except Exception as error:  # fastavro raises of all kinds for what is no schema; each means the same here
        raise ValueError(f"the Avro schema cannot be read: {error}") from error

    def read(value: bytes) -> dict[str, Any] | Refusal:
        data = io.BytesIO(value)
        try:
            decoded = fastavro.schemaless_reader(data, schema, None)
        except Exception:  # noqa: BLE001 whatever fastavro raises (it has no error of its own): they do not fit
            return Refusal("decode", "not_avro")
        if data.tell() != len(value):
            return Refusal("decode", "not_avro")
        try:
            doc = _as_json(decoded)
        except _NotFiniteError:
            return Refusal("decode", "not_finite")
        return doc if type(doc) is dict else Refusal("decode", "not_object")

    return read


def _as_json(value: Any) -> Any:
    """A value that fastavro read, in the types that JSON has."""
    kind = type(value)
    if kind is dict:
        return {name: _as_json(inner) for name, inner in value.items()}
    if kind is list:
        return [_as_json(inner) for inner in value]
    if kind is bytes:
        return base64.b64encode(value).decode()
    if kind is Decimal:
        value = from_decimal(value)
        if value is MISSING:
            raise _NotFiniteError
    if type(value) is float and not isfinite(value):
        raise _NotFiniteError
    return value


def _checked(schema: Any, sizes: dict[str, Any], space: str, depth: int) -> Any:
    """`schema` without logical types but decimals; `sizes` gathers its named types and their least size.

    Raises `ValueError` for what the invariants exclude.
    """
    if depth > MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    if isinstance(schema, list):
        return [_checked(branch, sizes, space, depth + 1) for branch in schema]
    if isinstance(schema, str):
        if schema not in _PRIMITIVES and _size(schema, sizes, space) is None:
            raise ValueError(f"{schema} contains itself")
        return schema
    kind = schema["type"]
    if isinstance(kind, dict | list):
        return _checked(kind, sizes, space, depth + 1)
    checked = {name: value for name, value in schema.items() if name != "logicalType"}
    if schema.get("logicalType") == "decimal":
        checked["logicalType"] = "decimal"
    if kind == "array":
        checked["items"] = _checked(schema["items"], sizes, space, depth + 1)
        if not _size(checked["items"], sizes, space):
            raise ValueError("the items of an array take no bytes")
    elif kind == "map":
        checked["values"] = _checked(schema["values"], sizes, space, depth + 1)
    elif kind in _NAMED:
        full = _full(schema["name"], schema.get("namespace", space))
        sizes[full] = None  # until it is whole, a mention of it is recursion
        if kind in ("record", "error"):
            checked["fields"], sizes[full] = _checked_fields(schema, sizes, full.rpartition(".")[0], depth)
        else:
            sizes[full] = min(1, schema["size"]) if kind == "fixed" else 1
    return checked


def _checked_fields(schema: Any, sizes: dict[str, Any], space: str, depth: int) -> tuple[list[Any], int]:
    """The fields of a record, and its least size."""
    fields = [
        {**field, "type": _checked(field["type"], sizes, space, depth + 1)} for field in schema["fields"]
    ]
    return fields, min(1, sum(_size(field["type"], sizes, space) or 0 for field in fields))


def _full(name: str, space: str) -> str:
    return name if "." in name or not space else f"{space}.{name}"


def _size(schema: Any, sizes: dict[str, Any], space: str) -> int | None:
    """The least bytes of a value (0 or 1); None for a type that is not whole yet."""
    if isinstance(schema, list):
        return 1
    if isinstance(schema, str):
        if schema in _PRIMITIVES:
            return int(schema != "null")
        full = _full(schema, space)
        return sizes[full if full in sizes else schema]  # type: ignore[no-any-return] # 0, 1 or None
    if schema["type"] in _NAMED:
        return _size(_full(schema["name"], schema.get("namespace", space)), sizes, space)
    return 1 if schema["type"] in ("array", "map") else _size(schema["type"], sizes, space)
