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
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from streamlearn.errors import ConfigError
from streamlearn.log.port import Admin, Row
from streamlearn.replay import ahead, coats, columnar, delimited, iterables, jsonlines, reading
from streamlearn.replay.delimited import Dialect
from streamlearn.replay.files import PACKED, shown, suffix_of
from streamlearn.replay.json_texts import texts
from streamlearn.replay.jsonlines import Members
from streamlearn.replay.mapping import Batch, Meaning

ACCEPTED = (
    "a source is a file (.csv .tsv .jsonl .json, also .gz .zst .bz2 .xz .zip; .parquet .arrow), - for"
    " standard input, river:NAME, topic:NAME@FROM..TO, or module:attr"
)
FORMATS = ("csv", "jsonl", "parquet", "arrow")
_REMOTE = re.compile(r"[a-z0-9]+://")
_PYTHON = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class How(NamedTuple):
    """Options of reading a source: members of whole events, columns of tables, the dialect of CSV, and the
    format ("" = by the file's name).
    """

    members: Members = Members("key", "ts", "auto")
    meaning: Meaning = Meaning()
    dialect: Dialect = Dialect()
    format: str = ""


class Item(NamedTuple):
    """One record to send; `time_s` is its event time, None when it has none. `place`: for messages;
    `number`: of the row or line there, a record's offset in a topic.
    """

    row: Row
    time_s: float | None
    place: str = ""
    number: int = 0


