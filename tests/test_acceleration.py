"""The fused way, on trial beside river's and then in its place: no bit differs, and a fault ends it alone."""

import pickle
import signal
from typing import Any

import pytest
from river import linear_model, optim, preprocessing, tree

from streamlearn.core.journal import journalled
from streamlearn.core.model import acceleration, fused_source
from streamlearn.core.model.acceleration import TRIAL, TRIAL_MAX
from streamlearn.core.model.fused import awkward_event
from streamlearn.core.model.learner import Learner
from tests.service_process import Apps, apps  # noqa: F401


def made(kind: Any = linear_model.LogisticRegression) -> Any:
    return preprocessing.StandardScaler() | kind()


def accelerated(kind: Any = linear_model.LogisticRegression) -> Learner:
    learner = Learner(made(kind))
    learner.accelerate()
    return learner


def taught(learners: list[Learner], events: range, late: bool = False) -> None:
    """Every learner answers and learns alike, to the last bit."""
    logistic = learners[0].task == "classification"
    for number in events:
        x, y = awkward_event(number, logistic)
        answers = [repr(learner.predict(x, y)) for learner in learners]
        if late:
            x = awkward_event(number // 2, logistic)[0]
        for learner in learners:
            learner.learn(x, y)
        assert len(set(answers)) == 1
        assert len({pickle.dumps(learner.model) for learner in learners}) == 1


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", [linear_model.LogisticRegression, linear_model.LinearRegression])
def test_the_fused_way_takes_over_and_changes_no_bit(kind: Any, late: bool) -> None:
    learner, plain = accelerated(kind), Learner(made(kind))
    taught([learner, plain], range(TRIAL), late)
    assert learner.fused is None
    taught([learner, plain], range(TRIAL, 2 * TRIAL), late)
    assert learner.fused is not None
    assert learner.acceleration is not None
    assert learner.acceleration.disabled == ""


def test_a_step_in_one_go_may_come_between() -> None:
    learner, plain = accelerated(), Learner(made())
    taught([learner, plain], range(2 * TRIAL))
    assert learner.fused is not None
    x, y = awkward_event(0, True)
    answer = plain.predict(x, y)
    plain.learn(x, y)
    assert learner.fused.step(x, y) == answer.detail["true"]
    taught([learner, plain], range(100))


@pytest.mark.parametrize(
    "fault", [("18.0", "0.5"), ("w0 - rate", "w0 - 1.0000001 * rate"), ("v0 + (d * e", "v0 + (d * d")]
)
def test_a_fault_on_trial_ends_the_fused_way_and_no_answer(
    fault: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = fused_source.fused_source
    monkeypatch.setattr(acceleration, "battery", lambda: "")
    monkeypatch.setattr(fused_source, "fused_source", lambda *given: right(*given).replace(*fault))
    fused_source.fused_maker.cache_clear()
    try:
        learner, plain = accelerated(), Learner(made())
        taught([learner, plain], range(3 * TRIAL))
    finally:
        fused_source.fused_maker.cache_clear()
    assert learner.fused is None
    assert learner.acceleration is not None
    assert "of a copy" in learner.acceleration.disabled


def test_a_stream_that_is_hardly_fused_ends_the_trial() -> None:
    learner, plain = accelerated(), Learner(made())
    for number in range(TRIAL_MAX):
        x = {f"f{number % 50}": float(number), f"g{number % 7}": 1.0}
        for each in (learner, plain):
            each.learn(x, number % 3 == 0)
    assert learner.acceleration is not None
    assert "could be fused" in learner.acceleration.disabled
    assert pickle.dumps(learner.model) == pickle.dumps(plain.model)
    taught([learner, plain], range(10))


def test_an_event_that_raises_on_trial_leaves_the_same_state() -> None:
    learner, plain = accelerated(), Learner(made())
    for number in range(3 * TRIAL):
        taught([learner, plain], range(number, number + 1))
        if number % 100 == 50:
            for each in (learner, plain):
                for call in (each.predict, each.learn):
                    with pytest.raises(TypeError):
                        call({"a": 1.0, "b": "text"}, True)
    assert learner.fused is not None


def test_a_battery_with_a_difference_leaves_river_s_own_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceleration, "battery", lambda: "the machine is odd")
    learner = Learner(made())
    calls = learner.predict, learner.learn
    learner.accelerate()
    assert (learner.predict, learner.learn) == calls
    assert learner.acceleration is not None
    assert learner.acceleration.disabled == "the machine is odd"


@pytest.mark.parametrize("model", [tree.HoeffdingTreeClassifier(), made(linear_model.PAClassifier)])
def test_other_models_keep_river_s_own_calls(model: Any) -> None:
    learner = Learner(model)
    calls = learner.predict, learner.learn
    learner.accelerate()
    assert (learner.predict, learner.learn) == calls


def test_a_learner_that_begins_anew_is_accelerated_again() -> None:
    learner, plain = accelerated(), Learner(made())
    for each in (learner, plain):
        each.keep_untaught()
    taught([learner, plain], range(2 * TRIAL))
    for each in (learner, plain):
        assert each.begin_anew()
    assert learner.fused is None
    assert learner.acceleration is not None
    taught([learner, plain], range(2 * TRIAL))
    assert learner.fused is not None
    assert plain.acceleration is None


def test_an_optimizer_that_is_exchanged_goes_river_s_way() -> None:
    learner, plain = accelerated(), Learner(made())
    taught([learner, plain], range(2 * TRIAL))
    for each in (learner, plain):
        each.model["LogisticRegression"].optimizer = optim.SGD(0.5)
    taught([learner, plain], range(2 * TRIAL, 2 * TRIAL + 50))
    for each in (learner, plain):
        each.model["LogisticRegression"].optimizer = optim.Adam()
    taught([learner, plain], range(50))


def test_a_service_that_turns_it_off_and_on_goes_on_in_the_same_era(apps: Apps) -> None:  # noqa: F811
    app = apps("", **{"checkpoint.interval_s": 3600})
    model, expected, sent = made(), [], 0
    for accelerate, is_killed in ((True, True), (False, True), (True, False)):
        rows = [awkward_event(number, True) for number in range(sent, sent + 1500)]
        rows = [(x | {"d": float(x["d"])} if "d" in x else x, bool(y)) for x, y in rows]
        app.produce({"features": x, "label": y} for x, y in rows)
        sent += len(rows)
        for x, y in rows:
            expected.append(model.predict_proba_one(x))
            model.learn_one(x, y)
        process = app.serve(**{"model.accelerate": accelerate})
        app.wait(process, sent)
        if is_killed:
            process.send_signal(signal.SIGKILL)
            process.wait()
        else:
            app.stop(process)
    predictions = app.predictions()
    assert len(predictions) == len(expected)
    for prediction, probabilities in zip(predictions, expected, strict=True):
        assert prediction["probabilities"] == {"false": probabilities[False], "true": probabilities[True]}
    entries = [journalled(record) for record in app.records(app.config.topics.journal)]
    assert [entry.change.why for entry in entries if entry is not None and entry.change] == ["genesis"]
    assert "redo.diverged" not in app.log
