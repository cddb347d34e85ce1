"""The SOURCE grammar: one word for a file, standard input, a data set, a topic's range or Python's own.

    f.csv f.tsv f.jsonl f.parquet f.arrow     a file; text may be packed (.gz .zst .bz2 .xz .zip)
    -                                         standard input: JSON lines, or CSV by --format csv
    river:NAME                                a data set inside river
    topic:NAME@FROM..TO                       a range of a topic; beginning and end where not given
    module:attr                               an iterable of (x, y) or dicts, or a function giving one

Invariants:
- Whatever the source, what comes out are rows to append, in its order, each with its event time (where it
  has one) and its place for messages.
- What can be known to be wrong before the first row is refused by `open_source`.
"""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from streamlearn.errors import ConfigError
from streamlearn.history import topic_reader
from streamlearn.history.formats import cells, delimited, iterables, jsonlines, tables
from streamlearn.history.formats.column_mapping import ColumnMapping, SourceRecord
from streamlearn.history.formats.delimited import Dialect
from streamlearn.history.formats.files import PACKED, file_suffix, shown
from streamlearn.history.formats.jsonlines import EventPaths, texts
from streamlearn.log.port import Admin

ACCEPTED = (
    "a source is a file (.csv .tsv .jsonl .json, also .gz .zst .bz2 .xz .zip; .parquet .arrow), - for"
    " standard input, river:NAME, topic:NAME@FROM..TO, or module:attr"
)
FORMATS = ("csv", "jsonl", "parquet", "arrow")
_REMOTE = re.compile(r"[a-z0-9]+://")
_PYTHON = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class ReadOptions(NamedTuple):
    """Options of reading a source: paths into whole events, columns of tables, the dialect of CSV, and the
    format ("" = by the file's name).
    """

    paths: EventPaths = EventPaths("key", "ts", "auto")
    columns: ColumnMapping = ColumnMapping()
    dialect: Dialect = Dialect()
    format: str = ""


ReadSource = Callable[[int, Counter[str]], Iterator[SourceRecord | None]]
"""Reads a source once through. Takes the id of the first row without one, and a tally of rows left out."""


class Source:
    """A stream of the past.

    Args:
        name: The source as it was called.
        read: The function that reads it once through.
        total: The number of its rows, None where that is not known at once.
        notes: Sentences for a person about how it is read.
        once: True when it cannot begin again.
        tabular: True when its events were made from columns, and so have the members of the plain envelope.

    Example:
        >>> source = open_source("river:Phishing")
        >>> source.total, source.once
        (1250, False)
    """

    def __init__(
        self,
        name: str,
        read: ReadSource,
        total: int | None = None,
        notes: tuple[str, ...] = (),
        once: bool = False,
        tabular: bool = False,
    ) -> None:
        self.name = name
        self.once = once
        self.tabular = tabular
        self.total = total
        self.notes = notes
        self._read = read
        self._numbered = 0
        self._left_out: Counter[str] = Counter()

    def items(self) -> Iterator[SourceRecord | None]:
        """The rows, once through; None where nothing more has arrived yet, as on a slow pipe.

        Rows without an id are numbered; the numbers go on where the pass before ended.
        """
        for record in self._read(self._numbered, self._left_out):
            self._numbered += record is not None
            yield record

    def preview(self) -> Iterator[SourceRecord | None]:
        """The items of the next pass, without beginning it."""
        return self._read(self._numbered, Counter())

    def remarks(self) -> list[str]:
        """Remarks for a person on the rows that were read."""
        headers = self._left_out[delimited.HEADERS]
        if not headers:
            return []
        rows = "row repeats" if headers == 1 else "rows repeat"
        return [f"{shown(self.name)}: {headers:,} {rows} the header, and no event was made of it"]


def open_source(name: str, options: ReadOptions | None = None, admin: Admin | None = None) -> Source:
    """The source called `name`.

    Args:
        name: A file, `-`, `river:NAME`, `topic:NAME@FROM..TO` or `module:attr`; the head of this module has
            the grammar.
        options: Paths, columns, dialect and format.
        admin: The log in which `topic:` looks.

    Raises:
        ConfigError: The message says what is accepted, or what is wrong with the file or the columns.

    Example:
        >>> sum(1 for _ in open_source("river:Phishing").items())
        1250
    """
    options = options or ReadOptions()
    if options.format not in ("", *FORMATS):
        raise ConfigError(f"--format {options.format}: the formats are {', '.join(FORMATS)}")
    if name.startswith("topic:"):
        return _topic(name, options, admin)
    kind = source_format(name, options.format)
    open_kind = {"river": _river, "python": _python, "csv": _csv, "jsonl": _json_lines}.get(kind, _columnar)
    return open_kind(name, options)


def _python(name: str, options: ReadOptions) -> Source:
    iterable, columns = iterables.imported(name), options.columns
    return Source(
        name,
        lambda numbered, _: iterables.records(name, iterables.iterated(name, iterable), columns, numbered),
        once=hasattr(iterable, "__next__"),
        tabular=columns.is_given,
    )


