"""A value that is one line of CSV: its cells become members named by `[event] columns`.

An empty cell is absent, a number as JSON would write it arrives as a number, everything else as the text
it is; `types` decides where that is not enough. A line that repeats the columns' names is a header.
"""

import csv
import io
from collections.abc import Callable
from typing import Any

from streamlearn.core.convert import cell
from streamlearn.core.events import EventSpec, Refusal, Skipped
from streamlearn.core.records import Record


def csv_reader(spec: EventSpec) -> Callable[[Record, bytes], dict[str, Any] | Refusal | Skipped]:
    """What reads the lines of `spec`, with its columns and its delimiter."""
    columns = list(spec.columns)
    delimiter = spec.delimiter
    texts = {spec.id, spec.key} & set(columns)

    def read(_record: Record, value: bytes) -> dict[str, Any] | Refusal | Skipped:
        cells = _cells(value, delimiter)
        if isinstance(cells, Refusal):
            return cells
        if len(cells) != len(columns):
            return Refusal("decode", "csv_ragged")
        if cells == columns:
            return Skipped("header")
        doc = {
            name: found
            for name, text in zip(columns, cells, strict=True)
            if (found := cell(text)) is not None
        }
        for name in texts:  # the id 1.50 is a name, not the number 1.5
            if type(doc.get(name)) is float:
                doc[name] = cells[columns.index(name)]
        return doc

    return read


def _cells(value: bytes, delimiter: str) -> list[str] | Refusal:
    try:
        text = value.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        return Refusal("decode", "not_utf8")
    if not text:
        return Refusal("decode", "empty")
    if '"' not in text and "\n" not in text and "\r" not in text:
        return text.split(delimiter)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error:
        return Refusal("decode", "not_csv")
    return rows[0] if len(rows) == 1 else Refusal("decode", "not_csv")
