"""Logs: one form for ours and the clients', JSON lines for machines, readable ones on a terminal.

An event is named `noun.verb`, its facts are keys with the unit last (`commit_ms`). Nothing is logged per
record.

Invariants:
- A secret never leaves: keys that name one read `***`, and the Kafka client, which writes passwords at
  DEBUG, is capped at INFO whatever the level.
- What repeats is said once a minute per cause (`observe.repeats`), the clients' lines under events of ours.
- Logs go to standard error; standard output belongs to data.
"""

import json
import logging
import os
import re
import sys
from datetime import UTC, datetime
from functools import partial
from typing import TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from streamlearn.env import Env
from streamlearn.errors import ConfigError
from streamlearn.observe.repeats import CLIENTS, ClientLines, OurLines, Repeats, name_client_events

_SECRET = re.compile(r"password|passwd|secret|token|credential|jaas|(?:^|_)key$|authorization", re.IGNORECASE)
_PAIR = re.compile(
    r"""((?:\w*password|\w*secret|\w*token|jaas\w*)["']?\s*[=:]\s*)("[^"]*"|'[^']*'|[^\s,;)}\]]+)""",
    re.IGNORECASE,
)
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def setup(env: Env, stream: TextIO | None = None) -> None:
    """Send all logs to `stream` (standard error), from `STREAMLEARN_LOG_LEVEL` (INFO) on.

    Call it once, at the edge of a process. Raises `ConfigError` for a level that does not exist.
    """
    stream = stream or sys.stderr
    level = os.environ.get("STREAMLEARN_LOG_LEVEL", "INFO").upper()
    if level not in _LEVELS:
        raise ConfigError(f"STREAMLEARN_LOG_LEVEL is {level!r}: set it to one of {', '.join(_LEVELS)}")
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        partial(_stamp, env),
    ]
    repeats = Repeats(env)
    handler = logging.StreamHandler(stream)
    handler.addFilter(ClientLines(repeats, debug=level == "DEBUG"))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, name_client_events, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                mask,
                _renderer(stream),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in CLIENTS:
        # At INFO it tells every connection and every metadata refresh: warnings unless asked for more.
        logging.getLogger(name).setLevel(
            logging.INFO if level == "DEBUG" else max(root.level, logging.WARNING)
        )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            OurLines(repeats),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _stamp(env: Env, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    moment = datetime.fromtimestamp(env.now(), UTC)
    event["timestamp"] = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return event


def mask(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace what a key calls secret, and `password=...` inside a text, by `***`."""
    return {name: _masked(name, value) for name, value in event.items()}


def _masked(name: str, value: object) -> object:
    if _SECRET.search(name) and value and not isinstance(value, int | float):
        return "***"
    if isinstance(value, str):
        return _PAIR.sub(r"\1***", value)
    if isinstance(value, dict):
        return {inner: _masked(str(inner), deeper) for inner, deeper in value.items()}
    return value


def _renderer(stream: TextIO) -> Processor:
    if stream.isatty():
        # Plain tracebacks: the pretty ones show local variables, and so secrets.
        return structlog.dev.ConsoleRenderer(
            colors="NO_COLOR" not in os.environ, exception_formatter=structlog.dev.plain_traceback
        )
    return structlog.processors.JSONRenderer(serializer=_json)


def _json(event: EventDict, **_options: object) -> str:
    head = {name: event.pop(name) for name in ("timestamp", "level", "event") if name in event}
    whole = {**head, **event}
    try:
        return orjson.dumps(whole, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError:  # the name of a file may hold bytes that are no UTF-8
        return json.dumps(whole, default=repr)
