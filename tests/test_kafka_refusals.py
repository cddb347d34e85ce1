"""What a broker refuses for good ends the service with the broker's word; it is never retried as unknown.

Real brokers refuse here: by the settings of a topic, by the clock of a host, and by a right taken away.
"""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ConfigResource,
    ConfigResourceType,
    ResourcePattern,
    ResourceType,
)
from kafka.errors import InvalidTimestampError, KafkaError, NotEnoughReplicasError, PolicyViolationError
from structlog.testing import capture_logs

from streamlearn.core.journal import Entry
from streamlearn.core.records import Output
from streamlearn.env import RealEnv
from streamlearn.errors import CheckFailed, ConfigError, Fenced, Stop, Unknown
from streamlearn.log.internal_topics import wanted_topics
from streamlearn.log.kafka import ClientName
from streamlearn.log.kafka.errors import refusal
from streamlearn.log.kafka.kafka_python.connect import mapped
from streamlearn.log.kafka.log import KafkaAdmin, KafkaLog
from streamlearn.log.kafka.topics import _check_journal
from streamlearn.log.port import ProducerRecord, TopicNames, TopicSpec
from tests.command import Command, command
from tests.service_process import Apps, apps

__all__ = ["apps", "command"]

SCRIPT = Path(__file__).parent.parent / "scripts" / "kafka"
SETTLE_S = 0.5
"""Until a broker that has taken a setting or a right goes by it."""

CLOCK = """
import time
real = time.time
time.time = lambda: real() + {seconds}
open(__file__ + ".used", "w").close()
"""


def entry(seq: int) -> Entry:
    return Entry(seq=seq, era=0, digest="0" * 64)


def predictions(count: int, size: int = 290) -> list[Output]:
    return [Output("predictions", 0, None, b"%-*d" % (size, number)) for number in range(count)]


def service(app: str) -> TopicNames:
    roles = {role: f"{app}.{role}" for role in ("predictions", "dlq", "journal", "checkpoints")}
    return TopicNames(app, "", (f"{app}.events",), roles)


def made(bootstrap: str, names: TopicNames) -> KafkaAdmin:
    admin = KafkaAdmin(RealEnv(), bootstrap, {})
    admin.create([TopicSpec(names.inputs[0], 1), *wanted_topics(names, 1)])
    return admin


@pytest.fixture
def names(kafka: str, topic_prefix: str) -> Iterator[TopicNames]:
    names = service(topic_prefix)
    admin = made(kafka, names)
    yield names
    admin.close()


@pytest.fixture
def log(kafka: str, names: TopicNames, kafka_client: ClientName) -> Iterator[KafkaLog]:
    log = KafkaLog(RealEnv(), names, kafka, {}, client=kafka_client)
    yield log
    log.close()


def alter(bootstrap: str, topic: str, **settings: str) -> None:
    client = KafkaAdminClient(bootstrap_servers=bootstrap)
    wanted = {name.replace("_", "."): value for name, value in settings.items()}
    done = client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, wanted)])
    assert done == {"topic": {topic: "OK"}}
    client.close()
    time.sleep(SETTLE_S)


def values(bootstrap: str, topic: str) -> list[bytes | None]:
    admin = KafkaAdmin(RealEnv(), bootstrap, {})
    position, found = 0, []
    while records := admin.poll({(topic, 0): position}, 10_000, 0.5).records:
        found += [record.value for record in records[topic, 0]]
        position = records[topic, 0][-1].offset + 1
    admin.close()
    return found


@pytest.mark.kafka
def test_batches_fit_the_smallest_topic(kafka: str, names: TopicNames, log: KafkaLog) -> None:
    alter(kafka, names.roles["predictions"], max_message_bytes="20000")
    shard = log.open(0)
    shard.publish(entry(0), predictions(1500), {})
    assert len(values(kafka, names.roles["predictions"])) == 1500
    shard.close()


