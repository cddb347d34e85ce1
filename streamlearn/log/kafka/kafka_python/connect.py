"""The making of clients of kafka-python, and the translation of their errors to `ClientError`."""

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from kafka import KafkaProducer
from kafka.errors import (
    KafkaConfigurationError,
    KafkaError,
    LogTruncationError,
    RetriableError,
    UnknownBrokerIdError,
    UnsupportedCodecError,
    for_code,
)

from streamlearn.errors import ConfigError, Unreachable
from streamlearn.log.kafka import probe
from streamlearn.log.kafka.client import CONNECT_S, ClientError, Code

P = ParamSpec("P")
T = TypeVar("T")

_COMMON: dict[str, Any] = {
    "bootstrap_timeout_ms": int(CONNECT_S * 1000),
    "request_timeout_ms": 5000,
    "retry_backoff_ms": 10,  # the default of 100 makes each small transaction 110 ms long instead of 12
    "reconnect_backoff_max_ms": 1000,
    "metrics_enabled": False,
    "allow_auto_create_topics": False,
}
_METADATA_MS = 20
DOUBT_MS = 3000
"""After so long without a broker we look what it is that answers there, or does not."""

_OWN_CODES: dict[type[KafkaError], Code] = {
    LogTruncationError: Code.TRUNCATED,
    UnknownBrokerIdError: Code.NO_BROKER,
    UnsupportedCodecError: Code.NO_CODEC,
}
"""Errors that no broker said."""


def mapped(error: KafkaError) -> ClientError:
    """An error of kafka-python as the log knows it, with what caused it and what it carries."""
    kind = type(error)
    carried = [mapped(link) for link in (error.__cause__, *error.args) if isinstance(link, KafkaError)]
    code = getattr(error, "errno", _OWN_CODES.get(kind, Code.NO_ANSWER))  # only what a broker says has one
    return ClientError(
        str(error),
        int(code),
        kind.__name__.removesuffix("Error"),
        retriable=isinstance(error, RetriableError),
        carried=carried,
    )


def described(code: int) -> tuple[str, bool]:
    """Kafka's name of one of its errors, and true when trying again may help."""
    kind = for_code(code)
    return kind.__name__.removesuffix("Error"), issubclass(kind, RetriableError)


def maps(call: Callable[P, T]) -> Callable[P, T]:
    """`call`, which raises `ClientError` for every error of kafka-python."""

    @functools.wraps(call)
    def mapping(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return call(*args, **kwargs)
        except KafkaError as error:
            raise mapped(error) from error

    return mapping


def connect(kind: Any, bootstrap: str, options: Mapping[str, Any], **ours: Any) -> Any:
    """A client of `kind`, connected. `options` come from `client_options` and win over tuning in `ours`.

    Raises `Unreachable` when no broker answers within `CONNECT_S`, `ConfigError` when the options are wrong.
    """
    config = {**_COMMON, **ours, **options, "bootstrap_servers": bootstrap}
    config = {name: value for name, value in config.items() if name in kind.DEFAULT_CONFIG}
    patience_ms: int = config["bootstrap_timeout_ms"]
    noted = _NetworkErrors()
    network = logging.getLogger("kafka.net")
    network.addHandler(noted)
    try:
        client = _patiently(kind, config, bootstrap, noted)
    except (KafkaConfigurationError, AssertionError, ValueError, OSError) as error:
        raise ConfigError(f"[log.options] the Kafka client refuses them: {error}") from error
    except KafkaError as error:
        raise Unreachable(
            f"No Kafka broker answers at {bootstrap} within {patience_ms / 1000:g} s: "
            f"{noted.last or error}. "
            "Check [log] bootstrap_servers, that the broker runs, and [log.options] security.protocol."
        ) from error
    finally:
        network.removeHandler(noted)
    # retry_backoff_ms does not reach the metadata, whose default of 100 ms is paid by every new topic.
    cluster = client._metadata if kind is KafkaProducer else client._manager.cluster
    cluster.config["retry_backoff_ms"] = _METADATA_MS
    return client


def _patiently(kind: Any, config: dict[str, Any], bootstrap: str, noted: "_NetworkErrors") -> Any:
    """A client; after `DOUBT_MS` without a broker it is asked what does answer there, if anything.

    Raises `ConfigError` for a broker that speaks otherwise, or what is none, and what `kind` raises.
    """
    patience_ms: int = config["bootstrap_timeout_ms"]
    parts_ms = [DOUBT_MS, patience_ms - DOUBT_MS] if patience_ms > DOUBT_MS else [patience_ms]
    while True:
        try:
            return kind(**{**config, "bootstrap_timeout_ms": parts_ms.pop(0)})
        except KafkaConfigurationError:
            raise
        except KafkaError as error:
            if (heard := probe.protocol(bootstrap)) is not None:
                ours = str(config.get("security_protocol") or "PLAINTEXT").upper()
                if said := probe.misunderstanding(heard, ours, config.get("sasl_mechanism"), noted.last):
                    raise ConfigError(said) from error
            if not parts_ms:
                raise


class _NetworkErrors(logging.Handler):
    """Notes the last network error: kafka-python itself only says `Unable to bootstrap`."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if not text.startswith(("Bootstrap failed", "Bootstrap bootstrap")):
            self.last = text
