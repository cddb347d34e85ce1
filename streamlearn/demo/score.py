"""The demo's checks: predictions against a plain river loop, and against two baselines.

Invariants:
- The plain loop is river's own two calls, one after the other; nothing of streamlearn's service is in it.
- An expected answer and a published one are compared as JSON text. Its floats are the shortest texts that
  read back as the same double, so equal texts mean equal bits.
- Model and baselines are scored on the same events: all but the first, of which nobody can know anything.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson
from river import dummy, metrics

from streamlearn.core.events.json_events import label_text
from streamlearn.core.records import Record
from streamlearn.engine.presets import preset

Labelled = tuple[dict[str, Any], Any]
"""Features and label of one event."""


class Score(NamedTuple):
    """Share of right answers, and Cohen's kappa: how far above chance that is (0 = chance, 1 = perfect)."""

    accuracy: float
    kappa: float


class _Tally:
    """Answers against labels."""

    def __init__(self) -> None:
        self._matrix = metrics.ConfusionMatrix()
        self._accuracy = metrics.Accuracy(self._matrix)
        self._kappa = metrics.CohenKappa(self._matrix)

    def add(self, label: Any, answer: Any) -> None:
        self._matrix.update(label, answer)

    def score(self) -> Score:
        accuracy, kappa = self._accuracy.get(), self._kappa.get()
        return Score(round(accuracy, 4), round(kappa, 4))


class Referee:
    """Takes predictions as they are read from the log, and keeps the account of them."""

    def __init__(self, events: Sequence[Labelled]) -> None:
        self._events = events
        self._model = preset("classification")
        self._baselines = {"no_change": dummy.NoChangeClassifier(), "prior": dummy.PriorClassifier()}
        self._tallies = {name: _Tally() for name in ("model", *self._baselines)}
        self._expected: list[bytes] = []
        self._seen = bytearray(len(events))
        self.taken = 0
        self.repeated = 0
        self.different = 0

    @property
    def lost(self) -> int:
        """Events without a prediction so far."""
        return self._seen.count(0)

    def scores(self) -> dict[str, Score]:
        """The scores so far, by `model`, `no_change` and `prior`."""
        return {name: tally.score() for name, tally in self._tallies.items()}

    def take(self, record: Record) -> None:
        """Account for one published prediction."""
        self.taken += 1
        published = orjson.loads(record.value or b"{}")
        ident = str(published.get("id"))
        index = int(ident) if ident.isdecimal() else len(self._events)
        if index >= len(self._events):  # a prediction for an event that never was
            self.different += 1
            return
        if self._seen[index]:
            self.repeated += 1
        self._seen[index] = 1
        while len(self._expected) <= index:
            self._expected.append(self._step(len(self._expected)))
        answer = published.get("prediction")
        if orjson.dumps([answer, published.get("probabilities")]) != self._expected[index]:
            self.different += 1
        if index > 0:
            self._tallies["model"].add(self._events[index][1], answer)

    def _step(self, index: int) -> bytes:
        """One step of the plain loop and of the baselines: the answer that the service should give."""
        x, label = self._events[index]
        probabilities = self._model.predict_proba_one(x)
        self._model.learn_one(x, label)
        for name, baseline in self._baselines.items():
            answer = baseline.predict_one(x)
            baseline.learn_one(x, label)
            if index > 0:
                self._tallies[name].add(label, answer)
        best = max(probabilities, key=probabilities.get) if probabilities else None
        named = {label_text(label): share for label, share in probabilities.items()}
        return orjson.dumps([best, dict(sorted(named.items()))])
