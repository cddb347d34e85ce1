"""Labels of many events under faults: transactions end inside them, and nothing is lost or different."""

import random
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from river import base

from streamlearn.errors import NotOwner, StreamlearnError, Unknown
from streamlearn.log.port import TopicSpec
from tests.faulty_log import Fault, Harness, Killed, fails, is_fenced, stops
from tests.test_faults import logistic, one_fault

RULES: dict[str, Any] = {
    "topics.labels": "labels",
    "labels.join": "group",
    "event.group": "group",
    "transaction.max_ms": 1,
}
GROUP = 400


class Poisoned(base.Classifier):
    """Counts what it learns, and raises at one event."""

    def __init__(self) -> None:
        self.learned = 0.0

    def predict_proba_one(self, x: Any) -> dict[bool, float]:
        return {True: 1 / (2 + self.learned), False: 1 - 1 / (2 + self.learned)}

    def learn_one(self, x: Any, y: Any) -> None:
        time.sleep(0.0001)
        self.learned += x["a"]
        if x["b"] in (350.0, 999.0):
            raise RuntimeError("poisoned")


def events(group: str, count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"{group}{n}", "ts": 1e9, "features": {"a": n % 7 / 7, "b": float(n)}, "group": group}
        for n in range(count)
    ]


def app_of(folder: Path, model: Any) -> Harness:
    app = Harness(folder, model=model, **RULES)
    app.admin.create([TopicSpec("labels", 1)])
    return app


def fed(app: Harness, group: str, count: int) -> None:
    """A group, and after everything before it its label."""
    app.produce(events(group, count))
    app.run()
    app.produce([{"group": group, "label": len(group) % 2 == 0}], topic="labels")


def answers(app: Harness) -> list[tuple[str, float, int]]:
    return [(p["id"], p["probabilities"]["true"], p["model"]["learned"]) for p in app.predictions()]


def expected() -> list[tuple[str, float, int]]:
    model, learned, found = logistic(), 0, []
    for group, count in (("g", GROUP), ("gg", GROUP), ("ggg", 5)):
        for event in events(group, count):
            found.append((event["id"], model.predict_proba_one(event["features"])[True], learned))
        for event in events(group, count if group != "ggg" else 0):
            model.learn_one(event["features"], len(group) % 2 == 0)
            learned += 1
    return found


def audit(app: Harness) -> None:
    app.run()
    app.check_checkpoints()
    assert answers(app) == expected()
    journal = app.journal()
    assert sum(entry.carried > 0 for entry in journal) > 2
    in_parts = [entry for entry in journal if entry.begun or entry.carried]
    assert sum(entry.begun + entry.carried for entry in in_parts) == 2 * GROUP


@pytest.mark.parametrize(
    "seed", [*range(15), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(15, 100))]
)
def test_any_two_faults_inside_labels_of_many_events_change_nothing(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    app = app_of(tmp_path, logistic)
    for group in ("g", "gg"):
        fed(app, group, GROUP)
        with suppress(Killed, StreamlearnError, NotOwner):  # a process may end; what it leaves must be true
            app.run(one_fault(rng), one_fault(rng), **{"checkpoint.interval_s": rng.choice([0.001, 3600])})
        app.check_checkpoints()
        app.run()
    app.produce(events("ggg", 5))
    audit(app)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("publish", 2, fails(Unknown("lost")), "before"),
        Fault("publish", 2, fails(Unknown("lost")), "after"),
        Fault("publish", 2, fails(Killed()), "after"),
        Fault("publish", 2, is_fenced, "before"),
        Fault("publish", 2, stops, "before"),
    ],
)
def test_a_transaction_that_ends_inside_a_label_is_settled_as_any_other(tmp_path: Path, fault: Fault) -> None:
    app = app_of(tmp_path, logistic)
    for group in ("g", "gg"):
        fed(app, group, GROUP)
        with suppress(Killed):
            app.run(fault)
        app.check_checkpoints()
        app.run()
    app.produce(events("ggg", 5))
    audit(app)


def only_the_first_checkpoint(app: Harness) -> None:
    for checkpoint in (app.folder / "log.db.checkpoints" / "app" / "0").glob("*.ckpt"):
        if int(checkpoint.stem[:12]) > 0:
            checkpoint.unlink()


def undone_after_a_label(folder: Path, size: int) -> tuple[Harness, bool]:
    """An app whose model raised at the record after a label of `size` events, and whether that label ended in
    the very transaction of the record: that is a matter of time.
    """
    folder.mkdir()
    app = app_of(folder, Poisoned)
    fed(app, "g", size)
    bad = {"id": "bad", "ts": 1e9, "features": {"a": 1.0, "b": 999.0}, "group": "z", "label": True}
    app.produce([bad, *events("h", 3)])
    app.run()
    (undone,) = [entry for entry in app.journal() if entry.skips]
    return app, undone.carried > 0


def test_an_undo_after_the_end_of_a_label_does_that_end_again(tmp_path: Path) -> None:
    for size in range(300, 500, 10):
        app, ended_in_it = undone_after_a_label(tmp_path / str(size), size)
        if ended_in_it:
            break
    else:
        pytest.fail("no label ended in the transaction of the record that raised")
    assert sum(entry.begun + entry.carried for entry in app.journal()) == size
    only_the_first_checkpoint(app)
    app.produce(events("i", 3))
    app.run()
    assert [learned for *_, learned in answers(app)][-6:] == [size] * 6
    assert len({answer for _, answer, _ in answers(app)[-6:]}) == 1


@pytest.mark.parametrize("killed", [False, True])
def test_a_raise_in_what_was_left_of_a_label_keeps_what_was_committed(tmp_path: Path, killed: bool) -> None:
    app = app_of(tmp_path, Poisoned)
    fed(app, "g", GROUP)
    with suppress(Killed):
        app.run(Fault("publish", 5, fails(Killed()), "after") if killed else Fault("trim", 99, stops))
    app.run()
    (given_up,) = [entry for entry in app.journal() if entry.skips]
    assert (given_up.ranges, given_up.carried, given_up.begun) == ([], 0, 0)
    kept = sum(entry.begun + entry.carried for entry in app.journal())
    assert 0 < kept <= 350
    assert len(app.records(app.config.topics.dlq)) == 1
    app.produce(events("h", 3))
    app.run()  # from a checkpoint of the end
    only_the_first_checkpoint(app)
    app.produce(events("i", 3))
    app.run()  # redone from the beginning, the skip included
    assert [learned for *_, learned in answers(app)][-6:] == [kept] * 6
    assert len({answer for _, answer, _ in answers(app)[-6:]}) == 1
