"""One service process: signals, the election, waiting, and the tasks of the shards that it holds.

Invariants:
- A task is made when recovery has succeeded, and gone with the lock. Every ending of an ownership is told and
  answered here: `Fenced` and `NotOwner` (ask the election again), `Stopping` (end), `Unreachable` (wait),
  `Unknown` and `Reopen` (open again, and recover: there is no other way to a state).
- Two things outlive a task, and nothing else: a tally of failures, and the newest snapshot of the task that
  ended, with which the next recovery begins.
"""

from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog

from streamlearn.config.schema import Config
from streamlearn.core.records import SHARD
from streamlearn.engine.model import ModelTemplate
from streamlearn.engine.registry import Schemas
from streamlearn.env import Env
from streamlearn.errors import Fenced, Full, NotOwner, Reopen, Stop, Stopping, Unknown, Unreachable
from streamlearn.log.port import CheckpointStore, Log, ShardLog
from streamlearn.service.health.checks import wait_for_config_owner
from streamlearn.service.health.topics import TopicWatch
from streamlearn.service.one_by_one import OneByOne
from streamlearn.service.ownership import Heartbeat, as_owner
from streamlearn.service.recovery import Recovery, Resources
from streamlearn.service.starting_states import StartingState
from streamlearn.service.task import POLL_S, Outlet, ShardTask

log = structlog.get_logger()

AWAY_TRIES: Final = 60
SAME_FAILURES: Final = 3


class Failures:
    """A tally of failures by entry and error, over all tasks of a process: what fails every time will not go
    well by itself. Of entries it knows the one that failed last.
    """

    _OPENING: Final = -1

    def __init__(self) -> None:
        self._times: Counter[tuple[int, str]] = Counter()

    def add_unknown(self, seq: int, error: Unknown) -> None:
        """Count a commit of entry `seq` without an answer. Raises `Stop` when that happened too often."""
        log.warning("publish.unknown", seq=seq, reason=str(error), action="the journal will tell")
        key = seq, str(error)
        for counted in [counted for counted in self._times if counted[0] != seq]:
            del self._times[counted]  # that one was committed, or the journal went on otherwise
        self._times[key] += 1
        if self._times[key] >= SAME_FAILURES:
            kind = Full if error.full else Stop
            raise kind(
                f"entry {seq} was sent {SAME_FAILURES} times, each time to a log that had just been opened,"
                f" and each time its commit failed in the same way: {error}. Nothing is lost: mend that and"
                " start again, and the journal says whether the last one was committed."
            ) from error

    def add_away(self) -> int:
        """Count a try for which the log could not be reached: how many there were since it was opened."""
        self._times[self._OPENING, "away"] += 1
        return self._times[self._OPENING, "away"]

    def opened(self) -> None:
        """Note that the log is there."""
        del self._times[self._OPENING, "away"]


class Process:
    """One service process. `run` returns after `stop`, with everything finished. `outlet` gets the facts of
    each entry that is known to be committed.
    """

    def __init__(
        self,
        env: Env,
        config: Config,
        template: ModelTemplate,
        service_log: Log,
        store: CheckpointStore,
        model_change: str,
        begin: bool = False,
        outlet: Outlet | None = None,
    ) -> None:
        self._model_change = model_change
        self._begin = begin
        self._outlet = outlet
        self._stop = env.flag()
        self._heartbeat = Heartbeat(env, service_log, self._stop)
        schemas = Schemas(env, config.event.schema_registry, self._heartbeat.beat_or_stop)
        self._resources = Resources(env, config, template, service_log, store, schemas)
        self._tasks: dict[int, ShardTask] = {}
        self._failures = Failures()
        self._last: StartingState | None = None
        """The newest snapshot of the task that ended, while there is no other task."""

    @property
    def stopping(self) -> bool:
        """True once it was asked to stop."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Finish the transaction in hand, checkpoint, and leave. Safe to call from a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Serve until `stop`. Raises `StreamlearnError` when it cannot go on."""
        _, config, template, service_log, store, _ = self._resources
        try:
            wait_for_config_owner(config, template, service_log, store, self._stop)
            while not self._stop.is_set():
                self._survive(self._round)
            for task in [*self._tasks.values()]:
                self._survive(task.finish)
        finally:
            self._drop()

    def _survive(self, work: Callable[[], None]) -> None:
        """Do `work`; when the shard is lost in it, drop the task with all that belongs to it."""
        try:
            work()
        except (Fenced, NotOwner) as lost:
            self._drop()
            event = "shard.fenced" if isinstance(lost, Fenced) else "shard.not_owned"
            log.warning(event, shard=SHARD, reason=str(lost), action="dropped; asking the election again")
            self._stop.wait(0.05 + self._resources.env.jitter(0.45))
        except Stopping:
            self._drop()
        except (Unknown, Reopen) as error:
            log.warning("shard.reopening", shard=SHARD, reason=str(error))
            self._drop()
            self._stop.wait(self._resources.env.jitter(0.1))
        except Unreachable as error:
            self._wait_for_log(error)

    def _wait_for_log(self, error: Unreachable) -> None:
        """The log was there and is away, as in a broker's restart: wait, as long as that may take. One that
        was never reached is an error at once.
        """
        self._drop()
        tries = self._failures.add_away()
        if self._last is None or tries > AWAY_TRIES:
            raise error
        log.warning("log.away", reason=str(error), tries=tries)
        self._stop.wait(0.2 + self._resources.env.jitter(0.8))

    def _round(self) -> None:
        task = self._tasks.get(SHARD)
        if task is not None:
            self._transact(task)
        elif SHARD in self._resources.log.owned(POLL_S):
            self._open()
        else:
            self._stop.wait(POLL_S)

    def _transact(self, task: ShardTask) -> None:
        with as_owner(task.log):
            try:
                task.transact()
            except Unknown as error:
                self._failures.add_unknown(task.driver.cursor.seq + 1, error)
                raise

    def _open(self) -> None:
        began_s = self._resources.env.monotonic()
        shard_log = self._resources.log.open(SHARD)
        try:
            with as_owner(shard_log):
                task = self._recovered(shard_log)
                task.begin(began_s)
        except BaseException:
            shard_log.close()
            raise
        self._tasks[SHARD] = task
        self._last = None
        self._failures.opened()

    def _recovered(self, shard_log: ShardLog) -> ShardTask:
        env, config, service_log = self._resources.env, self._resources.config, self._resources.log
        topics = TopicWatch(env, config.names(), service_log)  # their ids first: recovery may take long
        recovery = Recovery(self._resources, shard_log, self._heartbeat.beat_or_stop, self._last)
        alone = OneByOne(shard_log, config.transaction.max_records)
        changes = self._model_change if self._last is None else ""
        recovered = recovery.run(changes, self._begin)
        return ShardTask(
            self._resources,
            shard_log,
            recovered,
            recovery.birth_name,
            topics,
            self._heartbeat,
            alone,
            self._outlet,
        )

    def _drop(self) -> None:
        """Let go of what is held: all of a task but its newest snapshot is of no account from here on."""
        while self._tasks:
            _, task = self._tasks.popitem()
            self._last = task.drop()
