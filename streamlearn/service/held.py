"""One ownership of a shard, and what only its holder may do.

Invariants:
- A `Held` exists from the moment recovery has succeeded until the shard is dropped, never longer: what
  belongs to an ownership ends with it.
- Whatever was concluded from the log or the store counts only while nobody newer has opened the shard.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import structlog

from streamlearn.core.records import Entry, Output, Positions
from streamlearn.env import Env
from streamlearn.errors import ConfigError, Fenced, Stop, Stopping, Unknown, Unreachable
from streamlearn.log.port import Log, ShardLog
from streamlearn.service.order import Merge
from streamlearn.service.sources import SourceWatch
from streamlearn.service.standing import Standing
from streamlearn.service.watch import Watch

log = structlog.get_logger()

SETTLE_TRIES: Final = 20


class Held(NamedTuple):
    """An owned shard that was recovered: its log, its state, and what waits to be stepped."""

    log: ShardLog
    standing: Standing
    merge: Merge
    watch: Watch
    sources: SourceWatch


@contextmanager
def as_owner(shard_log: Callable[[], ShardLog]) -> Iterator[None]:
    """Let only a proven owner stop the service: for one that was overtaken, what looks like damage is the
    new owner's work, and the answer is `Fenced`. `shard_log` gives the log that is held by then.
    """
    try:
        yield
    except (Stop, ConfigError) as error:
        if newer := shard_log().newer_owner():
            raise Fenced(f"a newer owner has it ({newer}); of no account then: {error}") from error
        raise


class Settling:
    """Finds out whether an entry whose outcome is unknown was committed; if not, publishes it again.

    Only the holder of a live membership may ask, because asking fences everybody else.
    """

    def __init__(
        self, env: Env, log_: Log, shard: int, alive: Callable[[], None], stopping: Callable[[], bool]
    ) -> None:
        self._env = env
        self._log = log_
        self._shard = shard
        self._alive = alive
        self._stopping = stopping

    def settle(
        self, before: Standing, entry: Entry, outputs: Sequence[Output], positions: Positions
    ) -> ShardLog:
        """The shard, opened again, with `entry` committed after where `before` stands. Raises `Fenced`,
        `NotOwner`, `Stopping` or `Unreachable`; the journal says then whether it was.
        """
        for attempt in range(SETTLE_TRIES):
            self._env.sleep(self._env.jitter(min(5.0, 0.05 * 2**attempt)))
            if self._stopping() and attempt > 2:
                raise Stopping
            try:
                self._alive()
                shard_log = self._log.open(self._shard)
            except (Unknown, Unreachable) as error:
                log.warning("publish.unsettled", seq=entry.seq, reason=str(error), attempt=attempt + 1)
                continue
            try:
                self._commit(shard_log, before, entry, outputs, positions)
                return shard_log
            except (Unknown, Unreachable) as error:
                shard_log.close()
                log.warning("publish.unsettled", seq=entry.seq, reason=str(error), attempt=attempt + 1)
            except BaseException:
                shard_log.close()
                raise
        raise Unreachable(
            f"entry {entry.seq} could not be settled in {SETTLE_TRIES} tries: the log does not answer. "
            "Nothing is lost; start again when it does."
        )

    def _commit(
        self,
        shard_log: ShardLog,
        before: Standing,
        entry: Entry,
        outputs: Sequence[Output],
        positions: Positions,
    ) -> None:
        """Leave `entry` committed at the end of the journal, by whatever it takes."""
        end = shard_log.end
        if end == entry:  # whole: without outputs another entry has the same digest
            log.info("publish.settled", seq=entry.seq, outcome="it was committed")
            return
        if end is None or (end.seq, end.digest) != (before.seq, before.digest):
            raise Fenced("another process has written to the journal since")
        shard_log.publish(entry, outputs, positions)
        log.info("publish.settled", seq=entry.seq, outcome="published again")
