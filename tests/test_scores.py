"""Scores against river's own metrics and baselines, fed with the same pairs."""

import json
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from river import (
    anomaly,
    cluster,
    datasets,
    dummy,
    linear_model,
    metrics,
    naive_bayes,
    preprocessing,
    stats,
    time_series,
    tree,
)

from streamlearn.core.events.event import Event
from streamlearn.core.model.learner import Learner, Prediction
from streamlearn.core.scores.metrics import population_stability, rank_metrics
from streamlearn.core.scores.ranks import MAX_KEPT, Ranks
from streamlearn.core.scores.scores import MAX_CLASSES, Scores, ScoresSpec

Row = tuple[dict[str, Any], Any]
Said = tuple[Any, Any, Any]
"""A label, what was predicted, and the probabilities river would have."""

LABEL_METRICS: dict[str, Callable[[], Any]] = {
    "accuracy": metrics.Accuracy,
    "balanced_accuracy": metrics.BalancedAccuracy,
    "cohen_kappa": metrics.CohenKappa,
}
BINARY = {"f1": metrics.F1, "roc_auc": metrics.ROCAUC, "log_loss": metrics.LogLoss}
SEVERAL = {"macro_f1": metrics.MacroF1, "log_loss": metrics.CrossEntropy}
NUMBERS = {"mae": metrics.MAE, "rmse": metrics.RMSE, "r2": metrics.R2}


class Run:
    """A model, river's baselines and `Scores` over one stream, labels `delay` events late."""

    def __init__(self, model: Any, window: int = 100) -> None:
        self.learner = Learner(model)
        self.task = self.learner.task
        self.spec = ScoresSpec(window=window)
        self.scores = Scores(self.spec, self.task)
        self.baselines: dict[str, Any] = {"no_change": dummy.NoChangeClassifier()}
        self.baselines["prior"] = dummy.PriorClassifier()
        if self.task == "regression":
            self.baselines = {"mean": dummy.StatisticRegressor(stats.Mean())}
        self.said: dict[str, list[Said]] = {name: [] for name in ("model", *self.baselines)}

    def feed(self, rows: Iterable[Row], delay: int = 0) -> "Run":
        waiting: deque[tuple[dict[str, Any], Any, list[Any], dict[str, Any]]] = deque()
        for x, y in rows:
            answers = {name: self._said(model, x) for name, model in self.baselines.items()}
            answers["model"] = self._said(self.learner.model, x)
            guess = self.scores.capture(self.learner.predict(x, None), x)
            waiting.append((x, y, msgspec.msgpack.decode(msgspec.msgpack.encode(guess)), answers))
            if len(waiting) > delay:
                self._learn(*waiting.popleft())
        while waiting:
            self._learn(*waiting.popleft())
        return self

    def _said(self, model: Any, x: dict[str, Any]) -> tuple[Any, Any]:
        label = model.predict_one(x)
        return label, None if self.task == "regression" else model.predict_proba_one(x)

    def _learn(self, x: dict[str, Any], y: Any, guess: list[Any], answers: dict[str, Any]) -> None:
        self.scores.update(y, guess)
        for name, (label, probabilities) in answers.items():
            self.said[name].append((y, label, probabilities))
        self.learner.learn(x, y)
        for model in self.baselines.values():
            model.learn_one(x, y)

    def check(self, wanted: dict[str, Callable[[], Any]], exact: bool = True) -> None:
        report = self.scores.report()
        assert_finite(report)
        for name, said in self.said.items():
            for span, pairs in (("all", said), ("window", said[-self.spec.window :])):
                for metric, make in wanted.items():
                    expected = fed(make(), pairs).get()
                    found = report[span][name][metric]
                    if not exact:
                        expected = pytest.approx(expected, rel=1e-14)
                    assert found == expected, (span, name, metric)


def fed(metric: Any, said: Iterable[Said]) -> Any:
    """As `progressive_val_score` does it: what is None or empty is passed over."""
    for y, label, probabilities in said:
        answer = label if getattr(metric, "requires_labels", True) else probabilities
        if answer is not None and answer != {}:
            metric.update(y, answer)
    return metric


def assert_finite(report: Any) -> None:
    json.dumps(report, allow_nan=False)


def rows(dataset: Any, n: int) -> list[Row]:
    return list(islice(dataset, n))


def scaled(model: Any) -> Any:
    return preprocessing.StandardScaler() | model


