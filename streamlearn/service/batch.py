"""What one transaction has taken so far.

Invariant: `ranges` covers exactly `records`, in the order in which they were stepped; what an earlier
transaction had left of its last record goes before them.
"""

from collections.abc import Sequence
from typing import Final

from streamlearn.core.records import CRASH_STAGE, Output, Range, Record, Skip
from streamlearn.core.shard.facts import Facts, published

RANGES_BYTES: Final = 400_000
"""So much the ranges of one entry may take: an entry is one record, and a record is at most 1 MB."""

_PARTITION_BYTES: Final = 50
_TURN_BYTES: Final = 12
"""The first range of a partition takes no more than the one and its topic's name, a later one no more than
the other (`core.turns`).
"""


class Batch:
    """What one transaction has taken so far: records in the order stepped, and what came of them. `facts`:
    where they are kept; None when nobody listens.
    """

    def __init__(self, facts: Facts | None = None) -> None:
        self.facts = facts
        self.records: list[Record] = []
        self.outputs: list[Output] = []
        self.ranges: list[Range] = []
        self.skips: list[Skip] = []
        self.carried = 0
        """Units of work done for the last record of earlier transactions, before `records`."""
        self.size_bytes = 0
        self.full = False
        self._ranges_bytes = 0
        self._partitions: set[tuple[str, int]] = set()

    @property
    def empty(self) -> bool:
        """True if nothing was done that the journal should know of."""
        return not (self.records or self.carried or self.skips)

    def covers(self, run: Sequence[Record]) -> None:
        """Note that `run` was stepped: each partition's records in offset order. Where partitions take
        turns there is a range for each turn; too many of them make the batch full.
        """
        ranges = self.ranges
        index = 0
        while index < len(run):
            topic, partition = run[index].topic, run[index].partition
            first = last = run[index].offset
            index += 1
            while index < len(run) and run[index].topic == topic and run[index].partition == partition:
                last = run[index].offset
                index += 1
            if ranges and ranges[-1][:2] == (topic, partition):
                ranges[-1] = ranges[-1]._replace(next=last + 1)
            else:
                ranges.append(Range(topic, partition, first, last + 1))
                is_new = (topic, partition) not in self._partitions
                self._partitions.add((topic, partition))
                self._ranges_bytes += len(topic) + _PARTITION_BYTES if is_new else _TURN_BYTES
        self.records += run
        self.full = self.full or self._ranges_bytes >= RANGES_BYTES

    def takes(self, facts: Facts) -> None:
        """Note what happened."""
        self.outputs += published(facts)
        if self.facts is not None:
            self.facts += facts

    def leaves_out(self, record: Record, skip: Skip, facts: Facts) -> None:
        """Note that `record` was not stepped but became a dead letter."""
        self.takes(facts)
        self.covers([record])
        self.skips.append(skip)

    def survived(self) -> list[Record]:
        """The records but those that killed a process: those are never stepped again."""
        killed = {skip.place for skip in self.skips if skip.stage == CRASH_STAGE}
        if not killed:
            return self.records
        return [survivor for survivor in self.records if survivor.place not in killed]

    def ends_before(self, index: int, outputs: Sequence[Output]) -> list[Record]:
        """Take back the records from number `at` on: those. `outputs` are those of the records before."""
        records, dropped = self.records[:index], self.records[index:]
        gone = {record.place for record in dropped}
        self.skips = [skip for skip in self.skips if skip.place not in gone]
        self.outputs = [*outputs]
        if self.facts is not None:
            self.facts = [fact for fact in self.facts if fact.record.place not in gone]
        self.records, self.ranges, self._ranges_bytes = [], [], 0
        self._partitions.clear()
        self.covers(records)
        return dropped

    def gives_up(self, skip: Skip, facts: Facts) -> None:
        """Note that a record of an earlier transaction, which had left work, became a dead letter."""
        self.takes(facts)
        self.skips.append(skip)
