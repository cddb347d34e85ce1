"""The log on Kafka: the port of `log/port.py` over a client."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from streamlearn.env import Env

if TYPE_CHECKING:
    from streamlearn.log.kafka.client import Client


def new_client(env: Env, bootstrap: str, options: Mapping[str, str]) -> "Client":
    """The client to use, which connects when it is first needed. `options` have dotted Kafka names.

    Raises `ConfigError` for an option that does not exist.
    """
    from streamlearn.log.kafka.kafka_python.factory import KafkaPython

    return KafkaPython(env, bootstrap, options)
