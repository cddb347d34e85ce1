"""The log on Kafka: the port of `log/port.py` over a client."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from streamlearn.env import Env
from streamlearn.errors import ConfigError

if TYPE_CHECKING:
    from streamlearn.log.kafka.client import Client

ClientName = Literal["auto", "kafka-python", "confluent"]


def new_client(
    env: Env, bootstrap: str, options: Mapping[str, str], name: ClientName = "kafka-python"
) -> "Client":
    """The client to use, which connects when it is first needed. `options` have dotted Kafka names.

    Raises `ConfigError` for an option that does not exist, and for a client that is not installed.
    """
    if name == "confluent":
        if find_spec("confluent_kafka") is None:
            raise ConfigError(
                '[log] client = "confluent" needs the package confluent-kafka. Install the extra: '
                'pip install "streamlearn[fast]"; or set [log] client = "kafka-python".'
            )
        from streamlearn.log.kafka.confluent.factory import ConfluentKafka

        return ConfluentKafka(env, bootstrap, options)
    from streamlearn.log.kafka.kafka_python.factory import KafkaPython

    return KafkaPython(env, bootstrap, options)
