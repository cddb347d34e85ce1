"""The batches that we encode, on a real broker: codecs, a foreign reader, and a broker that hangs."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message
from confluent_kafka import TopicPartition as Partition
from kafka.record.memory_records import MemoryRecords

from streamlearn.core.records import Headers
from streamlearn.env import RealEnv
from streamlearn.errors import ConfigError, Unreachable
from streamlearn.log.kafka.kafka_python.options import client_options
from streamlearn.log.kafka.log import KafkaAdmin
from streamlearn.log.port import ProducerRecord, TopicSpec

SCRIPT = Path(__file__).parent.parent / "scripts" / "kafka"
HEADERS: Headers = (("a", b"1"), ("m\u00fcll", None), ("", b""), ("a", b"2"))
ROWS = [
    *(ProducerRecord(None, b'{"number": %d}' % number, (), 0) for number in range(3000)),
    ProducerRecord(b"key", None, HEADERS, 0),
    ProducerRecord(None, None, (), 0),
    ProducerRecord(b"", b"", HEADERS, 0),
    ProducerRecord(None, bytes(9000), (), 0),
]


def foreign(bootstrap: str, topic: str, count: int) -> list[Message]:
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "none", "isolation.level": "read_committed"}
    )
    consumer.assign([Partition(topic, 0, OFFSET_BEGINNING)])
    messages = consumer.consume(count, 30)
    consumer.close()
    return messages


@pytest.mark.kafka
@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_a_foreign_client_reads_what_we_sent_with_every_codec(
    kafka: str, topic_prefix: str, codec: str
) -> None:
    admin = KafkaAdmin(RealEnv(), kafka, {"compression.type": codec})
    admin.create([TopicSpec(topic_prefix, 1)])
    before_ms = time.time() * 1000
    admin.append(topic_prefix, ROWS)
    messages = foreign(kafka, topic_prefix, len(ROWS))
    assert [(m.key(), m.value(), tuple(m.headers() or ())) for m in messages] == [
        (row.key, row.value, row.headers) for row in ROWS
    ]
    assert [m.offset() for m in messages] == [*range(len(ROWS))]
    assert all(before_ms - 1 <= m.timestamp()[1] <= time.time() * 1000 for m in messages)
    ours = admin.poll({(topic_prefix, 0): 0}, 10_000, 5).records[topic_prefix, 0]
    assert [(r.key, r.value, r.headers) for r in ours] == [(row.key, row.value, row.headers) for row in ROWS]
    admin.close()


def stored(folder: Path, topic: str) -> Iterator[tuple[int, int]]:
    """The codec and the number of records of each batch in a broker's file."""
    (file,) = folder.glob(f"data/{topic}-0/*0.log")
    batches = MemoryRecords(file.read_bytes())
    while (batch := batches.next_batch()) is not None:
        yield batch.compression_type, batch.records_count


class Broker:
    """A broker of our own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = self.call("start")
        self.pid = int(json.loads((folder / "broker.json").read_text())["pid"])

    def call(self, *words: str) -> str:
        line = [sys.executable, str(SCRIPT), *words, "--data", str(self.folder)]
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path / "broker")
    yield broker
    os.kill(broker.pid, signal.SIGCONT)
    broker.call("stop", "--wipe")


def values(admin: KafkaAdmin, topic: str, count: int) -> list[bytes | None]:
    read: list[bytes | None] = []
    while len(read) < count:
        records = admin.poll({(topic, 0): len(read)}, 10_000, 5).records[topic, 0]
        read += [record.value for record in records]
    return read


@pytest.mark.kafka
@pytest.mark.slow
def test_batches_that_a_hanging_broker_took_are_there_once(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests time out, and are sent again with the numbers that they had."""
    caplog.set_level(logging.WARNING, "kafka.producer.sender")
    admin = KafkaAdmin(RealEnv(), broker.address, {"compression.type": "zstd"})
    admin.create([TopicSpec("t", 1)])
    admin.append("t", [ProducerRecord(None, b"first", (), 0)])
    rows = [b"%-900d" % number for number in range(2000)]
    os.kill(broker.pid, signal.SIGSTOP)
    sending = Thread(target=admin.append, args=("t", [ProducerRecord(None, row, (), 0) for row in rows]))
    sending.start()
    deadline_s = time.monotonic() + 60
    while "retrying" not in caplog.text:
        assert time.monotonic() < deadline_s and sending.is_alive(), caplog.text
        sending.join(0.02)
    os.kill(broker.pid, signal.SIGCONT)
    sending.join(60)
    assert not sending.is_alive()
    assert values(admin, "t", 2001) == [b"first", *rows]
    assert admin.topics(["t"])["t"].end == (2001,)
    assert {codec for codec, _ in stored(broker.folder, "t")} == {0, 4}
    assert max(count for _, count in stored(broker.folder, "t")) > 200, "the rows went one by one"
    admin.close()


@pytest.mark.kafka
@pytest.mark.slow
def test_a_batch_that_is_not_acknowledged_in_time_is_no_success(broker: Broker) -> None:
    admin = KafkaAdmin(RealEnv(), broker.address, {})
    admin.create([TopicSpec("t", 1)])
    admin.append("t", [ProducerRecord(None, b"first", (), 0)])
    os.kill(broker.pid, signal.SIGSTOP)
    with pytest.raises(Unreachable, match="appending to t"):
        admin.append("t", [ProducerRecord(None, b"second", (), 0)])
    os.kill(broker.pid, signal.SIGCONT)
    admin.append("t", [ProducerRecord(None, b"third", (), 0)])
    (end,) = admin.topics(["t"])["t"].end  # it may have come after all, but only before the third
    assert values(admin, "t", end) in ([b"first", b"third"], [b"first", b"second", b"third"])
    admin.close()


def test_the_codec_is_an_option_of_the_client() -> None:
    assert client_options({"compression.type": "zstd"}) == {"compression_type": "zstd"}
    assert client_options({"compression.codec": "LZ4"}) == {"compression_type": "lz4"}
    assert client_options({"compression.type": "none"}) == {"compression_type": None}
    with pytest.raises(
        ConfigError, match=r"compression\.type = brotli: must be none, gzip, snappy, lz4, zstd"
    ):
        client_options({"compression.type": "brotli"})
