"""Commits and records whose acknowledgement is lost on its way, from a real broker."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from streamlearn.core.journal import Entry
from streamlearn.core.records import Output
from streamlearn.env import RealEnv
from streamlearn.errors import Unknown
from streamlearn.log.internal_topics import wanted_topics
from streamlearn.log.kafka import ClientName
from streamlearn.log.kafka.log import KafkaAdmin, KafkaLog
from streamlearn.log.port import ProducerRecord, TopicNames, TopicSpec
from tests.kafka_proxy import END_TXN, PRODUCE, Proxy

SCRIPT = Path(__file__).parent.parent / "scripts" / "kafka"


@pytest.fixture(params=["kafka-python", "confluent"])
def client(request: pytest.FixtureRequest) -> ClientName:
    return cast(ClientName, request.param)


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    """Before a broker of our own, which sends everybody through it."""
    proxy = Proxy()
    call = [sys.executable, str(SCRIPT)]
    data = ["--data", str(tmp_path / "broker")]
    through = f"advertised.listeners=PLAINTEXT://127.0.0.1:{proxy.port}"
    started = subprocess.run(
        [*call, "start", *data, "--set", through], capture_output=True, text=True, check=True
    )
    proxy.target = int(started.stdout.strip().rpartition(":")[2])
    yield proxy
    proxy.close()
    subprocess.run([*call, "stop", "--wipe", *data], check=True, capture_output=True)


def entry(seq: int) -> Entry:
    return Entry(seq=seq, era=0, digest="0" * 64)


def opened(proxy: Proxy, client: ClientName) -> tuple[KafkaAdmin, KafkaLog]:
    roles = {role: f"app.{role}" for role in ("predictions", "dlq", "journal", "checkpoints")}
    names = TopicNames("app", "", ("app.events",), roles)
    address = f"127.0.0.1:{proxy.port}"
    admin = KafkaAdmin(RealEnv(), address, {})
    admin.create([TopicSpec(names.inputs[0], 1), *wanted_topics(names, 1)])
    return admin, KafkaLog(RealEnv(), names, address, {}, client=client)


def values(admin: KafkaAdmin, topic: str) -> list[bytes | None]:
    read: list[bytes | None] = []
    position, (end,) = 0, admin.topics([topic])[topic].end
    while position < end:
        records = admin.poll({(topic, 0): position}, 10_000, 5).records.get((topic, 0), [])
        read += [record.value for record in records]
        position = records[-1].offset + 1 if records else end
    return read


@pytest.mark.kafka
def test_batches_that_had_to_be_sent_twice_are_there_once_and_in_order(
    proxy: Proxy, client: ClientName
) -> None:
    admin, log = opened(proxy, client)
    rows = [b"%-900d" % number for number in range(2000)]  # seven batches
    for _ in range(3):
        proxy.lose_the_answer_to_the_next(PRODUCE)
        admin.append("app.events", [ProducerRecord(None, row, (), 0) for row in rows])
    assert values(admin, "app.events") == rows * 3
    shard = log.open(0)
    outputs = [Output("predictions", 0, None, row) for row in rows]
    for seq in range(3):
        proxy.lose_the_answer_to_the_next(PRODUCE)
        shard.publish(entry(seq), outputs, {})
    assert proxy.lost == 6
    assert values(admin, "app.predictions") == rows * 3
    shard.close()
    assert log.open(0).end == entry(2)
    log.close()
    admin.close()


@pytest.mark.kafka
def test_a_commit_that_had_to_be_sent_twice_is_unknown_and_the_journal_tells(
    proxy: Proxy, client: ClientName
) -> None:
    admin, log = opened(proxy, client)
    shard = log.open(0)
    shard.publish(entry(0), [Output("predictions", 0, None, b"0")], {})
    proxy.lose_the_answer_to_the_next(END_TXN)
    with pytest.raises(Unknown, match="had to be sent again"):
        shard.publish(entry(1), [Output("predictions", 0, None, b"1")], {})
    assert proxy.lost == 1
    with pytest.raises(Unknown):
        shard.publish(entry(2), [], {})
    shard.close()
    shard = log.open(0)
    assert shard.end == entry(1), "the broker had taken it"
    shard.publish(entry(2), [], {})
    shard.close()
    log.close()
    admin.close()
