"""The promises, on real backends with real processes: nothing lost, repeated or different, whatever dies."""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions
from river import linear_model, preprocessing, tree

from streamlearn.core.shard.snapshot import seal, unseal
from streamlearn.engine.journal_end import named_checkpoints
from streamlearn.env import RealEnv
from streamlearn.log.backends import open_admin
from streamlearn.log.port import TopicSpec
from tests.faulty_log import name_anew
from tests.fork_server import Process
from tests.service_process import App, Apps, apps, every_backend

__all__ = ["apps", "every_backend"]

Event = dict[str, Any]


def events(n: int, seed: int = 1, start: int = 0) -> list[Event]:
    rng = random.Random(seed)
    made = []
    for i in range(start, start + n):
        x = {f"f{k}": rng.gauss(0, 1) for k in range(4)}
        made.append({"id": f"e{i}", "ts": 1.7e9 + i, "features": x, "label": x["f0"] + x["f1"] > 0})
    return made


def logistic() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def plain_loop(model: Any, stream: list[Event]) -> list[tuple[Any, ...]]:
    """What everybody writes, over the same events: the truth that a service must reproduce."""
    answers = []
    for learned, event in enumerate(stream):
        proba = model.predict_proba_one(event["features"])
        best = max(proba, key=proba.get) if proba else None
        answers.append((event["id"], best, {str(k).lower(): p for k, p in proba.items()}, learned))
        model.learn_one(event["features"], event["label"])
    return answers


def answers(predictions: list[Event]) -> list[tuple[Any, ...]]:
    return [(p["id"], p["prediction"], p["probabilities"], p["model"]["learned"]) for p in predictions]


def test_five_kills_lose_repeat_and_change_nothing(apps: Apps, backend: str) -> None:
    app = apps(backend)
    stream = events(12_000)
    rng = random.Random(7)
    app.produce(stream[:4000])
    seen = 0
    for kill in range(5):
        process = app.serve()
        app.wait(process, seen + 1)
        app.produce(stream[4000 + kill * 1600 : 5600 + kill * 1600])
        time.sleep(rng.uniform(0, 0.4))
        process.kill()
        process.wait()
        seen = min(app.outcomes(), 4000 + kill * 1600)
    process = app.serve()
    last = events(100, seed=2, start=12_000)
    app.produce(last)
    app.wait(process, 12_100)
    app.stop(process)
    assert answers(app.predictions()) == plain_loop(logistic(), stream + last)


def records_saved(app: App) -> int:
    """So many records of the input are in the newest checkpoint that the journal names."""
    journal = (app.config.topics.journal, 0)
    newest = named_checkpoints(app.admin, journal)[-1].seq
    entries = [entry for entry in app.admin.entries(journal, -1) if entry.seq <= newest]
    return sum(run.next - run.first for entry in entries for run in entry.ranges)


def test_a_tree_killed_between_checkpoints_answers_as_if_nothing_happened(apps: Apps, backend: str) -> None:
    app = apps(backend, **{"model.use": "app_models:tree_model", "checkpoint.interval_s": 3600})
    stream = events(3000)
    app.produce(stream[:2000])
    process = app.serve()
    app.wait(process, 2000)
    process.kill()
    left = 2000 - records_saved(app)
    app.produce(stream[2000:])
    process = app.serve()
    app.wait(process, len(stream))
    assert left > 0
    assert f'"offsets":{left}' in app.log
    assert answers(app.predictions()) == plain_loop(tree.HoeffdingTreeClassifier(grace_period=50), stream)


def test_events_that_make_the_model_raise_become_dead_letters_and_leave_no_trace(
    apps: Apps, backend: str
) -> None:
    app = apps(backend, **{"model.use": "app_models:touchy"})
    stream = events(600)
    poisoned = {100, 101, 400}
    for i in poisoned:
        stream[i]["features"]["poison"] = 1
    app.produce(stream[:300])
    process = app.serve()
    app.wait(process, 300)
    process.kill()
    app.produce(stream[300:])
    process = app.serve()
    app.wait(process, 600)
    app.stop(process)
    good = [event for i, event in enumerate(stream) if i not in poisoned]
    assert answers(app.predictions()) == plain_loop(logistic(), good)
    stages = [dict(letter.headers)["streamlearn.stage"] for letter in app.dead_letters()]
    assert stages == [b"learn"] * 3


