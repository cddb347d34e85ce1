"""The known shapes of records, by who wrote them, and the documents that paths refer to in each.

Pure. Shapes: `envelope` (streamlearn's own), the presets `debezium`, `connect`, `telegraf` and `cloudevents`,
`flat` (any other JSON object), `csv` (one line), `registry` (framed by a schema registry), `tombstone`, and
`unknown`. Here they are told apart; they are read as the service reads them.
"""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import orjson

from streamlearn.core.events.envelopes import DEFAULTS, META, recognised
from streamlearn.core.events.event import EventSpec, Refusal
from streamlearn.core.events.json_events import unframed
from streamlearn.core.events.mapping import compile_reader
from streamlearn.core.events.values import is_number
from streamlearn.core.records import Record

Document = Mapping[str, Any]
PRESETS = tuple(DEFAULTS)
_DELIMITERS = ",;\t|"


class Shape(NamedTuple):
    """The commonest shape, the documents of the records that have it, and how many have which other.

    `columns`, `delimiter` and `decimal`: of `csv`. `framed`: JSON values stand behind a registry's schema id.
    """

    name: str
    documents: list[Document]
    others: dict[str, int]
    columns: tuple[str, ...] = ()
    delimiter: str = ","
    decimal: str = "."
    framed: bool = False


def recognise_shape(records: Sequence[Record]) -> Shape:
    """The shape of most records."""
    names = list(map(_shape, records))
    others = Counter(names)
    del others["tombstone"], others["delete"]
    if not others:
        return Shape("unknown", [], {})
    name, _ = others.most_common(1)[0]
    del others[name]
    same = [record for record, shape in zip(records, names, strict=True) if shape == name]
    if name == "unknown":
        return _lines(same, others) or Shape(name, [], others)
    if name == "registry binary":
        return Shape("registry", [], others)
    if name == "registry json":
        return Shape("flat", _documents(EventSpec(), list(map(_unframed, same))), others, framed=True)
    preset = name if name in PRESETS else ""
    return Shape(name, _documents(EventSpec(preset=preset), same), others)


def _unframed(record: Record) -> Record:
    return msgspec.structs.replace(record, value=unframed(record, record.value or b"")[1])


def _documents(spec: EventSpec, records: Sequence[Record]) -> list[Document]:
    """The documents in which the service would look for paths, without what a preset adds of its own."""
    read = compile_reader(spec, {})
    meta = META.get(spec.preset, frozenset())
    docs = (read(record, record.value or b"") for record in records)
    return [
        {name: value for name, value in doc.items() if name not in meta} for doc in docs if type(doc) is dict
    ]


def _shape(record: Record) -> str:
    value = record.value
    if value is None:
        return "tombstone"
    ident, inner = unframed(record, value)
    if ident and inner is not value:
        return "registry binary" if _object(inner) is None else "registry json"
    doc = _object(value)
    if doc is None:
        return "registry binary" if ident else "unknown"
    return recognised(record, doc) or ("envelope" if isinstance(doc.get("features"), dict | list) else "flat")


def _object(value: bytes) -> dict[str, Any] | None:
    try:
        doc = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return doc if isinstance(doc, dict) else None


def _texts(records: list[Record]) -> list[str]:
    """The values as texts; none where one of them is not UTF-8."""
    try:
        return [record.value.decode("utf-8-sig") for record in records if record.value]
    except UnicodeDecodeError:
        return []


def _lines(records: list[Record], others: dict[str, int]) -> Shape | None:
    """Values that are lines of CSV: the same number of cells in each, and no JSON arrays."""
    texts = _texts(records)
    if all(text.lstrip().startswith("[") for text in texts):
        return None
    share, width, delimiter = max((_cut(texts, sign) for sign in _DELIMITERS), key=lambda cut: cut[:2])
    if share < 0.9:
        return None
    rows = [_cells(text, delimiter) for text in texts]
    names = _header(rows, width) or tuple(map("c{}".format, range(1, width + 1)))
    spec = EventSpec(format="csv", columns=names, delimiter=delimiter)
    if _has_decimal_commas(spec, records):
        spec = msgspec.structs.replace(spec, decimal=",")
    if ragged := sum(len(row) != width for row in rows):
        others = {**others, "lines of another width": ragged}
    return Shape("csv", _documents(spec, records), others, names, delimiter, spec.decimal)


def _cells(text: str, delimiter: str) -> list[str]:
    return next(csv.reader([text], delimiter=delimiter), [])


def _cut(texts: list[str], delimiter: str) -> tuple[float, int, str]:
    """The share of lines that have the commonest number of cells, and that number; 0 if it is one."""
    widths = Counter(len(_cells(text, delimiter)) for text in texts)
    width, count = widths.most_common(1)[0] if widths else (0, 0)
    return (count / len(texts), width, delimiter) if width > 1 else (0.0, 0, delimiter)


def _header(rows: list[list[str]], width: int) -> tuple[str, ...]:
    """The names in the first line, if it is a header: texts, no two alike, with numbers below one of them."""
    names = tuple(cell.strip() for cell in rows[0])
    if len(set(names)) < width or not all(names) or any(map(is_number, names)) or len(rows) < 2:
        return ()
    below = rows[1] if len(rows[1]) == width else rows[-1]
    return names if any(is_number(cell.replace(",", ".")) for cell in below) else ()


def _has_decimal_commas(spec: EventSpec, records: Sequence[Record]) -> bool:
    if spec.delimiter == ",":
        return False
    read = compile_reader(spec, {})
    events = [read(record, record.value or b"") for record in records]
    refused = sum(isinstance(event, Refusal) and event.reason == "decimal_sign" for event in events)
    return refused > len(events) / 2
