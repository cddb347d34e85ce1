"""Events out of Python: the data sets inside river, and `module:attr`, an iterable of anyone's own.

Invariant: each pass begins a new iteration; a callable is called for each pass.
"""

import datetime
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from streamlearn.config.named import attribute
from streamlearn.errors import ConfigError
from streamlearn.history.formats import jsonlines
from streamlearn.history.formats.cells import ColumnType, value_encoder, zoned
from streamlearn.history.formats.column_mapping import ColumnMapping, SourceRecord, event_time_s
from streamlearn.log.port import ProducerRecord

_ROWS = 1000
_check = value_encoder(ColumnType("a value"))


def data_set(name: str) -> Any:
    """The data set of river that `river:NAME` means. Raises `ConfigError` that lists them."""
    data_sets = _data_sets()
    kind = data_sets.get(name.removeprefix("river:").lower())
    if kind is None:
        names = ", ".join(sorted(kind.__name__ for kind in data_sets.values()))
        raise ConfigError(
            f"{name} cannot be read: it is not among the data sets that come inside river and have one"
            f" label per row. Those are: {names}"
        )
    return kind()


def _data_sets() -> dict[str, Any]:
    """River's data sets that come inside its wheel, with one label per row, by lower-case name."""
    from river import datasets

    file, remote = datasets.base.FileDataset, datasets.base.RemoteDataset
    kinds = [kind for kind in vars(datasets).values() if isinstance(kind, type) and issubclass(kind, file)]
    return {
        kind.__name__.lower(): kind for kind in kinds if not issubclass(kind, remote) and not kind().n_outputs
    }


def imported(name: str) -> Any:
    """The object `module:attr`, also of a module in the working directory. Raises `ConfigError`."""
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return attribute(name, f"{name} cannot be read")


def iterated(name: str, source: Any) -> Iterator[Any]:
    """The items of an iterable, or of what a callable returns. What the user's code raises is named."""
    try:
        items = iter(source() if callable(source) else source)
    except Exception as error:  # the user's callable: whatever it raises is a wrong source
        raise ConfigError(
            f"{name} cannot be read ({type(error).__name__}: {error}): name an iterable of (x, y) pairs or"
            " of dicts, or a function without arguments that returns one"
        ) from error
    for number in itertools.count(1):
        try:
            item = next(items)
        except StopIteration:
            return
        except Exception as error:  # the user's iterator: the message says at which item it broke
            raise ConfigError(f"{name} item {number}: {type(error).__name__}: {error}") from error
        yield item


def records(
    name: str, items: Iterable[Any], mapping: ColumnMapping, numbered: int
) -> Iterator[SourceRecord | None]:
    """Pairs (x, y), whole events, or dicts that are rows of a table, as events."""
    source = iter(items)
    first = next(source, None)
    if first is None:
        return
    source = itertools.chain([first], source)
    if mapping.is_given or not (_is_pair(first) or is_event(first)):
        yield from jsonlines.table(name, _groups(name, source), mapping, numbered)
        return
    for index, item in enumerate(source):
        row, time_s = _event(name, index + 1, numbered + index, item, mapping.time_unit)
        yield SourceRecord(row, time_s, f"{name} row {index + 1}", index + 1)


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[0], Mapping)


def is_event(item: Any) -> bool:
    """True if this is a whole event, and not a row of a table."""
    return isinstance(item, Mapping) and isinstance(item.get("features"), Mapping)


def _groups(name: str, items: Iterator[Any]) -> Iterator[list[tuple[int, Mapping[str, Any]]]]:
    numbered = enumerate(items, 1)
    while group := list(itertools.islice(numbered, _ROWS)):
        yield [(number, _as_row(name, number, item)) for number, item in group]


def _as_row(name: str, number: int, item: Any) -> Mapping[str, Any]:
    if _is_pair(item):
        x, y = item
        return {**x, "label": y}
    if isinstance(item, Mapping):
        return {str(column): value for column, value in item.items()}
    raise _odd(name, number, item)


def _odd(name: str, number: int, item: Any) -> ConfigError:
    return ConfigError(
        f"{name} item {number} is a {type(item).__name__}: items are pairs (x, y) with a dict x, or dicts"
    )


def _event(
    name: str, number: int, ident: int, item: Any, time_unit: str
) -> tuple[ProducerRecord, float | None]:
    if is_event(item):
        row = ProducerRecord(jsonlines.key_bytes(item.get("key")), _dumped(name, number, item))
        return row, event_time_s(item.get("ts"), time_unit)
    if not _is_pair(item):
        raise _odd(name, number, item)
    return _pair(name, number, ident, *item)


def _pair(
    name: str, number: int, ident: int, x: Mapping[str, Any], y: Any
) -> tuple[ProducerRecord, float | None]:
    """The event of a pair as river's data sets give them; a datetime in `x` is its time."""
    event: dict[str, Any] = {"id": str(ident)}
    time_s = None
    features = {}
    for feature, value in x.items():
        if isinstance(value, datetime.datetime):
            when = zoned(value)  # the event's time and not a feature
            event["ts"], time_s = when.isoformat(), when.timestamp()
        else:
            features[feature if isinstance(feature, str) else str(feature)] = value
    event |= {"features": features, "label": y}
    return ProducerRecord(None, _dumped(name, number, event)), time_s


def _dumped(name: str, number: int, event: Mapping[str, Any]) -> bytes:
    for feature, value in event["features"].items():
        if type(value) not in (float, int, str) or value in (float("inf"), float("-inf")):
            try:
                _check(value)
            except ValueError as error:
                raise ConfigError(f"{name} item {number}, feature {feature!r}: {error}") from None
    try:
        return orjson.dumps(event, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError as error:
        raise ConfigError(
            f"{name} item {number} cannot be written as JSON ({error}): give numbers, texts, True, False"
            " or None"
        ) from None
