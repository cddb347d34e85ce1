"""The guard: what is learned of a feature, what is refused, what a model never sees, and every bound."""

import datetime
import random
from collections.abc import Callable
from typing import Any

import msgspec
import orjson
import pytest
from river import forest, linear_model, naive_bayes, preprocessing, tree

from streamlearn.core.events.event import EventSpec
from streamlearn.core.events.evidence import SETTLED
from streamlearn.core.model.learner import Learner
from streamlearn.core.records import Output, Record
from streamlearn.core.shard import guard
from streamlearn.core.shard.facts import published
from streamlearn.core.shard.guard import MAX_TEXTS, Guard, GuardSpec, Types, table
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.state import Memory, ShardSpec
from streamlearn.engine.presets import preset
from streamlearn.errors import ModelRaised
from tests.service_process import Apps, apps

__all__ = ["apps"]

NOW_MS = 1_700_000_000_000
X = dict[str, Any]


class Subject:
    """A guard and its memory; `give` says what the model got, or why it got nothing."""

    def __init__(self, declared: dict[str, str] | None = None, **bounds: int) -> None:
        self.types: Types = {}
        self.spec = GuardSpec(**bounds)
        self.declared = declared or {}
        self.guard = Guard(self.spec, self.declared, self.types)

    def give(self, **x: Any) -> X | tuple[str, str]:
        if self.guard.knows(x):
            return x
        refused = self.guard.refusal(x)
        if refused is not None:
            assert refused.stage == "guard"
            return refused.reason, refused.feature
        return self.guard.passed(x)

    def many(self, n: int = SETTLED, **x: Any) -> None:
        for _ in range(n):
            self.give(**x)


# --- what is learned ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("good", "bad"),
    [(1.5, "hot"), (1.5, True), (7, "7"), (True, 1), (True, "yes"), (False, 0.0)],
)
def test_twenty_agreeing_events_fix_a_kind_and_another_is_refused_from_then_on(good: Any, bad: Any) -> None:
    subject = Subject()
    subject.many(SETTLED - 1, a=good)
    assert subject.guard.refusal({"a": "warm"}) is None, "nineteen are not enough"
    subject.many(1, a=good)
    assert subject.give(a=bad) == ("feature_type", "a")
    assert subject.give(a=good) == {"a": good}


def test_int_and_float_are_one_kind() -> None:
    subject = Subject()
    subject.many(a=1.5)
    assert subject.give(a=2) == {"a": 2}
    assert subject.give(a=2.5) == {"a": 2.5}


def test_a_disagreeing_event_begins_the_learning_anew() -> None:
    subject = Subject()
    subject.many(SETTLED - 1, a=1.0)
    subject.give(a=True)
    assert subject.types["a"].agreed == 1
    subject.many(SETTLED - 1, a=True)
    assert subject.give(a=1.0) == ("feature_type", "a")


def test_a_declared_kind_holds_from_the_first_event_and_wins_over_what_was_learned() -> None:
    subject = Subject({"a": "float", "s": "str", "b": "bool"})
    assert subject.give(a="x") == ("feature_type", "a")
    assert subject.give(s=1) == ("feature_type", "s")
    assert subject.give(b=1) == ("feature_type", "b")
    assert subject.give(a=1, s="n/a", b=True) == {"a": 1, "s": "n/a", "b": True}
    late = Subject()
    late.many(a=1.0)
    declared = Guard(late.spec, {"a": "str"}, late.types)
    assert declared.refusal({"a": "x"}) is None
    assert declared.passed({"a": "x"}) == {"a": "x"}


def test_a_missing_feature_is_the_models_business() -> None:
    subject = Subject()
    subject.many(a=1.0, b=2.0)
    assert subject.give(a=1.0) == {"a": 1.0}
    assert subject.give() == {}
    assert subject.give(b=2.0, a=1.0) == {"b": 2.0, "a": 1.0}


