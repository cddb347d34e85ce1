"""Topics, partitions and records in an SQLite file.

Invariants:
- Records that arrive together in a partition are stored together, as a *pack*: one row per record costs 4 us,
  a record in a pack about a quarter of that. A pack is named by the offset after its last record.
- Offsets of a partition are contiguous from `log_start` to `next_offset`; both are stored, so that
  neither retention nor a restart ever gives an offset out twice.
- Timestamps are arrival times and never decrease within a partition, so that a time is found by bisection.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, Final

import msgspec

from streamlearn.core.records import (
    Headers,
    Output,
    Positions,
    Range,
    Record,
    TopicPartition,
    header_name,
    header_name_bytes,
)
from streamlearn.env import Env
from streamlearn.errors import ConfigError, Gone
from streamlearn.log.embedded.file import IDLE_S, LogFile
from streamlearn.log.port import FetchResult, ProducerRecord, TopicInfo, TopicSpec

_PACK_RECORDS = 256
_PACK_BYTES = 1 << 20  # a larger pack holds a single record
_CUT_PACKS = 256
_READ_RECORDS = 2000
_READ_BYTES = 1 << 24

_INSERT = "INSERT INTO packs VALUES(?, ?, ?, ?, ?)"
_SELECT = (
    "SELECT next_offset, timestamp_ms, records FROM packs"
    " WHERE topic = ? AND partition = ? AND next_offset > ? ORDER BY next_offset"
)
_ARRIVAL = (
    "SELECT timestamp_ms FROM packs"
    " WHERE topic = ? AND partition = ? AND next_offset > ? ORDER BY next_offset LIMIT 1"
)
_BOUNDS = "SELECT log_start, next_offset, last_ms FROM partitions WHERE topic = ? AND partition = ?"
_IDENTITIES = (
    "SELECT name, id, count(*) FROM topics JOIN partitions ON topic = number"
    " WHERE name IN ({}) GROUP BY number"
)

_TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")

_Packed = tuple[tuple[Any, bytes | None], ...]
"""Headers in a pack: a name is a str, or bytes where it is not UTF-8, which a pack's texts must be."""

_Columns = tuple[list[bytes | None], list[bytes | None], list[_Packed] | None]
"""Keys, values, and headers (None when there are none at all) of a pack."""

_encode_pack = msgspec.msgpack.Encoder().encode
_decode_pack = msgspec.msgpack.Decoder(_Columns).decode


SET_BACK_MS: Final = 3_600_000
"""A clock that is set back by no more does not show: arrivals in a partition never decrease. By more, and it
was ahead before: arrivals begin anew.
"""


def now_ms(env: Env) -> int:
    """The wall clock in milliseconds since 1970, as a record's arrival has them."""
    return round(env.now() * 1000)


