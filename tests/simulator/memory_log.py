"""The log port in memory, with Kafka's ways: gaps after transactions, claims, a group, an open transaction.

A `Cluster` is what survives a process: topics, locks and the group. `MemoryLog` is one process's connection
to it. All of it is one state, changed by one thread at a time; nothing here waits but by `clock.sleep`. It
passes the suite of every backend, `tests/test_log_conformance.py`, so that what a simulation finds is about
the service and not about its stage.
"""

import math
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from streamlearn.core.journal import (
    ATTEMPT_KEY,
    CLAIM_KEY,
    RELEASE_KEY,
    Entry,
    encode_attempt,
    encode_claim,
    encode_entry,
    journalled,
    unfinished,
)
from streamlearn.core.records import Output, Positions, Range, Record, RecordPlace, TopicPartition
from streamlearn.errors import Fenced, Gone, NotOwner, Stop, Unreachable
from streamlearn.log.port import LOOK_BACK, FetchResult, ProducerRecord, TopicInfo, TopicNames, TopicSpec

SESSION_S: Final = 10.0
"""A member that is silent for so long has left the group."""
POLL_STEP_S: Final = 0.05


class Clock(Protocol):
    """The time of a process."""

    def now(self) -> float:
        """Seconds since 1970."""

    def sleep(self, seconds: float) -> None:
        """Let others go on for so long."""


