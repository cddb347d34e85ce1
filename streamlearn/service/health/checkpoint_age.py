"""Whether the newest checkpoint is growing too old to be of use.

A checkpoint needs the input after it. Once retention has taken that, the state cannot be made again; when
half of that time has gone by without a new one, a person should know, while the other half is left to act in.

Invariant: what is said here is about this process and its store, not about a record. So it is no part of the
digest, and goes to the topic of alerts by itself, outside of any transaction.
"""

import math
from typing import Any, Final

import orjson
import structlog

from streamlearn.core.records import Positions
from streamlearn.env import Env
from streamlearn.errors import ConfigError, Stop, Unreachable
from streamlearn.log.port import Log

log = structlog.get_logger()

LOOK_S: Final = 30.0
_LOOKS: Final = 20
"""A retention is looked at this often at least, however short it is."""


class CheckpointAge:
    """Looks now and then."""

    def __init__(self, env: Env, log_: Log) -> None:
        self._env = env
        self._log = log_
        self._look_s = 0.0
        self._raised = False

    def look(self, newest: Positions, current: Positions, failure: str) -> None:
        """`newest`: the positions of the newest checkpoint; `done`: those of the shard; `failure`: why the
        last try to write one failed, "" if it did not.
        """
        now_s = self._env.now()
        if now_s < self._look_s:
            return
        try:
            kept_s = self._log.retention_s()
            self._look_s = now_s + min([LOOK_S, *(retention_s / _LOOKS for retention_s in kept_s.values())])
            old = self._old(newest, current, kept_s, now_s)
            if bool(old) != self._raised:
                self._tell(old, kept_s, failure)
                self._raised = bool(old)
        except (Unreachable, ConfigError, Stop) as error:  # no reason to give up a shard that works
            log.warning("checkpoint.age_not_told", reason=str(error), action="looked at again")

    def _old(self, newest: Positions, current: Positions, kept_s: dict[str, float], now_s: float) -> str:
        """A topic whose older half holds records that a redo from the newest checkpoint would need, or ""."""
        behind = {
            partition[0] for partition, offset in newest.items() if current.get(partition, offset) > offset
        }
        for topic in sorted(behind):
            half_s = kept_s.get(topic, math.inf) / 2
            if half_s < now_s:
                young = self._log.offsets_at(topic, int((now_s - half_s) * 1000))
                if any(newest.get((topic, number), offset) < offset for number, offset in enumerate(young)):
                    return topic
        return ""

    def _tell(self, old: str, kept_s: dict[str, float], failure: str) -> None:
        alert: dict[str, Any] = {"alert": "checkpoint.old", "state": "raised" if old else "cleared"}
        if old:
            why = f" The last try to write one failed: {failure}." if failure else ""
            alert |= {"topic": old, "retention_s": kept_s[old]}
            alert["message"] = (
                f"the newest checkpoint is older than half of the retention of {old} ({kept_s[old] / 2:g} s)."
                f" After the other half a crash could not be recovered from.{why} Make its place "
                "writable, or keep the input longer."
            )
            log.error("checkpoint.old", topic=old, reason=alert["message"])
        else:
            alert["message"] = "checkpoints are as young as they should be again"
            log.info("checkpoint.young_again")
        self._log.tell(orjson.dumps(alert))