@pytest.mark.parametrize("delay", [0, 150])
def test_true_and_false_are_scored_as_by_river(delay: int) -> None:
    run = Run(scaled(linear_model.LogisticRegression())).feed(datasets.Phishing(), delay)
    run.check(LABEL_METRICS | BINARY)


@pytest.mark.parametrize("delay", [0, 77])
def test_0_and_1_are_scored_as_by_river(delay: int) -> None:
    model = tree.HoeffdingTreeClassifier(grace_period=50)
    Run(model).feed(rows(datasets.Shuttle(), 1500), delay).check(LABEL_METRICS | BINARY)
    Run(scaled(linear_model.LogisticRegression())).feed(rows(datasets.Shuttle(), 1500), delay).check(
        LABEL_METRICS | BINARY
    )


@pytest.mark.parametrize("delay", [0, 40])
def test_several_classes_are_scored_as_by_river(delay: int) -> None:
    """River adds over classes in the order of a set: for texts that changes with the hash seed."""
    run = Run(scaled(naive_bayes.GaussianNB())).feed(rows(datasets.ImageSegments(), 1300), delay)
    run.check(SEVERAL | LABEL_METRICS, exact=False)
    run.check({"log_loss": metrics.CrossEntropy, "accuracy": metrics.Accuracy})


def test_classes_that_are_small_integers_agree_to_the_last_digit() -> None:
    kinds = ["brickface", "sky", "foliage", "cement", "window", "path", "grass"]
    stream = [(x, kinds.index(y)) for x, y in rows(datasets.ImageSegments(), 800)]
    Run(scaled(naive_bayes.GaussianNB())).feed(stream, 5).check(SEVERAL | LABEL_METRICS)


def test_a_third_class_that_comes_late_changes_nothing_about_what_was_before() -> None:
    stream = [(x, int(y)) for x, y in rows(datasets.Phishing(), 900)]
    late = [(x, 2 if i % 3 else y) for i, (x, y) in enumerate(stream)]
    run = Run(naive_bayes.GaussianNB(), window=1200).feed(stream + late)
    run.check(SEVERAL | LABEL_METRICS)
    assert "roc_auc" not in run.scores.report()["all"]["model"]


def test_when_a_third_class_is_noticed_makes_no_difference() -> None:
    """A river model for two classes may answer true for labels 1, until it meets a 2."""
    early, late = (Scores(ScoresSpec(window=400), "classification") for _ in range(2))
    entropy = metrics.CrossEntropy()
    for k, (answer, x, label) in enumerate(wild("binary", 300, 11)):
        y = 2 if k == 250 else label
        said = {{"0": 0, "1": 1, "true": True}[name]: p for name, p in answer.detail.items()}
        entropy.update(y, said)
        for scores in (early, late):
            scores.update(y, scores.capture(answer, x))
        early.report()
    assert early.dump() == late.dump()
    assert late.report()["all"]["model"]["log_loss"] == entropy.get()


@pytest.mark.parametrize("delay", [0, 30])
def test_numbers_are_scored_as_by_river(delay: int) -> None:
    stream = [({"hour": x["Time"].hour}, y) for x, y in datasets.WaterFlow()]
    Run(scaled(linear_model.LinearRegression())).feed(stream, delay).check(NUMBERS)


def test_no_change_of_numbers_is_the_last_label_and_mase_compares_with_it() -> None:
    scores = Scores(ScoresSpec(), "regression")
    labels = [5.0, 7.0, 6.0, 9.0]
    for y in labels:
        scores.update(y, scores.capture(Prediction(6.5, "", None, True), {}))
    report = scores.report()["all"]
    # Before the first label it says 0.0, as river's regressors and mean do: all have the same labels.
    assert report["no_change"]["mae"] == (5 + 2 + 1 + 3) / 4
    assert report["model"]["mase"] == pytest.approx((1.5 + 0.5 + 0.5 + 2.5) / (5 + 2 + 1 + 3))
    assert report["no_change"]["mase"] == 1


