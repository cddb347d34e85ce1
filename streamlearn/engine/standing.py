"""The place of an owned shard: its state, where that is in the journal, and how to get back to either.

Invariants:
- `positions`, `seq`, `digest` and the shard's state belong together, except while `driver.ahead`: from the
  first step of a batch until `advance` the state is ahead by that batch. Nothing of it can be saved then.
- The snapshot plus the entries in `since` give the state at `seq`, always.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from streamlearn.core.journal import Checkpoint, Entry, Era, chain
from streamlearn.core.labels.pending import ALL
from streamlearn.core.records import Output, Positions, Range, Record, RecordPlace, Skip
from streamlearn.core.shard.facts import Facts, published
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.snapshot import Header, Sections, carried, dump_state
from streamlearn.core.shard.work import LabelWork
from streamlearn.engine.driver import Alive, Failure, ShardDriver
from streamlearn.engine.era import restored_state, spec_of
from streamlearn.engine.model import FreshModel
from streamlearn.engine.registry import Schemas
from streamlearn.errors import Stop
from streamlearn.log.port import History

Skips = dict[RecordPlace, Skip]


def _by_place(skips: Sequence[Skip]) -> Skips:
    return {skip.place: skip for skip in skips}


def _ends_with(run: Range, record: Record) -> bool:
    return (run.topic, run.partition, run.next - 1) == record.place


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


def within(positions: Positions, era: Era) -> Positions:
    """The positions of the topics that `era` reads."""
    return {tp: offset for tp, offset in positions.items() if tp[0] in era.topics}


class Standing:
    """One shard's state at one entry of its journal."""

    def __init__(
        self,
        fresh: FreshModel,
        header: Header,
        sections: Sections,
        schemas: Schemas,
        saved_at: Positions | None = None,
    ) -> None:
        """Stand where a checkpoint or a snapshot stands; `saved_at`: the positions of the newest checkpoint.

        Raises `BadCheckpoint` when its state cannot be loaded.
        """
        self.fresh = fresh
        self.era_number = header.era
        self.era = header.under
        self.seq = header.seq
        self.digest = header.digest
        self.positions: Positions = header.next_offsets()
        self.ids = header.topic_ids()
        """The ids of the topics that positions are in."""
        self.since: list[Entry] = []
        self.saved_at = saved_at
        """The positions of the newest checkpoint of this state; None when there is none."""
        self.saved_seq: int | None = header.seq
        """The entry of that checkpoint."""
        self.saving_s = 0.0
        """How long writing it took, where this process wrote it."""
        self.checkpoints: Sequence[Checkpoint] = ()
        """What the journal names at `seq`, oldest first."""
        self.named = 0
        """The entry that names them."""
        self.stepped = header.seq
        """The newest entry that changed the state."""
        self.era_began = False
        """True when this process wrote the era's entry: a checkpoint of it is then due at once."""
        self._snapshot = sections
        self._snapshot_header = header
        self.driver = ShardDriver(self._loaded(), schemas, schemas.env.monotonic)

    @property
    def shard(self) -> Shard:
        """The state."""
        return self.driver.shard

    @classmethod
    def at_genesis(cls, fresh: FreshModel, entry: Entry, schemas: Schemas, sections: Sections) -> "Standing":
        """Stand at an era entry with the state that its revision begins with (`Beginning.sections`): the
        genesis, or a changed model.
        """
        assert entry.change is not None
        positions = [
            (topic, partition, offset)
            for (topic, partition), offset in positions_under(entry.change, {}, {}).items()
        ]
        ids = ids_under(entry.change, {})
        header = Header(entry.seq, entry.digest, entry.era, entry.change, positions, 0, ids=ids)
        standing = cls(fresh, header, sections, schemas)
        standing.saved_at = standing.saved_seq = None
        standing.stand_by(entry.checkpoints, entry.named)
        return standing

    def header(self) -> Header:
        """The header of a checkpoint taken now."""
        assert not self.driver.ahead, "a checkpoint says that its state is the one at its entry"
        positions = [(topic, partition, offset) for (topic, partition), offset in self.positions.items()]
        learned = self.shard.memory.learned
        return Header(
            self.seq, self.digest, self.era_number, self.era, sorted(positions), learned, ids=self.ids
        )

    def take_snapshot(self) -> Sections:
        """The state as sections; later undos start from here. Raises `Stop` if the model does not pickle."""
        assert not self.driver.ahead, "a snapshot is the state at an entry"
        try:
            self._snapshot = dump_state(self.shard)
        except Exception as error:  # pickling runs the user's code: whatever it raises, nothing can be saved
            raise Stop(
                f"the model can no longer be saved: {type(error).__name__}: {error}. Keep lambdas, open "
                "files, locks and clients out of it. Nothing is lost: what was published stays published."
            ) from error
        self._snapshot_header = self.header()
        self.since = []
        return self._snapshot

    def snapshot(self) -> tuple[Header, Sections]:
        """The newest snapshot, and where in the journal it stands. Its entry is known to be committed."""
        return self._snapshot_header, self._snapshot

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

    def stand_by(self, checkpoints: Sequence[Checkpoint], named: int) -> None:
        """Take note of what the journal names here, and in which entry."""
        self.checkpoints, self.named = checkpoints, named

    def advance(self, entry: Entry) -> None:
        """The state is the one after `entry`: move the place in the journal there too."""
        for run in entry.ranges:
            self.positions[run.topic, run.partition] = run.next
        self.seq = entry.seq
        self.digest = entry.digest
        if entry.checkpoints:
            self.stand_by(entry.checkpoints, entry.seq)
        if entry.steps:
            self.stepped = entry.seq
        self.driver.advance()
        self.since.append(entry)

    def begin_era(self, entry: Entry) -> None:
        """Apply an era entry: its rules and its new partitions; the state is carried on."""
        era = entry.change
        assert era is not None
        assert era.revision == self.era.revision, "another model begins with at_genesis"
        self.driver.load(carried(self.shard, spec_of(era)))
        if self.shard.guard is not None:
            self.shard.guard.settle(era.kinds)
        self.positions = positions_under(era, self.positions, self.ids)
        self.ids = ids_under(era, self.ids)
        self.era = era
        self.era_number = entry.era
        self.advance(entry)
        self.take_snapshot()

    def reset_era(self) -> Entry | None:
        """The entry of an era to begin, since a command has let the state forget what was settled."""
        resets = self.shard.memory.resets
        if resets == self.era.resets or self.shard.work is not None:
            return None
        era = msgspec.structs.replace(self.era, why="reset", start=[], resets=resets)
        return self.next_entry(change=era)

    def redo(self, entry: Entry, shard_log: History, alive: Alive) -> bool:
        """Step what `entry` covers again and stand after it. False when its outputs came out different:
        the state is then of no use.
        """
        if not self._restep(entry, self.digest, shard_log, alive):
            return False
        self.advance(entry)
        return True

    def restored(
        self,
        shard_log: History,
        batch: Sequence[Record],
        skips: Sequence[Skip],
        alive: Alive,
        carried: int = 0,
    ) -> list[Output] | None:
        """Make the state at `seq` again, do `carried` units of what was left there, then step `batch` without
        its `skips`: the outputs.

        None when anything came out other than the journal has it: the model is not deterministic.
        """
        if not self._back_at_entry(shard_log, alive):
            return None
        skips_by_place = _by_place(skips)
        facts: Facts | Failure = self.driver.finish(carried, alive)
        if isinstance(facts, Failure):
            return None
        outputs = [*published(facts)]
        for record in batch:
            facts = self._again(record, skips_by_place, alive)
            if isinstance(facts, Failure):
                return None
            outputs += published(facts)
        return outputs

    def broken_by(
        self,
        shard_log: History,
        batch: Sequence[Record],
        skips: Sequence[Skip],
        alive: Alive,
        carried: int = 0,
    ) -> int | None:
        """The place in `batch` of the record that broke the state (`Teacher.is_broken`); None when it was
        broken before. The state is of no use then: make it again with `restored`.
        """
        if not self._back_at_entry(shard_log, alive):
            return None
        skips_by_place = _by_place(skips)
        if isinstance(self.driver.finish(carried, alive), Failure):
            return None
        for index, record in enumerate(batch):
            broken = self.driver.is_broken()
            if broken:
                return index - 1 if index else None
            if broken is None or isinstance(self._again(record, skips_by_place, alive), Failure):
                return None  # asking once more did that: the state stays as it was found
        return None

    def _back_at_entry(self, shard_log: History, alive: Alive) -> bool:
        """Make the state at `seq` again. False when it came out other than the journal has it."""
        self.driver.load(self._loaded())
        digest = self._snapshot_header.digest
        for entry in self.since:
            if not self._restep(entry, digest, shard_log, alive):
                return False
            digest = entry.digest
        self.driver.advance()
        return True

    def _loaded(self) -> Shard:
        return restored_state(self.era, self._snapshot, self.fresh.trusted)

    def _again(self, record: Record, skips: Skips, alive: Alive, units: int = ALL) -> Facts | Failure:
        skip = skips.get(record.place) if skips else None
        return self.driver.again(record, skip, units, alive)

    def carry_on(self, entry: Entry, alive: Alive) -> Facts | Failure:
        """Do again what `entry` did for the last record of those before it."""
        work = self.shard.work
        if isinstance(work, LabelWork):
            for skip in entry.skips:
                if skip.place == work.record.place:
                    return self.driver.give_up(skip)
        return self.driver.finish(entry.carried, alive)

    def _restep(self, entry: Entry, digest: str, shard_log: History, alive: Alive) -> bool:
        skips = _by_place(entry.skips)
        last = entry.ranges[-1] if entry.begun else None
        facts = self.carry_on(entry, alive)
        if isinstance(facts, Failure):
            return False
        if entry.ranges and self.shard.work is not None:
            return False
        outputs = [*published(facts)]
        for record in in_order(entry, shard_log):
            alive()
            ends = last is not None and _ends_with(last, record)
            facts = self._again(record, skips, alive, entry.begun if ends else ALL)
            if isinstance(facts, Failure):
                return False
            outputs += published(facts)
        return len(outputs) == entry.outputs and chain(digest, outputs) == entry.digest


def in_order(entry: Entry, shard_log: History) -> Iterator[Record]:
    """The records of an entry as they were stepped. Where events and labels take turns, each partition is
    read once, not once a turn: a turn is a few records, and a read is a round trip.
    """
    spans: dict[tuple[str, int], list[Range]] = {}
    for run in entry.ranges:
        spans.setdefault((run.topic, run.partition), []).append(run)
    if len(spans) == len(entry.ranges):
        for run in entry.ranges:
            yield from shard_log.read(run)
        return
    waiting = {}
    for (topic, partition), runs in spans.items():
        whole = Range(topic, partition, runs[0].first, runs[-1].next)
        waiting[topic, partition] = deque(shard_log.read(whole))
    for run in entry.ranges:
        records = waiting[run.topic, run.partition]
        while records and records[0].offset < run.next:
            yield records.popleft()