def test_a_few_events_that_make_the_model_raise_do_not_end_its_learning(apps: Apps, backend: str) -> None:
    app = apps(backend, **{"model.use": "app_models:touchy"})
    stream = events(400)
    for i in (50, 100, 150, 200, 250):
        stream[i]["features"]["poison"] = 1
    app.produce(stream)
    process = app.serve()
    app.wait(process, 400)
    app.stop(process)
    assert len(app.dead_letters()) == 5
    assert "learning.paused" not in app.log
    assert app.predictions()[-1]["model"]["learned"] == 394


def test_a_model_that_cannot_predict_stops_the_service_instead_of_draining_the_topic(
    apps: Apps, backend: str
) -> None:
    app = apps(backend, **{"model.use": "app_models:blind"})
    app.produce(events(10))
    app.produce([{"id": str(i), "features": {"other": 1.0}} for i in range(300)])
    process = app.serve()
    assert process.wait(60) == 1
    assert len(app.dead_letters()) == 100
    assert "failed to predict 100 times in a row" in app.log


def test_a_changed_model_is_refused_and_begins_fresh_only_on_the_users_word(apps: Apps, backend: str) -> None:
    app = apps(backend)
    stream = events(900)
    app.produce(stream[:500])
    process = app.serve()
    app.wait(process, 500)
    app.stop(process)
    changed = {"model.use": "app_models:tree_model"}
    process = app.serve(**changed)
    assert process.wait(60) == 2
    assert "--model-change fresh" in app.log
    app.produce(stream[500:])
    process = app.serve("--model-change", "fresh", **changed)
    app.wait(process, 900)
    process.kill()
    process = app.serve("--model-change", "fresh", **changed)  # as a supervisor would start it again
    app.produce(events(100, seed=2, start=900))
    app.wait(process, 1000)
    app.stop(process)
    predictions = app.predictions()
    assert {p["model"]["revision"] for p in predictions[500:]} == {2}
    fresh = tree.HoeffdingTreeClassifier(grace_period=50)
    assert answers(predictions)[500:] == plain_loop(fresh, stream[500:] + events(100, seed=2, start=900))


def test_a_changed_mapping_carries_the_model_on_under_a_new_era(apps: Apps, backend: str) -> None:
    app = apps(backend)
    stream = events(600)
    app.produce(stream[:300])
    process = app.serve()
    app.wait(process, 300)
    process.kill()
    app.produce(
        [
            {("uid" if name == "id" else name): value for name, value in event.items()}
            for event in stream[300:]
        ]
    )
    renamed = {"event.id": "uid"}
    process = app.serve(**renamed)
    app.wait(process, 600)
    process.kill()
    app.serve(**renamed)
    assert '"event":"era.began","era":1,"why":"configuration"' in app.log
    assert answers(app.predictions()) == plain_loop(logistic(), stream)


def test_graceful_stop_leaves_a_checkpoint_at_the_end_so_that_nothing_is_redone(
    apps: Apps, backend: str
) -> None:
    app = apps(backend, **{"checkpoint.interval_s": 3600})
    stream = events(800)
    app.produce(stream[:500])
    process = app.serve()
    app.wait(process, 500)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    app.produce(stream[500:])
    process = app.serve()
    app.wait(process, 800)
    app.stop(process)
    assert '"event":"redo.finished"' in app.log and '"offsets":500' not in app.log
    assert answers(app.predictions()) == plain_loop(logistic(), stream)


def test_a_stop_while_a_start_redoes_is_a_success(apps: Apps) -> None:
    app = apps("", **{"model.use": "app_models:slow", "checkpoint.interval_s": 3600})
    stream = events(400)
    app.produce(stream)
    process = app.serve()
    app.wait(process, 400)
    process.kill()
    process.wait()
    loaded = app.log.count("checkpoint.loaded")
    process = app.serve()
    deadline_s = time.monotonic() + 60
    while app.log.count("checkpoint.loaded") == loaded:
        assert process.poll() is None, app.log[-3000:]
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    app.stop(process)
    assert app.log.count("shard.opened") == 1, "it was stopped before it had done all again"
    app.produce(events(50, seed=2, start=400))
    process = app.serve()
    app.wait(process, 450)
    app.stop(process)
    assert answers(app.predictions()) == plain_loop(logistic(), stream + events(50, seed=2, start=400))


