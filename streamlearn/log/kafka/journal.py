"""One shard's journal on Kafka: its end, its entries in order, and its trimming.

Invariants:
- An owner has fenced every earlier writer and has written a claim since: the end is the last entry before
  it. A claim that cannot be read back has an open transaction before it, behind which committed
  entries may be hidden: of somebody foreign, as long as no newer owner has come.
- Entries follow each other without a hole but for notes. What is neither, or not the next entry, stops the
  service.
"""

from collections.abc import Iterator

import msgspec

from streamlearn.core.journal import NOTE_KEYS, Entry, Unfinished, journalled, unfinished
from streamlearn.core.records import Record, TopicPartition
from streamlearn.errors import Gone, Stop
from streamlearn.log.kafka.cluster import Cluster
from streamlearn.log.kafka.reader import RecordReader

_SETTLE_S = 2.0
"""How long the last stable offset may lag behind one's own claim (measured: 13 ms)."""
_TRIM_PROBES = 32


class Journal:
    """The journal of one shard: of its owner, who has a `claim` in it, or as anybody may read it."""

    def __init__(
        self, cluster: Cluster, reader: RecordReader, tp: TopicPartition, claim: int | None = None
    ) -> None:
        self._cluster = cluster
        self._reader = reader
        self._tp = tp
        self._name = f"{tp[0]}-{tp[1]}"
        start, stable = reader.bounds(tp) if claim is None else self._read_back(claim)
        self._end = stable
        last = reader.last(tp, start, stable, lambda record: record.key not in NOTE_KEYS)
        if last is None and start > 0:
            raise Stop(
                f"The journal {self._name} is empty, but it was not: everything before offset {start} was "
                "deleted. Begin a new one where the predictions end: `streamlearn reset --start predictions`."
            )
        self.last = None if last is None else self._entry(last)
        self._seq = -1 if self.last is None else self.last.seq
        self._offset = -1 if last is None else last.offset
        self._first: tuple[int, int] | None = None

    def unfinished(self) -> Unfinished:
        """The attempts that owners before this one began after the last entry."""
        after = self._offset + 1
        if self._end - after <= 1:  # the mark of its transaction, and nothing else
            return Unfinished()
        return unfinished(
            (record.key, record.value) for record in self._reader.between(self._tp, after, self._end)
        )

    def published(self, seq: int, offset: int) -> None:
        """Note an entry that this process has committed."""
        self._seq, self._offset, self._end = seq, offset, offset + 1

    def entries(self, after: int) -> Iterator[Entry]:
        """As `ShardLog.entries`."""
        expected, upto = after + 1, self._seq
        if expected > upto:
            return
        for record in self._reader.between(self._tp, self._offset_before(expected), self._end):
            entry = self._entry(record)
            if entry is None or entry.seq < expected:
                continue
            if entry.seq != expected:
                raise Stop(
                    f"The journal {self._name} has entry {entry.seq} at offset {record.offset} where "
                    f"{expected} must follow: it was damaged or written by something else."
                )
            yield entry
            if expected == upto:
                return
            expected += 1

    def first_seq(self) -> int:
        """As `ShardLog.first_seq`."""
        first = self._first_from(self._reader.bounds(self._tp)[0])
        return 0 if first is None else first[0]

    def trim(self, seq: int) -> None:
        """Delete most entries before `seq`, never the last one."""
        seq = min(seq, self._seq)
        if self._first is None:
            self._first = self._first_from(self._reader.bounds(self._tp)[0])
        if self._first is None or seq <= self._first[0]:
            return
        first = self._near_before(seq, self._first)
        if first > self._first:
            self._cluster.delete_before(self._tp, first[1])
            self._first = first

    def _near_before(self, seq: int, low: tuple[int, int]) -> tuple[int, int]:
        """Sequence number and offset of an entry at or before `seq`, and near it: found from the entry `low`
        on by interpolation, in few probes.
        """
        high = (self._seq, self._offset)
        enough = seq - (seq - low[0]) // 16
        for nth in range(_TRIM_PROBES):
            if low[0] >= enough or high[1] - low[1] <= 1:
                break
            # Entries are nearly evenly spaced, so that a guess in proportion is close at once. Where many
            # claims lie between them it is not: then halves are.
            share = 0.5 if nth % 2 else (seq - low[0]) / (high[0] - low[0])
            guess = low[1] + max(1, int(share * (high[1] - low[1])))
            entry_at = self._first_from(guess)
            if entry_at is None:
                break
            low, high = (entry_at, high) if entry_at[0] <= seq else (low, (entry_at[0], guess))
        return low

    def _read_back(self, claim: int) -> tuple[int, int]:
        """The first offset, and that of the claim, once nothing before it is hidden."""
        env = self._cluster.env
        until = env.monotonic() + _SETTLE_S
        while True:
            start, stable = self._reader.bounds(self._tp)
            if stable > claim:
                return start, claim
            if env.monotonic() > until:
                raise Stop(
                    f"The journal {self._name} has an open transaction that is not ours, so its newest "
                    f"entries cannot be read (stable to {stable}, our claim is at {claim}). "
                    f"{self._cluster.open_transactions(self._tp)} Stop that producer, then start again."
                )
            env.sleep(0.005)

    def _offset_before(self, seq: int) -> int:
        """An offset at or before entry `seq`, found by looking further back each time."""
        start, _ = self._reader.bounds(self._tp)
        back = 2 * (self._seq - seq) + 16  # an entry and its commit marker take two offsets
        while True:
            offset = max(start, self._offset - back)
            entry_at = self._first_from(offset)
            if entry_at is not None and entry_at[0] <= seq:
                return offset
            if offset == start:
                raise Gone(f"the journal {self._name} no longer holds entry {seq}")
            back *= 2

    def _first_from(self, offset: int) -> tuple[int, int] | None:
        """Sequence number and offset of the first entry at or after `offset`."""
        for record in self._reader.between(self._tp, offset, self._end):
            if (entry := self._entry(record)) is not None:
                return entry.seq, record.offset
        return None

    def _entry(self, record: Record) -> Entry | None:
        try:
            return journalled(record)
        except msgspec.MsgspecError as error:
            raise Stop(
                f"Offset {record.offset} of the journal {self._name} is not an entry: something else writes "
                "to this topic. Stop it, and begin a new journal: `streamlearn reset`."
            ) from error
