"""kafka-python's consumer by position."""

from collections.abc import Sequence
from typing import Any

from kafka import TopicPartition

from streamlearn.core.records import Record
from streamlearn.core.records import TopicPartition as Place
from streamlearn.log.kafka.client import CONNECT_S
from streamlearn.log.kafka.kafka_python.connect import maps

_ALL = 1 << 40


class PythonConsumer:
    """`Consumer` around a connected `KafkaConsumer` without a group, which gives records (`read_batches`)."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._places: dict[Place, TopicPartition] = {}
        self._fetching = consumer._fetcher.config
        self._wait_ms = self._fetching["fetch_max_wait_ms"]

    @maps
    def assign(self, places: Sequence[Place]) -> None:
        """As `Consumer.assign`."""
        self._places = {(topic, index): TopicPartition(topic, index) for topic, index in places}
        self._consumer.assign(list(self._places.values()))

    @maps
    def seek(self, partition: Place, offset: int) -> None:
        """As `Consumer.seek`."""
        self._consumer.seek(self._places[partition], offset)

    def pause(self, places: Sequence[Place]) -> None:
        """As `Consumer.pause`."""
        self._consumer.pause(*(self._places[partition] for partition in places))

    def resume(self, places: Sequence[Place]) -> None:
        """As `Consumer.resume`."""
        self._consumer.resume(*(self._places[partition] for partition in places))

    @maps
    def fetch(self, timeout_s: float) -> dict[Place, list[Record]]:
        """As `Consumer.fetch`. Taking less than all would let the client serve one partition until its
        backlog ends.

        A broker has one fetch at a time. One that is sent while others' records wait to be taken must not
        wait there for new ones: when the others are to be fetched again, it is in their way.
        """
        self._fetching["fetch_max_wait_ms"] = self._wait_ms if timeout_s > 0 else 0
        fetched = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=_ALL)
        return {(topic, partition): records for (topic, partition), records in fetched.items()}

    def position(self, partition: Place) -> int:
        """As `Consumer.position`. The public `position()` may wait for the network."""
        position = self._consumer._subscription.assignment[self._places[partition]].position
        return -1 if position is None else int(position.offset)

    def known_end(self, partition: Place) -> int:
        """As `Consumer.known_end`."""
        return int(self._consumer.highwater(self._places[partition]) or 0)

    @maps
    def bounds(self, partition: Place) -> tuple[int, int]:
        """As `Consumer.bounds`."""
        tp, timeout_ms = TopicPartition(*partition), int(CONNECT_S * 1000)
        start = self._consumer.beginning_offsets([tp], timeout_ms=timeout_ms)[tp]
        return int(start), int(self._consumer.end_offsets([tp], timeout_ms=timeout_ms)[tp])

    @maps
    def ends(self, places: Sequence[Place]) -> dict[Place, int]:
        """As `Consumer.ends`."""
        ends = self._consumer.end_offsets([TopicPartition(*partition) for partition in places])
        return {(partition.topic, partition.partition): int(end) for partition, end in ends.items()}

    def leader(self, partition: Place) -> int | None:
        """As `Consumer.leader`."""
        leader = self._consumer._manager.cluster.leader_for_partition(TopicPartition(*partition))
        return None if leader is None or leader < 0 else int(leader)

    @maps
    def partitions(self, topic: str) -> int:
        """As `Consumer.partitions`."""
        return len(self._consumer.partitions_for_topic(topic) or ())

    def close(self) -> None:
        """As `Consumer.close`."""
        self._consumer.close(autocommit=False, timeout_ms=0)
