"""The embedded backend: the log port on one SQLite file, for a first minute, a laptop, an edge box, a test.

Invariants:
- The newest `open` of a shard holds its epoch; `publish` checks the epoch inside its own transaction, so
  that nothing of an older owner can become visible.
- The journal is an ordinary topic, one partition per shard, in which an entry's offset is its `seq`.
- A committed transaction survives kill -9 at once, and a power cut after `sync`. What a power cut takes is
  a suffix of the whole file: never an input without the outputs made from it.
- Retention never takes input that the newest checkpoint may still need (see `trim`).

One shard (0) today. The file's write lock is held by one process at a time, for milliseconds: a process
that is stopped (SIGSTOP) inside those blocks the others until it goes on or dies.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from streamlearn.core.journal import ATTEMPT_KEY, CLAIM_KEY, Entry, Unfinished, encode_attempt, encode_entry
from streamlearn.core.records import Output, Positions, Range, Record, RecordPlace, TopicPartition
from streamlearn.env import Env
from streamlearn.errors import Fenced, Unknown
from streamlearn.log.embedded.file import LogFile
from streamlearn.log.embedded.journal import entries_after, last_entry
from streamlearn.log.embedded.owners import Owner, floors
from streamlearn.log.embedded.topics import TopicTables, now_ms
from streamlearn.log.port import LOOK_BACK, FetchResult, ProducerRecord, TopicInfo, TopicNames

BEAT_MS = 1_000
SILENT_MS = 10_000
"""A holder that has been silent for so long is taken to be gone."""

_REPORT_S = 2.0
_TRIM_S = 0.5
_WAIT_S = 0.05


class EmbeddedLog:
    """`Log` on the SQLite file at `path`, which is made when it is missing.

    `retention_s`: records older than that are deleted at `trim`, in every topic without a
    `retention.ms` of its own. Raises `ConfigError` for a file that is not ours, `Unreachable` for one that
    cannot be opened or written.
    """

    def __init__(self, env: Env, names: TopicNames, path: str | Path, retention_s: float) -> None:
        self._env = env
        self._names = names
        self._retention_s = retention_s
        self._file = LogFile(env, path)
        self._topics = TopicTables(self._file)
        self._owner = Owner(self._file, names, 0)
        self._epoch: int | None = None
        self._beat_at_ms = 0

    def owned(self, timeout_s: float) -> frozenset[int]:
        """{0} at once for a process that has not opened the shard yet, so that a second service fences the
        first, and for the one that holds it. A fenced one waits until the holder closed or fell silent.
        """
        deadline = self._env.monotonic() + timeout_s
        while not self._may_hold():
            left_s = deadline - self._env.monotonic()
            if left_s <= 0:
                return frozenset()
            self._env.sleep(min(_WAIT_S, left_s))
        return frozenset({0})

    def _may_hold(self) -> bool:
        if self._epoch is None:
            return True
        with self._file.snapshot():
            epoch, holder, beat_ms = self._owner.held()
        now = now_ms(self._env)
        if epoch != self._epoch:
            # A clock that was set back must not keep a standby waiting for hours: hence the absolute value.
            return bool(holder == "" or abs(now - beat_ms) > SILENT_MS)
        if abs(now - self._beat_at_ms) >= BEAT_MS:
            self._file.check_there()
            self._beat_at_ms = now
            with self._file.transaction():
                self._owner.beat(self._epoch, now)
        return True

    def lost(self) -> Fenced:
        """As `Log.lost`: on one file only a newer owner takes a shard away."""
        with self._file.snapshot():
            holder = self._owner.held().holder
        return Fenced(
            f"{self._names.roles['journal']} is held by {holder or 'nobody, after another process'}"
        )

    def open(self, shard: int) -> "EmbeddedShardLog":
        """Fence the previous owner. Nothing of it is ever half done: SQLite has rolled it back."""
        owner = Owner(self._file, self._names, shard)
        with self._file.transaction():
            end = last_entry(self._topics, (self._names.roles["journal"], shard))
            self._beat_at_ms = now_ms(self._env)
            self._epoch = owner.take(self._beat_at_ms)
            seen = owner.positions()
            unfinished = owner.unfinished()
            owner.note_unfinished(CLAIM_KEY, None)
            owner.note(floor=self._input_floor(owner.floor()))
        return EmbeddedShardLog(
            self._topics,
            self._names,
            shard,
            owner,
            epoch=self._epoch,
            end=end,
            seen=seen,
            unfinished=unfinished,
            retention_s=self._retention_s,
        )

    def _input_floor(self, stored: Positions) -> Positions:
        """Offsets at which retention must stop in the input: the log's start until a trim knows better."""
        floor: Positions = {}
        for topic in self._names.sources:
            for partition in range(self._topics.number(topic)[1]):
                tp = (topic, partition)
                floor[tp] = stored.get(tp, self._topics.bounds(*tp)[0])
        return floor

    def others(self) -> int:
        """0: on one file the newest service takes over, whatever its configuration."""
        return 0

    def retire(self, shard: int) -> None:
        """As `Log.retire`."""
        owner = Owner(self._file, self._names, shard)
        with self._file.transaction():
            epoch = owner.take(now_ms(self._env))
            owner.note(floor={})
            owner.release(epoch)

    def retention_s(self) -> dict[str, float]:
        """As `Log.retention_s`."""
        settings = self._topics.settings()
        kept_ms = {
            topic: float(settings[topic].get("retention.ms", self._retention_s * 1000))
            for topic in self._names.sources
            if topic in settings
        }
        return {topic: math.inf if age_ms < 0 else age_ms / 1000 for topic, age_ms in kept_ms.items()}

    def tell(self, value: bytes) -> None:
        """As `Log.tell`."""
        with self._file.transaction():
            self._topics.insert(self._names.roles["alerts"], 0, [ProducerRecord(None, value)])

    def members(self) -> int:
        """1 while a holder is heard of; who stands by is not known."""
        with self._file.snapshot():
            return int(self._owner.is_held(now_ms(self._env), SILENT_MS))

    def topics(self) -> dict[str, TopicInfo]:
        """Every topic of the configuration that exists."""
        ours = {*self._names.sources, *self._names.roles.values()}
        return {name: info for name, info in self._topics.topics().items() if name in ours}

    def hidden_outputs(self) -> dict[TopicPartition, int]:
        """None: transactions of a file follow each other."""
        return {}

    def open_transactions(self, tp: TopicPartition) -> str:
        """As `Log.open_transactions`."""
        return f"nobody: {tp[0]} is in a file."

    def record_limit(self, role: str) -> int | None:
        """None: a file takes records of any size."""
        return None

    def offsets_at(self, topic: str, timestamp_ms: int) -> tuple[int, ...]:
        """Per partition, the first offset that arrived at `timestamp_ms` or later (else the end)."""
        return self._topics.offsets_at(topic, timestamp_ms)

    def close(self) -> None:
        """Give the shard back, so that a standby takes over at once, and close the file."""
        try:
            if self._epoch is not None:
                with self._file.transaction():
                    self._owner.release(self._epoch)
        finally:
            self._epoch = None
            self._file.close()


