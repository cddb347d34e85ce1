"""Questions to a Kafka cluster: of an older version, and one in which strangers make and delete topics."""

import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.errors import UnknownTopicOrPartitionError
from kafka.protocol.admin import DescribeClusterRequest, DescribeClusterResponse
from kafka.protocol.metadata import MetadataResponse

from streamlearn.core.events.event import Refusal
from streamlearn.core.records import Record
from streamlearn.core.shard.encode import dead_letter
from streamlearn.env import RealEnv
from streamlearn.log.kafka import new_client
from streamlearn.log.kafka.admin import KafkaAdmin
from streamlearn.log.kafka.cluster import Cluster
from streamlearn.log.kafka.kafka_python.admin import broker_count
from streamlearn.log.port import ProducerRecord, TopicInfo, TopicSpec
from tests.command import Command, command
from tests.service_process import Apps, apps

__all__ = ["apps", "command"]

BROKERS = 2


class OldBroker:
    """Stands where kafka-python's connections are, and answers as Kafka 3.6 does: in bytes of those
    versions of the protocol that it has.
    """

    def run(self, question: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
        with pytest.raises(StopIteration) as ended:
            question(*args).send(None)
        return ended.value.value

    async def send(self, request: Any) -> Any:
        if isinstance(request, DescribeClusterRequest):
            answer = DescribeClusterResponse(
                cluster_id="c",
                brokers=[self._broker(DescribeClusterResponse.DescribeClusterBroker)] * BROKERS,
            )
            return DescribeClusterResponse.decode(answer.encode(version=0), version=0)
        answer = MetadataResponse(brokers=[self._broker(MetadataResponse.MetadataResponseBroker)] * BROKERS)
        return MetadataResponse.decode(answer.encode(version=12), version=12)

    @staticmethod
    def _broker(kind: Any) -> Any:
        return kind(host="127.0.0.1", port=9092)


def test_brokers_before_3_7_are_counted_though_the_client_cannot_describe_their_cluster() -> None:
    client = KafkaAdminClient.__new__(KafkaAdminClient)
    client._manager = OldBroker()  # type: ignore[assignment]
    with pytest.raises(KeyError, match="endpoint_type"):
        client.describe_cluster()  # when this passes, kafka-python has mended it
    assert broker_count(client) == BROKERS


class Flickering:
    """An admin client, and a stranger who deletes a topic between the two requests of a listing."""

    def __init__(self, client: Any, gone: str) -> None:
        self._client = client
        self._gone = gone
        self.asked: list[Any] = []

    def describe_topics(self, names: Any) -> Any:
        self.asked.append(names)
        found = self._client.describe_topics(names)
        return found if self._gone else [topic for topic in found if topic["name"] in self.kept]

    def list_partition_offsets(self, specs: Any, **words: Any) -> Any:
        if any(place.topic == self._gone for place in specs):
            self.kept = {place.topic for place in specs} - {self._gone}
            self._gone = ""
            raise UnknownTopicOrPartitionError("deleted meanwhile")
        return self._client.list_partition_offsets(specs, **words)


@pytest.mark.kafka
def test_a_topic_that_vanishes_between_two_requests_is_left_out(kafka: str, topic_prefix: str) -> None:
    cluster = Cluster(RealEnv(), new_client(RealEnv(), kafka, {}))
    stays, goes = f"{topic_prefix}.stays", f"{topic_prefix}.goes"
    cluster.create([TopicSpec(stays, 2), TopicSpec(goes, 1)])
    client = cluster.admin._client
    cluster.admin._client = flickering = Flickering(client, goes)
    assert set(cluster.topics([stays, goes])) == {stays}
    assert flickering.asked == [[goes, stays]] * 2
    client.close()


@pytest.mark.kafka
def test_commands_ask_only_for_their_own_topics(
    apps: Apps, kafka: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[str] = set()
    describe = Cluster.topics

    def noted(self: Cluster, names: Iterable[str]) -> dict[str, TopicInfo]:
        asked.update(names := list(names))
        return describe(self, names)

    def listed(self: Cluster) -> list[str]:
        raise AssertionError("it asks for the names of the whole cluster")

    monkeypatch.setattr(Cluster, "topics", noted)
    monkeypatch.setattr(Cluster, "topic_names", listed)
    app = apps(kafka)
    name, topic = app.config.app.name, app.inputs[0]
    letter = dead_letter(Record(topic, 0, 0, 0, None, b"x"), Refusal("decode", "not_json"))
    app.admin.append(app.config.topics.dlq, [ProducerRecord(letter.key, letter.value, letter.headers)])
    where = ("-b", kafka, "-n", name)
    for words in (
        ("topics", "ensure", "-i", topic, *where),
        ("topics", "check", "-i", topic, *where),
        ("control", "guard-reset", "a", *where),
        ("dlq", "list", *where),
        ("dlq", "retry", *where),
        ("tail", topic, "-o", "beginning", "-b", kafka),
        ("record", "-t", topic, "-b", kafka),
        ("replay", "river:Phishing", "-t", topic, "--limit", "3", "-b", kafka),
        ("look", topic, "-b", kafka),
    ):
        command.ok(*words)
    assert asked == {*app.config.names().sources, *app.config.names().roles.values()}


@pytest.mark.kafka
def test_a_stranger_who_makes_and_deletes_topics_disturbs_no_listing(kafka: str, topic_prefix: str) -> None:
    stranger, cluster = KafkaAdmin(RealEnv(), kafka, {}), Cluster(RealEnv(), new_client(RealEnv(), kafka, {}))
    mine = f"{topic_prefix}.mine"
    cluster.create([TopicSpec(mine, 1)])
    stop = threading.Event()

    def disturb() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            name = f"{topic_prefix}.{number}"
            stranger.create([TopicSpec(name, 3)])
            stranger._cluster.admin._client.delete_topics([name])

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for _ in range(20):
            assert set(cluster.topics([mine, f"{topic_prefix}.1"])) - {f"{topic_prefix}.1"} == {mine}
            assert mine in cluster.topic_names()
    finally:
        stop.set()
        thread.join()
        cluster.close()
        stranger.close()


@pytest.mark.kafka
def test_records_wait_for_a_topic_that_the_brokers_do_not_know_yet(kafka: str, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.late"
    admin, other = KafkaAdmin(RealEnv(), kafka, {}), KafkaAdmin(RealEnv(), kafka, {})
    maker = threading.Timer(0.5, other.create, [[TopicSpec(topic, 1)]])
    maker.start()
    admin.append(topic, [ProducerRecord(None, b"x")])
    maker.join()
    assert admin.topics([topic])[topic].end == (1,)
    admin.close()
    other.close()
