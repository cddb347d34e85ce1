"""A place in a journal: an entry, and all that the entries up to it say together.

Invariant: nothing here reads or steps. Whoever steps a shard sees to it that its state is the one at `seq`.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import msgspec

from streamlearn.core.journal import Checkpoint, Entry, Era, chain
from streamlearn.core.records import Output, Positions, Range, Record, RecordPlace, Skip
from streamlearn.core.shard.snapshot import Header
from streamlearn.log.port import History


def positions_under(era: Era, before: Positions, ids: Mapping[str, str]) -> Positions:
    """The positions when `era` begins: its new partitions at their start. A topic that is no longer an
    input keeps its place, so that it goes on there should it come back; as another topic of that name (`ids`
    are those of `before`) it begins anew.
    """
    positions = {
        (topic, partition): offset
        for (topic, partition), offset in before.items()
        if topic not in era.topics or ids.get(topic, era.topics[topic][0]) == era.topics[topic][0]
    }
    for topic, partition, offset in era.start:
        positions[topic, partition] = offset
    return positions


def ids_under(era: Era, before: Mapping[str, str]) -> dict[str, str]:
    """The ids of the topics that positions are in when `era` begins."""
    return {**before, **era.ids, **{topic: ident for topic, (ident, _) in era.topics.items()}}


class JournalCursor:
    """The place after one entry of a journal, which moves from entry to entry."""

    def __init__(self, header: Header) -> None:
        """Begin where a checkpoint stands."""
        self.seq = header.seq
        self.digest = header.digest
        self.era_number = header.era
        self.era = header.under
        self.positions: Positions = header.next_offsets()
        self.ids = header.topic_ids()
        """The ids of the topics that positions are in."""
        self.checkpoints: Sequence[Checkpoint] = ()
        """What the journal names here, oldest first."""
        self.named = 0
        """The entry that names them."""
        self.stepped = header.seq
        """The newest entry that changed the state."""

    @classmethod
    def at_birth(cls, entry: Entry) -> Self:
        """The place after an era entry with which a revision begins: the genesis, or a changed model."""
        assert entry.change is not None
        positions = [
            (topic, partition, offset)
            for (topic, partition), offset in positions_under(entry.change, {}, {}).items()
        ]
        ids = ids_under(entry.change, {})
        cursor = cls(Header(entry.seq, entry.digest, entry.era, entry.change, positions, 0, ids=ids))
        cursor.stand_by(entry.checkpoints, entry.named)
        return cursor

    def header(self, learned: int) -> Header:
        """The header of a checkpoint of the state here."""
        positions = [(topic, partition, offset) for (topic, partition), offset in self.positions.items()]
        return Header(
            self.seq, self.digest, self.era_number, self.era, sorted(positions), learned, ids=self.ids
        )

    def inputs(self) -> Positions:
        """The positions of the topics that the era reads."""
        return {tp: offset for tp, offset in self.positions.items() if tp[0] in self.era.topics}

    def next_entry(
        self,
        outputs: Sequence[Output] = (),
        change: Era | None = None,
        checkpoints: Sequence[Checkpoint] = (),
        **parts: Any,
    ) -> Entry:
        """The entry that follows here; `parts`: its other fields."""
        seq = self.seq + 1
        return Entry(
            seq=seq,
            era=self.era_number + (change is not None),
            digest=chain(self.digest, outputs),
            outputs=len(outputs),
            change=change,
            checkpoints=[*checkpoints],
            named=seq if checkpoints else self.named,
            **parts,
        )

    def reset_entry(self, resets: int) -> Entry | None:
        """The entry of an era to begin when commands have let the state forget what was settled so many
        times; None when the era has it already.
        """
        if resets == self.era.resets:
            return None
        return self.next_entry(change=msgspec.structs.replace(self.era, why="reset", start=[], resets=resets))

    def stand_by(self, checkpoints: Sequence[Checkpoint], named: int) -> None:
        """Take note of what the journal names here, and in which entry."""
        self.checkpoints, self.named = checkpoints, named

    def advance(self, entry: Entry) -> None:
        """Move on to the place after `entry`."""
        if entry.change is not None:
            self.positions = positions_under(entry.change, self.positions, self.ids)
            self.ids = ids_under(entry.change, self.ids)
            self.era, self.era_number = entry.change, entry.era
        for run in entry.ranges:
            self.positions[run.topic, run.partition] = run.next
        self.seq = entry.seq
        self.digest = entry.digest
        if entry.checkpoints:
            self.stand_by(entry.checkpoints, entry.seq)
        if entry.steps:
            self.stepped = entry.seq


def in_order(entry: Entry, history: History) -> Iterator[Record]:
    """The records of an entry as they were stepped. Where events and labels take turns, each partition is
    read once, not once a turn: a turn is a few records, and a read is a round trip.
    """
    spans: dict[tuple[str, int], list[Range]] = {}
    for run in entry.ranges:
        spans.setdefault((run.topic, run.partition), []).append(run)
    if len(spans) == len(entry.ranges):
        for run in entry.ranges:
            yield from history.read(run)
        return
    waiting = {}
    for (topic, partition), runs in spans.items():
        whole = Range(topic, partition, runs[0].first, runs[-1].next)
        waiting[topic, partition] = deque(history.read(whole))
    for run in entry.ranges:
        records = waiting[run.topic, run.partition]
        while records and records[0].offset < run.next:
            yield records.popleft()


def skips_by_place(skips: Sequence[Skip]) -> dict[RecordPlace, Skip]:
    """The skips of an entry or a batch, by the record that each left out."""
    return {skip.place: skip for skip in skips}
