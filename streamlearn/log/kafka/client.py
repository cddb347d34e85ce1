"""How streamlearn makes, calls and destroys kafka-python's clients (3.0.12).

Invariants:
- No call waits for ever: connecting, asking and committing each have a deadline, after which they raise
  `Unreachable`, with the address and the last network error.
- What the guarantees rest on (idempotence, isolation, groups) cannot be changed by an option.
- A producer that showed any error is destroyed and never used again.
Underscored attributes of kafka-python are used here on purpose, each with its reason; the dependency is
pinned to `>=3.0.12,<3.1` for them.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import (
    AuthorizationError,
    InvalidProducerEpochError,
    KafkaConfigurationError,
    KafkaError,
    ProducerFencedError,
    RetriableError,
    SaslAuthenticationFailedError,
    UnsupportedCodecError,
)

from streamlearn.core.records import Headers
from streamlearn.errors import ConfigError, Stop, Unreachable
from streamlearn.log.kafka import probe
from streamlearn.log.kafka.records import for_client

Answer = TypeVar("Answer")

CONNECT_S = 12.0
"""How long a broker may take to answer, at start and for every question, before we give up."""

BATCH_BYTES = 262144
FRAME_BYTES = 128
"""Room for a batch's header and the lengths of a record's fields, within a topic's max.message.bytes."""

_COMMON: dict[str, Any] = {
    "bootstrap_timeout_ms": int(CONNECT_S * 1000),
    "request_timeout_ms": 5000,
    "retry_backoff_ms": 10,  # the default of 100 makes each small transaction 110 ms long instead of 12
    "reconnect_backoff_max_ms": 1000,
    "metrics_enabled": False,
    "allow_auto_create_topics": False,
}
_METADATA_MS = 20
_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
DOUBT_MS = 3000
"""After so long without a broker we look what it is that answers there, or does not."""

_CERTIFICATE = re.compile(r"certificate|handshake|CERT_|tlsv1", re.IGNORECASE)
_ALIASES = {  # what librdkafka and Java call them
    "ssl_ca_location": "ssl_cafile",
    "ssl_certificate_location": "ssl_certfile",
    "ssl_key_location": "ssl_keyfile",
    "ssl_key_password": "ssl_password",
    "sasl_mechanisms": "sasl_mechanism",
    "sasl_username": "sasl_plain_username",
    "sasl_password": "sasl_plain_password",
}
_PEM = "certificates are PEM files here, not Java key stores: "
_JAVA = {
    "sasl_jaas_config": "Java's; give sasl.mechanism, sasl.username and sasl.password",
    "sasl_login_callback_handler_class": "Java's; give sasl.mechanism, sasl.username and sasl.password",
    "sasl_client_callback_handler_class": "Java's; give sasl.mechanism, sasl.username and sasl.password",
    "ssl_truststore": f"{_PEM}give the CA's as ssl.ca.location",
    "ssl_keystore": f"{_PEM}give ssl.certificate.location and ssl.key.location (ssl.key.password)",
    "ssl_endpoint_identification_algorithm": 'Java\'s; for "" say ssl.check.hostname=false',
    "enable_ssl_certificate_verification": "librdkafka's; say ssl.check.hostname=false",
    "ssl_cipher_suites": "Java's; give ssl.ciphers",
    "key_serializer": "keys stay bytes; remove it",
    "key_deserializer": "keys stay bytes; remove it",
    "value_serializer": "values are JSON; remove it",
    "value_deserializer": "[event] says how values are read; remove it",
    "schema_registry": "it is no option of the client: set [event] schema_registry",
    "basic_auth": "it is no option of the client: set [event] schema_registry",
    "metadata_broker_list": "librdkafka's; set [log] bootstrap_servers, or -b",
    "interceptor_classes": "Java's; remove it",
    "partitioner_class": "predictions go to the partition of their event; remove it",
    "debug": "librdkafka's; set STREAMLEARN_LOG_LEVEL=DEBUG",
}
"""Names that people bring from other clients (one stands for all that begin so), and what to say instead."""

