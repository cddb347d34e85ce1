"""Repetitions in a log: an outage is told once a minute, not twenty times a second.

Invariants:
- A cause is told at once when it is new, and again after `QUIET_S` with the number of lines held back since.
- Another reason is another cause: a change is never held back. Numbers in a text are no other reason.
- At most `CAUSES_MAX` causes are remembered; the oldest is forgotten, and so told again.
"""

import logging
import re
from collections.abc import Hashable
from typing import Final

import structlog
from structlog.typing import EventDict, WrappedLogger

from streamlearn.env import Env

QUIET_S: Final = 60.0
CAUSES_MAX: Final = 500
CLIENTS: Final = ("kafka",)
"""The loggers of client libraries."""

AWAY: Final = "kafka.away"

_OURS: Final = frozenset(
    (
        *("log.away", "publish.unknown", "shard.fenced", "shard.not_owned"),
        *("shard.reopening", "checkpoint.failed", "checkpoint.postponed", "journal.not_trimmed"),
        *("schema.waiting", "election.not_left"),
    )
)
"""What the loop says again at each try. What is said once per fact (`model.raised`) is no repetition."""

_AWAY: Final = re.compile(
    r"no node|node not ready|disconnect|connection (failed|lost|refused)|connect |bootstrap|timed out"
    r"|coordinator dead|heartbeat (session|failed|poll)|metadata refresh|coordinator (request|lookup)"
    r"|kafkaconnectionerror|back off|backing off|abort \(|future not done|socket",
    re.IGNORECASE,
)
_REFUSED: Final = re.compile(r"auth|sasl|ssl|certificate|password|denied|unsupported", re.IGNORECASE)
_NUMBERS: Final = re.compile(r"0x[0-9a-f]+|\d+", re.IGNORECASE)
_SLOW_TASK: Final = "ran for"
"""kafka-python measures itself; on a busy machine it says so of each of its tasks."""


class Repeats:
    """Remembers when each cause was told last."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self._told: dict[Hashable, tuple[float, int]] = {}

    def since(self, cause: Hashable) -> int | None:
        """The number of lines of `cause` held back before this one; None when this one is to be held back."""
        now_s = self._env.monotonic()
        told_s, held = self._told.get(cause, (now_s - QUIET_S, 0))
        if now_s - told_s < QUIET_S:
            self._told[cause] = (told_s, held + 1)
            return None
        self._told.pop(cause, None)  # it comes in again as the newest
        if len(self._told) >= CAUSES_MAX:
            del self._told[next(iter(self._told))]
        self._told[cause] = (now_s, 0)
        return held


class ClientLines(logging.Filter):
    """Lets a client's line pass that is no repetition, with `held_back` where lines were."""

    def __init__(self, repeats: Repeats, debug: bool) -> None:
        super().__init__()
        self._repeats = repeats
        self._debug = debug

    def filter(self, record: logging.LogRecord) -> bool:
        """As `logging.Filter.filter`."""
        if not is_clients(record.name):
            return True
        text = record.getMessage()
        if _SLOW_TASK in text:
            return self._debug
        held = self._repeats.since(AWAY if is_away(text) else (record.name, same(text)))
        if held:
            record.held_back = held
        return held is not None


class OurLines:
    """A processor of structlog that drops our own lines when they are repetitions."""

    def __init__(self, repeats: Repeats) -> None:
        self._repeats = repeats

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """The event, with `held_back` where lines were. Raises `structlog.DropEvent`."""
        if event["event"] in _OURS:
            held = self._repeats.since((event["event"], same(str(event.get("reason", "")))))
            if held is None:
                raise structlog.DropEvent
            if held:
                event["held_back"] = held
        return event


def name_client_events(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put a client's words about an outage under an event of ours, as `said`."""
    if is_clients(str(event.get("logger", ""))) and is_away(text := str(event["event"])):
        event["event"] = AWAY
        event["said"] = text
    return event


def is_clients(logger: str) -> bool:
    """True for a client library's logger."""
    return logger.partition(".")[0] in CLIENTS


def is_away(text: str) -> bool:
    """True when a client says, in one of its many ways, that brokers cannot be reached. A refusal is no
    such thing: it does not end by waiting.
    """
    return bool(_AWAY.search(text)) and not _REFUSED.search(text)


def same(text: str) -> str:
    """`text` without what differs from one try to the next."""
    return _NUMBERS.sub("#", text)
