"""The labels that a classifier has seen: in an order that a checkpoint keeps, and each seen more than once.

Invariants:
- The order is a function of the labels alone.
- What is held back is bounded: `AGREE - 1` examples of each of the `MAX_HELD` new labels seen last.
"""

from collections.abc import Iterator
from typing import Any

from river import base

AGREE = 3
"""So many examples of a label found it."""
MAX_HELD = 100


class SortedLabels(set[Any]):
    """A set that is iterated over in sorted order; the labels of a stream have one type.

    River's HoeffdingAdaptiveTreeClassifier adds probabilities up in the order of its set `classes`. A set of
    strings that was pickled can come back in another order, and then the sums differ in their last bits.

    >>> list(SortedLabels(["walk", "sit", "run"]))
    ['run', 'sit', 'walk']
    """

    def __iter__(self) -> Iterator[Any]:
        return iter(sorted(super().__iter__()))


class ConfirmedLabels(base.Wrapper, base.Classifier):  # type: ignore[misc] # river has no types for mypy
    """A classifier that learns a new label from its third example on, and then also the first two.

    A leaf of river's trees that has seen a label once knows no variance of its features, and takes that for
    certainty: naive Bayes answers that label to whatever comes next. So one label that nobody meant would be
    the answer for thousands of events.

    >>> from river import naive_bayes
    >>> model = ConfirmedLabels(naive_bayes.GaussianNB())
    >>> for label in ("low", "low", "lwo", "low"):
    ...     model.learn_one({"level": 3}, label)
    >>> model.predict_proba_one({"level": 3})
    {'low': 1.0}
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._confirmed: set[Any] = SortedLabels()
        self._held: dict[Any, list[dict[Any, Any]]] = {}

    @property
    def _wrapped_model(self) -> Any:
        return self.model

    @property
    def _multiclass(self) -> bool:
        return bool(self.model._multiclass)

    def predict_proba_one(self, x: dict[Any, Any]) -> dict[Any, float]:
        """The answer of the model inside."""
        found: dict[Any, float] = self.model.predict_proba_one(x)
        return found

    def learn_one(self, x: dict[Any, Any], y: Any) -> None:
        """Learn an example of a label that is known; hold back one of a label that is not yet."""
        if y in self._confirmed:
            self.model.learn_one(x, y)
            return
        held = [*self._held.pop(y, ()), x]
        if len(held) < AGREE:
            self._held[y] = held
            if len(self._held) > MAX_HELD:
                del self._held[next(iter(self._held))]
            return
        self._confirmed.add(y)
        for example in held:
            self.model.learn_one(example, y)
