"""A label of many events with a slow model, through real processes: small transactions, no standstill."""

import os
import re
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from river import linear_model, preprocessing

from streamlearn.core.journal import Entry, journalled
from streamlearn.env import RealEnv
from streamlearn.log.backends import open_log
from tests.fork_server import Process
from tests.service_process import App, Apps, apps, backend  # noqa: F401

RULES: dict[str, Any] = {
    "model.use": "app_models:slow",
    "event.group": "group",
    "labels.join": "group",
    "transaction.max_ms": 100,
}
LATER = 10


def features(n: int) -> dict[str, float]:
    return {"a": n % 7 / 7, "b": n % 11 / 11}


def sent(app: App, count: int, poison: int = -1) -> None:
    """Events of one group that wait for their label."""
    events = [{"id": f"e{n}", "ts": 1e9, "features": features(n), "group": "g"} for n in range(count)]
    if poison >= 0:
        events[poison]["features"] = {**features(poison), "poison": 1.0}
    app.produce(events)


def told(app: App, count: int) -> None:
    """Their label, and later events of another group."""
    app.admin.append(app.labels, app.producer_records([{"group": "g", "label": True}]))
    time.sleep(0.5)  # the merge takes records in the order of their arrival
    app.produce(
        {"id": f"later{n}", "ts": 1e9, "features": features(count + n), "group": f"h{n}"}
        for n in range(LATER)
    )


def entries(app: App) -> list[Entry]:
    found = [journalled(record) for record in app.records(app.config.topics.journal)]
    return [entry for entry in found if entry is not None]


def until(true: Callable[[], bool], process: Process, app: App, within_s: float = 60) -> None:
    deadline_s = time.monotonic() + within_s
    while not true():
        assert process.poll() is None, app.log[-3000:]
        assert time.monotonic() < deadline_s, app.log[-3000:]
        time.sleep(0.1)


def undisturbed(learned: int) -> list[float]:
    """What a plain river loop answers later, when it has learned so many events of the group."""
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    for n in range(learned):
        model.predict_proba_one(features(n))
    for n in range(learned):
        model.learn_one(features(n), True)
    return [model.predict_proba_one(features(learned + n)).get(True, 0.0) for n in range(LATER)]


def answered_later(app: App) -> list[float]:
    later = {p["id"]: p["probabilities"].get("true", 0.0) for p in app.predictions()}
    return [later[f"later{n}"] for n in range(LATER)]


def learned_in(some: list[Entry]) -> int:
    return sum(entry.begun + entry.carried for entry in some)


def opened_with(app: App) -> int:
    """How many events the newest process had learned when it had recovered."""
    return int(re.findall(r"shard.opened.*?learned\W+(\d+)", app.log)[-1])


@pytest.mark.parametrize("interval_s", [0.3, pytest.param(3600, marks=pytest.mark.slow)])
def test_a_label_of_many_events_goes_on_where_a_killed_process_had_come(
    apps: Apps,  # noqa: F811
    backend: str,  # noqa: F811
    interval_s: float,
) -> None:
    count = 1000
    app = apps(backend, labels=1, **RULES, **{"checkpoint.interval_s": interval_s})
    sent(app, count)
    process = app.serve()
    app.wait(process, count)
    told(app, count)
    until(lambda: sum(entry.carried > 0 for entry in entries(app)) > 3, process, app)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = learned_in(entries(app))
    assert 0 < before < count
    process = app.serve()
    app.wait(process, count + LATER)
    assert learned_in(entries(app)) == count, "no event of the label was learned twice, none was left out"
    assert before <= opened_with(app) < count, "the killed process' transactions stand"
    assert answered_later(app) == undisturbed(count)
    app.stop(process)
    assert "redo.diverged" not in app.log


def test_a_stop_inside_a_label_is_quick_and_the_next_start_goes_on(apps: Apps) -> None:  # noqa: F811
    count = 3000
    app = apps("", labels=1, **RULES)
    sent(app, count)
    process = app.serve()
    app.wait(process, count)
    told(app, count)
    until(lambda: sum(entry.carried > 0 for entry in entries(app)) > 1, process, app)
    app.stop(process)
    assert 0 < learned_in(entries(app)) < count
    process = app.serve()
    app.wait(process, count + LATER)
    assert answered_later(app) == undisturbed(count)
    app.stop(process)


def test_a_model_that_raises_inside_a_label_that_was_left_loses_the_rest_of_it(apps: Apps) -> None:  # noqa: F811
    count, poison = 2000, 1500
    app = apps("", labels=1, **RULES, **{"checkpoint.interval_s": 3600})
    sent(app, count, poison)
    process = app.serve()
    app.wait(process, count)
    told(app, count)
    app.wait(process, count + LATER + 1)
    (letter,) = app.dead_letters()
    assert letter.value == b'{"group":"g","label":true}'
    kept = learned_in(entries(app))
    assert 0 < kept <= poison
    later = answered_later(app)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process = app.serve()
    app.produce([{"id": "again", "ts": 1e9, "features": features(count), "group": "i"}])
    app.wait(process, count + LATER + 2)
    assert "redo.diverged" not in app.log
    assert app.predictions()[-1]["model"]["learned"] == kept
    assert app.predictions()[-1]["probabilities"]["true"] == later[0]
    app.stop(process)


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("count", "learn_s"), [(3000, 0.001), pytest.param(45_000, 0.002, marks=pytest.mark.slow)]
)
def test_two_replicas_live_through_a_label_of_many_events_without_a_fence(
    apps: Apps,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    learn_s: float,
) -> None:
    monkeypatch.setenv("LEARN_S", str(learn_s))
    app = apps(os.environ["STREAMLEARN_TEST_KAFKA"], labels=1, **RULES)
    sent(app, count)
    process = app.serve()
    app.wait(process, count)
    standby = app.serve(**{"app.replica": "two"})
    log = open_log(RealEnv(), app.config)
    until(lambda: log.others() == 2, standby, app)
    log.close()
    time.sleep(10)  # more than a session timeout, in which they may hand the shard over
    told(app, count)
    until(lambda: learned_in(entries(app)) > 0, process, app)
    said = len(app.log)
    until(lambda: learned_in(entries(app)) == count, process, app, within_s=60 + 3 * count * learn_s)
    app.wait(process, count + LATER)
    assert sum(entry.carried > 0 for entry in entries(app)) > count * learn_s / 0.5
    assert answered_later(app) == undisturbed(count)
    assert standby.poll() is None
    for event in ("shard.fenced", "shard.not_owned", "shard.opened"):
        assert event not in app.log[said:]