def test_a_moment_that_the_mapping_made_passes() -> None:
    subject = Subject()
    when = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    subject.many(30, a=1.0, moment=when)
    assert subject.give(a=1.0, moment=when) == {"a": 1.0, "moment": when}


def test_a_refused_event_teaches_nothing_about_its_other_features() -> None:
    subject = Subject()
    subject.many(a=1.0)
    before = msgspec.json.encode(subject.types)
    assert subject.give(a="x", new=5) == ("feature_type", "a")
    assert msgspec.json.encode(subject.types) == before


@pytest.mark.parametrize(("names", "there"), [("abcdefgh", 0.8), ("ab", 0.9), ("a", 1.0)])
@pytest.mark.parametrize(
    "values", [[1, 2.5, True, "u", "v", "n/a", "12"], [1, "n/a", ""], ["u", "12", "n/a", 3]]
)
@pytest.mark.parametrize("seed", range(5))
def test_the_saved_types_go_on_exactly_where_they_stood(
    names: str, there: float, values: list[Any], seed: int
) -> None:
    """Whatever the cache of shapes knows. Each feature has its own mixture, so that some settle."""
    rng = random.Random(seed)
    weights = {name: [rng.random() ** 6 for _ in values] for name in names}
    stream = [
        {name: rng.choices(values, weights[name])[0] for name in names if rng.random() < there}
        for _ in range(400)
    ]
    straight, reloaded = Subject(), Subject()
    for n, x in enumerate(stream):
        assert straight.give(**x) == reloaded.give(**x)
        if n % 50 == 7:
            straight.guard.raised(x)
            reloaded.guard.raised(x)
        again: Types = msgspec.json.decode(msgspec.json.encode(reloaded.types), type=Types)
        reloaded.types = again
        reloaded.guard = Guard(reloaded.spec, {}, again)
    assert straight.types == reloaded.types


# --- texts ----------------------------------------------------------------------------------------------


def test_a_text_passes_from_the_first_event_on_as_in_a_plain_river_loop() -> None:
    subject = Subject()
    for _ in range(SETTLED):
        assert subject.give(site="north", a=1.0) == {"site": "north", "a": 1.0}
    assert subject.give(site="north", a=1.0) == {"site": "north", "a": 1.0}
    assert subject.give(site="south", a=1.0) == {"site": "south", "a": 1.0}


def test_a_text_under_a_name_that_the_model_has_seen_numbers_of_stays_withheld() -> None:
    subject = Subject()
    subject.give(site=0)
    subject.many(site="north")
    assert subject.give(site="north") == {}
    assert subject.give(site=1) == ("feature_type", "site")
    (row,) = table(subject.types, {})
    assert (row["kind"], row["from"], row["withheld"]) == ("str", "settled", True)


@pytest.mark.parametrize("text", ["21.5", "21,5", " -3 ", "1e3", "007", "inf"])
def test_numbers_in_texts_are_withheld_until_texts_are_settled_where_nothing_tells_types(text: str) -> None:
    subject = Subject()
    for _ in range(SETTLED):
        assert subject.give(code=text, site="north") == {"site": "north"}
    assert subject.give(code=text, site="north") == {"code": text, "site": "north"}


@pytest.mark.parametrize("beside", [0.5, 7, -1e9])
def test_numbers_in_texts_beside_a_number_are_given_from_the_second_on(beside: float) -> None:
    subject = Subject()
    assert subject.give(code="16", n=beside) == {"n": beside}
    assert subject.give(code="1", n=beside) == {"code": "1", "n": beside}


def test_true_and_false_tell_no_numbers_from_texts() -> None:
    subject = Subject()
    subject.give(code="16", flag=True)
    assert subject.give(code="1", flag=True) == {"flag": True}


