"""One owned shard on Kafka: a transactional producer, its journal, and two readers.

Invariants:
- A transaction is begun only when everything to be sent has been checked, and committed only after the
  flush *and* every single future succeeded: flush and commit do not tell of a batch that timed out.
- Any error after the begin leaves the outcome to the journal: `Unknown`, or `Fenced` when the error says so.
  The producer is destroyed then, never reused, and this shard can publish nothing more.
- Every wait has a deadline of its own; kafka-python's commit would wait for ever for a coordinator.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import structlog
from kafka import KafkaProducer, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import KafkaError, KafkaTimeoutError

from streamlearn.core.events import HEADER_BYTES
from streamlearn.core.records import Entry, Headers, Output, Positions, Range, Record, encode_entry
from streamlearn.core.records import TopicPartition as Place
from streamlearn.errors import ConfigError, Fenced, Stop, StreamlearnError, Unknown, Unreachable
from streamlearn.log.kafka_admin import Cluster
from streamlearn.log.kafka_client import CONNECT_S, append, connect, destroy, explained, fenced
from streamlearn.log.kafka_election import Election
from streamlearn.log.kafka_identity import SourceIdentities
from streamlearn.log.kafka_journal import Journal
from streamlearn.log.kafka_reader import Reader
from streamlearn.log.port import LOOK_BACK, Names, Polled

_FLUSH_S = 12.0
_COMMIT_S = 10.0
_TRANSACTION_MS = 20000
_STALL_S = 10.0
"""How long a partition that has more may give nothing before we look whether a transaction is open."""
_MESSAGE_BYTES = 1048588
_JOURNAL_KEEPS = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
_FRAME_BYTES = 128
"""Room for a batch's header and the lengths of a record's fields."""

_log = structlog.get_logger()


class _Target:
    """An output topic: the place of each of its partitions, and the largest record it takes."""

    __slots__ = ("limit", "places", "topic")

    def __init__(self, topic: str, partitions: int, limit: int) -> None:
        self.topic = topic
        self.places = [TopicPartition(topic, index) for index in range(partitions)]
        self.limit = limit - _FRAME_BYTES


class KafkaShardLog:
    """`ShardLog` on Kafka. Making one fences every earlier owner of the shard."""

    end: Entry | None
    seen: Positions

    def __init__(
        self,
        cluster: Cluster,
        options: Mapping[str, Any],
        names: Names,
        election: Election,
        shard: int,
    ) -> None:
        self._cluster = cluster
        self._election = election
        self._shard = shard
        self._lost: Fenced | Unknown | None = None
        self._waiting: dict[Place, float] = {}
        self._blocked: set[Place] = set()
        self._live = Reader(cluster.bootstrap, options, patient=True)
        self._past = Reader(cluster.bootstrap, options, wait_ms=20)
        self._identities = SourceIdentities(cluster, self._live, names.sources)
        self._targets, inputs = self._look(names)
        self._transactional_id = f"{names.lock}.{shard}"
        self._producer: Any = self._fence(options, self._transactional_id)
        mine = self._producer._transaction_manager.producer_id_and_epoch
        self._epoch = (int(mine.producer_id), int(mine.epoch))
        try:
            self._journal = Journal(cluster, self._past, names.roles["journal"], shard)
            self.end = self._journal.last
            self.seen = election.reported(inputs)
        except Stop as error:
            newer = self.newer_owner()
            self.close()
            if newer:  # what was found is its doing, and no damage
                raise Fenced(
                    f"{self._transactional_id} was taken over while it was opened: {newer}"
                ) from error
            raise
        except BaseException:
            self.close()
            raise

    def entries(self, after: int) -> Iterator[Entry]:
        """As `ShardLog.entries`."""
        return self._journal.entries(after)

    def first_seq(self) -> int:
        """As `ShardLog.first_seq`."""
        return self._journal.first_seq()

    def newest(self, role: str, since: Mapping[int, int], wanted: Callable[[Record], bool]) -> list[Record]:
        """As `ShardLog.newest`: marks of transactions and aborted records are passed over."""
        found = []
        for topic, partition in self._targets[role].places:
            start, end = self._past.bounds((topic, partition))
            start = max(start, since.get(partition, 0), end - LOOK_BACK)
            found.append(self._past.last((topic, partition), start, end, wanted))
        return [record for record in found if record is not None]

    def ask_sources(self) -> None:
        """As `ShardLog.ask_sources`."""
        self._identities.ask()

    def sources(self) -> dict[str, tuple[str, int]]:
        """As `ShardLog.sources`."""
        return self._identities.answer()

    def poll(self, positions: Positions, max_records: int, max_bytes: int, timeout_s: float) -> Polled:
        """As `ShardLog.poll`. A partition behind a transaction that stays open is not reported as behind."""
        polled = self._live.poll(positions, max_records, max_bytes, timeout_s)
        stuck = polled.behind - polled.records.keys()
        if not stuck and not self._waiting:
            return polled
        return polled._replace(behind=polled.behind - self._stalled(positions, stuck))

    def reached(self, positions: Positions) -> Positions:
        """As `ShardLog.reached`."""
        return self._live.reached(positions)

    def read(self, run: Range) -> Iterator[Record]:
        """As `ShardLog.read`."""
        return self._past.read(run)

    def publish(self, entry: Entry, outputs: Sequence[Output], positions: Positions) -> None:
        """As `ShardLog.publish`. Raises `Stop`, before anything is begun, when a record is too large."""
        journal = self._targets["journal"]
        data = encode_entry(entry)
        _check(journal, None, data, ())
        for output in outputs:
            _check(self._targets[output.role], output.key, output.value, output.headers)
        if self._lost is not None:
            raise self._lost
        try:
            offset = self._transact(journal.places[self._shard], data, outputs)
        except KafkaError as error:
            self._destroy()
            self._lost = (
                Fenced(f"shard {self._shard} has a newer owner: {error}")
                if fenced(error)
                else Unknown(f"entry {entry.seq} of shard {self._shard}: {error}")
            )
            raise self._lost from error
        except BaseException:
            self._destroy()
            raise
        self._journal.published(entry.seq, offset)
        self._election.report(positions)

    def newer_owner(self) -> str:
        """As `ShardLog.newer_owner`. Kafka itself takes the lock away from a transaction that stays open for
        too long; then nobody may hold it, and opening the shard again is right as well.
        """
        if isinstance(self._lost, Fenced):
            return str(self._lost)
        try:
            producer_id, epoch = self._cluster.transaction_owner(self._transactional_id)
        except StreamlearnError as error:
            return f"unknown: {error}"
        if (producer_id, epoch) == self._epoch:
            return ""
        return "producer id {}, epoch {}; ours was {}, {}".format(producer_id, epoch, *self._epoch)

    def sync(self) -> None:
        """Nothing to do: a commit is acknowledged by all in-sync replicas."""

    def trim(self, seq: int) -> None:
        """As `ShardLog.trim`; what fails now is tried again with a later call."""
        try:
            self._journal.trim(seq)
        except (ConfigError, Unreachable) as error:
            _log.warning("journal.not_trimmed", shard=self._shard, reason=str(error))

    def close(self) -> None:
        """As `ShardLog.close`."""
        self._destroy()
        self._live.close()
        self._past.close()

    def _look(self, names: Names) -> tuple[dict[str, _Target], list[Place]]:
        """What to know of the topics before the first transaction."""
        found = self._cluster.topics([*names.sources, *names.roles.values()])
        for topic in (*names.sources, *names.roles.values()):
            if topic not in found:
                raise ConfigError(
                    f"Kafka at {self._cluster.bootstrap} has no topic {topic}. "
                    "Create it; `streamlearn topics ensure` makes those that streamlearn writes."
                )
        journal = names.roles["journal"]
        if self._shard >= found[journal].partitions:
            raise ConfigError(
                f"The journal {journal} has {found[journal].partitions} partitions, none for shard "
                f"{self._shard}. Add partitions to it, or give the service a new [app] name."
            )
        settings = self._cluster.settings(list(names.roles.values()))
        for name, wanted in _JOURNAL_KEEPS.items():
            if settings.get(journal, {}).get(name, wanted) != wanted:
                raise ConfigError(
                    f"The journal {journal} has {name} = {settings[journal][name]}, so Kafka would delete "
                    f"what recovery needs. Set {name} = {wanted} on that topic, then start again."
                )
        targets = {
            role: _Target(
                topic,
                found[topic].partitions,
                int(settings.get(topic, {}).get("max.message.bytes", _MESSAGE_BYTES)),
            )
            for role, topic in names.roles.items()
        }
        inputs = [(topic, index) for topic in names.sources for index in range(found[topic].partitions)]
        return targets, inputs

    def _fence(self, options: Mapping[str, Any], transactional_id: str) -> Any:
        """A new producer that has fenced every earlier one and settled its open transaction."""
        producer = connect(
            KafkaProducer,
            self._cluster.bootstrap,
            options,
            transactional_id=transactional_id,
            # A newer protocol lets a zombie's send bump the epoch, which fences the live owner.
            api_version=(2, 4),
            transaction_timeout_ms=_TRANSACTION_MS,
            delivery_timeout_ms=int(_FLUSH_S * 1000),
            max_block_ms=int(CONNECT_S * 1000),
            max_request_size=max(target.limit for target in self._targets.values()) + _FRAME_BYTES,
            batch_size=262144,
            linger_ms=1000,  # the flush at the end of each transaction sends at once what is there
        )
        try:
            for target in self._targets.values():
                producer._sender.add_topic(target.topic)  # one request for all, beside the next call
            producer.init_transactions()
            for target in self._targets.values():
                producer.partitions_for(target.topic)
        except KafkaError as error:
            destroy(producer)
            if fenced(error):
                raise Fenced(f"{transactional_id} was taken over while it was opened: {error}") from error
            raise explained(self._cluster.bootstrap, f"fencing with {transactional_id}", error) from error
        return producer

    def _transact(self, journal: Any, data: bytes, outputs: Sequence[Output]) -> int:
        """One transaction; returns the offset of the journal entry. Raises `KafkaError`."""
        producer = self._producer
        producer.begin_transaction()
        manager = producer._transaction_manager
        begun: set[Any] = set()
        futures = []
        for output in outputs:
            places = self._targets[output.role].places
            place = places[output.partition % len(places)]
            if place not in begun:
                manager.maybe_add_partition_to_transaction(place)
                begun.add(place)
            futures.append(append(producer, place, output.key, output.value, output.headers))
        manager.maybe_add_partition_to_transaction(journal)
        entry = append(producer, journal, None, data, ())
        futures.append(entry)
        producer.flush(timeout=_FLUSH_S)
        for future in futures:
            if future.exception is not None or not future.is_done:
                raise future.exception or KafkaTimeoutError("a record was not acknowledged in time")
        # `commit_transaction()` is these three lines without a deadline.
        committed = manager.begin_commit()
        producer._sender.wakeup()
        if not committed.wait(timeout_ms=_COMMIT_S * 1000):
            raise KafkaTimeoutError(f"the commit was not acknowledged within {_COMMIT_S:.0f} s")
        return int(entry.value.offset)

    def _destroy(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            destroy(producer)

    def _stalled(self, positions: Positions, stuck: frozenset[Place]) -> set[Place]:
        """Partitions that give nothing because somebody keeps a transaction open; each is told once."""
        now = time.monotonic()
        for tp in positions.keys() - stuck:
            self._waiting.pop(tp, None)
            self._blocked.discard(tp)
        for tp in stuck:
            if now - self._waiting.setdefault(tp, now) < _STALL_S:
                continue
            self._waiting[tp] = now
            stable = self._cluster.offsets([tp], OffsetSpec.LATEST, committed=True)[tp]
            if stable > positions[tp]:
                self._blocked.discard(tp)
            elif tp not in self._blocked:
                self._blocked.add(tp)
                _log.warning(
                    "input.blocked",
                    topic=tp[0],
                    partition=tp[1],
                    offset=positions[tp],
                    reason="a transaction of its producer stays open",
                    holder=self._cluster.open_transactions(tp),
                )
        return self._blocked


def _check(target: _Target, key: bytes | None, value: bytes | None, headers: Headers) -> None:
    """Refuse a record that the broker would refuse, while that costs nothing yet."""
    size = (len(key) if key else 0) + (len(value) if value else 0)
    if headers:
        size += sum(len(name.encode()) + len(data or b"") + HEADER_BYTES for name, data in headers)
    if size > target.limit:
        raise Stop(
            f"A record of {size} bytes for {target.topic} is over its max.message.bytes "
            f"({target.limit + _FRAME_BYTES}). Raise that setting of the topic, then start again."
        )
