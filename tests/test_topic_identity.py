"""A position is worth something only in the topic it was taken in: topics that go, come back, and grow."""

import random
import time
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from streamlearn.core.shard.snapshot import open_header
from streamlearn.env import RealEnv
from streamlearn.errors import Stop
from streamlearn.log.backends import open_admin
from tests.faulty_log import Fault, Faults, Harness
from tests.service_process import App, Apps, apps
from tests.test_faults import Event, events, logistic

__all__ = ["apps"]


@pytest.fixture
def app(tmp_path: Path) -> Harness:
    return Harness(tmp_path, model=logistic)


AGAIN = r"the input topic events was deleted and made again \(its id was .*, now another\)"


@pytest.mark.parametrize("call", range(4))
def test_nothing_of_a_topic_that_was_made_again_is_published_under_the_old_offsets(
    app: Harness, call: int
) -> None:
    stream = events(600)
    app.produce(stream[:100])
    app.run()

    def made_again(_: Faults) -> None:
        app.recreate("events")
        app.produce([{**event, "id": "of the new topic"} for event in stream])

    app.produce(stream[100:300])
    with pytest.raises(Stop, match=AGAIN):
        app.run(Fault("poll", call, made_again))
    assert "of the new topic" not in {p["id"] for p in app.predictions()}


def test_a_topic_that_is_shorter_by_now_is_told_by_its_identity_and_not_by_its_offsets(app: Harness) -> None:
    app.produce(events(100))
    app.run()
    with pytest.raises(Stop, match=AGAIN):
        app.run(Fault("poll", 1, lambda _: app.recreate("events")))


def test_a_topic_that_was_made_again_under_a_stopped_service_is_refused(app: Harness) -> None:
    app.produce(events(100))
    app.run()
    app.recreate("events")
    app.produce(events(300))
    with pytest.raises(Stop, match=f"{AGAIN}.*streamlearn reset.*streamlearn adopt"):
        app.run()


def test_a_topic_that_left_and_came_back_as_another_begins_at_its_first_record(tmp_path: Path) -> None:
    app = Harness(tmp_path, model=logistic, **{"topics.input": ["events", "more"]})
    stream = events(600)
    app.produce(stream[:100])
    app.produce(stream[100:200], "more")
    app.run()
    app.run(**{"topics.input": ["events"]})
    app.recreate("more")
    app.produce(stream[300:600], "more")
    app.run()
    app.run()
    ids = [p["id"] for p in app.predictions()]
    assert ids[200:] == [f"e{i}" for i in range(300, 600)]


def test_a_topic_that_left_and_came_back_as_it_was_goes_on_where_it_stood(tmp_path: Path) -> None:
    app = Harness(tmp_path, model=logistic, **{"topics.input": ["events", "more"]})
    stream = events(400)
    app.produce(stream[:100])
    app.produce(stream[100:200], "more")
    app.run()
    app.run(**{"topics.input": ["events"]})
    app.produce(stream[200:400], "more")
    app.run()
    ids = [p["id"] for p in app.predictions()]
    assert ids[200:] == [f"e{i}" for i in range(200, 400)]


def test_a_checkpoint_names_the_topics_that_its_positions_are_in(app: Harness) -> None:
    app.produce(events(100))
    app.run()
    newest = sorted((app.folder / "log.db.checkpoints" / "app" / "0").glob("*.ckpt"))[-1]
    header = open_header(newest.read_bytes())
    assert header.ids == {name: app.topics()[name].id for name in ("events", "app.control")}


def test_a_deleted_topic_is_noticed_by_an_idle_service(app: Harness) -> None:
    app.produce(events(100))

    def deleted(faults: Faults) -> None:
        app.db("UPDATE topics SET name = 'gone' WHERE name = 'events'")
        task = faults.process and faults.process._tasks.get(0)
        watch = task and task._sources
        assert watch
        watch._looked_s -= 11  # so long ago was the last look

    with pytest.raises(Stop, match="the input topic events was deleted while this service read it"):
        app.run(Fault("poll", 4, deleted))


