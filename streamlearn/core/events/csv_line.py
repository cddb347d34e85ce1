"""A value that is one line of CSV: its cells become members named by `[event] columns`.

A cell has the value that it has in a file (`core.events.values`): blank ones and those of `missing` are
absent, and without a declared type a number is what surely is one. A line that repeats the columns' names is
a header.
"""

import csv
import io
from collections.abc import Callable
from typing import Any, Final

from streamlearn.core.events.event import EventSpec, NoEvent, Refusal
from streamlearn.core.events.paths import MISSING
from streamlearn.core.events.values import JSON_NUMBER, cell, conversions, is_absent
from streamlearn.core.records import Record

_Read = Callable[[str], Any]
_QUOTE: Final = '"'


def csv_reader(spec: EventSpec) -> Callable[[Record, bytes], dict[str, Any] | Refusal | NoEvent]:
    """Compile a reader of the lines of `spec`, with its columns and its delimiter."""
    columns = list(spec.columns)
    delimiter = spec.delimiter
    missing = frozenset(spec.missing)
    readers = [(name, _reader(name, spec)) for name in columns]

    def read(_record: Record, value: bytes) -> dict[str, Any] | Refusal | NoEvent:
        cells = _cells(value, delimiter)
        if isinstance(cells, Refusal):
            return cells
        if len(cells) != len(columns):
            return Refusal("decode", "csv_ragged")
        if cells[0].strip() == columns[0] and [text.strip() for text in cells] == columns:
            return NoEvent("header")
        doc = {}
        for (name, read_cell), text in zip(readers, cells, strict=True):
            if not is_absent(text, missing):
                content = doc[name] = read_cell(text)
                if content is MISSING:
                    return Refusal("decode", "decimal_sign", name)
        return doc

    return read


def _reader(name: str, spec: EventSpec) -> _Read:
    """Compile a reader of this column's cells that are not absent."""
    if name in spec.types:
        convert = conversions(spec.decimal)[spec.types[name]]
        # What does not fit stays as it stands: the mapping refuses it, if it is used.
        return lambda text: text if (converted := convert(text)) is MISSING else converted
    if name in (spec.id, spec.key):
        return _name
    decimal, commas = spec.decimal, spec.delimiter != ","
    return lambda text: cell(text, decimal, commas)


def _name(text: str) -> str | int:
    """An id or a key: the id 1.50 is a name, and not the number 1.5."""
    bare = text.strip()
    whole = (match := JSON_NUMBER.fullmatch(bare)) and not match[1] and not match[2]
    name = cell(bare) if whole else bare
    assert isinstance(name, str | int)
    return name


def _cells(value: bytes, delimiter: str) -> list[str] | Refusal:
    try:
        text = value.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        return Refusal("decode", "not_utf8")
    if not text:
        return Refusal("decode", "empty")
    if _QUOTE not in text and "\n" not in text and "\r" not in text:
        return text.split(delimiter)
    spaced = f"{delimiter} {_QUOTE}" in text  # a quote after a blank opens a cell, too
    lines = io.StringIO(text, newline="")
    try:
        rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=spaced, strict=True))
    except csv.Error:
        return Refusal("decode", "not_csv")
    return rows[0] if len(rows) == 1 else Refusal("decode", "not_csv")
