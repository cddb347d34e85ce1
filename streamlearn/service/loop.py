"""The loop: own a shard, step what arrives, publish it as one transaction, checkpoint now and then.

Invariants:
- The loop holds the positions; the log holds none. After a publish whose outcome is known, state,
  positions and journal agree.
- No Kafka transaction is open while models work: `publish` comes after the last step.
- Work that is not a shard's own (ownership, checkpoints, signals) happens between transactions.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from streamlearn.core.records import SHARD, Entry, Output, Positions, chain
from streamlearn.core.snapshot import Sections
from streamlearn.engine.schemas import Schemas
from streamlearn.env import Env
from streamlearn.errors import Fenced, Gone, NotOwner, Reopen, Stop, Stopping, Unknown, Unreachable
from streamlearn.log.port import Log, ShardLog, Store
from streamlearn.service.batch import Batch
from streamlearn.service.checkpoint_age import CheckpointAge
from streamlearn.service.checkpoints import Checkpointer, starts_of
from streamlearn.service.held import Failures, Held, as_owner
from streamlearn.service.learning_watch import LearningWatch
from streamlearn.service.models import FreshModel
from streamlearn.service.one_by_one import OneByOne, check_crashes
from streamlearn.service.order import Merge
from streamlearn.service.recovery import Candidate, Recovery
from streamlearn.service.sources import SourceWatch
from streamlearn.service.standing import Standing, within
from streamlearn.service.stepping import Stepper
from streamlearn.service.topic_watch import TopicWatch
from streamlearn.service.watch import Watch, let_others_go_first
from streamlearn.settings import Config

log = structlog.get_logger()

POLL_S: Final = 0.1
BEAT_S: Final = 0.5

AWAY_TRIES: Final = 60
SINCE_LIMIT: Final = 10_000
SNAPSHOT_S: Final = 0.75
"""So much stepping may have to be redone after an ownership that ended, for whatever reason."""

WORK_PER_SNAPSHOT: Final = 10
"""No snapshot costs more than such a part of the work since the one before."""

RUN_RECORDS: Final = 500
"""Stepped at once at most; between two runs a storm of dead letters ends the transaction."""


class Loop:
    """One service process. `run` returns after `stop`, with everything finished."""

    def __init__(
        self,
        env: Env,
        config: Config,
        fresh: FreshModel,
        service_log: Log,
        store: Store,
        model_change: str,
        begin: bool = False,
    ) -> None:
        self._env = env
        self._config = config
        self._fresh = fresh
        self._log = service_log
        self._store = store
        self._model_change = model_change
        self._begin = begin
        self._checkpointer = Checkpointer(
            env, store, config.checkpoint.interval_s, config.checkpoint.keep, config.checkpoint.key.encode()
        )
        self._schemas = Schemas(env, config.event.schema_registry, self._opening)
        self._age = CheckpointAge(env, service_log)
        self._learning = LearningWatch(service_log)
        self._held: Held | None = None
        self._beat_s = 0.0
        self._was_open = False
        self._away = 0
        self._published_s = 0.0
        self._stepped_s = 0.0
        self._behind_s = 0.0
        self._dump_s = 0.0
        self._stop = env.flag()
        self._stepper = Stepper(env, config.transaction, self._beat, self._stop.is_set)
        self._failures = Failures()
        self._last: Candidate | None = None
        """The last snapshot of the ownership before, while there is no other: recovery tries it first."""

    @property
    def stopping(self) -> bool:
        """True once it was asked to stop."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Finish the transaction in hand, checkpoint, and leave. Safe to call from a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Serve until `stop`. Raises `StreamlearnError` when it cannot go on."""
        try:
            let_others_go_first(self._config, self._fresh, self._log, self._store, self._stop)
            while not self._stop.is_set():
                self._survive(self._round)
            if self._held is not None:
                self._survive(self._finish)
        finally:
            self._drop()

    def _survive(self, work: Callable[[], None]) -> None:
        """Do `work`; when the shard is lost in it, drop the shard with all that belongs to it."""
        try:
            work()
        except (Fenced, NotOwner) as lost:
            self._drop()
            event = "shard.fenced" if isinstance(lost, Fenced) else "shard.not_owned"
            log.warning(event, shard=SHARD, reason=str(lost), action="dropped; asking the election again")
            self._stop.wait(0.05 + self._env.jitter(0.45))
        except Stopping:
            self._drop()
        except (Unknown, Reopen) as error:
            log.warning("shard.reopening", shard=SHARD, reason=str(error))
            self._drop()
            self._stop.wait(self._env.jitter(0.1))
        except Unreachable as error:
            self._wait_for_log(error)

    def _wait_for_log(self, error: Unreachable) -> None:
        """The log was there and is away, as in a broker's restart: wait, as long as that may take. One that
        was never reached is an error at once.
        """
        self._away += 1
        if not self._was_open or self._away > AWAY_TRIES:
            raise error
        log.warning("log.away", reason=str(error), tries=self._away)
        self._drop()
        self._stop.wait(0.2 + self._env.jitter(0.8))

    def _round(self) -> None:
        held = self._held
        if held is not None:
            self._transact(held)
        elif SHARD in self._log.owned(POLL_S):
            self._open()
        else:
            self._stop.wait(POLL_S)

    def _transact(self, held: Held) -> None:
        self._alive()
        with as_owner(held.log):
            batch = self._gathered(held)
            held.sources.compare(held.log, held.standing.era)
            if not batch.empty:
                self._publish(held, batch)
                self._begin_reset_era(held)
                self._learning.look(held.standing.shard.memory)
            self._checkpoint(held, now=False)
            self._age.look(
                self._checkpointer.newest or {}, held.standing.positions, self._checkpointer.failure
            )
            held.sources.check_grown(held.standing.era)

    def _alive(self) -> None:
        """Heartbeat: raise `NotOwner` or `Fenced` when the shard is no longer ours to hold."""
        self._beat_s = self._env.monotonic()
        if SHARD not in self._log.owned(0):
            raise self._log.lost()

    def _opening(self) -> None:
        """Heartbeat during recovery, or while somebody is waited for: a stop may interrupt both."""
        if self._stop.is_set():
            raise Stopping
        self._beat()

    def _beat(self) -> None:
        """A heartbeat when one is due: what long work calls at every record."""
        if self._env.monotonic() - self._beat_s > BEAT_S:
            self._alive()

    # --- opening and closing --------------------------------------------------------------------------

    def _open(self) -> None:
        began_s = self._env.monotonic()
        shard_log = self._log.open(SHARD)
        try:
            with as_owner(shard_log):
                self._held = held = self._recovered(shard_log)
                standing = held.standing
                # Recovery took it, the next one need not again.
                self._stepped_s = self._behind_s = self._env.monotonic() - began_s
                self._checkpointer.begins(standing.saved_at)
                if standing.era_began or standing.saved_at is None:
                    self._first_checkpoint(held)
        except BaseException:
            self._held = None
            shard_log.close()
            raise
        self._model_change = ""
        self._learning.look(standing.shard.memory)
        self._was_open = True
        self._away = 0
        duration_s = round(self._env.monotonic() - began_s, 3)
        learned = standing.shard.memory.learned
        log.info("shard.opened", shard=SHARD, seq=standing.seq, learned=learned, duration_s=duration_s)

    def _recovered(self, shard_log: ShardLog) -> Held:
        # The ids of topics come first: recovery may take long.
        topics = TopicWatch(self._env, self._config.names(), self._log)
        recovery = Recovery(
            self._env,
            self._config,
            self._fresh,
            self._log,
            self._store,
            shard_log,
            self._opening,
            self._schemas,
            self._last,
        )
        alone = OneByOne(shard_log, self._config.transaction.max_records)
        standing = recovery.run(self._model_change, self._begin)
        merge = Merge(within(standing.positions, standing.era), self._config.topics.labels)
        watch = Watch(self._env, self._config, self._fresh, standing, self._schemas, topics)
        return Held(shard_log, standing, merge, watch, SourceWatch(self._env, standing.era), alone)

    def _drop(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            held.log.close()
            self._last = Candidate("the last snapshot", *held.standing.snapshot(), self._checkpointer.newest)

    def _first_checkpoint(self, held: Held) -> None:
        """Save a state that no checkpoint leads to: without one nothing is trimmed, and nothing survives a
        change of versions. So a service that cannot write it does not begin.
        """
        self._checkpoint(held, now=True)
        if self._checkpointer.newest is None:
            raise Stop(
                f"the first checkpoint cannot be written: {self._checkpointer.failure}. Nothing was read or "
                "predicted yet. Make the folder of [checkpoint] url (on Kafka: the checkpoints topic) "
                "writable, and start again."
            )

    def _finish(self) -> None:
        """A graceful end: with a checkpoint at the end, so that the next start redoes nothing."""
        held = self._held
        assert held is not None, "who lost the shard has nothing to finish"
        with as_owner(held.log):
            held.watch.close()
            try:
                self._checkpoint(held, now=True)
            except Unreachable as error:
                self._checkpointer.put_off(str(error))
            if self._checkpointer.failure:
                raise Stop(
                    f"the last checkpoint could not be written: {self._checkpointer.failure}. Nothing is "
                    "lost: the next start, with the same versions, redoes what came after the one before."
                )
            held.alone.release(held.standing.seq)
        outcomes = held.standing.shard.memory.outcomes
        log.info("service.stopped", seq=held.standing.seq, outcomes=outcomes)

    # --- one transaction ------------------------------------------------------------------------------

    def _gathered(self, held: Held) -> Batch:
        """Step whatever has arrived, until a limit of `[transaction]`; what is left waits in the merge."""
        limits = self._config.transaction
        batch = Batch()
        until_s = self._published_s + limits.min_interval_ms / 1e3
        stepping_s = self._stepper.carry_on(held, batch, until_s)
        while not batch.full and not (batch.records and held.watch.storm()):
            self._beat()
            began_s = self._env.monotonic()
            most = held.alone.most(min(RUN_RECORDS, limits.max_records - len(batch.records)))
            run = held.merge.take(most, began_s)
            if run:
                self._stepper.step(held, batch, run, began_s + limits.max_ms / 1e3 - stepping_s)
                stepping_s += self._env.monotonic() - began_s
            elif not self._polled(held, batch, until_s):
                break
        self._stepped_s += stepping_s
        self._behind_s += stepping_s
        return batch

    def _polled(self, held: Held, batch: Batch, until_s: float) -> bool:
        """Fetch more. False when the transaction should end with what it has."""
        limits = self._config.transaction
        wait_s = POLL_S if not batch.records else min(POLL_S, until_s - self._env.monotonic())
        if wait_s <= 0 or self._stop.is_set():
            return False
        if not held.merge.idle:
            wait_s = min(wait_s, 0.01)
        try:
            polled = held.log.poll(held.merge.wanted(), limits.max_records, limits.max_bytes, wait_s)
        except Stop:
            # Another topic under the old name explains whatever was found in it.
            held.sources.look(held.log, held.standing.era)
            raise
        except Gone as error:
            held.sources.look(held.log, held.standing.era)
            raise Stop(
                f"the log no longer holds the input at the next position ({error}). Unless that gap held "
                "only aborted transactions, records were deleted before they were read. Keep more "
                "(retention), and begin a new journal: `streamlearn reset`."
            ) from error
        held.merge.add(polled, self._env.monotonic())
        if any(polled.records.values()):
            held.sources.fetched(held.log)
            return True
        return bool(batch.records) and self._env.monotonic() < until_s

    def _publish(self, held: Held, batch: Batch) -> None:
        """Commit the batch, and stand after it."""
        standing = held.standing
        work = standing.shard.work
        entry = Entry(
            seq=standing.seq + 1,
            era=standing.era_number,
            digest=chain(standing.digest, batch.outputs),
            ranges=batch.ranges,
            outputs=len(batch.outputs),
            skips=batch.skips,
            carried=batch.carried,
            begun=work.done if work is not None and batch.records else 0,
        )
        positions = dict(standing.positions)
        positions.update({(run.topic, run.partition): run.next for run in entry.ranges})
        self._commit(held, entry, batch.outputs, positions)
        self._published_s = self._env.monotonic()
        standing.advance(entry)
        undone = any(skip.stage != "decode" for skip in batch.skips)
        long = self._behind_s >= max(SNAPSHOT_S, WORK_PER_SNAPSHOT * self._dump_s)
        if undone or long or len(standing.since) > SINCE_LIMIT:
            self._take_snapshot(standing)
        check_crashes(held.log, entry)
        held.watch.after(batch.survived())

    def _commit(self, held: Held, entry: Entry, outputs: Sequence[Output], positions: Positions) -> None:
        try:
            held.log.publish(entry, outputs, positions)
        except Unknown as error:
            self._failures.add(entry.seq, error)
            raise

    def _take_snapshot(self, standing: Standing) -> Sections:
        """Note the state, for the next undo and the next recovery."""
        began_s = self._env.monotonic()
        sections = standing.take_snapshot()
        self._dump_s = self._env.monotonic() - began_s
        self._behind_s = 0.0
        return sections

    def _begin_reset_era(self, held: Held) -> None:
        """Mark in the journal where the state forgot what it had settled. The command has done it already: an
        entry that is not written for a crash, is written after the next batch.
        """
        standing = held.standing
        entry = standing.reset_era()
        if entry is not None:
            self._commit(held, entry, (), standing.positions)
            standing.begin_era(entry)
            log.info("era.began", era=entry.era, why="reset")

    # --- between transactions -------------------------------------------------------------------------

    def _checkpoint(self, held: Held, now: bool) -> None:
        """Begin a checkpoint when one is due; with `now`, write one and wait for it."""
        shard_log, standing = held.log, held.standing
        checkpointer = self._checkpointer
        if now:
            checkpointer.wait()
        self._collect(shard_log)
        if not (now or checkpointer.due(standing.seq, self._stepped_s)):
            return
        shard_log.sync()
        try:
            topics = self._log.topics()
        except Unreachable as error:
            checkpointer.put_off(str(error))
            return
        sections = self._take_snapshot(standing)
        standing.positions.update(shard_log.reached(held.merge.wanted()))
        header = msgspec.structs.replace(standing.header(), app=self._config.app.name)
        checkpointer.write(header, sections, starts_of(topics), self._dump_s)
        self._stepped_s = 0.0
        if now:
            checkpointer.wait()
            self._collect(shard_log)

    def _collect(self, shard_log: ShardLog) -> None:
        for written in self._checkpointer.collect():
            told = {name: value for name, value in written._asdict().items() if name != "positions"}
            log.info("checkpoint.saved", **told)
            shard_log.trim(written.oldest_seq)
