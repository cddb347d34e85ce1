"""Records as rows of CSV: each member of a JSON value in a column of its own, named by its path.

Invariants:
- The header holds every path that occurs, in the order in which they first do; a row leaves out nothing.
- Numbers stand as JSON writes them, true and false as words; null and what is absent is an empty cell.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson

from streamlearn.core.paths import leaves
from streamlearn.core.records import Record
from streamlearn.errors import CheckFailed

MAX_COLUMNS = 10_000


def columns_of(records: Iterable[Record]) -> list[str]:
    """The paths of all values. Raises `CheckFailed` at a value that is no row."""
    found: dict[str, None] = {}
    for record in records:
        for path, _ in _cells(record):
            found[path] = None
        if len(found) > MAX_COLUMNS:
            raise CheckFailed(
                f"{record.topic} has over {MAX_COLUMNS:,} different members up to offset {record.offset}:"
                " that is no table; write JSON lines instead (a file name without .csv)"
            )
    return list(found)


def csv_lines(records: Iterable[Record], columns: Sequence[str]) -> Iterator[bytes]:
    """The header, and a row per record; tombstones are left out."""
    yield _row(columns)
    for record in records:
        if record.value is not None:
            cells = dict(_cells(record))
            yield _row([_text(cells.get(column)) for column in columns])


def _cells(record: Record) -> list[tuple[str, Any]]:
    if record.value is None:
        return []
    try:
        value = orjson.loads(record.value)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise CheckFailed(
            f"{record.topic}-{record.partition} offset {record.offset} is not a JSON object, so it is no row"
            " of a table: write JSON lines instead (a file name without .csv), or end before it with --to"
        )
    cells = [(path, part) for path, part in leaves(value) if part not in ({}, [])]
    if len(dict(cells)) < len(cells):
        ((path, _),) = Counter(path for path, _ in cells).most_common(1)
        raise CheckFailed(
            f"{record.topic}-{record.partition} offset {record.offset} has two members with the path"
            f" {path!r}, and a row holds one of them: write JSON lines instead (a file name without .csv)"
        )
    return cells


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _row(cells: Sequence[str]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    return out.getvalue().encode()