_OURS = frozenset(
    (
        *("bootstrap_servers", "api_version", "group_id", "group_instance_id", "transactional_id"),
        *("enable_idempotence", "acks", "retries", "max_in_flight_requests_per_connection", "linger_ms"),
        *("isolation_level", "auto_offset_reset", "enable_auto_commit", "consumer_timeout_ms"),
        *("allow_auto_create_topics", "partition_assignment_strategy"),
    )
)
_KINDS: tuple[Any, ...] = (KafkaProducer, KafkaConsumer, KafkaAdminClient)
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no", "none")


def client_options(options: Mapping[str, str]) -> dict[str, Any]:
    """kafka-python's arguments for dotted Kafka names. Raises `ConfigError` for what does not exist."""
    defaults: dict[str, Any] = {}
    for kind in _KINDS:
        defaults.update(kind.DEFAULT_CONFIG)
    simple = {name for name, default in defaults.items() if _settable(name, default)} - _OURS
    found: dict[str, Any] = {}
    for dotted, text in options.items():
        name = dotted.replace(".", "_").replace("-", "_")
        name = _ALIASES.get(name, name)
        if name == "bootstrap_servers":
            raise ConfigError(f"[log.options] {dotted}: set [log] bootstrap_servers instead, or -b")
        if name in _OURS:
            raise ConfigError(f"[log.options] {dotted}: streamlearn sets this itself; remove it")
        if name not in simple:
            near = get_close_matches(name, [*simple, *_ALIASES], n=1)
            hint = f"; did you mean {near[0].replace('_', '.')}?" if near else ""
            hint = next((f": {text}" for java, text in _JAVA.items() if name.startswith(java)), hint)
            raise ConfigError(f"[log.options] {dotted}: there is no such client option{hint}")
        found[name] = _convert(dotted, name, str(text), defaults[name])
    if "security_protocol" in found:  # for any other text kafka-python would speak PLAINTEXT, without a word
        found["security_protocol"] = spoken = found["security_protocol"].upper()
        if spoken not in _PROTOCOLS:
            raise ConfigError(f"[log.options] security.protocol = {spoken}: must be {', '.join(_PROTOCOLS)}")
    return found


def _settable(name: str, default: object) -> bool:
    """False for what must be a Python object."""
    if name.endswith(("serializer", "ssl_context", "token_provider")):
        return False
    return default is None or isinstance(default, str | int | float)


def _convert(dotted: str, name: str, text: str, default: object) -> Any:
    """`text` as the type of `default`; where that is None the name tells."""
    if isinstance(default, bool):
        if text.lower() not in _TRUE + _FALSE:
            raise ConfigError(f"[log.options] {dotted} = {text!r}: must be true or false")
        return text.lower() in _TRUE
    if isinstance(default, int | float) or (default is None and name.endswith(("_bytes", "_ms"))):
        try:
            return int(text)
        except ValueError:
            raise ConfigError(f"[log.options] {dotted} = {text!r}: must be a whole number") from None
    return text


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
            if (found := probe.protocol(bootstrap)) is not None:
                wanted = str(config.get("security_protocol") or "PLAINTEXT").upper()
                if said := _misunderstood(found, wanted, config.get("sasl_mechanism"), noted.last):
                    raise ConfigError(said) from error
            if not parts_ms:
                raise


def _misunderstood(found: probe.Found, wanted: str, mechanism: str | None, last: str) -> str:
    """Why the broker and we do not understand each other; "" when both speak the same."""
    option = "[log.options] security.protocol"
    if found.protocol == "HTTP":
        return (
            f"What answers at {found.address} is an HTTP server and no Kafka broker: check [log] "
            "bootstrap_servers (a REST proxy, a registry and a metrics page have ports of their own)."
        )
    if not found.protocol:
        return ""
    offered = f" (mechanisms: {', '.join(found.mechanisms)})" if found.mechanisms else ""
    if found.protocol != wanted:
        return (
            f"A broker answers at {found.address}, but not in {wanted}: this listener speaks {found.protocol}"
            f'{offered}. Set {option} = "{found.protocol}" (-X security.protocol={found.protocol}), or take '
            f"the port of the listener for {wanted}."
        )
    if found.mechanisms and mechanism not in found.mechanisms:
        return (
            f"A broker answers at {found.address} in {wanted}, but without SASL mechanism {mechanism}: it "
            f"offers {', '.join(found.mechanisms)}. Set [log.options] sasl.mechanism."
        )
    if found.mechanisms and "disconnected" in last:
        return (
            f"A broker answers at {found.address} in {wanted}, and closes the connection after {mechanism}: "
            "check [log.options] sasl.username and sasl.password."
        )
    if wanted.endswith("SSL") and _CERTIFICATE.search(last):
        return (
            f"A broker answers at {found.address} in {wanted}, but the certificates do not agree: {last}. "
            "Check [log.options] ssl.ca.location, ssl.certificate.location and ssl.key.location."
        )
    return ""