@pytest.mark.parametrize("text", ["N/A", "", " ", "null", "ERROR", "-"])
@pytest.mark.parametrize("n", [1, 5, 100])
def test_no_value_is_withheld_however_often_and_settles_nothing(text: str, n: int) -> None:
    subject = Subject()
    for _ in range(n):
        assert subject.give(temp=text, rpm=1.5) == {"rpm": 1.5}
    subject.many(temp=1.5)
    assert subject.give(temp=text) == ("feature_type", "temp"), "where numbers are the rule it is a mistake"
    assert subject.give(temp=2.5) == {"temp": 2.5}


def test_no_value_is_a_text_as_any_other_once_the_model_has_texts() -> None:
    subject = Subject()
    assert subject.give(discount="none") == {}
    assert subject.give(discount="low") == {"discount": "low"}
    assert subject.give(discount="none") == {"discount": "none"}
    subject.many(discount="none")
    assert subject.give(discount=5) == ("feature_type", "discount")


@pytest.mark.parametrize("text", ["21.5", "n/a", ""])
def test_what_a_schema_types_is_believed_from_the_first_event_on(text: str) -> None:
    subject = Subject()
    subject.guard = Guard(subject.spec, {}, subject.types, typed=True)
    assert subject.give(code=text) == {"code": text}


@pytest.mark.parametrize("text", ["21.5", "n/a"])
def test_a_mistake_beside_numbers_is_withheld_and_counts_for_nothing_until_they_are_settled(
    text: str,
) -> None:
    subject = Subject()
    for n in range(SETTLED):
        assert subject.give(temp=1.5 + n, rpm=1) == {"temp": 1.5 + n, "rpm": 1}
        if n < SETTLED - 1:
            assert subject.give(temp=text, rpm=1) == {"rpm": 1}
            assert subject.types["temp"].agreed == n + 1
    assert subject.give(temp=text, rpm=1) == ("feature_type", "temp")


def test_texts_that_follow_a_number_are_withheld_and_lose_no_event() -> None:
    subject = Subject()
    assert subject.give(zip=501, n=1.5) == {"zip": 501, "n": 1.5}
    for n in range(3 * SETTLED):
        assert subject.give(zip=f"{10000 + n}", n=1.5) == {"n": 1.5}
    assert subject.give(zip=502, n=1.5) == {"zip": 502, "n": 1.5}


@pytest.mark.parametrize("k", [1, 3, 15, 60])
def test_every_feature_of_an_event_is_judged_by_itself(k: int) -> None:
    subject = Subject()
    x = {f"c{n}": str(n) for n in range(k)}
    for _ in range(SETTLED):
        assert subject.give(**x) == {}
    assert subject.give(**x) == x
    assert {known.agreed for known in subject.types.values()} == {SETTLED}


def test_a_model_sees_texts_or_numbers_under_one_name_whichever_came_first() -> None:
    subject = Subject()
    assert subject.give(temp="hot", rpm=1.5) == {"temp": "hot", "rpm": 1.5}
    for _ in range(SETTLED):
        assert subject.give(temp=20.5, rpm=1.5) == {"rpm": 1.5}
    assert subject.give(temp="hot", rpm=1.5) == ("feature_type", "temp")
    assert subject.give(temp=20.5, rpm=1.5) == {"rpm": 1.5}
    (row,) = [row for row in table(subject.types, {}) if row["feature"] == "temp"]
    assert (row["kind"], row["from"], row["withheld"]) == ("number", "settled", True)


@pytest.mark.parametrize("text", ["16", "n/a"])
def test_a_model_that_raised_without_a_text_is_given_it_from_then_on(text: str) -> None:
    subject = Subject()
    assert subject.give(code=text, n=1) == {"n": 1}
    subject = Subject()
    subject.guard.raised({"code": text, "n": 1})
    assert subject.give(code=text, n=1) == {"code": text, "n": 1}
    subject = Subject()
    subject.guard.raised({"code": text})
    subject.guard.raised({"code": text})
    assert subject.give(code=text, n=1) == {"n": 1}, "it raised with it, too"


