"""Changes of a service's own topics while it runs: deleted, made again, or closed to readers.

The inputs are looked at elsewhere (`service/health/sources.py`): what is read from another topic of the same
name must not be stepped. Here are the topics that are written.

Invariants:
- A look costs a few requests, at most every `LOOK_S`, and only after a commit: the log has just answered, and
  where nothing is committed nothing can go wrong.
- A journal that was made again stops the service. Everything else is said, once for each state.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import structlog

from streamlearn.core.records import TopicPartition
from streamlearn.env import Env
from streamlearn.errors import Stop, Unreachable
from streamlearn.log.port import Log, TopicNames

log = structlog.get_logger()

LOOK_S: Final = 10.0

_REMEDY: Final = {
    "checkpoints": "the checkpoints in it are gone; the next one is written as usual, until then do not stop",
    "control": "commands that were not read yet are gone",
}
_OUTPUTS: Final = "what was published before is gone for readers; the service does not publish it again"
_MISSING: Final = "make it with `streamlearn topics ensure`"


class Change(NamedTuple):
    """A topic that is not the one it was: `state` is `deleted` or `made again`."""

    role: str
    topic: str
    state: str


class TopicWatch:
    """Of one opened shard."""

    def __init__(self, env: Env, names: TopicNames, log_: Log) -> None:
        self._env = env
        self._roles = dict(names.roles)
        self._log = log_
        self._looked_s = env.monotonic()
        self._ids = _ids(log_)
        self._told: set[Change] = set()
        self._hidden: dict[TopicPartition, int] = {}
        self._blocked: set[TopicPartition] = set()

    def after_commit(self) -> None:
        """Look, when it is time. Raises `Stop` when the journal is another one."""
        if self._env.monotonic() - self._looked_s < LOOK_S:
            return
        self._looked_s = self._env.monotonic()
        try:
            ids, hidden = _ids(self._log), self._log.hidden_outputs()
        except Unreachable as error:
            log.debug("topics.not_watched", reason=str(error))
            return
        changed = changes(self._roles, self._ids, ids)
        for change in changed - self._told:
            _tell(change)
        self._told = changed
        stuck = still_hidden(self._hidden, hidden)
        for partition in stuck - self._blocked:
            self._tell_blocked(partition, hidden[partition])
        self._blocked, self._hidden = stuck, hidden

    def _tell_blocked(self, partition: TopicPartition, stable: int) -> None:
        log.warning(
            "output.blocked",
            topic=partition[0],
            partition=partition[1],
            offset=stable,
            reason="a transaction of another producer stays open, so readers see nothing from here on",
            holder=self._log.open_transactions(partition),
            action="stop that producer, or abort its transaction with kafka-transactions.sh",
        )


def changes(roles: Mapping[str, str], before: Mapping[str, str], now: Mapping[str, str]) -> set[Change]:
    """Changes of the topics of `roles`, whose ids were `before` and are `now`; absent: no such topic."""
    changed = set()
    for role, topic in roles.items():
        if topic in before and topic not in now:
            changed.add(Change(role, topic, "deleted"))
        elif topic in before and before[topic] != now[topic]:
            changed.add(Change(role, topic, "made again"))
    return changed


def still_hidden(
    before: Mapping[TopicPartition, int], now: Mapping[TopicPartition, int]
) -> set[TopicPartition]:
    """Partitions whose readers stood at the same offset at both looks, and have more behind it. A commit of
    one's own hides records too, for milliseconds.
    """
    return {partition for partition, stable in now.items() if before.get(partition) == stable}


def _ids(log_: Log) -> dict[str, str]:
    return {name: info.id for name, info in log_.topics().items()}


def _tell(change: Change) -> None:
    if change.role == "journal" and change.state == "made again":
        raise Stop(
            f"the journal {change.topic} was deleted and made again while the service ran: its entries are "
            "lost, and with them the proof of what was published. Begin a new one where the predictions end: "
            "`streamlearn reset --start predictions`. Keep people from deleting that topic."
        )
    missing = change.state == "deleted"
    log.warning(
        "topic.changed",
        role=change.role,
        topic=change.topic,
        state=change.state,
        action=_MISSING if missing else _REMEDY.get(change.role, _OUTPUTS),
    )
