"""kafka-python's admin client."""

import re
from collections.abc import Sequence
from typing import Any

from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, MemberToRemove
from kafka.errors import UnknownBrokerIdError, for_code
from kafka.protocol.consumer import IsolationLevel
from kafka.protocol.metadata import MetadataRequest

from streamlearn.core.records import TopicPartition as Place
from streamlearn.log.kafka.client import CONNECT_S
from streamlearn.log.kafka.kafka_python.connect import maps
from streamlearn.log.port import TopicSpec

_ERROR_CODE = re.compile(r"\[Error (-?\d+)\]")


class PythonAdmin:
    """`AdminClient` around a connected `KafkaAdminClient`."""

    def __init__(self, client: Any) -> None:
        self._client = client

    @maps
    def topics(self, names: Sequence[str]) -> dict[str, tuple[str, int]]:
        """As `AdminClient.topics`."""
        identities = {}
        for topic in self._client.describe_topics(names):
            error = for_code(topic["error_code"])
            if error.errno == 0 and not topic["is_internal"]:
                identities[topic["name"]] = (str(topic["topic_id"]), len(topic["partitions"]))
            elif error.__name__ not in ("NoError", "UnknownTopicOrPartitionError", "InvalidTopicError"):
                raise error(topic["name"])
        return identities

    @maps
    def topic_names(self) -> list[str]:
        """As `AdminClient.topic_names`."""
        return [topic["name"] for topic in self._client.describe_topics(None) if not topic["is_internal"]]

    @maps
    def offsets(self, places: Sequence[Place], timestamp_ms: int, *, committed: bool) -> dict[Place, int]:
        """As `AdminClient.offsets`."""
        level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        specs = {TopicPartition(*partition): timestamp_ms for partition in places}
        answers = self._client.list_partition_offsets(specs, isolation_level=level) if specs else {}
        return {
            (partition.topic, partition.partition): int(answer.offset)
            for partition, answer in answers.items()
        }

    @maps
    def settings(self, topics: Sequence[str]) -> dict[str, dict[str, str]]:
        """As `AdminClient.settings`."""
        resources = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
        described = self._client.describe_configs(resources, config_filter="all")
        return {
            topic: {name: setting["value"] for name, setting in settings.items()}
            for topic, settings in described.get("topic", {}).items()
        }

    @maps
    def owner(self, transactional_id: str) -> tuple[int, int]:
        """As `AdminClient.owner`."""
        described = self._client.describe_transactions([transactional_id])[transactional_id]
        return described.producer_id, described.producer_epoch

    @maps
    def open_producers(self, partition: Place) -> list[tuple[int, int, int]]:
        """As `AdminClient.open_producers`."""
        tp = TopicPartition(*partition)
        return [
            (producer.producer_id, producer.producer_epoch, producer.current_transaction_start_offset)
            for producer in self._client.describe_producers([tp])[tp].active_producers
            if producer.current_transaction_start_offset is not None
            and producer.current_transaction_start_offset >= 0
        ]

    @maps
    def members(self, group: str) -> int:
        """As `AdminClient.members`."""
        described = self._client.describe_groups([group])[group]
        if code := _ERROR_CODE.match(described["error"] or ""):  # an answer that is not raised
            raise for_code(int(code[1]))(group)
        return len(described["members"])

    def ask_identities(self, topics: Sequence[str], broker: int | None) -> Any:
        """As `AdminClient.ask_identities`."""
        manager = self._client._manager
        request = MetadataRequest(
            topics=[MetadataRequest.MetadataRequestTopic(name=topic) for topic in topics],
            allow_auto_topic_creation=False,
            include_cluster_authorized_operations=False,
            include_topic_authorized_operations=False,
        )
        # The admin client's own network thread sends it at once: no public call asks without waiting.
        return manager.call_soon(manager.send, request, broker)

    @maps
    def identities(self, future: Any) -> dict[str, tuple[str, int] | None]:
        """As `AdminClient.identities`."""
        manager = self._client._manager
        try:
            topics = manager.run(manager.wait_for, future, CONNECT_S * 1000).topics
        except UnknownBrokerIdError:
            manager.cluster.request_update()  # a broker that came after this client had looked
            raise
        identities: dict[str, tuple[str, int] | None] = {}
        for topic in topics:
            error = for_code(topic.error_code)
            if error.errno == 0:
                identities[topic.name] = (str(topic.topic_id), len(topic.partitions))
            elif error.__name__ == "UnknownTopicOrPartitionError":
                identities[topic.name] = None
            else:
                raise error(topic.name)
        return identities

    @maps
    def brokers(self) -> int:
        """As `AdminClient.brokers`."""
        return broker_count(self._client)

    @maps
    def create(self, spec: TopicSpec, replicas: int) -> None:
        """As `AdminClient.create`."""
        topic = {
            "num_partitions": spec.partitions,
            "replication_factor": replicas,
            "configs": dict(spec.settings),
        }
        self._client.create_topics(
            {spec.name: topic}, timeout_ms=int(CONNECT_S * 1000), wait_for_metadata=True
        )

    @maps
    def delete_before(self, partition: Place, offset: int) -> None:
        """As `AdminClient.delete_before`."""
        self._client.delete_records({TopicPartition(*partition): offset})

    @maps
    def remove_member(self, group: str, replica: str, member_id: str) -> None:
        """As `AdminClient.remove_member`."""
        member = MemberToRemove(member_id, replica, reason="graceful stop")
        self._client.remove_group_members(group, [member])

    def close(self) -> None:
        """As `AdminClient.close`."""
        self._client.close()


def broker_count(client: Any) -> int:
    """The number of brokers of a cluster, by a `KafkaAdminClient`.

    Asked for as metadata, which brokers of every version answer alike: `describe_cluster` raises `KeyError`
    on the answer of brokers before 3.7.
    """
    return len(client._manager.run(client._get_cluster_metadata, [])["brokers"])