def test_texts_at_which_the_model_raised_are_withheld_but_not_those_it_has_taken() -> None:
    subject = Subject()
    subject.many(old="x", open=1.0)
    subject.guard.raised({"new": "x", "old": "x", "open": 1.0, "unknown": "x"})
    assert subject.give(new="x", old="x") == {"old": "x"}
    subject.guard.raised({"old": "x"})
    assert subject.give(old="x") == {"old": "x"}


# --- bounds ---------------------------------------------------------------------------------------------


def test_an_event_with_too_many_features_is_refused() -> None:
    subject = Subject(features=3)
    assert subject.give(a=1, b=1, c=1, d=1) == ("too_many_features", "")
    assert subject.give(a=1, b=1, c=1) == {"a": 1, "b": 1, "c": 1}


def test_a_name_beyond_the_bound_is_refused_and_the_known_ones_go_on() -> None:
    subject = Subject(names=2)
    subject.give(a=1, b=1)
    assert subject.give(a=1, c=1) == ("too_many_names", "c")
    assert subject.give(a=1, b=1) == {"a": 1, "b": 1}
    assert set(subject.types) == {"a", "b"}


def test_a_long_text_or_name_is_refused_known_or_not() -> None:
    subject = Subject(string_length=5)
    assert subject.give(s="abcdef") == ("text_too_long", "s")
    assert subject.give(abcdef=1) == ("text_too_long", "abcdef")
    subject.many(s="abcde")
    assert subject.give(s="abcdef") == ("text_too_long", "s")


def test_one_more_text_than_the_bound_is_refused_and_the_known_ones_go_on() -> None:
    subject = Subject(categories=25)
    for n in range(25):
        subject.give(ident=f"e{n}")
    assert subject.give(ident="e25") == ("too_many_categories", "ident")
    assert subject.give(ident="e3") == {"ident": "e3"}
    assert len(subject.types["ident"].texts) == 25


def test_ids_end_at_the_bound_also_while_they_are_learned() -> None:
    subject = Subject(categories=3)
    for n in range(SETTLED):
        subject.give(ident=f"e{n}")
    assert len(subject.types["ident"].texts) == 3
    assert subject.give(ident="e9") == ("too_many_categories", "ident")


def test_no_bound_on_texts_remembers_none() -> None:
    subject = Subject(categories=0)
    for n in range(5000):
        subject.give(text=f"t{n}")
    assert subject.types["text"].texts == set()
    assert subject.give(text="t") == {"text": "t"}


def test_the_texts_of_all_features_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_TEXTS == 100_000
    monkeypatch.setattr(guard, "MAX_TEXTS", 30)
    subject = Subject(categories=20)
    for n in range(SETTLED):
        subject.give(a=f"t{n}")
    for n in range(10):
        subject.give(b=f"t{n}")
    assert subject.give(b="more") == ("too_many_categories", "b")
    subject.guard.reset("a")
    assert subject.give(b="more") == {"b": "more"}, "what was forgotten makes room"


def test_shapes_of_events_are_only_a_cache() -> None:
    subject = Subject()
    subject.many(**{f"f{n}": 1.0 for n in range(12)})
    rng = random.Random(2)
    for _ in range(2000):
        x = {f"f{n}": 1.0 for n in range(12) if rng.random() < 0.5}
        assert subject.give(**x) == x
    assert len(subject.guard._shapes) <= guard._SHAPES
    assert subject.give(f0="x") == ("feature_type", "f0")


# --- reset, table ---------------------------------------------------------------------------------------


def test_a_reset_forgets_one_feature() -> None:
    subject = Subject()
    subject.many(SETTLED + 1, a=1.0, b=1.0)
    assert subject.give(a=True, b=1.0) == ("feature_type", "a")
    subject.guard.reset("a")
    subject.guard.reset("never seen")
    assert subject.give(a=1.0, b=1.0) == {"a": 1.0, "b": 1.0}
    assert subject.types["a"].agreed == 1, "no shape remembers what was forgotten"
    assert subject.give(a=True, b=1.0) == {"a": True, "b": 1.0}
    assert subject.give(a=True, b=True) == ("feature_type", "b")