def test_kappa_m_and_kappa_temporal_compare_on_the_labels_that_both_answered() -> None:
    scores = Scores(ScoresSpec(), "classification")
    for y, said in zip("aabbbab", [None, *"abbbbb"], strict=True):
        scores.update(y, scores.capture(Prediction(said, "", None, True), {}))
    report = scores.report()["all"]
    # Labels 2-7: the model is right in 5 of 6, no-change in 3, the commonest label so far in 3.
    assert report["no_change"]["accuracy"] == 3 / 6
    assert (report["model"]["answered"], report["no_change"]["answered"]) == (6, 6)
    assert report["model"]["kappa_temporal"] == pytest.approx((5 / 6 - 3 / 6) / (1 - 3 / 6))
    prior = [("a", "a"), ("b", "a"), ("b", "a"), ("b", "a"), ("a", "b"), ("b", "a")]
    p = sum(y == guess for y, guess in prior) / 6
    assert report["prior"]["accuracy"] == p
    assert report["model"]["kappa_m"] == pytest.approx((5 / 6 - p) / (1 - p))


def test_calibration_error_is_the_distance_of_confidence_and_accuracy() -> None:
    scores = Scores(ScoresSpec(), "classification")
    for y, p in [(True, 0.95), (False, 0.95), (True, 0.65), (True, 0.65)]:
        answer = Prediction(True, "probabilities", {"false": 1 - p, "true": p}, True)
        scores.update(y, scores.capture(answer, {}))
    error = scores.report()["all"]["model"]["calibration_error"]
    assert error == pytest.approx((2 * abs(0.5 - 0.95) + 2 * abs(1 - 0.65)) / 4)


def test_a_model_that_answers_labels_only_has_no_scores_of_probabilities() -> None:
    scores = Scores(ScoresSpec(), "classification")
    for i in range(40):
        scores.update(i % 2 == 0, scores.capture(Prediction(True, "", None, True), {}))
    model = scores.report()["all"]["model"]
    assert model["accuracy"] == 0.5
    assert (model["log_loss"], model["roc_auc"], model["calibration_error"]) == (None, None, None)


def test_before_the_first_label_everything_is_undefined() -> None:
    for task in ("classification", "regression", "anomaly", "clustering", "forecasting"):
        report = Scores(ScoresSpec(), task).report()
        assert_finite(report)
        numbers = [part for name in ("model", "no_change") for part in report["all"][name].values()]
        assert not any(numbers), task


def naive_ranks(pairs: list[tuple[bool, float]]) -> tuple[float, float]:
    good, bad = [s for y, s in pairs if y], [s for y, s in pairs if not y]
    auc = sum((g > b) + (g == b) / 2 for g in good for b in bad) / (len(good) * len(bad))
    precision, reached = 0.0, 0
    for limit in sorted({s for _, s in pairs}, reverse=True):
        true = sum(s >= limit for s in good)
        precision += (true - reached) / len(good) * true / (true + sum(s >= limit for s in bad))
        reached = true
    return auc, precision


def test_anomaly_scores_are_scored_as_by_river_and_by_their_ranks() -> None:
    model = anomaly.QuantileFilter(anomaly.HalfSpaceTrees(seed=1, window_size=50), q=0.9)
    model = preprocessing.MinMaxScaler() | model
    learner, scores = Learner(model), Scores(ScoresSpec(window=200), "anomaly")
    pairs, verdicts = [], []
    for x, y in rows(datasets.Shuttle(), 900):
        answer = learner.predict(x, None)
        scores.update(y, scores.capture(answer, x))
        pairs.append((bool(y), answer.detail))
        verdicts.append((y, answer.prediction, None))
        learner.learn(x, None)
    report = scores.report()
    assert_finite(report)
    for span, said, told in (
        (report["all"], pairs, verdicts),
        (report["window"], pairs[-200:], verdicts[-200:]),
    ):
        roc = metrics.ROCAUC()
        for label, score in said:
            roc.update(label, score)
        auc, precision = naive_ranks(said)
        assert span["model"]["roc_auc"] == roc.get()
        assert span["model"]["roc_auc_ranks"] == pytest.approx(auc)
        assert span["model"]["average_precision"] == pytest.approx(precision)
        for metric, make in {**LABEL_METRICS, "f1": metrics.F1}.items():
            assert span["model"][metric] == fed(make(), told).get()


def test_scores_on_another_scale_have_no_area_under_fixed_thresholds() -> None:
    rng = random.Random(3)
    scores = Scores(ScoresSpec(), "anomaly")
    pairs = [(rng.random() < 0.2, abs(rng.gauss(0, 50))) for _ in range(300)]
    for y, score in pairs:
        scores.update(y, scores.capture(Prediction(None, "score", score, True), {}))
    model = scores.report()["all"]["model"]
    assert model["roc_auc"] is None and model["accuracy"] is None
    assert (model["roc_auc_ranks"], model["average_precision"]) == pytest.approx(naive_ranks(pairs))


