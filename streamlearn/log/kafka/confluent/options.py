"""The options a user gives in Kafka's dotted names, as librdkafka's configuration.

Invariants:
- An option has one name and one meaning for both clients: `kafka_python.options` reads and checks it, and
  what librdkafka has of it is set here. The others hold for the parts that stay kafka-python's.
- An option that a connection needs and librdkafka lacks is refused, never passed over.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from streamlearn.errors import ConfigError

_SAME: Final = (
    *("batch_size", "check_crcs", "client_dns_lookup", "client_id", "client_rack", "connections_max_idle_ms"),
    *("fetch_max_bytes", "fetch_min_bytes", "metadata_max_age_ms", "receive_message_max_bytes"),
    *("reconnect_backoff_max_ms", "reconnect_backoff_ms", "retry_backoff_ms", "security_protocol"),
    *("sasl_kerberos_service_name", "sasl_mechanism", "transaction_timeout_ms"),
)
_NAMES: Final[dict[str, str]] = {
    **{name: name.replace("_", ".") for name in _SAME},
    "compression_type": "compression.type",
    "delivery_timeout_ms": "message.timeout.ms",
    "fetch_max_wait_ms": "fetch.wait.max.ms",
    "max_partition_fetch_bytes": "fetch.message.max.bytes",
    "max_request_size": "message.max.bytes",
    "receive_buffer_bytes": "socket.receive.buffer.bytes",
    "request_timeout_ms": "socket.timeout.ms",
    "sasl_plain_password": "sasl.password",
    "sasl_plain_username": "sasl.username",
    "send_buffer_bytes": "socket.send.buffer.bytes",
    "ssl_cafile": "ssl.ca.location",
    "ssl_certfile": "ssl.certificate.location",
    "ssl_check_hostname": "ssl.endpoint.identification.algorithm",
    "ssl_ciphers": "ssl.cipher.suites",
    "ssl_crlfile": "ssl.crl.location",
    "ssl_keyfile": "ssl.key.location",
    "ssl_password": "ssl.key.password",
}
"""librdkafka's names of kafka-python's arguments."""

_VALUES: Final[dict[str, Callable[[Any], Any]]] = {
    "compression_type": lambda codec: codec or "none",
    "ssl_check_hostname": lambda checked: "https" if checked else "none",
}
_MISSING: Final = ("proxy_url", "sasl_kerberos_domain_name", "sasl_kerberos_name", "socks5_proxy")
"""Arguments of a connection that librdkafka has no word for."""

_OF_PRODUCERS: Final = ("batch.size", "compression.type", "message.timeout.ms", "transaction.timeout.ms")
_OF_CONSUMERS: Final = ("check.crcs", "fetch.")


def librdkafka_options(arguments: Mapping[str, Any], *, is_producer: bool) -> dict[str, Any]:
    """librdkafka's configuration for kafka-python's arguments, as `client_options` returns them.

    Raises `ConfigError` for one that a connection needs and librdkafka lacks.

    Example:
        >>> librdkafka_options({"ssl_cafile": "ca.pem", "ssl_check_hostname": False}, is_producer=True)
        {'ssl.ca.location': 'ca.pem', 'ssl.endpoint.identification.algorithm': 'none'}
    """
    for name in _MISSING:
        if arguments.get(name) is not None:
            raise ConfigError(
                f"[log.options] {name.replace('_', '.')}: confluent-kafka has no such option. Set [log] "
                'client = "kafka-python", which has it, or remove the option.'
            )
    foreign = _OF_CONSUMERS if is_producer else _OF_PRODUCERS
    return {
        _NAMES[name]: _VALUES[name](value) if name in _VALUES else value
        for name, value in arguments.items()
        if name in _NAMES and not _NAMES[name].startswith(foreign)
    }
