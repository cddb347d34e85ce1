"""Predictions are river's own, bit for bit, whatever the model."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
from river import (
    anomaly,
    base,
    compose,
    datasets,
    drift,
    dummy,
    ensemble,
    forest,
    imblearn,
    linear_model,
    multiclass,
    naive_bayes,
    neighbors,
    preprocessing,
    tree,
)

from streamlearn.core.model.learner import Learner, final_step, model_task

Rows = Iterator[tuple[dict[str, Any], Any]]


class Cautious(base.Classifier):
    """Says yes only when it is quite sure: its own rule, not the most probable label."""

    def __init__(self) -> None:
        self.counts = {False: 1, True: 1}

    def learn_one(self, x: dict[str, Any], y: Any) -> None:
        self.counts[bool(y)] += 1

    def predict_proba_one(self, x: dict[str, Any]) -> dict[Any, float]:
        total = sum(self.counts.values())
        return {label: count / total for label, count in self.counts.items()}

    def predict_one(self, x: dict[str, Any]) -> bool:
        return self.predict_proba_one(x)[True] > 0.9


class NumpyMean(base.Regressor):
    """Answers numpy numbers, as regressors of users often do."""

    def __init__(self) -> None:
        self.total = np.float32(0.1)

    def learn_one(self, x: dict[str, Any], y: Any) -> None:
        self.total += np.float32(y)

    def predict_one(self, x: dict[str, Any]) -> Any:
        return self.total


def logistic() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


CLASSIFIERS: list[Callable[[], Any]] = [
    logistic,
    linear_model.Perceptron,
    naive_bayes.GaussianNB,
    lambda: tree.HoeffdingTreeClassifier(grace_period=20),
    lambda: tree.HoeffdingAdaptiveTreeClassifier(grace_period=20, seed=1),
    lambda: tree.ExtremelyFastDecisionTreeClassifier(grace_period=20),
    lambda: forest.ARFClassifier(n_models=3, seed=1),
    lambda: ensemble.LeveragingBaggingClassifier(naive_bayes.GaussianNB(), n_models=3, seed=1),
    lambda: ensemble.AdaBoostClassifier(tree.HoeffdingTreeClassifier(), n_models=3, seed=1),
    lambda: ensemble.VotingClassifier([naive_bayes.GaussianNB(), tree.HoeffdingTreeClassifier()]),
    lambda: neighbors.KNNClassifier(n_neighbors=4),
    lambda: multiclass.OneVsRestClassifier(linear_model.LogisticRegression()),
    lambda: preprocessing.StandardScaler() | multiclass.OneVsOneClassifier(linear_model.PAClassifier()),
    lambda: imblearn.HardSamplingClassifier(logistic(), p=0.2, size=10, seed=1),
    lambda: drift.DriftRetrainingClassifier(naive_bayes.GaussianNB(), drift.binary.DDM()),
    dummy.NoChangeClassifier,
    dummy.PriorClassifier,
    Cautious,
    lambda: preprocessing.StandardScaler() | Cautious(),
]
REGRESSORS: list[Callable[[], Any]] = [
    lambda: preprocessing.StandardScaler() | linear_model.LinearRegression(),
    lambda: tree.HoeffdingTreeRegressor(grace_period=20),
    lambda: forest.ARFRegressor(n_models=3, seed=1),
    neighbors.KNNRegressor,
    lambda: preprocessing.TargetStandardScaler(linear_model.LinearRegression()),
    lambda: compose.Select("ordinal_date") | NumpyMean(),
]
DETECTORS: list[Callable[[], Any]] = [
    lambda: preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(n_trees=3, seed=1),
    lambda: anomaly.LocalOutlierFactor(n_neighbors=5),
    lambda: anomaly.QuantileFilter(anomaly.HalfSpaceTrees(n_trees=3, seed=1), q=0.9),
    lambda: (
        preprocessing.MinMaxScaler() | anomaly.ThresholdFilter(anomaly.HalfSpaceTrees(seed=1), threshold=0.9)
    ),
]


def shuttle() -> Rows:
    return ((x, bool(y)) for x, y in islice(datasets.Shuttle(), 250))


def phishing() -> Rows:
    return islice(datasets.Phishing(), 250)


def segments() -> Rows:
    return islice(datasets.ImageSegments(), 250)


def ties() -> Rows:
    """Labels as text, and features that tell nothing: the most probable label is often a tie."""
    return (({"a": n % 3}, "xyzw"[n % 4]) for n in range(100))


def named(makers: list[Callable[[], Any]]) -> list[Any]:
    return [pytest.param(make, id=f"{n}-{str(make())[:40]}") for n, make in enumerate(makers)]


@pytest.mark.parametrize("rows", [phishing, segments, shuttle, ties])
@pytest.mark.parametrize("make", named(CLASSIFIERS))
def test_a_classifiers_label_is_rivers_own(make: Callable[[], Any], rows: Callable[[], Rows]) -> None:
    ours, plain = Learner(make()), make()
    if ours.binary and rows in (segments, ties):
        pytest.skip("a binary model")
    for x, y in rows():
        answer = ours.predict(x, None)
        expected = plain.predict_one(x)
        assert (answer.prediction, type(answer.prediction)) == (expected, type(expected))
        ours.learn(x, y)
        plain.learn_one(x, y)


@pytest.mark.parametrize("make", named(REGRESSORS))
def test_a_regressors_number_is_rivers_own(make: Callable[[], Any]) -> None:
    ours, plain = Learner(make()), make()
    for x, y in islice(datasets.ChickWeights(), 250):
        row = {"ordinal_date": x["time"], "chick": x["chick"]}
        answer = ours.predict(row, None)
        assert answer.prediction == float(plain.predict_one(row))
        assert type(answer.prediction) is float
        ours.learn(row, y)
        plain.learn_one(row, y)


@pytest.mark.parametrize("make", named(DETECTORS))
def test_a_detectors_score_is_rivers_own_and_a_filter_gives_its_verdict(make: Callable[[], Any]) -> None:
    ours, plain = Learner(make()), make()
    classify = getattr(final_step(plain), "classify", lambda _score: None)
    for x, _ in shuttle():
        answer = ours.predict(x, None)
        score = plain.score_one(x)
        assert (answer.member, answer.detail) == ("score", score)
        assert answer.prediction == classify(score)
        ours.learn(x, None)
        plain.learn_one(x)


def test_a_supervised_detector_scores_a_label_and_learns_it() -> None:
    ours, plain = Learner(anomaly.GaussianScorer(grace_period=5)), anomaly.GaussianScorer(grace_period=5)
    for n in range(50):
        assert ours.predict({}, None).detail is None
        assert ours.predict({}, n % 7).detail == plain.score_one({}, n % 7)
        ours.learn({}, n % 7)
        plain.learn_one({}, n % 7)


def test_probabilities_are_sorted_by_their_texts_and_hold_all_of_the_mass() -> None:
    ours = Learner(naive_bayes.GaussianNB())
    for n in range(30):
        ours.learn({"a": float(n)}, (n * 7) % 12)
    detail = ours.predict({"a": 3.0}, None).detail
    assert list(detail) == sorted(map(str, range(12)))
    assert sum(detail.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    "model",
    [
        preprocessing.StandardScaler(),
        compose.Pipeline(preprocessing.StandardScaler(), anomaly.GaussianScorer()),
        object(),
    ],
)
def test_what_cannot_be_served_is_named(model: Any) -> None:
    with pytest.raises(TypeError, match=r"neither|must stand alone"):
        model_task(model)