def test_ranks_stay_bounded_and_nearly_exact() -> None:
    rng = random.Random(4)
    ranks, alone, exact = Ranks(), Ranks(), []
    for _ in range(3 * MAX_KEPT):
        y = rng.random() < 0.3
        score = rng.gauss(1.0 if y else 0.0, 1.0)
        alone.add(np.array([score]), np.array([y]))
        exact.append((score, y))
    for first in range(0, len(exact), 1000):
        scores, ys = zip(*exact[first : first + 1000], strict=True)
        ranks.add(np.array(scores), np.array(ys))
    assert len(ranks.counts) <= MAX_KEPT
    assert (ranks.shift, [*ranks.counts.items()]) == (alone.shift, [*alone.counts.items()])
    exact.sort()
    wins = below = 0
    for _, y in exact:
        wins, below = (wins + below, below) if y else (wins, below + 1)
    auc = wins / (below * (len(exact) - below))
    assert ranks.metrics()["roc_auc_ranks"] == pytest.approx(auc, abs=1e-4)


def test_clusters_are_scored_as_by_river() -> None:
    model = cluster.KMeans(n_clusters=5, halflife=0.4, seed=1)
    scores = Scores(ScoresSpec(window=300), "clustering")
    pairs, places = [], {}
    for x, y in rows(datasets.ImageSegments(), 900):
        at = model.predict_one(x) if pairs else 0
        scores.update(y, scores.capture(Prediction(at, "", None, True), x))
        pairs.append((places.setdefault(y, len(places)), at, None))
        model.learn_one(x)
    report = scores.report()
    for span, said in ((report["all"], pairs), (report["window"], pairs[-300:])):
        for metric, make in (("adjusted_rand", metrics.AdjustedRand), ("v_measure", metrics.VBeta)):
            assert span["model"][metric] == pytest.approx(fed(make(), said).get(), rel=1e-12)
    labels = [place for place, _, _ in pairs]
    last = [(y, before, None) for before, y in pairwise(labels)]
    found = report["all"]["no_change"]["v_measure"]
    assert found == pytest.approx(fed(metrics.VBeta(), last).get(), rel=1e-12)


def test_a_forecast_is_scored_step_by_step_with_the_labels_of_its_event_and_those_after_it() -> None:
    """Labels come late, and some never."""
    horizon, delay = 3, 4
    model = time_series.HoltWinters(alpha=0.3, beta=0.1)
    labels = [y for _, y in datasets.AirlinePassengers()]
    missing = {20, 50, 51, 100}
    scores = Scores(ScoresSpec(window=20), "forecasting")
    forecasts: list[list[float]] = []
    lasts: list[float | None] = []
    guesses: list[Any] = []
    learned: list[int] = []
    for n in range(len(labels) + delay):
        if n >= delay and n - delay not in missing:
            scores.update(labels[n - delay], guesses[n - delay])
            model.learn_one(labels[n - delay])
            learned.append(n - delay)
        if n < len(labels):
            forecasts.append(model.forecast(horizon) if n > 6 else [])
            lasts.append(labels[learned[-1]] if learned else None)
            guesses.append(scores.capture(Prediction(None, "forecast", forecasts[-1], True), {}))
    pairs = [[(at, at - k) for at in learned if at >= k and forecasts[at - k]] for k in range(horizon)]
    errors = [[abs(labels[at] - forecasts[made][k]) for at, made in pairs[k]] for k in range(horizon)]
    naive = [[abs(labels[at] - lasts[made]) for at, made in pairs[k] if lasts[made]] for k in range(horizon)]
    report = scores.report()
    assert report["all"]["model"]["mae_by_step"] == pytest.approx([sum(e) / len(e) for e in errors])
    assert report["all"]["no_change"]["mae_by_step"] == pytest.approx([sum(e) / len(e) for e in naive])
    assert report["all"]["model"]["mae"] == pytest.approx(sum(sum(e) / len(e) for e in errors) / horizon)
    recent = [e for k in range(horizon) for e in errors[k][-20:]]
    assert report["window"]["model"]["mae"] == pytest.approx(sum(recent) / len(recent))


