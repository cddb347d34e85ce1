"""Where a replay's records come from: a file of JSON lines, standard input, or a data set inside river.

Invariants:
- A plain line is sent as it stands, byte for byte, also when it is not JSON: a replay tests the service,
  it does not protect it. A line of `record` is sent as the record it was made from.
- `key` and event time are only looked at: the key becomes the record's, the time paces.
"""

import datetime
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from streamlearn.core.events import event_time_ms, unit_of
from streamlearn.errors import ConfigError
from streamlearn.log.port import Row
from streamlearn.replay import lines

MAX_LINE_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 16
_REMOTE = re.compile(r"[a-z]+://")


class Item(NamedTuple):
    """One record to send; `time_s` is its event time, None when it has none."""

    row: Row
    time_s: float | None


class Members(NamedTuple):
    """Where an event's value holds its key and time (`[event]` of the configuration)."""

    key: str
    time: str
    time_unit: str


class Source(NamedTuple):
    """A stream to replay: `total` is the number of its records where that is known at once."""

    name: str
    members: Members
    total: int | None

    def items(self, lap: int) -> Iterator[Item | None]:
        """The records, once through; None where nothing more has arrived yet. `lap` counts from 0."""
        if self.name.startswith("river:"):
            return _river_items(self.name, lap)
        if self.name == "-":
            return _pipe_items(sys.stdin.buffer, self.members)
        return _file_items(Path(self.name), self.members)


def open_source(name: str, members: Members) -> Source:
    """The source called `name`. Raises `ConfigError` that says what is accepted."""
    if name.startswith("river:"):
        return Source(name, members, _data_set(name).n_samples)
    if name != "-":
        _check_file(name)
    return Source(name, members, None)


def _check_file(name: str) -> None:
    accepted = "a source is a file of JSON lines, - for standard input, or river:NAME"
    suffix = Path(name).suffix
    if _REMOTE.match(name) or name.startswith("topic:"):
        raise ConfigError(f"{name} cannot be replayed: {accepted}")
    if suffix in (".gz", ".zst", ".csv", ".parquet"):
        raise ConfigError(
            f"{name} cannot be replayed: this version reads no {suffix} files, but JSON lines on standard"
            " input: ... | streamlearn replay - -t TOPIC"
        )
    if not Path(name).is_file():
        raise ConfigError(f"{name} cannot be replayed: there is no such file; {accepted}")
    if not os.access(name, os.R_OK):
        raise ConfigError(f"{name} cannot be replayed: you may not read it; change its permissions")


def _file_items(path: Path, members: Members) -> Iterator[Item]:
    with path.open("rb") as file:
        number = 0
        while text := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(text) > MAX_LINE_BYTES:
                raise ConfigError(f"{path}:{number} is longer than {MAX_LINE_BYTES} bytes: is it JSON lines?")
            if text := text.removesuffix(b"\n"):
                yield _item(text, members)


def _pipe_items(pipe: BinaryIO, members: Members) -> Iterator[Item | None]:
    """Lines as they arrive: what is complete goes on at once, and None asks to send it."""
    rest = b""
    read = getattr(pipe, "read1", pipe.read)
    while chunk := read(_CHUNK_BYTES):
        *whole, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise ConfigError(f"a line on standard input is longer than {MAX_LINE_BYTES} bytes")
        yield from (_item(text, members) for text in whole if text)
        yield None
    if rest:
        yield _item(rest, members)


def _item(text: bytes, members: Members) -> Item:
    if record := lines.parse(text):
        time_s = _look(record.value or b"", members)[1]
        row = Row(record.key, record.value, record.headers, record.partition)
        return Item(row, record.timestamp_ms / 1000 if time_s is None else time_s)
    key, time_s = _look(text, members)
    return Item(Row(key, text), time_s)


def _look(value: bytes, members: Members) -> tuple[bytes | None, float | None]:
    """The event's key and time, as far as the value has them."""
    try:
        event = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None, None
    if not isinstance(event, dict):
        return None, None
    key, ts = event.get(members.key), event.get(members.time)
    if key is not None:
        key = key.encode() if isinstance(key, str) else orjson.dumps(key)
    if isinstance(ts, bool) or not isinstance(ts, str | int | float):
        return key, None
    unit = unit_of(ts) if members.time_unit == "auto" else members.time_unit
    time_ms = event_time_ms(ts, unit)
    return key, None if time_ms is None else time_ms / 1000


def _data_sets() -> dict[str, Any]:
    """River's data sets that come inside its wheel, with one label per row, by lower-case name."""
    from river import datasets

    file, remote = datasets.base.FileDataset, datasets.base.RemoteDataset
    kinds = [kind for kind in vars(datasets).values() if isinstance(kind, type) and issubclass(kind, file)]
    return {
        kind.__name__.lower(): kind for kind in kinds if not issubclass(kind, remote) and not kind().n_outputs
    }


def _data_set(name: str) -> Any:
    known = _data_sets()
    kind = known.get(name.removeprefix("river:").lower())
    if kind is None:
        names = ", ".join(sorted(kind.__name__ for kind in known.values()))
        raise ConfigError(
            f"{name} cannot be replayed: it is not among the data sets that come inside river and have one"
            f" label per row. Those are: {names}"
        )
    return kind()


def _river_items(name: str, lap: int) -> Iterator[Item]:
    data = _data_set(name)
    for number, (x, y) in enumerate(data, lap * data.n_samples):
        event: dict[str, Any] = {"id": str(number)}
        time_s = None
        features = {}
        for feature, value in x.items():
            if isinstance(value, datetime.datetime):
                # The event's time and not a feature; a time without a zone is taken as UTC.
                when = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
                event["ts"], time_s = when.isoformat(), when.timestamp()
            else:
                features[feature] = value
        event |= {"features": features, "label": y}
        yield Item(Row(None, orjson.dumps(event, option=orjson.OPT_SERIALIZE_NUMPY)), time_s)
