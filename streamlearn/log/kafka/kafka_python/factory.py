"""Makes the parts of a Kafka client with kafka-python."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import kafka
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from streamlearn.env import Env
from streamlearn.log.kafka.client import BATCH_BYTES, BUSY_MS, CONNECT_S, HEARTBEAT_MS, SESSION_MS
from streamlearn.log.kafka.kafka_python.admin import PythonAdmin
from streamlearn.log.kafka.kafka_python.connect import connect, maps
from streamlearn.log.kafka.kafka_python.consumer import PythonConsumer
from streamlearn.log.kafka.kafka_python.group import ASSIGNORS, PythonGroup
from streamlearn.log.kafka.kafka_python.options import client_options
from streamlearn.log.kafka.kafka_python.producer import PythonProducer, destroy
from streamlearn.log.kafka.kafka_python.records import read_batches

TRANSACTION_MS: Final = 20000


class KafkaPython:
    """`Client` with kafka-python."""

    def __init__(self, env: Env, bootstrap: str, options: Mapping[str, str]) -> None:
        self._env = env
        self.bootstrap = bootstrap
        self._options = client_options(options)
        self.versions = {"client": "kafka-python", "version": str(kafka.__version__)}

    def admin(self) -> PythonAdmin:
        """As `Client.admin`."""
        return PythonAdmin(self._connect(KafkaAdminClient))

    def consumer(self, *, wait_ms: int, connect_s: float) -> PythonConsumer:
        """As `Client.consumer`."""
        consumer = self._connect(
            KafkaConsumer,
            group_id=None,
            isolation_level="read_committed",
            auto_offset_reset="none",
            enable_auto_commit=False,
            fetch_max_wait_ms=wait_ms,
            bootstrap_timeout_ms=int(connect_s * 1000),
        )
        read_batches(consumer)
        return PythonConsumer(consumer)

    def group(self, group: str, replica: str, topic: str) -> PythonGroup:
        """As `Client.group`."""
        consumer = self._connect(
            KafkaConsumer,
            group_id=group,
            group_instance_id=replica or None,
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            max_poll_interval_ms=BUSY_MS,
            partition_assignment_strategy=ASSIGNORS,
            isolation_level="read_committed",
            # Nothing is read through this consumer: it only must not fail over a missing position.
            auto_offset_reset="latest",
            enable_auto_commit=False,
            max_partition_fetch_bytes=1,
        )
        return PythonGroup(consumer, topic)

    def producer(self, *, linger_ms: int, batch_bytes: int) -> PythonProducer:
        """As `Client.producer`."""
        return PythonProducer(
            self._connect(
                KafkaProducer,
                enable_idempotence=True,
                acks="all",
                delivery_timeout_ms=int(CONNECT_S * 1000),
                max_block_ms=int(CONNECT_S * 1000),
                linger_ms=linger_ms,
                batch_size=batch_bytes,
            ),
            self._env,
            batch_bytes,
        )

    @maps
    def fence(
        self, transactional_id: str, topics: Sequence[str], *, batch_bytes: int, request_bytes: int
    ) -> PythonProducer:
        """As `Client.fence`. Its batches are smaller: the accumulator keeps room for each."""
        batch_bytes = min(BATCH_BYTES, batch_bytes)
        producer = self._connect(
            KafkaProducer,
            transactional_id=transactional_id,
            # A newer protocol lets a zombie's send bump the epoch, which fences the live owner.
            api_version=(2, 4),
            transaction_timeout_ms=TRANSACTION_MS,
            delivery_timeout_ms=int(CONNECT_S * 1000),
            max_block_ms=int(CONNECT_S * 1000),
            max_request_size=request_bytes,
            batch_size=batch_bytes,
            linger_ms=1000,  # the flush at the end of each transaction sends at once what is there
        )
        try:
            for topic in topics:
                producer._sender.add_topic(topic)  # one request for all, beside the next call
            producer.init_transactions()
            for topic in topics:
                producer.partitions_for(topic)
        except BaseException:
            destroy(producer)
            raise
        return PythonProducer(producer, self._env, batch_bytes)

    def _connect(self, kind: Any, **ours: Any) -> Any:
        return connect(kind, self.bootstrap, self._options, **ours)
