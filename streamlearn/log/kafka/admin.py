"""Orders of the command line to Kafka.

Invariant: `append` returns only when every single record was acknowledged by all in-sync replicas.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from streamlearn.core.journal import Entry
from streamlearn.core.records import Positions, Range, Record, TopicPartition
from streamlearn.env import Env
from streamlearn.errors import ConfigError, Stop
from streamlearn.log.kafka import new_client
from streamlearn.log.kafka.client import (
    BATCH_BYTES,
    CONNECT_S,
    FRAME_BYTES,
    Acknowledged,
    ClientError,
    PlainProducer,
)
from streamlearn.log.kafka.cluster import Cluster
from streamlearn.log.kafka.errors import explained, refusal
from streamlearn.log.kafka.journal import Journal
from streamlearn.log.kafka.reader import RecordReader
from streamlearn.log.port import FetchResult, ProducerRecord, TopicInfo, TopicSpec

_RECORDS_IN_FLIGHT = 5000
"""Records in flight at once: it bounds the memory of the producer's buffer."""
_UNTOLD_BYTES = 16384


class KafkaAdmin:
    """`Admin` on Kafka."""

    def __init__(self, env: Env, bootstrap: str, options: Mapping[str, str]) -> None:
        self._client = new_client(env, bootstrap, options)
        self._cluster = Cluster(env, self._client)
        self._reader = RecordReader(env, self._client)
        self._producers: dict[int, PlainProducer] = {}
        self._batches: dict[str, int] = {}

    def topics(self, names: Iterable[str]) -> dict[str, TopicInfo]:
        """As `Reader.topics`."""
        return self._cluster.topics(names)

    def topic_names(self) -> list[str]:
        """As `Admin.topic_names`."""
        return self._cluster.topic_names()

    def settings(self, topic: str) -> dict[str, str]:
        """As `Admin.settings`."""
        return self._cluster.settings([topic])[topic]

    def create(self, specs: Sequence[TopicSpec]) -> None:
        """As `Admin.create`; `min.insync.replicas` only where there are three replicas."""
        self._cluster.create(specs)

    def append(self, topic: str, records: Sequence[ProducerRecord]) -> None:
        """As `Admin.append`. What was acknowledged before an error stays."""
        size = self._batch_size(topic)
        if size not in self._producers:
            self._producers[size] = self._client.producer(linger_ms=5, batch_bytes=size)
        try:
            for first in range(0, len(records), _RECORDS_IN_FLIGHT):
                append(self._producers[size], topic, records[first : first + _RECORDS_IN_FLIGHT])
        except ClientError as error:
            self._producers.pop(size).destroy()
            refused = refusal([topic], [error])
            raise refused or explained(self._client.bootstrap, f"appending to {topic}", error) from error

    def _batch_size(self, topic: str) -> int:
        """The largest batch to send: one over the topic's limit would be split, and records come twice."""
        if topic not in self._batches:
            try:
                setting = self.settings(topic).get("max.message.bytes")
            except ConfigError:  # whoever may write need not be allowed to ask
                setting = str(_UNTOLD_BYTES + FRAME_BYTES)
            if setting is None:  # the broker that was asked does not know the topic yet
                return _UNTOLD_BYTES
            self._batches[topic] = max(1, min(BATCH_BYTES, int(setting) - FRAME_BYTES))
        return self._batches[topic]

    def poll(self, positions: Positions, max_records: int, timeout_s: float) -> FetchResult:
        """As `Reader.poll`."""
        return self._reader.poll(positions, max_records, 1 << 62, timeout_s)

    def read(self, run: Range) -> Iterator[Record]:
        """As `Reader.read`."""
        return self._reader.read(run)

    def end(self, journal: TopicPartition) -> Entry | None:
        """As `Reader.end`."""
        return Journal(self._cluster, self._reader, journal).last

    def entries(self, journal: TopicPartition, after: int) -> Iterator[Entry]:
        """As `Reader.entries`."""
        return Journal(self._cluster, self._reader, journal).entries(after)

    def offsets_at(self, topic: str, timestamp_ms: int) -> tuple[int, ...]:
        """As `Reader.offsets_at`."""
        return self._cluster.offsets_at(topic, timestamp_ms)

    def close(self) -> None:
        """Close every client."""
        for producer in self._producers.values():
            producer.destroy()
        self._producers.clear()
        self._reader.close()
        self._cluster.close()


def append(
    producer: PlainProducer, topic: str, records: Sequence[ProducerRecord]
) -> dict[TopicPartition, Acknowledged]:
    """Append records and wait until each is acknowledged. Raises `ClientError`."""
    count = producer.partitions(topic)
    batches: dict[int, list[ProducerRecord]] = {}
    for record in records:
        partition = record.partition
        if partition is None:
            partition = producer.partition(topic, record.key, record.value)
        elif not 0 <= partition < count:
            raise Stop(f"{topic} has {count} partitions; there is no partition {partition} to append to.")
        batches.setdefault(partition, []).append(record)
    for partition, rows in batches.items():
        producer.append((topic, partition), rows)
    return producer.flush(CONNECT_S)
