"""The election on Kafka: a newcomer disturbs nobody, and a member that was fenced waits to be confirmed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import pytest
from kafka import KafkaConsumer, KafkaProducer

from streamlearn.core.journal import Entry
from streamlearn.core.records import Output
from streamlearn.env import RealEnv
from streamlearn.errors import Fenced
from streamlearn.log.internal_topics import wanted_topics
from streamlearn.log.kafka import new_client
from streamlearn.log.kafka.cluster import Cluster
from streamlearn.log.kafka.log import KafkaAdmin, KafkaLog
from streamlearn.log.port import TopicNames, TopicSpec
from tests.service_process import App, Apps, apps

__all__ = ["apps"]

SCRIPT = Path(__file__).parent.parent / "scripts" / "kafka"
SESSION_S = 8.0


def service(app: str) -> TopicNames:
    roles = {role: f"{app}.{role}" for role in ("predictions", "dlq", "journal", "checkpoints")}
    return TopicNames(app, "", (f"{app}.events",), roles)


def made(bootstrap: str, app: str) -> TopicNames:
    names = service(app)
    admin = KafkaAdmin(RealEnv(), bootstrap, {})
    admin.create([TopicSpec(names.inputs[0], 1), *wanted_topics(names, 1)])
    admin.close()
    return names


class Members:
    """Logs of one service, all of them polled as often as a loop polls."""

    def __init__(self, bootstrap: str, names: TopicNames) -> None:
        self._bootstrap = bootstrap
        self._names = names
        self.logs: list[KafkaLog] = []

    def join(self) -> KafkaLog:
        log = KafkaLog(RealEnv(), self._names, self._bootstrap, {})
        self.logs.append(log)
        return log

    def owners(self) -> list[int]:
        return [number for number, log in enumerate(self.logs) if 0 in log.owned(0)]

    def until(self, holds: Callable[[list[int]], bool], within_s: float = 20.0) -> list[int]:
        until_s = time.monotonic() + within_s
        while not holds(owners := self.owners()):
            assert time.monotonic() < until_s, f"{owners} own it"
            time.sleep(0.02)
        return owners

    def watched(self, for_s: float) -> list[list[int]]:
        """Who owned the shard meanwhile, without repetitions."""
        seen: list[list[int]] = []
        until_s = time.monotonic() + for_s
        while time.monotonic() < until_s:
            if not seen or seen[-1] != self.owners():
                seen.append(self.owners())
            time.sleep(0.02)
        return seen

    def close(self) -> None:
        for log in self.logs:
            log.close()


@pytest.fixture
def members(kafka: str, topic_prefix: str) -> Iterator[Members]:
    members = Members(kafka, made(kafka, topic_prefix))
    yield members
    members.close()


def generation(members: Members) -> int:
    assert members.logs[0]._election is not None
    return int(members.logs[0]._election._member._consumer.group_metadata().generation_id)


def entry(seq: int) -> Entry:
    return Entry(seq=seq, era=0, digest="0" * 64)


@pytest.mark.kafka
@pytest.mark.slow
def test_newcomers_take_nothing_from_the_owner(members: Members) -> None:
    members.join()
    members.until([0].__eq__)
    before = generation(members)
    for _ in range(4):
        members.join()
        assert members.watched(2.5) == [[0]]
    assert generation(members) == before + 4, "a join begins others"
    assert members.logs[0]._election is not None
    # Another one leaves the shard where it is by chance, one time in five.
    assert members.logs[0]._election._member._consumer._coordinator._generation.protocol == "sticky"
    members.logs.pop(0).close()
    (heir,) = members.until(lambda owners: len(owners) == 1)
    members.join()
    assert members.watched(2.5) == [[heir]]


@pytest.mark.kafka
def test_a_member_that_was_fenced_holds_nothing_until_it_is_confirmed(kafka: str, members: Members) -> None:
    log = members.join()
    members.until([0].__eq__)
    shard = log.open(0)
    shard.publish(entry(0), [Output("predictions", 0, None, b"p")], {})
    fence = KafkaProducer(
        bootstrap_servers=kafka, transactional_id=f"{members._names.lock}.0", api_version=(2, 4)
    )
    fence.init_transactions()
    with pytest.raises(Fenced):
        shard.publish(entry(1), [], {})
    assert log.owned(0) == frozenset()
    assert "has not confirmed this member" in str(log.lost())
    assert log.owned(5.0) == {0}, "the heartbeat after it was granted"
    shard.close()
    shard = log.open(0)
    shard.publish(entry(1), [], {})
    shard.close()
    fence.close()


@pytest.mark.kafka
def test_members_of_an_older_version_and_ours_join_one_group(kafka: str, members: Members) -> None:
    names = members._names
    older = KafkaConsumer(
        bootstrap_servers=kafka, group_id=names.lock, session_timeout_ms=8000, heartbeat_interval_ms=1000
    )
    older.subscribe([names.roles["journal"]])
    done = Event()

    def poll() -> None:
        while not done.is_set():
            older.poll(timeout_ms=50)

    thread = Thread(target=poll)
    thread.start()
    try:
        members.join()
        members.join()
        seen = members.watched(6.0)[-1]
        assert len(seen) + len(older.assignment()) == 1
        assert members.logs[0].others() == 3
    finally:
        done.set()
        thread.join()
        older.close()
    members.until(lambda owners: len(owners) == 1)


@pytest.mark.kafka
@pytest.mark.slow
def test_a_broker_that_is_away_is_said_to_be_away(tmp_path: Path) -> None:
    folder = tmp_path / "broker"
    call = [sys.executable, str(SCRIPT)]
    started = subprocess.run(
        [*call, "start", "--data", str(folder)], capture_output=True, text=True, check=True
    )
    said = subprocess.run(
        [*call, "status", "--data", str(folder)], capture_output=True, text=True, check=True
    )
    pid = int(said.stdout.partition(" pid=")[2])
    members = Members(started.stdout.strip(), made(started.stdout.strip(), "app"))
    log = members.join()
    try:
        members.until([0].__eq__)
        os.kill(pid, signal.SIGSTOP)
        members.until([].__eq__, within_s=SESSION_S + 10)
        assert "has confirmed no heartbeat for" in str(log.lost())
        os.kill(pid, signal.SIGCONT)
        members.until([0].__eq__)
    finally:
        os.kill(pid, signal.SIGCONT)
        members.close()
        subprocess.run([*call, "stop", "--wipe", "--data", str(folder)], check=True, capture_output=True)


RATE = 100.0


class Stream:
    """Events at a rate, from a thread, until the test is over."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.sent = 0
        self._done = Event()
        self._thread = Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        began_s = time.monotonic()
        while not self._done.is_set():
            due = int((time.monotonic() - began_s) * RATE)
            batch = [
                {"id": f"e{n}", "features": {"x": n % 7}, "label": n % 2 == 0} for n in range(self.sent, due)
            ]
            if batch:
                self._app.produce(batch)
                self.sent = due
            time.sleep(0.05)

    def stop(self) -> int:
        self._done.set()
        self._thread.join()
        return self.sent