def test_a_second_service_fences_the_first_and_the_first_takes_over_when_it_leaves(apps: Apps) -> None:
    app = apps("")
    stream = events(900)
    app.produce(stream[:300])
    first = app.serve()
    app.wait(first, 300)
    second = app.serve()
    time.sleep(4)
    app.produce(stream[300:600])
    app.wait(second, 600)
    assert '"event":"shard.fenced"' in app.log
    assert first.poll() is None
    app.stop(second)
    app.produce(stream[600:])
    app.wait(first, 900)
    app.stop(first)
    assert answers(app.predictions()) == plain_loop(logistic(), stream)


@pytest.mark.kafka
def test_on_kafka_a_standby_waits_and_takes_over_when_the_owner_is_killed(apps: Apps) -> None:
    app = apps(os.environ["STREAMLEARN_TEST_KAFKA"])
    stream = events(900)
    app.produce(stream[:300])
    first = app.serve()
    app.wait(first, 300)
    second = app.serve(**{"app.replica": "two"})
    time.sleep(5)
    app.produce(stream[300:600])
    app.wait(first, 600)
    (first if first.poll() is None else second).kill()
    app.produce(stream[600:])
    app.wait(second, 900)
    app.stop(second)
    assert answers(app.predictions()) == plain_loop(logistic(), stream)


def test_a_paused_owner_publishes_nothing_after_another_took_over(apps: Apps, backend: str) -> None:
    app = apps(backend)
    stream = events(1200)
    app.produce(stream[:400])
    first = app.serve()
    app.wait(first, 400)
    first.send_signal(signal.SIGSTOP)
    app.produce(stream[400:800])
    second = app.serve()
    app.wait(second, 800)
    first.send_signal(signal.SIGCONT)
    app.produce(stream[800:])
    app.wait(second, 1200)
    time.sleep(2)
    app.stop(second)
    assert answers(app.predictions()) == plain_loop(logistic(), stream)


def test_every_record_of_several_partitions_and_topics_has_exactly_one_outcome(
    apps: Apps, backend: str
) -> None:
    app = apps(backend, inputs=(("a", 3), ("b", 1)))
    rng = random.Random(3)
    sent: set[str] = set()
    process = app.serve()
    for k in range(12):
        batch = events(100, seed=k, start=k * 100)
        sent |= {event["id"] for event in batch}
        app.produce(batch, topic=rng.choice([0, 0, 0, 1]))
        if k in (4, 8):
            process.kill()
            process = app.serve()
    app.wait(process, 1200)
    process.kill()
    process = app.serve()
    app.produce(events(50, seed=99, start=5000), topic=1)
    app.wait(process, 1250)
    app.stop(process)
    predictions = app.predictions()
    by_learned = sorted(predictions, key=lambda p: p["model"]["learned"])
    assert [p["model"]["learned"] for p in by_learned] == list(range(1250)), "the order that was learned"
    sources = {(p["source"]["topic"], p["source"]["partition"], p["source"]["offset"]) for p in predictions}
    assert len(sources) == 1250
    assert "redo.diverged" not in app.log


def damage(app: App, how: str) -> None:
    """Spoil what is on disk, as a fault or a person would."""
    folder = next(Path(f"{app.config.log.path}.checkpoints").rglob("*.ckpt")).parent
    files = sorted(folder.glob("*.ckpt"))
    assert len(files) > 1
    if how == "newest cut short":
        files[-1].write_bytes(files[-1].read_bytes()[:-10])
    elif how == "newest flipped":
        data = bytearray(files[-1].read_bytes())
        data[-20] ^= 1
        files[-1].write_bytes(data)
    elif how == "newest foreign":
        files[-1].write_bytes(b"\x80\x05K\x01.")
    elif how == "all but the first gone":
        for file in files[1:]:
            file.unlink()
    else:
        for file in files:
            file.unlink()


DAMAGES = ["newest cut short", "newest flipped", "newest foreign", "all but the first gone", "all gone"]


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_checkpoints_are_refused_and_the_log_replaces_them(apps: Apps, how: str) -> None:
    app = apps("")
    stream = events(1500)
    app.produce(stream[:1000])
    process = app.serve()
    app.wait(process, 1000)
    time.sleep(0.5)
    app.stop(process)
    damage(app, how)
    app.produce(stream[1000:])
    process = app.serve()
    app.wait(process, 1500)
    app.stop(process)
    assert "checkpoint.refused" in app.log
    assert answers(app.predictions()) == plain_loop(logistic(), stream)


