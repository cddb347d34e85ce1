"""A commit without an answer takes the one recovery path, from the process' own last snapshot, and soon."""

import itertools
import random
import time
from pathlib import Path
from typing import Any

import pytest
from river import forest, linear_model, preprocessing

from streamlearn.errors import Stop, Unknown, Unreachable
from streamlearn.service.task import SNAPSHOT_S
from tests.faulty_log import Fault, Faults, Harness, fails
from tests.test_faults import audit, events, expected, logistic, published

IDLE_S = 0.0025
"""What ARF(10) takes to predict and learn one event where nothing else runs."""


def arf() -> Any:
    return forest.ARFClassifier(n_models=10, seed=1)


class Slow(linear_model.LogisticRegression):  # type: ignore[misc]
    """Takes its time."""

    def learn_one(self, x: dict[str, Any], y: Any) -> None:
        time.sleep(0.002)
        super().learn_one(x, y)


def wide_events(n: int) -> list[dict[str, Any]]:
    rng = random.Random(3)
    made = []
    for i in range(n):
        x = {f"f{j}": rng.gauss(0, 1) for j in range(8)}
        made.append({"id": f"e{i}", "ts": 1.7e9 + i, "features": x, "label": x["f0"] * x["f1"] + x["f2"] > 0})
    return made


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_forest_predicts_again_two_seconds_after_a_commit_without_an_answer(
    tmp_path: Path, when: str
) -> None:
    app = Harness(tmp_path, model=arf)
    stream = wide_events(1500)
    app.produce(stream)
    moments: dict[str, float] = {}

    def note(name: str) -> Any:
        return lambda _: moments.setdefault(name, time.monotonic())

    def silence(_: Faults) -> None:
        moments["lost"] = time.monotonic()
        raise Unknown("no answer")

    def away(_: Faults) -> None:
        if "back" not in moments:
            raise Unreachable("no checkpoint helps")

    reads = itertools.count()
    lost = 25
    app.run(
        *(Fault("read", call, lambda _: next(reads)) for call in range(lost)),
        *(Fault("store.write", call, away) for call in range(1, 200)),
        Fault("publish", 3, note("began")),
        Fault("publish", lost, silence, when),
        Fault("publish", lost + 1, note("back"), "after"),
    )
    step_s = (moments["lost"] - moments["began"]) / (50 * (lost - 3))
    back_s = moments["back"] - moments["lost"]
    print(f"step {step_s * 1000:.2f} ms, back after {back_s:.2f} s")
    assert next(reads) <= 2 * SNAPSHOT_S / (50 * step_s) + 3, "the last snapshot is young"
    assert back_s <= 2.0 * max(1.0, step_s / IDLE_S)
    assert [one["id"] for one in app.predictions()] == [one["id"] for one in stream]


def test_a_commit_without_an_answer_every_three_seconds_does_not_stand_in_the_way(tmp_path: Path) -> None:
    app = Harness(tmp_path, model=lambda: preprocessing.StandardScaler() | Slow())
    stream = events(3000)
    app.produce(stream)
    lost_s = [time.monotonic()]

    def silence(faults: Faults) -> None:
        faults.left.append(Fault("publish", faults.calls["publish"] + 1, silence))
        if time.monotonic() - lost_s[-1] >= 3.0:
            lost_s.append(time.monotonic())
            raise Unknown("no answer")

    began_s = time.monotonic()
    app.run(Fault("publish", 3, silence))
    took_s = time.monotonic() - began_s
    assert len(lost_s) > 2
    assert published(app) == expected(stream)
    print(f"{len(lost_s) - 1} lost in {took_s:.1f} s")


def test_the_same_failure_three_times_stops_the_service_by_its_name(tmp_path: Path) -> None:
    app = Harness(tmp_path, model=logistic)
    stream = events(500)
    app.produce(stream)
    with pytest.raises(Stop, match=r"entry 4 was sent 3 times.* in the same way: the batch is cursed"):
        app.run(*(Fault("publish", call, fails(Unknown("the batch is cursed"))) for call in (4, 5, 6)))
    app.check_checkpoints()
    audit(app, stream)


def test_three_failures_of_other_entries_or_other_kinds_stop_nothing(tmp_path: Path) -> None:
    app = Harness(tmp_path, model=logistic)
    stream = events(500)
    app.produce(stream)
    same = [Fault("publish", call, fails(Unknown("no answer")), "after") for call in (2, 4, 6, 8)]
    others = [Fault("publish", call, fails(Unknown(f"no answer to {call}"))) for call in (9, 10, 11)]
    app.run(*same, *others)
    audit(app, stream)


def redone(app: Harness, *faults: Fault) -> int:
    """How many ranges were read again in a run that loses the answer to a commit."""
    reads = itertools.count()
    counted = [Fault("read", call, lambda _: next(reads)) for call in range(100)]
    app.run(*faults, *counted)
    return next(reads)


def test_recovery_begins_with_the_last_snapshot_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamlearn.service.task.SNAPSHOT_S", 0.0)
    monkeypatch.setattr("streamlearn.service.task.WORK_PER_SNAPSHOT", 0)
    app = Harness(tmp_path, model=logistic)
    stream = events(500)
    app.produce(stream)
    assert redone(app, Fault("publish", 8, fails(Unknown("no answer")), "after")) == 1, "the entry alone"
    audit(app, stream)


def test_a_snapshot_that_the_journal_does_not_reach_any_more_says_that_it_lost_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamlearn.service.task.SNAPSHOT_S", 0.0)
    monkeypatch.setattr("streamlearn.service.task.WORK_PER_SNAPSHOT", 0)
    app = Harness(tmp_path, model=logistic)
    app.produce(events(500))

    def lose(faults: Faults) -> None:
        app.cut_tail(app.config.topics.journal, 5)
        raise Unknown("no answer")

    with pytest.raises(Stop, match="the journal lost data"):
        app.run(Fault("publish", 8, lose, "instead"))
