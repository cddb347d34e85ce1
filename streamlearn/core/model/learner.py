"""A river model behind two calls: `predict(x, y) -> Prediction` and `learn(x, y)`.

Which river method that is depends on the task and is settled once; docs/tasks.md has the table.

Invariants:
- The model is asked once per event (again only as `core.shard.trials` says), and whoever compares with a
  plain river loop finds the same bits. A classifier is asked for its probabilities, and the prediction is the
  most probable label, exactly as river's own `predict_one` does it.
- A model of river that can only raise because it was asked too early is not asked: see `_is_ready`.
"""

import copy
from collections.abc import Callable, Sequence
from inspect import signature
from math import isfinite
from typing import Any, Literal

import msgspec

from streamlearn.core.events.event import MAX_NUMBER
from streamlearn.core.events.json_events import label_text
from streamlearn.core.model.acceleration import Acceleration
from streamlearn.core.model.fused import FusedStep

Task = Literal["classification", "regression", "anomaly", "clustering", "forecasting"]
Predict = Callable[..., "Prediction"]
"""Predicts from features and label; for a forecaster also the features of the events that will be learned
before, in their order (none without), or None for too many of them.
"""


class Prediction(msgspec.Struct, gc=False):
    """A model's answer: `member` and `detail` are an extra member of the prediction, "" for none.
    `finite` is False when a number in it is NaN, an infinity or so large that its square is one; a forecast,
    which grows with its horizon, may be as large as it likes.
    """

    prediction: Any
    member: str
    detail: Any
    finite: bool

    def withheld(self) -> "Prediction":
        """No answer, in the shape in which this model gives none."""
        nothing: Any = {"probabilities": {}, "forecast": []}.get(self.member)
        return Prediction(None, "" if nothing is None else self.member, nothing, True)


class Learner:
    """One model. `binary`: it can only tell true from false, whatever it is shown. `horizon`: how many
    labels a forecaster looks ahead, 1 for every other model; else `TypeError`.
    """

    def __init__(self, model: Any, horizon: int = 1) -> None:
        self.model = model
        self.untaught: Any = None
        """A classifier as it was before its first label, to begin anew with; None where that is not known."""
        self.horizon = horizon
        self.task = model_task(model)
        if horizon != 1:
            _check_horizon(model, self.task)
        self.binary = self.task == "classification" and _is_binary(model)
        self.learns_unlabelled = self.task in ("anomaly", "clustering") and not model._supervised
        self.judges_labels = self.task == "anomaly" and bool(final_step(model)._supervised)
        """True if it judges labels, so that they are no truth to score it by."""
        self.text_fields = text_fields(model)
        self.predict: Predict = _predictor(model, self.task, horizon)
        self.learn: Callable[[dict[str, Any], Any], None] = model.learn_one
        """One learning step; `y` is ignored by a model that learns without labels."""
        if self.learns_unlabelled:
            self.learn = lambda x, _y: model.learn_one(x)
        elif self.task == "forecasting":
            self.learn = _forecast_learner(model, horizon)
        self.acceleration: Acceleration[Prediction] | None = None
        self.answer_from = _probable if self.task == "classification" else _numeric
        """The answer that is made from what a fused step predicts."""

    def accelerate(self) -> None:
        """Predict and learn the fused way where that gives the same bits, once it has shown that it does.

        Nothing that comes out depends on it. Nothing is done the second time.
        """
        if self.acceleration is None:
            acceleration = Acceleration(self.model, self.predict, self.learn, self.answer_from)
            self.acceleration = acceleration
            if not acceleration.disabled:
                self.predict, self.learn = acceleration.predict, acceleration.learn

    @property
    def fused(self) -> FusedStep | None:
        """The fused step that predicts and learns in one go; None where there is none, or none yet."""
        return None if self.acceleration is None else self.acceleration.fused

    def keep_untaught(self) -> None:
        """The first label is here: remember the model as it is."""
        self.untaught = copy.deepcopy(self.model)

    def begin_anew(self) -> bool:
        """Forget all labels. False where the model before the first is not known: then nothing changes."""
        if self.untaught is None:
            return False
        untaught, is_accelerated = self.untaught, self.acceleration is not None
        vars(self).update(vars(type(self)(copy.deepcopy(untaught), self.horizon)) | {"untaught": untaught})
        if is_accelerated:
            self.accelerate()
        return True


