"""In which order live records of several partitions are stepped: oldest first.

After an outage a day of events and labels waits on several partitions. Taking them block by block would let
the model see the future of one before the past of another; so while more than one partition holds records,
they are merged by the time of their arrival. Labels come after events of the same millisecond: a label that
is late by a little costs a little, one that is early would flatter the scores (seen on a fast replay:
no-change at 0.73 where it is 0.06). So before a label goes, empty partitions of events are asked once more.
Records that `replay` has sent to two topics carry their order in a header, because arrival times are too
coarse for it; then it is exact.

A partition that is known to hold more is waited for, though not for ever; one at its end counts as idle.

Only live stepping is ordered here. Redo follows the journal, never the clock.
"""

import heapq
from collections import deque
from typing import Final

from streamlearn.core.events.clocks import KNOWN_FROM_MS, NEVER, Clock
from streamlearn.core.events.event import MAX_AHEAD_MS
from streamlearn.core.records import ORDER_HEADER, Positions, Record, TopicPartition
from streamlearn.log.port import FetchResult

PATIENCE_S: Final = 1.0
"""How long a partition that is behind but yields nothing holds up the others."""

_US_PER_MS: Final = 1000
_AHEAD_MS: Final = 1000
"""Clocks of producers that differ by less are taken at their word."""
_DIGITS_MAX: Final = 18

Key = tuple[float, bool, TopicPartition]


class Merge:
    """Buffers of what was polled and not yet stepped. Bounded: a partition is asked for more only when
    its buffer is empty, and each poll is bounded. `labels` is the topic of labels, "" for none.
    """

    def __init__(self, positions: Positions, labels: str = "") -> None:
        self._labels = labels
        self._newest = Clock()
        self._came_ms: dict[TopicPartition, float] = {}
        """The newest arrival of all when a partition's buffer was filled: records whose own is not known go
        after what was there by then.
        """
        self._asks = 0
        self._asked: dict[TopicPartition, int] = {}
        """The number of the ask that each partition was part of last."""
        self._next = dict(positions)
        self._buffers: dict[TopicPartition, deque[Record]] = {tp: deque() for tp in positions}
        self._behind: set[TopicPartition] = set()
        self._awaited_since: dict[TopicPartition, float] = {}

    def wanted(self) -> Positions:
        """The partitions to poll now, each from the record after the last one buffered."""
        return {tp: self._next[tp] for tp, buffer in self._buffers.items() if not buffer}

    @property
    def idle(self) -> bool:
        """True if nothing is buffered."""
        return not any(self._buffers.values())

    def add(self, fetched: FetchResult, now_s: float) -> None:
        """Buffer what `wanted()` brought, and note who is still behind."""
        awaited = self.wanted()
        self._asks += 1
        self._asked.update(dict.fromkeys(awaited, self._asks))
        for tp, records in fetched.records.items():
            if records:
                if records[-1].timestamp_ms >= KNOWN_FROM_MS:
                    self._newest.advance(records[-1].timestamp_ms, MAX_AHEAD_MS)
                self._buffers[tp].extend(records)
                self._next[tp] = records[-1].offset + 1
        self._came_ms.update({tp: self._newest.now_ms for tp, records in fetched.records.items() if records})
        for tp in awaited:
            if tp in fetched.behind:
                self._behind.add(tp)
            else:
                self._behind.discard(tp)

    def take(self, limit: int, now_s: float) -> list[Record]:
        """The next records, at most `limit`, of as many partitions as hold some; [] when it is better to
        wait. Ends where a buffer does, because what follows there may be older than the others' next.
        """
        if self._awaits(now_s):
            return []
        heads = [self._key(buffer[0], tp) for tp, buffer in self._buffers.items() if buffer]
        if len(heads) == 1 and not heads[0][1]:
            buffer = self._buffers[heads[0][2]]
            return [buffer.popleft() for _ in range(min(limit, len(buffer)))]
        return self._oldest_first(heads, limit)

    def _oldest_first(self, heads: list[Key], limit: int) -> list[Record]:
        """The next records of several partitions, of which `heads` are the first; or of labels alone. Ends
        before a label whose events may not have been asked for.
        """
        heapq.heapify(heads)
        chosen: list[Record] = []
        while heads and len(chosen) < limit:
            _, is_label, tp = heads[0]
            if is_label and not self._events_asked_since(tp):
                break
            buffer = self._buffers[tp]
            chosen.append(buffer.popleft())
            if not buffer:
                break
            heapq.heapreplace(heads, self._key(buffer[0], tp))
        return chosen

    def _key(self, record: Record, tp: TopicPartition) -> Key:
        """When a record is due, in microseconds."""
        is_label = tp[0] == self._labels
        for name, value in record.headers:
            if name == ORDER_HEADER and value is not None and value.isdigit() and len(value) <= _DIGITS_MAX:
                return int(value), is_label, tp
        buffer, time_ms = self._buffers[tp], float(record.timestamp_ms)
        if time_ms < KNOWN_FROM_MS:
            time_ms = self._came_ms[tp]
        if len(buffer) > 1 and time_ms > min(map(_arrival_ms, (buffer[1], buffer[-1]))) + _AHEAD_MS:
            # A producer's clock was ahead: what stands behind this record must not wait for its time.
            time_ms = min(time_ms, *map(_arrival_ms, buffer))
        return time_ms * _US_PER_MS, is_label, tp

    def _awaits(self, now_s: float) -> bool:
        """True if a partition that holds more has nothing buffered, and had not yet time to bring it."""
        empty = {tp for tp in self._behind if not self._buffers[tp]}
        self._awaited_since = {tp: self._awaited_since.get(tp, now_s) for tp in empty}
        return any(now_s - since < PATIENCE_S for since in self._awaited_since.values())

    def _events_asked_since(self, labels: TopicPartition) -> bool:
        """True if each partition of events with nothing buffered was asked after those labels came. One poll
        does not read all partitions at one moment, and may bring a label and not yet its event.
        """
        came = self._asked.get(labels, 0)
        return all(
            buffer or tp[0] == self._labels or self._asked.get(tp, 0) > came
            for tp, buffer in self._buffers.items()
        )

    def put_back(self, records: list[Record]) -> None:
        """Return the last records of the last `take`, which were not stepped."""
        for record in reversed(records):
            self._buffers[record.topic, record.partition].appendleft(record)


def _arrival_ms(record: Record) -> float:
    """When a record arrived; never, when that is not known."""
    return record.timestamp_ms if record.timestamp_ms >= KNOWN_FROM_MS else NEVER
