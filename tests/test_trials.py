"""A bad answer is not a bad state: learning on trial, undo, pauses, states that are broken."""

import math
import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from river import base, compose, datasets, feature_extraction, linear_model, preprocessing

import streamlearn
from streamlearn.core.labels.record import LabelSpec
from streamlearn.core.records import ORDER_HEADER, Record
from streamlearn.core.scores.scores import ScoresSpec
from streamlearn.core.shard.commands import FREEZE, THAW, Command, encode_command
from streamlearn.core.shard.facts import published
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.snapshot import fresh_state
from streamlearn.core.shard.state import BROKEN, COMMAND, PAUSE_RECORDS, PAUSED, UNDO_LIMIT, ShardSpec
from streamlearn.core.shard.trials import WARM_UP
from streamlearn.engine.model import model_template
from streamlearn.engine.offline import Offline
from streamlearn.engine.registry import Schemas
from streamlearn.env import RealEnv
from streamlearn.errors import Stop
from streamlearn.log.port import ProducerRecord, TopicSpec
from tests.faulty_log import Fault, Harness, Killed, fails
from tests.service_process import Apps, apps

__all__ = ["apps"]

NOW_MS = 1_800_000_000_000
Event = dict[str, Any]


# --- models ---------------------------------------------------------------------------------------------


class Model(base.Regressor):
    """Answers the mean of what it has learned."""

    def __init__(self) -> None:
        self.total = 0.0
        self.count = 0
        self.calls = 0
        self.asked = 0

    def learn_one(self, x: Event, y: Any) -> None:
        self.calls += 1
        self.total += y
        self.count += 1

    def predict_one(self, x: Event) -> float:
        self.asked += 1
        return self.total / self.count if self.count else 0.0


class RaisesAtCall(Model):
    """Counts its calls, and raises at one of them only."""

    def __init__(self, learn: int = 0, predict: int = 0) -> None:
        super().__init__()
        self.learn = learn
        self.predict = predict

    def learn_one(self, x: Event, y: Any) -> None:
        if self.calls + 1 == self.learn:
            self.calls += 1
            raise RuntimeError("this time")
        super().learn_one(x, y)

    def predict_one(self, x: Event) -> float:
        if self.asked + 1 == self.predict:
            self.asked += 1
            raise RuntimeError("this time")
        return super().predict_one(x)


class RaisesAtEvent(Model):
    """Raises, after it has changed, at events that are poisoned."""

    def learn_one(self, x: Event, y: Any) -> None:
        super().learn_one(x, y)
        if "poison" in x:
            raise RuntimeError("poisoned")

    def predict_one(self, x: Event) -> float:
        answer = super().predict_one(x)
        if "blind" in x:
            raise RuntimeError("blind")
        return answer


class Fragile(Model):
    """An ordinary number breaks it for good."""

    def learn_one(self, x: Event, y: Any) -> None:
        super().learn_one(x, y)
        if x["a"] == 7.0:
            self.total = math.nan


class Slow(Model):
    """Says nothing good before it has learned five events."""

    def predict_one(self, x: Event) -> float:
        return super().predict_one(x) if self.count >= 5 else math.nan


class Never(Model):
    """Has no good answer, ever."""

    def predict_one(self, x: Event) -> float:
        return math.inf


class RaisesAtCalls(Model):
    """Raises at four calls in a row."""

    def learn_one(self, x: Event, y: Any) -> None:
        super().learn_one(x, y)
        if 100 <= self.calls < 104:
            raise RuntimeError("this time")


class Periodic(Model):
    """Raises at each hundredth call."""

    def learn_one(self, x: Event, y: Any) -> None:
        super().learn_one(x, y)
        if self.calls % 100 == 0:
            raise RuntimeError("again")


class Square(Model):
    """Answers a square."""

    def predict_one(self, x: Event) -> float:
        return super().predict_one(x) ** 2


def polynomial() -> Any:
    return feature_extraction.PolynomialExtender() | linear_model.LinearRegression()


