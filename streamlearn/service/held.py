"""One ownership of a shard, and what only its holder may do.

Invariants:
- A `Held` exists from the moment recovery has succeeded until the shard is dropped, never longer: what
  belongs to an ownership ends with it.
- Whatever was concluded from the log or the store counts only while nobody newer has opened the shard.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import structlog

from streamlearn.errors import ConfigError, Fenced, Stop, Unknown
from streamlearn.log.port import ShardLog
from streamlearn.service.one_by_one import OneByOne
from streamlearn.service.order import Merge
from streamlearn.service.sources import SourceWatch
from streamlearn.service.standing import Standing
from streamlearn.service.watch import Watch

log = structlog.get_logger()

SAME_FAILURES: Final = 3


class Held(NamedTuple):
    """An owned shard that was recovered: its log, its state, and what waits to be stepped."""

    log: ShardLog
    standing: Standing
    merge: Merge
    watch: Watch
    sources: SourceWatch
    alone: OneByOne


@contextmanager
def as_owner(shard_log: ShardLog) -> Iterator[None]:
    """Let only a proven owner stop the service: for one that was overtaken, what looks like damage is the
    new owner's work, and the answer is `Fenced`.
    """
    try:
        yield
    except (Stop, ConfigError) as error:
        if newer := shard_log.newer_owner():
            raise Fenced(f"a newer owner has it ({newer}); of no account then: {error}") from error
        raise


class Failures:
    """Counts how often one entry failed in one way, over all ownerships of a process: what fails every time
    will not go well by itself.
    """

    def __init__(self) -> None:
        self._seq = -1
        self._times: Counter[str] = Counter()

    def add(self, seq: int, error: Unknown) -> None:
        """Count a commit of entry `seq` without an answer. Raises `Stop` when that happened too often."""
        log.warning("publish.unknown", seq=seq, reason=str(error), action="the journal will tell")
        if seq != self._seq:  # the one before was committed, or the journal went on otherwise
            self._seq = seq
            self._times.clear()
        self._times[str(error)] += 1
        if self._times[str(error)] >= SAME_FAILURES:
            raise Stop(
                f"entry {seq} was sent {SAME_FAILURES} times, each time to a log that had just been opened,"
                f" and each time its commit failed in the same way: {error}. Nothing is lost: mend that and"
                " start again, and the journal says whether the last one was committed."
            ) from error
