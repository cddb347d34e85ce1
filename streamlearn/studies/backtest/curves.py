"""Curves over time: bounded lists of points, whatever the length of the stream.

Invariant: points are evenly spaced; when there are too many every other one goes, and the space doubles.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol

from streamlearn.studies.backtest.candidate import Candidate
from streamlearn.studies.backtest.compare import Difference, Moment

POINTS: Final = 120
_FIRST_EVENTS: Final = 50


class Compared(Protocol):
    """A pair of models, as a curve needs it."""

    difference: Difference


class Curves:
    """The windowed metric of each forecaster, the cost of each model, each pair's difference, by events.

    `by_loss`: the metric is that of the losses, which are at hand; else a report is asked for, which costs
    more, at the same points.
    """

    def __init__(
        self,
        models: Sequence[Candidate],
        forecasters: Sequence[str],
        metric: str,
        by_loss: bool,
        pairs: Sequence[Compared],
    ) -> None:
        self._models = models
        self._forecasters = forecasters
        self._metric = metric
        self._by_loss = by_loss
        self._pairs = pairs
        self.every = _FIRST_EVENTS
        """Events from a point to the next one."""
        self._due = _FIRST_EVENTS
        self._before = [(0, 0.0) for _ in models]
        self.events: list[int] = []
        self._lines: list[list[float | None]] = [[] for _ in range(2 * len(models) + len(forecasters) - 1)]
        self._moments: list[list[Moment]] = [[] for _ in pairs]

    def after(self, events: int) -> None:
        """So many events are done: add a point when one is due."""
        if events < self._due:
            return
        self._add(events)
        if len(self.events) >= POINTS:
            self.every *= 2
            del self.events[::2]
            for line in self._lines:
                del line[::2]
            for moments in self._moments:
                del moments[::2]
        self._due = events + self.every

    def end(self, events: int) -> None:
        """The last point."""
        if events and (not self.events or self.events[-1] != events):
            self._add(events)

    def result(self) -> dict[str, Any]:
        """`events`, and lists as long by name: `models`, `baselines`, `us`, and `pairs`."""
        lines = iter(self._lines)
        names = [model.name for model in self._models]
        return {
            "events": self.events,
            "models": {name: next(lines) for name in names},
            "baselines": {name: next(lines) for name in self._forecasters[1:]},
            "us": {name: next(lines) for name in names},
            "pairs": [_band(moments) for moments in self._moments],
        }

    def _add(self, events: int) -> None:
        self.events.append(events)
        point = [*self._scores(), *self._costs(events)]
        for pair, moments in zip(self._pairs, self._moments, strict=True):
            moments.append(pair.difference.moment())
        for line, value in zip(self._lines, point, strict=True):
            line.append(value)

    def _scores(self) -> list[float | None]:
        """Scores of each model, then of the baselines, which are those of the first model."""
        if not self._by_loss:
            reports = [model.report()["window"] for model in self._models]
            values = [report["model"].get(self._metric) for report in reports]
            return values + [reports[0][name].get(self._metric) for name in self._forecasters[1:]]
        windows = [model.window_losses() for model in self._models]
        losses = [window[0] for window in windows] + windows[0][1:]
        return [1 - loss if loss is not None and self._metric == "accuracy" else loss for loss in losses]

    def _costs(self, events: int) -> list[float | None]:
        """Microseconds per event since the point before."""
        costs: list[float | None] = []
        for n, model in enumerate(self._models):
            before, seconds = self._before[n]
            costs.append((model.seconds - seconds) / max(1, events - before) * 1e6)
            self._before[n] = (events, model.seconds)
        return costs


def _band(moments: Sequence[Moment]) -> dict[str, list[float | None]]:
    """`mean`, `low` and `high`; None where there is no interval."""
    intervals = [moment.interval() for moment in moments]
    return {
        "mean": [
            moment.mean if interval else None for moment, interval in zip(moments, intervals, strict=True)
        ],
        "low": [interval and interval.low for interval in intervals],
        "high": [interval and interval.high for interval in intervals],
    }
