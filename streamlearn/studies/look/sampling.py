"""A sample of what a SOURCE or a topic holds, for `look`: rows of a table, or records as they stand.

Invariant: at most `limit` rows or records are kept, from a topic the newest, from anything else the first.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from streamlearn.core.records import Record
from streamlearn.errors import ConfigError
from streamlearn.history import sources, topic_reader
from streamlearn.history.formats import delimited, iterables, record_json, tables
from streamlearn.history.formats.column_mapping import ColumnMapping, ColumnRoles, addresses
from streamlearn.history.formats.files import file_suffix, shown
from streamlearn.history.formats.jsonlines import texts
from streamlearn.history.sources import ReadOptions
from streamlearn.log.port import Admin

Row = Mapping[str, Any]


class Sample(NamedTuple):
    """A sample: `rows` of a table, which `replay` makes events of (with `options`), or else `records`,
    which reach a service as they stand. `whole`: there is no more than this. `read_options`: the table
    can be read again, with what was said or found out about its cells. `nameless`: columns that the header
    does not name. `notes`: what a person should know of the file.
    """

    name: str
    rows: Sequence[Row] = ()
    records: Sequence[Record] = ()
    options: tuple[str, ...] = ()
    whole: bool = False
    read_options: ReadOptions | None = None
    nameless: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """The number of rows or records."""
        return len(self.rows) or len(self.records)


def sample_source(name: str, options: ReadOptions, limit: int, admin: Admin | None = None) -> Sample:
    """The first rows of a SOURCE. Raises `ConfigError` as `sources.open_source` does."""
    if name.startswith("topic:"):
        source = sources.open_source(name, options, admin)
        rows = (item.row for item in source.items() if item)
        records = [Record("", 0, n, 0, row.key, row.value, row.headers) for n, row in enumerate(rows)]
        return Sample(name, records=records[:limit], whole=len(records) <= limit)
    kind = sources.source_format(name, options.format)
    if kind == "python":
        return _python(name, limit)
    if kind == "csv":
        return _csv(name, options, limit)
    if kind in ("parquet", "arrow"):
        return _table(name, options, tables.column_names(name, kind), limit)
    stream = _lines(name) if kind == "jsonl" else _valued(name, options)
    records = list(itertools.islice(stream, limit))
    return Sample(name, records=records, whole=next(stream, None) is None)


def sample_topic(admin: Admin, topic: str, limit: int) -> Sample:
    """The newest records of a topic."""
    info = topic_reader.topic_info(admin, topic)
    share = -(-limit // info.partitions)
    first = tuple(max(start, end - share) for start, end in zip(info.start, info.end, strict=True))
    records = list(itertools.islice(topic_reader.between(admin, topic, first, info.end), limit))
    return Sample(topic, records=records, whole=info.start == first)


def _csv(name: str, options: ReadOptions, limit: int) -> Sample:
    if name == "-":
        raise ConfigError("CSV on standard input cannot be looked at: save it into a file first")
    names = delimited.read_head(name, options.dialect).names
    try:
        return _table(name, options, names, limit)
    except ConfigError as error:
        if "say --decimal ," not in str(error) or options.columns.decimal != ".":
            raise
    with_commas = options._replace(columns=options.columns._replace(decimal=","))
    return _table(name, with_commas, names, limit)._replace(options=("--decimal ,",))


def _table(name: str, options: ReadOptions, names: tuple[str, ...], limit: int) -> Sample:
    """A table whose columns are all taken for features, so that each cell is read as an undeclared one."""
    roles = ColumnRoles(features=tuple(addresses(names)))
    columns = ColumnMapping(roles, {}, options.columns.missing, options.columns.decimal)
    source = sources.open_source(name, options._replace(columns=columns))
    items = source.items()
    rows = [
        orjson.loads(item.row.value or b"{}")["features"] for item in itertools.islice(items, limit) if item
    ]
    nameless = tuple(set(roles.features) - set(names))
    return Sample(
        name,
        rows=rows,
        whole=next(items, None) is None,
        read_options=options,
        nameless=nameless,
        notes=tuple(source.remarks()),
    )


def _python(name: str, limit: int) -> Sample:
    items = list(itertools.islice(iterables.iterated(name, iterables.imported(name)), limit))
    if items and isinstance(items[0], Mapping) and not iterables.is_event(items[0]):
        return Sample(name, rows=[_plain(name, n, item) for n, item in enumerate(items, 1)])
    rows = (item.row for item in iterables.records(name, items, ColumnMapping(), 0) if item)
    return Sample(name, records=[Record("", 0, n, 0, row.key, row.value) for n, row in enumerate(rows)])


def _plain(name: str, number: int, item: Any) -> Row:
    """A dict of Python's as JSON would have it."""
    try:
        row = orjson.loads(orjson.dumps(item, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS))
    except orjson.JSONEncodeError as error:
        raise ConfigError(
            f"{name} item {number} cannot be written as JSON ({error}): give plain values"
        ) from None
    assert isinstance(row, dict)
    return row


def _lines(name: str) -> Iterator[Record]:
    for number, text in itertools.chain.from_iterable(texts(name)):
        yield record_json.parse(text) or Record(shown(name), 0, number, 0, None, text)


def _valued(name: str, options: ReadOptions) -> Iterator[Record]:
    items = (item for item in sources.open_source(name, options).items() if item)
    for number, item in enumerate(items):
        yield Record(shown(name), 0, number, 0, item.row.key, item.row.value)


def is_topic(name: str) -> bool:
    """True if this is rather a topic's name than a SOURCE."""
    is_source = name == "-" or ":" in name or "/" in name or Path(name).exists()
    suffix = file_suffix(name)
    return not is_source and suffix not in (
        ".csv",
        ".tsv",
        ".jsonl",
        ".ndjson",
        *tables.PARQUET,
        *tables.ARROW,
    )