# --- streams --------------------------------------------------------------------------------------------


def events(n: int, **wild: Event) -> list[Event]:
    """`wild`: other features of an event by its number, as in `e50={...}`."""
    rng = random.Random(5)
    made = []
    for i in range(n):
        x: Event = {"a": rng.gauss(0, 1), "b": rng.gauss(0, 1)}
        made.append({"id": f"e{i}", "ts": 1.7e9 + i, "features": wild.get(f"e{i}", x), "label": x["a"]})
    return made


WILD = {"a": 1e149, "b": -1e149}


def told_apart(stream: Sequence[Event], delay: int) -> Iterator[tuple[str, Event]]:
    """Events, and their labels `delay` events later; with 0 the labels are inside."""
    for n, event in enumerate([*stream, *[None] * delay]):
        if event is not None:
            yield "events", event if not delay else {k: v for k, v in event.items() if k != "label"}
        if delay and n >= delay:
            late = stream[n - delay]
            yield "labels", {"id": late["id"], "label": late["label"]}


def offline(model: Any, delay: int = 0, **spec: Any) -> Offline:
    fresh = model_template("m", "", {}, [], model, 1)
    labels = LabelSpec("labels", **spec) if delay or spec else None
    shard_spec = ShardSpec(
        fresh.name, fresh.version, 1, labels=labels, scores=ScoresSpec(every=1 << 60), control="control"
    )
    sections = fresh_state(fresh.pickled)
    return Offline(shard_spec, sections, fresh.trusted, Schemas(RealEnv(), ""))


def record(n: int, topic: str, doc: Event | bytes) -> Record:
    return Record(topic, 0, n, NOW_MS, None, doc if isinstance(doc, bytes) else orjson.dumps(doc))


def stepped(subject: Offline, stream: Sequence[Event], delay: int = 0) -> list[Any]:
    """What came of each record: predictions, and the stage and reason of dead letters."""
    found: list[Any] = []
    for n, (topic, doc) in enumerate(told_apart(stream, delay), subject.shard.memory.records):
        for output in published(subject.step(record(n, topic, doc))):
            if output.role == "predictions":
                found.append(orjson.loads(output.value or b""))
            else:
                headers = dict(output.headers)
                name = (headers["__connect.errors.exception.class.name"] or b"").decode()
                found.append(
                    f"{(headers['streamlearn.stage'] or b'').decode()}.{name[len('streamlearn.') :]}"
                )
    return found


def answered(found: list[Any]) -> list[Any]:
    return [one["prediction"] for one in found if isinstance(one, dict) and one["prediction"] is not None]


def letters(found: list[Any]) -> list[str]:
    return [one for one in found if isinstance(one, str)]


# --- trials ---------------------------------------------------------------------------------------------


def test_a_scaler_that_has_seen_nothing_costs_one_answer_and_no_more() -> None:
    stream = [{"features": x, "label": y} for x, y in datasets.Phishing()]
    first, *others = streamlearn.run(preprocessing.MinMaxScaler() | linear_model.LogisticRegression(), stream)
    assert list(first) == ["id", "key", "ts", "prediction", "probabilities", "reason", "model", "source"]
    assert (first["prediction"], first["probabilities"]) == (None, {})
    assert first["reason"] == "output_not_finite"
    model = preprocessing.MinMaxScaler() | linear_model.LogisticRegression()
    expected = []
    for x, y in datasets.Phishing():
        expected.append(model.predict_proba_one(x)[True])
        model.learn_one(x, y)
    assert [one["probabilities"]["true"] for one in others] == expected[1:]


