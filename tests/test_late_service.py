"""Labels on a topic of their own, through real processes on both backends."""

import signal
import time
from collections.abc import Iterable, Iterator
from typing import Any

import orjson
import pytest
from river import datasets, linear_model, preprocessing, stream, tree

from streamlearn.core.journal import journalled
from streamlearn.core.records import Record
from tests.command import Command, command  # noqa: F401
from tests.service_process import App, Apps, apps, every_backend  # noqa: F401

Told = tuple[int, dict[str, Any], Any]
"""A question (label None) or its answer: the event's number, its features, the label."""


def told(rows: Iterable[tuple[dict[str, Any], Any]], delay: int) -> Iterator[Told]:
    """River's own simulation of late labels, one row a second."""
    timed = (({**x, "t": n}, y) for n, (x, y) in enumerate(rows))
    for number, x, y, *_ in stream.simulate_qa(timed, moment="t", delay=delay):
        yield number, {name: value for name, value in x.items() if name != "t"}, y


def drifting(count: int) -> list[tuple[dict[str, Any], Any]]:
    """Two concepts that are each other's opposite, in turn."""
    rows = []
    for n, (x, y) in enumerate(datasets.synth.SEA(variant=0, seed=5).take(count)):
        rows.append(({f"x{name}": value for name, value in x.items()}, bool(y) != bool(n // 2500 % 2)))
    return rows


def produced(app: App, stream_of: list[Told], at_once: int = 50) -> None:
    """Send questions to the events and answers to the labels, `at_once` of both in turn."""
    for start in range(0, len(stream_of), at_once):
        events, labels = [], []
        for number, x, y in stream_of[start : start + at_once]:
            if y is None:
                events.append({"id": f"e{number}", "ts": number, "features": x})
            else:
                labels.append({"id": f"e{number}", "ts": number, "label": y})
        app.produce(events)
        if labels:
            app.admin.append(app.labels, app.producer_records(labels))


def killed_and_restarted(app: App, outcomes: int, kills: int) -> None:
    for n in range(kills):
        process = app.serve()
        app.wait(process, outcomes * (n + 1) // (kills + 2))
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = app.serve()
    app.wait(process, outcomes)
    settled(app)
    app.stop(process)


def settled(app: App) -> None:
    """Until the labels that came after the last event are learned too: the positions stand at the end."""
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        ends = app.admin.topics([app.labels])[app.labels].end
        reached = {(run.topic, run.partition): run.next for entry in journal(app) for run in entry.ranges}
        if all(reached.get((app.labels, n), 0) >= end - 1 for n, end in enumerate(ends)):
            return
        time.sleep(0.2)
    raise AssertionError(f"labels were left unread; {app.log[-2000:]}")


def journal(app: App) -> list[Any]:
    found = [journalled(record) for record in app.records(app.config.topics.journal)]
    return [entry for entry in found if entry is not None]


def in_journal_order(app: App) -> Iterator[Record]:
    """The records as the journal says they were stepped."""
    by_place = {
        (r.topic, r.partition, r.offset): r for topic in (*app.inputs, app.labels) for r in app.records(topic)
    }
    for entry in journal(app):
        for run in entry.ranges:
            for offset in range(run.first, run.next):
                if record := by_place.get((run.topic, run.partition, offset)):
                    yield record


def plain_loop(app: App, model: Any) -> list[Any]:
    """What a plain river loop answers that takes events and labels in the journal's order."""
    answers, seen = [], {}
    for record in in_journal_order(app):
        body = orjson.loads(record.value or b"")
        if record.topic == app.labels:
            model.learn_one(seen.pop(body["id"]), body["label"])
        else:
            seen[body["id"]] = body["features"]
            proba = model.predict_proba_one(body["features"])
            answers.append((body["id"], max(proba, key=proba.get) if proba else None, proba.get(True, 0.0)))
    return answers


def published(app: App) -> list[Any]:
    return [(p["id"], p["prediction"], p["probabilities"].get("true", 0.0)) for p in app.predictions()]


def accuracy(answers: Iterable[tuple[str, Any, float]], rows: list[tuple[dict[str, Any], Any]]) -> float:
    return sum(said == rows[int(ident[1:])][1] for ident, said, _ in answers) / len(rows)


def test_a_backlog_of_events_and_late_labels_is_learned_in_time_order(apps: Apps, backend: str) -> None:  # noqa: F811
    """10,000 events and their labels, 200 events late, wait when the service starts; it is killed twice.

    In time order the accuracy is 0.847; with labels in blocks of 500 it is 0.766, in blocks of 2,000 0.485.
    """
    rows = drifting(10_000)
    app = apps(backend, labels=1, **{"model.use": "app_models:adaptive"})
    (app.folder / "app_models.py").open("a").write(
        "\n\ndef adaptive():\n    return tree.HoeffdingAdaptiveTreeClassifier(grace_period=50, seed=1)\n"
    )
    produced(app, list(told(rows, 200)))
    killed_and_restarted(app, len(rows), kills=2)
    ours = published(app)
    assert len(ours) == len(rows)

    model = tree.HoeffdingAdaptiveTreeClassifier(grace_period=50, seed=1)
    in_time_order = []
    for number, x, y in told(rows, 200):
        if y is None:
            in_time_order.append((f"e{number}", model.predict_one(x), 0.0))
        else:
            model.learn_one(x, y)
    assert accuracy(ours, rows) == pytest.approx(accuracy(in_time_order, rows), abs=0.025)
    assert ours == plain_loop(app, tree.HoeffdingAdaptiveTreeClassifier(grace_period=50, seed=1))


def test_a_replay_with_late_labels_equals_rivers_evaluation_to_the_last_digit(
    apps: Apps,  # noqa: F811
    backend: str,
    command: Command,  # noqa: F811
) -> None:
    """At full speed into both topics, caught up afterwards, killed in the middle: no order is lost."""
    app = apps(backend, labels=1, **{"scores.every": 1250})
    where = ["-b", backend] if backend else ["--db", str(app.folder / "log.db")]
    late = ["--labels-topic", app.labels, "--delay", "37"]
    command.ok("replay", "river:Phishing", "-t", app.inputs[0], *late, *where)
    killed_and_restarted(app, 1250, kills=1)

    rows = list(datasets.Phishing())
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    answers = []
    for number, x, y in told(rows, 37):
        if y is None:
            proba = model.predict_proba_one(x)
            answers.append((str(number), max(proba, key=proba.get), proba[True]))
        else:
            model.learn_one(x, y)
    assert published(app) == answers
    (scores,) = app.scores()
    assert scores["labels"] == 1250 - 37
    told_to_people = command.ok("scores", "-n", app.config.app.name, *where)
    assert "1,250 events, 1,2" in told_to_people  # or of a checkpoint after more of the labels
    assert "the model beats no_change in accuracy of the newest labels: 0." in told_to_people
    assert "events wait for their label" in told_to_people