def test_the_table_says_what_is_known_and_from_where() -> None:
    subject = Subject({"d": "float"})
    subject.many(a=1.0, s="x")
    subject.give(n=True)
    found = {
        row["feature"]: (row["kind"], row["from"], row["agreed"])
        for row in table(subject.types, {"d": "float"})
    }
    assert found == {
        "a": ("number", "settled", 20),
        "d": ("number", "declared", 0),
        "n": ("bool", "learning", 1),
        "s": ("str", "settled", 20),
    }


# --- in a shard, with river's models --------------------------------------------------------------------

MODELS: dict[str, Callable[[], Any]] = {
    "logistic": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    "tree": lambda: tree.HoeffdingTreeClassifier(grace_period=50),
    "adaptive tree": lambda: tree.HoeffdingAdaptiveTreeClassifier(seed=1),
    "forest": lambda: forest.ARFClassifier(n_models=3, seed=1),
    "bayes": naive_bayes.GaussianNB,
}


def events(n: int, seed: int = 1) -> list[X]:
    rng = random.Random(seed)
    made = []
    for i in range(n):
        x = {"temp": rng.gauss(0, 1), "rpm": rng.gauss(0, 1)}
        made.append({"id": str(i), "features": x, "label": x["temp"] > 0})
    return made


def run(model: Any, docs: list[X], spec: EventSpec | None = None) -> tuple[Shard, list[Output]]:
    """Outputs of a shard that undoes as the service does: again from the start, without what raised."""
    skipped: set[int] = set()
    while True:
        shard = Shard(ShardSpec("m", "v", 1, spec or EventSpec()), Learner(model()), Memory())
        assert shard.guard is not None
        outputs: list[Output] = []
        try:
            for n, doc in enumerate(docs):
                record = Record("t", 0, n, NOW_MS, None, orjson.dumps(doc))
                outputs += (
                    published(shard.skip(record, "learn", "raised"))
                    if n in skipped
                    else published(shard.step(record))
                )
        except ModelRaised:
            skipped.add(n)
            continue
        return shard, outputs


def told(outputs: list[Output]) -> list[Any]:
    predictions = [orjson.loads(one.value or b"") for one in outputs if one.role == "predictions"]
    return [(one["id"], one["prediction"], one.get("probabilities")) for one in predictions]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bad", ["n/a", "21.5", "", "error"])
def test_a_bad_first_value_is_as_if_it_were_missing(name: str, bad: str) -> None:
    stream = events(1000)
    first = {"id": "bad", "features": {"temp": bad, "rpm": 0.5}, "label": True}
    shard, outputs = run(MODELS[name], [first, *stream])
    assert shard.memory.outcomes == {"prediction": 1001}
    missing = {**first, "features": {"rpm": 0.5}}
    assert told(outputs) == told(run(MODELS[name], [missing, *stream])[1])


@pytest.mark.parametrize("name", MODELS)
def test_a_first_text_that_may_be_a_category_never_freezes_a_model(name: str) -> None:
    stream = events(1000)
    first = {"id": "bad", "features": {"temp": "hot", "rpm": 0.5}, "label": True}
    shard, outputs = run(MODELS[name], [first, *stream])
    assert shard.memory.frozen == ""
    takes_texts = "tree" in name or name == "forest"
    if takes_texts:
        assert shard.memory.outcomes == {"prediction": 1001}
        (row,) = [row for row in table(shard.memory.types, {}) if row["feature"] == "temp"]
        assert row["withheld"]
    else:
        assert shard.memory.outcomes == {"prediction": 1000, "dlq.learn.raised": 1}
        assert told(outputs) == told(run(MODELS[name], stream)[1])


