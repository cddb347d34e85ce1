"""Decay: a fixed model's scores window by window beside the baselines, and since when it does not beat them.

The numbers are those of `core.scores.scores`: the baselines knew no more than the model at each moment, and
go on learning from the labels, as a fixed model does not.

Invariant: a verdict is given only on windows that are full; at most `MAX_WINDOWS` are kept.
"""

from collections import deque
from typing import Any, Final

from streamlearn.core.scores.metrics import LOWER_IS_BETTER, is_better, judges
from streamlearn.core.shard.facts import Facts, Learned
from streamlearn.core.shard.shard import Shard
from streamlearn.studies.backtest.words import answered_share

_UNDEFINED: Final = {
    "cohen_kappa": "all labels and all answers are one class",
    "average_precision": "no label is an anomaly",
    "mae": "no answer is a number",
}
MAX_WINDOWS: Final = 100_000


class Decay:
    """Windows of `window` labels, one after the other."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._next = window
        self._labels = 0
        self._rows: deque[dict[str, Any]] = deque(maxlen=MAX_WINDOWS)

    def note(self, facts: Facts, shard: Shard) -> None:
        """Take down a window when the labels of a record have filled it."""
        scores = shard.scores
        self._labels += sum(isinstance(fact, Learned) and fact.captured is not None for fact in facts)
        if scores is None or self._labels < self._next or not judges(scores.task).decay:
            return
        # A label of a group is many labels at once: the window is the last ones, wherever it ends.
        self._next = (scores.labels // self._window + 1) * self._window
        metric = judges(scores.task).decay
        window = scores.report()["window"]
        numbers = _main(window, metric)
        better = _is_best(numbers, metric)
        row = {"labels": scores.labels, "records": shard.memory.records, **numbers, "better": better}
        self._rows.append(row if better is not None else {**row, "why": _why(window, metric)})

    def report(self, shard: Shard) -> dict[str, Any] | None:
        """None without labels. `metric`, `more_is_better`, `labels`, `all` (over all labels), `answered` (see
        `words.answered_share`; None for detectors), `window` (labels in each), `windows`, and `worse_since`:
        the first window from which on the model was better than the best baseline in none; None when it was
        in the last one.
        """
        scores = shard.scores
        if scores is None or not scores.labels or not judges(scores.task).decay:
            return None
        metric = judges(scores.task).decay
        whole = scores.report()["all"]
        judged = [row for row in self._rows if row["better"] is not None]
        since = len(judged)
        while since and not judged[since - 1]["better"]:
            since -= 1
        return {
            "metric": metric,
            "more_is_better": metric not in LOWER_IS_BETTER,
            "labels": scores.labels,
            "all": _main(whole, metric),
            "answered": None if scores.task == "anomaly" else answered_share(whole),
            "window": self._window,
            "windows": list(self._rows),
            "worse_since": judged[since] if since < len(judged) else None,
        }


def _main(span: dict[str, Any], metric: str) -> dict[str, float | None]:
    """One number of the model and of each baseline, by name."""
    return {name: numbers[metric] for name, numbers in span.items() if isinstance(numbers, dict)}


def _why(window: dict[str, Any], metric: str) -> str:
    """The reason why a window cannot be compared."""
    model = window["model"]
    if not model.get("answered", 1):
        return "the model gave no answer"
    return _UNDEFINED[metric] if model[metric] is None else "no baseline had an answer yet"


def _is_best(row: dict[str, float | None], metric: str) -> bool | None:
    """True if the model beats every baseline; None where its number is not defined."""
    model = row["model"]
    rivals = [number for name, number in row.items() if name != "model" and number is not None]
    if model is None or not rivals:
        return None
    return all(is_better(model, rival, metric) for rival in rivals)
