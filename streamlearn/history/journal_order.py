"""The records of a service, from its own topics, in the order in which it took them.

The journal has that order. What the journal does not have (no service ran, or it has not come that far, or
its beginning was trimmed) comes by time of arrival, oldest first: before the journalled records what lies
before them, after them what lies after.

Invariants:
- Each record of the range once, in offset order within a partition; committed records only.
- Nothing is decided by a clock or by how much a poll brings.
"""

import heapq
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from streamlearn.config.schema import Config
from streamlearn.core.journal import Entry, journalled
from streamlearn.core.records import SHARD, Range, Record, TopicPartition
from streamlearn.errors import Stop
from streamlearn.history import topic_reader
from streamlearn.log.port import Admin

BY_ARRIVAL = "arrival"
BY_JOURNAL = "journal"


class Span(NamedTuple):
    """Offsets of one partition: `first <= offset < upto`."""

    first: int
    upto: int


class Recorded:
    """The topics that `config`'s service reads; of the input `topic` only offsets `first` to `upto`, one per
    partition. `order`: where it comes from. `revision`: of the service's first era, where known.
    """

    def __init__(
        self,
        admin: Admin,
        config: Config,
        topic: str,
        first: topic_reader.Offsets,
        upto: topic_reader.Offsets,
    ) -> None:
        self._admin = admin
        self._spans = self._spans_of_sources(config, topic, (first, upto))
        journal = config.topics.journal
        entries = list(self._entries(journal)) if journal in admin.topics([journal]) else []
        self._runs = [run for entry in entries for run in entry.ranges if run[:2] in self._spans]
        eras = [entry.change for entry in entries if entry.change is not None]
        self.order = BY_JOURNAL if self._runs else BY_ARRIVAL
        self.revision = eras[0].revision if eras else 1

    def _spans_of_sources(
        self, config: Config, topic: str, chosen: tuple[topic_reader.Offsets, topic_reader.Offsets]
    ) -> dict[TopicPartition, Span]:
        sources = config.names().sources
        spans = {}
        for name, info in self._admin.topics(sources).items():
            ends = chosen if name == topic else (info.start, info.end)
            for partition, (start, end) in enumerate(zip(*ends, strict=True)):
                spans[name, partition] = Span(start, end)
        return spans

    def records(self) -> Iterator[Record]:
        """All of them, in order."""
        began: dict[TopicPartition, int] = {}
        for run in self._runs:
            began.setdefault((run.topic, run.partition), run.first)
        yield from _merged(
            [self._read(partition, self._cut(partition, upto=first)) for partition, first in began.items()]
        )
        streams = {
            partition: _Stream(self._read(partition, self._cut(partition, first=first)))
            for partition, first in began.items()
        }
        for run in self._runs:
            partition = (run.topic, run.partition)
            yield from streams[partition].before(min(run.next, self._spans[partition].upto))
        rest = [stream.rest() for stream in streams.values()]
        rest += [
            self._read(partition, span) for partition, span in self._spans.items() if partition not in began
        ]
        yield from _merged(rest)

    def _cut(self, partition: TopicPartition, first: int = 0, upto: int | None = None) -> Span:
        span = self._spans[partition]
        upto = span.upto if upto is None else min(upto, span.upto)
        return Span(max(first, span.first), upto)

    def _read(self, partition: TopicPartition, span: Span) -> Iterator[Record]:
        return topic_reader.read_range(self._admin, Range(*partition, *span))

    def _entries(self, journal: str) -> Iterator[Entry]:
        info = topic_reader.topic_info(self._admin, journal)
        run = Range(journal, SHARD, info.start[SHARD], info.end[SHARD])
        for record in topic_reader.read_range(self._admin, run):
            try:
                entry = journalled(record)
            except msgspec.MsgspecError as error:
                raise Stop(
                    f"{journal} at offset {record.offset} is no entry of a journal: {error}"
                ) from error
            if entry is not None:
                yield entry


class _Stream:
    """Records of a partition, taken piece by piece."""

    def __init__(self, records: Iterator[Record]) -> None:
        self._records = records
        self._held: Record | None = next(records, None)

    def before(self, upto: int) -> Iterator[Record]:
        """The next records with `offset < upto`."""
        while self._held is not None and self._held.offset < upto:
            yield self._held
            self._held = next(self._records, None)

    def rest(self) -> Iterator[Record]:
        """All that are left."""
        while self._held is not None:
            yield self._held
            self._held = next(self._records, None)


def _merged(streams: list[Iterator[Record]]) -> Iterator[Record]:
    return heapq.merge(*streams, key=_arrival)


def _arrival(record: Record) -> tuple[Any, ...]:
    return record.timestamp_ms, record.topic, record.partition
