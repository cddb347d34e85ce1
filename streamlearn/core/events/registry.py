"""Values that a schema registry's serializers wrote, and bare Avro: bytes and a schema to a document.

Framing is Confluent's wire format (`json_events.unframed`). What stands behind an id never changes.

Invariants:
- Nothing is fetched here. A schema that is not at hand is asked for by raising `NeedSchema`, before
  anything was changed; the same record is then stepped again.
- Unframed values are JSON, unless the format says `avro` (framed only) or `avro-bare` (never framed).
"""

from collections.abc import Callable, MutableMapping
from typing import Any, Final, NamedTuple

import orjson

from streamlearn.core.events.avro import avro_reader
from streamlearn.core.events.event import EventSpec, Refusal
from streamlearn.core.events.json_events import clean_object, unframed
from streamlearn.core.records import Record
from streamlearn.errors import NeedSchema

MAX_SCHEMAS: Final = 1000
"""Compiled schemas held; when there are more, all are forgotten and compiled again."""

Document = dict[str, Any]
Parse = Callable[[Record, bytes], Document | Refusal]


class Schema(NamedTuple):
    """A schema as the registry has it: `AVRO`, `JSON` or another kind, its text, and the texts of those it
    refers to, each after the ones it needs itself.
    """

    kind: str
    text: str
    references: tuple[str, ...] = ()


def schema_reader(spec: EventSpec, schemas: MutableMapping[str, Schema]) -> Parse:
    """Compile a reader of values of `spec`. Raises `ValueError` when its own schema cannot be understood."""
    local = _parser(_local(spec.schema)) if spec.schema else None
    if spec.format == "avro-bare":
        assert local is not None, "the configuration demands a schema for this format"
        return local
    parsers: dict[str, Parse] = {}

    def read(record: Record, value: bytes) -> Document | Refusal:
        ident, value = unframed(record, value)
        if not ident:
            return Refusal("decode", "not_avro") if spec.format == "avro" else clean_object(record, value)
        if local is not None:
            return local(record, value)
        parse = parsers.get(ident) or _add_parser(ident, parsers, schemas)
        return Refusal("decode", "schema_kind") if parse is None else parse(record, value)

    return read


def _add_parser(ident: str, parsers: dict[str, Parse], schemas: MutableMapping[str, Schema]) -> Parse | None:
    """Compile the parser of a registry's schema; None for a schema that cannot be read."""
    if ident not in schemas:
        raise NeedSchema(ident)
    if len(parsers) >= MAX_SCHEMAS:
        parsers.clear()
    try:
        parsers[ident] = _parser(schemas[ident])
    except ValueError:
        return None
    return parsers[ident]


def _parser(schema: Schema) -> Parse:
    if schema.kind == "JSON":
        return clean_object
    if schema.kind != "AVRO":
        raise ValueError(f"schemas of the kind {schema.kind} are not read")
    read = avro_reader(schema.text, schema.references)
    return lambda _record, value: read(value)


def _local(text: str) -> Schema:
    """A schema from a file: Avro's name their type and fields, JSON Schemas do not."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"the schema is not JSON: {error}") from None
    avro = isinstance(document, list) or (
        isinstance(document, dict) and "fields" in document and "name" in document
    )
    return Schema("AVRO" if avro else "JSON", text)
