"""In which order live records of several partitions are stepped: oldest head first.

After an outage a day of events and labels waits on several partitions. Taking them block by block would
let the model see the future of one before the past of another; so the partition whose next record is
oldest goes first (timestamp, then topic, partition, offset), in runs with a second of slack. A partition
that is known to hold more is waited for, though not for ever; one at its end counts as idle.

Only live stepping is ordered here. Redo follows the journal, never the clock.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

from streamlearn.core.records import Positions, Record, TopicPartition
from streamlearn.log.port import Polled

SLACK_MS: Final = 1000
MIXED_RUN: Final = 50
"""A run is not longer while another partition waits: records that arrived within a second, as a fast
producer's do, would else be taken block by block, and labels learned hundreds of events late."""

PATIENCE_S: Final = 1.0
"""How long a partition that is behind but yields nothing holds up the others."""


class Merge:
    """Buffers of what was polled and not yet stepped. Bounded: a partition is asked for more only when
    its buffer is empty, and each poll is bounded.
    """

    def __init__(self, positions: Positions) -> None:
        self._next = dict(positions)
        self._buffers: dict[TopicPartition, deque[Record]] = {tp: deque() for tp in positions}
        self._behind: set[TopicPartition] = set()
        self._awaited_since: dict[TopicPartition, float] = {}

    def wanted(self) -> Positions:
        """The partitions to poll now, each from the record after the last one buffered."""
        return {tp: self._next[tp] for tp, buffer in self._buffers.items() if not buffer}

    @property
    def idle(self) -> bool:
        """Whether nothing is buffered."""
        return not any(self._buffers.values())

    def add(self, polled: Polled, now_s: float) -> None:
        """Buffer what `wanted()` brought, and note who is still behind."""
        asked = self.wanted()
        for tp, records in polled.records.items():
            if records:
                self._buffers[tp].extend(records)
                self._next[tp] = records[-1].offset + 1
        for tp in asked:
            if tp in polled.behind:
                self._behind.add(tp)
            else:
                self._behind.discard(tp)

    def take(self, limit: int, now_s: float) -> list[Record]:
        """The next run of at most `limit` records of one partition; [] when it is better to wait."""
        if self._awaits(now_s):
            return []
        heads = sorted((buffer[0].timestamp_ms, tp) for tp, buffer in self._buffers.items() if buffer)
        if not heads:
            return []
        buffer = self._buffers[heads[0][1]]
        if len(heads) == 1:
            return list(_run(buffer, limit, None))
        return list(_run(buffer, min(limit, MIXED_RUN), heads[1][0] + SLACK_MS))

    def _awaits(self, now_s: float) -> bool:
        """Whether a partition that holds more has nothing buffered, and had not yet time to bring it."""
        empty = {tp for tp in self._behind if not self._buffers[tp]}
        self._awaited_since = {tp: self._awaited_since.get(tp, now_s) for tp in empty}
        return any(now_s - since < PATIENCE_S for since in self._awaited_since.values())

    def put_back(self, records: list[Record]) -> None:
        """Return records of the last `take` that were not stepped."""
        if records:
            self._buffers[(records[0].topic, records[0].partition)].extendleft(reversed(records))


def _run(buffer: deque[Record], limit: int, until_ms: int | None) -> Iterable[Record]:
    for _ in range(min(limit, len(buffer))):
        if until_ms is not None and buffer[0].timestamp_ms > until_ms:
            return
        yield buffer.popleft()