@pytest.mark.kafka
def test_a_backlog_goes_into_a_topic_of_small_batches(kafka: str, topic_prefix: str, apps: Apps) -> None:
    admin = KafkaAdmin(RealEnv(), kafka, {})
    small = {"max.message.bytes": "20000", "message.timestamp.type": "LogAppendTime"}
    admin.create([TopicSpec(f"{topic_prefix}.predictions", 1, small)])
    admin.close()
    app = apps(kafka)
    app.produce(events("e", 1500))
    process = app.serve()
    app.wait(process, 1500)
    app.stop(process)
    assert [prediction["id"] for prediction in app.predictions()] == [f"e{n}" for n in range(1500)]


@pytest.mark.kafka
def test_rows_are_appended_once_to_a_topic_of_small_batches(kafka: str, topic_prefix: str) -> None:
    admin = KafkaAdmin(RealEnv(), kafka, {})
    admin.create([TopicSpec(topic_prefix, 1, {"max.message.bytes": "20000"})])
    records = [ProducerRecord(None, b"%-290d" % n, (), 0) for n in range(5000)]
    admin.append(topic_prefix, records)
    assert values(kafka, topic_prefix) == [record.value for record in records]
    with pytest.raises(Stop, match="MessageSizeTooLarge"):
        admin.append(topic_prefix, [ProducerRecord(None, bytes(30_000), (), 0)])
    admin.close()


@pytest.mark.kafka
def test_a_limit_that_is_lowered_meanwhile_costs_one_opening(
    kafka: str, names: TopicNames, log: KafkaLog
) -> None:
    shard = log.open(0)
    alter(kafka, names.roles["predictions"], max_message_bytes="20000")
    with pytest.raises(Unknown):
        shard.publish(entry(0), predictions(1500), {})
    shard.close()
    shard = log.open(0)
    assert shard.end is None
    shard.publish(entry(0), predictions(1500), {})
    assert len(values(kafka, names.roles["predictions"])) == 1500
    shard.close()


@pytest.mark.kafka
def test_a_record_that_is_over_a_lowered_limit_stops_and_blocks_no_reader(
    kafka: str, names: TopicNames, log: KafkaLog
) -> None:
    topic = names.roles["predictions"]
    shard = log.open(0)
    alter(kafka, topic, max_message_bytes="20000")
    with pytest.raises(
        Stop, match=rf"{topic} \(MessageSizeTooLarge.*Raise max\.message\.bytes of that topic"
    ):
        shard.publish(entry(0), predictions(1, size=30_000), {})
    with pytest.raises(Stop, match="MessageSizeTooLarge"):
        shard.publish(entry(0), predictions(1), {})
    admin = KafkaAdmin(RealEnv(), kafka, {})
    admin.append(names.roles["journal"], [ProducerRecord(None, b"after it", (), 0)])
    _, *rest = values(kafka, names.roles["journal"])  # after the claim
    assert len(rest) == 1, "the refused transaction stayed open"
    admin.close()
    shard.close()


@pytest.mark.kafka
def test_who_lost_the_shard_is_fenced_and_does_not_stop(kafka: str, names: TopicNames, log: KafkaLog) -> None:
    shard = log.open(0)
    alter(kafka, names.roles["predictions"], max_message_bytes="20000")
    log.open(0).close()
    with pytest.raises(Fenced):
        shard.publish(entry(0), predictions(1, size=30_000), {})
    shard.close()


