"""Parquet and Arrow files as events, by pyarrow (the extra `parquet`), a batch of rows at a time.

Invariant: values keep their types; a null and a NaN are absent; what JSON cannot hold is refused by place.
"""

from collections.abc import Iterator
from typing import Any

from streamlearn.errors import ConfigError
from streamlearn.history.formats.column_mapping import ColumnMapping, SourceRecord, TableEncoder

PARQUET = (".parquet", ".pq")
ARROW = (".arrow", ".feather", ".ipc")
_CELLS = 1 << 16


def row_count(name: str, kind: str, mapping: ColumnMapping) -> int | None:
    """The number of rows, where the file tells. Raises `ConfigError` when it or a named column is wrong."""
    names, rows = _head(name, kind)
    TableEncoder(name, names, mapping, text=False)
    return rows


def column_names(name: str, kind: str) -> tuple[str, ...]:
    """The names of the columns. Raises `ConfigError` when the file is damaged."""
    return _head(name, kind)[0]


def _head(name: str, kind: str) -> tuple[tuple[str, ...], int | None]:
    with _arrow_errors(name, kind) as pa:
        if kind == "parquet":
            with pa.parquet.ParquetFile(name) as file:
                names, rows = tuple(file.schema_arrow.names), int(file.metadata.num_rows)
        else:
            reader = _open_ipc(pa, name)
            names, rows = tuple(reader.schema.names), None
    twice = sorted({column for column in names if names.count(column) > 1})
    if twice:
        raise ConfigError(f"{name} has several columns called {twice[0]!r}: give each a name of its own")
    return names, rows


def records(name: str, kind: str, mapping: ColumnMapping, numbered: int) -> Iterator[SourceRecord]:
    """The file's rows as events; rows are numbered from 1 for messages, and from `numbered` for ids."""
    names, _ = _head(name, kind)
    encoder = TableEncoder(name, names, mapping, text=False)
    size = max(1, min(2000, _CELLS // max(1, len(names))))
    with _arrow_errors(name, kind) as pa:
        rows = (
            cells
            for table in _tables(pa, name, kind, size)
            for cells in zip(*(_values(pa, column) for column in table.columns), strict=True)
        )
        for index, cells in enumerate(rows):
            yield encoder.record(cells, index + 1, numbered + index)


def _tables(pa: Any, name: str, kind: str, size: int) -> Iterator[Any]:
    if kind == "parquet":
        with pa.parquet.ParquetFile(name) as file:
            yield from file.iter_batches(batch_size=size)
        return
    reader = _open_ipc(pa, name)
    batches = (
        (reader.get_batch(index) for index in range(reader.num_record_batches))
        if hasattr(reader, "num_record_batches")
        else reader
    )
    for batch in batches:
        yield from (batch.slice(first, size) for first in range(0, batch.num_rows, size))


def _open_ipc(pa: Any, name: str) -> Any:
    """An Arrow file (also Feather 2), or else an Arrow stream."""
    source = pa.memory_map(name)
    if source.read(6) == b"ARROW1":
        return pa.ipc.open_file(source)
    source.seek(0)
    return pa.ipc.open_stream(source)


def _values(pa: Any, column: Any) -> list[Any]:
    """A column as Python values; nanoseconds, which Python has not, are cut to microseconds."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        column = column.cast(pa.timestamp("us", kind.tz), safe=False)
    elif pa.types.is_time64(kind) and kind.unit == "ns":
        column = column.cast(pa.time64("us"), safe=False)
    values: list[Any] = column.to_pylist()
    return values


class _arrow_errors:  # noqa: N801 - a context manager, read as a verb
    """Gives pyarrow, and makes what it raises about a file a message that names the file."""

    def __init__(self, name: str, kind: str) -> None:
        self._name = name
        self._kind = kind

    def __enter__(self) -> Any:
        try:
            import pyarrow as pa
            import pyarrow.ipc
            import pyarrow.parquet
        except ImportError:
            raise ConfigError(
                f"{self._name}: {self._kind} files are read with pyarrow, which is not installed:"
                " pip install pyarrow (in a clone of streamlearn: pip install '.[parquet]')"
            ) from None
        self._raised = (pa.ArrowException, OSError)
        return pa

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, self._raised):
            message = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(
                f"{self._name} is no whole {self._kind} file ({message}): it is damaged or was cut short;"
                " copy it again, or write it anew"
            ) from error