class EmbeddedShardLog:
    """`ShardLog` on the file of the `EmbeddedLog` that opened it, with the epoch it was given."""

    def __init__(
        self,
        topics: TopicTables,
        names: TopicNames,
        shard: int,
        owner: Owner,
        *,
        epoch: int,
        end: Entry | None,
        seen: Positions,
        unfinished: Unfinished,
        retention_s: float,
    ) -> None:
        self.claim = epoch
        self.end = end
        self.seen = seen
        self.unfinished = unfinished
        self._noted = True
        self._env = topics.file.env
        self._topics = topics
        self._file = topics.file
        self._names = names
        self._journal = names.roles["journal"]
        self._shard = shard
        self._owner = owner
        self._epoch = epoch
        self._retention_s = retention_s
        self._positions = dict(seen)
        self._reported_s = self._env.monotonic()
        self._closed = False

    def entries(self, after: int) -> Iterator[Entry]:
        """As `ShardLog.entries`."""
        return entries_after(self._topics, (self._journal, self._shard), after)

    def first_seq(self) -> int:
        """As `ShardLog.first_seq`."""
        with self._file.snapshot():
            return self._topics.bounds(self._journal, self._shard)[0]

    def newest(self, role: str, since: Mapping[int, int], accepts: Callable[[Record], bool]) -> list[Record]:
        """As `ShardLog.newest`."""
        topic = self._names.roles[role]
        newest = []
        with self._file.snapshot():
            for partition in range(self._topics.number(topic)[1]):
                start, end, _ = self._topics.bounds(topic, partition)
                start = max(start, since.get(partition, 0), end - LOOK_BACK)
                for first in reversed(range(start, end)):
                    (record,) = self._topics.read_now(Range(topic, partition, first, first + 1))
                    if accepts(record):
                        newest.append(record)
                        break
        return newest

    def ask_sources(self) -> None:
        """Nothing to do: the file answers at once."""

    def sources(self) -> dict[str, tuple[str, int]]:
        """As `ShardLog.sources`."""
        return self._topics.identities(self._names.sources)

    def poll(self, positions: Positions, max_records: int, max_bytes: int, timeout_s: float) -> FetchResult:
        """Records that arrived at `positions`; each waiting partition gets a fair share of the limits."""
        return self._topics.poll(positions, max_records, max_bytes, timeout_s)

    def reached(self, positions: Positions) -> Positions:
        """`positions`: here every offset holds a record."""
        return positions

    def read(self, run: Range) -> Iterator[Record]:
        """The records of a journalled range, in order. Raises `Gone`."""
        return self._topics.read(run)

    def publish(self, entry: Entry, outputs: Sequence[Output], positions: Positions) -> None:
        """Commit `outputs` and `entry` in one transaction. Raises `Fenced`, or `Unknown` when the disk
        failed inside the commit. A full disk is a `Stop`: SQLite knows that nothing was written.
        """
        assert not self._closed, "publish after close"
        with self._file.transaction(unclear=Unknown):
            self._check_epoch()
            _, next_seq, _ = self._topics.bounds(self._journal, self._shard)
            assert entry.seq == next_seq, f"entry {entry.seq} published where {next_seq} is next"
            for (topic, partition), records in self._placed(outputs).items():
                self._topics.insert(topic, partition, records)
            self._topics.insert(self._journal, self._shard, [ProducerRecord(None, encode_entry(entry))])
            if self._noted:
                self._owner.finish()
            report = self._env.monotonic() - self._reported_s > _REPORT_S
            if report:
                self._owner.note(positions=positions)
        self._noted = False
        self._positions = positions
        if report:
            self._reported_s = self._env.monotonic()

    def _placed(self, outputs: Sequence[Output]) -> dict[TopicPartition, list[Output]]:
        """Outputs by the partition they go to, `source mod n`, in their order."""
        placed: dict[TopicPartition, list[Output]] = {}
        by_source: dict[tuple[str, int], list[Output]] = {}
        for output in outputs:
            source = (output.role, output.partition)
            records = by_source.get(source)
            if records is None:
                topic = self._names.roles[output.role]
                target = (topic, output.partition % self._topics.number(topic)[1])
                records = by_source[source] = placed.setdefault(target, [])
            records.append(output)
        return placed

    def attempt(self, record_place: RecordPlace) -> None:
        """As `ShardLog.attempt`; a crash of the process does not take it, a power cut may."""
        with self._file.transaction(unclear=Unknown):
            self._check_epoch()
            self._owner.note_unfinished(ATTEMPT_KEY, encode_attempt(record_place))
        self._noted = True

    def release(self) -> None:
        """As `ShardLog.release`."""
        with self._file.transaction(unclear=Unknown):
            self._check_epoch()
            self._owner.finish()

    def newer_owner(self) -> str:
        """As `ShardLog.newer_owner`: the file knows."""
        with self._file.snapshot():
            return self._owner.newer(self._epoch)

    def _check_epoch(self) -> None:
        if newer := self._owner.newer(self._epoch):
            raise Fenced(f"shard {self._shard} of {self._journal} was taken over by {newer}")

    def sync(self) -> None:
        """One small commit that is synced: it takes every earlier one in the write-ahead log with it, and
        those no longer there were synced into the file. Unlike a checkpoint of the write-ahead log it costs
        one fsync and never waits for a reader.
        """
        with self._file.synced():
            self._owner.touch()

    def trim(self, seq: int) -> None:
        """Forget entries before `seq` (never the last one) and what retention no longer keeps; at most half
        a second of it, the rest at the next trim. An owner that was fenced trims nothing.

        Call it once per checkpoint. Input stays from the positions of the *trim before* on: the newest
        checkpoint was made after that trim, so that whatever it needs is there, even when the service was
        down for longer than the retention.
        """
        with self._file.transaction():
            try:
                self._check_epoch()
            except Fenced:
                return
            _, end, _ = self._topics.bounds(self._journal, self._shard)
            cuts = {(self._journal, self._shard): min(seq, end - 1), **self._expired()}
            self._owner.note(positions=self._positions, floor={**self._owner.floor(), **self._positions})
        self._topics.cut(cuts, self._env.monotonic() + _TRIM_S)

    def _expired(self) -> Positions:
        """The offset at which retention cuts each partition, of every application in the file."""
        lowest = floors(self._file)
        cuts: Positions = {}
        for name, text in self._file.db.execute("SELECT name, settings FROM topics").fetchall():
            settings = msgspec.json.decode(text, type=dict[str, str])
            kept_ms = int(settings.get("retention.ms", self._retention_s * 1000))
            if name == self._journal or kept_ms < 0 or settings.get("cleanup.policy") == "compact":
                continue
            for partition in range(self._topics.number(name)[1]):
                tp = (name, partition)
                offset = self._topics.first_since(tp, now_ms(self._env) - kept_ms)
                cuts[tp] = min(offset, lowest.get(tp, offset))
        return cuts

    def close(self) -> None:
        """Let go of the shard. The election is left with `EmbeddedLog.close`."""
        self._closed = True
