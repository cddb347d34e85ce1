"""What is true of Kafka only: transactions, fencing, static members, gaps, options, the checkpoint topic.

What every backend promises is in `test_log_conformance.py`.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kafka import KafkaProducer

from streamlearn.core.journal import Entry
from streamlearn.core.records import Headers, Output, Range
from streamlearn.env import RealEnv
from streamlearn.errors import BadCheckpoint, ConfigError, Fenced, Stop, Unknown, Unreachable
from streamlearn.log.internal_topics import wanted_topics
from streamlearn.log.kafka import ClientName
from streamlearn.log.kafka import cluster as kafka_cluster
from streamlearn.log.kafka import journal as kafka_journal
from streamlearn.log.kafka import store as kafka_store
from streamlearn.log.kafka import writer as kafka_writer
from streamlearn.log.kafka.kafka_python.options import client_options
from streamlearn.log.kafka.log import KafkaAdmin, KafkaLog, TopicStore
from streamlearn.log.port import ProducerRecord, TopicNames, TopicSpec

ONE_MB = 1 << 20
NOBODY = "127.0.0.1:1"


def service(app: str, replica: str = "") -> TopicNames:
    roles = {role: f"{app}.{role}" for role in ("predictions", "dlq", "journal", "checkpoints")}
    return TopicNames(app, replica, (f"{app}.events",), roles)


@pytest.fixture
def names(kafka: str, topic_prefix: str) -> TopicNames:
    return service(topic_prefix)


@pytest.fixture
def admin(kafka: str, names: TopicNames) -> Iterator[KafkaAdmin]:
    admin = KafkaAdmin(RealEnv(), kafka, {})
    admin.create([TopicSpec(names.inputs[0], 2), *wanted_topics(names, 2)])
    yield admin
    admin.close()


@pytest.fixture
def log(kafka: str, names: TopicNames, admin: KafkaAdmin, kafka_client: ClientName) -> Iterator[KafkaLog]:
    log = KafkaLog(RealEnv(), names, kafka, {}, client=kafka_client)
    yield log
    log.close()


def entry(seq: int) -> Entry:
    return Entry(seq=seq, era=0, digest="0" * 64)


def prediction(value: bytes | None, key: bytes | None = None, headers: Headers = ()) -> Output:
    return Output("predictions", 0, key, value, headers)


PAUSED = """
from kafka import KafkaProducer
from kafka.errors import KafkaError
producer = KafkaProducer(bootstrap_servers="{kafka}", transactional_id="{lock}", api_version=(2, 4))
producer.init_transactions()
producer.begin_transaction()
for topic in {topics}:
    producer.send(topic, b"never", partition=0)
producer.flush()
print("open", flush=True)
import time
time.sleep(2.0)
try:
    producer.commit_transaction()
except KafkaError as error:
    print("fenced", error, flush=True)
