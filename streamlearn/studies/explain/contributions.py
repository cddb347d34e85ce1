"""Contributions of features to a linear model's answer: each weight times the value that reached the model.

Invariant: intercept and contributions add up to the number that the model makes its answer of
(`weights . x + intercept`, river's `linear_model`): the log odds of true for a logistic regression, the
prediction itself for a linear regression.
"""

from collections.abc import Mapping
from typing import Any

import msgspec


class Part(msgspec.Struct, frozen=True):
    """One feature. `value` is that which reached the linear model, after the transformers before it."""

    feature: str
    value: float
    weight: float
    contribution: float


class Contributions(msgspec.Struct, frozen=True):
    """`parts`, the largest first, and `intercept` add up to `total`. `label`: for which class, where a model
    has weights for each.
    """

    intercept: float
    parts: list[Part]
    total: float
    label: Any = None


def contributions(model: Any, x: Mapping[str, Any], predicted: Any) -> Contributions | None:
    """Explain the answer of a pipeline that ends in a linear model of river's; None for other models."""
    inner, values = _final(model, x)
    by_label = getattr(inner, "classifiers", None)
    if isinstance(by_label, dict):  # multiclass.OneVsRestClassifier: a model for each class
        if predicted not in by_label:
            return None
        inner, values = _final(by_label[predicted], values)
    else:
        predicted = None
    weights, intercept = getattr(inner, "weights", None), getattr(inner, "intercept", None)
    if not isinstance(weights, Mapping) or not isinstance(intercept, int | float):
        return None
    terms = []
    for name, value in values.items():
        weight = weights.get(name, 0.0)
        if not isinstance(weight, int | float) or not isinstance(value, int | float):
            return None
        terms.append(Part(str(name), float(value), float(weight), float(value * weight)))
    terms.sort(key=lambda term: (-abs(term.contribution), term.feature))
    total = float(intercept) + sum(term.contribution for term in terms)
    return Contributions(float(intercept), terms, total, predicted)


def _final(model: Any, x: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """The last step of a pipeline, and the features as they reach it; nothing learns."""
    values: Any = dict(x)
    while hasattr(model, "steps") and hasattr(model, "_transform_one"):
        values, model = model._transform_one(values)
    return model, values
