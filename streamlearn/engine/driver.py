"""The driver of a shard: the only code that steps one, live, in redo and offline.

A step can fail in two ways, and both end here. A schema that is not at hand is fetched, and the record is
stepped again: nothing was changed. A model that raised has left the state undefined: the answer is then a
`Failure`, and the way back is `restored`, after which the record goes to `leave_out`.

Invariants:
- `ModelRaised` and `NeedSchema` are caught in this file and in no other; neither leaves it.
- After a `Failure` whose `undoes` is true, only `load` and `restored` make the state one of use again.
- The place in the journal and the state belong together, except while `ahead`: from the first step of a batch
  until `advance` the state is ahead by that batch. Nothing of it can be saved then.
- The snapshot plus the entries in `since` give the state at the place, always.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, Self

import msgspec

from streamlearn.core.events.event import Event, NoEvent, Refusal
from streamlearn.core.journal import GENESIS, Entry, chain
from streamlearn.core.labels.pending import ALL
from streamlearn.core.records import Output, Record, Skip
from streamlearn.core.shard.facts import Facts, published
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.snapshot import Header, Sections, carried, dump_state, load_state
from streamlearn.core.shard.work import LabelWork
from streamlearn.engine.cursor import JournalCursor, in_order, skips_by_place
from streamlearn.engine.era import restored_state, spec_of
from streamlearn.engine.registry import Schemas
from streamlearn.errors import ModelRaised, NeedSchema, Stop
from streamlearn.log.port import History

PART_S: Final = 0.02
"""A part of a record's work that took less is followed by one of twice as many events: heartbeats go on
between parts. How many events a part has changes nothing but when they are learned (`core.shard.work`).
"""

_UNITS_MAX: Final = 1_000

Alive = Callable[[], None]
"""Called at every record of long work, so it is quick: keeps the membership, raises `NotOwner` without it."""


def _unwatched() -> None:
    """Nobody's membership depends on this work."""


class Failure(msgspec.Struct, frozen=True):
    """A record that could not be stepped: a value, to be acted on.

    Attributes:
        skip: The note of its journal entry, for `ShardDriver.leave_out`.
        cause: The model's exception; None for an answer that is no number.
        schema: The id of a schema that the registry does not have, else "".

    Example:
        >>> Failure(Skip("events", 0, 7, "decode", "schema_unknown"), schema="42").undoes
        False
    """

    skip: Skip
    cause: BaseException | None = None
    schema: str = ""

    @property
    def undoes(self) -> bool:
        """True when the state is undefined now. A record without a schema has changed nothing."""
        return not self.schema


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
        shard = self.shard
        while True:
            try:
                return shard.begin(record, units)
            except ModelRaised as raised:
                return _failure(record, raised)
            except NeedSchema as need:
                if self._schemas is None or not self._schemas.supply(shard, need.ident):
                    return Failure(Skip(*record.place, "decode", "schema_unknown"), schema=need.ident)

    def work(self, units: int = ALL) -> Iterator[Facts | Failure]:
        """Go on with what is left of the record, to its end or until `units` events are done: facts after
        each part, which takes milliseconds. A `Failure` is the last.
        """
        size = 1
        shard = self.shard
        while units > 0 and (work := shard.work) is not None:
            self.ahead = True
            before, began_s = work.done, self._clock()
            try:
                facts = shard.work_on(min(size, units))
            except ModelRaised as raised:
                yield _failure(work.record, raised)
                return
            units -= work.done - before
            if self._clock() - began_s < PART_S:
                size = min(2 * size, _UNITS_MAX)
            yield facts

    def step(self, record: Record, units: int = ALL, alive: Alive = _unwatched) -> Facts | Failure:
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

    def finish(self, units: int = ALL, alive: Alive = _unwatched) -> Facts | Failure:
        """Go on with what is left of the record as `work` does: all of its facts."""
        finished: Facts = []
        for facts in self.work(units):
            if isinstance(facts, Failure):
                return facts
            alive()
            finished += facts
        return finished

    def again(
        self, record: Record, skip: Skip | None, units: int = ALL, alive: Alive = _unwatched
    ) -> Facts | Failure:
        """Apply a record that was stepped before: as then. `skip`: how its entry notes that it was left out.

        Raises `Stop` when the registry no longer has the schema with which it was read.
        """
        if skip is not None:
            return self.leave_out(record, skip)
        facts = self.step(record, units, alive)
        if isinstance(facts, Failure) and facts.schema:
            assert self._schemas is not None, "what was read with a registry is read with one again"
            raise self._schemas.lost(facts.schema, record)
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
                if self._schemas is None or not self._schemas.supply(self.shard, need.ident):
                    return None

    # --- entries again, and undo ----------------------------------------------------------------------

    def redo(self, entry: Entry, alive: Alive = _unwatched) -> bool:
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

    def carry_on(self, entry: Entry, alive: Alive = _unwatched) -> Facts | Failure:
        """Do again what `entry` did for the last record of those before it."""
        work = self.shard.work
        if isinstance(work, LabelWork):
            for skip in entry.skips:
                if skip.place == work.record.place:
                    return self.give_up(skip)
        return self.finish(entry.carried, alive)

    def restored(
        self, batch: Sequence[Record], skips: Sequence[Skip], alive: Alive = _unwatched, carried: int = 0
    ) -> list[Output] | None:
        """Make the state at the place again, do `carried` units of what was left there, then step `batch`
        without its `skips`: the outputs.

        None when anything came out other than the journal has it: the model is not deterministic.
        """
        if not self._back_at_cursor(alive):
            return None
        skipped = skips_by_place(skips)
        facts: Facts | Failure = self.finish(carried, alive)
        if isinstance(facts, Failure):
            return None
        outputs = [*published(facts)]
        for record in batch:
            facts = self.again(record, skipped.get(record.place), ALL, alive)
            if isinstance(facts, Failure):
                return None
            outputs += published(facts)
        return outputs

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
        last = entry.ranges[-1].last if entry.begun else None
        facts = self.carry_on(entry, alive)
        if isinstance(facts, Failure):
            return False
        if entry.ranges and self.shard.work is not None:
            return False
        assert self._history is not None, "entries are redone where their records can be read again"
        outputs = [*published(facts)]
        for record in in_order(entry, self._history):
            alive()
            units = entry.begun if record.place == last else ALL
            facts = self.again(record, skips.get(record.place), units, alive)
            if isinstance(facts, Failure):
                return False
            outputs += published(facts)
        return len(outputs) == entry.outputs and chain(digest, outputs) == entry.digest


def event_in(record: Record, decode: Callable[[Record], Event | Refusal | NoEvent]) -> Event | None:
    """The event that `decode` finds in a record; None where that needs a registry, or there is none."""
    try:
        event = decode(record)
    except NeedSchema:
        return None
    return event if isinstance(event, Event) else None


def _failure(record: Record, raised: ModelRaised) -> Failure:
    return Failure(Skip(*record.place, raised.stage, raised.reason), raised.__cause__)