def test_checkpoints_beyond_the_journal_prove_that_it_lost_data(apps: Apps) -> None:
    app = apps("")
    app.produce(events(1000))
    process = app.serve()
    app.wait(process, 1000)
    app.stop(process)
    Path(app.config.log.path).unlink()
    app.admin.close()
    again = App(app.folder, app.config.app.name, "")
    again.produce(events(10))
    process = again.serve()
    assert process.wait(60) == 1
    assert "the journal lost its data" in again.log
    again.close()


def settled(app: App, stream: list[Event]) -> None:
    """One service takes `stream` and stops gracefully."""
    app.produce(stream)
    process = app.serve()
    app.wait(process, len(stream))
    app.stop(process)


def test_a_topic_that_is_dropped_and_comes_back_goes_on_where_it_was(apps: Apps) -> None:
    app = apps("", inputs=(("a", 1), ("b", 1)))
    app.produce(events(100), topic=0)
    app.produce(events(100, start=100), topic=1)
    for inputs in (app.inputs, app.inputs[:1], app.inputs):
        process = app.serve(**{"topics.input": inputs})
        app.wait(process, 200)
        time.sleep(3)
        app.stop(process)
    assert sorted(p["model"]["learned"] for p in app.predictions()) == list(range(200))


def test_a_replaced_model_is_made_again_without_checkpoints_from_its_own_beginning(apps: Apps) -> None:
    app = apps("")
    stream = events(900)
    settled(app, stream[:400])
    changed = {"model.use": "app_models:tree_model"}
    app.produce(stream[400:700])
    process = app.serve("--model-change", "fresh", **changed)
    app.wait(process, 700)
    process.kill()
    process.wait()
    damage(app, "all gone")
    app.produce(stream[700:])
    process = app.serve(**changed)
    app.wait(process, 900)
    app.stop(process)
    assert answers(app.predictions())[400:] == plain_loop(
        tree.HoeffdingTreeClassifier(grace_period=50), stream[400:]
    )


def test_a_frozen_model_begins_anew_with_model_change_fresh(apps: Apps) -> None:
    app = apps("", **{"model.use": "app_models:touchy"})
    stream = events(200)
    for i in range(20, 104, 4):
        stream[i]["features"]["poison"] = 1
    app.produce(stream)
    process = app.serve()
    app.wait(process, 200)
    app.stop(process)
    more = events(100, seed=2, start=200)
    app.produce(more)
    process = app.serve("--model-change", "fresh")
    app.wait(process, 300)
    app.stop(process)
    assert answers(app.predictions()[179:]) == plain_loop(logistic(), more)


def test_foreign_and_stray_files_among_the_checkpoints_do_no_harm(apps: Apps) -> None:
    app = apps("", **{"checkpoint.keep": 1})
    stream = events(900)
    settled(app, stream[:600])
    folder = next(Path(f"{app.config.log.path}.checkpoints").rglob("*.ckpt")).parent
    newest = sorted(folder.glob("*.ckpt"))[-1]
    (folder / "copy-of-it.ckpt").write_bytes(newest.read_bytes())
    header, sections = unseal(newest.read_bytes())
    newest.write_bytes(seal(msgspec.structs.replace(header, app="other"), sections))
    name_anew(app.config.log.path, app.config.topics.journal, newest)
    app.produce(stream[600:])
    process = app.serve()
    app.wait(process, 900)
    app.stop(process)
    assert "it belongs to the app 'other'" in app.log
    assert "checkpoint.failed" not in app.log
    assert answers(app.predictions()) == plain_loop(logistic(), stream)


def test_a_file_that_is_removed_under_the_service_stops_it(apps: Apps) -> None:
    app = apps("")
    app.produce(events(100))
    process = app.serve()
    app.wait(process, 100)
    Path(app.config.log.path).unlink()
    assert process.wait(30) == 1
    assert "was removed or replaced while it was in use" in app.log


def test_a_stop_while_it_is_starting_is_a_success(apps: Apps) -> None:
    app = apps("")
    for delay_s in (0.0, 0.1, 0.3, 0.6, 0.9, 1.2, 2.0):
        process = app.serve()
        _wait_for_signals_held(process)
        time.sleep(delay_s)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, (delay_s, app.log)


