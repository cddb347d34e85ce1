"""The client confluent-kafka, where it differs from kafka-python: zombies, its queue, options, odd headers.

What every client must do is in `test_log_conformance.py`, `test_kafka_log.py` and the files beside it.
"""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, Producer

from streamlearn.core.records import Headers, Positions, TopicPartition, header_name
from streamlearn.env import RealEnv
from streamlearn.errors import ConfigError, Fenced, Unknown
from streamlearn.log import kafka as log_kafka
from streamlearn.log.kafka import ClientName, new_client
from streamlearn.log.kafka.client import ClientError, Code
from streamlearn.log.kafka.cluster import Cluster
from streamlearn.log.kafka.confluent import consumer as confluent_consumer
from streamlearn.log.kafka.confluent.connect import LibraryLog, mapped
from streamlearn.log.kafka.confluent.options import _NAMES, librdkafka_options
from streamlearn.log.kafka.kafka_python.options import client_options
from streamlearn.log.kafka.log import KafkaAdmin
from streamlearn.log.kafka.reader import RecordReader
from streamlearn.log.kafka.writer import Transactions
from streamlearn.log.port import ProducerRecord, TopicSpec
from tests.service_process import Apps, apps
from tests.test_service import answers, events, logistic, plain_loop

__all__ = ["apps"]

Rows = list[tuple[TopicPartition, list[ProducerRecord]]]
MB = 1 << 20


@pytest.fixture
def admin(kafka: str) -> Iterator[KafkaAdmin]:
    admin = KafkaAdmin(RealEnv(), kafka, {})
    yield admin
    admin.close()


def everything(admin: KafkaAdmin, topic: str) -> list[bytes]:
    """The values of all committed records of partition 0."""
    found: list[bytes] = []
    position, (end, *_) = 0, admin.topics([topic])[topic].end
    while position < end:
        records = admin.poll({(topic, 0): position}, 10_000, 0.5).records.get((topic, 0), [])
        found += [record.value or b"" for record in records]
        position = records[-1].offset + 1 if records else end
    return found


# A paused zombie


class Owner:
    """The writer of one transactional id, over a client of its own."""

    def __init__(self, bootstrap: str, client: ClientName, names: tuple[str, str]) -> None:
        made = new_client(RealEnv(), bootstrap, {}, client)
        self._names = names
        self._cluster = Cluster(RealEnv(), made)
        self._writer = Transactions(made, self._cluster, f"{names[1]}.lock", dict.fromkeys(names, MB))

    def commit(self, value: bytes, rows: int) -> None:
        """`rows` outputs and an entry, in one transaction."""
        out, journal = self._names
        outputs = [ProducerRecord(None, value)] * rows
        self._writer.commit([((out, 0), outputs), ((journal, 0), [ProducerRecord(None, value)])])

    def close(self) -> None:
        self._writer.close()
        self._cluster.close()


def commit_until_fenced(bootstrap: str, names: tuple[str, str], pipe: Connection) -> None:
    """At each round that `pipe` names become the owner and commit on and on; tell what ended that."""
    while (number := pipe.recv()) is not None:
        owner = Owner(bootstrap, "confluent", names)
        committed = 0
        try:
            while True:
                owner.commit(b"%d zombie %d" % (number, committed), 50)
                committed += 1
                if committed == 1:
                    pipe.send("going")
        except (Fenced, Unknown) as error:
            pipe.send((type(error).__name__, committed))
        owner.close()


