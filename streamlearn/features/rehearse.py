"""Labels that come in blocks: old examples are learned again among the new ones.

Invariants:
- What is kept is bounded: `per_label` examples of each of the `MAX_LABELS` labels seen last.
- Which examples come again is a function of what was learned: the generator is seeded and part of the state.
"""

import random
from typing import Any

from river import base

MAX_LABELS = 100


class Rehearsal(base.Wrapper, base.Classifier):  # type: ignore[misc] # river has no types for mypy
    """A classifier that learns each event at once, and with it `times` of those it keeps of each label.

    A label that is known at the end of an exercise or utterance comes with all its events in a row. For a
    drift detector that is a world in which there is one label only, and the model begins to forget the
    others. Old examples among the new ones are the usual remedy in continual learning (Chaudhry and others,
    "On tiny episodic memories in continual learning", 2019). The newest `per_label` of *each* label are kept:
    a rare label is not crowded out, and a frequent one that has changed its meaning is renewed soon.

    >>> from river import naive_bayes
    >>> model = Rehearsal(naive_bayes.GaussianNB(), per_label=10, times=2)
    >>> for label in ("low", "high"):
    ...     for n in range(20):
    ...         model.learn_one({"level": n + 100 * (label == "high")}, label)
    >>> model.predict_one({"level": 3}), model.predict_one({"level": 90})
    ('low', 'high')
    """

    def __init__(self, model: Any, per_label: int = 100, times: int = 2, seed: int = 1) -> None:
        self.model = model
        self.per_label = per_label
        self.times = times
        self.seed = seed
        self._rng = random.Random(seed)
        # The label that was seen last is at the end; of each, a ring of examples and the place of its oldest.
        self._kept: dict[Any, tuple[list[dict[Any, Any]], int]] = {}

    @property
    def _wrapped_model(self) -> Any:
        return self.model

    @property
    def _multiclass(self) -> bool:
        return bool(self.model._multiclass)

    def predict_proba_one(self, x: dict[Any, Any]) -> dict[Any, float]:
        """What the model inside says."""
        found: dict[Any, float] = self.model.predict_proba_one(x)
        return found

    def learn_one(self, x: dict[Any, Any], y: Any) -> None:
        """Learn this example, then some that were seen before, drawn from all that are kept."""
        self.model.learn_one(x, y)
        self._keep(x, y)
        rings = [(label, ring) for label, (ring, _oldest) in self._kept.items()]
        total = sum(len(ring) for _label, ring in rings)
        for _ in range(self.times):
            drawn = self._rng.randrange(total)
            for label, ring in rings:
                if drawn < len(ring):
                    self.model.learn_one(ring[drawn], label)
                    break
                drawn -= len(ring)

    def _keep(self, x: dict[Any, Any], y: Any) -> None:
        ring, oldest = self._kept.pop(y, ([], 0))
        if len(ring) < self.per_label:
            ring.append(x)
        else:
            ring[oldest] = x
            oldest = (oldest + 1) % self.per_label
        self._kept[y] = (ring, oldest)
        if len(self._kept) > MAX_LABELS:
            del self._kept[next(iter(self._kept))]
