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


class _NotFiniteError(Exception):
    """A NaN or an infinity stands somewhere in the value."""


def avro_reader(text: str, references: Iterable[str] = ()) -> Callable[[bytes], dict[str, Any] | Refusal]:
    """Compile a reader of bytes of the schema `text`. Raises `ValueError` for a schema that is not read."""
    import fastavro

    try:
        known: dict[str, Any] = {}
        names: dict[str, Any] = {}
        for reference in references:
            fastavro.parse_schema(_checked(orjson.loads(reference), known, "", 0), named_schemas=names)
        schema = fastavro.parse_schema(_checked(orjson.loads(text), known, "", 0), named_schemas=names)
    except Exception as error:  # fastavro raises of all kinds for what is no schema; each means the same here
        raise ValueError(f"the Avro schema cannot be read: {error}") from error

    def read(value: bytes) -> dict[str, Any] | Refusal:
        data = io.BytesIO(value)
        try:
            found = fastavro.schemaless_reader(data, schema, None)
        except Exception:  # noqa: BLE001 whatever fastavro raises (it has no error of its own): they do not fit
            return Refusal("decode", "not_avro")
        if data.tell() != len(value):
            return Refusal("decode", "not_avro")
        try:
            doc = _as_json(found)
        except _NotFiniteError:
            return Refusal("decode", "not_finite")
        return doc if type(doc) is dict else Refusal("decode", "not_object")

    return read


def _as_json(part: Any) -> Any:
    """A value that fastavro read, in the types that JSON has."""
    kind = type(part)
    if kind is dict:
        return {name: _as_json(inner) for name, inner in part.items()}
    if kind is list:
        return [_as_json(inner) for inner in part]
    if kind is bytes:
        return base64.b64encode(part).decode()
    if kind is Decimal:
        part = from_decimal(part)
        if part is MISSING:
            raise _NotFiniteError
    if type(part) is float and not isfinite(part):
        raise _NotFiniteError
    return part


def _checked(schema: Any, known: dict[str, Any], space: str, depth: int) -> Any:
    """`schema` without logical types but decimals; `known` gathers its named types and their least size.

    Raises `ValueError` for what the invariants exclude.
    """
    if depth > MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    if isinstance(schema, list):
        return [_checked(branch, known, space, depth + 1) for branch in schema]
    if isinstance(schema, str):
        if schema not in _PRIMITIVES and _size(schema, known, space) is None:
            raise ValueError(f"{schema} contains itself")
        return schema
    kind = schema["type"]
    if isinstance(kind, dict | list):
        return _checked(kind, known, space, depth + 1)
    kept = {name: part for name, part in schema.items() if name != "logicalType"}
    if schema.get("logicalType") == "decimal":
        kept["logicalType"] = "decimal"
    if kind == "array":
        kept["items"] = _checked(schema["items"], known, space, depth + 1)
        if not _size(kept["items"], known, space):
            raise ValueError("the items of an array take no bytes")
    elif kind == "map":
        kept["values"] = _checked(schema["values"], known, space, depth + 1)
    elif kind in ("record", "error", "enum", "fixed"):
        full = _full(schema["name"], schema.get("namespace", space))
        known[full] = None  # until it is whole, a mention of it is recursion
        if kind in ("record", "error"):
            inner = full.rpartition(".")[0]
            kept["fields"] = [
                {**field, "type": _checked(field["type"], known, inner, depth + 1)}
                for field in schema["fields"]
            ]
            known[full] = min(1, sum(_size(field["type"], known, inner) or 0 for field in kept["fields"]))
        else:
            known[full] = min(1, schema["size"]) if kind == "fixed" else 1
    return kept


def _full(name: str, space: str) -> str:
    return name if "." in name or not space else f"{space}.{name}"


def _size(schema: Any, known: dict[str, Any], space: str) -> int | None:
    """The least bytes of a value (0 or 1); None for a type that is not whole yet."""
    if isinstance(schema, list):
        return 1
    if isinstance(schema, str):
        if schema in _PRIMITIVES:
            return int(schema != "null")
        full = _full(schema, space)
        return known[full if full in known else schema]  # type: ignore[no-any-return] # 0, 1 or None
    if schema["type"] in ("record", "error", "enum", "fixed"):
        return _size(_full(schema["name"], schema.get("namespace", space)), known, space)
    return 1 if schema["type"] in ("array", "map") else _size(schema["type"], known, space)