# --- on Kafka -------------------------------------------------------------------------------------------


def delete(admin: AdminClient, name: str) -> None:
    admin.delete_topics([name])[name].result(20)
    deadline_s = time.monotonic() + 20
    while name in admin.list_topics(timeout=10).topics:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def create(admin: AdminClient, name: str) -> None:
    deadline_s = time.monotonic() + 20
    while True:
        try:
            admin.create_topics([NewTopic(name, 1, 1)])[name].result(20)
            return
        except Exception as error:  # noqa: BLE001 - the old one may not be gone yet
            assert time.monotonic() < deadline_s, error
            time.sleep(0.02)


def afresh(app: App, values: list[Event], partition: int | None = None) -> None:
    """Produce with a client that has not seen the topic before."""
    admin = open_admin(RealEnv(), app.config)
    admin.append(app.inputs[0], app.producer_records(values, partition))
    admin.close()


@pytest.mark.kafka
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))])
def test_a_topic_made_again_under_a_running_service_stops_it_before_anything_of_it_is_published(
    apps: Apps, kafka: str, seed: int
) -> None:
    app = apps(kafka)
    admin = AdminClient({"bootstrap.servers": kafka})
    rng = random.Random(seed)
    app.produce(events(100))
    process = app.serve()
    app.wait(process, 100)
    time.sleep(rng.uniform(0, 0.3))
    delete(admin, app.inputs[0])
    create(admin, app.inputs[0])
    afresh(app, [{**event, "id": f"new{n}"} for n, event in enumerate(events(100 + rng.randrange(200)))])
    assert process.wait(60) == 1, app.log[-2000:]
    assert "was deleted and made again" in app.log, app.log[-2000:]
    assert not [p["id"] for p in app.predictions() if p["id"].startswith("new")]


@pytest.mark.kafka
def test_a_topic_that_grows_is_read_although_only_the_new_partition_has_records(
    apps: Apps, kafka: str
) -> None:
    app = apps(kafka)
    admin = AdminClient({"bootstrap.servers": kafka})
    app.produce(events(50))
    process = app.serve()
    app.wait(process, 50)
    admin.create_partitions([NewPartitions(app.inputs[0], 2)])[app.inputs[0]].result(20)
    afresh(app, events(80, start=50), partition=1)
    app.wait(process, 130)
    app.stop(process)


@pytest.mark.kafka
def test_a_deleted_topic_stops_an_idle_service_within_half_a_minute(apps: Apps, kafka: str) -> None:
    app = apps(kafka)
    app.produce(events(50))
    process = app.serve()
    app.wait(process, 50)
    delete(AdminClient({"bootstrap.servers": kafka}), app.inputs[0])
    began_s = time.monotonic()
    assert process.wait(60) == 1
    assert time.monotonic() - began_s < 30
    assert "was deleted while this service read it" in app.log


@pytest.mark.kafka
@pytest.mark.slow
def test_a_topic_that_came_back_on_kafka_is_read_from_its_first_record(apps: Apps, kafka: str) -> None:
    app = apps(kafka, inputs=(("a", 1), ("b", 1)))
    app.produce(events(100))
    app.produce(events(100, start=100), topic=1)
    process = app.serve()
    app.wait(process, 200)
    app.stop(process)
    process = app.serve(**{"topics.input": app.inputs[:1]})
    deadline_s = time.monotonic() + 60
    while "era.began" not in app.log:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    app.stop(process)
    admin = AdminClient({"bootstrap.servers": kafka})
    delete(admin, app.inputs[1])
    create(admin, app.inputs[1])
    app.produce(events(300, start=200), topic=1)
    process = app.serve()
    app.wait(process, 500)
    app.stop(process)
    assert [p["id"] for p in app.predictions()][-300:] == [f"e{i}" for i in range(200, 500)]