class Partition:
    """Records in offset order; `end` is the next offset. `held_from`: where an open transaction begins."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.start = 0
        self.end = 0
        self.newest_ms = 0
        self.held_from: int | None = None

    @property
    def stable(self) -> int:
        """The offset that readers of committed records do not pass."""
        return self.end if self.held_from is None else self.held_from

    def append(self, topic: str, number: int, record: ProducerRecord | Output, now_ms: int) -> int:
        self.newest_ms = max(self.newest_ms, now_ms)
        offset = self.end
        self.records.append(
            Record(topic, number, offset, self.newest_ms, record.key, record.value, tuple(record.headers))
        )
        self.end += 1
        return offset

    def between(self, first: int, end: int) -> list[Record]:
        """The committed records at `first <= offset < end`."""
        end = min(end, self.stable)
        low, high = (bisect_left(self.records, offset, key=lambda r: r.offset) for offset in (first, end))
        return self.records[low:high]


class Topic:
    """A topic with its identity, which changes when it is made again."""

    def __init__(self, ident: str, spec: TopicSpec) -> None:
        self.ident = ident
        self.settings = dict(spec.settings)
        self.partitions = [Partition() for _ in range(spec.partitions)]


class Transaction(NamedTuple):
    """What an owner has written and not committed: by partition, the offset of its first record."""

    epoch: int
    begun: dict[TopicPartition, int]


class Cluster:
    """What all processes share and none of them takes along when it dies."""

    def __init__(self) -> None:
        self.topics: dict[str, Topic] = {}
        self.epochs: dict[str, int] = {}
        self.open: dict[str, Transaction] = {}
        self.members: dict[str, dict[str, float]] = {}
        self.holder: dict[str, str] = {}
        self.reported: dict[str, Positions] = {}
        self.blobs: dict[str, bytes] = {}
        self._made = 0

    def create(self, spec: TopicSpec) -> None:
        """Make a topic unless it is there."""
        if spec.name not in self.topics:
            self._made += 1
            self.topics[spec.name] = Topic(f"topic-{self._made}", spec)

    def delete(self, name: str) -> None:
        """Forget a topic with all its records."""
        del self.topics[name]

    def number(self) -> int:
        """A number that nobody else was given."""
        self._made += 1
        return self._made

    def partition(self, place: TopicPartition) -> Partition:
        topic = self.topics.get(place[0])
        if topic is None or place[1] >= len(topic.partitions):
            raise Gone(f"there is no {place[0]}-{place[1]}")
        return topic.partitions[place[1]]

    def info(self, name: str) -> TopicInfo:
        topic = self.topics[name]
        starts = tuple(one.start for one in topic.partitions)
        return TopicInfo(topic.ident, starts, tuple(one.stable for one in topic.partitions))

    def poll(self, positions: Positions, max_records: int) -> FetchResult:
        waiting = {}
        for place, position in positions.items():
            partition = self.partition(place)
            if not partition.start <= position <= partition.end:
                raise Gone(
                    f"{place[0]}-{place[1]} holds {partition.start} to {partition.end}, not {position}"
                )
            if found := partition.between(position, partition.end):
                waiting[place] = found
        records = {}
        for left, (place, found) in zip(range(len(waiting), 0, -1), waiting.items(), strict=True):
            if share := -(-max_records // left):
                records[place] = found[:share]
                max_records -= len(records[place])
        behind = [at for at, found in waiting.items() if len(records.get(at, ())) < len(found)]
        return FetchResult(records, frozenset(behind))

    def read(self, run: Range) -> list[Record]:
        partition = self.partition((run.topic, run.partition))
        if not partition.start <= run.first <= run.next <= partition.end:
            raise Gone(f"{run} is not there whole: {partition.start} to {partition.end}")
        return partition.between(run.first, run.next)

    def mark(self, places: Iterable[TopicPartition]) -> None:
        """The end of a transaction takes an offset in each of its partitions."""
        for place in places:
            partition = self.partition(place)
            partition.held_from = None
            partition.end += 1

    def abort(self, lock: str) -> None:
        """End the open transaction of a lock, if there is one, with nothing written."""
        transaction = self.open.pop(lock, None)
        if transaction is None:
            return
        for place, first in transaction.begun.items():
            partition = self.partition(place)
            partition.records = [record for record in partition.records if record.offset < first]
        self.mark(transaction.begun)

    def entries(self, journal: TopicPartition, end: int) -> list[Entry]:
        """The committed entries before offset `end`."""
        found = self.partition(journal).between(0, end)
        try:
            return [entry for record in found if (entry := journalled(record)) is not None]
        except msgspec.MsgspecError as error:
            raise Stop(f"{journal[0]} holds what is no entry: {error}") from error


class MemoryReader:
    """`Reader` and `Admin` on a cluster."""

    def __init__(self, cluster: Cluster, clock: Clock) -> None:
        self._cluster = cluster
        self._clock = clock
        self._turn = 0

    def topics(self, names: Iterable[str]) -> dict[str, TopicInfo]:
        return {name: self._cluster.info(name) for name in names if name in self._cluster.topics}

    def topic_names(self) -> list[str]:
        return list(self._cluster.topics)

    def offsets_at(self, topic: str, timestamp_ms: int) -> tuple[int, ...]:
        found = []
        for partition in self._cluster.topics[topic].partitions:
            later = (r.offset for r in partition.records if r.timestamp_ms >= timestamp_ms)
            found.append(next(later, partition.stable))
        return tuple(found)

    def poll(self, positions: Positions, max_records: int, timeout_s: float) -> FetchResult:
        deadline = self._clock.now() + timeout_s
        while True:
            fetched = self._cluster.poll(positions, max_records)
            left_s = deadline - self._clock.now()
            if fetched.records or left_s <= 0:
                return fetched
            self._clock.sleep(min(POLL_STEP_S, left_s))

    def read(self, run: Range) -> Iterator[Record]:
        yield from self._cluster.read(run)

    def end(self, journal: TopicPartition) -> Entry | None:
        found = self._cluster.entries(journal, self._cluster.partition(journal).end)
        return found[-1] if found else None

    def entries(self, journal: TopicPartition, after: int) -> Iterator[Entry]:
        return entries_after(self._cluster, journal, after, self._cluster.partition(journal).end)

    def settings(self, topic: str) -> dict[str, str]:
        return self._cluster.topics[topic].settings

    def create(self, specs: Sequence[TopicSpec]) -> None:
        for spec in specs:
            self._cluster.create(spec)

    def append(self, topic: str, records: Sequence[ProducerRecord]) -> None:
        partitions = self._cluster.topics[topic].partitions
        for record in records:
            number = record.partition
            if number is None:
                self._turn += 1
                spread = self._turn if record.key is None else zlib.crc32(record.key)
                number = spread % len(partitions)
            partitions[number].append(topic, number, record, int(self._clock.now() * 1000))

    def close(self) -> None:
        """Nothing to let go of."""


def entries_after(cluster: Cluster, journal: TopicPartition, after: int, end: int) -> Iterator[Entry]:
    """Entries with `seq > after` before offset `end`. Raises `Gone` when the next one is not retained."""
    found = cluster.entries(journal, end)
    if found and found[0].seq > after + 1:
        raise Gone(f"{journal[0]} begins at entry {found[0].seq}, not {after + 1}")
    yield from (entry for entry in found if entry.seq > after)


class MemoryLog:
    """`Log` on a cluster, for one process. `between` is called in the middle of each publish."""

    def __init__(
        self, cluster: Cluster, names: TopicNames, clock: Clock, between: Callable[[], None] = lambda: None
    ) -> None:
        self._cluster = cluster
        self._names = names
        self._clock = clock
        self._between = between
        self._member = f"member-{cluster.number()}"

    def owned(self, timeout_s: float) -> frozenset[int]:
        """{0} for the member that holds the shard; it goes to another when the holder is silent or leaves."""
        deadline = self._clock.now() + timeout_s
        while not self._holds():
            left_s = deadline - self._clock.now()
            if left_s <= 0:
                return frozenset()
            self._clock.sleep(min(POLL_STEP_S, left_s))
        return frozenset({0})

    def _holds(self) -> bool:
        now, group = self._clock.now(), self._names.lock
        members = self._cluster.members.setdefault(group, {})
        members[self._member] = now
        for member, beat in list(members.items()):
            if now - beat > SESSION_S:
                del members[member]
        if self._cluster.holder.get(group) not in members:
            self._cluster.holder[group] = min(members, key=lambda member: int(member.rpartition("-")[2]))
        return self._cluster.holder[group] == self._member

    def lost(self) -> Fenced | NotOwner:
        return NotOwner(f"{self._names.roles['journal']} belongs to another member")

    def open(self, shard: int) -> "MemoryShardLog":
        return MemoryShardLog(self._cluster, self._names, self._clock, self._between, shard)

    def others(self) -> int:
        return 0

    def retire(self, shard: int) -> None:
        self.open(shard).close()

    def retention_s(self) -> dict[str, float]:
        return dict.fromkeys(self._names.sources, math.inf)

    def tell(self, value: bytes) -> None:
        place = (self._names.roles["alerts"], 0)
        if place[0] not in self._cluster.topics:
            raise Unreachable(f"there is no topic {place[0]}")
        self._cluster.partition(place).append(
            *place, ProducerRecord(None, value), int(self._clock.now() * 1000)
        )

    def members(self) -> int:
        return len(self._cluster.members.get(self._names.lock, {}))

    def topics(self) -> dict[str, TopicInfo]:
        ours = (*self._names.sources, *self._names.roles.values())
        return {name: self._cluster.info(name) for name in ours if name in self._cluster.topics}

    def hidden_outputs(self) -> dict[TopicPartition, int]:
        places = [
            (t, p) for t in self._names.roles.values() for p in range(len(self._cluster.topics[t].partitions))
        ]
        return {
            place: partition.held_from
            for place in places
            if (partition := self._cluster.partition(place)).held_from is not None
        }

    def open_transactions(self, place: TopicPartition) -> str:
        return "somebody"

    def record_limit(self, role: str) -> int | None:
        return None

    def offsets_at(self, topic: str, timestamp_ms: int) -> tuple[int, ...]:
        return MemoryReader(self._cluster, self._clock).offsets_at(topic, timestamp_ms)

    def close(self) -> None:
        """Leave the group: the shard goes to another member at once."""
        self._cluster.members.get(self._names.lock, {}).pop(self._member, None)


class MemoryShardLog:
    """`ShardLog` on a cluster. Making one fences every earlier owner, ends its transaction, and writes a
    claim.
    """

    def __init__(
        self, cluster: Cluster, names: TopicNames, clock: Clock, between: Callable[[], None], shard: int
    ) -> None:
        self._cluster = cluster
        self._names = names
        self._clock = clock
        self._between = between
        self._journal = (names.roles["journal"], shard)
        self._lock = f"{names.lock}.{shard}"
        self._epoch = cluster.epochs[self._lock] = cluster.epochs.get(self._lock, -1) + 1
        cluster.abort(self._lock)
        self.claim = self._note(CLAIM_KEY, encode_claim(self._lock, self._epoch))
        found = cluster.entries(self._journal, self.claim)
        self.end = found[-1] if found else None
        first = max((r.offset for r in self._records() if r.key is None), default=-1)
        self.unfinished = unfinished(
            (r.key, r.value) for r in self._records() if first < r.offset < self.claim
        )
        self.seen = dict(cluster.reported.get(self._lock, {}))
        self._closed = False

    def _records(self) -> list[Record]:
        return self._cluster.partition(self._journal).records

    def entries(self, after: int) -> Iterator[Entry]:
        return entries_after(self._cluster, self._journal, after, self._cluster.partition(self._journal).end)

    def first_seq(self) -> int:
        found = self._cluster.entries(self._journal, self._cluster.partition(self._journal).end)
        return found[0].seq if found else 0

    def newest(self, role: str, since: Mapping[int, int], wanted: Callable[[Record], bool]) -> list[Record]:
        topic, found = self._names.roles[role], []
        for number, partition in enumerate(self._cluster.topics[topic].partitions):
            start = max(since.get(number, 0), partition.end - LOOK_BACK)
            found += [r for r in reversed(partition.between(start, partition.end)) if wanted(r)][:1]
        return found

    def ask_sources(self) -> None:
        """Nothing to do: the cluster answers at once."""

    def sources(self) -> dict[str, tuple[str, int]]:
        there = {name: self._cluster.topics.get(name) for name in self._names.sources}
        return {name: (topic.ident, len(topic.partitions)) for name, topic in there.items() if topic}

    def poll(self, positions: Positions, max_records: int, max_bytes: int, timeout_s: float) -> FetchResult:
        return MemoryReader(self._cluster, self._clock).poll(positions, max_records, timeout_s)

    def reached(self, positions: Positions) -> Positions:
        """`positions`, past the marks of transactions."""
        moved = {}
        for place, position in positions.items():
            partition = self._cluster.partition(place)
            waiting = partition.between(position, partition.end)
            moved[place] = waiting[0].offset if waiting else max(position, partition.stable)
        return moved

    def read(self, run: Range) -> Iterator[Record]:
        yield from self._cluster.read(run)

    def publish(self, entry: Entry, outputs: Sequence[Output], positions: Positions) -> None:
        """Write into a transaction, let others go on, and commit what nobody has aborted meanwhile."""
        assert not self._closed, "publish after close"
        self._check_epoch()
        transaction = Transaction(self._epoch, {})
        self._cluster.open[self._lock] = transaction
        now_ms = int(self._clock.now() * 1000)
        for output in outputs:
            topic = self._names.roles[output.role]
            number = output.partition % len(self._cluster.topics[topic].partitions)
            self._write(transaction, (topic, number), output, now_ms)
        self._write(transaction, self._journal, ProducerRecord(None, encode_entry(entry)), now_ms)
        self._between()
        self._check_epoch()
        self._cluster.mark(self._cluster.open.pop(self._lock).begun)
        self._cluster.reported[self._lock] = dict(positions)

    def _write(
        self, transaction: Transaction, place: TopicPartition, record: ProducerRecord | Output, now_ms: int
    ) -> None:
        partition = self._cluster.partition(place)
        transaction.begun.setdefault(place, partition.end)
        partition.held_from = transaction.begun[place]
        partition.append(*place, record, now_ms)

    def attempt(self, place: RecordPlace) -> None:
        self._check_epoch()
        self._note(ATTEMPT_KEY, encode_attempt(place))

    def release(self) -> None:
        self._check_epoch()
        self._note(RELEASE_KEY, None)

    def _note(self, key: bytes, value: bytes | None) -> int:
        """Commit what is no entry, in a transaction of its own; its offset."""
        now_ms = int(self._clock.now() * 1000)
        offset = self._cluster.partition(self._journal).append(
            *self._journal, ProducerRecord(key, value), now_ms
        )
        self._cluster.mark([self._journal])
        return offset

    def _check_epoch(self) -> None:
        if newer := self.newer_owner():
            raise Fenced(f"{self._lock}: {newer}")

    def newer_owner(self) -> str:
        newest = self._cluster.epochs[self._lock]
        return f"epoch {newest} is newer than {self._epoch}" if newest > self._epoch else ""

    def sync(self) -> None:
        """Nothing to do: what is committed stays."""

    def trim(self, seq: int) -> None:
        if self.newer_owner():
            return
        partition = self._cluster.partition(self._journal)
        entries = [(r.offset, e.seq) for r in partition.records if (e := journalled(r)) is not None]
        seq = min(seq, entries[-1][1])
        first = next(offset for offset, number in entries if number >= seq)
        partition.start = max(partition.start, first)
        partition.records = [record for record in partition.records if record.offset >= first]

    def close(self) -> None:
        """Abort what is open, if nobody else has."""
        self._closed = True
        if not self.newer_owner():
            self._cluster.abort(self._lock)