class Source:
    """A stream of the past. `total`: the number of its rows where that is known at once. `notes`: what a
    person should know about how it is read. `once`: it cannot begin again. `tabular`: its events were made
    from columns, and so have the members of the plain envelope.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[int], Iterator[Batch]],
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
        self.headers = 0
        self._read = read
        self._numbered = 0

    def batches(self) -> Iterator[Batch]:
        """The rows, once through, in batches of bounded size. Rows without an id are numbered on from
        where the pass before ended.
        """
        for batch in self._read(self._numbered):
            self._numbered += len(batch.rows)
            self.headers += batch.headers
            yield batch

    def found(self) -> list[str]:
        """What a person should know of the rows that were read."""
        if not self.headers:
            return []
        rows = "row repeats" if self.headers == 1 else "rows repeat"
        return [f"{shown(self.name)}: {self.headers:,} {rows} the header, and no event was made of it"]

    def items(self) -> Iterator[Item | None]:
        """The rows one by one; None where nothing more has arrived yet."""
        for batch in self.batches():
            yield from self._items(batch)

    def preview(self) -> Iterator[Item | None]:
        """The items of the next pass, without beginning it."""
        for batch in self._read(self._numbered):
            yield from self._items(batch)

    def _items(self, batch: Batch) -> Iterator[Item | None]:
        name = shown(self.name)
        for at, row in enumerate(batch.rows):
            time_s = batch.times_s[at] if batch.times_s is not None else None
            yield Item(row, time_s, f"{name} row {batch.places[at]}", batch.places[at])
        if batch.pause:
            yield None


def open_source(name: str, how: How | None = None, admin: Admin | None = None) -> Source:
    """The source called `name`; `admin` is where `topic:` looks. Raises `ConfigError` saying what is
    accepted, or what is wrong with the file or the columns.
    """
    how = how or How()
    if how.format not in ("", *FORMATS):
        raise ConfigError(f"--format {how.format}: the formats are {', '.join(FORMATS)}")
    if name.startswith("river:"):
        return _river(name, how.meaning)
    if name.startswith("topic:"):
        return _topic(name, how, admin)
    if _PYTHON.fullmatch(name) and not Path(name).exists():
        found = iterables.imported(name)
        return Source(
            name,
            lambda numbered: iterables.batches(name, iterables.iterated(name, found), how.meaning, numbered),
            once=hasattr(found, "__next__"),
            tabular=how.meaning.given,
        )
    if name != "-":
        _check_file(name)
    return _file(name, how)


def _file(name: str, how: How) -> Source:
    kind, meaning, once = _format(name, how.format), how.meaning, name == "-"
    if kind == "csv":
        notes: tuple[str, ...] = ()
        if not once:
            head = delimited.head_of(name, how.dialect)
            delimited.layout_of(name, head, meaning)
            notes = (*delimited.unnamed(name, head, meaning), *_coats(name, how))

        # Only what goes out at full speed, and is worth the start of a process, is read ahead.
        early = not once and not meaning.timed and Path(name).stat().st_size >= ahead.WORTH_BYTES
        read = ahead.batches if early else delimited.batches

        def rows(numbered: int) -> Iterator[Batch]:
            return read(name, how.dialect, meaning, numbered)

        return Source(name, rows, None, notes, once, tabular=True)
    if kind in ("parquet", "arrow"):
        if once or Path(name).suffix.lower() in PACKED:
            raise ConfigError(
                f"{shown(name)}: {kind} is read from a file only; save it unpacked under a name"
            )
        total = columnar.head_of(name, kind, meaning)
        return Source(
            name, lambda numbered: columnar.batches(name, kind, meaning, numbered), total, tabular=True
        )
    if not meaning.given:
        notes = () if once else tuple(coats.notes(_first(name), how.members.features, ()))
        return Source(name, lambda _numbered: jsonlines.batches(name, how.members), None, notes, once)

    def objects(numbered: int) -> Iterator[Batch]:
        return jsonlines.table(name, jsonlines.objects(name), meaning, numbered, once)

    return Source(name, objects, once=once, tabular=True)


def _coats(name: str, how: How) -> list[str]:
    """Notes about numbers that are written as text. An error of the file comes when it is read."""
    found = delimited.encoded(name, how.dialect, how.meaning._replace(timed=False), 0)
    lines = (line for encoded, _ in found for line in encoded.lines.splitlines())
    try:
        return coats.notes(lines, "features", how.meaning.types)
    except ConfigError:
        return []


def _first(name: str) -> Iterator[bytes]:
    return (text for some in texts(name) for _, text in some)


def kind_of(name: str, told: str = "") -> str:
    """The kind of a source: a format of `FORMATS`, `river` or `python`. `told`: the format, "" = by its name.
    Raises `ConfigError` when it is none of them.
    """
    if name.startswith("river:"):
        return "river"
    if _PYTHON.fullmatch(name) and not Path(name).exists():
        return "python"
    if name != "-":
        _check_file(name)
    return _format(name, told)


def _format(name: str, told: str) -> str:
    if told:
        return told
    suffix = suffix_of(name)
    if suffix in (".csv", ".tsv"):
        return "csv"
    if suffix in columnar.PARQUET:
        return "parquet"
    return "arrow" if suffix in columnar.ARROW else "jsonl"


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
            return f" (did you mean {' or '.join(str(path.with_name(one)) for one in near)}?)"
    return ""


def _river(name: str, meaning: Meaning) -> Source:
    found = iterables.data_set(name)
    return Source(
        name,
        lambda numbered: iterables.batches(name, found, meaning, numbered),
        int(found.n_samples),
        tabular=meaning.given,
    )


def topic_range(name: str, admin: Admin) -> tuple[str, reading.Offsets, reading.Offsets]:
    """The topic of a source `topic:NAME@FROM..TO`, and per partition its first offset and that after it."""
    topic, _, span = name.removeprefix("topic:").partition("@")
    first, _, upto = span.partition("..")
    return (
        topic,
        reading.offsets_of(admin, topic, first or "beginning"),
        reading.offsets_of(admin, topic, upto or "end"),
    )


def _topic(name: str, how: How, admin: Admin | None) -> Source:
    if admin is None or name == "topic:":
        raise ConfigError(f"{name} cannot be read: write topic:NAME@FROM..TO, and say where the log is")
    topic, *ends = topic_range(name, admin)

    def read(numbered: int) -> Iterator[Batch]:
        records = reading.between(admin, topic, *ends)
        if not how.meaning.given:
            return jsonlines.recorded(records, how.members)
        groups = jsonlines.record_objects(name, records)
        return jsonlines.table(name, groups, how.meaning, numbered)

    return Source(name, read, tabular=how.meaning.given)


def limited(items: Iterator[Item | None], limit: int | None) -> Iterator[Item | None]:
    """The first `limit` items, None not counted."""
    taken = 0
    for item in items:
        if taken == limit:
            return
        taken += item is not None
        yield item