def wild(task: str, n: int, seed: int) -> Iterator[tuple[Prediction, dict[str, Any], Any]]:
    """Answers as models give them, some of them none, and labels."""
    rng = random.Random(seed)
    for _ in range(n):
        x = {"a": rng.gauss(0, 1), "b": rng.choice(["hot", "cold"])}
        if task == "classification":
            p = {name: rng.random() for name in ("k", "l", "m") if rng.random() < 0.9}
            best = max(p, key=p.get, default=None)  # type: ignore[arg-type]
            yield Prediction(best, "probabilities", p, True), x, rng.choice("klmn")
        elif task == "binary":
            p1 = rng.random()
            p = {"0": 1 - p1, "1": p1} if rng.random() < 0.9 else {"true": 0.8}
            yield Prediction(p1 > 0.5, "probabilities", p, True), x, rng.randint(0, 1)
        elif task == "regression":
            yield Prediction(rng.choice([None, rng.gauss(0, 1)]), "", None, True), x, rng.gauss(0, 1)
        elif task == "anomaly":
            verdict = rng.choice([None, True, False])
            yield Prediction(verdict, "score", rng.gauss(0, 9), True), x, rng.random() < 0.2
        elif task == "clustering":
            yield Prediction(rng.choice([None, 1, 2]), "", None, True), x, rng.choice("kl")
        else:
            forecast = [rng.gauss(0, 1) for _ in range(4)]
            yield Prediction(None, "forecast", forecast, True), x, rng.gauss(0, 1)


TASKS = ["classification", "binary", "regression", "anomaly", "clustering", "forecasting"]


@pytest.mark.parametrize("kind", TASKS)
def test_a_dump_at_any_place_changes_nothing(kind: str) -> None:
    """Nor does a report: both fold what was filed earlier than it would be otherwise."""
    rng = random.Random(7)
    task = "classification" if kind == "binary" else kind
    spec = ScoresSpec(window=150)
    whole, pieces = Scores(spec, task), Scores(spec, task)
    waiting: deque[tuple[Any, list[Any], list[Any]]] = deque()
    for answer, x, y in wild(kind, 2600, 5):
        waiting.append((y, whole.capture(answer, x), pieces.capture(answer, x)))
        assert waiting[-1][1] == waiting[-1][2]
        if len(waiting) > 30:
            label, one, other = waiting.popleft()
            whole.update(label, one)
            pieces.update(label, other)
        if rng.random() < 0.02:
            pieces = Scores.load(spec, task, pieces.dump())
        if rng.random() < 0.02:
            assert_finite(pieces.report())
    assert json.dumps(pieces.report()) == json.dumps(whole.report())
    assert pieces.dump() == whole.dump()


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("window", [150, 1000])
def test_answers_in_a_row_are_scored_as_one_at_a_time(kind: str, window: int) -> None:
    """Also where sums could go beyond the largest number, and whenever they are added up."""
    rng = random.Random(window)
    task = "classification" if kind == "binary" else kind
    spec = ScoresSpec(window=window)
    alone, row = Scores(spec, task), Scores(spec, task)
    stream = [(answer, x, None if rng.random() < 0.1 else y) for answer, x, y in wild(kind, 5200, 6)]
    if kind == "regression":
        stream = [(Prediction(rng.gauss(0, 1), "", None, True), *rest) for _, *rest in stream]
        for n, said in ((900, 1e200), (2000, 5), (2500, -math.inf), (3000, 1e160), (4000, None)):
            stream[n] = (Prediction(said, "", None, True), *stream[n][1:])
    first = 0
    while first < len(stream):
        part = stream[first : first + rng.choice((1, 64, 500))]
        first += len(part)
        for answer, x, y in part:
            captured = alone.capture(answer, x, 1.0)
            if y is not None:
                alone.update(y, captured)
            if rng.random() < 0.001:
                alone = Scores.load(spec, task, alone.dump())
        answers = [answer for answer, _, _ in part]
        row.score([Event("e", None, 1.0, x, y) for _, x, y in part], answers, 1.0)
        if rng.random() < 0.1:
            assert json.dumps(row.report()) == json.dumps(alone.report())
    assert row.dump() == alone.dump()


def test_a_dump_of_another_task_is_refused() -> None:
    data = Scores(ScoresSpec(), "regression").dump()
    with pytest.raises(ValueError, match="not those of a model for anomaly"):
        Scores.load(ScoresSpec(), "anomaly", data)


def test_a_smaller_window_keeps_its_newest_labels() -> None:
    for kind in TASKS:
        task = "classification" if kind == "binary" else kind
        large, small = (Scores(ScoresSpec(window=size), task) for size in (500, 60))
        for answer, x, y in wild(kind, 400, 6):
            large.update(y, large.capture(answer, x))
            small.update(y, small.capture(answer, x))
        restored = Scores.load(ScoresSpec(window=60), task, large.dump())
        assert restored.report() == small.report()


