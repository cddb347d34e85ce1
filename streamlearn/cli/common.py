"""Shared by the commands: the way from a configuration to its log, signals, and words for a person."""

import contextlib
import json
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

import orjson

from streamlearn.env import Flag, RealEnv
from streamlearn.errors import ConfigError, Unreachable

if TYPE_CHECKING:
    from streamlearn.config.load import Config
    from streamlearn.log.port import Admin, CheckpointStore, Log

ENV: Final = RealEnv()
"""The world of the one process that a command is."""


@contextlib.contextmanager
def open_admin(config: "Config", make: bool = False) -> Iterator["Admin"]:
    """The log to work on. `make`: the embedded file may be made; without it a missing one is an error."""
    from streamlearn.log import backends

    path = config.log.path
    if config.log.backend == "embedded" and not make and not Path(path).is_file():
        raise ConfigError(f"there is no file {path}: name the service's file with --db FILE")
    look_for_broker(config)
    # Errors carry the client's last complaint; its log lines would only repeat it.
    logging.getLogger("kafka").addHandler(logging.NullHandler())
    with contextlib.closing(backends.open_admin(ENV, config)) as admin:
        yield admin


def open_store(config: "Config") -> contextlib.closing["CheckpointStore"]:
    """The checkpoints of a service's one shard."""
    from streamlearn.core.records import SHARD
    from streamlearn.log import backends

    return contextlib.closing(backends.open_store(ENV, config, SHARD))


def open_log(config: "Config") -> contextlib.closing["Log"]:
    """A service's own connection to the log."""
    from streamlearn.log import backends

    return contextlib.closing(backends.open_log(ENV, config))


def look_for_broker(config: "Config") -> None:
    """Say at once where nobody listens: brokers that somebody named are waited for afterwards, the default's
    are not. Raises `Unreachable` for the default.
    """
    if config.log.backend == "embedded":
        return
    from streamlearn.log.kafka.probe import knock

    address = config.log.bootstrap_servers
    reason = knock(address)
    if reason and "bootstrap_servers" not in config.log.model_fields_set:
        also = "" if Path("streamlearn.toml").is_file() else "; no streamlearn.toml here"
        raise Unreachable(
            f"no Kafka broker answers at {address} (the default{also}): {reason}. Name the brokers with"
            " -b HOST:PORT, or the embedded log's file with --db FILE"
        )
    if reason and sys.stderr.isatty():
        note(f"waiting for Kafka at {address}: {reason}")


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Flag]:
    """A flag that the first Ctrl-C or SIGTERM sets; the second Ctrl-C interrupts."""
    stop = ENV.flag()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def note(*messages: str) -> None:
    """Tell a person something, a line each, on standard error."""
    for message in messages:
        print(message, file=sys.stderr, flush=True)


def print_json(value: object) -> None:
    """One line of JSON on standard output."""
    try:
        text = orjson.dumps(value, default=str).decode()
    except orjson.JSONEncodeError:  # the name of a file may hold bytes that are no UTF-8: \udcff in JSON
        text = json.dumps(value, default=str)
    print(text, flush=True)
