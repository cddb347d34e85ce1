"""The driver of a shard: the only code that steps one, live, in redo and offline.

A step can fail in two ways, and both end here. A schema that is not at hand is fetched, and the record is
stepped again: nothing was changed. A model that raised has left the state undefined: the answer is then a
`Failure`, and whoever keeps the way back to an earlier state takes it, and hands the record to `leave_out`.

Invariants:
- `ModelRaised` and `NeedSchema` are caught in this file and in no other; neither leaves it.
- After a `Failure` whose `undoes` is true, nothing but `load` makes the state one of use again.
"""

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from streamlearn.core.events.event import Event, NoEvent, Refusal
from streamlearn.core.labels.pending import ALL
from streamlearn.core.records import Record, Skip
from streamlearn.core.shard.facts import Facts
from streamlearn.core.shard.shard import Shard
from streamlearn.engine.registry import Schemas
from streamlearn.errors import ModelRaised, NeedSchema

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
    """One shard, and the only code that steps it.

    Args:
        shard: The state to begin with.
        schemas: The registry's schemas; None where no registry may be asked.
        clock: A clock in seconds that measures the parts of long work, so that heartbeats go on between them.

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
        self, shard: Shard, schemas: Schemas | None = None, clock: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.shard = shard
        """The state. Only `load` puts another in its place."""
        self._schemas = schemas
        self._clock = clock
        self.ahead = False
        """True from the first step after `load` or `advance` until the next of them: the state has gone on
        from the place in the journal that it belongs to. Nothing of it may be saved then.
        """

    def load(self, shard: Shard) -> None:
        """Put another state in the place of this one: the state at a place in the journal."""
        self.shard = shard
        self.ahead = False

    def advance(self) -> None:
        """Note that the journal has what was stepped."""
        self.ahead = False

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


def event_in(record: Record, decode: Callable[[Record], Event | Refusal | NoEvent]) -> Event | None:
    """The event that `decode` finds in a record; None where that needs a registry, or there is none."""
    try:
        event = decode(record)
    except NeedSchema:
        return None
    return event if isinstance(event, Event) else None


def _failure(record: Record, raised: ModelRaised) -> Failure:
    return Failure(Skip(*record.place, raised.stage, raised.reason), raised.__cause__)
