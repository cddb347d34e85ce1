"""One record at a time through a shard: labels, time, predictions' bytes, failures, counters."""

import json
from typing import Any

import orjson
import pytest
from river import anomaly, base, dummy, linear_model, preprocessing, tree

from streamlearn.core.events.event import MAX_EVENT_BYTES, REASONS, EventSpec
from streamlearn.core.model.learner import Learner
from streamlearn.core.records import Headers, Output, Record
from streamlearn.core.shard.facts import published
from streamlearn.core.shard.shard import FAILING_LIMIT, Shard
from streamlearn.core.shard.state import PAUSE_RECORDS, PAUSED, UNDO_LIMIT, UNDO_WINDOW, Memory, ShardSpec
from streamlearn.errors import ModelRaised

NOW_MS = 1_700_000_000_000


class Scripted(base.Classifier):
    """Answers what its feature `say` asks for, and raises where `fail` says so."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    @property
    def _multiclass(self) -> bool:
        return True

    def learn_one(self, x: dict[str, Any], y: Any) -> None:
        self.seen.append(y)
        if x.get("fail") == "learn":
            raise ValueError("no")

    def predict_one(self, x: dict[str, Any]) -> Any:
        if x.get("fail") == "predict":
            raise ValueError("no")
        return {"nan": float("nan"), "list": [1], "object": object()}.get(x.get("say"), x.get("say"))


class Constant(base.Regressor):
    """Answers its feature `say`."""

    def learn_one(self, x: dict[str, Any], y: Any) -> None: ...

    def predict_one(self, x: dict[str, Any]) -> float:
        return float(x.get("say", 0))


def shard(model: Any, spec: EventSpec | None = None) -> Shard:
    """Without a guard, whose own tests are in test_guard.py."""
    return Shard(ShardSpec("m", "v1", 2, spec or EventSpec(), None), Learner(model), Memory())


def record(offset: int = 0, key: bytes | None = None, headers: Headers = (), **doc: Any) -> Record:
    value = orjson.dumps({"features": {"a": 1.0}} | doc)
    return Record("t", 1, offset, NOW_MS, key, value, headers)


def answer(shard: Shard, **doc: Any) -> dict[str, Any]:
    """The prediction for an event, or `{"refused": (stage, reason)}`."""
    (output,) = published(shard.step(record(**doc)))
    if output.role == "predictions":
        found: dict[str, Any] = orjson.loads(output.value or b"")
        return found
    return {"refused": refusal(output)}


def refusal(output: Output) -> str:
    headers = dict(output.headers)
    name = (headers["__connect.errors.exception.class.name"] or b"").decode()
    reason = name.removeprefix("streamlearn.")
    assert headers["__connect.errors.exception.message"] == REASONS[reason].encode()
    return f"{(headers['streamlearn.stage'] or b'').decode()}.{reason}"


# --- the prediction -------------------------------------------------------------------------------------


def test_a_prediction_is_exactly_the_bytes_of_the_contract() -> None:
    subject = shard(dummy.PriorClassifier())
    for label in (True, True, False):
        subject.step(record(label=label))
    (output,) = published(
        subject.step(
            record(7, b"k", (("traceparent", b"00"),), id="e1", ts=1.7e9, features={"b": 1}, label=None)
        )
    )
    assert output == Output(
        "predictions",
        1,
        b"k",
        b'{"id":"e1","key":"k","ts":1700000000.0,"prediction":true,'
        b'"probabilities":{"false":0.3333333333333333,"true":0.6666666666666666},'
        b'"model":{"name":"m","version":"v1","revision":2,"learned":3},'
        b'"source":{"topic":"t","partition":1,"offset":7}}',
        (("traceparent", b"00"),),
    )


def test_an_event_without_id_key_or_time_gets_the_records() -> None:
    found = answer(shard(Constant()))
    assert list(found) == ["id", "key", "ts", "prediction", "model", "source"]
    assert (found["id"], found["key"], found["ts"]) == ("t-1-0", None, NOW_MS)


@pytest.mark.parametrize("ts", [1_700_000_000, 1.7e9, 1_700_000_000_000, "2023-11-14T22:13:20+00:00"])
def test_the_event_time_is_echoed_as_it_came(ts: Any) -> None:
    found = answer(shard(Constant()), ts=ts)["ts"]
    assert (found, type(found)) == (ts, type(ts))


def test_the_key_of_the_configuration_becomes_the_outputs_key() -> None:
    subject = shard(Constant(), EventSpec(key="k"))
    keys = [published(subject.step(record(key=b"mine", **doc)))[0].key for doc in ({"k": 7}, {"k": "é"}, {})]
    assert keys == [b"7", "é".encode(), None]
    odd = published(shard(Constant()).step(record(key=b"\xff")))[0]
    assert (odd.key, orjson.loads(odd.value or b"")["key"]) == (b"\xff", "\\xff")


def test_before_the_model_has_an_opinion_the_prediction_is_null() -> None:
    found = answer(shard(tree.HoeffdingTreeClassifier()))
    assert (found["prediction"], found["probabilities"]) == (None, {})


def test_a_prediction_that_cannot_be_published_is_a_dead_letter() -> None:
    subject = shard(Scripted())
    assert answer(subject, id="x" * (MAX_EVENT_BYTES - 40)) == {"refused": "guard.output_too_large"}
    assert not subject.memory.frozen
    assert answer(subject, features={"say": "object"}) == {"refused": "predict.output_type"}
    assert answer(shard(Scripted()), features={"say": "list"}) == {"refused": "predict.output_type"}


# --- labels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "wrong"),
    [
        ([True, False], [1, 0, "true", 1.0]),
        ([0, 3, 0], [True, "3", 3.5]),
        (["a", "b", "true"], [True, 1, 1.5]),
    ],
)
def test_the_first_labels_settle_the_type_and_the_answers_use_it(labels: list[Any], wrong: list[Any]) -> None:
    subject = shard(tree.HoeffdingTreeClassifier())
    labels = labels * 7
    for label in labels:
        answer(subject, label=label)
    for label in wrong:
        assert answer(subject, label=label) == {"refused": "label.label_type"}
    found = answer(subject)
    assert type(found["prediction"]) is type(labels[0])
    texts = {label if isinstance(label, str) else json.dumps(label) for label in labels}
    assert list(found["probabilities"]) == sorted(texts)
    assert found["model"]["learned"] == len(labels)


def test_a_binary_model_learns_0_and_1_and_answers_in_them() -> None:
    subject = shard(linear_model.LogisticRegression())
    for label, expected in ((1, False), (1, 1), (0, 1)):  # before the first label there is no vocabulary
        found = answer(subject, label=label)["prediction"]
        assert found == expected
    assert answer(subject, label=3) == {"refused": "label.label_value"}
    assert answer(subject, label=-1) == {"refused": "label.label_value"}
    assert answer(subject, label=True) == {"refused": "label.label_type"}
    found = answer(subject)
    assert type(found["prediction"]) is int
    assert list(found["probabilities"]) == ["0", "1"]


@pytest.mark.parametrize("label", ["yes", 0.5])
def test_a_binary_model_learns_nothing_but_two_classes(label: Any) -> None:
    assert answer(shard(linear_model.LogisticRegression()), label=label) == {"refused": "label.label_type"}


def test_a_refused_label_fixes_nothing() -> None:
    subject = shard(linear_model.LogisticRegression())
    assert answer(subject, label=3, ts=5) == {"refused": "label.label_value"}
    assert (subject.memory.label_type, subject.memory.time_unit) == ("", "")


@pytest.mark.parametrize("label", [True, "1"])
def test_a_regressor_learns_numbers_only(label: Any) -> None:
    subject = shard(linear_model.LinearRegression())
    assert answer(subject, label=label) == {"refused": "label.label_type"}
    assert [answer(subject, label=label)["model"]["learned"] for label in (1, 2.5, None)] == [0, 1, 2]


def test_an_anomaly_detector_ignores_labels_and_learns_from_every_event() -> None:
    subject = shard(preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(seed=1))
    for label in (True, "x", 3, None, 0.5):
        assert answer(subject, label=label)["prediction"] is None
    assert subject.memory.learned == 5


# --- time -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("unit", "per_s"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_an_event_more_than_an_hour_ahead_is_refused(unit: str, per_s: int) -> None:
    now_s = NOW_MS // 1000
    for declared in ("auto", unit):
        subject = shard(Constant(), EventSpec(time_unit=declared))
        assert answer(subject, ts=(now_s + 3601) * per_s) == {"refused": "guard.future"}
        assert "prediction" in answer(subject, ts=(now_s + 3600) * per_s)
        assert subject.memory.time_unit == unit


def test_a_text_from_the_future_is_refused() -> None:
    subject = shard(Constant())
    assert answer(subject, ts="2099-01-01T00:00:00Z") == {"refused": "guard.future"}
    assert answer(subject, ts="9999-12-31T23:59:59-23:59") == {"refused": "guard.future"}
    assert answer(subject, ts="soon") == {"refused": "guard.bad_time"}
    assert subject.memory.time_unit == ""


def test_the_first_plausible_times_settle_the_time_unit() -> None:
    subject = shard(Constant())
    answer(subject, ts=NOW_MS * 1000 * 9)  # microseconds, but refused: from the future
    answer(subject)
    for _ in range(20):
        answer(subject, ts=NOW_MS / 1000)
    assert subject.memory.time_unit == "s"
    assert answer(subject, ts=NOW_MS) == {"refused": "guard.future"}
    assert answer(subject, ts="2023-11-14T22:13:20Z") == {"refused": "guard.bad_time"}
    assert "prediction" in answer(subject)


def test_a_number_is_refused_where_texts_were_declared() -> None:
    assert answer(shard(Constant(), EventSpec(time_unit="rfc3339")), ts=5) == {"refused": "guard.bad_time"}


# --- failures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["predict", "learn"])
def test_a_model_that_raises_is_reported_with_its_stage(stage: str) -> None:
    with pytest.raises(ModelRaised) as raised:
        shard(Scripted()).step(record(features={"fail": stage}, label=True))
    assert raised.value.stage == stage
    assert isinstance(raised.value.__cause__, ValueError)


def test_a_skipped_record_is_a_dead_letter_that_the_model_never_saw() -> None:
    subject = shard(Scripted())
    (letter,) = published(subject.skip(record(9, b"k", features={"fail": "learn"}), "learn", "raised"))
    assert (letter.role, letter.key, refusal(letter)) == ("dlq", b"k", "learn.raised")
    assert letter.value == record(features={"fail": "learn"}).value
    assert subject.learner.model.seen == []


@pytest.mark.parametrize(("gap", "frozen"), [(0, PAUSED), (UNDO_WINDOW, "")])
def test_learning_pauses_when_the_model_is_undone_too_often(gap: int, frozen: str) -> None:
    subject = shard(Scripted())
    for n in range(UNDO_LIMIT + 1):
        assert subject.memory.frozen == ""
        subject.skip(record(n), "learn", "raised")
        subject.memory.records += gap
    assert subject.memory.frozen == frozen
    assert len(subject.memory.raised_at) <= UNDO_LIMIT
    found = answer(subject, features={"say": "x"}, label="x")
    assert found["prediction"] == "x"
    assert subject.memory.learned == (0 if frozen else 1)
    subject.memory.records += PAUSE_RECORDS
    answer(subject, features={"say": "x"}, label="x")
    assert (subject.memory.learned, subject.memory.frozen) == (1 if frozen else 2, "")


@pytest.mark.parametrize(
    ("model", "features"),
    [(Scripted(), {"say": "nan"}), (Constant(), {"say": "nan"}), (Constant(), {"say": "-inf"})],
)
def test_a_non_finite_answer_is_withheld_and_learning_goes_on(model: Any, features: dict[str, Any]) -> None:
    subject = shard(model)
    found = answer(subject, features=features)
    assert (found["prediction"], found["reason"]) == (None, "output_not_finite")
    assert subject.memory.frozen == ""
    answer(subject, features={"say": 1}, label=1)
    assert subject.memory.learned == 1


def test_a_huge_but_good_number_cannot_make_a_prediction_nan_in_silence() -> None:
    subject = shard(linear_model.LinearRegression(intercept_lr=0.1))
    with pytest.raises(ModelRaised) as raised:
        subject.step(record(features={"a": 1e150}, label=-1e150))
    assert (raised.value.stage, raised.value.reason) == ("learn", "output_not_finite")


def test_failures_to_predict_are_counted_until_one_succeeds() -> None:
    subject = shard(Scripted())
    for n in range(FAILING_LIMIT):
        if n % 2:
            subject.skip(record(n), "predict", "raised" if n % 4 == 1 else "output_not_finite")
        else:
            answer(subject, features={"say": "object"})
    assert subject.memory.failing == FAILING_LIMIT
    answer(subject)
    assert subject.memory.failing == 0


# --- outcomes -------------------------------------------------------------------------------------------


def test_every_record_has_one_outcome_and_is_counted() -> None:
    subject = shard(dummy.NoChangeClassifier())
    docs: list[dict[str, Any]] = [{}, {"label": True}, {"label": 1}, {"ts": "x"}, {"features": 3}, {"id": []}]
    outputs = [published(subject.step(record(n, **doc))) for n, doc in enumerate(docs)]
    outputs.append(published(subject.step(Record("t", 1, 90, NOW_MS, b"k", None))))
    outputs.append(published(subject.step(Record("t", 1, 91, NOW_MS, b"k", b"x" * (MAX_EVENT_BYTES + 1)))))
    outputs.append(published(subject.skip(record(92), "learn", "raised")))
    assert [len(found) for found in outputs] == [1, 1, 1, 1, 1, 1, 0, 1, 1]
    assert subject.memory.outcomes == {
        "prediction": 2,
        "dlq.label.label_type": 1,
        "dlq.guard.bad_time": 1,
        "dlq.guard.no_features": 1,
        "dlq.guard.bad_id": 1,
        "skip.tombstone": 1,
        "dlq.decode.too_large": 1,
        "dlq.learn.raised": 1,
    }
    assert sum(subject.memory.outcomes.values()) == subject.memory.records == len(outputs)
