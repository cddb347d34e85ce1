"""The driver of a shard: the only code that steps one, live, in redo and offline.

A step can fail in two ways, and both end here. A schema that is not at hand is fetched, and the record is
stepped again: nothing was changed. A model that raised has left the state undefined: the answer is then a
`Failure`, and the way back is `restored`, after which the record goes to `leave_out`.

Invariants:
- Neither `ModelRaised` nor `NeedSchema` leaves this file.
- After a `Failure` whose `undoes` is true, only `load` and `restored` make the state one of use again.
- The place in the journal and the state belong together, except while `ahead`: from the first step of a batch
  until `advance` the state is ahead by that batch. Nothing of it can be saved then.
- The snapshot plus the entries in `since` give the state at the place, always.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Self

from streamlearn.core.events.event import Event
from streamlearn.core.journal import GENESIS, Entry, chain
from streamlearn.core.labels.pending import ALL
from streamlearn.core.records import Output, Record, RecordPlace, Skip
from streamlearn.core.shard.facts import Facts, published
from streamlearn.core.shard.run import Runner
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.snapshot import Header, Sections, carried, dump_state, load_state
from streamlearn.core.shard.work import Failure, LabelWork, Ran, failure_at
from streamlearn.engine.cursor import JournalCursor, in_order, skips_by_place
from streamlearn.engine.era import restored_state, spec_of
from streamlearn.engine.registry import Alive, Schemas, unwatched
from streamlearn.env import PartSize
from streamlearn.errors import ModelRaised, NeedSchema, Stop
from streamlearn.log.port import History


class ShardDriver:
    """One shard at a place in a journal, or without one, and the only code that steps it.

    Args:
        shard: The state to begin with.
        schemas: The registry's schemas; None where no registry may be asked.
        clock: A clock in seconds that measures the parts of long work, so that heartbeats go on between them.
        sections: The same state, saved: the way back when a step is undone. Without it nothing is undone.
        trusted: See `core.model.pickles.trusted_by`.
        dump: How the state is saved.
        cursor: Where the state is in its journal; None for a shard that no journal stands behind.
        history: How records that the journal covers are read again.

    Example:
        >>> from river.linear_model import LogisticRegression
        >>> from streamlearn.core.model.learner import Learner
        >>> from streamlearn.core.shard.state import Memory, ShardSpec
        >>> shard = Shard(ShardSpec("logistic", "v1", 1), Learner(LogisticRegression()), Memory())
        >>> driver = ShardDriver(shard)
        >>> facts = driver.step(Record("events", 0, 0, 0, None, b'{"features": {"x": 1.0}}'))
        >>> [type(fact).__name__ for fact in facts], driver.ahead
        (['Predicted'], True)
    """

    def __init__(
        self,
        shard: Shard,
        schemas: Schemas | None = None,
        clock: Callable[[], float] = lambda: 0.0,
        *,
        sections: Sections | None = None,
        trusted: frozenset[str] = frozenset(),
        dump: Callable[[Shard], Sections] = dump_state,
        cursor: JournalCursor | None = None,
        history: History | None = None,
    ) -> None:
        self.shard = shard
        """The state. Only `load` puts another in its place."""
        self._is_accelerated = False
        self._runner = Runner(shard)
        self._run_size = PartSize(clock)
        self._schemas = schemas
        self._clock = clock
        self.ahead = False
        """True from the first step after `load` or `advance` until the next of them: the state has gone on
        from the place in the journal that it belongs to. Nothing of it may be saved then.
        """
        self._cursor = cursor
        self._history = history
        self.since: list[Entry] = []
        """The entries from the snapshot on."""
        self._trusted = trusted
        self._dump = dump
        self._snapshot = sections
        self._snapshot_header = None if cursor is None else self.header()

    @classmethod
    def at_cursor(
        cls,
        cursor: JournalCursor,
        sections: Sections,
        trusted: frozenset[str],
        schemas: Schemas,
        history: History,
    ) -> Self:
        """Stand at a place in the journal with the state that a checkpoint or a snapshot of it holds.

        Raises `BadCheckpoint` when the state cannot be loaded, whatever the bytes are.
        """
        shard = restored_state(cursor.era, sections, trusted)
        clock = schemas.env.monotonic
        return cls(shard, schemas, clock, sections=sections, trusted=trusted, cursor=cursor, history=history)

    @property
    def cursor(self) -> JournalCursor:
        """The place in the journal: that of the state, except while `ahead`."""
        assert self._cursor is not None, "no journal stands behind this shard"
        return self._cursor

    # --- the state and its place ----------------------------------------------------------------------

    def load(self, shard: Shard) -> None:
        """Put another state in the place of this one: the state at the place in the journal."""
        self.shard = shard
        self._runner = Runner(shard)
        self.ahead = False
        if self._is_accelerated:
            shard.learner.accelerate()

    def accelerate(self) -> None:
        """Let the learner of this state, and of each that takes its place, go the fused way."""
        self._is_accelerated = True
        self.shard.learner.accelerate()

    def advance(self, entry: Entry | None = None) -> None:
        """Note that the journal has what was stepped, as `entry`: the place moves there. Without a journal
        the state is taken as it is.
        """
        if entry is not None:
            self.cursor.advance(entry)
            self.since.append(entry)
        self.ahead = False

    def header(self) -> Header:
        """The header of a checkpoint taken now."""
        assert not self.ahead, "a checkpoint says that its state is the one at its entry"
        return self.cursor.header(self.shard.memory.learned)

    def take_snapshot(self) -> Sections:
        """The state as sections; later undos start from here. Raises `Stop` if the model does not pickle."""
        assert not self.ahead, "a snapshot is the state at an entry"
        try:
            self._snapshot = self._dump(self.shard)
        except Exception as error:  # pickling runs the user's code: whatever it raises, nothing can be saved
            lost = "" if self._cursor is None else " Nothing is lost: what was published stays published."
            raise Stop(
                f"the model cannot be saved once it has learned: {type(error).__name__}: {error}. Keep "
                f"lambdas, open files, locks and clients out of it.{lost}"
            ) from error
        self._snapshot_header = None if self._cursor is None else self.header()
        self.since = []
        return self._snapshot

    def snapshot(self) -> tuple[Header, Sections]:
        """The newest snapshot, and where in the journal it stands. Its entry is known to be committed."""
        assert self._snapshot_header is not None and self._snapshot is not None
        return self._snapshot_header, self._snapshot

    # --- records --------------------------------------------------------------------------------------

    def begin(self, record: Record, units: int = 1) -> Facts | Failure:
        """Apply a record, of whose events at most `units` are learned now; see `work`."""
        self.ahead = True
        while True:
            try:
                return self.shard.begin(record, units)
            except ModelRaised as raised:
                return failure_at(record, raised)
            except NeedSchema as need:
                if not self._supplied(need.ident):
                    return failure_at(record, need)

    def run(self, records: Sequence[Record], first: int, last: int, outputs: list[Output]) -> Ran:
        """Step records in a row for some milliseconds, and add their outputs to `outputs`; no facts."""
        self.ahead = True
        self._run_size.begin()
        end = min(last, first + self._run_size.count)
        ran = Ran(first)
        while ran.next < end:
            ran = self._runner.run(records, ran.next, end, outputs)
            if ran.failure is None or not self._supplied(ran.failure.schema):
                break
        self._run_size.end(is_whole=ran.next == end)
        return ran

    def work(self, units: int = ALL) -> Iterator[Facts | Failure]:
        """Go on with what is left of the record, to its end or until `units` events are done: facts after
        each part, which takes milliseconds. A `Failure` is the last.
        """
        size = PartSize(self._clock)
        shard = self.shard
        while units > 0 and (work := shard.work) is not None:
            self.ahead = True
            before = work.done
            size.begin()
            try:
                facts = shard.work_on(min(size.count, units))
            except ModelRaised as raised:
                yield failure_at(work.record, raised)
                return
            units -= work.done - before
            size.end()
            yield facts

    def step(self, record: Record, units: int = ALL, alive: Alive = unwatched) -> Facts | Failure:
        """Apply a record to its end, or until `units` of its events are done.

        Args:
            record: The record.
            units: The largest number of events that it makes the model learn now.
            alive: Called after each part of long work, which takes milliseconds.

        Returns:
            The facts in order, or a `Failure`: the record could not be stepped.
        """
        facts = self.begin(record)
        if self.shard.work is None or isinstance(facts, Failure):
            return facts
        rest = self.finish(units - 1, alive)
        return rest if isinstance(rest, Failure) else facts + rest

    def finish(self, units: int = ALL, alive: Alive = unwatched) -> Facts | Failure:
        """Go on with what is left of the record as `work` does: all of its facts."""
        finished: Facts = []
        for facts in self.work(units):
            if isinstance(facts, Failure):
                return facts
            alive()
            finished += facts
        return finished

    def again(
        self, record: Record, skip: Skip | None, units: int = ALL, alive: Alive = unwatched
    ) -> Facts | Failure:
        """Apply a record that was stepped before: as then. `skip`: how its entry notes that it was left out.
        Raises `Stop` when the registry no longer has the schema with which it was read.
        """
        if skip is not None:
            return self.leave_out(record, skip)
        facts = self.step(record, units, alive)
        if isinstance(facts, Failure):
            self._check_schema(facts, record)
        return facts

    def leave_out(self, record: Record, skip: Skip) -> Facts:
        """Apply a record without the model: its dead letter."""
        self.ahead = True
        return self.shard.skip(record, skip.stage, skip.reason)

    def give_up(self, skip: Skip) -> Facts:
        """Instead of the rest of a record's work: its dead letter; what was learned of it stays."""
        self.ahead = True
        return self.shard.give_up(skip.stage, skip.reason)

    def is_broken(self) -> bool | None:
        """Ask the model again what it had a good answer to: True when it has none any more, None when it
        raised at that, and the state is undefined now.
        """
        try:
            return self.shard.teacher.is_broken()
        except ModelRaised:
            return None

    def peek(self, record: Record) -> Event | None:
        """The event in a record, None also where the registry has no schema for it. Nothing is applied."""
        while True:
            try:
                return self.shard.peek(record)
            except NeedSchema as need:
                if not self._supplied(need.ident):
                    return None

    def _supplied(self, ident: str) -> bool:
        """Fetch a schema that is not at hand. False for none ("") and where no registry has it."""
        return ident != "" and self._schemas is not None and self._schemas.supply(self.shard, ident)

    # --- entries again, and undo ----------------------------------------------------------------------

    def redo(self, entry: Entry, alive: Alive = unwatched) -> bool:
        """Apply an entry of the journal again and stand after it. False when its outputs came out different:
        the state is then of no use.
        """
        if entry.change is not None:
            self.begin_era(entry)
            return True
        if not self._restep(entry, self.cursor.digest, alive):
            return False
        self.advance(entry)
        return True

    def begin_era(self, entry: Entry) -> None:
        """Apply an era entry: its rules and its new partitions; the state is carried on."""
        era = entry.change
        assert era is not None
        assert era.revision == self.cursor.era.revision, "another model begins with a place at its birth"
        self.load(carried(self.shard, spec_of(era)))
        if self.shard.guard is not None:
            self.shard.guard.settle(era.kinds)
        self.advance(entry)
        self.take_snapshot()

    def carry_on(self, entry: Entry, alive: Alive = unwatched) -> Facts | Failure:
        """Do again what `entry` did for the last record of those before it."""
        work = self.shard.work
        if isinstance(work, LabelWork):
            for skip in entry.skips:
                if skip.place == work.record.place:
                    return self.give_up(skip)
        return self.finish(entry.carried, alive)

    def restored(
        self, batch: Sequence[Record], skips: Sequence[Skip], alive: Alive = unwatched, carried: int = 0
    ) -> list[Output] | None:
        """Make the state at the place again, do `carried` units of what was left there, then step `batch`
        without its `skips`: the outputs. None where the model is not deterministic: others came out.
        """
        if not self._back_at_cursor(alive):
            return None
        skipped = skips_by_place(skips)
        facts: Facts | Failure = self.finish(carried, alive)
        if isinstance(facts, Failure):
            return None
        outputs = [*published(facts)]
        return outputs if self._step_again(batch, skipped, outputs, alive) else None

    def _step_again(
        self,
        records: Sequence[Record],
        skips: Mapping[RecordPlace, Skip],
        outputs: list[Output],
        alive: Alive,
    ) -> bool:
        """Step records that were stepped before, each to its end. False when one could not be stepped."""
        index, count = 0, len(records)
        while index < count:
            alive()
            skip = skips.get(records[index].place) if skips else None
            if skip is not None:
                outputs += published(self.leave_out(records[index], skip))
                index += 1
                continue
            end = (
                next((n for n in range(index, count) if records[n].place in skips), count) if skips else count
            )
            index, failure = self.run(records, index, end, outputs)
            if failure is not None:
                self._check_schema(failure, records[index])
                return False
            facts = self.finish(ALL, alive)
            if isinstance(facts, Failure):
                return False
            outputs += published(facts)
        return True

    def _check_schema(self, failure: Failure, record: Record) -> None:
        """Raise `Stop` when the registry has lost the schema with which a record was read."""
        if failure.schema:
            assert self._schemas is not None, "it was read with a registry"
            raise self._schemas.lost(failure.schema, record)

    def _back_at_cursor(self, alive: Alive) -> bool:
        """Make the state at the place again. False when it came out other than the journal has it."""
        assert self._snapshot is not None, "a step is undone from a snapshot"
        self.load(load_state(self.shard.spec, self._snapshot, self._trusted))
        digest = GENESIS if self._snapshot_header is None else self._snapshot_header.digest
        for entry in self.since:
            if not self._restep(entry, digest, alive):
                return False
            digest = entry.digest
        self.ahead = False
        return True

    def _restep(self, entry: Entry, digest: str, alive: Alive) -> bool:
        """Step what `entry` covers again. False when its outputs came out different."""
        skips = skips_by_place(entry.skips)
        facts = self.carry_on(entry, alive)
        if isinstance(facts, Failure):
            return False
        if entry.ranges and self.shard.work is not None:
            return False
        assert self._history is not None, "entries are redone where their records can be read again"
        outputs = [*published(facts)]
        records = list[Record]()
        for record in in_order(entry, self._history):
            alive()
            records.append(record)
        unfinished = records.pop() if entry.begun else None
        if not self._step_again(records, skips, outputs, alive):
            return False
        if unfinished is not None:
            facts = self.again(unfinished, skips.get(unfinished.place), entry.begun, alive)
            if isinstance(facts, Failure):
                return False
            outputs += published(facts)
        return len(outputs) == entry.outputs and chain(digest, outputs) == entry.digest