class TopicTables:
    """The topics of `file`. Numbers and partition counts never change, so they are asked for once."""

    def __init__(self, file: LogFile) -> None:
        self._env = file.env
        self.file = file
        self._numbers: dict[str, tuple[int, int]] = {}
        self._turn = 0

    def create(self, specs: Sequence[TopicSpec]) -> None:
        """Make the topics that do not exist."""
        with self.file.transaction():
            for spec in specs:
                if not _TOPIC_NAME.fullmatch(spec.name) or spec.partitions < 1:
                    raise ConfigError(
                        f"cannot make topic {spec.name!r} with {spec.partitions} partitions:"
                        " a name has 1 to 249 of A-Z a-z 0-9 . _ - and there is at least one partition"
                    )
                retention_ms = spec.settings.get("retention.ms", "-1")
                if not re.fullmatch(r"-1|[0-9]{1,18}", retention_ms):
                    raise ConfigError(
                        f"retention.ms of topic {spec.name!r} is {retention_ms!r}: use milliseconds,"
                        " or -1 (for ever)"
                    )
                settings = msgspec.json.encode(dict(spec.settings)).decode()
                inserted = self.file.db.execute(
                    "INSERT OR IGNORE INTO topics(name, id, settings) VALUES(?, ?, ?)",
                    (spec.name, self._env.token(), settings),
                )
                if inserted.rowcount:
                    rows = [(inserted.lastrowid, partition) for partition in range(spec.partitions)]
                    self.file.db.executemany("INSERT INTO partitions(topic, partition) VALUES(?, ?)", rows)

    def topics(self) -> dict[str, TopicInfo]:
        """Every topic, by name."""
        bounds: dict[tuple[str, str], list[tuple[int, int]]] = {}
        with self.file.snapshot():
            rows = self.file.db.execute(
                "SELECT name, id, log_start, next_offset FROM topics JOIN partitions ON topic = number"
                " ORDER BY name, partition"
            ).fetchall()
        for name, topic_id, start, end in rows:
            bounds.setdefault((name, topic_id), []).append((start, end))
        return {
            name: TopicInfo(topic_id, tuple(start for start, _ in pairs), tuple(end for _, end in pairs))
            for (name, topic_id), pairs in bounds.items()
        }

    def identities(self, names: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Id and number of partitions of those of `names` that there are, asked for now."""
        statement = _IDENTITIES.format(", ".join("?" * len(names)))
        with self.file.snapshot():
            rows = self.file.db.execute(statement, names).fetchall()
        return {name: (ident, count) for name, ident, count in rows}

    def settings(self) -> dict[str, dict[str, str]]:
        """The settings given at creation, by topic."""
        with self.file.snapshot():
            rows = self.file.db.execute("SELECT name, settings FROM topics").fetchall()
        return {name: msgspec.json.decode(text, type=dict[str, str]) for name, text in rows}

    def number(self, topic: str) -> tuple[int, int]:
        """A topic's number and partition count, which never change. Call it inside a scope."""
        numbered = self._numbers.get(topic)
        if numbered is None:
            numbered = self.file.db.execute(
                "SELECT number, count(*) FROM topics JOIN partitions ON topic = number WHERE name = ?",
                (topic,),
            ).fetchone()
            if numbered[0] is None:
                raise ConfigError(
                    f"{self.file.path} has no topic {topic!r}: make it with `streamlearn topics ensure`"
                )
            self._numbers[topic] = numbered
        return numbered

    def bounds(self, topic: str, partition: int) -> tuple[int, int, int]:
        """First retained offset, next offset, newest timestamp. Call it inside a scope."""
        number, count = self.number(topic)
        if not 0 <= partition < count:
            raise ConfigError(
                f"topic {topic!r} in {self.file.path} has {count} partitions, so no partition {partition}"
            )
        row: tuple[int, int, int] = self.file.db.execute(_BOUNDS, (number, partition)).fetchone()
        return row

    def insert(self, topic: str, partition: int, records: Sequence[ProducerRecord | Output]) -> None:
        """Append records to one partition, arriving now. Call it inside a transaction."""
        _, start, last_ms = self.bounds(topic, partition)
        number, _ = self.number(topic)
        at_ms = now_ms(self._env)
        if last_ms - SET_BACK_MS <= at_ms < last_ms:
            at_ms = last_ms  # a clock that was set back; by more, and it was ahead before
        packs = []
        next_offset = start
        for count, packed in _packs(records):
            next_offset += count
            packs.append((number, partition, next_offset, at_ms, packed))
        self.file.db.executemany(_INSERT, packs)
        self.file.db.execute(
            "UPDATE partitions SET next_offset = ?, last_ms = ? WHERE topic = ? AND partition = ?",
            (next_offset, at_ms, number, partition),
        )

    def poll(self, positions: Positions, max_records: int, max_bytes: int, timeout_s: float) -> FetchResult:
        """As `ShardLog.poll`."""
        deadline = self._env.monotonic() + timeout_s
        while True:
            # SQLite changes this number when another process has committed; asking costs a microsecond.
            version = self.file.pragma("data_version")
            fetched = self._poll_once(positions, max_records, max_bytes)
            if fetched.records:
                return fetched
            while self.file.pragma("data_version") == version:
                left_s = deadline - self._env.monotonic()
                if left_s <= 0:
                    return fetched
                self._env.sleep(min(IDLE_S, left_s))

    def _poll_once(self, positions: Positions, max_records: int, max_bytes: int) -> FetchResult:
        records: dict[TopicPartition, list[Record]] = {}
        with self.file.snapshot():
            ends = {tp: self._end(tp, position) for tp, position in positions.items()}
            ready = [tp for tp, position in positions.items() if position < ends[tp]]
            # Each waiting partition gets its share, and another one is first each time, so that a long
            # backlog in one never hides what has arrived in another.
            self._turn += 1
            shift = self._turn % max(1, len(ready))
            for index, tp in enumerate(ready[shift:] + ready[:shift]):
                waiting = len(ready) - index
                if max_records <= 0 or max_bytes <= 0:
                    break
                share = -(-max_records // waiting), -(-max_bytes // waiting)
                records[tp], size_bytes = self._take(tp, positions[tp], *share)
                max_records -= len(records[tp])
                max_bytes -= size_bytes
        behind = [tp for tp in ready if tp not in records or records[tp][-1].offset + 1 < ends[tp]]
        return FetchResult(records, frozenset(behind))

    def _end(self, tp: TopicPartition, position: int) -> int:
        first, end, _ = self.bounds(*tp)
        if not first <= position <= end:
            raise Gone(
                f"{_name(tp)} holds offsets {first} to {end} (exclusive) in {self.file.path}, not {position}"
            )
        return end

    def _take(
        self, tp: TopicPartition, position: int, max_records: int, max_bytes: int
    ) -> tuple[list[Record], int]:
        topic, partition = tp
        number, _ = self.number(topic)
        cursor = self.file.db.execute(_SELECT, (number, partition, position))
        records_taken: list[Record] = []
        size = 0
        for next_offset, at_ms, packed in cursor:
            keys, values, headers = _decode_pack(packed)
            base = next_offset - len(keys)
            named = None if headers is None else map(_read_names, headers)
            offsets = range(base, next_offset)
            pack = list(
                map(Record, repeat(topic), repeat(partition), offsets, repeat(at_ms), keys, values,
                    named or repeat(()))
            )  # fmt: skip
            first = max(0, position - base)
            for record in pack[first : first + max_records - len(records_taken)]:
                records_taken.append(record)
                size += (len(record.value) if record.value else 0) + (len(record.key) if record.key else 0)
                if size >= max_bytes:
                    break
            if size >= max_bytes or len(records_taken) >= max_records:
                break
        cursor.close()
        return records_taken, size

    def read(self, run: Range) -> Iterator[Record]:
        """As `ShardLog.read`."""
        while run.first < run.next:
            with self.file.snapshot():
                chunk = self.read_now(run)
            yield from chunk
            run = run._replace(first=chunk[-1].offset + 1)

    def read_now(self, run: Range) -> list[Record]:
        """The first records of `run`. Raises `Gone` when it is not there whole. Call it inside a scope."""
        tp = (run.topic, run.partition)
        end = self._end(tp, run.first)
        if end < run.next:
            raise Gone(
                f"{_name(tp)} ends at {end} in {self.file.path}, before {run.next}, which was journalled"
            )
        return self._take(tp, run.first, min(_READ_RECORDS, run.next - run.first), _READ_BYTES)[0]

    def offsets_at(self, topic: str, timestamp_ms: int) -> tuple[int, ...]:
        """As `Log.offsets_at`."""
        with self.file.snapshot():
            return tuple(self.first_since((topic, p), timestamp_ms) for p in range(self.number(topic)[1]))

    def first_since(self, tp: TopicPartition, timestamp_ms: int) -> int:
        """The first offset that arrived at `timestamp_ms` or later, else the end. Call it inside a scope."""
        number, _ = self.number(tp[0])
        first, end, _ = self.bounds(*tp)

        def arrival_ms(offset: int) -> int:
            arrived: int = self.file.db.execute(_ARRIVAL, (number, tp[1], offset)).fetchone()[0]
            return arrived

        return first + bisect_left(range(first, end), timestamp_ms, key=arrival_ms)

    def cut(self, cuts: Mapping[TopicPartition, int], deadline_s: float) -> None:
        """Delete the packs that end at or before the given offsets, until `deadline_s` (monotonic); the rest
        may wait. In short transactions, so that producers get their turn.
        """
        for tp, before in cuts.items():
            while self._env.monotonic() < deadline_s and self._cut_some(tp, before):
                pass

    def _cut_some(self, tp: TopicPartition, before: int) -> bool:
        """Delete the oldest few packs; False when none is left to delete."""
        with self.file.transaction():
            number, _ = self.number(tp[0])
            ends = self.file.db.execute(
                "SELECT next_offset FROM packs WHERE topic = ? AND partition = ? AND next_offset <= ?"
                " ORDER BY next_offset LIMIT ?",
                (number, tp[1], before, _CUT_PACKS),
            ).fetchall()
            if not ends:
                return False
            last = ends[-1][0]
            self.file.db.execute(
                "DELETE FROM packs WHERE topic = ? AND partition = ? AND next_offset <= ?",
                (number, tp[1], last),
            )
            self.file.db.execute(
                "UPDATE partitions SET log_start = ? WHERE topic = ? AND partition = ?", (last, number, tp[1])
            )
        return True


def _packs(records: Sequence[ProducerRecord | Output]) -> Iterator[tuple[int, bytes]]:
    """The packs of `records`: how many records, and their bytes."""
    for start in range(0, len(records), _PACK_RECORDS):
        yield from _split(records[start : start + _PACK_RECORDS])


def _split(records: Sequence[ProducerRecord | Output]) -> Iterator[tuple[int, bytes]]:
    headers = [_packed_names(record.headers) for record in records]
    keys, values = [record.key for record in records], [record.value for record in records]
    packed = _encode_pack((keys, values, headers if any(headers) else None))
    if len(packed) <= _PACK_BYTES or len(records) == 1:
        yield len(records), packed
        return
    middle = len(records) // 2
    yield from _split(records[:middle])
    yield from _split(records[middle:])


def _packed_names(headers: Headers) -> _Packed:
    if all(name.isascii() for name, _ in headers):
        return headers
    return tuple((_packed_name(name), content) for name, content in headers)


def _packed_name(name: str) -> str | bytes:
    data = header_name_bytes(name)
    return name if data.decode("utf-8", "replace") == name else data


def _read_names(headers: _Packed) -> Headers:
    return tuple(
        (header_name(name) if isinstance(name, bytes) else name, content) for name, content in headers
    )


def _name(tp: TopicPartition) -> str:
    return f"{tp[0]}-{tp[1]}"
