"""Where a batch's results go: a file, standard output or a topic.

Invariants:
- A file appears under its name only when it is whole; what ends early leaves nothing.
- A topic's rows are durable when `write` of a later one, or the end, returns; at most `BATCH` rows wait.
"""

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from streamlearn.core.facts import Facts, Refused
from streamlearn.core.records import Output, Record
from streamlearn.log.port import Admin, Row
from streamlearn.replay import tables
from streamlearn.replay.lines import line
from streamlearn.replay.whole_file import whole_file

BATCH = 2_000


class Sink(Protocol):
    """Takes outputs in order."""

    def write(self, outputs: Sequence[Output]) -> None:
        """Take some more."""


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
        self._waiting: list[Row] = []

    def write(self, outputs: Sequence[Output]) -> None:
        """As `Sink.write`."""
        self._waiting += [
            Row(one.key, one.value, one.headers, one.partition % self._partitions) for one in outputs
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
def sink_of(out: str, admin: Admin | None) -> Iterator[Sink]:
    """The sink called `out`: a file (`.csv` is a table, else JSON lines), "" for standard output, or
    `topic:NAME`. What was written counts only when the block ends well.
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
            columns = tables.columns_of(_read_back(lines))
            for text in tables.csv_lines(_read_back(lines), columns):
                file.write(text + b"\n")
    else:
        with whole_file(Path(out)) as file:
            yield Lines(file)


def _read_back(lines: BinaryIO) -> Iterator[Record]:
    lines.seek(0)
    for number, text in enumerate(lines):
        yield Record("predictions", 0, number, 0, None, text)
