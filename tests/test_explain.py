"""`explain`: the event, the very model that answered it, and what each feature added; or what is gone."""

import sqlite3
import time
from math import exp
from pathlib import Path
from typing import Any

import orjson
import pytest
from river import compose, linear_model, multiclass, preprocessing, tree

from streamlearn.core.journal import journalled
from streamlearn.core.shard.snapshot import dump_model, seal, unseal
from streamlearn.errors import ConfigError
from streamlearn.studies.explain.contributions import contributions
from streamlearn.studies.explain.lookup import Place, parse_place
from tests.command import Command, command
from tests.faulty_log import name_anew
from tests.service_process import App, Apps, apps, backend
from tests.test_service import events, logistic

__all__ = ["apps", "backend", "command"]


@pytest.fixture(autouse=True)
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the service already, so that the command need not start the process again."""
    monkeypatch.setenv("PYTHONHASHSEED", "0")


def words(app: App) -> list[object]:
    """The options that name the app to a command."""
    log = app.config.log
    where = ["--db", log.path] if log.backend == "embedded" else ["-b", log.bootstrap_servers]
    return [*where, "-n", app.config.app.name, "-m", "app_models:logistic", "--app-dir", app.folder]


def served(app: App, stream: list[Any], **flags: object) -> None:
    app.produce(stream)
    process = app.serve(**flags)
    app.wait(process, len(stream))
    process.kill()
    process.wait()


def forget(app: App, topic: str, upto: int) -> None:
    """As retention does: what lies before an offset is no longer there."""
    with sqlite3.connect(app.config.log.path) as db:
        (number,) = db.execute("SELECT number FROM topics WHERE name = ?", (topic,)).fetchone()
        db.execute("UPDATE partitions SET log_start = ? WHERE topic = ?", (upto, number))


def plain_weights(stream: list[dict[str, Any]], upto: int) -> tuple[dict[str, float], float]:
    """The weights of the plain river loop just before it answers event `upto`, and its log odds there."""
    plain = logistic()
    for event in stream[:upto]:
        plain.learn_one(event["features"], event["label"])
    last = plain["LogisticRegression"]
    scaled = plain["StandardScaler"].transform_one(stream[upto]["features"])
    return dict(last.weights), last.intercept + sum(last.weights[name] * x for name, x in scaled.items())


def test_the_very_model_that_answered_is_made_again_beside_the_running_service(
    apps: Apps, backend: str, command: Command
) -> None:
    app = apps(backend)
    stream = events(700)
    del stream[20]["features"]["f0"]
    del stream[650]["id"]
    app.produce(stream)
    process = app.serve()
    app.wait(process, 700)
    for ident, at in (("e600", 600), (f"{app.inputs[0]}-0-650", 650)):
        found = orjson.loads(command.ok("explain", ident, "--json", *words(app)))
        weights, log_odds = plain_weights(stream, at)
        assert found["model"]["exact"], found["model"]
        assert (found["model"]["learned"], found["prediction"]["model"]["learned"]) == (at, at)
        assert found["event"]["features"] == stream[at]["features"]
        assert found["label"] == {"label": stream[at]["label"], "where": "in the event", "delay_s": 0.0}
        parts = found["contributions"]["parts"]
        assert {part["feature"]: part["weight"] for part in parts} == weights
        assert found["contributions"]["total"] == pytest.approx(log_odds, rel=1e-12)
        assert found["prediction"]["probabilities"]["true"] == pytest.approx(1 / (1 + exp(-log_odds)))
    text = command.ok("explain", "--at", f"{app.inputs[0]}-0-650", *words(app))
    assert "reproduced exactly: checkpoint " in text
    assert f"label      {str(stream[650]['label']).lower()}, in the event, 0.0 s after it" in text
    app.produce(events(5, start=700))
    app.wait(process, 705)  # the service was not fenced
    app.stop(process)


def test_ids_places_refusals_and_gaps_each_get_their_answer(apps: Apps, command: Command) -> None:
    app = apps("")
    stream: list[dict[str, Any]] = [{**event, "id": at % 20} for at, event in enumerate(events(50))]
    stream[12] |= {"id": "odd", "features": 3}
    served(app, stream)
    # An id may be a number, and of several predictions for it the newest is explained.
    found = orjson.loads(command.ok("explain", "7", "--json", *words(app)))
    assert (found["prediction"]["id"], found["prediction"]["source"]["offset"]) == (7, 47)
    # What was refused is explained by its dead letter.
    by_id, by_place = (
        orjson.loads(command.ok("explain", *which, "--json", *words(app)))["dead_letter"]
        for which in (["odd"], ["--at", f"{app.inputs[0]}-0-12"])
    )
    assert by_id == by_place
    assert (by_id["stage"], by_id["reason"], by_id["source"]["offset"]) == ("guard", "no_features", 12)
    # An id that is nowhere: what was looked at.
    result = command("explain", "e77", *words(app))
    assert result.code == 1
    assert f"looked at 49 records of {app.config.topics.predictions}, 1 records of" in result.err
    assert command("explain", *words(app)).code == 2
    # An event that is no longer retained: the prediction is, and what is missing is said.
    forget(app, app.inputs[0], 50)
    text = command.ok("explain", "7", *words(app))
    assert "features   gone: the event's record is no longer retained" in text
    assert "answer     " in text


def test_without_a_way_to_the_very_model_the_numbers_are_said_to_be_an_older_ones(
    apps: Apps, command: Command
) -> None:
    app = apps("", **{"checkpoint.interval_s": 3600, "transaction.max_records": 50})
    stream = events(300)
    app.produce(stream[:150])
    process = app.serve()
    app.wait(process, 150)
    app.stop(process)
    app.produce(stream[150:])
    process = app.serve()
    app.wait(process, 300)
    process.kill()
    process.wait()
    first, second = sorted((app.folder / "log.db.checkpoints" / app.config.app.name / "0").glob("*.ckpt"))
    header, sections = unseal(first.read_bytes())
    other = logistic()
    other.learn_one({"f0": 1.0}, True)
    first.write_bytes(seal(header, {**sections, "model": dump_model(other)}))
    name_anew(app.config.log.path, app.config.topics.journal, first)
    found = orjson.loads(command.ok("explain", "e10", "--json", *words(app)))
    assert (found["model"]["exact"], found["model"]["why"]) == (
        False,
        "the prediction comes out different in this process",
    )
    second.write_bytes(seal(header, sections))  # not the one that the journal names
    forget(app, app.config.topics.journal, 4)
    found = orjson.loads(command.ok("explain", "e280", "--json", *words(app)))
    assert found["model"]["exact"] is False
    assert found["model"]["learned"] == 0
    assert "no longer holds the entries from 1 on" in found["model"]["why"]
    assert "older model" in command.ok("explain", "e280", *words(app))


def test_contributions_add_up_to_what_the_model_makes_its_answer_of() -> None:
    regression = preprocessing.StandardScaler() | linear_model.LinearRegression(intercept_lr=0.1)
    many = compose.Pipeline(
        preprocessing.StandardScaler(), multiclass.OneVsRestClassifier(linear_model.LogisticRegression())
    )
    for at in range(200):
        x = {"a": at % 7, "b": (at * 3) % 11}
        regression.learn_one(x, 2.0 * x["a"] - x["b"])
        many.learn_one(x, "low" if x["a"] < 2 else "mid" if x["a"] < 5 else "high")
    x = {"a": 6, "b": 1}
    found = contributions(regression, x, None)
    assert found is not None
    assert found.total == pytest.approx(regression.predict_one(x), rel=1e-12)
    assert found.intercept + sum(part.contribution for part in found.parts) == pytest.approx(found.total)
    best = contributions(many, x, many.predict_one(x))
    assert best is not None
    assert best.label == "high"
    assert contributions(tree.HoeffdingTreeClassifier(), x, None) is None
    assert contributions(linear_model.SoftmaxRegression(), x, "high") is None


def test_a_place_is_topic_partition_offset() -> None:
    assert parse_place("my-events-3-17") == Place("my-events", 3, 17)
    with pytest.raises(ConfigError, match="write TOPIC-PARTITION-OFFSET"):
        parse_place("events-17")


def test_a_label_of_the_labels_topic_is_found_with_its_delay(
    apps: Apps, backend: str, command: Command
) -> None:
    app = apps(backend, labels=1)
    stream = events(120)
    labels = [{"id": e["id"], "label": e.pop("label"), "ts": e["ts"] + 30} for e in stream]
    app.produce(stream[:100])
    app.admin.append(app.labels, app.producer_records(labels[:90]))
    app.produce(stream[100:])
    process = app.serve()
    app.wait(process, 120)
    app.stop(process)
    Path("streamlearn.toml").write_text(f'[topics]\ninput = "{app.inputs[0]}"\nlabels = "{app.labels}"\n')
    found = orjson.loads(command.ok("explain", "e85", "--json", *words(app)))
    where = f"{app.labels} partition 0 offset 85"
    assert found["label"] == {"label": labels[85]["label"], "where": where, "delay_s": 30.0}
    assert [(one["outcome"], one["where"]) for one in found["labels"]["records"]] == [("label.joined", where)]
    found = orjson.loads(command.ok("explain", "e110", "--json", *words(app)))
    assert found["labels"] == {"state": "waiting", "records": []}
    assert (found["label"], found["model"]["exact"]) == (None, True)
    assert found["model"]["learned"] == found["prediction"]["model"]["learned"]


def rows_at(app: App, topic: str, *values: dict[str, Any]) -> None:
    app.admin.append(topic, app.producer_records(values))


def labels_taken(app: App, wanted: int) -> None:
    """Until the journal covers so many records of the labels topic: they have no outcome of their own."""
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        entries = [entry for r in app.records(app.config.topics.journal) if (entry := journalled(r))]
        runs = [run for entry in entries for run in entry.ranges if run.topic == app.labels]
        if sum(run.next - run.first for run in runs) >= wanted:
            return
        time.sleep(0.02)
    raise AssertionError(app.log[-3000:])


def labels_of(
    app: App, command: Command, *which: object
) -> tuple[Any, list[tuple[Any, str, list[str]]], str]:
    """The label, each record of the labels topic with its outcome and its events, and the state."""
    found = orjson.loads(command.ok("explain", *which, "--json", *words(app)))
    records = [
        (one["label"], one["outcome"], [e["id"] for e in one["events"]]) for one in found["labels"]["records"]
    ]
    return found["label"] and found["label"]["label"], records, found["labels"]["state"]


def event_at(ident: str, ts: int, **more: Any) -> dict[str, Any]:
    return {"id": ident, "ts": ts, "features": {"a": 1.0}, **more}


T = 1_700_000_000


def test_the_label_is_the_one_that_the_services_joiner_joined(apps: Apps, command: Command) -> None:
    app = apps("", labels=1, **{"labels.ttl": "1h", "labels.early_ttl": "10m", "labels.default": "true"})
    events, labels = app.inputs[0], app.labels
    process = app.serve()
    steps: list[tuple[str, dict[str, Any]]] = [
        (events, event_at("e1", T)),
        (labels, {"id": "e1", "label": True, "ts": T + 10}),
        (events, event_at("e1", T + 600)),  # the same id again, and a label for it
        (labels, {"id": "e1", "label": False, "ts": T + 610}),
        (labels, {"id": "e1", "label": True, "ts": T + 611}),  # a second one
        (labels, {"id": "soon", "label": False, "ts": T + 620}),
        (labels, {"id": "never", "label": False, "ts": T + 620}),
        (events, event_at("soon", T + 625)),
        (events, event_at("lost", T + 630)),
        (events, event_at("odd", T + 640)),
        (labels, {"id": "odd", "label": "x", "ts": T + 650}),  # no label of this stream
        (events, event_at("inside", T + 660, label=False)),
        (labels, {"id": "inside", "label": True, "ts": T + 670}),
        (events, event_at("clock", T + 4255)),  # ends the waiting of what is older than an hour
        (labels, {"id": "lost", "label": False, "ts": T + 4256}),
        (events, event_at("waits", T + 4257)),
        (events, event_at("never", T + 4258)),
    ]
    for at, (topic, value) in enumerate(steps):
        rows_at(app, topic, value)
        app.wait(process, sum(topic == events for topic, _ in steps[: at + 1]) + (at >= 10))
        if topic == labels:
            labels_taken(app, sum(topic == labels for topic, _ in steps[: at + 1]))
    app.stop(process)
    assert labels_of(app, command, "e1") == (
        False,
        [(True, "label.joined", ["e1"]), (False, "label.joined", ["e1"]), (True, "label.duplicate", [])],
        "joined",
    )
    assert labels_of(app, command, "--at", f"{events}-0-0")[0] is True
    assert labels_of(app, command, "soon") == (False, [(False, "label.joined", ["soon"])], "joined")
    assert labels_of(app, command, "lost") == (True, [(False, "label.late", [])], "expired")
    assert labels_of(app, command, "odd") == (True, [("x", "dlq.label.label_type", [])], "expired")
    assert labels_of(app, command, "inside") == (False, [(True, "label.duplicate", [])], "inside")
    assert labels_of(app, command, "waits") == (None, [], "waiting")
    assert labels_of(app, command, "never") == (None, [(False, "label.orphan", [])], "waiting")
    text = command.ok("explain", "e1", *words(app))
    assert f"label      false, {labels} partition 0 offset 1, 10.0 s after it\n" in text
    assert f"label.joined: true, {labels} partition 0 offset 0; it joined e1 ({events}-0-0)" in text
    assert "[labels] default, as none came within ttl" in command.ok("explain", "lost", *words(app))


@pytest.mark.parametrize("join", ["group", "interval"])
def test_all_events_that_a_label_of_many_joined_are_shown(apps: Apps, command: Command, join: str) -> None:
    app = apps("", labels=1, **{"labels.join": join, "event.group": "group", "event.key": "key"})
    span = {"from": T, "to": T + 4} if join == "interval" else {}
    who = {"key": "k", "group": "g"}
    process = app.serve()
    app.produce([event_at(f"e{n}", T + n, **who) for n in range(3)])
    app.wait(process, 3)
    time.sleep(0.5)  # a checkpoint holds what waits
    rows_at(app, app.labels, {**who, **span, "label": True, "ts": T + 5})
    labels_taken(app, 1)
    app.produce([event_at("e3", T + 3, **who), event_at("e4", T + 4, key="k")])
    app.wait(process, 5)
    app.stop(process)
    records = [(True, "label.joined", ["e0", "e1", "e2", "e3"])]
    for ident in ("e0", "e2", "e3"):
        assert labels_of(app, command, ident) == (True, records, "joined")
    state = "waiting" if join == "interval" else "unnamed"
    assert labels_of(app, command, "e4") == (None, [], state)
    assert "e0 (" in command.ok("explain", "e2", *words(app))
