"""The loop: own a shard, step what arrives, publish it as one transaction, checkpoint now and then.

Invariants:
- The loop holds the positions; the log holds none. After a publish whose outcome is known, state,
  positions and journal agree.
- No Kafka transaction is open while models work: `publish` comes after the last step.
- Work that is not a shard's own (ownership, checkpoints, signals) happens between transactions.
"""

import random
import time
from collections.abc import Sequence
from typing import Final

import structlog

from streamlearn.core.records import Entry, Output, Positions, Range, Record, Skip, chain
from streamlearn.core.shard import FAILING_LIMIT
from streamlearn.errors import Fenced, Gone, ModelRaised, Stop, Unknown, Unreachable
from streamlearn.log.port import Log, ShardLog, Store
from streamlearn.service.checkpoints import Checkpointer
from streamlearn.service.models import FreshModel
from streamlearn.service.order import Merge
from streamlearn.service.recovery import Recovery
from streamlearn.service.selfcheck import ENOUGH_RECORDS, check_model
from streamlearn.service.standing import Standing
from streamlearn.settings import Config

log = structlog.get_logger()

SHARD: Final = 0
"""One model over everything: one shard. Replicas stand by."""

POLL_S: Final = 0.1
REPORT_S: Final = 10.0
SINCE_LIMIT: Final = 10_000
SETTLE_TRIES: Final = 20
PROBATION_BYTES: Final = 1 << 24


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