def _wait_for_signals_held(process: Process) -> None:
    """Until `serve` has taken SIGTERM into its hands: before, python itself is still starting."""
    bit = 1 << (signal.SIGTERM - 1)
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        status = Path(f"/proc/{process.pid}/status").read_text()
        masks = dict(line.split(":", 1) for line in status.splitlines() if line.startswith("Sig"))
        if (int(masks["SigBlk"], 16) | int(masks["SigCgt"], 16)) & bit:
            return
        time.sleep(0.01)
    raise AssertionError("serve never took SIGTERM into its hands")


@pytest.mark.kafka
def test_partitions_that_are_added_while_it_serves_are_read(apps: Apps) -> None:
    app = apps(os.environ["STREAMLEARN_TEST_KAFKA"])
    app.produce(events(100))
    process = app.serve()
    app.wait(process, 100)
    client = AdminClient({"bootstrap.servers": os.environ["STREAMLEARN_TEST_KAFKA"]})
    for done in client.create_partitions([NewPartitions(app.inputs[0], 3)]).values():
        done.result()
    time.sleep(3)
    app.admin.close()
    app.admin = open_admin(RealEnv(), app.config)  # a client that knows of them
    for partition in (0, 1, 2):
        app.produce(events(50, seed=partition, start=100 + 50 * partition), partition=partition)
    app.wait(process, 250)
    app.stop(process)
    assert sorted(p["model"]["learned"] for p in app.predictions()) == list(range(250))
    assert '"why":"topics"' in app.log


@pytest.mark.kafka
def test_an_input_that_is_deleted_and_made_again_while_it_serves_stops_it(apps: Apps) -> None:
    app = apps(os.environ["STREAMLEARN_TEST_KAFKA"])
    app.produce(events(100))
    process = app.serve()
    app.wait(process, 100)
    client = AdminClient({"bootstrap.servers": os.environ["STREAMLEARN_TEST_KAFKA"]})
    for done in client.delete_topics(app.inputs).values():
        done.result()
    time.sleep(3)
    app.admin.create([TopicSpec(app.inputs[0], 1)])
    app.produce(events(300, start=500))
    assert process.wait(60) == 1
    assert "was deleted and made again" in app.log or "no longer holds the input" in app.log
    assert len(app.predictions()) == 100


@pytest.mark.kafka
def test_a_process_with_another_configuration_waits_for_the_running_service(apps: Apps) -> None:
    app = apps(os.environ["STREAMLEARN_TEST_KAFKA"])
    stream = events(300)
    app.produce(stream[:100])
    owner = app.serve()
    app.wait(owner, 100)
    laptop = app.serve(**{"app.replica": "laptop", "event.features": "elsewhere"})
    deadline_s = time.monotonic() + 30
    while '"event":"config.differs"' not in app.log:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    app.produce(stream[100:])
    app.wait(owner, 300)
    assert not app.dead_letters()
    laptop.send_signal(signal.SIGTERM)
    assert laptop.wait(30) == 0
    app.stop(owner)
    assert answers(app.predictions()) == plain_loop(logistic(), stream)


@pytest.mark.kafka
def test_expired_marks_of_transactions_at_the_end_of_an_input_are_no_loss(apps: Apps) -> None:
    bootstrap = os.environ["STREAMLEARN_TEST_KAFKA"]
    app = apps(bootstrap)
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": app.inputs[0]})
    producer.init_transactions()
    for stream, ends in (
        (events(100), producer.commit_transaction),
        (events(10), producer.abort_transaction),
    ):
        producer.begin_transaction()
        for event in stream:
            producer.produce(app.inputs[0], orjson.dumps(event))
        producer.flush()
        ends()
    process = app.serve()
    app.wait(process, 100)
    time.sleep(1)
    app.stop(process)
    end = app.admin.topics([app.inputs[0]])[app.inputs[0]].end[0]
    client = AdminClient({"bootstrap.servers": bootstrap})
    for done in client.delete_records([TopicPartition(app.inputs[0], 0, end)]).values():
        done.result()
    more = events(50, seed=2, start=100)
    app.produce(more)
    process = app.serve()
    app.wait(process, 150)
    app.stop(process)
    assert answers(app.predictions()) == plain_loop(logistic(), events(100) + more)
