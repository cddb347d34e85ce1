"""Who wrote these values? The known shapes of records, and the documents that paths refer to in each.

Pure. Shapes: `envelope` (streamlearn's own), the presets `debezium`, `connect`, `telegraf` and `cloudevents`,
`flat` (any other JSON object), `csv` (one line), `registry` (framed by a schema registry), `tombstone`, and
`unknown`. Here they are told apart; what reads them is what the service reads them with.
"""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import orjson

from streamlearn.core.codec import unframed
from streamlearn.core.convert import is_number
from streamlearn.core.events import EventSpec, Refusal
from streamlearn.core.mapping import compile_reader
from streamlearn.core.presets import DEFAULTS, META, recognised
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


def shape_of(records: Sequence[Record]) -> Shape:
    """The shape of most records."""
    names = [_shape(record) for record in records]
    counts = Counter(name for name in names if name not in ("tombstone", "delete"))
    if not counts:
        return Shape("unknown", [], {})
    name = counts.most_common(1)[0][0]
    others = {other: count for other, count in counts.items() if other != name}
    same = [record for record, other in zip(records, names, strict=True) if other == name]
    if name == "unknown":
        return _lines(same, others) or Shape(name, [], others)
    framed = name == "registry json"
    if framed:
        values = [unframed(record, record.value or b"")[1] for record in same]
        pairs = zip(same, values, strict=True)
        same = [msgspec.structs.replace(record, value=value) for record, value in pairs]
    preset = name if name in PRESETS else ""
    documents = [] if name == "registry binary" else _documents(EventSpec(preset=preset), same)
    shape = "flat" if framed else "registry" if name == "registry binary" else name
    return Shape(shape, documents, others, framed=framed)


def _documents(spec: EventSpec, records: Sequence[Record]) -> list[Document]:
    """What the service would find at paths, without what a preset adds of its own."""
    read = compile_reader(spec, {})
    meta = META.get(spec.preset, frozenset())
    found = (read(record, record.value or b"") for record in records)
    return [
        {name: part for name, part in doc.items() if name not in meta} for doc in found if type(doc) is dict
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
        found = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _lines(records: list[Record], others: dict[str, int]) -> Shape | None:
    """Values that are lines of CSV: the same number of cells in each, and no JSON arrays."""
    try:
        texts = [record.value.decode("utf-8-sig") for record in records if record.value]
    except UnicodeDecodeError:
        return None
    if all(text.lstrip().startswith("[") for text in texts):
        return None
    found = [_cut(texts, delimiter) for delimiter in _DELIMITERS]
    share, width, delimiter = max(found, key=lambda one: one[:2])
    if width < 2 or share < 0.9:
        return None
    rows = [next(csv.reader([text], delimiter=delimiter), []) for text in texts]
    names = _header(rows, width) or tuple(f"c{n}" for n in range(1, width + 1))
    spec = EventSpec(format="csv", columns=names, delimiter=delimiter)
    if delimiter != "," and _has_decimal_commas(spec, records):
        spec = msgspec.structs.replace(spec, decimal=",")
    if other := sum(len(row) != width for row in rows):
        others = {**others, "lines of another width": other}
    return Shape("csv", _documents(spec, records), others, names, delimiter, spec.decimal)


def _cut(texts: list[str], delimiter: str) -> tuple[float, int, str]:
    """The share of lines that have the commonest number of cells, and that number, if it is over one."""
    widths = Counter(len(next(csv.reader([text], delimiter=delimiter), [])) for text in texts)
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
    read = compile_reader(spec, {})
    found = [read(record, record.value or b"") for record in records]
    return sum(isinstance(one, Refusal) and one.reason == "decimal_sign" for one in found) > len(found) / 2
