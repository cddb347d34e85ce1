"""Who wrote these values? The known shapes of records, and the documents that paths refer to in each.

Pure. Shapes: `envelope` (streamlearn's own), the presets `debezium`, `connect`, `telegraf` and `cloudevents`,
`flat` (any other JSON object), `csv` (one line), `registry` (framed by a schema registry), `tombstone`, and
`unknown`.
"""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from streamlearn.core.records import Record, header_name_bytes
from streamlearn.replay.cells import Rule, converter

Document = Mapping[str, Any]
PRESETS = ("debezium", "connect", "telegraf", "cloudevents")
_DELIMITERS = ",;\t|"


class Shape(NamedTuple):
    """The commonest shape, the documents of the records that have it, and how many have which other.

    `columns` and `delimiter`: of `csv`. `framed`: JSON values stand behind a registry's schema id.
    """

    name: str
    documents: list[Document]
    others: dict[str, int]
    columns: tuple[str, ...] = ()
    delimiter: str = ""
    framed: bool = False


def shape_of(records: Sequence[Record]) -> Shape:
    """The shape of most records."""
    found = [_recognised(record) for record in records]
    counts = Counter(name for name, _ in found)
    counts.pop("tombstone", None)
    counts.pop("delete", None)
    if not counts:
        return Shape("unknown", [], {})
    name = counts.most_common(1)[0][0]
    documents = [document for other, document in found if other == name]
    others = {other: count for other, count in counts.items() if other != name}
    if name == "unknown":
        return _lines([record.value or b"" for record in records]) or Shape(name, [], others)
    framed = name == "registry json"
    shape = "flat" if framed else "registry" if name == "registry binary" else name
    return Shape(shape, documents, others, framed=framed)


def _recognised(record: Record) -> tuple[str, Document]:
    value = record.value
    if value is None:
        return "tombstone", {}
    if len(value) > 5 and value[0] == 0:
        inner = _object(value[5:])
        return ("registry binary", {}) if inner is None else ("registry json", inner)
    doc = _object(value)
    if doc is None:
        return "unknown", {}
    headers = {name.lower(): text or b"" for name, text in record.headers}
    if "ce_specversion" in headers:
        attributes = {
            header_name_bytes(name[3:]).decode("utf-8", "backslashreplace"): text.decode("utf-8", "replace")
            for name, text in headers.items()
            if name[:3] == "ce_"
        }
        return "cloudevents", {**attributes, "data": doc}
    return _wrapped(doc)


def _wrapped(doc: Document) -> tuple[str, Document]:
    payload = doc.get("payload")
    inner = payload if doc.keys() == {"schema", "payload"} else doc
    if isinstance(inner, dict) and inner.get("op") in tuple("curdtm") and inner.keys() & {"after", "before"}:
        row = inner.get("after")
        return ("debezium", row) if isinstance(row, dict) else ("delete", {})
    if inner is not doc:
        return ("connect", inner) if isinstance(inner, dict) else ("tombstone", {})
    if isinstance(doc.get("fields"), dict) and {"name", "timestamp"} <= doc.keys():
        return "telegraf", doc
    if "specversion" in doc and {"id", "source", "type"} <= doc.keys():
        return "cloudevents", doc
    return ("envelope" if isinstance(doc.get("features"), dict | list) else "flat"), doc


def _object(value: bytes) -> dict[str, Any] | None:
    try:
        found = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _lines(values: list[bytes]) -> Shape | None:
    """Values that are lines of CSV: the same number of cells in each."""
    try:
        texts = [value.decode() for value in values if value]
    except UnicodeDecodeError:
        return None
    for delimiter in _DELIMITERS:
        rows = [next(csv.reader([text], delimiter=delimiter), []) for text in texts]
        widths = Counter(map(len, rows))
        width, count = widths.most_common(1)[0] if widths else (0, 0)
        if width > 1 and count >= 0.9 * len(rows):
            names = tuple(f"c{n}" for n in range(1, width + 1))
            read = converter(Rule(""))
            documents: list[Document] = [
                {name: orjson.loads(read(cell) or "null") for name, cell in zip(names, row, strict=True)}
                for row in rows
                if len(row) == width
            ]
            others = {"lines of another width": len(rows) - count} if count < len(rows) else {}
            return Shape("csv", documents, others, names, delimiter)
    return None