@pytest.fixture
def set_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Lets the processes that are started from now on have a clock that is so many seconds ahead."""
    folder = tmp_path / "clock"
    folder.mkdir()

    def ahead(seconds: int) -> None:
        (folder / "sitecustomize.py").write_text(CLOCK.format(seconds=seconds))
        monkeypatch.setenv("PYTHONPATH", f"{folder}:{SCRIPT.parent.parent}")

    yield ahead
    assert (folder / "sitecustomize.py.used").exists()


def events(name: str, count: int) -> Iterator[dict[str, Any]]:
    return ({"id": f"{name}{n}", "features": {"x": n % 7}, "label": n % 2 == 0} for n in range(count))


@pytest.mark.kafka
@pytest.mark.parametrize("ahead_s", [pytest.param(49 * 3600, marks=pytest.mark.slow), 10 * 365 * 86400])
def test_a_host_with_a_wrong_clock_goes_on(
    kafka: str, apps: Apps, set_clock: Callable[[int], None], ahead_s: int
) -> None:
    app = apps(kafka)
    app.produce(events("wrong", 100))
    set_clock(ahead_s)
    process = app.serve()
    app.wait(process, 100)
    app.stop(process)
    assert "checkpoint.saved" in app.log
    set_clock(0)
    app.produce(events("right", 100))
    process = app.serve()
    app.wait(process, 200)
    app.stop(process)
    assert len({prediction["id"] for prediction in app.predictions()}) == 200


@pytest.mark.kafka
def test_a_clock_that_the_broker_refuses_stops_and_names_the_setting(
    kafka: str, apps: Apps, set_clock: Callable[[int], None]
) -> None:
    app = apps(kafka)
    set_clock(49 * 3600)
    app.produce(events("before", 10))
    process = app.serve()
    app.wait(process, 10)
    alter(kafka, app.config.topics.journal, message_timestamp_type="CreateTime")
    app.produce(events("after", 10))
    assert process.wait(30) == Stop.exit_code, app.log[-3000:]
    word = (
        rf"written to {app.config.topics.journal} \(InvalidTimestamp.*message\.timestamp\.type=LogAppendTime"
    )
    assert re.search(word, app.log), app.log[-3000:]
    assert len(app.predictions()) == 10


@pytest.mark.kafka
@pytest.mark.parametrize("role", ["journal", "checkpoints", "predictions"])
def test_a_topic_that_takes_our_clock_is_refused_with_the_command_that_mends_it(
    kafka: str, names: TopicNames, log: KafkaLog, role: str
) -> None:
    topic = names.roles[role]
    alter(kafka, topic, message_timestamp_type="CreateTime")
    with pytest.raises(ConfigError) as refused:
        log.owned(0)
    command = f"--entity-name {topic} --add-config message.timestamp.type=LogAppendTime"
    assert command in str(refused.value)
    alter(kafka, topic, message_timestamp_type="LogAppendTime")
    log.open(0).close()


@pytest.mark.kafka
def test_topics_of_an_older_version_are_named_with_the_command_that_mends_them(
    kafka: str, apps: Apps, command: Command
) -> None:
    app = apps(kafka)
    journal = app.config.topics.journal
    alter(kafka, journal, message_timestamp_type="CreateTime")
    words = ("-i", app.inputs[0], "-n", app.config.app.name, "-b", kafka)
    for action in ("check", "ensure"):
        said = command("topics", action, *words)
        assert said.code == CheckFailed.exit_code
        assert f"{journal}: message.timestamp.type is CreateTime, not LogAppendTime" in said.err
        alteration = (
            f"--alter --entity-type topics --entity-name {journal} --add-config message.timestamp.type"
        )
        assert alteration in said.err


@pytest.mark.kafka
@pytest.mark.parametrize("role", ["input", "labels", "control"])
def test_a_compacted_topic_to_read_from_is_refused_by_name(kafka: str, topic_prefix: str, role: str) -> None:
    names = service(topic_prefix)
    names = names._replace(
        labels=f"{topic_prefix}.labels", roles={**names.roles, "control": f"{topic_prefix}.control"}
    )
    admin = made(kafka, names)
    admin.create([TopicSpec(names.labels, 1)])
    topic = {"input": names.inputs[0], "labels": names.labels, "control": names.roles["control"]}[role]
    alter(kafka, topic, cleanup_policy="compact,delete")
    log = KafkaLog(RealEnv(), names, kafka, {})
    with pytest.raises(ConfigError) as refused:
        log.owned(0)
    assert f"The topic {topic} has cleanup.policy = compact,delete" in str(refused.value)
    assert f"--entity-name {topic} --add-config cleanup.policy=delete" in str(refused.value)
    alter(kafka, topic, cleanup_policy="delete")
    log.open(0).close()
    log.close()
    admin.close()


def test_a_journal_from_which_nothing_is_deleted_needs_no_retention() -> None:
    kept = {"cleanup.policy": "", "retention.ms": "604800000"}  # as it may be since Kafka 4.2
    _check_journal("b:1", "j", {"j": kept})
    with pytest.raises(ConfigError, match=r"retention\.ms = -1"):
        _check_journal("b:1", "j", {"j": {**kept, "cleanup.policy": "delete"}})


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[str]:
    """A broker of our own that knows access rights."""
    folder = tmp_path / "broker"
    guard = "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer"
    call = [sys.executable, str(SCRIPT)]
    words = ["start", "--data", str(folder), "--set", guard, "--set", "allow.everyone.if.no.acl.found=true"]
    done = subprocess.run([*call, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    yield done.stdout.strip()
    subprocess.run([*call, "stop", "--wipe", "--data", str(folder)], check=True, capture_output=True)


def deny(bootstrap: str, kind: ResourceType, name: str, operation: ACLOperation) -> None:
    client = KafkaAdminClient(bootstrap_servers=bootstrap)
    everybody = ResourcePattern(kind, name)
    done = client.create_acls(
        [
            ACL("User:ANONYMOUS", "*", ACLOperation.ALL, ACLPermissionType.ALLOW, everybody),
            ACL("User:ANONYMOUS", "*", operation, ACLPermissionType.DENY, everybody),
        ]
    )
    assert not done["failed"], done
    client.close()


@pytest.mark.kafka
def test_a_right_that_is_taken_away_stops_and_names_it(guarded: str, kafka_client: ClientName) -> None:
    for resource, match in (
        ("topic", r"app-topic\.predictions.*TopicAuthorizationFailed.*topics --print"),
        ("lock", r"TransactionalIdAuthorizationFailed.*topics --print"),
    ):
        names = service(f"app-{resource}")
        made(guarded, names).close()
        log = KafkaLog(RealEnv(), names, guarded, {}, client=kafka_client)
        shard = log.open(0)
        shard.publish(entry(0), predictions(1), {})
        if resource == "topic":
            deny(guarded, ResourceType.TOPIC, names.roles["predictions"], ACLOperation.WRITE)
        else:
            deny(guarded, ResourceType.TRANSACTIONAL_ID, f"{names.lock}.0", ACLOperation.WRITE)
        time.sleep(SETTLE_S)
        with pytest.raises(Stop, match=match):
            shard.publish(entry(1), predictions(1), {})
        shard.close()
        log.close()


@pytest.mark.kafka
def test_a_group_that_may_not_be_described_is_not_taken_for_an_empty_one(
    guarded: str,
) -> None:
    names = service("app-group")
    made(guarded, names).close()
    log = KafkaLog(RealEnv(), names, guarded, {})
    with capture_logs() as logs:
        assert log.others() == 0, logs
    deny(guarded, ResourceType.GROUP, names.lock, ACLOperation.DESCRIBE)
    time.sleep(SETTLE_S)
    with capture_logs() as logs:
        assert log.others() == -1
    assert [line["event"] for line in logs] == ["election.not_described"]
    assert "GroupAuthorizationFailed" in logs[0]["reason"]
    log.close()


def test_only_what_is_final_is_a_refusal() -> None:
    for lost in (KafkaError("a disconnect"), NotEnoughReplicasError(), None):
        assert refusal(["t"], [lost and mapped(lost)]) is None
    carried = KafkaError("Cannot perform send", PolicyViolationError("no such key"))
    stop = refusal(["b", "a"], [None, mapped(carried), mapped(InvalidTimestampError())])
    assert stop is not None
    assert re.search(r"written to a, b \(PolicyViolation: .*no such key\)", str(stop))