def test_a_sensor_that_starts_with_five_errors_does_not_freeze_the_model() -> None:
    bad = {"features": {"temp": "sensor starting", "rpm": 0.5}, "label": True}
    shard, _ = run(MODELS["logistic"], [bad] * 5 + events(300))
    assert (shard.memory.frozen, shard.memory.outcomes) == ("", {"prediction": 304, "dlq.learn.raised": 1})


def test_a_model_that_cannot_take_texts_does_without_them_after_one_dead_letter() -> None:
    stream = events(300)
    sited = [{**doc, "features": {**doc["features"], "site": "north"}} for doc in stream]
    shard, _ = run(MODELS["logistic"], sited)
    assert shard.memory.outcomes == {"prediction": 299, "dlq.learn.raised": 1}
    assert shard.memory.frozen == ""
    (row,) = [row for row in table(shard.memory.types, {}) if row["feature"] == "site"]
    assert row["withheld"]


def test_an_event_that_another_check_refuses_teaches_the_guard_nothing() -> None:
    shard, _ = run(
        MODELS["logistic"], [{"features": {"a": 1.0}, "ts": "soon"}, {"features": {"b": 1}, "label": 7}]
    )
    assert shard.memory.types == {}


def test_declared_types_reach_the_guard() -> None:
    spec = EventSpec(types={"temp": "float", "site": "str"})
    docs = [{"features": {"temp": "hot"}}, {"features": {"site": 5}}, {"features": {"site": "north"}}]
    shard, _ = run(MODELS["tree"], docs, spec=spec)
    assert shard.memory.outcomes == {"dlq.guard.bad_type": 1, "prediction": 2}, "5 is read as a text"


def test_where_there_was_no_guard_there_is_none() -> None:
    shard = Shard(ShardSpec("m", "v", 1, EventSpec(), None), Learner(MODELS["tree"]()), Memory())
    for value in (1.0, True, "n/a") * 10:
        (output,) = published(
            shard.step(Record("t", 0, 0, NOW_MS, None, orjson.dumps({"features": {"a": value}})))
        )
        assert output.role == "predictions"
    assert shard.memory.types == {}


# --- in a service ---------------------------------------------------------------------------------------

DEFAULT = {"model.use": "preset:classification"}


@pytest.mark.parametrize("bad", ["21.5", "n/a"])
def test_a_service_takes_a_bad_first_value_for_none_also_after_a_kill(apps: Apps, bad: str) -> None:
    app = apps("", **DEFAULT)
    stream = [{"id": "bad", "features": {"temp": bad, "rpm": 0.5}, "label": True}, *events(1200)]
    app.produce(stream[:1001])
    process = app.serve(**{"checkpoint.interval_s": 3600})
    app.wait(process, 1001)
    process.kill()
    process.wait()
    app.produce(stream[1001:])
    process = app.serve()
    app.wait(process, 1201)
    app.stop(process)
    del stream[0]["features"]["temp"]
    plain = told(run(lambda: preset("classification"), stream)[1])
    assert [(p["id"], p["prediction"], p["probabilities"]) for p in app.predictions()] == plain
    assert app.dead_letters() == [] and "redo.diverged" not in app.log


def test_a_service_gives_texts_that_wait_at_its_start_to_the_model_from_the_first_event_on(
    apps: Apps,
) -> None:
    app = apps("", **DEFAULT)
    stream = events(400)
    for n, doc in enumerate(stream):
        doc["features"]["site"] = "north" if n % 3 else "south"
    process = app.serve()
    app.produce(stream)
    app.wait(process, 400)
    app.stop(process)
    model = preset("classification")
    for doc, found in zip(stream, app.predictions(), strict=True):
        proba = model.predict_proba_one(doc["features"])
        assert found["probabilities"] == {str(k).lower(): p for k, p in proba.items()}
        model.learn_one(doc["features"], doc["label"])
