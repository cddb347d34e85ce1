"""Who may hold a shard: the membership in the election, and conclusions that only an owner may draw.

Invariants:
- The election is a hint, asked often enough that the membership does not lapse during long work.
- Whatever was concluded from the log or the store counts only while nobody newer has opened the shard.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from streamlearn.core.records import SHARD
from streamlearn.env import Env, Flag
from streamlearn.errors import ConfigError, Fenced, Stop, Stopping
from streamlearn.log.port import Log, ShardLog

BEAT_S: Final = 0.5


class Heartbeat:
    """Keeps the membership of a process in the election. `stop`: the request to end the process."""

    def __init__(self, env: Env, log: Log, stop: Flag) -> None:
        self._env = env
        self._log = log
        self.stopping = stop.is_set
        """True, when it is called, once the process was asked to end."""
        self._beat_s = 0.0

    def confirm(self) -> None:
        """Heartbeat: raise `NotOwner` or `Fenced` when the shard is no longer ours to hold."""
        self._beat_s = self._env.monotonic()
        if SHARD not in self._log.owned(0):
            raise self._log.lost()

    def beat(self) -> None:
        """A heartbeat when one is due: what long work calls at every record."""
        if self._env.monotonic() - self._beat_s > BEAT_S:
            self.confirm()

    def beat_or_stop(self) -> None:
        """Heartbeat during recovery, or while somebody is waited for: a stop may interrupt both."""
        if self.stopping():
            raise Stopping
        self.beat()


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