def wait_for_members(bootstrap: str, app: App, count: int) -> None:
    cluster = Cluster(RealEnv(), new_client(RealEnv(), bootstrap, {}))
    until_s = time.monotonic() + 60.0
    while cluster.members(app.config.names().lock) != count:
        assert time.monotonic() < until_s, app.log[-3000:]
        time.sleep(0.1)
    cluster.close()


def opened(app: App) -> int:
    return app.log.count('"event":"shard.opened"')


@pytest.mark.kafka
def test_standbys_join_a_busy_owner_without_disturbing_it_and_take_over_when_it_dies(
    kafka: str, apps: Apps
) -> None:
    app = apps(kafka, **{"app.replica": ""})
    owner = app.serve()
    stream = Stream(app)
    try:
        app.wait(owner, 100)
        standbys = []
        for _ in range(2):
            standbys.append(app.serve())
            wait_for_members(kafka, app, 1 + len(standbys))
            time.sleep(3.0)
        for event in ("shard.fenced", "shard.not_owned", "shard.reopening", "publish.unknown"):
            assert event not in app.log, app.log[-3000:]
        assert opened(app) == 1
        owner.kill()
        died_s = time.monotonic()
        while opened(app) == 1:
            assert time.monotonic() - died_s < SESSION_S + 12, app.log[-3000:]
            time.sleep(0.05)
        time.sleep(2.0)
    finally:
        sent = stream.stop()
    app.wait(standbys[0], sent)
    assert [prediction["id"] for prediction in app.predictions()] == [f"e{n}" for n in range(sent)]
    assert opened(app) == 2
    for process in standbys:
        app.stop(process)


@pytest.mark.kafka
@pytest.mark.slow
def test_a_standby_with_a_folder_of_its_own_makes_the_model_again_from_the_first_entry(
    kafka: str, apps: Apps, tmp_path: Path
) -> None:
    app = apps(kafka, **{"app.replica": "", "checkpoint.keep": 1, "transaction.max_records": 20})
    owner = app.serve(**{"checkpoint.url": f"file:{tmp_path / 'one'}"})
    stream = Stream(app)
    try:
        app.wait(owner, 100)
        standby = app.serve(**{"checkpoint.url": f"file:{tmp_path / 'two'}"})
        wait_for_members(kafka, app, 2)
        owner.kill()
    finally:
        sent = stream.stop()
    app.wait(standby, sent)
    app.stop(standby)
    assert [prediction["id"] for prediction in app.predictions()] == [f"e{n}" for n in range(sent)]
    journal = app.admin.topics([app.config.topics.journal])[app.config.topics.journal]
    assert journal.start == (0,)
    assert app.log.count('"event":"journal.not_trimmed"') == 2
    assert app.log.count('"event":"redo.finished"') == 1
