"""What each task answers with: verdicts, clusters, forecasts; and which models are refused, and why."""

import pickle
import random
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import orjson
import pytest
from river import (
    active,
    anomaly,
    base,
    cluster,
    compose,
    datasets,
    feature_extraction,
    linear_model,
    multioutput,
    naive_bayes,
    preprocessing,
    time_series,
)
from river.time_series.base import Forecaster

from streamlearn import run
from streamlearn.config.load import load
from streamlearn.core.events.event import EventSpec
from streamlearn.core.journal import Era
from streamlearn.core.labels.record import LabelSpec
from streamlearn.core.model.learner import Learner, model_task
from streamlearn.core.records import Record
from streamlearn.core.scores.scores import ScoresSpec
from streamlearn.core.shard.facts import published as outputs_of
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.snapshot import dump_model, load_model
from streamlearn.core.shard.state import Memory, ShardSpec
from streamlearn.engine.era import spec_of
from streamlearn.engine.model import model_template
from streamlearn.engine.self_check import check_model
from streamlearn.env import RealEnv
from streamlearn.errors import BadCheckpoint, ConfigError

SERIES = [float(50 + n % 12 + (n * 7) % 5) for n in range(120)]
MIN_MAX = preprocessing.MinMaxScaler


class Told(Forecaster):
    """Forecasts what it was told to, and remembers how it was called."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[Any] = []
        self.learned: list[Any] = []

    def learn_one(self, y: float, x: Any = None) -> None:
        self.learned.append((y, x))

    def forecast(self, horizon: int, xs: Any = None) -> Any:
        self.asked.append((horizon, xs))
        return self.answer


def published(model: Any, rows: Iterable[tuple[dict[str, Any], Any]], horizon: int = 1) -> list[Any]:
    return list(run(model, [{"features": x, "label": y} for x, y in rows], horizon=horizon))


def shuttle() -> list[tuple[dict[str, Any], bool]]:
    return [(x, bool(y)) for x, y in islice(datasets.Shuttle(), 300)]


# --- forecasting ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [1, 5, 30])
def test_a_forecaster_says_what_it_expects_of_the_next_labels_before_it_learns_one(horizon: int) -> None:
    def make() -> Any:
        return time_series.SNARIMAX(p=12, d=1, q=3, m=12, sd=1)

    plain = make()
    answers = published(make(), [({}, y) for y in SERIES], horizon)
    for y, answer in zip(SERIES, answers, strict=True):
        assert answer["forecast"] == plain.forecast(horizon)
        assert answer["prediction"] == answer["forecast"][0]
        plain.learn_one(y)
    assert list(answers[0]) == ["id", "key", "ts", "prediction", "forecast", "model", "source"]


def test_before_it_has_enough_labels_holt_winters_has_no_opinion_and_costs_no_event() -> None:
    answers = published(time_series.HoltWinters(0.3, 0.1, 0.2, seasonality=12), [({}, y) for y in SERIES], 3)
    assert [answer["forecast"] for answer in answers[:12]] == [[]] * 12
    assert [answer["prediction"] for answer in answers[:12]] == [None] * 12
    assert all(len(answer["forecast"]) == 3 for answer in answers[12:])
    assert answers[-1]["model"]["learned"] == len(SERIES) - 1


def test_one_step_ahead_the_events_features_are_those_of_its_label() -> None:
    told = Told([1.5])
    learner = Learner(told)
    learner.predict({"a": 1}, None)
    learner.learn({"a": 1}, 7)
    assert (told.asked, told.learned) == ([(1, [{"a": 1}])], [(7, {"a": 1})])


def test_further_ahead_features_are_not_known_so_it_goes_by_labels_alone() -> None:
    told = Told([1.5, 2.5])
    learner = Learner(told, 2)
    learner.predict({"a": 1}, None)
    learner.learn({"a": 1}, 7)
    assert (told.asked, told.learned) == ([(2, None)], [(7, None)])


def test_a_forecaster_behind_other_steps_gets_what_they_make_of_the_features() -> None:
    def make() -> Any:
        return feature_extraction.PolynomialExtender() | time_series.SNARIMAX(p=2, d=0, q=1)

    plain, rows = make(), [({"a": n % 7 / 7, "b": n % 3}, y) for n, y in enumerate(SERIES)]
    for (x, y), answer in zip(rows, published(make(), rows), strict=True):
        assert answer["forecast"] == plain.forecast(1, xs=[x])
        plain.learn_one(x=x, y=y)
    with pytest.raises(ConfigError, match=r"SNARIMAX stands behind other steps.*horizon = 1"):
        published(make(), rows, 2)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ([], {"prediction": None, "forecast": []}),
        ([3, 4], {"prediction": 3.0, "forecast": [3.0, 4.0]}),
        ([1.0, float("nan")], {"prediction": None, "forecast": [], "reason": "output_not_finite"}),
        ([1.0], {"dead_letter": {"stage": "predict", "reason": "raised"}}),
        ([1.0, 2.0, 3.0], {"dead_letter": {"stage": "predict", "reason": "raised"}}),
    ],
)
def test_a_forecast_is_as_long_as_the_horizon_or_empty_and_finite_to_its_end(answer: Any, says: Any) -> None:
    (found,) = published(Told(answer), [({}, 1.0)], 2)
    assert {name: found[name] for name in says} == says


def test_a_label_that_is_no_number_is_not_forecast() -> None:
    answers = published(Told([1.0]), [({}, "high"), ({}, True), ({}, 2), ({}, None)])
    assert [answer.get("dead_letter", {}).get("reason") for answer in answers] == [
        "label_type",
        "label_type",
        None,
        None,
    ]
    assert answers[-1]["model"]["learned"] == 1


def test_another_horizon_is_another_rule_for_the_same_model() -> None:
    era = Era("", {"event": {}, "model_name": "m"}, "h", "v", 1, {}, {}, [], "f")
    assert spec_of(era).horizon == 1, "eras from before there were forecasters"
    told = Told([1.0] * 4)
    learner = Shard(ShardSpec("m", "v", 1, horizon=4), Learner(told), Memory()).learner
    assert (learner.model, learner.predict({}, None).detail) == (told, [1.0] * 4)


def test_with_labels_on_a_topic_of_their_own_a_forecast_looks_over_the_events_that_wait() -> None:
    spec = ShardSpec("m", "v", 1, labels=LabelSpec("truth"), horizon=3)
    shard = Shard(spec, Learner(time_series.HoltWinters(0.5, 0.5), 3), Memory())
    plain, forecasts = time_series.HoltWinters(0.5, 0.5), []

    def told(topic: str, n: int, **doc: Any) -> list[Any]:
        value = orjson.dumps({"id": f"e{n}", "ts": 1000 + n, **doc})
        return [
            orjson.loads(o.value or b"")
            for o in outputs_of(shard.step(Record(topic, 0, n, 2_000_000, None, value)))
        ]

    for n in range(len(SERIES)):
        forecasts += told("events", n, features={})
        if n >= 5:  # the label of the event five before
            told("truth", n - 5, label=SERIES[n - 5])
    assert [answer["forecast"] for answer in forecasts[:7]] == [[]] * 7
    for answer, y in zip(forecasts[5:], SERIES, strict=False):
        assert answer["forecast"] == (plain.forecast(8)[5:] if plain._initialized else [])
        plain.learn_one(y)


@pytest.mark.parametrize("features", ["features", ""])
def test_a_series_needs_no_features(features: str) -> None:
    rest = {"features": {}} if features else {"site": "a"}
    events = [{"ts": n, "label": y, **rest} for n, y in enumerate(SERIES)]
    answers = list(run(time_series.HoltWinters(0.5), events, EventSpec(features=features)))
    assert all(answer["forecast"] for answer in answers[2:])
    load(None, {"event.features": features, "topics.input": ["t"]})


@pytest.mark.parametrize("horizon", [0, 1001, "soon"])
def test_the_horizon_has_bounds(horizon: Any) -> None:
    with pytest.raises(ConfigError, match=r"model\.horizon"):
        load(None, {"model.horizon": horizon, "topics.input": ["t"]})


@pytest.mark.parametrize("model", [linear_model.LinearRegression, cluster.KMeans, anomaly.OneClassSVM])
def test_only_a_forecaster_looks_ahead(model: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError, match=r"is no forecaster, so horizon must be 1\.$"):
        model_template("app", "", {}, [], model(), 2)


# --- clustering -------------------------------------------------------------------------------------------

CLUSTERERS: dict[str, Callable[[], Any]] = {
    "k-means": lambda: cluster.KMeans(halflife=0.05, seed=1),
    "clustream": lambda: cluster.CluStream(max_micro_clusters=10, time_gap=20, seed=1),
    "dbstream": cluster.DBSTREAM,
    "denstream": lambda: cluster.DenStream(n_samples_init=30),
    "behind a scaler": lambda: preprocessing.StandardScaler() | cluster.KMeans(seed=1),
}


@pytest.mark.parametrize("name", CLUSTERERS)
def test_a_clusterer_answers_as_river_does_and_learns_every_event_whatever_its_label(name: str) -> None:
    plain, labels = CLUSTERERS[name](), (None, True, "a", 3.5)
    rows = [(x, labels[n % 4]) for n, (x, _) in enumerate(islice(datasets.Phishing(), 300))]
    for n, ((x, _), answer) in enumerate(zip(rows, published(CLUSTERERS[name](), rows), strict=True)):
        assert (answer["prediction"], answer["model"]["learned"]) == (plain.predict_one(x), n)
        assert list(answer) == ["id", "key", "ts", "prediction", "model", "source"]
        plain.learn_one(x)


def test_a_clusterer_that_has_no_centres_yet_has_no_opinion() -> None:
    rows = [(x, None) for x, _ in islice(datasets.Phishing(), 50)]
    answers = published(cluster.STREAMKMeans(n_clusters=3, seed=1), rows)
    assert answers[0]["prediction"] is None
    assert {answer["prediction"] for answer in answers[1:]} <= {0, 1, 2}


def test_of_a_generator_a_pickle_may_name_the_draw_of_k_means_and_nothing_else() -> None:
    model = load_model(dump_model(cluster.KMeans(seed=1)))
    plain = cluster.KMeans(seed=1)
    for x, _ in islice(datasets.Phishing(), 20):
        assert model.predict_one(x) == plain.predict_one(x)
    rng = random.Random(1)
    for method in (rng.seed, rng.setstate, rng.getrandbits, rng.random):
        with pytest.raises(BadCheckpoint, match="not allowed"):
            load_model(pickle.dumps(method))


# --- anomalies --------------------------------------------------------------------------------------------

FILTERS: dict[str, Callable[[], Any]] = {
    "threshold": lambda: anomaly.ThresholdFilter(anomaly.HalfSpaceTrees(seed=1), threshold=0.9),
    "quantile": lambda: anomaly.QuantileFilter(anomaly.HalfSpaceTrees(seed=1), q=0.9),
    "threshold behind a scaler": lambda: MIN_MAX() | FILTERS["threshold"](),
    "quantile behind a scaler": lambda: MIN_MAX() | FILTERS["quantile"](),
    "around a pipeline": lambda: anomaly.QuantileFilter(MIN_MAX() | anomaly.HalfSpaceTrees(seed=1), q=0.9),
    "unprotected": lambda: anomaly.QuantileFilter(
        anomaly.HalfSpaceTrees(seed=1), q=0.9, protect_anomaly_detector=False
    ),
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_gives_a_verdict_with_the_score_and_needs_no_label(name: str) -> None:
    plain, rows = FILTERS[name](), shuttle()
    last = plain["".join(list(plain.steps)[-1:])] if hasattr(plain, "steps") else plain
    verdicts = set()
    for (x, _), answer in zip(rows, published(FILTERS[name](), [(x, None) for x, _ in rows]), strict=True):
        score = plain.score_one(x)
        assert (answer["score"], answer["prediction"]) == (score, last.classify(score))
        verdicts.add(answer["prediction"])
        plain.learn_one(x)
    assert verdicts == {True, False}


def test_a_detector_without_a_filter_gives_its_score_alone() -> None:
    answers = published(MIN_MAX() | anomaly.HalfSpaceTrees(seed=1), shuttle())
    assert {answer["prediction"] for answer in answers} == {None}
    assert len({answer["score"] for answer in answers}) > 20


def test_a_filter_around_a_supervised_detector_judges_the_label() -> None:
    def make() -> Any:
        return anomaly.QuantileFilter(anomaly.GaussianScorer(grace_period=10), q=0.9)

    plain = make()
    for y, answer in zip(SERIES, published(make(), [({}, y) for y in SERIES]), strict=True):
        score = plain.score_one({}, y)
        assert (answer["score"], answer["prediction"]) == (score, plain.classify(score))
        plain.learn_one({}, y)


def test_a_detector_that_judges_labels_is_not_scored_by_them() -> None:
    for model, labels in ((anomaly.GaussianScorer(), 0), (MIN_MAX() | anomaly.HalfSpaceTrees(seed=1), 100)):
        shard = Shard(ShardSpec("m", "v", 1, scores=ScoresSpec()), Learner(model), Memory())
        for n in range(100):
            value = orjson.dumps({"features": {"a": n % 7}, "label": n % 2})
            (prediction,) = outputs_of(shard.step(Record("events", 0, n, 2_000_000, None, value)))
            assert b'"score"' in (prediction.value or b"")
        assert shard.scores is not None
        assert (shard.scores.labels, shard.memory.learned) == (labels, 100)


def test_a_filter_inside_a_pipeline_keeps_what_it_thinks_wrong_from_the_classifier() -> None:
    def make() -> Any:
        return compose.Pipeline(
            MIN_MAX(), anomaly.QuantileFilter(anomaly.HalfSpaceTrees(seed=1), q=0.9), naive_bayes.GaussianNB()
        )

    plain, unfiltered, differ = make(), compose.Pipeline(MIN_MAX(), naive_bayes.GaussianNB()), 0
    for (x, y), answer in zip(shuttle(), published(make(), shuttle()), strict=True):
        probabilities = plain.predict_proba_one(x)
        assert answer["probabilities"] == {str(label).lower(): p for label, p in probabilities.items()}
        differ += probabilities != unfiltered.predict_proba_one(x)
        plain.learn_one(x, y)
        unfiltered.learn_one(x, y)
    assert differ > 40


# --- refusals, and the check before the first event -------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (preprocessing.StandardScaler, "neither .* nor a forecaster: give one of these"),
        (lambda: MIN_MAX() | cluster.ODAC(), "ODAC builds a hierarchy of features and predicts nothing"),
        (cluster.TextClust, "TextClust needs a clock with every event: give it real_time_fading = false"),
        (
            lambda: MIN_MAX() | anomaly.ThresholdFilter(anomaly.HalfSpaceTrees(), 0.9, False),
            "ThresholdFilter never learns with protect_anomaly_detector = false",
        ),
        (
            lambda: multioutput.RegressorChain(linear_model.LinearRegression(), order=[0, 1]),
            "RegressorChain predicts several targets",
        ),
        (
            lambda: active.EntropySampler(linear_model.LogisticRegression()),
            "EntropySampler asks for labels",
        ),
        (lambda: MIN_MAX() | anomaly.GaussianScorer(), "it must stand alone"),
    ],
)
def test_a_model_that_could_not_do_its_task_is_refused_with_the_reason(model: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        model_task(model())
    with pytest.raises(ConfigError, match=says):
        model_template("app", "", {}, [], model())


def test_a_threshold_filter_without_protection_does_never_learn_in_river() -> None:
    """Why it is refused: when this fails, river has mended it and the refusal can go."""
    model = anomaly.ThresholdFilter(anomaly.GaussianScorer(), 0.9, protect_anomaly_detector=False)
    model.learn_one({}, 3.0)
    assert model.anomaly_detector.gaussian.n_samples == 0


@pytest.mark.parametrize(
    ("model", "horizon"),
    [
        (lambda: time_series.SNARIMAX(p=3, d=1, q=1), 1),
        (lambda: time_series.HoltWinters(0.3), 10),
        (cluster.KMeans, 1),
        (lambda: cluster.STREAMKMeans(seed=1), 1),
    ],
)
def test_forecasters_and_clusterers_pass_the_check_before_the_first_event(model: Any, horizon: int) -> None:
    era = Era("", {"event": {}, "model_name": "m", "horizon": horizon}, "h", "v", 1, {}, {}, [], "f")
    check_model(RealEnv(), model_template("app", "", {}, [], model(), horizon), era, [])


def test_a_clusterer_that_draws_without_a_seed_while_it_learns_does_not() -> None:
    era = Era("", {"event": {}, "model_name": "m"}, "h", "v", 1, {}, {}, [], "f")
    with pytest.raises(ConfigError, match=r"answers twice.*a seed"):
        check_model(RealEnv(), model_template("app", "", {}, [], cluster.STREAMKMeans(5, 10)), era, [])


def test_each_task_has_its_name() -> None:
    models: dict[str, base.Estimator] = {
        "classification": linear_model.LogisticRegression(),
        "regression": MIN_MAX() | linear_model.LinearRegression(),
        "anomaly": FILTERS["quantile behind a scaler"](),
        "clustering": CLUSTERERS["behind a scaler"](),
        "forecasting": MIN_MAX() | time_series.SNARIMAX(p=1, d=0, q=0),
    }
    assert {name: model_task(model) for name, model in models.items()} == {name: name for name in models}