def model_task(model: Any) -> Task:
    """The model's task, by its river base class (river unwraps pipelines for `isinstance`).

    Raises `TypeError` for an object that streamlearn cannot serve.
    """
    from river import base
    from river.time_series.base import Forecaster

    reason = _unservable(model)
    if reason:
        raise TypeError(f"{type(final_step(model)).__name__} {reason}")
    if isinstance(model, base.Classifier):
        return "classification"
    if isinstance(model, base.Regressor):
        return "regression"
    if isinstance(model, base.AnomalyDetector | base.SupervisedAnomalyDetector | base.AnomalyFilter):
        if final_step(model) is not model and final_step(model)._supervised:
            raise TypeError(
                "a river pipeline cannot score a supervised anomaly detector, so it must stand alone"
            )
        return "anomaly"
    if isinstance(model, base.Clusterer):
        return "clustering"
    if isinstance(model, Forecaster):
        return "forecasting"
    raise TypeError(
        f"{type(model).__name__} is neither a river classifier, a regressor, an anomaly detector, a "
        "clusterer nor a forecaster: give one of these"
    )


def _unservable(model: Any) -> str:
    """The reason to serve no model of the right base class, as river 0.26.1 has it; "" for none."""
    from river import anomaly, base, cluster
    from river.active.base import ActiveLearningClassifier

    final = final_step(model)
    if isinstance(final, ActiveLearningClassifier):
        return "asks for labels instead of predicting them"
    if isinstance(final, base.MultiTargetRegressor):
        return "predicts several targets at once, and an event has one label: take a regressor for one target"
    if isinstance(final, cluster.ODAC):
        return "builds a hierarchy of features and predicts nothing"
    if isinstance(final, cluster.TextClust) and final.real_time_fading:
        return "needs a clock with every event: give it real_time_fading = false"
    if isinstance(final, anomaly.ThresholdFilter) and not final.protect_anomaly_detector:
        return "never learns with protect_anomaly_detector = false: leave it true, or take a QuantileFilter"
    return ""


def _check_horizon(model: Any, task: Task) -> None:
    if task != "forecasting":
        raise TypeError(f"{type(final_step(model)).__name__} is no forecaster, so horizon must be 1")
    if final_step(model) is not model:
        raise TypeError(
            f"{type(final_step(model)).__name__} stands behind other steps, which would need the features "
            "of events to come: set horizon = 1, or let it stand alone"
        )


def final_step(model: Any) -> Any:
    """The last estimator of a pipeline, or the model itself."""
    while hasattr(model, "_last_step"):
        model = model._last_step
    return model


def text_fields(model: Any) -> frozenset[str]:
    """The features that river's vectorizers in `model` take apart: texts, of which each may be another.

    >>> from river import feature_extraction, naive_bayes
    >>> text_fields(feature_extraction.TFIDF(on="text") | naive_bayes.ComplementNB())
    frozenset({'text'})
    """
    from river.base import Base
    from river.feature_extraction.vectorize import VectorizerMixin
    from river.preprocessing import GapEncoder

    fields: set[str] = set()
    seen: dict[int, Any] = {}
    waiting = [model]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list | tuple):
            waiting += part
        elif isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, Base) and id(part) not in seen:
            seen[id(part)] = part
            if isinstance(part, VectorizerMixin | GapEncoder) and type(part.on) is str:
                fields.add(part.on)
            waiting += (getattr(part, name, None) for name in signature(type(part).__init__).parameters)
    return frozenset(fields)


def _is_binary(model: Any) -> bool:
    """True if a river classifier would silently take any label for true or false.

    Classes outside river often leave `_multiclass` at its default, which says nothing about them.
    """
    if model._multiclass:
        return False
    innermost = final_step(model)
    while hasattr(innermost, "_wrapped_model"):
        innermost = final_step(innermost._wrapped_model)
    return type(innermost).__module__.startswith("river.")


def _predictor(model: Any, task: Task, horizon: int) -> Predict:
    if task == "classification":
        return _classification(model)
    if task == "regression":
        return _regression(model)
    if task == "anomaly":
        return _anomaly(model)
    if task == "clustering":
        return _clustering(model)
    return _forecasting(model, horizon)


