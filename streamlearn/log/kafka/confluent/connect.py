"""The making and the end of librdkafka's clients, their lines, and their errors as `ClientError`.

Invariants:
- No end of a client waits longer than `_END_S`: librdkafka's threads may wait for a broker that hangs.
- An error has the words and the kind that it has from kafka-python: where a broker said it, by its number.
"""

import functools
import logging
import re
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar

from confluent_kafka import KafkaError, KafkaException

from streamlearn.env import Env
from streamlearn.log.kafka.client import ClientError, Code
from streamlearn.log.kafka.kafka_python.connect import described

P = ParamSpec("P")
T = TypeVar("T")

_END_S: Final = 2.0
_CLIENT_CODES: Final[dict[int, Code]] = {
    KafkaError._FENCED: Code.PRODUCER_FENCED,
    KafkaError._AUTO_OFFSET_RESET: Code.OFFSET_OUT_OF_RANGE,
    KafkaError._LOG_TRUNCATION: Code.TRUNCATED,
    KafkaError._BAD_MSG: Code.CORRUPT_MESSAGE,
    KafkaError._BAD_COMPRESSION: Code.CORRUPT_MESSAGE,
    KafkaError._AUTHENTICATION: Code.SASL_FAILED,
    KafkaError._UNKNOWN_TOPIC: Code.UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION: Code.UNKNOWN_TOPIC,
}
"""librdkafka's own numbers that stand for one of Kafka's, or of ours."""

_FINAL: Final = (KafkaError._INVALID_ARG, KafkaError._STATE, KafkaError._FATAL, KafkaError._SSL)
"""Errors of librdkafka's own that trying again does not help. All others are about a broker that is away."""

_UNSENT: Final = re.compile(r"in state (INIT|DOWN|TRY_CONNECT|CONNECT|SSL_HANDSHAKE|APIVERSION_QUERY|AUTH)")
"""In these states of a connection no request can have been sent."""

_REASON: Final = re.compile(r"\((\w+)\)$")
_RAISED: Final = ("ADDPARTS", "FATAL", "GETPID", "TXNERR")
"""LibraryLog about what a call then raises, or tries again."""

_log = logging.getLogger("kafka.librdkafka")
"""Its lines go where kafka-python's go: `observe.repeats` knows both by the first word."""


def mapped(error: KafkaError, prefix: str = "") -> ClientError:
    """An error of librdkafka as the log knows it."""
    number = error.code()
    code = int(_CLIENT_CODES.get(number, Code.NO_ANSWER if number < 0 else number))
    name, retriable = described(code) if code > 0 else (error.name().strip("_"), number not in _FINAL)
    text = error.str() or error.name()
    return ClientError(prefix + text, code, name, retriable=retriable or error.retriable())


def maps(call: Callable[P, T]) -> Callable[P, T]:
    """`call`, which raises `ClientError` for every error of librdkafka."""

    @functools.wraps(call)
    def mapping(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return call(*args, **kwargs)
        except KafkaException as error:
            raise mapped(error.args[0]) from error
        except SystemError as error:  # a fatal error, which its wrapper mixes with the call of a report
            if not isinstance(error.__cause__, KafkaException):
                raise
            raise mapped(error.__cause__.args[0]) from error
        except BufferError as error:
            raise ClientError(f"the buffer of the producer is full: {error}", retriable=True) from error

    return mapping


class LibraryLog:
    """Gets the lines and errors of one client of librdkafka, which it hands over while it is polled.

    `failures`: connections that broke. librdkafka tells errors only of some, and of equal ones in half a
    minute only the first, but its lines for debugging tell of each. `last`: what was said last.
    `of_transaction`: why a transaction cannot be committed any more; the records that are left tell only that
    they were taken out of a queue.
    """

    def __init__(self) -> None:
        self.failures = 0
        self.last = ""
        self.of_transaction: KafkaError | None = None

    def log(self, level: int, _format: str, facility: str, _client: str, text: str) -> None:
        """A line, as librdkafka's wrapper gives it to a logger."""
        if facility == "FAIL" and _UNSENT.search(text) is None:
            self.failures += 1
            self.last = text
        elif facility == "TXNERR" and (reason := _REASON.search(text)):
            number = getattr(KafkaError, reason[1], None)
            if isinstance(number, int):
                self.of_transaction = KafkaError(number, text)
        if level >= logging.WARNING:
            _log.log(logging.DEBUG if facility in _RAISED else level, "%s", text)

    def error(self, error: KafkaError) -> None:
        """An error that belongs to no call."""
        self.last = error.str()


def end(env: Env, name: str, clients: list[Any], last: Callable[[Any], object]) -> None:
    """Do `last` with the only client in `clients`, and destroy it; what takes longer goes on alone."""

    def destroy() -> None:
        try:
            last(clients[0])
        except (KafkaException, RuntimeError) as error:
            _log.debug("%s: %s", name, error)
        finally:
            clients.clear()  # its last reference: librdkafka ends its threads in this one

    env.spawn(name, destroy).wait(_END_S)
