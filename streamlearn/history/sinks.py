"""Sinks of records: a file (JSON lines, or CSV with a column for each path), standard output or a topic.

Invariants:
- The header of a CSV file holds every path that occurs, in the order in which they first do; a row leaves
  out nothing. Numbers stand as JSON writes them, true and false as words; null and what is absent is an
  empty cell.
- A file appears under its name only when it is whole; what ends early leaves nothing.
- A topic's rows are durable when `write` of a later one, or the end, returns; at most `BATCH` rows wait.
"""

import contextlib
import csv
import io
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import orjson

from streamlearn.core.events.paths import leaves
from streamlearn.core.records import Output, Record
from streamlearn.core.shard.facts import Facts, Refused
from streamlearn.errors import CheckFailed
from streamlearn.history.formats.record_json import line
from streamlearn.history.whole_file import whole_file
from streamlearn.log.port import Admin, ProducerRecord

BATCH = 2_000
MAX_COLUMNS = 10_000


class Sink(Protocol):
    """Takes outputs in order: all that `score` and `record` ask of the end of a stream."""

    def write(self, outputs: Sequence[Output]) -> None:
        """Take these outputs after those of earlier calls. A sink may keep some until its end."""


class Lines:
    """Values as JSON lines."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, outputs: Sequence[Output]) -> None:
        """As `Sink.write`."""
        for output in outputs:
            self._file.write((output.value or b"") + b"\n")


class Rows:
    """Records of a topic, each on its source's partition where the topic has it."""

    def __init__(self, admin: Admin, topic: str) -> None:
        self._admin = admin
        self._topic = topic
        self._partitions = admin.topics([topic])[topic].partitions
        self._waiting: list[ProducerRecord] = []

    def write(self, outputs: Sequence[Output]) -> None:
        """As `Sink.write`."""
        self._waiting += [
            ProducerRecord(output.key, output.value, output.headers, output.partition % self._partitions)
            for output in outputs
        ]
        if len(self._waiting) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        if self._waiting:
            self._admin.append(self._topic, self._waiting)
            self._waiting = []


class Letters:
    """Dead letters as lines that `replay` sends back, headers included."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def take(self, facts: Facts) -> None:
        """Take the dead letter among the facts of a record, if there is one."""
        for fact in facts:
            if isinstance(fact, Refused):
                self._write(fact.record, fact.output)

    def _write(self, record: Record, letter: Output) -> None:
        """The record as it was, with the reasons in its headers."""
        text = line(
            Record(
                record.topic,
                record.partition,
                record.offset,
                record.timestamp_ms,
                letter.key,
                letter.value,
                letter.headers,
            )
        )
        self._sink.write((Output("dlq", record.partition, None, text),))


@contextlib.contextmanager
def open_sink(out: str, admin: Admin | None) -> Iterator[Sink]:
    """The sink called `out`, for a `with` block; its output counts only when the block ends well.

    Args:
        out: A file (`.csv` is a table, else JSON lines), "" for standard output, or `topic:NAME`.
        admin: The log of `topic:`; None for the others.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "out.csv")
        ...     with open_sink(str(path), None) as sink:
        ...         sink.write([Output("predictions", 0, None, b'{"id":"e1","prediction":true}')])
        ...     path.read_text().splitlines()
        ['id,prediction', 'e1,true']
    """
    if out.startswith("topic:"):
        assert admin is not None
        rows = Rows(admin, out.removeprefix("topic:"))
        yield rows
        rows.flush()
    elif not out:
        yield Lines(sys.stdout.buffer)
        sys.stdout.flush()
    elif Path(out).suffix.lower() == ".csv":
        with tempfile.TemporaryFile() as lines, whole_file(Path(out)) as file:
            yield Lines(lines)
            columns = csv_columns(_read_back(lines))
            for text in csv_lines(_read_back(lines), columns):
                file.write(text + b"\n")
    else:
        with whole_file(Path(out)) as file:
            yield Lines(file)


def _read_back(lines: BinaryIO) -> Iterator[Record]:
    lines.seek(0)
    for number, text in enumerate(lines):
        yield Record("predictions", 0, number, 0, None, text)


# --- CSV ----------------------------------------------------------------------------------------------


def csv_columns(records: Iterable[Record]) -> list[str]:
    """The paths of all values. Raises `CheckFailed` at a value that is no row."""
    columns: dict[str, None] = {}
    for record in records:
        for path, _ in _cells(record):
            columns[path] = None
        if len(columns) > MAX_COLUMNS:
            raise CheckFailed(
                f"{record.topic} has over {MAX_COLUMNS:,} different members up to offset {record.offset}:"
                " that is no table; write JSON lines instead (a file name without .csv)"
            )
    return list(columns)


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
    cells = [(path, leaf) for path, leaf in leaves(value) if leaf not in ({}, [])]
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
