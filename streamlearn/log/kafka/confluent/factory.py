"""Makes the parts of a Kafka client: the hot ones with confluent-kafka, the others with kafka-python."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import confluent_kafka
import structlog
from confluent_kafka import KafkaException

from streamlearn.env import Env
from streamlearn.errors import ConfigError, Unreachable
from streamlearn.log.kafka import client
from streamlearn.log.kafka.client import CONNECT_S
from streamlearn.log.kafka.confluent.connect import LibraryLog, end, maps
from streamlearn.log.kafka.confluent.consumer import ConfluentConsumer
from streamlearn.log.kafka.confluent.options import librdkafka_options
from streamlearn.log.kafka.confluent.producer import ConfluentProducer
from streamlearn.log.kafka.kafka_python.factory import TRANSACTION_MS, KafkaPython
from streamlearn.log.kafka.kafka_python.options import client_options

_log = structlog.get_logger()

_OLDEST: Final = 0x020F00FF
"""2.15: librdkafka before it had faults that later ones name."""

_COMMON: Final[dict[str, Any]] = {
    "socket.timeout.ms": 5000,
    "retry.backoff.ms": 10,
    "retry.backoff.max.ms": 1000,
    "reconnect.backoff.max.ms": 1000,
    "allow.auto.create.topics": False,
}
_WAIT_MS: Final = 50
"""A broker has one fetch at a time: one that waits for a quiet partition is in the way of a backlog in
another, whose records in the queue last for longer than this.
"""

_NO_TOPIC: Final = "streamlearn.none"
_CONSUMER: Final[dict[str, Any]] = {
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "enable.partition.eof": True,
    "check.crcs": True,
    "queued.min.messages": 20_000,
    "queued.max.messages.kbytes": 32 << 10,
    "fetch.queue.backoff.ms": 5,
    # The wrapper wants a group; without a subscription it has no member, and nothing is committed to it.
    "group.id": "streamlearn.none",
}
_PRODUCER: Final[dict[str, Any]] = {
    "transaction.timeout.ms": TRANSACTION_MS,
    "message.timeout.ms": int(CONNECT_S * 1000),
    "linger.ms": 1000,  # the flush at the end of each transaction sends at once what is there
    "batch.num.messages": 1_000_000,
    "queue.buffering.max.messages": 2_000_000,
    "debug": "broker",  # only these lines tell of each connection that breaks
}


class ConfluentKafka:
    """`Client` with confluent-kafka. Once a record has a header whose name librdkafka cannot read or send, it
    makes kafka-python's parts.
    """

    def __init__(self, env: Env, bootstrap: str, options: Mapping[str, str]) -> None:
        self._env = env
        self.bootstrap = bootstrap
        self._python = KafkaPython(env, bootstrap, options)
        self._arguments = client_options(options)
        self._admin: client.AdminClient | None = None
        self._is_odd = False
        self.versions = {"client": "confluent", "version": str(confluent_kafka.__version__)}
        librdkafka_options(
            self._arguments, is_producer=False
        )  # refuses what is wrong before anything is begun
        version, number = confluent_kafka.libversion()
        if number < _OLDEST:
            raise ConfigError(
                f'[log] client = "confluent" needs confluent-kafka 2.15 or newer; librdkafka {version} is '
                'installed. Install the extra: pip install "streamlearn[fast]".'
            )

    def admin(self) -> client.AdminClient:
        """As `Client.admin`."""
        self._admin = self._python.admin()
        return self._admin

    def consumer(self, *, wait_ms: int, connect_s: float) -> client.Consumer:
        """As `Client.consumer`."""
        if self._is_odd:
            return self._python.consumer(wait_ms=wait_ms, connect_s=connect_s)
        said = LibraryLog()
        ours = {**_CONSUMER, "fetch.wait.max.ms": min(wait_ms, _WAIT_MS)}
        consumer = self._made(confluent_kafka.Consumer, ours, said, is_producer=False)
        connect_s = self._arguments.get("bootstrap_timeout_ms", connect_s * 1000) / 1000
        try:
            consumer.list_topics(_NO_TOPIC, timeout=connect_s)  # the quickest question; others wait a second
        except KafkaException as error:
            reason = said.last or error.args[0].str()
            clients = [consumer]
            del consumer
            end(self._env, "kafka.consumer.end", clients, lambda client_: client_.close())
            raise Unreachable(
                f"No Kafka broker answers at {self.bootstrap} within {connect_s:g} s: {reason}. "
                "Check [log] bootstrap_servers, that the broker runs, and [log.options] security.protocol."
            ) from error
        return ConfluentConsumer(consumer, self._env, said, self._go_on_with_kafka_python)

    def group(self, group: str, replica: str, topic: str) -> client.Group:
        """As `Client.group`."""
        return self._python.group(group, replica, topic)

    def producer(self, *, linger_ms: int, batch_bytes: int) -> client.PlainProducer:
        """As `Client.producer`."""
        return self._python.producer(linger_ms=linger_ms, batch_bytes=batch_bytes)

    @maps
    def fence(
        self, transactional_id: str, topics: Sequence[str], *, batch_bytes: int, request_bytes: int
    ) -> client.TransactionalProducer:
        """As `Client.fence`."""
        if self._is_odd:
            return self._python.fence(
                transactional_id, topics, batch_bytes=batch_bytes, request_bytes=request_bytes
            )
        said = LibraryLog()
        ours = {
            **_PRODUCER,
            "transactional.id": transactional_id,
            # As large as may be: librdkafka's thread turns without a pause while it has a whole batch and the
            # coordinator does not know the partition yet (5 us of CPU a record).
            "batch.size": batch_bytes,
            "message.max.bytes": request_bytes,
        }
        producer = self._made(confluent_kafka.Producer, ours, said, is_producer=True)
        for topic in topics:  # connects, too: else librdkafka waits for half a second before it asks again
            producer.list_topics(topic, timeout=CONNECT_S)
        producer.init_transactions(CONNECT_S)
        return ConfluentProducer(
            producer, self._env, said, lambda: self._owner(transactional_id), self._go_on_with_kafka_python
        )

    def _made(self, kind: Any, ours: Mapping[str, Any], said: LibraryLog, *, is_producer: bool) -> Any:
        """A client of librdkafka. Raises `ConfigError`."""
        options = librdkafka_options(self._arguments, is_producer=is_producer)
        if "batch.size" in options:
            options["batch.size"] = min(options["batch.size"], ours["batch.size"])
        config = {**_COMMON, **ours, **options, "bootstrap.servers": self.bootstrap}
        try:
            return kind({**config, "error_cb": said.error, "logger": said})
        except KafkaException as error:
            raise ConfigError(
                f"[log.options] the Kafka client refuses them: {error.args[0].str()}"
            ) from error

    def _owner(self, transactional_id: str) -> tuple[int, int]:
        """Who took a transactional id last. librdkafka does not tell its own producer id: an answer that came
        before a commit which succeeded is one's own.
        """
        if self._admin is not None:
            return self._admin.owner(transactional_id)
        admin = self._python.admin()
        try:
            return admin.owner(transactional_id)
        finally:
            admin.close()

    def _go_on_with_kafka_python(self) -> None:
        self._is_odd = True
        _log.warning(
            "kafka.client_changed",
            client="kafka-python",
            reason="a record has a header whose name is no UTF-8: librdkafka can neither read nor send it",
        )
