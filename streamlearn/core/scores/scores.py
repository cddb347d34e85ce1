"""Scores of the model: `capture` at each prediction, `update` at its label, `report` now and then.

A prediction is scored as it was when it was made, and beside it stand baselines that knew no more at that
moment and learn each label when it comes, after the model was scored with it: the same labels, the same
delay. All of it is state: `dump` and `load` continue to the last digit. Where river has a metric the
number is river's, over the same pairs; an answer of None (or no probabilities) is passed over, as
`river.evaluate.progressive_val_score` does it. What has no definition yet is None.
"""

from typing import Any, Final, Protocol

import msgspec

from streamlearn.core.model.learner import Prediction
from streamlearn.core.scores.classes import MAX_CLASSES, ClassScores
from streamlearn.core.scores.clusters import ClusterScores
from streamlearn.core.scores.drift_statistics import DriftStatistics, next_look
from streamlearn.core.scores.numbers import ForecastScores, NumberScores

__all__ = ["MAX_CLASSES", "Scores", "ScoresSpec"]

_FORMAT: Final = 1


class ScoresSpec(msgspec.Struct, frozen=True):
    """`every`: events between publications, 0 for none. `window`: labels in the sliding window."""

    every: int = 1000
    window: int = 1000
    after_labels: bool = False
    """Whether labels on a topic of their own cause messages, too (`Scores.is_due`); not in older eras."""


class TaskScores(Protocol):
    """The scores of one kind of task. Plain values go in and out."""

    labels: int

    def can_track_class(self, y: Any) -> bool: ...
    def capture(self, answer: Prediction) -> list[Any]: ...
    def update(self, y: Any, captured: list[Any]) -> None: ...
    def answers(self, captured: list[Any]) -> tuple[Any, ...]: ...
    def report(self) -> dict[str, dict[str, Any]]: ...
    def saved(self) -> list[Any]: ...
    def restore(self, saved: list[Any]) -> None: ...


class Scores:
    """Scores of one model over one stream of labels."""

    def __init__(self, spec: ScoresSpec, task: str) -> None:
        self.spec = spec
        self.task = task
        self.events = 0
        """Predictions so far."""
        self._events_reported = self._labels_reported = 0
        """Those of the newest report that was published."""
        self.newest_ts: Any = None
        """The time of the newest prediction's event, as its prediction says it; None before the first."""
        self._of = _task_scores(spec, task)
        self._drift = DriftStatistics()
        self._look_at = 1
        self._capture = self._of.capture
        self.can_track_class = self._of.can_track_class
        """Whether a label `y` can be counted: classes are at most `MAX_CLASSES`."""
        self.update = self._of.update
        """`update(y, captured)`: score what was captured with its label, which the baselines learn then."""
        self.answers = self._of.answers
        """`answers(captured)`: what was answered, in the order of `report`'s forecasters, None for no answer;
        () for tasks where an answer is not for one label.
        """

    def capture(self, answer: Prediction, x: dict[str, Any], ts: Any = None) -> list[Any]:
        """Take down what scoring will need of this answer and of the baselines' at this moment: a list of
        plain values that msgpack can write, for `update`. Nothing of it is shared. `ts`: the event's time as
        its prediction says it.
        """
        self.newest_ts = ts
        self.events = number = self.events + 1
        if number == self._look_at:
            self._look_at = next_look(number)
            self._drift.look(_one_value(answer), x)
        return self._capture(answer)

    @property
    def labels(self) -> int:
        """Labels observed so far."""
        return self._of.labels

    def is_due(self) -> bool:
        """True when a message is to follow a label that came by itself: `every` labels have come since
        the last one. Where predictions keep pace with labels, the messages after predictions are enough, so
        labels must be ahead of them by a tenth of `every`.
        """
        events, labels = self.events - self._events_reported, self.labels - self._labels_reported
        every = self.spec.every
        return self.spec.after_labels and labels >= max(every, events + every // 10)

    def mark_reported(self) -> Any:
        """A report is published, with the time that this returns: that of the newest event."""
        self._events_reported, self._labels_reported = self.events, self.labels
        return self.newest_ts

    def report(self) -> dict[str, Any]:
        """All numbers, JSON-able: members `events`, `labels`, `task`, `all`, `window`, for classes
        `classes`, and `proxies`. Floats are finite; what is not defined is None.
        """
        return {
            "events": self.events,
            "labels": self.labels,
            "task": self.task,
            **self._of.report(),
            "proxies": self._drift.report(self.events, self.labels),
        }

    def dump(self) -> bytes:
        """The state; equal states give equal bytes."""
        counts = [self.events, self._look_at, self._events_reported, self._labels_reported, self.newest_ts]
        state = [_FORMAT, self.task, counts, self._drift.saved(), self._of.saved()]
        return msgspec.msgpack.encode(state)

    @classmethod
    def load(cls, spec: ScoresSpec, task: str, data: bytes) -> "Scores":
        """Go on where another one was dumped. A smaller window keeps its newest labels; a larger one fills.
        Raises `ValueError` when the bytes are of another task or format.
        """
        state = msgspec.msgpack.decode(data)
        if type(state) is not list or state[:2] != [_FORMAT, task]:
            raise ValueError(f"the saved scores are not those of a model for {task}; start them afresh")
        scores = cls(spec, task)
        _, _, (scores.events, scores._look_at, *reported), drift, saved = state
        scores._events_reported, scores._labels_reported, scores.newest_ts = reported or (
            0,
            0,
            None,
        )  # as older states do
        scores._drift.restore(drift)
        scores._of.restore(saved)
        return scores


def _task_scores(spec: ScoresSpec, task: str) -> TaskScores:
    if task in ("classification", "anomaly"):
        return ClassScores(task == "anomaly", spec.window)
    if task == "regression":
        return NumberScores(spec.window)
    if task == "forecasting":
        return ForecastScores(spec.window)
    if task == "clustering":
        return ClusterScores(spec.window)
    raise ValueError(f"there are no scores for the task {task!r}")


def _one_value(answer: Prediction) -> Any:
    """The answer as one value, whose distribution drift statistics follow."""
    value = answer.prediction
    if answer.member == "score":
        value = answer.detail
    elif answer.member == "forecast":
        value = answer.detail[0] if answer.detail else None
    return value if type(value) in (bool, int, float, str, type(None)) else value.item()