def _classification(model: Any) -> Predict:
    from river import base

    final = final_step(model)
    own_rule = type(final).predict_one is not base.Classifier.predict_one
    if own_rule and not type(final).__module__.startswith("river."):
        # The author of this class decides by another rule than the most probable label.
        return _labels_only(model)
    probabilities = model.predict_proba_one
    labels_only = _labels_only(model)

    def predict(x: dict[str, Any], y: Any) -> Prediction:
        try:
            proba = probabilities(x)
        except NotImplementedError:  # river: "some classifiers only predict labels directly"
            return labels_only(x, y)
        if not proba:
            return Prediction(None, "probabilities", {}, True)
        best = max(proba, key=proba.get)
        if type(best) is bool and len(proba) == 2 and True in proba and False in proba:
            no, yes = proba[False], proba[True]
            return Prediction(best, "probabilities", {"false": no, "true": yes}, isfinite(no + yes))
        detail = dict(sorted((label_text(label), p) for label, p in proba.items()))
        return Prediction(best, "probabilities", detail, isfinite(sum(proba.values())))

    return predict


def _labels_only(model: Any) -> Predict:
    def predict(x: dict[str, Any], _y: Any) -> Prediction:
        label = model.predict_one(x)
        return Prediction(label, "", None, not isinstance(label, float) or -MAX_NUMBER <= label <= MAX_NUMBER)

    return predict


def _regression(model: Any) -> Predict:
    predict_one = model.predict_one

    def predict(x: dict[str, Any], _y: Any) -> Prediction:
        value = predict_one(x)
        return Prediction(None, "", None, True) if value is None else _numeric(float(value))

    return predict


def _numeric(number: float) -> Prediction:
    return Prediction(number, "", None, -MAX_NUMBER <= number <= MAX_NUMBER)


def _probable(yes: float) -> Prediction:
    """The answer of a logistic regression, as `_classification` makes it: a tie is false."""
    no = 1.0 - yes
    return Prediction(yes > no, "probabilities", {"false": no, "true": yes}, isfinite(no + yes))


def _anomaly(model: Any) -> Predict:
    """A detector answers with a score; a filter around it also with a verdict."""
    score_one = model.score_one
    supervised = final_step(model)._supervised
    classify = getattr(final_step(model), "classify", None)

    def predict(x: dict[str, Any], y: Any) -> Prediction:
        if supervised and y is None:
            return Prediction(None, "", None, True)
        score = float(score_one(x, y=y) if supervised else score_one(x))
        verdict = None if classify is None else bool(classify(score))
        return Prediction(verdict, "score", score, -MAX_NUMBER <= score <= MAX_NUMBER)

    return predict


def _is_ready(final: Any) -> bool:
    """True if a clusterer or forecaster can be asked yet.

    Of river's own, two raise until they have seen enough: `STREAMKMeans` has no centres before it has
    learned, and `HoltWinters` no level before max(2, seasonality) labels. All others answer from the start.
    """
    from river import cluster, time_series

    if isinstance(final, cluster.STREAMKMeans):
        return bool(final.centers)
    if isinstance(final, time_series.HoltWinters):
        return bool(final._initialized)
    return True


def _clustering(model: Any) -> Predict:
    """A clusterer answers with the number of a cluster."""
    predict_one = model.predict_one
    final = final_step(model)

    def predict(x: dict[str, Any], _y: Any) -> Prediction:
        cluster = predict_one(x) if _is_ready(final) else None
        if isinstance(cluster, float) and not isfinite(cluster):
            return Prediction(None, "", None, False)
        return Prediction(None if cluster is None else int(cluster), "", None, True)

    return predict


def _forecasting(model: Any, horizon: int) -> Predict:
    """A forecaster answers with the label that it expects of the event, and of those after it.

    Labels of `waiting` events come before it, so it looks over these: `horizon` steps from there on. Features
    further ahead than the event are not known, so a longer forecast is made from labels alone.
    """
    forecast = model.forecast
    final = final_step(model)

    def predict(x: dict[str, Any], _y: Any, waiting: Sequence[dict[str, Any]] | None = ()) -> Prediction:
        if waiting is None or not _is_ready(final):
            return Prediction(None, "forecast", [], True)
        steps = len(waiting) + horizon
        answer = forecast(steps, xs=[*waiting, x]) if horizon == 1 else forecast(steps)
        values = [float(value) for value in answer]
        if not values:
            return Prediction(None, "forecast", [], True)
        if len(values) != steps:
            raise ValueError(f"forecast({steps}) gave {len(values)} values")
        del values[: len(waiting)]
        return Prediction(values[0], "forecast", values, all(map(isfinite, values)))

    return predict


def _forecast_learner(model: Any, horizon: int) -> Callable[[dict[str, Any], Any], None]:
    """The counterpart of `_forecasting`: what a forecast is made from is what was learned from."""
    learn_one = model.learn_one
    if horizon == 1:
        return lambda x, y: learn_one(y=y, x=x)
    return lambda _x, y: learn_one(y=y)