class Loop:
    """One service process. `run` returns after `stop`, with everything finished."""

    def __init__(
        self, config: Config, fresh: FreshModel, service_log: Log, store: Store, model_change: str
    ) -> None:
        self._config = config
        self._fresh = fresh
        self._log = service_log
        self._store = store
        self._model_change = model_change
        self._checkpointer = Checkpointer(
            store, config.checkpoint.interval_s, config.checkpoint.keep, config.checkpoint.key.encode()
        )
        self._shard_log: ShardLog | None = None
        self._standing: Standing
        self._merge: Merge
        self._probation: list[bytes] | None = None
        self._published_s = 0.0
        self._stepped_s = 0.0
        self._reported = (0.0, 0)
        self._frozen = ""
        self.stopping = False

    def stop(self) -> None:
        """Finish the transaction in hand, checkpoint, and leave. Safe to call from a signal handler."""
        self.stopping = True

    def run(self) -> None:
        """Serve until `stop`. Raises `StreamlearnError` when it cannot go on."""
        try:
            while not self.stopping:
                try:
                    self._round()
                except Fenced:
                    if self.stopping:
                        break
                    log.warning("shard.fenced", shard=SHARD, action="dropped; asking the election again")
                    self._drop()
                    time.sleep(random.uniform(0.05, 0.5))
                except Unknown as error:
                    log.warning("shard.reopening", shard=SHARD, reason=str(error))
                    self._drop()
            if self._shard_log is not None:
                self._finish()
        finally:
            self._drop()

    def _round(self) -> None:
        if self._shard_log is None:
            if SHARD in self._log.owned(POLL_S):
                self._open()
            else:
                time.sleep(POLL_S)
            return
        self._alive()
        batch = self._gathered(self._shard_log)
        if batch.records:
            self._publish(self._shard_log, batch)
        self._checkpoint(self._shard_log, now=False)

    def _alive(self) -> None:
        """Heartbeat; also called during long work."""
        if SHARD not in self._log.owned(0):
            raise Fenced

    def _opening(self) -> None:
        """Heartbeat during recovery, which a stop may interrupt: nothing was published yet."""
        if self.stopping:
            raise Fenced
        self._alive()

    # --- opening and closing --------------------------------------------------------------------------

    def _open(self) -> None:
        began_s = time.monotonic()
        self._shard_log = shard_log = self._log.open(SHARD)
        recovery = Recovery(self._config, self._fresh, self._log, self._store, shard_log, self._opening)
        self._standing = standing = recovery.run(self._model_change)
        self._model_change = ""
        self._merge = Merge(standing.positions)
        self._probation = [] if standing.shard.memory.records == 0 else None
        self._reported = (time.monotonic(), standing.shard.memory.records)
        if standing.era_began:
            self._checkpoint(shard_log, now=True)
        log.info(
            "shard.opened",
            shard=SHARD,
            seq=standing.seq,
            learned=standing.shard.memory.learned,
            duration_s=round(time.monotonic() - began_s, 3),
        )

    def _drop(self) -> None:
        if self._shard_log is not None:
            shard_log, self._shard_log = self._shard_log, None
            shard_log.close()

    def _finish(self) -> None:
        """A graceful end: with a checkpoint at the end, so that the next start redoes nothing."""
        assert self._shard_log is not None
        self._close_probation()
        self._checkpoint(self._shard_log, now=True)
        log.info("service.stopped", seq=self._standing.seq, outcomes=self._standing.shard.memory.outcomes)

    # --- one transaction ------------------------------------------------------------------------------

    def _gathered(self, shard_log: ShardLog) -> Batch:
        """Step whatever has arrived, until a limit of `[transaction]`; what is left waits in the merge."""
        limits = self._config.transaction
        batch = Batch()
        until_s = self._published_s + limits.min_interval_ms / 1e3
        stepping_s = 0.0
        while not batch.full:
            began_s = time.monotonic()
            run = self._merge.take(limits.max_records - len(batch.records), began_s)
            if run:
                self._step_run(shard_log, batch, run, began_s + limits.max_ms / 1e3 - stepping_s)
                stepped_s = time.monotonic() - began_s
                stepping_s += stepped_s
                self._stepped_s += stepped_s
            elif not self._polled(shard_log, batch, until_s):
                break
        return batch

    def _polled(self, shard_log: ShardLog, batch: Batch, until_s: float) -> bool:
        """Fetch more. False when the transaction should end with what it has."""
        limits = self._config.transaction
        wait_s = POLL_S if not batch.records else min(POLL_S, until_s - time.monotonic())
        if wait_s <= 0 or self.stopping:
            return False
        if not self._merge.idle:
            wait_s = min(wait_s, 0.01)
        try:
            polled = shard_log.poll(self._merge.wanted(), limits.max_records, limits.max_bytes, wait_s)
        except Gone as error:
            raise Stop(
                f"the input at the next position is no longer retained ({error}): records were lost before "
                "they were read. Keep more (retention), or begin again under another [app] name."
            ) from error
        self._merge.add(polled, time.monotonic())
        if any(polled.records.values()):
            return True
        return bool(batch.records) and time.monotonic() < until_s

    def _step_run(self, shard_log: ShardLog, batch: Batch, run: list[Record], until_s: float) -> None:
        """Step a run into the batch; what does not fit goes back."""
        limits = self._config.transaction
        step = self._standing.shard.step
        clock = time.monotonic
        memory = self._standing.shard.memory
        outputs = batch.outputs
        size_bytes = batch.size_bytes
        done = 0
        for record in run:
            try:
                outputs += step(record)
            except ModelRaised as raised:
                batch.covers(run[:done])
                self._undo(shard_log, batch, record, raised)
                done += 1
                break
            done += 1
            size_bytes += len(record.value or b"")
            if clock() >= until_s or size_bytes >= limits.max_bytes or memory.failing >= FAILING_LIMIT:
                batch.full = True
                batch.covers(run[:done])
                break
        else:
            batch.covers(run)
            batch.full = len(batch.records) >= limits.max_records
        batch.size_bytes = size_bytes
        self._merge.put_back(run[done:])

    def _undo(self, shard_log: ShardLog, batch: Batch, record: Record, raised: ModelRaised) -> None:
        """The model raised on `record`: make the state again without it, and let it be a dead letter.

        The transaction ends here, and a snapshot after it makes the next undo cheap.
        """
        log.warning(
            "model.raised",
            stage=raised.stage,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            error=type(raised.__cause__).__name__,
            action="undone; the record becomes a dead letter",
        )
        standing = self._standing
        try:
            again = standing.restored(shard_log, batch.records, self._alive)
        except Gone as error:
            raise Stop(
                f"the model raised, and undoing that needs input that is no longer retained ({error}). Keep "
                "more (retention), and start again: recovery takes an older way if there is one."
            ) from error
        if again != batch.outputs:
            raise Stop(
                "undoing a failed step gave other outputs than before: the model is not deterministic. "
                "Give every part a seed, and keep all state in attributes that pickle."
            )
        skip = Skip(record.topic, record.partition, record.offset, raised.stage, "raised")
        batch.outputs += standing.shard.skip(record, skip.stage, skip.reason)
        batch.covers([record])
        batch.skips.append(skip)
        batch.full = True

    def _publish(self, shard_log: ShardLog, batch: Batch) -> None:
        standing = self._standing
        entry = Entry(
            seq=standing.seq + 1,
            era=standing.era_number,
            digest=chain(standing.digest, batch.outputs),
            ranges=batch.ranges,
            outputs=len(batch.outputs),
            skips=batch.skips,
        )
        positions = dict(standing.positions)
        positions.update({(run.topic, run.partition): run.next for run in entry.ranges})
        try:
            shard_log.publish(entry, batch.outputs, positions)
        except Unknown as error:
            log.warning("publish.unknown", seq=entry.seq, reason=str(error))
            self._settle(entry, batch.outputs, positions)
        self._published_s = time.monotonic()
        standing.advance(entry)
        if batch.skips or len(standing.since) > SINCE_LIMIT:
            standing.take_snapshot()
        if self._probation is not None:
            self._observe(batch.records)
        self._report()

    def _settle(self, entry: Entry, outputs: Sequence[Output], positions: Positions) -> None:
        """Find out from the journal whether `entry` was committed; if not, publish the same bytes again.

        Only the holder of a live membership may ask, because asking fences everybody else.
        """
        for attempt in range(SETTLE_TRIES):
            self._drop()
            time.sleep(random.uniform(0, min(5.0, 0.05 * 2**attempt)))
            if self.stopping and attempt > 2:
                break
            try:
                self._alive()
                self._shard_log = self._log.open(SHARD)
                end = self._shard_log.end
                if end is not None and end.seq == entry.seq and end.digest == entry.digest:
                    log.info("publish.settled", seq=entry.seq, outcome="it was committed")
                    return
                if end is None or end.seq != self._standing.seq or end.digest != self._standing.digest:
                    raise Fenced
                self._shard_log.publish(entry, outputs, positions)
                log.info("publish.settled", seq=entry.seq, outcome="published again")
                return
            except (Unknown, Unreachable) as error:
                log.warning("publish.unsettled", seq=entry.seq, reason=str(error), attempt=attempt + 1)
        raise Unreachable(
            f"entry {entry.seq} could not be settled in {SETTLE_TRIES} tries: the log does not answer. "
            "Nothing is lost; start again when it does."
        )

    # --- between transactions -------------------------------------------------------------------------

    def _checkpoint(self, shard_log: ShardLog, now: bool) -> None:
        """Begin a checkpoint when one is due; with `now`, write one and wait for it."""
        standing = self._standing
        checkpointer = self._checkpointer
        if now:
            checkpointer.wait()
        self._collect(shard_log)
        if not (now or checkpointer.due(standing.seq, self._stepped_s)):
            return
        shard_log.sync()
        began_s = time.monotonic()
        try:
            sections = standing.take_snapshot()
        except Exception as error:  # pickling runs the user's code: whatever it raises, nothing can be saved
            raise Stop(
                f"the model can no longer be saved: {type(error).__name__}: {error}. Keep lambdas, open "
                "files, locks and clients out of it. Nothing is lost: what was published stays published."
            ) from error
        dumped_s = time.monotonic() - began_s
        try:
            topics = self._log.topics()
        except Unreachable as error:
            log.warning("checkpoint.postponed", reason=str(error))
            return
        starts = {
            (name, partition): offset
            for name, info in topics.items()
            for partition, offset in enumerate(info.start)
        }
        checkpointer.write(standing.header(), sections, starts, dumped_s)
        self._stepped_s = 0.0
        if now:
            checkpointer.wait()
            self._collect(shard_log)

    def _collect(self, shard_log: ShardLog) -> None:
        for written in self._checkpointer.collect():
            log.info("checkpoint.saved", **written._asdict())
            shard_log.trim(written.oldest_seq)

    def _observe(self, records: list[Record]) -> None:
        """The first records of an app are kept until there are enough to check the model on them."""
        assert self._probation is not None
        self._probation += [record.value for record in records if record.value is not None]
        enough = len(self._probation) >= ENOUGH_RECORDS
        if enough or sum(map(len, self._probation)) > PROBATION_BYTES:
            self._close_probation()

    def _close_probation(self) -> None:
        if self._probation:
            check_model(self._fresh, self._standing.era, self._probation)
        self._probation = None

    def _report(self) -> None:
        """Say what a person must know, and now and then how fast it goes."""
        memory = self._standing.shard.memory
        if memory.frozen != self._frozen:
            self._frozen = memory.frozen
            log.error("learning.frozen", reason=memory.frozen, records=memory.records)
        if memory.failing >= FAILING_LIMIT:
            raise Stop(
                f"the model failed to predict {memory.failing} times in a row; the last ones are in "
                f"{self._config.topics.dlq}. Look at them with `streamlearn tail`, mend the model, and start "
                "with --model-change fresh."
            )
        since_s, records = self._reported
        now_s = time.monotonic()
        if now_s - since_s >= REPORT_S:
            rate = (memory.records - records) / (now_s - since_s)
            log.info(
                "loop.progress", records=memory.records, records_per_s=round(rate, 1), learned=memory.learned
            )
            self._reported = (now_s, memory.records)
