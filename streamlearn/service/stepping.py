"""Records stepped into a batch, with heartbeats inside those that take long, and undo when the model fails.

Invariant: at each return the state is the one at the journal's end, gone on by exactly what the batch has.
"""

import time
from collections.abc import Callable
from typing import Final

import structlog

from streamlearn.core.facts import published
from streamlearn.core.records import Output, Record, Skip
from streamlearn.core.shard import FAILING_LIMIT, Shard
from streamlearn.core.state import BROKEN
from streamlearn.core.trials import NOT_FINITE
from streamlearn.core.work import LabelWork
from streamlearn.engine.schemas import Schemas
from streamlearn.errors import BadCheckpoint, Gone, ModelRaised, NeedSchema, Stop
from streamlearn.service.batch import Batch
from streamlearn.service.held import Held
from streamlearn.service.parts import parts
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
        limits: TransactionSection,
        schemas: Schemas,
        beat: Callable[[], None],
        stopping: Callable[[], bool],
    ) -> None:
        self._limits = limits
        self._schemas = schemas
        self._beat = beat
        self._stopping = stopping

    def carry_on(self, held: Held, batch: Batch, until_s: float) -> float:
        """Do first what an earlier transaction had left of its last record; how long that took. The batch is
        full when time is up before its end.
        """
        work = held.standing.shard.work
        if work is None:
            return 0.0
        began_s = time.monotonic()
        held.standing.ahead = True
        before = work.done
        try:
            batch.outputs += self._worked(
                held.standing.shard, max(until_s, began_s + self._limits.max_ms / 1e3)
            )
            batch.carried = max(1, work.done - before)  # its end alone counts as one
            batch.full = held.standing.shard.work is not None
        except ModelRaised as raised:
            self._undo(held, batch, work.record, raised)
        return time.monotonic() - began_s

    def step(self, held: Held, batch: Batch, run: list[Record], until_s: float) -> None:
        """Step a run into the batch; what does not fit goes back."""
        standing = held.standing
        standing.ahead = True
        shard = standing.shard
        begin = shard.begin
        clock = time.monotonic
        memory = shard.memory
        outputs = batch.outputs
        size_bytes = batch.size_bytes
        done = 0
        back: list[Record] = []
        for record in run:
            try:
                outputs += [fact.output for fact in begin(record, 1) if fact.output is not None]
                if shard.work is not None:
                    outputs += self._worked(shard, until_s)
            except ModelRaised as raised:
                batch.covers(run[:done])
                self._undo(held, batch, record, raised)
                done += 1
                break
            except NeedSchema as need:
                batch.covers(run[:done])
                if skip := self._schemas.missing(shard, record, need.ident):
                    batch.leaves_out(record, skip, published(shard.skip(record, skip.stage, skip.reason)))
                    done += 1
                break
            done += 1
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
        standing.ahead = not batch.empty
        held.merge.put_back([*back, *run[done:]])

    def _worked(self, shard: Shard, until_s: float) -> list[Output]:
        """Go on with what is left of a record, with heartbeats: to its end, a label until time is up."""
        outputs: list[Output] = []
        for some in parts(shard):
            outputs += published(some)
            self._beat()
            if isinstance(shard.work, LabelWork) and (time.monotonic() >= until_s or self._stopping()):
                break
        return outputs

    def _undo(self, held: Held, batch: Batch, record: Record, raised: ModelRaised) -> None:
        """The model raised on `record`, or has no good answer after it: make the state again without it, and
        let it be a dead letter.

        The transaction ends here, and a snapshot after it makes the next undo cheap.
        """
        log.warning(
            "model.raised",
            stage=raised.stage,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=raised.reason,
            error="" if raised.__cause__ is None else type(raised.__cause__).__name__,
            action="undone; the record becomes a dead letter",
        )
        standing = held.standing
        if self._restored(held, batch, batch.records) != batch.outputs:
            raise Stop(_OTHERWISE)
        skip = Skip(record.topic, record.partition, record.offset, raised.stage, raised.reason)
        if standing.shard.work is not None:
            batch.gives_up(skip, published(standing.shard.give_up(skip.stage, skip.reason)))
        else:
            batch.leaves_out(record, skip, published(standing.shard.skip(record, skip.stage, skip.reason)))
        batch.full = True

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
        batch.leaves_out(record, skip, published(standing.shard.skip(record, skip.stage, skip.reason)))
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
