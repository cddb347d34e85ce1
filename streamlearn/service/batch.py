"""What one transaction has taken so far.

Invariant: `ranges` covers exactly `records`, in the order in which they were stepped.
"""

from collections.abc import Sequence

from streamlearn.core.records import Output, Range, Record, Skip


class Batch:
    """What one transaction has taken so far: records in the order stepped, and what came of them."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.outputs: list[Output] = []
        self.ranges: list[Range] = []
        self.skips: list[Skip] = []
        self.size_bytes = 0
        self.full = False

    def covers(self, run: Sequence[Record]) -> None:
        """Note that `run`, records of one partition in offset order, was stepped."""
        if run:
            first, last = run[0], run[-1]
            newest = self.ranges[-1] if self.ranges else None
            if newest and newest[:2] == (first.topic, first.partition):
                self.ranges[-1] = newest._replace(next=last.offset + 1)
            else:
                self.ranges.append(Range(first.topic, first.partition, first.offset, last.offset + 1))
            self.records += run

    def leaves_out(self, record: Record, skip: Skip, outputs: Sequence[Output]) -> None:
        """Note that `record` was not stepped but became a dead letter."""
        self.outputs += outputs
        self.covers([record])
        self.skips.append(skip)