def test_a_guess_is_small_and_plain() -> None:
    run = Run(scaled(linear_model.LogisticRegression())).feed(rows(datasets.Phishing(), 300))
    x = next(iter(datasets.Phishing()))[0]
    guess = run.scores.capture(run.learner.predict(x, None), x)
    assert len(msgspec.msgpack.encode(guess)) <= 60


def test_there_is_room_for_a_bounded_number_of_classes() -> None:
    for task in ("classification", "clustering"):
        scores = Scores(ScoresSpec(), task)
        for k in range(MAX_CLASSES):
            assert scores.can_track_class(f"c{k}")
            scores.update(f"c{k}", scores.capture(Prediction(None, "", None, True), {}))
        assert not scores.can_track_class("one more")
        assert scores.can_track_class("c5")
    assert Scores(ScoresSpec(), "regression").can_track_class(1.0)


def test_a_model_that_invents_classes_without_end_is_wrong_and_bounded() -> None:
    scores = Scores(ScoresSpec(window=10), "classification")
    for k in range(3 * MAX_CLASSES):
        scores.update("a", scores.capture(Prediction(f"invented {k}", "", None, True), {}))
    assert scores.report()["all"]["model"]["accuracy"] == 0
    assert len(scores.dump()) < 40 * MAX_CLASSES + 20_000


def drifting(n: int, rng: random.Random, moved: bool) -> Iterator[dict[str, Any]]:
    for _ in range(n):
        word = rng.choice(["hot", "cold"] if not moved else ["hot", "mild"])
        yield {"a": rng.gauss(2.0 if moved else 0.0, 1), "b": rng.gauss(0, 1), "c": word}


def test_proxies_see_what_moved_and_do_not_call_it_a_score() -> None:
    rng = random.Random(8)
    scores = Scores(ScoresSpec(), "regression")
    for x in drifting(9000, rng, moved=False):
        scores.capture(Prediction(x["b"], "", None, True), x)
    calm = scores.report()["proxies"]
    assert "not scores" in calm["note"]
    assert max(calm["prediction_psi"], *calm["feature_psi"].values()) < 0.1
    for x in drifting(9000, rng, moved=True):
        scores.capture(Prediction(x["b"], "", None, True), x)
    moved = scores.report()["proxies"]
    assert moved["feature_psi"]["a"] > 0.25 and moved["feature_psi"]["c"] > 0.25
    assert moved["feature_psi"]["b"] < 0.1 and moved["prediction_psi"] < 0.1
    assert moved["label_coverage"] == 0


def test_a_feature_that_goes_missing_is_a_shift() -> None:
    rng = random.Random(9)
    scores = Scores(ScoresSpec(), "regression")
    for k in range(12_000):
        x = {"a": rng.gauss(0, 1)} if k < 2000 or k % 2 else {}
        scores.capture(Prediction(1.0, "", None, True), x)
    assert scores.report()["proxies"]["feature_psi"]["a"] > 0.25


def test_sensors_that_take_turns_are_all_seen() -> None:
    scores = Scores(ScoresSpec(), "regression")
    for k in range(9000):
        scores.capture(Prediction(1.0, "", None, True), {"sensor": str(k % 8), "a": float(k % 17)})
    assert max(scores.report()["proxies"]["feature_psi"].values()) < 0.1


def test_psi_is_the_published_sum() -> None:
    p, q = (60.5 / 101, 40.5 / 101), (20.5 / 81, 60.5 / 81)
    expected = sum((a - b) * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert population_stability([60, 40], [20, 60]) == pytest.approx(expected)


def test_a_class_that_was_only_predicted_counts_in_macro_f1_as_in_river() -> None:
    scores, macro = Scores(ScoresSpec(), "classification"), metrics.MacroF1()
    for y, said in [("a", "a"), ("b", "z"), ("b", "b")]:
        scores.update(y, scores.capture(Prediction(said, "", None, True), {}))
        macro.update(y, said)
    assert scores.report()["all"]["model"]["macro_f1"] == pytest.approx(macro.get())


def test_a_perfect_average_precision_is_one_and_no_more() -> None:
    """Shares added up instead came to 1.0000000000000004."""
    for anomalies in range(1, 100):
        assert rank_metrics(np.array([(50, 0), *[(0, 1)] * anomalies]))["average_precision"] == 1.0
