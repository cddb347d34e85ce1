"""Scores of the model: `capture` at each prediction, `update` at its label, `report` now and then.

A prediction is scored as it was when it was made, and beside it stand baselines that knew no more at that
moment and learn each label when it comes, after the model was scored with it: the same labels, the same
delay. All of it is state: `dump` and `load` continue to the last digit. Where river has a metric the
number is river's, over the same pairs; an answer of None (or no probabilities) is passed over, as
`river.evaluate.progressive_val_score` does it. What has no definition yet is None.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from streamlearn.core.events.event import Event
from streamlearn.core.model.learner import Prediction
from streamlearn.core.scores.accumulators import LabelWindow
from streamlearn.core.scores.classes import MAX_CLASSES, ClassScores
from streamlearn.core.scores.clusters import ClusterScores
from streamlearn.core.scores.drift_statistics import DriftStatistics, next_sample
from streamlearn.core.scores.numbers import ForecastScores, NumberScores

__all__ = ["MAX_CLASSES", "Scores", "ScoresSpec"]


class ScoresSpec(msgspec.Struct, frozen=True):
    """The rules of scoring (`[scores]`, docs/scores.md).

    Attributes:
        every: Events between two publications, 0 for none.
        window: Labels in the sliding window.
        after_labels: True when labels on a topic of their own cause messages, too; False in older eras.

    Example:
        >>> ScoresSpec(every=500).window
        1000
    """

    every: int = 1000
    window: int = 1000
    after_labels: bool = False
    """True if labels on a topic of their own cause messages, too (`Scores.is_due`); not in older eras."""


class TaskScores(Protocol):
    """The scores of one kind of task: a part of the state, encoded as it is. What `capture` gives is a list
    of plain values. `resize` changes the window. `score` is `update(y, capture(answer))` for answers in a
    row; a label of None is none.
    """

    labels: int

    def can_track_class(self, y: Any) -> bool: ...
    def capture(self, answer: Prediction) -> list[Any]: ...
    def update(self, y: Any, captured: list[Any]) -> None: ...
    def score(self, ys: Sequence[Any], answers: Sequence[Prediction]) -> None: ...
    def answers(self, captured: list[Any]) -> tuple[Any, ...]: ...
    def flush(self) -> None: ...
    def report(self) -> dict[str, dict[str, Any]]: ...
    def resize(self, window: int) -> None: ...


class _ScoresState(msgspec.Struct):
    """Serializable state: counts of events and labels, now and when the newest report was published."""

    task: str
    scores: ClassScores | NumberScores | ForecastScores | ClusterScores
    drift: DriftStatistics = msgspec.field(default_factory=DriftStatistics)
    events: int = 0
    next_sample: int = 1
    reported_events: int = 0
    reported_labels: int = 0
    newest_ts: Any = None


class Scores:
    """Scores of one model over one stream of labels."""

    def __init__(self, spec: ScoresSpec, task: str, state: _ScoresState | None = None) -> None:
        """`state`: where other scores were dumped; None: begin afresh."""
        self.spec = spec
        self.task = task
        self._state = state or _ScoresState(task, _task_scores(spec, task))
        scores: TaskScores = self._state.scores
        self._scores = scores
        self._capture = scores.capture
        self.can_track_class = scores.can_track_class
        """`can_track_class(y)`: True if a label `y` can be counted: classes are at most `MAX_CLASSES`."""
        self.update = scores.update
        """`update(y, captured)`: score what was captured with its label, which the baselines learn then."""
        self.answers = scores.answers
        """`answers(captured)`: what was answered, in the order of `report`'s forecasters, None for no answer;
        () for tasks where an answer is not for one label.
        """

    def capture(self, answer: Prediction, x: dict[str, Any], ts: Any = None) -> list[Any]:
        """Capture what scoring needs of this prediction and of the baselines' at this moment: a list of plain
        values that msgpack can write, for `update`. Nothing of it is shared. `ts`: the event's time as its
        prediction says it.
        """
        state = self._state
        state.newest_ts = ts
        state.events = number = state.events + 1
        if number == state.next_sample:
            self._sample(answer, x)
        return self._capture(answer)

    def _sample(self, answer: Prediction, x: dict[str, Any]) -> None:
        """Let drift statistics look at the newest event, and settle which one is next."""
        state = self._state
        state.next_sample = next_sample(state.events)
        state.drift.sample(_one_value(answer), x)

    def score(self, events: Sequence[Event], answers: Sequence[Prediction], ts: Any) -> None:
        """As `capture` of each answer and `update` with the label inside its event, where there is one, for
        events in a row; `ts`: the time of the last.
        """
        state = self._state
        before, after = state.events, state.events + len(events)
        while state.next_sample <= after:
            state.events = state.next_sample
            index = state.events - before - 1
            self._sample(answers[index], events[index].x)
        state.events, state.newest_ts = after, ts
        self._scores.score([event.y for event in events], answers)

    @property
    def events(self) -> int:
        """Predictions so far."""
        return self._state.events

    @property
    def labels(self) -> int:
        """Labels observed so far."""
        return self._scores.labels

    @property
    def newest_ts(self) -> Any:
        """The time of the newest prediction's event, as its prediction says it; None before the first."""
        return self._state.newest_ts

    def is_due(self) -> bool:
        """True when a message is to follow a label that came by itself: `every` labels have come since
        the last one. Where predictions keep pace with labels, the messages after predictions are enough, so
        labels must be ahead of them by a tenth of `every`.
        """
        state = self._state
        events, labels = state.events - state.reported_events, self.labels - state.reported_labels
        every = self.spec.every
        return self.spec.after_labels and labels >= max(every, events + every // 10)

    def mark_reported(self) -> Any:
        """Note that a report is published; return its time, that of the newest event."""
        state = self._state
        state.reported_events, state.reported_labels = state.events, self.labels
        return state.newest_ts

    def report(self) -> dict[str, Any]:
        """All numbers, JSON-able: members `events`, `labels`, `task`, `all`, `window`, for classes
        `classes`, and `proxies`. Floats are finite; what is not defined is None.
        """
        return {
            "events": self.events,
            "labels": self.labels,
            "task": self.task,
            **self._scores.report(),
            "proxies": self._state.drift.report(self.events, self.labels),
        }

    def dump(self) -> bytes:
        """The state; equal states give equal bytes."""
        self._scores.flush()
        return msgspec.msgpack.encode(self._state, enc_hook=_dump_array)

    @classmethod
    def load(cls, spec: ScoresSpec, task: str, data: bytes) -> "Scores":
        """Continue where others were dumped. A smaller window keeps its newest labels; a larger one fills.
        Raises `ValueError` when the bytes are of another task or no scores.
        """
        state = msgspec.msgpack.decode(data, type=_ScoresState, dec_hook=_load_array)
        if state.task != task or type(state.scores) is not type(_task_scores(spec, task)):
            raise ValueError(f"the saved scores are not those of a model for {task}; start them afresh")
        state.scores.resize(spec.window)
        return cls(spec, task, state)


def _dump_array(array: Any) -> list[Any]:
    assert isinstance(array, np.ndarray), "all else is plain"
    return list(array.tolist())


def _load_array(kind: Any, dumped: list[Any]) -> Any:
    """The inverse; `kind`: the array's type with that of its numbers."""
    return np.array(dumped, kind.__args__[1].__args__[0])


def _task_scores(spec: ScoresSpec, task: str) -> ClassScores | NumberScores | ForecastScores | ClusterScores:
    if task in ("classification", "anomaly"):
        return ClassScores(task == "anomaly", LabelWindow(spec.window))
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