"""
"""An owner in the middle of a transaction."""


def transactional(kafka: str, transactional_id: str) -> Any:
    producer = KafkaProducer(
        bootstrap_servers=kafka,
        transactional_id=transactional_id,
        api_version=(2, 4),
        retry_backoff_ms=5,
        linger_ms=1000,
    )
    producer.init_transactions()
    return producer


def abort(producer: Any, topic: str, times: int) -> None:
    for _ in range(times):
        producer.begin_transaction()
        producer.send(topic, b"aborted", partition=0)
        producer.flush()
        producer.abort_transaction()


def committed(admin: KafkaAdmin, topic: str) -> list[tuple[bytes | None, bytes | None, Headers]]:
    info = admin.topics([topic])[topic]
    positions = {(topic, index): start for index, start in enumerate(info.start)}
    found = []
    while True:
        fetched = admin.poll(positions, 1000, 0.5)
        for at, records in fetched.records.items():
            found += [(record.key, record.value, record.headers) for record in records]
            positions[at] = records[-1].offset + 1
        if not fetched.records and not fetched.behind:
            return found


def wait_for_shard(log: KafkaLog) -> None:
    for _ in range(30):
        if 0 in log.owned(1.0):
            return
    pytest.fail("the election gave shard 0 to nobody")


@pytest.mark.kafka
def test_what_a_dead_owner_left_open_is_never_visible(
    kafka: str, names: TopicNames, admin: KafkaAdmin, log: KafkaLog
) -> None:
    dead = transactional(kafka, f"{names.lock}.0")
    dead.begin_transaction()
    dead.send(names.roles["predictions"], b"never", partition=0)
    dead.send(names.roles["journal"], b"never", partition=0)
    dead.flush()
    shard = log.open(0)
    assert shard.end is None
    shard.publish(entry(0), [prediction(b"seen")], {})
    assert committed(admin, names.roles["predictions"]) == [(None, b"seen", ())]
    shard.close()


@pytest.mark.kafka
def test_the_last_entry_is_found_behind_forty_aborted_transactions(
    kafka: str, names: TopicNames, admin: KafkaAdmin, log: KafkaLog
) -> None:
    shard = log.open(0)
    shard.publish(entry(0), [], {})
    shard.close()
    abort(transactional(kafka, f"{names.lock}.0"), names.roles["journal"], 40)
    shard = log.open(0)
    assert shard.end == entry(0)
    shard.publish(entry(1), [], {})
    assert list(shard.entries(-1)) == [entry(0), entry(1)]
    shard.close()


@pytest.mark.kafka
def test_an_open_transaction_of_a_stranger_in_the_journal_stops_and_names_it(
    kafka: str, names: TopicNames, admin: KafkaAdmin, log: KafkaLog
) -> None:
    stranger = transactional(kafka, f"stranger.{names.app}")
    stranger.begin_transaction()
    stranger.send(names.roles["journal"], b"hides what follows", partition=0)
    stranger.flush()
    with pytest.raises(Stop, match=r"open transaction that is not ours.*producer id \d+"):
        log.open(0)
    stranger.abort_transaction()
    log.open(0).close()


def open_newer(kafka: str, names: TopicNames) -> Any:
    """A newer owner, in the middle of a transaction."""
    newer = transactional(kafka, f"{names.lock}.0")
    newer.begin_transaction()
    newer.send(names.roles["journal"], b"of the newer owner", partition=0)
    newer.flush()
    return newer


@pytest.mark.kafka
def test_an_open_transaction_of_a_newer_owner_fences_and_accuses_nobody(
    kafka: str, names: TopicNames, admin: KafkaAdmin, log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = kafka_writer.Transactions.claim
    newer: list[Any] = []

    def paused(writer: kafka_writer.Transactions, journal: tuple[str, int]) -> int:
        """As a process that was stopped between its fence and its claim."""
        newer.append(open_newer(kafka, names))
        return claim(writer, journal)

    monkeypatch.setattr(kafka_writer.Transactions, "claim", paused)
    with pytest.raises(
        Fenced, match=r"taken over while it was opened: producer id \d+, epoch 1; ours was \d+, 0"
    ):
        log.open(0)
    newer[0].abort_transaction()


@pytest.mark.kafka
def test_what_a_newer_owner_does_after_the_claim_accuses_nobody_either(
    kafka: str, names: TopicNames, admin: KafkaAdmin, log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_back = kafka_journal.Journal._read_back
    newer: list[Any] = []

    def paused(journal: kafka_journal.Journal, claim: int) -> tuple[int, int]:
        newer.append(open_newer(kafka, names))
        return read_back(journal, claim)

    monkeypatch.setattr(kafka_journal.Journal, "_read_back", paused)
    shard = log.open(0)
    assert shard.end is None
    with pytest.raises(Fenced):
        shard.publish(entry(0), [], {})
    shard.close()
    newer[0].abort_transaction()


@pytest.mark.kafka
def test_a_paused_owner_in_the_middle_of_a_transaction_delays_and_hides_nothing(
    kafka: str, names: TopicNames, admin: KafkaAdmin, log: KafkaLog
) -> None:
    first = log.open(0)
    first.publish(entry(0), [prediction(b"0")], {})
    first.close()
    code = PAUSED.format(kafka=kafka, lock=f"{names.lock}.0", topics=list(names.roles.values()))
    paused = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert paused.stdout is not None
        assert paused.stdout.readline() == "open\n"
        paused.send_signal(signal.SIGSTOP)
        shard = log.open(0)
        assert shard.end == entry(0)
        shard.publish(entry(1), [prediction(b"1")], {})
        paused.send_signal(signal.SIGCONT)
        assert "fenced" in paused.communicate(timeout=30)[0]
    finally:
        paused.kill()
        paused.wait()
    assert committed(admin, names.roles["predictions"]) == [(None, b"0", ()), (None, b"1", ())]
    shard.close()
    shard = log.open(0)
    assert shard.end == entry(1)
    shard.close()


@pytest.mark.kafka
def test_many_claims_in_a_row_are_passed_over_by_the_end_the_entries_and_the_trim(
    names: TopicNames, admin: KafkaAdmin, log: KafkaLog
) -> None:
    claims = []
    for seq in range(6):
        for _ in range(5 * seq):
            shard = log.open(0)
            claims.append(shard.claim)
            shard.close()
        shard = log.open(0)
        claims.append(shard.claim)
        assert shard.end == (entry(seq - 1) if seq else None)
        shard.publish(entry(seq), [], {})
        assert list(shard.entries(-1)) == [entry(n) for n in range(seq + 1)]
        shard.close()
    assert claims == sorted(set(claims)), "a claim is a number that no other owner has"
    shard = log.open(0)
    shard.trim(4)
    first = shard.first_seq()
    assert 0 < first <= 4
    assert list(shard.entries(first - 1)) == [entry(n) for n in range(first, 6)]
    shard.publish(entry(6), [], {})
    shard.close()
    for _ in range(20):
        log.open(0).close()
    shard = log.open(0)
    assert shard.end == entry(6)
    shard.trim(100)
    assert shard.first_seq() == 6, "the last entry is never trimmed"
    shard.close()


@pytest.mark.kafka
def test_who_cannot_prove_to_be_the_newest_owner_is_not_taken_for_it(
    names: TopicNames, admin: KafkaAdmin, log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = log.open(0)

    def away(*_: object) -> tuple[int, int]:
        raise Unreachable("no broker answers")

    monkeypatch.setattr(kafka_cluster.Cluster, "transaction_owner", away)
    assert shard.newer_owner() == "unknown: no broker answers"

    def denied(*_: object) -> tuple[int, int]:
        raise ConfigError("give this principal the right")

    monkeypatch.setattr(kafka_cluster.Cluster, "transaction_owner", denied)
    with pytest.raises(ConfigError, match="the right"):  # else it would be fenced, and try again, for ever
        shard.newer_owner()
    shard.close()


@pytest.mark.kafka
def test_a_journal_that_something_else_writes_to_stops(
    names: TopicNames, admin: KafkaAdmin, log: KafkaLog
) -> None:
    admin.append(names.roles["journal"], [ProducerRecord(None, b"not an entry", (), 0)])
    with pytest.raises(Stop, match="is not an entry"):
        log.open(0)


@pytest.mark.kafka
def test_gaps_of_aborted_records_are_neither_read_nor_waited_for(
    kafka: str, names: TopicNames, admin: KafkaAdmin, log: KafkaLog
) -> None:
    topic = names.inputs[0]
    admin.append(topic, [ProducerRecord(None, b"a", (), 0)])
    producer = transactional(kafka, f"source.{names.app}")
    abort(producer, topic, 10)
    admin.append(topic, [ProducerRecord(None, b"b", (), 0)])
    abort(producer, topic, 10)
    shard = log.open(0)
    fetched = shard.poll({(topic, 0): 0}, 10, ONE_MB, 30.0)
    assert [record.value for record in fetched.records[topic, 0]] == [b"a", b"b"]
    end = log.topics()[topic].end[0]
    assert [record.value for record in shard.read(Range(topic, 0, 0, end))] == [b"a", b"b"]
    assert [record.value for record in shard.read(Range(topic, 0, 1, end))] == [b"b"]
    assert list(shard.read(Range(topic, 0, 1, fetched.records[topic, 0][1].offset))) == []
    shard.close()


@pytest.mark.kafka
def test_a_quiet_partition_does_not_hold_up_the_fetches_of_a_backlog(
    names: TopicNames, admin: KafkaAdmin, log: KafkaLog
) -> None:
    """A fetch of the quiet one alone would wait at the broker, and no other goes out meanwhile."""
    topic, count = names.inputs[0], 20_000
    admin.append(topic, [ProducerRecord(None, b"x" * 400, (), 0)] * count)
    shard = log.open(0)
    positions = {(topic, 0): 0, (topic, 1): 0}
    empty = 0
    while positions[topic, 0] < count:
        records = shard.poll(positions, 500, ONE_MB, 0.1).records.get((topic, 0), [])
        empty += not records
        positions[topic, 0] += len(records)
    shard.close()
    assert empty <= 5, "the first fetches, and one of a machine that was held up"


@pytest.mark.kafka
def test_nulls_are_published_as_nulls(names: TopicNames, admin: KafkaAdmin, log: KafkaLog) -> None:
    shard = log.open(0)
    outputs = [prediction(None), prediction(b"", b"", (("a", None), ("b", b""))), prediction(None, b"k")]
    shard.publish(entry(0), outputs, {})
    assert committed(admin, names.roles["predictions"]) == [
        (None, None, ()),
        (b"", b"", (("a", None), ("b", b""))),
        (b"k", None, ()),
    ]
    shard.close()


@pytest.mark.kafka
def test_a_record_that_is_too_large_is_refused_before_anything_is_begun(
    names: TopicNames, admin: KafkaAdmin, log: KafkaLog
) -> None:
    shard = log.open(0)
    with pytest.raises(Stop, match=r"max\.message\.bytes"):
        shard.publish(entry(0), [prediction(b"small"), prediction(bytes(2 * ONE_MB))], {})
    shard.publish(entry(0), [prediction(b"after")], {})
    assert committed(admin, names.roles["predictions"]) == [(None, b"after", ())]
    shard.close()


@pytest.mark.kafka
def test_a_commit_without_an_answer_is_unknown_until_the_journal_tells(
    names: TopicNames,
    admin: KafkaAdmin,
    log: KafkaLog,
    kafka_client: ClientName,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if kafka_client == "confluent":
        pytest.skip(
            "librdkafka may commit faster than no time; test_kafka_outage.py stops the broker instead"
        )
    shard = log.open(0)
    shard.publish(entry(0), [prediction(b"0")], {})
    with monkeypatch.context() as impatient:
        impatient.setattr(kafka_writer, "_COMMIT_S", 0)
        with pytest.raises(Unknown):
            shard.publish(entry(1), [prediction(b"1")], {})
        with pytest.raises(Unknown):
            shard.publish(entry(1), [prediction(b"1 again on a dead shard")], {})
    shard.close()
    shard = log.open(0)
    assert shard.end in (entry(0), entry(1))
    told = [(None, b"0", ()), (None, b"1", ())][: shard.end.seq + 1]
    assert committed(admin, names.roles["predictions"]) == told
    shard.close()


@pytest.mark.kafka
def test_positions_are_reported_to_the_group_and_seen_by_the_next_owner(
    kafka: str, names: TopicNames, admin: KafkaAdmin
) -> None:
    first = KafkaLog(RealEnv(), names, kafka, {})
    wait_for_shard(first)
    shard = first.open(0)
    assert shard.seen == {}
    shard.publish(entry(0), [], {(names.inputs[0], 1): 7})
    shard.close()
    first.close()
    second = KafkaLog(RealEnv(), names, kafka, {})
    shard = second.open(0)
    assert shard.seen == {(names.inputs[0], 1): 7}
    shard.close()
    second.close()


@pytest.mark.kafka
def test_a_replica_restarts_into_its_own_place_and_tells_whom_it_replaced(
    kafka: str, admin: KafkaAdmin, topic_prefix: str
) -> None:
    names = service(topic_prefix, replica="pod-0")
    old = KafkaLog(RealEnv(), names, kafka, {})
    wait_for_shard(old)
    new = KafkaLog(RealEnv(), names, kafka, {})
    wait_for_shard(new)
    with pytest.raises(Stop, match="pod-0"):
        for _ in range(300):
            old.owned(0.1)
    old.close()
    assert new.owned(0) == {0}, "the replaced one took its successor out of the group"
    time.sleep(1.5)  # its next heartbeat would tell
    assert new.owned(0) == {0}
    new.close()


@pytest.mark.kafka
def test_a_replica_that_stops_gracefully_leaves_its_shard_to_another_at_once(
    kafka: str, admin: KafkaAdmin, topic_prefix: str
) -> None:
    first = KafkaLog(RealEnv(), service(topic_prefix, "pod-0"), kafka, {"session.timeout.ms": "30000"})
    wait_for_shard(first)
    first.close()
    second = KafkaLog(RealEnv(), service(topic_prefix, "pod-1"), kafka, {})
    assert second.owned(10.0) == {0}, "it waits for a session timeout"
    second.close()


def test_a_broker_that_is_not_there_is_named_with_the_network_error() -> None:
    with pytest.raises(Unreachable, match=f"{NOBODY}.*ECONNREFUSED"):
        KafkaLog(RealEnv(), service("app"), NOBODY, {"bootstrap.timeout.ms": "200"})


@pytest.mark.kafka
def test_a_missing_topic_is_named(kafka: str, names: TopicNames) -> None:
    log = KafkaLog(RealEnv(), names, kafka, {})
    with pytest.raises(ConfigError, match=names.roles["journal"]):
        log.owned(0.1)
    log.close()


@pytest.mark.kafka
def test_a_journal_that_kafka_would_delete_is_refused(
    kafka: str, names: TopicNames, admin: KafkaAdmin
) -> None:
    vanishing = names._replace(
        app=f"{names.app}-2", roles={**names.roles, "journal": f"{names.app}.vanishing"}
    )
    admin.create([TopicSpec(vanishing.roles["journal"], 1, {"cleanup.policy": "delete"})])
    log = KafkaLog(RealEnv(), vanishing, kafka, {})
    with pytest.raises(ConfigError, match=r"retention\.ms = -1"):
        log.open(0)
    log.close()


def test_options_have_kafkas_names_and_the_types_of_the_client() -> None:
    options = {
        "security.protocol": "SSL",
        "ssl.ca.location": "ca.pem",
        "ssl.check.hostname": "false",
        "session.timeout.ms": "9000",
        "sasl.username": "me",
        "send.buffer.bytes": "1024",
    }
    assert client_options(options) == {
        "security_protocol": "SSL",
        "ssl_cafile": "ca.pem",
        "ssl_check_hostname": False,
        "session_timeout_ms": 9000,
        "sasl_plain_username": "me",
        "send_buffer_bytes": 1024,
    }


@pytest.mark.parametrize(
    ("name", "value", "answer"),
    [
        ("security.protcol", "SSL", "did you mean security.protocol"),
        ("acks", "1", "sets this itself"),
        ("session.timeout.ms", "soon", "whole number"),
        ("ssl.check.hostname", "maybe", "true or false"),
        ("value.serializer", "x", "no such client option"),
    ],
)
def test_a_wrong_option_is_refused_by_name(name: str, value: str, answer: str) -> None:
    with pytest.raises(ConfigError, match=answer) as refused:
        client_options({name: value})
    assert name in str(refused.value)


# The checkpoint topic


@pytest.fixture
def store(kafka: str, names: TopicNames, admin: KafkaAdmin) -> Iterator[TopicStore]:
    store = TopicStore(RealEnv(), kafka, {}, names.roles["checkpoints"], 0)
    yield store
    store.close()


def big(seed: int) -> bytes:
    return bytes([seed]) * (kafka_store.CHUNK_BYTES * 2 + 17)


@pytest.mark.kafka
def test_another_replica_finds_every_blob_and_no_forgotten_one(
    kafka: str, names: TopicNames, store: TopicStore
) -> None:
    assert store.names() == []
    places = {name: store.write(name, data) for name, data in (("1", big(1)), ("2", b""), ("3", big(3)))}
    store.forget({"1": places["1"], "2": ""})
    places["4"] = store.write("4", big(4))
    other = TopicStore(RealEnv(), kafka, {}, names.roles["checkpoints"], 0)
    assert other.names() == ["3", "4"]
    assert (other.read("3"), other.read("4", places["4"])) == (big(3), big(4))
    with pytest.raises(BadCheckpoint):
        other.read("1")
    other.close()


@pytest.mark.kafka
def test_chunks_of_a_forgotten_blob_get_tombstones(
    names: TopicNames, admin: KafkaAdmin, store: TopicStore
) -> None:
    place = store.write("1", big(1))
    store.write("2", b"two")
    store.forget({"1": ""})
    rows = [(key, value) for key, value, _ in committed(admin, names.roles["checkpoints"])]
    assert [key for key, value in rows if value is None] == [b"1.0", b"1.1", b"1.2"]
    assert rows[-1][0] == b"catalog"
    assert place == "0-3/3"


@pytest.mark.kafka
def test_a_blob_is_read_where_the_journal_says_although_the_catalog_was_overwritten(
    names: TopicNames, admin: KafkaAdmin, store: TopicStore
) -> None:
    where = store.write("1", big(1))
    admin.append(
        names.roles["checkpoints"], [ProducerRecord(b"catalog", b'{"blobs": [], "format": 2}', (), 0)]
    )
    assert store.names() == []
    assert store.read("1", where) == big(1)
    store.write("2", b"two")
    store.forget({"1": where})
    deleted = {key for key, value, _ in committed(admin, names.roles["checkpoints"]) if value is None}
    assert deleted == {b"1.0", b"1.1", b"1.2"}


@pytest.mark.kafka
def test_a_writer_that_dies_before_its_catalog_leaves_what_can_be_swept(
    kafka: str, names: TopicNames, admin: KafkaAdmin, store: TopicStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("1", big(1))
    dying = TopicStore(RealEnv(), kafka, {}, names.roles["checkpoints"], 0)
    monkeypatch.setattr(dying, "_append_catalog", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dying.write("2", big(2))
    dying.close()
    assert store.names() == ["1", "2"]
    assert store.read("1") == big(1)
    store.write("3", b"three")
    assert store.names() == ["1", "2", "3"]
    store.forget({"2": ""})
    assert store.names() == ["1", "3"]
    deleted = {key for key, value, _ in committed(admin, names.roles["checkpoints"]) if value is None}
    assert deleted == {b"2.0", b"2.1", b"2.2"}


@pytest.mark.kafka
def test_a_topic_of_checkpoints_that_is_gone_is_told_at_once(kafka: str, topic_prefix: str) -> None:
    store = TopicStore(RealEnv(), kafka, {}, f"{topic_prefix}.gone", 0)
    with pytest.raises(ConfigError, match=r"gone-0 for checkpoints.*streamlearn topics ensure"):
        store.names()
    store.close()


@pytest.mark.kafka
def test_junk_in_place_of_a_catalog_is_passed_over(
    names: TopicNames, admin: KafkaAdmin, store: TopicStore
) -> None:
    store.write("1", b"one")
    for junk in (b"{", b"[]", b'{"blobs": 3}', b"[" * 100_000):
        admin.append(names.roles["checkpoints"], [ProducerRecord(b"catalog", junk, (), 0)])
        assert store.names() == ["1"]
    assert store.read("1") == b"one"
    store.write("2", b"two")
    assert store.names() == ["1", "2"]


@pytest.mark.kafka
@pytest.mark.parametrize("where", ["", "0-3/3"])
def test_a_blob_that_is_not_whole_is_refused(
    store: TopicStore, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    with monkeypatch.context() as damage:
        damage.setattr(kafka_store, "_key", lambda name, number: f"{name}.0".encode())
        store.write("1", big(1))
    store.write("2", big(2))
    assert store.names() == ["1", "2"]
    assert store.read("2") == big(2)
    with pytest.raises(BadCheckpoint, match=r"1 in .*2 of its 3 chunks are not there"):
        store.read("1", where)
