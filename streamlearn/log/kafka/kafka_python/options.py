"""The options a user gives in Kafka's dotted names, as kafka-python's arguments.

Invariant: what the guarantees rest on (idempotence, isolation, groups) cannot be changed by an option.
"""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from streamlearn.errors import ConfigError

_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
_ALIASES = {  # what librdkafka and Java call them
    "compression_codec": "compression_type",
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
    defaults = {name: default for kind in _KINDS for name, default in kind.DEFAULT_CONFIG.items()}
    settable = {name for name, default in defaults.items() if _settable(name, default)} - _OURS
    arguments: dict[str, Any] = {}
    for dotted, text in options.items():
        name = dotted.replace(".", "_").replace("-", "_")
        name = _ALIASES.get(name, name)
        if name not in settable:
            raise ConfigError(f"[log.options] {dotted}: {_refusal(name, settable)}")
        arguments[name] = _convert(dotted, name, str(text), defaults[name])
    if "compression_type" in arguments:
        arguments["compression_type"] = _compression(arguments["compression_type"])
    if "security_protocol" in arguments:
        arguments["security_protocol"] = _protocol(arguments["security_protocol"])
    return arguments


def _compression(text: str) -> str | None:
    """The codec of the batches that are sent. kafka-python itself has no word for none."""
    codec = text.lower()
    if codec not in _CODECS:
        raise ConfigError(f"[log.options] compression.type = {text}: must be {', '.join(_CODECS)}")
    return None if codec == "none" else codec


def _protocol(text: str) -> str:
    """The protocol in Kafka's spelling: for any other kafka-python would speak PLAINTEXT, without a word."""
    protocol = text.upper()
    if protocol not in _PROTOCOLS:
        raise ConfigError(f"[log.options] security.protocol = {protocol}: must be {', '.join(_PROTOCOLS)}")
    return protocol


def _refusal(name: str, settable: Collection[str]) -> str:
    """The reason why an argument is not to be set by an option, with what to do instead."""
    if name == "bootstrap_servers":
        return "set [log] bootstrap_servers instead, or -b"
    if name in _OURS:
        return "streamlearn sets this itself; remove it"
    for foreign, advice in _JAVA.items():
        if name.startswith(foreign):
            return f"there is no such client option: {advice}"
    near = get_close_matches(name, [*settable, *_ALIASES], n=1)
    hint = f"; did you mean {near[0].replace('_', '.')}?" if near else ""
    return f"there is no such client option{hint}"


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
