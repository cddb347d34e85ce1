"""Labels to a common scale, such that a single wild label does no lasting harm.

Invariant: what the regressor learns is within twice `whole` deviations; what it has learned is in
deviations, so that a new level of the labels, once it is known, is one of the answers as well.
"""

from typing import Any

from river import base

from streamlearn.features.scale import SteadyScaler


class SteadyTarget(base.Wrapper, base.Regressor):  # type: ignore[misc] # river has no types for mypy
    """A regressor that learns the label in standard deviations from its running mean.

    River's `TargetStandardScaler` weighs all labels alike, without bound: after one label of 1e9 every answer
    is of that size. Until the labels are known to vary, the regressor learns nothing, and the answer is their
    median.

    >>> from river import linear_model
    >>> model = SteadyTarget(linear_model.LinearRegression())
    >>> for n in range(1000):
    ...     model.learn_one({"a": n % 7 - 3}, 1e9 if n == 500 else 50 + 10 * (n % 7))
    >>> round(model.predict_one({"a": 2}))
    100
    """

    def __init__(self, regressor: Any, whole: float = 5.0) -> None:
        self.regressor = regressor
        self.whole = whole
        self._scaler = SteadyScaler(whole=whole)

    @property
    def _wrapped_model(self) -> Any:
        return self.regressor

    def learn_one(self, x: dict[Any, Any], y: float) -> None:
        """Take the label into the statistics, and teach the regressor its deviation."""
        label = {"": y}
        self._scaler.learn_one(label)
        if self._scaler.scale("")[2] > 0.0:
            self.regressor.learn_one(x, self._scaler.transform_one(label)[""])

    def predict_one(self, x: dict[Any, Any]) -> float:
        """The regressor's answer in the unit of the labels."""
        _count, mean, deviation = self._scaler.scale("")
        return mean + deviation * float(self.regressor.predict_one(x)) if deviation > 0.0 else mean