@pytest.mark.parametrize("delay", [0, 3])
def test_without_a_squash_the_answers_are_rivers_too(delay: int) -> None:
    def build() -> Any:
        return preprocessing.MinMaxScaler() | linear_model.LinearRegression()

    stream = [
        {
            "id": f"e{n}",
            "features": {name: value for name, value in x.items() if name != "ordinal_date"},
            "label": y,
        }
        for n, (x, y) in enumerate(datasets.TrumpApproval())
    ]
    subject = offline(build(), delay)
    found = stepped(subject, stream, delay)
    model, expected = build(), []
    for n, event in enumerate([*stream, *[None] * delay]):
        if event is not None:
            expected.append(model.predict_one(event["features"]))
        if n >= delay:
            model.learn_one(stream[n - delay]["features"], stream[n - delay]["label"])
    assert letters(found) == []
    bad = 1 if not delay else delay + 1
    assert [one["prediction"] for one in found[bad:]] == expected[bad:]
    assert [one["reason"] for one in found[:bad]] == ["output_not_finite"] * bad
    assert subject.shard.memory.learned == len(stream)
    assert subject.shard.scores is not None
    assert subject.shard.scores.report()["all"]["model"]["answered"] == len(stream) - bad


@pytest.mark.parametrize("delay", [0, 10])
def test_a_wild_event_is_undone_alone(delay: int) -> None:
    subject = offline(polynomial(), delay)
    found = stepped(subject, events(200, e50=WILD), delay)
    assert len(answered(found)) == 199
    assert letters(found) == ["predict.output_not_finite" if not delay else "learn.output_not_finite"]
    assert (subject.shard.memory.learned, subject.shard.memory.frozen) == (199, "")
    model, stream, expected = polynomial(), events(200, e50=WILD), []
    for n, event in enumerate([*stream, *[None] * delay]):
        if event is not None and n != 50:
            expected.append(model.predict_one(event["features"]))
        if n >= delay and n - delay != 50:
            model.learn_one(stream[n - delay]["features"], stream[n - delay]["label"])
    assert answered(found) == expected


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("delay", [0, 10])
def test_a_service_does_the_same_however_the_stream_is_cut(
    tmp_path: Path, one_by_one: bool, delay: int
) -> None:
    labels = {"topics.labels": "labels"} if delay else {}
    records = 1 if one_by_one else 5000
    app = Harness(tmp_path, model=polynomial, **labels, **{"transaction.max_records": records})
    if delay:
        app.admin.create([TopicSpec("labels", 1)])
    stream = events(200, e50=WILD)
    for n, (topic, doc) in enumerate(told_apart(stream, delay)):
        app.admin.append(topic, [ProducerRecord(None, orjson.dumps(doc), ((ORDER_HEADER, b"%d" % (n + 1)),))])
    app.run()
    expected = stepped(offline(polynomial(), delay), stream, delay)
    found = app.predictions()
    assert [one["prediction"] for one in found] == [
        one["prediction"] for one in expected if isinstance(one, dict)
    ]
    assert len(app.records(app.config.topics.dlq)) == 1
    assert len(app.journal()) > (200 if one_by_one else 0)
    app.check_checkpoints()


def test_a_model_may_need_several_events_before_it_can_say_anything() -> None:
    subject = offline(Slow())
    found = stepped(subject, events(100))
    assert letters(found) == []
    assert [one["prediction"] is None for one in found] == [True] * 5 + [False] * 95
    assert subject.shard.memory.learned == 100


def test_a_model_that_never_has_a_good_answer_stops_the_work_in_the_end() -> None:
    subject = offline(Never())
    with pytest.raises(Stop, match="100 events in a row, the last one with an answer of NaN"):
        stepped(subject, events(8000))
    assert subject.shard.memory.learned == WARM_UP


@pytest.mark.parametrize("delay", [0, 1])
def test_a_wild_label_is_undone_alone(delay: int) -> None:
    stream = events(60)
    stream[20]["label"] = 1e149
    subject = offline(Square(), delay)
    found = stepped(subject, stream, delay)
    assert letters(found) == ["learn.output_not_finite"]
    assert subject.shard.memory.learned == 59
    assert len(answered(found)) == 60 - (not delay)


def test_a_model_is_asked_once_per_event_while_its_answers_are_good() -> None:
    subject = offline(Model())
    stepped(subject, events(50))
    assert subject.shard.learner.model.asked == 50


