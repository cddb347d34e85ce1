"""The benchmarks' side of Kafka: topics, the input, and a reader from outside that counts what is committed.

It is confluent-kafka, in C, so that watching costs the machine little; no runner shares anything with it.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

PATIENCE_S = 60.0


class BenchKafka:
    """One broker, and the topics that were made on it here."""

    def __init__(self, broker: str) -> None:
        self.broker = broker
        self._admin = AdminClient({"bootstrap.servers": broker})

    def create(self, *topics: str) -> None:
        """Make topics of one partition."""
        futures = self._admin.create_topics([NewTopic(topic, 1, 1) for topic in topics])
        for future in futures.values():
            future.result(PATIENCE_S)

    def delete(self, prefix: str) -> None:
        """Remove all topics of a runner: those whose names begin so."""
        names = [
            name for name in self._admin.list_topics(timeout=PATIENCE_S).topics if name.startswith(prefix)
        ]
        for future in self._admin.delete_topics(names).values() if names else ():
            future.result(PATIENCE_S)

    def fill(self, topic: str, values: Iterable[bytes]) -> None:
        """Append values to the one partition of a topic."""
        producer = self.producer()
        for value in values:
            while True:
                try:
                    producer.produce(topic, value, partition=0)
                    break
                except BufferError:
                    producer.poll(0.1)
        if producer.flush(PATIENCE_S):
            raise TimeoutError(f"{topic} could not be filled")

    def producer(self, **options: Any) -> Producer:
        return Producer({"bootstrap.servers": self.broker, "linger.ms": 5, **options})

    def outputs(self, topic: str) -> "Outputs":
        return Outputs(self.broker, topic)


class Outputs:
    """A read committed reader of one partition from its beginning."""

    def __init__(self, broker: str, topic: str) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": broker,
                "group.id": f"{topic}-watch",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 10,
                "allow.auto.create.topics": False,
            }
        )
        self._consumer.assign([TopicPartition(topic, 0, 0)])

    def read(self, timeout_s: float) -> Iterator[bytes]:
        """The values that are there, after waiting for the first of them."""
        message = self._consumer.poll(timeout_s)
        messages = [] if message is None else [message, *self._consumer.consume(10_000, 0)]
        for one in messages:
            error: KafkaError | None = one.error()
            if error is None:
                yield one.value()
            elif error.fatal() or error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise RuntimeError(f"the outputs cannot be read: {error.str()}")

    def close(self) -> None:
        self._consumer.close()
