"""One owned shard on Kafka: its writer, which is the lock, its journal, and two readers.

Invariants:
- A transaction is begun only when everything to be sent has been checked.
- After a publish that failed this shard can publish nothing more: its writer is destroyed.
- What is found wrong after the fence counts only while nobody has taken the shard over; else it is `Fenced`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import structlog

from streamlearn.core.journal import ATTEMPT_KEY, RELEASE_KEY, Entry, Unfinished, encode_attempt, encode_entry
from streamlearn.core.records import Output, Positions, Range, Record, RecordPlace, TopicPartition
from streamlearn.errors import ConfigError, Fenced, Gone, Stop, Unknown, Unreachable
from streamlearn.log.kafka.client import LATEST, Client
from streamlearn.log.kafka.cluster import Cluster
from streamlearn.log.kafka.election import Election
from streamlearn.log.kafka.identity import SourceIdentities
from streamlearn.log.kafka.journal import Journal
from streamlearn.log.kafka.reader import RecordReader
from streamlearn.log.kafka.topics import look
from streamlearn.log.kafka.writer import Transactions
from streamlearn.log.port import LOOK_BACK, FetchResult, ProducerRecord, TopicNames

_STALL_S = 10.0
"""How long a partition that has more may give nothing before we look whether a transaction is open."""

_log = structlog.get_logger()


class KafkaShardLog:
    """`ShardLog` on Kafka. Making one fences every earlier owner of the shard."""

    claim: int
    end: Entry | None
    seen: Positions
    unfinished: Unfinished

    def __init__(
        self,
        client: Client,
        cluster: Cluster,
        names: TopicNames,
        election: Election,
        shard: int,
        trims: bool = True,
    ) -> None:
        self._cluster = cluster
        self._election = election
        self._shard = shard
        self._trims = trims
        self._waiting: dict[TopicPartition, float] = {}
        self._blocked: set[TopicPartition] = set()
        self._places, limits, inputs = look(cluster, names, shard)
        self._writer = Transactions(client, cluster, f"{names.lock}.{shard}", limits)
        self._live = RecordReader(cluster.env, client, patient=True)
        self._past = RecordReader(cluster.env, client, wait_ms=20)
        self._identities = SourceIdentities(cluster, self._live, names.sources)
        try:
            journal = (names.roles["journal"], shard)
            self.claim = self._writer.claim(journal)
            self._journal = Journal(cluster, self._past, journal, self.claim)
            self.end = self._journal.last
            self.unfinished = self._journal.unfinished()
            self.seen = election.reported(inputs)
        except Unknown as error:
            self.close()
            raise Unreachable(f"shard {shard} was not opened: {error}") from error
        except (Stop, Fenced) as error:
            try:
                newer = self.newer_owner()
            finally:
                self.close()
            if newer:  # what was found is its doing, and no damage
                raise Fenced(f"shard {shard} was taken over while it was opened: {newer}") from error
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

    def newest(self, role: str, since: Mapping[int, int], accepts: Callable[[Record], bool]) -> list[Record]:
        """As `ShardLog.newest`: marks of transactions and aborted records are passed over."""
        newest = []
        for topic, partition in self._places[role]:
            start, end = self._past.bounds((topic, partition))
            start = max(start, since.get(partition, 0), end - LOOK_BACK)
            newest.append(self._past.last((topic, partition), start, end, accepts))
        return [record for record in newest if record is not None]

    def ask_sources(self) -> None:
        """As `ShardLog.ask_sources`."""
        self._identities.ask()

    def sources(self) -> dict[str, tuple[str, int]]:
        """As `ShardLog.sources`."""
        return self._identities.answer()

    def poll(self, positions: Positions, max_records: int, max_bytes: int, timeout_s: float) -> FetchResult:
        """As `ShardLog.poll`. A partition behind a transaction that stays open is not reported as behind."""
        fetched = self._live.poll(positions, max_records, max_bytes, timeout_s)
        stuck = fetched.behind - fetched.records.keys()
        if not stuck and not self._waiting:
            return fetched
        return fetched._replace(behind=fetched.behind - self._stalled(positions, stuck))

    def reached(self, positions: Positions) -> Positions:
        """As `ShardLog.reached`."""
        return self._live.reached(positions)

    def read(self, run: Range) -> Iterator[Record]:
        """As `ShardLog.read`."""
        return self._past.read(run)

    def publish(self, entry: Entry, outputs: Sequence[Output], positions: Positions) -> None:
        """As `ShardLog.publish`. Raises `Stop`, before anything is begun, when a record is too large."""
        journal = self._places["journal"][self._shard]
        entry_rows = [ProducerRecord(None, encode_entry(entry))]
        self._writer.check(journal[0], entry_rows)
        rows = self._placed(outputs)
        for (topic, _), batch in rows.items():
            self._writer.check(topic, batch)
        try:
            offset = self._writer.commit([*rows.items(), (journal, entry_rows)])
        except (Fenced, Unknown) as error:
            if isinstance(error, Fenced):
                self._election.doubt()
            raise type(error)(f"entry {entry.seq} of shard {self._shard}: {error}") from error
        self._journal.published(entry.seq, offset)
        self._election.report(positions)

    def _placed(self, outputs: Sequence[Output]) -> dict[TopicPartition, list[Output]]:
        """Outputs by the partition that they go to, each in order."""
        by_source: dict[tuple[str, int], list[Output]] = {}
        by_target: dict[TopicPartition, list[Output]] = {}
        for output in outputs:
            source = output.role, output.partition
            batch = by_source.get(source)
            if batch is None:
                places = self._places[output.role]
                target = places[output.partition % len(places)]
                batch = by_source[source] = by_target.setdefault(target, [])
            batch.append(output)
        return by_target

    def attempt(self, record_place: RecordPlace) -> None:
        """As `ShardLog.attempt`."""
        self._note(ATTEMPT_KEY, encode_attempt(record_place))

    def release(self) -> None:
        """As `ShardLog.release`."""
        self._note(RELEASE_KEY, None)

    def _note(self, key: bytes, value: bytes | None) -> None:
        try:
            self._writer.note(self._places["journal"][self._shard], key, value)
        except Fenced:
            self._election.doubt()
            raise

    def newer_owner(self) -> str:
        """As `ShardLog.newer_owner`."""
        newer = self._writer.newer_owner()
        if newer:
            self._election.doubt()
        return newer

    def sync(self) -> None:
        """Nothing to do: a commit is acknowledged by all in-sync replicas."""

    def trim(self, seq: int) -> None:
        """As `ShardLog.trim`; what fails now is tried again with a later call."""
        if not self._trims:
            return
        try:
            self._journal.trim(seq)
        except (ConfigError, Unreachable, Gone) as error:
            _log.warning("journal.not_trimmed", shard=self._shard, reason=str(error))

    def close(self) -> None:
        """As `ShardLog.close`."""
        self._writer.close()
        self._live.close()
        self._past.close()

    def _stalled(self, positions: Positions, stuck: frozenset[TopicPartition]) -> set[TopicPartition]:
        """Partitions that give nothing because somebody keeps a transaction open; each is told once."""
        now = self._cluster.env.monotonic()
        for tp in positions.keys() - stuck:
            self._waiting.pop(tp, None)
            self._blocked.discard(tp)
        for tp in stuck:
            if now - self._waiting.setdefault(tp, now) < _STALL_S:
                continue
            self._waiting[tp] = now
            stable = self._cluster.offsets([tp], LATEST, committed=True)[tp]
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
