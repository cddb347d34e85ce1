"""One shard's journal on Kafka: its end, its entries in order, and its trimming.

Invariants:
- Whoever reads the end has fenced every earlier writer first, so that the last stable offset and the high
  watermark are the same; where they are not, somebody has a transaction open, and committed entries may be
  hidden behind it: somebody foreign, as long as no newer owner has come.
- Entries follow each other without a hole. What is not an entry, or not the next one, stops the service.
"""

import time
from collections.abc import Iterator

import msgspec

from streamlearn.core.records import Entry, Record, decode_entry
from streamlearn.errors import Gone, Stop
from streamlearn.log.kafka.admin import Cluster
from streamlearn.log.kafka.client import LATEST
from streamlearn.log.kafka.reader import Reader

_SETTLE_S = 2.0
"""How long the last stable offset may lag behind one's own last commit (measured: 13 ms)."""
_TRIM_PROBES = 8


class Journal:
    """The journal partition of one shard, after its earlier writers were fenced."""

    def __init__(self, cluster: Cluster, reader: Reader, topic: str, shard: int) -> None:
        self._cluster = cluster
        self._reader = reader
        self._tp = (topic, shard)
        self._name = f"{topic}-{shard}"
        start, self._end = self._settled()
        last = reader.last(self._tp, start, self._end, lambda _: True)
        if last is None and start > 0:
            raise Stop(
                f"The journal {self._name} is empty, but it was not: everything before offset {start} was "
                "deleted. Begin a new one where the predictions end: `streamlearn reset --start predictions`."
            )
        self.last: Entry | None = None if last is None else self._entry(last)
        self._seq = -1 if self.last is None else self.last.seq
        self._offset = -1 if last is None else last.offset
        self._first: tuple[int, int] | None = None

    def published(self, seq: int, offset: int) -> None:
        """Note an entry that this process has committed."""
        self._seq, self._offset, self._end = seq, offset, offset + 1

    def entries(self, after: int) -> Iterator[Entry]:
        """As `ShardLog.entries`."""
        expected, upto = after + 1, self._seq
        if expected > upto:
            return
        for record in self._reader.between(self._tp, self._start_of(expected), self._end):
            entry = self._entry(record)
            if entry.seq < expected:
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
        found = self._first_from(self._reader.bounds(self._tp)[0])
        return 0 if found is None else found[0]

    def trim(self, seq: int) -> None:
        """Delete most entries before `seq`, never the last one."""
        seq = min(seq, self._seq)
        if self._first is None:
            self._first = self._first_from(self._reader.bounds(self._tp)[0])
        if self._first is None or seq <= self._first[0]:
            return
        low, high = self._first, (self._seq, self._offset)
        enough = seq - (seq - low[0]) // 16
        for _ in range(_TRIM_PROBES):
            if low[0] >= enough:
                break
            # Entries are nearly evenly spaced, so that a guess in proportion is close at once.
            share = (seq - low[0]) / (high[0] - low[0])
            guess = self._first_from(low[1] + int(share * (high[1] - low[1])))
            if guess is None or guess == low:
                break
            low, high = (guess, high) if guess[0] <= seq else (low, guess)
        if low > self._first:
            self._cluster.delete_before(self._tp, low[1])
            self._first = low

    def _settled(self) -> tuple[int, int]:
        """The first offset and the end, once nothing is hidden behind an open transaction."""
        until = time.monotonic() + _SETTLE_S
        while True:
            start, stable = self._reader.bounds(self._tp)
            high = self._cluster.offsets([self._tp], LATEST)[self._tp]
            if stable >= high:
                return start, stable
            if time.monotonic() > until:
                raise Stop(
                    f"The journal {self._name} has an open transaction that is not ours, so its newest "
                    f"entries cannot be read (stable to {stable}, written to {high}). "
                    f"{self._cluster.open_transactions(self._tp)} Stop that producer, then start again."
                )
            time.sleep(0.005)

    def _start_of(self, seq: int) -> int:
        """An offset at or before entry `seq`, found by looking further back each time."""
        start, _ = self._reader.bounds(self._tp)
        back = 2 * (self._seq - seq) + 16  # an entry and its commit marker take two offsets
        while True:
            at = max(start, self._offset - back)
            found = self._first_from(at)
            if found is not None and found[0] <= seq:
                return at
            if at == start:
                raise Gone(f"the journal {self._name} no longer holds entry {seq}")
            back *= 2

    def _first_from(self, offset: int) -> tuple[int, int] | None:
        """Sequence number and offset of the first entry at or after `offset`."""
        for record in self._reader.between(self._tp, offset, self._end):
            return self._entry(record).seq, record.offset
        return None

    def _entry(self, record: Record) -> Entry:
        try:
            return decode_entry(record.value or b"")
        except msgspec.MsgspecError as error:
            raise Stop(
                f"Offset {record.offset} of the journal {self._name} is not an entry: something else writes "
                "to this topic. Stop it, and begin a new journal: `streamlearn reset`."
            ) from error