@pytest.mark.kafka
@pytest.mark.parametrize("rounds", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_a_paused_zombie_commits_nothing_and_disturbs_nobody_after_a_new_owner_took_over(
    kafka: str, admin: KafkaAdmin, topic_prefix: str, rounds: int
) -> None:
    names = f"{topic_prefix}.out", f"{topic_prefix}.journal"
    admin.create([TopicSpec(name, 1) for name in names])
    mine, its = multiprocessing.Pipe()
    zombie = multiprocessing.get_context("spawn").Process(
        target=commit_until_fenced, args=(kafka, names, its), daemon=True
    )
    zombie.start()
    rng = random.Random(rounds)
    committed: list[tuple[int, int]] = []
    for number in range(rounds):
        mine.send(number)
        assert mine.poll(60)
        assert mine.recv() == "going"
        time.sleep(rng.uniform(0, 0.05))  # anywhere in a transaction
        os.kill(zombie.pid or 0, signal.SIGSTOP)
        owner = Owner(kafka, rng.choice(["confluent", "kafka-python"]), names)
        for count in range(3):
            owner.commit(b"%d owner %d" % (number, count), 50)
        os.kill(zombie.pid or 0, signal.SIGCONT)
        assert mine.poll(60)
        ended, count = mine.recv()
        assert ended in ("Fenced", "Unknown")
        committed.append((number, count))
        for count in range(3, 6):  # the zombie has sent all it had, and disturbs nobody
            owner.commit(b"%d owner %d" % (number, count), 50)
        owner.close()
    mine.send(None)
    zombie.join(30)
    entries = everything(admin, names[1])
    assert everything(admin, names[0]) == [entry for entry in entries for _ in range(50)]
    for number, count in committed:
        of_round = [entry for entry in entries if entry.startswith(b"%d " % number)]
        told = [b"%d zombie %d" % (number, index) for index in range(count)]
        perhaps = b"%d zombie %d" % (number, count)  # the answer to its commit was lost in the pause
        owners = [b"%d owner %d" % (number, index) for index in range(6)]
        assert of_round in ([*told, *owners], [*told, perhaps, *owners])


# A change of the client


@pytest.mark.kafka
def test_an_app_changes_its_client_between_runs_with_nothing_noticed(apps: Apps, kafka: str) -> None:
    app = apps(kafka, **{"checkpoint.interval_s": 3600})  # all is redone, so that every digest is compared
    stream = events(1600)
    for number, client in enumerate(("kafka-python", "confluent", "kafka-python", "confluent")):
        app.produce(stream[400 * number : 400 * (number + 1)])
        process = app.serve(**{"log.client": client})
        app.wait(process, 400 * number + 200 + 50 * number)
        assert f'"event":"kafka.client","client":"{client}"' in app.log
        process.kill()
        process.wait()
    process = app.serve(**{"log.client": "kafka-python"})
    app.wait(process, 1600)
    app.stop(process)
    assert answers(app.predictions()) == plain_loop(logistic(), stream)


# The client's queue


@pytest.mark.kafka
@pytest.mark.parametrize("client", ["kafka-python", "confluent"])
def test_any_polls_in_any_order_give_the_records_at_their_positions(
    kafka: str, admin: KafkaAdmin, topic_prefix: str, client: ClientName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        confluent_consumer, "_HELD", 300
    )  # a partition is taken from librdkafka, and given back
    topic = f"{topic_prefix}.events"
    admin.create([TopicSpec(topic, 3)])
    sizes = 4000, 1500, 10
    rows = [
        ProducerRecord(None, b"%d %d" % (partition, number), (), partition)
        for partition, size in enumerate(sizes)
        for number in range(size)
    ]
    admin.append(topic, rows)
    reader = RecordReader(RealEnv(), new_client(RealEnv(), kafka, {}, client), wait_ms=20)
    rng = random.Random(7)
    positions: Positions = {(topic, index): 0 for index in range(3)}
    empty = 0
    for _ in range(200):
        if rng.random() < 0.1:
            place = topic, rng.randrange(3)
            positions[place] = rng.randrange(sizes[place[1]])
        asked = {place: at for place, at in positions.items() if rng.random() < 0.8}
        for place, records in reader.poll(asked, rng.choice([1, 50, 1000]), MB, 0.05).records.items():
            first = positions[place]
            assert [record.offset for record in records] == [*range(first, first + len(records))]
            assert [record.value for record in records] == [b"%d %d" % (place[1], r.offset) for r in records]
            positions[place] = first + len(records)
        behind = [place for place, at in asked.items() if at < sizes[place[1]]]
        empty = 0 if not behind or any(positions[place] > asked[place] for place in behind) else empty + 1
        assert empty < 100, "partitions that are behind give nothing"
    reader.close()


@pytest.mark.kafka
def test_a_header_that_librdkafka_cannot_read_is_read_by_kafka_python(
    kafka: str, admin: KafkaAdmin, topic_prefix: str
) -> None:
    topic = f"{topic_prefix}.events"
    admin.create([TopicSpec(topic, 1)])
    odd: Headers = ((header_name(b"\xff\xfe"), b"1"), ("trace", None), ("m\u00fcll", b""))
    rows = [ProducerRecord(b"k", b"%d" % n, odd if n == 3000 else (("trace", b"2"),), 0) for n in range(3500)]
    admin.append(topic, rows)
    reader = RecordReader(RealEnv(), new_client(RealEnv(), kafka, {}, "confluent"), wait_ms=20)
    found = []
    deadline_s = time.monotonic() + 60
    while len(found) < 3500 and time.monotonic() < deadline_s:
        found += reader.poll({(topic, 0): len(found)}, 500, MB, 0.5).records.get((topic, 0), [])
    reader.close()
    assert [(r.key, r.value, r.headers) for r in found] == [(r.key, r.value, r.headers) for r in rows]


@pytest.mark.kafka
def test_a_header_that_librdkafka_cannot_send_is_sent_by_kafka_python_at_the_next_opening(
    kafka: str, admin: KafkaAdmin, topic_prefix: str
) -> None:
    topic = f"{topic_prefix}.out"
    admin.create([TopicSpec(topic, 1)])
    client = new_client(RealEnv(), kafka, {}, "confluent")
    cluster = Cluster(RealEnv(), client)
    names = [header_name(b"\xff"), "a\0b", "m\u00fcll"]
    rows = [ProducerRecord(None, b"v", ((name, b"1"),)) for name in names]
    writer = Transactions(client, cluster, topic_prefix, {topic: MB})
    with pytest.raises(Unknown, match="librdkafka cannot send the header"):
        writer.commit([((topic, 0), rows)])
    writer = Transactions(client, cluster, topic_prefix, {topic: MB})
    writer.commit([((topic, 0), rows)])
    writer.close()
    cluster.close()
    records = admin.poll({(topic, 0): 0}, 10, 5).records[topic, 0]
    assert [record.headers for record in records] == [row.headers for row in rows]


# Options and errors


def test_every_option_with_a_counterpart_is_taken_by_librdkafka() -> None:
    texts = {
        "client_dns_lookup": "use_all_dns_ips",
        "compression_type": "zstd",
        "fetch_max_bytes": "60000000",
        "max_request_size": "2000000",
        "receive_message_max_bytes": "100000000",
        "sasl_mechanism": "PLAIN",
        "security_protocol": "SSL",
        "ssl_check_hostname": "false",
        "transaction_timeout_ms": "20000",
        "check_crcs": "false",
    }
    for argument in _NAMES:
        if argument.startswith("ssl_") and argument != "ssl_check_hostname":
            continue  # files, which librdkafka reads at once
        text = texts.get(argument, "9000" if argument.endswith(("_ms", "_bytes", "_size")) else "text")
        arguments = client_options({argument.replace("_", "."): text})
        base = {"bootstrap.servers": "127.0.0.1:1"}
        Producer({**base, **librdkafka_options(arguments, is_producer=True), "log_level": 0})
        Consumer(
            {**base, **librdkafka_options(arguments, is_producer=False), "group.id": "x", "log_level": 0}
        )


def test_options_keep_their_names_and_meaning() -> None:
    options = {
        "security.protocol": "sasl_ssl",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "me",
        "sasl.password": "hunter2",
        "ssl.ca.location": "ca.pem",
        "ssl.check.hostname": "false",
        "compression.type": "none",
        "fetch.max.wait.ms": "7",
        "session.timeout.ms": "30000",
    }
    arguments = client_options(options)
    connection = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "me",
        "sasl.password": "hunter2",
        "ssl.ca.location": "ca.pem",
        "ssl.endpoint.identification.algorithm": "none",
    }
    assert librdkafka_options(arguments, is_producer=True) == {**connection, "compression.type": "none"}
    assert librdkafka_options(arguments, is_producer=False) == {**connection, "fetch.wait.max.ms": 7}


