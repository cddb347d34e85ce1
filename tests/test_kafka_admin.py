"""Questions to a Kafka cluster whose answers the broker at hand cannot give: those of older versions."""

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.protocol.admin import DescribeClusterRequest, DescribeClusterResponse
from kafka.protocol.metadata import MetadataResponse

from streamlearn.log.kafka_client import broker_count

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