def _river(name: str, options: ReadOptions) -> Source:
    data_set, columns = iterables.data_set(name), options.columns
    return Source(
        name,
        lambda numbered, _: iterables.records(name, data_set, columns, numbered),
        int(data_set.n_samples),
        tabular=columns.is_given,
    )


def _csv(name: str, options: ReadOptions) -> Source:
    once, dialect, columns = name == "-", options.dialect, options.columns
    notes: tuple[str, ...] = ()
    if not once:
        head = delimited.read_head(name, dialect)
        delimited.encoder_for(name, head, columns)
        notes = (*delimited.unnamed(name, head, columns), *_coats(name, options))
    return Source(
        name,
        lambda numbered, left_out: delimited.records(name, dialect, columns, numbered, left_out),
        notes=notes,
        once=once,
        tabular=True,
    )


def _columnar(name: str, options: ReadOptions) -> Source:
    kind, columns = source_format(name, options.format), options.columns
    if name == "-" or Path(name).suffix.lower() in PACKED:
        raise ConfigError(f"{shown(name)}: {kind} is read from a file only; save it unpacked under a name")
    total = tables.row_count(name, kind, columns)
    return Source(
        name, lambda numbered, _: tables.records(name, kind, columns, numbered), total, tabular=True
    )


def _json_lines(name: str, options: ReadOptions) -> Source:
    once, paths, columns = name == "-", options.paths, options.columns
    if columns.is_given:
        return Source(
            name,
            lambda numbered, _: jsonlines.table(name, jsonlines.objects(name), columns, numbered, once),
            once=once,
            tabular=True,
        )
    notes = (
        []
        if once
        else cells.formatted_notes((line for group in texts(name) for _, line in group), paths.features)
    )
    return Source(name, lambda _numbered, _: jsonlines.records(name, paths), None, tuple(notes), once)


def _coats(name: str, options: ReadOptions) -> list[str]:
    """Notes about numbers that are written as text. An error of the file comes when it is read."""
    records = delimited.records(name, options.dialect, options.columns, 0, Counter())
    try:
        lines = (record.row.value or b"" for record in records if record)
        return cells.formatted_notes(lines, "features", options.columns.types)
    except ConfigError:
        return []


def source_format(name: str, form: str = "") -> str:
    """The format of a source: one of `FORMATS`, `river` or `python`. `form`: the format of a file, "" = by
    its name. Raises `ConfigError` when it is none of them.
    """
    if name.startswith("river:"):
        return "river"
    if _PYTHON.fullmatch(name) and not Path(name).exists():
        return "python"
    if name != "-":
        _check_file(name)
    if form:
        return form
    suffix = file_suffix(name)
    if suffix in (".csv", ".tsv"):
        return "csv"
    if suffix in tables.PARQUET:
        return "parquet"
    return "arrow" if suffix in tables.ARROW else "jsonl"


def _check_file(name: str) -> None:
    if _REMOTE.match(name):
        raise ConfigError(f"{name} cannot be read: bring it to this machine first; {ACCEPTED}")
    if Path(name).is_dir():
        raise ConfigError(f"{name} cannot be read: it is a folder; name one file in it")
    if not Path(name).is_file():
        raise ConfigError(f"{name} cannot be read: there is no such file{like_it(name)}; {ACCEPTED}")
    if not os.access(name, os.R_OK):
        raise ConfigError(f"{name} cannot be read: you may not read it; change its permissions")


def like_it(name: str) -> str:
    """The files of a like name beside a path where none is, as a question in brackets; else ""."""
    path = Path(name)
    with contextlib.suppress(OSError):
        near = get_close_matches(path.name, [file.name for file in path.parent.iterdir()], n=2)
        if near:
            return f" (did you mean {' or '.join(str(path.with_name(file)) for file in near)}?)"
    return ""


def topic_range(name: str, admin: Admin) -> tuple[str, topic_reader.Offsets, topic_reader.Offsets]:
    """The topic of a source `topic:NAME@FROM..TO`, and per partition its first offset and that after it."""
    topic, _, span = name.removeprefix("topic:").partition("@")
    first, _, upto = span.partition("..")
    return (
        topic,
        topic_reader.resolve_offsets(admin, topic, first or "beginning"),
        topic_reader.resolve_offsets(admin, topic, upto or "end"),
    )


def _topic(name: str, options: ReadOptions, admin: Admin | None) -> Source:
    if admin is None or name == "topic:":
        raise ConfigError(f"{name} cannot be read: write topic:NAME@FROM..TO, and say where the log is")
    topic, *ends = topic_range(name, admin)
    columns = options.columns

    def read(numbered: int, _: Counter[str]) -> Iterator[SourceRecord | None]:
        records = topic_reader.between(admin, topic, *ends)
        if not columns.is_given:
            return jsonlines.topic_records(name, records, options.paths)
        return jsonlines.table(name, jsonlines.record_objects(name, records), columns, numbered)

    return Source(name, read, tabular=columns.is_given)


def limited(records: Iterator[SourceRecord | None], limit: int | None) -> Iterator[SourceRecord | None]:
    """The first `limit` records, None not counted; nothing is read after them."""
    count = 0
    while count != limit:
        try:
            record = next(records)
        except StopIteration:
            return
        count += record is not None
        yield record
