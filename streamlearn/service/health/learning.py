"""Says when learning stands still, why, since when, and what to do; and when it goes on.

Invariant: as with the age of checkpoints, what is said is no part of the digest. A state that is broken is
also told to the topic of alerts, by itself, outside of any transaction: once in each ownership.
"""

from typing import Any, Final

import orjson
import structlog

from streamlearn.core.shard.state import (
    BROKEN,
    COMMAND,
    PAUSE_RECORDS,
    PAUSED,
    UNDO_LIMIT,
    UNDO_WINDOW,
    Memory,
)
from streamlearn.errors import ConfigError, Stop, Unreachable
from streamlearn.log.port import Log

log = structlog.get_logger()

WHY: Final = {
    PAUSED: (
        f"the model had to be undone more than {UNDO_LIMIT} times in {UNDO_WINDOW:,} records: learning pauses"
        f" for {PAUSE_RECORDS:,} records and tries again. Predictions go on. `streamlearn dlq list` has what"
        " was undone; `streamlearn control thaw` ends the pause"
    ),
    BROKEN: (
        "the model has no good answer any more to what it answered before: its state is broken, and it learns"
        " no more. Predictions go on, null where the answer is NaN or infinite. Begin with a good state where"
        " this one stands: `streamlearn serve --model-change fresh`, with --from CHECKPOINT for one of"
        " before; or `streamlearn reset`"
    ),
    COMMAND: "learning was stopped by `streamlearn control freeze`; `streamlearn control thaw` lets it go on",
}
"""What to say of each value of `Memory.frozen`."""

ANEW: Final = (
    "the model has forgotten its labels and begins anew: they were texts and are no texts now, or the other"
    " way round, and no model learns both. If that was not meant, mend the source or declare the type of the"
    " label in [event] types"
)

_OTHER: Final = "learning is frozen; `streamlearn control thaw` lets it go on"


class LearningWatch:
    """Of one ownership of a shard."""

    def __init__(self, log_: Log) -> None:
        self._log = log_
        self._told = ("", 0)
        self._learned = 0
        self._alerted = False

    def look(self, memory: Memory) -> None:
        """Look at the memory after a transaction, or when the shard was opened."""
        if memory.learned < self._learned:
            log.warning("learning.began_anew", records=memory.records, was=self._learned, message=ANEW)
        self._learned = memory.learned
        now = (memory.frozen, memory.frozen_at)
        if now == self._told:
            return
        self._told = now
        if not memory.frozen:
            log.info("learning.goes_on", records=memory.records, learned=memory.learned)
            self._alert("cleared", "learning goes on", memory)
            return
        message = WHY.get(memory.frozen, _OTHER)
        say = log.warning if memory.frozen in (PAUSED, COMMAND) else log.error
        event = "learning.paused" if memory.frozen == PAUSED else "learning.frozen"
        say(event, reason=memory.frozen, since=memory.frozen_at, records=memory.records, message=message)
        self._alert("raised" if memory.frozen == BROKEN else "cleared", message, memory)

    def _alert(self, state: str, message: str, memory: Memory) -> None:
        if (state == "raised") == self._alerted:
            return
        self._alerted = state == "raised"
        alert: dict[str, Any] = {"alert": "model.broken", "state": state, "since": memory.frozen_at}
        try:
            self._log.tell(orjson.dumps({**alert, "message": message}))
        except (Unreachable, ConfigError, Stop) as error:  # no reason to give up a shard that works
            log.warning("model.broken_not_told", reason=str(error))