def test_a_null_answer_needs_no_label() -> None:
    stream = [{key: event[key] for key in ("id", "features")} for event in events(60, e50=WILD)]
    subject = offline(polynomial())
    stepped(subject, events(50))
    found = stepped(subject, stream)
    assert letters(found) == []
    assert [n for n, one in enumerate(found) if one["prediction"] is None] == [50]


# --- undo -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "model"), [("learn", {"learn": 100}), ("predict", {"predict": 100})])
@pytest.mark.parametrize("delay", [0, 5])
def test_a_model_that_counts_its_calls_and_raises_at_one_costs_one_record(
    stage: str, model: Any, delay: int
) -> None:
    subject = offline(RaisesAtCall(**model), delay)
    found = stepped(subject, events(300), delay)
    assert letters(found) == [f"{stage}.raised"]
    assert (subject.shard.memory.learned, subject.shard.memory.frozen) == (299, "")
    assert subject.shard.memory.undone == {}


def test_a_model_that_counts_both_its_calls_gets_past_both() -> None:
    subject = offline(RaisesAtCall(learn=100, predict=100))
    found = stepped(subject, events(300))
    assert letters(found) == ["predict.raised", "learn.raised"]
    assert subject.shard.memory.learned == 298


def test_a_model_that_raises_at_several_calls_in_a_row_gets_past_them() -> None:
    subject = offline(RaisesAtCalls())
    found = stepped(subject, events(300))
    assert letters(found) == ["learn.raised"] * 4
    assert subject.shard.memory.learned == 296


def test_a_model_that_raises_at_every_hundredth_call_goes_on() -> None:
    subject = offline(Periodic())
    found = stepped(subject, events(1000))
    assert letters(found) == ["learn.raised"] * 10
    assert subject.shard.memory.learned == 990


def test_events_that_raise_one_after_the_other_are_undone_each() -> None:
    wild = {f"e{n}": {"a": 1.0, "poison": 1} for n in (50, 51, 52)} | {
        f"e{n}": {"a": 1.0, "blind": 1} for n in (80, 81, 82)
    }
    subject = offline(RaisesAtEvent())
    found = stepped(subject, events(150, **wild))
    assert letters(found) == ["learn.raised"] * 3 + ["predict.raised"] * 3
    model = Model()
    good = [event for event in events(150, **wild) if event["id"] not in wild]
    expected = []
    for event in good:
        expected.append(model.predict_one(event["features"]))
        model.learn_one(event["features"], event["label"])
    assert answered(found) == expected


def test_a_text_in_one_feature_of_each_event_is_withheld_and_costs_no_pause() -> None:
    stream = events(300)
    for event in stream:
        event["features"]["name"] = f"n{event['id']}"
    subject = offline(compose.Pipeline(preprocessing.StandardScaler(), linear_model.LinearRegression()))
    found = stepped(subject, stream)
    assert letters(found) == ["learn.raised"]
    assert subject.shard.memory.learned == 299


def test_a_default_that_raises_when_its_time_is_up_is_undone_and_the_next_is_learned() -> None:
    stream = [{**event, "ts": 1.7e9 + 10 * n} for n, event in enumerate(events(100))]
    for event in stream:
        del event["label"]
    subject = offline(RaisesAtCall(learn=20), ttl_ms=50_000.0, default=1.0)
    found = stepped(subject, stream)
    assert letters(found) == ["learn.raised"]
    memory = subject.shard.memory
    assert (memory.frozen, memory.undone) == ("", {})
    assert memory.learned > 85


@pytest.mark.parametrize("cut", [1, 7])
def test_a_label_of_many_events_that_raises_in_its_midst_is_one_dead_letter(tmp_path: Path, cut: int) -> None:
    app = Harness(
        tmp_path,
        model=lambda: RaisesAtCall(learn=30),
        **{"topics.labels": "labels", "labels.join": "group", "event.group": "group"},
        **{"transaction.max_ms": 1 if cut == 1 else 60_000},
    )
    app.admin.create([TopicSpec("labels", 1)])
    for group in ("g", "h"):
        app.produce([{**one, "group": group, "label": None} for one in events(50)])
        app.run()
        app.produce([{"group": group, "label": 1.0}], topic="labels")
        app.run()
    (letter,) = app.records(app.config.topics.dlq)
    assert orjson.loads(letter.value or b"")["group"] == "g"
    app.produce(events(1))
    app.run()
    assert app.predictions()[-1]["model"]["learned"] >= 50  # those of h, and of g what was committed before
    app.check_checkpoints()


