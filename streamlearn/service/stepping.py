"""Records stepped into a batch, with heartbeats inside those that take long, and undo when the model fails.

Invariant: at each return the state is the one at the journal's end, gone on by exactly what the batch has.
"""

from collections.abc import Callable
from typing import Final

import structlog

from streamlearn.core.facts import published
from streamlearn.core.records import Output, Record, Skip
from streamlearn.core.shard import FAILING_LIMIT
from streamlearn.core.state import BROKEN
from streamlearn.core.trials import NOT_FINITE
from streamlearn.core.work import LabelWork
from streamlearn.engine.driver import Failure, ShardDriver
from streamlearn.env import Env
from streamlearn.errors import BadCheckpoint, Gone, Stop
from streamlearn.service.batch import Batch
from streamlearn.service.held import Held
from streamlearn.settings import TransactionSection

log = structlog.get_logger()

_OTHERWISE: Final = (
    "undoing a failed step gave other outputs than before: the model is not deterministic. Give every part a"
    " seed, and keep all state in attributes that pickle."
)


class Stepper:
    """How one process steps. `beat` is called between the parts of long work, and raises `NotOwner`; with
    `stopping` it comes to an end.
    """

    def __init__(
        self,
        env: Env,
        limits: TransactionSection,
        beat: Callable[[], None],
        stopping: Callable[[], bool],
    ) -> None:
        self._env = env
        self._limits = limits
        self._beat = beat
        self._stopping = stopping

    def carry_on(self, held: Held, batch: Batch, until_s: float) -> float:
        """Do first what an earlier transaction had left of its last record; how long that took. The batch is
        full when time is up before its end.
        """
        driver = held.standing.driver
        work = driver.shard.work
        if work is None:
            return 0.0
        began_s = self._env.monotonic()
        if held.alone.is_on and (skip := held.alone.try_alone(work.record)) is not None:
            batch.gives_up(skip, published(driver.give_up(skip)))
            batch.full = True
            return 0.0
        before = work.done
        outputs = self._worked(driver, max(until_s, began_s + self._limits.max_ms / 1e3))
        if isinstance(outputs, Failure):
            self._undo(held, batch, work.record, outputs)
        else:
            batch.outputs += outputs
            batch.carried = max(1, work.done - before)  # its end alone counts as one
            batch.full = driver.shard.work is not None
        return self._env.monotonic() - began_s

    def step(self, held: Held, batch: Batch, run: list[Record], until_s: float) -> None:
        """Step a run into the batch; what does not fit goes back."""
        if held.alone.is_on and self._crashes(held, batch, run[0]):
            return
        driver = held.standing.driver
        begin = driver.begin
        clock = self._env.monotonic
        shard = driver.shard
        memory = shard.memory
        outputs = batch.outputs
        size_bytes = batch.size_bytes
        done = 0
        back: list[Record] = []
        for record in run:
            found = begin(record)
            if not isinstance(found, Failure):
                outputs += [fact.output for fact in found if fact.output is not None]
                if shard.work is not None:
                    rest = self._worked(driver, until_s)
                    if isinstance(rest, Failure):
                        found = rest
                    else:
                        outputs += rest
            done += 1
            if isinstance(found, Failure):
                batch.covers(run[: done - 1])
                self._leave_out(held, batch, record, found)
                break
            size_bytes += len(record.value or b"")
            if memory.frozen == BROKEN and memory.frozen_at == memory.records:
                batch.covers(run[:done])
                back = self._mend(held, batch)
                break
            if (
                clock() >= until_s
                or size_bytes >= self._limits.max_bytes
                or memory.failing >= FAILING_LIMIT
                or self._stopping()
            ):
                batch.full = True
                batch.covers(run[:done])
                break
        else:
            batch.covers(run)
            batch.full = batch.full or len(batch.records) >= self._limits.max_records
        batch.size_bytes = size_bytes
        held.merge.put_back([*back, *run[done:]])

    def _crashes(self, held: Held, batch: Batch, record: Record) -> bool:
        """Before a record that goes alone: True, and its dead letter, if it has killed too many processes."""
        batch.full = True
        skip = held.alone.try_alone(record)
        if skip is not None:
            batch.leaves_out(record, skip, self._dead_letter(held, record, skip))
        return skip is not None

    def _worked(self, driver: ShardDriver, until_s: float) -> list[Output] | Failure:
        """Go on with what is left of a record, with heartbeats: to its end, a label until time is up."""
        outputs: list[Output] = []
        for some in driver.work():
            if isinstance(some, Failure):
                return some
            outputs += published(some)
            self._beat()
            is_late = self._env.monotonic() >= until_s or self._stopping()
            if is_late and isinstance(driver.shard.work, LabelWork):
                break
        return outputs

    def _leave_out(self, held: Held, batch: Batch, record: Record, failure: Failure) -> None:
        """A record of a run cannot be stepped: it becomes a dead letter."""
        if failure.undoes:
            self._undo(held, batch, record, failure)
        else:
            batch.leaves_out(record, failure.skip, self._dead_letter(held, record, failure.skip))

    def _undo(self, held: Held, batch: Batch, record: Record, failure: Failure) -> None:
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
        standing = held.standing
        if self._restored(held, batch, batch.records) != batch.outputs:
            raise Stop(_OTHERWISE)
        if standing.shard.work is not None:
            batch.gives_up(failure.skip, published(standing.driver.give_up(failure.skip)))
        else:
            batch.leaves_out(record, failure.skip, self._dead_letter(held, record, failure.skip))
        batch.full = True

    @staticmethod
    def _dead_letter(held: Held, record: Record, skip: Skip) -> tuple[Output, ...]:
        return published(held.standing.driver.leave_out(record, skip))

    def _mend(self, held: Held, batch: Batch) -> list[Record]:
        """The state has no good answer any more to what it answered before. If a record of this batch broke
        it, undo that one, and return those after it, which are to be stepped anew. Else learning is frozen.
        """
        standing, records = held.standing, batch.records
        broken_by = standing.broken_by(held.log, records, batch.skips, self._beat, batch.carried)
        kept = len(records) if broken_by is None else broken_by
        again = self._restored(held, batch, records[:kept])
        if again is None or again != batch.outputs[: len(again)]:
            raise Stop(_OTHERWISE)
        batch.full = True
        if broken_by is None:
            return []
        record, *back = batch.ends_before(kept, again)
        log.warning(
            "model.broken",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            action="what it learned there is undone; the record becomes a dead letter",
        )
        skip = Skip(record.topic, record.partition, record.offset, "learn", NOT_FINITE)
        batch.leaves_out(record, skip, self._dead_letter(held, record, skip))
        return back

    def _restored(self, held: Held, batch: Batch, records: list[Record]) -> list[Output] | None:
        """Make the state again as it is after `records` of the batch: their outputs."""
        try:
            return held.standing.restored(held.log, records, batch.skips, self._beat, batch.carried)
        except (Gone, BadCheckpoint) as error:
            raise Stop(
                f"the model failed, and undoing that needs what is no longer there ({error}). Keep "
                "more (retention), and start again: recovery takes an older way if there is one."
            ) from error