def test_an_option_of_a_connection_that_librdkafka_lacks_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"socks5\.proxy: confluent-kafka has no such option"):
        new_client(RealEnv(), "127.0.0.1:1", {"socks5.proxy": "socks5://h:1"}, "confluent")


def test_confluent_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_kafka, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'needs the package confluent-kafka.*"streamlearn\[fast\]"'):
        new_client(RealEnv(), "127.0.0.1:1", {}, "confluent")


@pytest.mark.parametrize(
    ("number", "code", "retriable"),
    [
        (KafkaError._FENCED, Code.PRODUCER_FENCED, False),
        (KafkaError.INVALID_PRODUCER_EPOCH, Code.INVALID_PRODUCER_EPOCH, False),
        (KafkaError._AUTO_OFFSET_RESET, Code.OFFSET_OUT_OF_RANGE, False),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, Code.TOPIC_DENIED, False),
        (KafkaError.NOT_ENOUGH_REPLICAS, 19, True),
        (KafkaError._TRANSPORT, Code.NO_ANSWER, True),
        (KafkaError._TIMED_OUT, Code.NO_ANSWER, True),
        (KafkaError._INVALID_ARG, Code.NO_ANSWER, False),
    ],
)
def test_an_error_means_what_it_means_from_kafka_python(number: int, code: int, retriable: bool) -> None:
    error = mapped(KafkaError(number))
    assert (error.code, error.retriable) == (code, retriable)
    assert error.fenced == (code in (Code.PRODUCER_FENCED, Code.INVALID_PRODUCER_EPOCH))


def test_only_a_connection_that_may_have_carried_a_request_counts_as_broken() -> None:
    def failures(text: str) -> int:
        said = LibraryLog()
        said.log(10, "%s [%s] %s", "FAIL", "rdkafka#producer-1", text)
        return said.failures

    assert failures("TxnCoordinator/1: Disconnected (after 505ms in state UP) (_TRANSPORT)") == 1
    assert failures("TxnCoordinator/1: Disconnected") == 1
    assert failures("TxnCoordinator/1: nodename change (after 505ms in state TRY_CONNECT)") == 0


def test_the_reason_of_a_transaction_that_failed_is_taken_from_its_line() -> None:
    said = LibraryLog()
    line: Any = (40, "%s [%s] %s", "TXNERR", "rdkafka#producer-1")
    said.log(*line, "Current transaction failed: must be aborted (TOPIC_AUTHORIZATION_FAILED)")
    assert said.of_transaction is not None
    assert mapped(said.of_transaction).code == Code.TOPIC_DENIED
    assert isinstance(mapped(said.of_transaction), ClientError)