# --- pauses ---------------------------------------------------------------------------------------------


def poisoned(n: int, every: int) -> list[Event]:
    stream = events(n)
    for event in stream[::every]:
        event["features"] = {"a": 1.0, "poison": 1}
    return stream


def test_too_many_undos_pause_learning_for_a_thousand_records_for_ever_so() -> None:
    subject = offline(RaisesAtEvent())
    memory = subject.shard.memory
    frozen = []
    for event in poisoned(5000, 10):
        stepped(subject, [event])
        memory = subject.shard.memory
        if memory.frozen and (not frozen or frozen[-1] != memory.frozen_at):
            assert memory.frozen == PAUSED
            frozen.append(memory.frozen_at)
    first = UNDO_LIMIT * 10 + 1  # the 21st
    assert frozen[0] == first
    assert all(PAUSE_RECORDS < later - at <= first + PAUSE_RECORDS + 10 for at, later in pairwise(frozen))
    assert len(frozen) == 4
    assert memory.outcomes["prediction"] > 4800
    assert memory.learned > 4 * UNDO_LIMIT * 9


def test_what_raises_less_often_is_undone_and_pauses_nothing() -> None:
    subject = offline(RaisesAtEvent())
    stepped(subject, poisoned(3000, 50))
    assert (subject.shard.memory.frozen, subject.shard.memory.learned) == ("", 2940)


# --- broken states --------------------------------------------------------------------------------------

BREAKING = {"e20": {"a": 7.0, "b": 0.0}}


def test_in_an_open_batch_the_record_that_broke_the_state_is_undone_alone(tmp_path: Path) -> None:
    app = Harness(tmp_path, model=Fragile, **{"transaction.max_records": 5000})
    app.produce(events(100, **BREAKING))
    with pytest.raises(Killed):
        app.run(Fault("publish", 1, fails(Killed()), "after"))
    app.run()
    app.check_checkpoints()
    (letter,) = app.records(app.config.topics.dlq)
    assert orjson.loads(letter.value or b"")["id"] == "e20"
    assert dict(letter.headers)["streamlearn.stage"] == b"learn"
    found = app.predictions()
    assert [one["id"] for one in found] == [f"e{n}" for n in range(100) if n != 20]
    assert found[-1]["model"]["learned"] == 98
    model, expected = Model(), []
    for event in events(100):
        if event["id"] != "e20":
            expected.append(model.predict_one(event["features"]))
            model.learn_one(event["features"], event["label"])
    assert [one["prediction"] for one in found] == expected


def test_a_state_that_was_committed_broken_is_frozen_and_said(tmp_path: Path) -> None:
    app = Harness(tmp_path, model=Fragile, **{"transaction.max_records": 1})
    app.produce(events(60, **BREAKING))
    app.run()
    found = app.predictions()
    assert len(found) == 60
    assert {one["model"]["learned"] for one in found[21:]} == {21}
    assert {(one["prediction"], one["reason"]) for one in found[21:]} == {(None, "output_not_finite")}
    (alert,) = [orjson.loads(r.value or b"") for r in app.records(app.config.topics.alerts)]
    assert (alert["alert"], alert["state"], alert["since"]) == ("model.broken", "raised", 22)
    assert "--model-change fresh" in alert["message"]
    app.run(model_change="fresh")
    app.produce(events(10))
    app.run()
    assert app.predictions()[-1]["prediction"] is not None


