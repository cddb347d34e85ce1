"""A river model behind two calls: `predict(x, y) -> Answer` and `learn(x, y)`.

Which river method that is depends on the task and is settled once. A classifier is asked once, for its
probabilities, and the prediction is the most probable label, exactly as river's own `predict_one` does
it; whoever compares with a plain river loop finds the same bits.
"""

from collections.abc import Callable
from math import isfinite
from typing import Any, Literal

import msgspec

from streamlearn.core.codec import label_text

Task = Literal["classification", "regression", "anomaly"]


class Answer(msgspec.Struct, gc=False):
    """What a model said: `member` and `detail` are an extra member of the prediction, "" for none.
    `finite` is False when a number in it is NaN or an infinity.
    """

    prediction: Any
    member: str
    detail: Any
    finite: bool


class Learner:
    """One model. `binary`: it can only tell true from false, whatever it is shown."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.task = task_of(model)
        self.binary = self.task == "classification" and _is_binary(model)
        self.learns_unlabelled = self.task == "anomaly" and not model._supervised
        self.predict: Callable[[dict[str, Any], Any], Answer] = _predictor(model, self.task)
        self.learn: Callable[[dict[str, Any], Any], None] = model.learn_one
        """One learning step; `y` is ignored by a model that learns without labels."""
        if self.learns_unlabelled:
            self.learn = lambda x, _y: model.learn_one(x)


def task_of(model: Any) -> Task:
    """What the model does, by its river base class (river unwraps pipelines for `isinstance`).

    Raises `TypeError` for an object that streamlearn cannot serve.
    """
    from river import base
    from river.active.base import ActiveLearningClassifier

    if isinstance(model, ActiveLearningClassifier):
        raise TypeError(f"{type(model).__name__} asks for labels instead of predicting them")
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
    raise TypeError(
        f"{type(model).__name__} is neither a river classifier, a regressor nor an anomaly detector"
    )


def final_step(model: Any) -> Any:
    """The last estimator of a pipeline, or the model itself."""
    while hasattr(model, "_last_step"):
        model = model._last_step
    return model


def _is_binary(model: Any) -> bool:
    """Whether a river classifier would silently take any label for true or false.

    Classes outside river often leave `_multiclass` at its default, which says nothing about them.
    """
    if model._multiclass:
        return False
    innermost = final_step(model)
    while hasattr(innermost, "_wrapped_model"):
        innermost = final_step(innermost._wrapped_model)
    return type(innermost).__module__.startswith("river.")


def _predictor(model: Any, task: Task) -> Callable[[dict[str, Any], Any], Answer]:
    if task == "classification":
        return _classification(model)
    if task == "regression":
        return _regression(model)
    return _anomaly(model)


def _classification(model: Any) -> Callable[[dict[str, Any], Any], Answer]:
    from river import base

    final = final_step(model)
    own_rule = type(final).predict_one is not base.Classifier.predict_one
    if own_rule and not type(final).__module__.startswith("river."):
        # The author of this class decides by another rule than the most probable label.
        return _labels_only(model)
    probabilities = model.predict_proba_one
    labels_only = _labels_only(model)

    def predict(x: dict[str, Any], y: Any) -> Answer:
        try:
            proba = probabilities(x)
        except NotImplementedError:  # river: "some classifiers only predict labels directly"
            return labels_only(x, y)
        if not proba:
            return Answer(None, "probabilities", {}, True)
        best = max(proba, key=proba.get)
        if type(best) is bool and len(proba) == 2 and True in proba and False in proba:
            no, yes = proba[False], proba[True]
            return Answer(best, "probabilities", {"false": no, "true": yes}, isfinite(no + yes))
        detail = dict(sorted((label_text(label), p) for label, p in proba.items()))
        return Answer(best, "probabilities", detail, isfinite(sum(proba.values())))

    return predict


def _labels_only(model: Any) -> Callable[[dict[str, Any], Any], Answer]:
    def predict(x: dict[str, Any], _y: Any) -> Answer:
        label = model.predict_one(x)
        return Answer(label, "", None, not isinstance(label, float) or isfinite(label))

    return predict


def _regression(model: Any) -> Callable[[dict[str, Any], Any], Answer]:
    predict_one = model.predict_one

    def predict(x: dict[str, Any], _y: Any) -> Answer:
        value = predict_one(x)
        if value is None:
            return Answer(None, "", None, True)
        number = float(value)
        return Answer(number, "", None, isfinite(number))

    return predict


def _anomaly(model: Any) -> Callable[[dict[str, Any], Any], Answer]:
    """A detector answers with a score; a filter around it also with a verdict."""
    score_one = model.score_one
    supervised = final_step(model)._supervised
    classify = getattr(final_step(model), "classify", None)

    def predict(x: dict[str, Any], y: Any) -> Answer:
        if supervised and y is None:
            return Answer(None, "", None, True)
        score = float(score_one(x, y=y) if supervised else score_one(x))
        verdict = None if classify is None else bool(classify(score))
        return Answer(verdict, "score", score, isfinite(score))

    return predict
