"""One ownership of a shard: step what arrives, publish it as one transaction, checkpoint now and then.

Invariants:
- A task exists only after recovery has succeeded, and dies with the lock: closed clean (`finish`: a last
  checkpoint) or dirty (`drop`: nothing counts any more but the newest snapshot, whose entry is committed).
- The task holds the positions; the log holds none. After a publish, state, positions and journal agree; a
  publish whose outcome is unknown is the end of the task.
- No Kafka transaction is open while models work: `publish` comes after the last step.
- Facts leave when their entry is known to be committed, and never from redo.
- Work that is not a shard's own (ownership, checkpoints, signals) happens between transactions.
"""

from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from streamlearn.core.records import SHARD
from streamlearn.core.shard.facts import Facts
from streamlearn.core.shard.snapshot import Sections
from streamlearn.engine.checkpoints import BlobName, Checkpointer, first_offsets
from streamlearn.errors import Gone, Stop, Unreachable
from streamlearn.log.port import ShardLog
from streamlearn.service.batch import Batch
from streamlearn.service.health.checkpoint_age import CheckpointAge
from streamlearn.service.health.checks import HealthChecks
from streamlearn.service.health.learning import LearningWatch
from streamlearn.service.health.sources import SourceWatch
from streamlearn.service.health.topics import TopicWatch
from streamlearn.service.merge import Merge
from streamlearn.service.one_by_one import OneByOne, check_crashes
from streamlearn.service.ownership import Heartbeat, as_owner
from streamlearn.service.recovery import Recovered, Resources
from streamlearn.service.starting_states import StartingState
from streamlearn.service.stepping import Stepper

log = structlog.get_logger()

POLL_S: Final = 0.1
SINCE_LIMIT: Final = 10_000
SNAPSHOT_S: Final = 0.75
"""So much stepping may have to be redone after an ownership that ended, for whatever reason."""

WORK_PER_SNAPSHOT: Final = 10
"""No snapshot costs more than such a part of the work since the one before."""

RUN_RECORDS: Final = 500
"""Stepped at once at most; between two runs a storm of dead letters ends the transaction."""

Outlet = Callable[[Facts], None]
"""Gets the facts of one entry, in their order, once it is known to be committed."""