def test_a_broken_state_is_frozen_offline_too() -> None:
    subject = offline(Fragile())
    found = stepped(subject, events(60, **BREAKING))
    memory = subject.shard.memory
    assert (memory.frozen, memory.frozen_at, memory.learned) == (BROKEN, 22, 21)
    assert letters(found) == []
    assert len(answered(found)) == 21


# --- by command -----------------------------------------------------------------------------------------


def told(subject: Offline, name: str) -> Shard:
    subject.step(record(0, "control", encode_command(Command(name))))
    return subject.shard


def test_learning_stops_and_goes_on_by_command() -> None:
    subject = offline(Model())
    stepped(subject, events(10))
    memory = told(subject, FREEZE).memory
    assert (memory.frozen, memory.frozen_at) == (COMMAND, 11)
    found = stepped(subject, events(2 * PAUSE_RECORDS))
    assert len(answered(found)) == 2 * PAUSE_RECORDS
    assert subject.shard.memory.learned == 10
    told(subject, THAW)
    stepped(subject, events(10))
    assert (subject.shard.memory.learned, subject.shard.memory.frozen) == (20, "")
    assert subject.shard.memory.outcomes["command.freeze"] == 1


def test_thaw_ends_a_pause_and_gives_the_budget_back() -> None:
    subject = offline(RaisesAtEvent())
    stepped(subject, poisoned(21, 1))
    assert subject.shard.memory.frozen == PAUSED
    told(subject, THAW)
    stepped(subject, [*events(5), *poisoned(20, 1)])
    assert (subject.shard.memory.frozen, subject.shard.memory.learned) == ("", 5)


# --- kill -9 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [""])
def test_trials_and_undos_are_redone_to_the_same_bytes_after_kill_9(apps: Apps, backend: str) -> None:
    app = apps(backend, **{"model.use": "polynomial_model:build", "checkpoint.interval_s": 3600})
    (app.folder / "polynomial_model.py").write_text(POLYNOMIAL)
    stream = events(300, e50=WILD, e51=WILD, e200=WILD)
    app.produce(stream[:150])
    process = app.serve()
    app.wait(process, 150)
    process.kill()
    process.wait()
    app.produce(stream[150:])
    process = app.serve()
    app.wait(process, 300)
    app.stop(process)
    assert "redo.diverged" not in app.log
    assert len(app.dead_letters()) == 3
    expected = answered(stepped(offline(polynomial()), stream))
    assert [one["prediction"] for one in app.predictions()] == expected


POLYNOMIAL = """
from river import feature_extraction, linear_model


def build():
    return feature_extraction.PolynomialExtender() | linear_model.LinearRegression()
"""


def test_a_label_that_broke_the_state_in_an_open_batch_is_undone_alone(tmp_path: Path) -> None:
    app = Harness(tmp_path, model=Fragile, **{"topics.labels": "labels", "transaction.max_records": 5000})
    app.admin.create([TopicSpec("labels", 1)])
    stream = events(100, **BREAKING)
    for n, (topic, doc) in enumerate(told_apart(stream, 5)):
        app.admin.append(topic, [ProducerRecord(None, orjson.dumps(doc), ((ORDER_HEADER, b"%d" % (n + 1)),))])
    with pytest.raises(Killed):
        app.run(Fault("publish", 1, fails(Killed()), "after"))
    app.run()
    app.check_checkpoints()
    (letter,) = app.records(app.config.topics.dlq)
    assert (letter.headers[0], orjson.loads(letter.value or b"")["id"]) == (
        ("__connect.errors.topic", b"labels"),
        "e20",
    )
    found = app.predictions()
    assert [one["prediction"] is None for one in found] == [False] * 100
    assert found[-1]["model"]["learned"] == 93  # the labels of 94 events, but one


def test_a_broken_state_that_is_thawed_is_frozen_again_at_its_next_bad_answer() -> None:
    subject = offline(Fragile())
    stepped(subject, events(60, **BREAKING))
    assert told(subject, THAW).memory.frozen == ""
    stepped(subject, events(1))
    assert (subject.shard.memory.frozen, subject.shard.memory.learned) == (BROKEN, 21)