class _NetworkErrors(logging.Handler):
    """Notes the last network error: kafka-python itself only says `Unable to bootstrap`."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if not text.startswith(("Bootstrap failed", "Bootstrap bootstrap")):
            self.last = text


def ask(bootstrap: str, what: str, question: Callable[[], Answer], deadline_s: float = CONNECT_S) -> Answer:
    """The answer to `question`, asked again while the cluster is moving, for at most `deadline_s`.

    Raises `ConfigError` when the cluster denies it, `Unreachable` when no answer came in time, else `Stop`.
    """
    until = time.monotonic() + deadline_s
    while True:
        try:
            return question()
        except KafkaError as error:
            if time.monotonic() >= until or not isinstance(error, RetriableError):
                raise explained(bootstrap, what, error) from error
        time.sleep(0.05)


def broker_count(client: Any) -> int:
    """How many brokers a cluster has, of an admin client.

    Asked for as metadata, which brokers of every version answer alike: `describe_cluster` raises `KeyError`
    on the answer of brokers before 3.7.
    """
    return len(client._manager.run(client._get_cluster_metadata, [])["brokers"])


def explained(bootstrap: str, what: str, error: KafkaError) -> ConfigError | Unreachable | Stop:
    """`error` as the error that tells the user, or the loop, what to do."""
    text = f"Kafka at {bootstrap}: {what}: {error}"
    if isinstance(error, AuthorizationError | SaslAuthenticationFailedError):
        return ConfigError(f"{text}. Give this principal the right, see `streamlearn topics --print`.")
    if isinstance(error, UnsupportedCodecError):
        return ConfigError(f"{text}. Install the codec's Python package.")
    if isinstance(error, RetriableError):
        return Unreachable(f"{text}. Check that the brokers run and can be reached.")
    return Stop(f"{text}. streamlearn cannot go on without it.")


def fenced(error: BaseException | None) -> bool:
    """True when `error`, its cause or what it carries says that a newer producer has taken over."""
    if error is None:
        return False
    if isinstance(error, ProducerFencedError | InvalidProducerEpochError):
        return True
    carried = next((arg for arg in error.args if isinstance(arg, BaseException)), None)
    return fenced(error.__cause__) or fenced(carried)


class _NullHeaders(tuple[Any, ...]):
    """Headers of which a value is null. The protocol and kafka-python's encoder know them; only a statistic
    of sizes fails on them, and that is left out for headers that are false.
    """

    __slots__ = ()

    def __bool__(self) -> bool:
        return False


def append(producer: Any, place: Any, key: bytes | None, value: bytes | None, headers: Headers) -> Any:
    """Append one record to the producer's buffer and return its future; it goes out with the next flush.

    `KafkaProducer.send` refuses null headers, and a null key with a null value, which Kafka allows and dead
    letters need; it also checks for each record what we check once per transaction.
    """
    headers = for_client(headers)
    if headers and any(data is None for _, data in headers):
        headers = _NullHeaders(headers)
    return producer._accumulator.append(place, None, key, value, headers)[0]


def destroy(producer: Any) -> None:
    """Stop `producer` so that it can send nothing more, whatever state it is in.

    A plain `close(timeout=0)` raises before it stops the sender, which later fences the new owner.
    """
    producer._sender.force_close()
    try:
        producer.close(timeout=0)
    except KafkaError:
        # It only says that records were left, which is the point; without this mark the garbage
        # collector would close it once more, and wait.
        producer._closed = True