class ShardTask:
    """One owned shard that was recovered. `recovered` is its state, `shard_log` the lock; `topics` were
    looked at before recovery began.
    """

    def __init__(
        self,
        resources: Resources,
        shard_log: ShardLog,
        recovered: Recovered,
        birth_name: BlobName,
        topics: TopicWatch,
        heartbeat: Heartbeat,
        alone: OneByOne,
        outlet: Outlet | None = None,
    ) -> None:
        env, config, template, service_log, store, schemas = resources
        self.log = shard_log
        self.driver = driver = recovered.driver
        self._recovered = recovered
        self._env = env
        self._config = config
        self._service_log = service_log
        self._heartbeat = heartbeat
        self._alone = alone
        self._outlet = outlet
        self._merge = Merge(driver.cursor.inputs(), config.topics.labels)
        self._health = HealthChecks(env, config, template, driver, schemas, topics)
        self._sources = SourceWatch(env, driver.cursor.era)
        section = config.checkpoint
        self._checkpointer = Checkpointer(
            env,
            store,
            birth_name,
            driver.cursor.checkpoints,
            section.interval_s,
            section.keep,
            section.key.encode(),
        )
        self._age = CheckpointAge(env, service_log)
        self._learning = LearningWatch(service_log)
        self._stepper = Stepper(env, config.transaction, driver, self._merge, heartbeat, alone)
        self._published_s = 0.0
        self._stepped_s = 0.0
        """How long the work since the newest checkpoint took."""
        self._behind_s = 0.0
        """How long the work since the newest snapshot took."""
        self._dump_s = 0.0

    def begin(self, opened_s: float) -> None:
        """Take over from recovery, which had begun at `opened_s`. Raises `Stop` without a checkpoint."""
        recovered, shard = self._recovered, self.driver.shard
        self._stepped_s = self._behind_s = self._env.monotonic() - opened_s  # the next one need not again
        self._checkpointer.begins(recovered.saved_at, recovered.saved_seq, recovered.saving_s)
        if recovered.era_began or recovered.saved_at is None:
            self._first_checkpoint()
        self._learning.look(shard.memory)
        log.info(
            "shard.opened",
            shard=SHARD,
            seq=self.driver.cursor.seq,
            learned=shard.memory.learned,
            duration_s=round(self._env.monotonic() - opened_s, 3),
        )

    def transact(self) -> None:
        """Do one transaction, and what is due beside it. Raises `Unknown` when the journal must be asked."""
        self._heartbeat.confirm()
        batch = self._gathered()
        self._sources.compare(self.log, self.driver.cursor.era)
        self._checkpointer.collect()
        if not batch.empty:
            self._publish(batch)
            self._begin_reset_era()
            self._learning.look(self.driver.shard.memory)
        else:
            self._name_checkpoints()
        self._trim()
        self._checkpoint()
        cursor = self.driver.cursor
        self._age.look(self._checkpointer.newest or {}, cursor.positions, self._checkpointer.failure)
        self._sources.check_grown(cursor.era)

    def finish(self) -> None:
        """End well: with a checkpoint, so that the next start redoes nothing."""
        with as_owner(self.log):
            self._health.close()
            try:
                self._last_checkpoint()
            except Unreachable as error:
                self._checkpointer.put_off(str(error))
            if self._checkpointer.failure:
                raise Stop(
                    f"the last checkpoint could not be written: {self._checkpointer.failure}. Nothing is "
                    "lost: the next start, with the same versions, redoes what came after the one before."
                )
            self._alone.release(self.driver.cursor.seq)
        outcomes = self.driver.shard.memory.outcomes
        log.info("service.stopped", seq=self.driver.cursor.seq, outcomes=outcomes)

    def drop(self) -> StartingState:
        """Let go of the shard: the newest snapshot, of an entry that is known to be committed."""
        self.log.close()
        return StartingState("the last snapshot", *self.driver.snapshot(), self._checkpointer.newest)

    def _first_checkpoint(self) -> None:
        """Save a state that no checkpoint leads to, because its rules are new, or none is left: without one
        nothing is trimmed, and nothing survives a change of versions. So a service that cannot write it does
        not begin.
        """
        self._last_checkpoint()
        if self._checkpointer.newest is None:
            raise Stop(
                f"the first checkpoint cannot be written: {self._checkpointer.failure}. Nothing was read or "
                "predicted yet. Make the folder of [checkpoint] url (on Kafka: the checkpoints topic) "
                "writable, and start again."
            )

    # --- one transaction ------------------------------------------------------------------------------

    def _gathered(self) -> Batch:
        """Step whatever has arrived, until a limit of `[transaction]`; what is left waits in the merge."""
        limits = self._config.transaction
        batch = Batch(None if self._outlet is None else [])
        until_s = self._published_s + limits.min_interval_ms / 1e3
        stepping_s = self._stepper.carry_on(batch, until_s)
        while not batch.full and not (batch.records and self._health.storm()):
            self._heartbeat.beat()
            began_s = self._env.monotonic()
            most = self._alone.most(min(RUN_RECORDS, limits.max_records - len(batch.records)))
            run = self._merge.take(most, began_s)
            if run:
                self._stepper.step(batch, run, began_s + limits.max_ms / 1e3 - stepping_s)
                stepping_s += self._env.monotonic() - began_s
            elif not self._fetch_more(batch, until_s):
                break
        self._stepped_s += stepping_s
        self._behind_s += stepping_s
        return batch

    def _fetch_more(self, batch: Batch, until_s: float) -> bool:
        """Fetch more. False when the transaction should end with what it has."""
        limits = self._config.transaction
        wait_s = POLL_S if not batch.records else min(POLL_S, until_s - self._env.monotonic())
        if wait_s <= 0 or self._heartbeat.stopping():
            return False
        if not self._merge.idle:
            wait_s = min(wait_s, 0.01)
        try:
            fetched = self.log.poll(self._merge.wanted(), limits.max_records, limits.max_bytes, wait_s)
        except Stop:
            # Another topic under the old name explains whatever was found in it.
            self._sources.look(self.log, self.driver.cursor.era)
            raise
        except Gone as error:
            self._sources.look(self.log, self.driver.cursor.era)
            raise Stop(
                f"the log no longer holds the input at the next position ({error}). Unless that gap held "
                "only aborted transactions, records were deleted before they were read. Keep more "
                "(retention), and begin a new journal: `streamlearn reset`."
            ) from error
        self._merge.add(fetched, self._env.monotonic())
        if any(fetched.records.values()):
            self._sources.fetched(self.log)
            return True
        return bool(batch.records) and self._env.monotonic() < until_s

    def _publish(self, batch: Batch) -> None:
        """Commit the batch, and stand after it."""
        driver, cursor = self.driver, self.driver.cursor
        work = driver.shard.work
        entry = cursor.next_entry(
            batch.outputs,
            checkpoints=self._checkpointer.to_name(),
            ranges=batch.ranges,
            skips=batch.skips,
            carried=batch.carried,
            begun=work.done if work is not None and batch.records else 0,
        )
        positions = dict(cursor.positions)
        positions.update({(run.topic, run.partition): run.next for run in entry.ranges})
        self.log.publish(entry, batch.outputs, positions)
        self._published_s = self._env.monotonic()
        driver.advance(entry)
        if entry.checkpoints:
            self._checkpointer.named(entry)
        if self._is_snapshot_due(batch):
            self._take_snapshot()
        if self._outlet is not None and batch.facts is not None:
            self._outlet(batch.facts)
        check_crashes(self.log, entry)
        self._health.after(batch.survived())

    def _is_snapshot_due(self, batch: Batch) -> bool:
        """True after an undo, so that the next is cheap, and when the last snapshot lies far back."""
        undone = any(skip.stage != "decode" for skip in batch.skips)
        long = self._behind_s >= max(SNAPSHOT_S, WORK_PER_SNAPSHOT * self._dump_s)
        return undone or long or len(self.driver.since) > SINCE_LIMIT

    def _take_snapshot(self) -> Sections:
        """Note the state, for the next undo and the next recovery."""
        began_s = self._env.monotonic()
        sections = self.driver.take_snapshot()
        self._dump_s = self._env.monotonic() - began_s
        self._behind_s = 0.0
        return sections

    def _begin_reset_era(self) -> None:
        """Mark in the journal where the state forgot what it had settled. The command has done it already: an
        entry that is not written for a crash, is written after the next batch.
        """
        shard, cursor = self.driver.shard, self.driver.cursor
        entry = None if shard.work is not None else cursor.reset_entry(shard.memory.resets)
        if entry is not None:
            self.log.publish(entry, (), cursor.positions)
            self.driver.begin_era(entry)
            log.info("era.began", era=entry.era, why="reset")

    # --- between transactions -------------------------------------------------------------------------

    def _checkpoint(self) -> None:
        """Begin a checkpoint when one is due."""
        if self._checkpointer.due(self.driver.cursor.stepped, self._stepped_s):
            self._write_checkpoint()

    def _last_checkpoint(self) -> None:
        """See to it that a checkpoint of this very state is named, and wait for it."""
        checkpointer = self._checkpointer
        checkpointer.wait()
        checkpointer.collect()
        if not checkpointer.covers(self.driver.cursor.stepped):
            self._write_checkpoint()
            checkpointer.wait()
            checkpointer.collect()
        self._name_checkpoints()
        self._trim()

    def _write_checkpoint(self) -> None:
        """Begin to write the state."""
        self.log.sync()
        try:
            topics = self._service_log.topics()
        except Unreachable as error:
            self._checkpointer.put_off(str(error))
            return
        sections = self._take_snapshot()
        self.driver.cursor.positions.update(self.log.reached(self._merge.wanted()))
        header = msgspec.structs.replace(self.driver.header(), app=self._config.app.name)
        self._checkpointer.write(header, sections, first_offsets(topics), self._dump_s)
        self._stepped_s = 0.0

    def _name_checkpoints(self) -> None:
        """Let an entry of its own name what is durable, since no other is at hand."""
        if self._checkpointer.has_unnamed:
            entry = self.driver.cursor.next_entry(checkpoints=self._checkpointer.to_name())
            self.log.publish(entry, (), self.driver.cursor.positions)
            self.driver.advance(entry)
            self._checkpointer.named(entry)

    def _trim(self) -> None:
        """Let go of what no entry from this one on needs."""
        if (seq := self._checkpointer.oldest_needed()) is not None:
            self.log.trim(seq)
