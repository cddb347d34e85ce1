"""Records stepped into a batch, with heartbeats inside those that take long, and undo when the model fails.

Invariant: at each return the state is the one at the journal's end, gone on by exactly what the batch has.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Final, NamedTuple

import structlog

from streamlearn.config.schema import TransactionSection
from streamlearn.core.records import Output, Record, Skip
from streamlearn.core.shard.facts import Facts
from streamlearn.core.shard.shard import FAILING_LIMIT
from streamlearn.core.shard.state import BROKEN
from streamlearn.core.shard.trials import NOT_FINITE
from streamlearn.core.shard.work import Failure, LabelWork, Ran
from streamlearn.engine.cursor import skips_by_place
from streamlearn.engine.driver import ShardDriver
from streamlearn.env import Env
from streamlearn.errors import BadCheckpoint, Gone, Stop
from streamlearn.service.batch import Batch
from streamlearn.service.merge import Merge
from streamlearn.service.one_by_one import OneByOne
from streamlearn.service.ownership import Heartbeat

log = structlog.get_logger()

_OTHERWISE: Final = (
    "undoing a failed step gave other outputs than before: the model is not deterministic. Give every part a"
    " seed, and keep all state in attributes that pickle."
)


class _Progress(NamedTuple):
    """How far a run was stepped.

    Attributes:
        stepped: The number of records that were stepped.
        failure: The failure of the record after these, if that ended it.
        is_broken: True if the last of these broke the state.
    """

    stepped: int
    failure: Failure | None
    is_broken: bool


class Stepper:
    """Steps what the merge gives into batches, for one task. Long work has heartbeats in it, which raise
    `NotOwner`; a stop ends it early.
    """

    def __init__(
        self,
        env: Env,
        limits: TransactionSection,
        driver: ShardDriver,
        merge: Merge,
        heartbeat: Heartbeat,
        alone: OneByOne,
    ) -> None:
        self._clock = env.monotonic
        self._limits = limits
        self._driver = driver
        self._merge = merge
        self._heartbeat = heartbeat
        self._alone = alone

    def carry_on(self, batch: Batch, until_s: float) -> float:
        """Do first what an earlier transaction had left of its last record; how long that took. The batch is
        full when time is up before its end.
        """
        driver = self._driver
        work = driver.shard.work
        if work is None:
            return 0.0
        began_s = self._clock()
        if self._alone.is_on and (skip := self._alone.try_alone(work.record)) is not None:
            batch.gives_up(skip, driver.give_up(skip))
            batch.full = True
            return 0.0
        before = work.done
        facts = self._worked(driver, max(until_s, began_s + self._limits.max_ms / 1e3), [])
        if isinstance(facts, Failure):
            self._undo(batch, work.record, facts)
        else:
            batch.takes(facts)
            batch.carried = max(1, work.done - before)  # its end alone counts as one
            batch.full = driver.shard.work is not None
        return self._clock() - began_s

    def step(self, batch: Batch, run: list[Record], until_s: float) -> None:
        """Step a run into the batch; what does not fit goes back."""
        if self._alone.is_on and self._crashes(batch, run[0]):
            return
        sizes = [*accumulate((len(record.value or b"") for record in run), initial=batch.size_bytes)]
        fits = bisect_left(sizes, self._limits.max_bytes, lo=1)  # the limit is passed by the last of these
        count, failure, is_broken = self._step_some(batch, run[:fits], until_s)
        batch.size_bytes = sizes[count]
        rest = run[count:]
        if failure is not None:
            self._fail(batch, rest.pop(0), failure)
        elif is_broken:
            rest = [*self._mend(batch), *rest]
        else:
            limits = self._limits
            at_limit = batch.size_bytes >= limits.max_bytes or len(batch.records) >= limits.max_records
            batch.full = batch.full or at_limit
        self._merge.put_back(rest)

    def _step_some(self, batch: Batch, run: Sequence[Record], until_s: float) -> _Progress:
        """Step a run into the batch until a record fails or breaks the state, or the batch is full because
        time is up, the model fails too often or a stop was asked for.
        """
        memory = self._driver.shard.memory
        step = self._step_unheard if batch.facts is None else self._step_heard
        count, failure, is_broken = 0, None, False
        while count < len(run):
            count, failure = step(batch, run, count, until_s)
            is_broken = memory.frozen == BROKEN and memory.frozen_at == memory.records
            if failure is not None or is_broken:
                break
            if self._clock() >= until_s or memory.failing >= FAILING_LIMIT or self._heartbeat.stopping():
                batch.full = True
                break
        batch.covers(run[:count])
        return _Progress(count, failure, is_broken)

    def _step_heard(self, batch: Batch, run: Sequence[Record], first: int, until_s: float) -> Ran:
        """Step one record, and keep its facts."""
        driver = self._driver
        facts = driver.begin(run[first])
        if driver.shard.work is not None and not isinstance(facts, Failure):
            facts = self._worked(driver, until_s, facts)
        if isinstance(facts, Failure):
            return Ran(first, facts)
        batch.takes(facts)
        return Ran(first + 1, None)

    def _step_unheard(self, batch: Batch, run: Sequence[Record], first: int, until_s: float) -> Ran:
        """Step some records, of which nobody wants the facts."""
        driver = self._driver
        count, failure = driver.run(run, first, len(run), batch.outputs)
        if failure is None and driver.shard.work is not None:  # nothing of that record is published yet
            facts = self._worked(driver, until_s, [])
            if isinstance(facts, Failure):
                return Ran(count - 1, facts)
            batch.takes(facts)
        return Ran(count, failure)

    def _crashes(self, batch: Batch, record: Record) -> bool:
        """Before a record that goes alone: True, and its dead letter, if it has killed too many processes."""
        batch.full = True
        skip = self._alone.try_alone(record)
        if skip is not None:
            self._leave_out(batch, record, skip)
        return skip is not None

    def _worked(self, driver: ShardDriver, until_s: float, before: Facts) -> Facts | Failure:
        """Go on with what is left of a record, with heartbeats: to its end, a label until time is up. Returns
        the facts `before` and those of the work.
        """
        facts = [*before]
        for part_facts in driver.work():
            if isinstance(part_facts, Failure):
                return part_facts
            facts += part_facts
            self._heartbeat.beat()
            in_label = isinstance(driver.shard.work, LabelWork)
            if in_label and (self._clock() >= until_s or self._heartbeat.stopping()):
                break
        return facts

    def _leave_out(self, batch: Batch, record: Record, skip: Skip) -> None:
        """A record becomes a dead letter."""
        batch.leaves_out(record, skip, self._driver.leave_out(record, skip))

    def _fail(self, batch: Batch, record: Record, failure: Failure) -> None:
        """A record of a run cannot be stepped."""
        if failure.undoes:
            self._undo(batch, record, failure)
        else:
            self._leave_out(batch, record, failure.skip)

    def _undo(self, batch: Batch, record: Record, failure: Failure) -> None:
        """The model raised on `record`, or has no good answer after it: make the state again without it, and
        let it be a dead letter.

        The transaction ends here, and a snapshot after it makes the next undo cheap.
        """
        log.warning(
            "model.raised",
            stage=failure.skip.stage,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=failure.skip.reason,
            error="" if failure.cause is None else type(failure.cause).__name__,
            action="undone; the record becomes a dead letter",
        )
        driver = self._driver
        if self._restored(batch, batch.records) != batch.outputs:
            raise Stop(_OTHERWISE)
        if driver.shard.work is not None:
            batch.gives_up(failure.skip, driver.give_up(failure.skip))
        else:
            self._leave_out(batch, record, failure.skip)
        batch.full = True

    def _mend(self, batch: Batch) -> list[Record]:
        """The state has no good answer any more to what it answered before. If a record of this batch broke
        it, undo that one, and return those after it, which are to be stepped anew. Else learning is frozen.
        """
        records = batch.records
        broken_by = self._broken_by(batch)
        kept_count = len(records) if broken_by is None else broken_by
        again = self._restored(batch, records[:kept_count])
        if again is None or again != batch.outputs[: len(again)]:
            raise Stop(_OTHERWISE)
        batch.full = True
        if broken_by is None:
            return []
        record, *back = batch.ends_before(kept_count, again)
        log.warning(
            "model.broken",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            action="what it learned there is undone; the record becomes a dead letter",
        )
        skip = Skip(*record.place, "learn", NOT_FINITE)
        self._leave_out(batch, record, skip)
        return back

    def _broken_by(self, batch: Batch) -> int | None:
        """The place in the batch of the record that broke the state (`Teacher.is_broken`); None when it was
        broken before. The state is of no use then: make it again.
        """
        driver = self._driver
        if self._restored(batch, []) is None:
            return None
        skipped = skips_by_place(batch.skips)
        for index, record in enumerate(batch.records):
            broken = driver.is_broken()
            if broken:
                return index - 1 if index else None
            if broken is None:
                return None  # asking once more did that: the state stays as it was found
            facts = driver.again(record, skipped.get(record.place), alive=self._heartbeat.beat)
            if isinstance(facts, Failure):
                return None
        return None

    def _restored(self, batch: Batch, records: list[Record]) -> list[Output] | None:
        """Make the state again as it is after `records` of the batch: their outputs."""
        try:
            return self._driver.restored(records, batch.skips, self._heartbeat.beat, batch.carried)
        except (Gone, BadCheckpoint) as error:
            raise Stop(
                f"the model failed, and undoing that needs what is no longer there ({error}). Keep "
                "more (retention), and start again: recovery takes an older way if there is one."
            ) from error
