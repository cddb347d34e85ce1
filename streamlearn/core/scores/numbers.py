"""Scores of tasks with numbers: regression, and forecasts.

Regression is filed and folded as classes are (see `score_classes`). A forecast is for its own event and for
those after it: step k is for the k-th event after it. So the last forecasts are kept here, and each event's
captured list holds the forecasts of it, made at it and before it.
"""

from collections.abc import Sequence
from math import isnan, sqrt
from typing import Any, Final

import numpy as np

from streamlearn.core.model.learner import Prediction
from streamlearn.core.scores.metrics import NO_MEAN, Mean, known, ratio, running_mean

FOLD: Final = 512
MAX_HORIZON: Final = 1000
MAX_CELLS: Final = 100_000
"""So many errors of forecasts the window holds; it covers fewer labels when the horizon is long."""

FORECASTERS: Final = ("model", "no_change", "mean")
_NAN: Final = float("nan")


class ErrorAccumulator:
    """Sums over the labels that one forecaster answered."""

    def __init__(self) -> None:
        self.mae = self.mse = self.y = NO_MEAN
        self.squares = self.rest = self.paired = self.paired_no_change = 0.0

    def add(self, ys: Sequence[float], answers: Sequence[float], lasts: Sequence[float]) -> None:
        """Labels, answers and the answers of no-change; NaN where there was none.

        The recurrences are those of `river.metrics.MAE`, `RMSE` and `R2`.
        """
        n, mae = self.mae
        _, mse = self.mse
        _, mean = self.y
        squares, rest, paired, paired_no_change = self.squares, self.rest, self.paired, self.paired_no_change
        for y, answer, last in zip(ys, answers, lasts, strict=True):
            if isnan(answer):
                continue
            error = y - answer
            size = abs(error)
            n += 1.0
            w = 1.0 / n
            mae += w * (size - mae)
            mse += w * (_square(error) - mse)
            before = mean
            mean += w * (y - mean)
            squares += (y - before) * (y - mean)
            rest += error * error
            if not isnan(last):
                paired += size
                paired_no_change += abs(y - last)
        self.mae, self.mse, self.y = (n, mae), (n, mse), (n, mean)
        self.squares, self.rest, self.paired, self.paired_no_change = squares, rest, paired, paired_no_change

    def metrics(self) -> dict[str, float | None]:
        """`mase` is the MAE over that of no-change where both answered (Hyndman, Koehler 2006, "Another
        look at measures of forecast accuracy"; with the naive error of the same labels, as they come).
        """
        n, mae = self.mae
        if not n:
            return {"answered": 0, **dict.fromkeys(("mae", "rmse", "r2", "mase"))}
        total = (n - 1) * (self.squares / (n - 1)) if n > 1 else 0.0
        rest = ratio(self.rest, total)
        return {
            "answered": int(n),
            "mae": known(mae),
            "rmse": known(self.mse[1] ** 0.5),
            "r2": None if rest is None else 1 - rest,
            "mase": ratio(self.paired, self.paired_no_change),
        }

    def saved(self) -> list[Any]:
        """Serializable state."""
        return [
            self.mae,
            self.mse,
            self.y,
            self.squares,
            self.rest,
            self.paired,
            self.paired_no_change,
        ]

    def restore(self, saved: list[Any]) -> None:
        """Take over what another one `saved`."""
        mae, mse, y, self.squares, self.rest, self.paired, self.paired_no_change = saved
        self.mae, self.mse, self.y = (*mae,), (*mse,), (*y,)


def _square(error: float) -> float:
    """As river has it; infinite where Python raises."""
    try:
        return error**2
    except OverflowError:
        return float("inf")


class NumberScores:
    """A regressor beside the last label and `river.dummy.StatisticRegressor(stats.Mean())`. Before the first
    label both say 0.0, as river's regressors do, so that all are scored on the same labels. Captured:
    `[prediction, last label, mean]`.
    """

    def __init__(self, window: int) -> None:
        self.labels = 0
        self._mean: Mean = NO_MEAN
        self._last = 0.0
        self._ys: list[float] = []
        self._captured: list[list[Any]] = []
        self._accumulators = [ErrorAccumulator() for _ in FORECASTERS]
        self._size = window
        self._window: list[list[float]] = [[], [], [], []]

    def can_track_class(self, y: Any) -> bool:
        """Numbers need no room."""
        return True

    def capture(self, answer: Prediction) -> list[Any]:
        """Capture all of the answers that scoring will need."""
        return [answer.prediction, self._last, self._mean[1]]

    def answers(self, captured: list[Any]) -> tuple[Any, ...]:
        """The numbers that were answered."""
        return tuple(captured)

    def update(self, y: Any, captured: list[Any]) -> None:
        """File the pair; the baselines learn `y`."""
        y = float(y)
        self._ys.append(y)
        self._captured.append(captured)
        self.labels += 1
        n, mean = self._mean
        n += 1.0
        self._mean = (n, mean + (1.0 / n) * (y - mean))
        self._last = y
        if len(self._ys) >= FOLD:
            self.flush()

    def flush(self) -> None:
        """Work off what was filed."""
        if not self._ys:
            return
        columns = [self._ys]
        for answers in zip(*self._captured, strict=True):
            columns.append([_NAN if answer is None else answer for answer in answers])
        self._ys, self._captured = [], []
        for accumulator, column in zip(self._accumulators, columns[1:], strict=True):
            accumulator.add(columns[0], column, columns[2])
        for old, new in zip(self._window, columns, strict=True):
            old.extend(new)
            del old[: -self._size]

    def report(self) -> dict[str, dict[str, Any]]:
        """`all` and `window`."""
        self.flush()
        y, *answers = self._window
        recent = [ErrorAccumulator() for _ in FORECASTERS]
        for accumulator, column in zip(recent, answers, strict=True):
            accumulator.add(y, column, self._window[2])
        return {"all": _named(self._accumulators), "window": {"labels": len(y), **_named(recent)}}

    def saved(self) -> list[Any]:
        """Serializable state."""
        self.flush()
        window = [np.array(column, "<f8").tobytes() for column in self._window]
        return [self._mean, self._last, [accumulator.saved() for accumulator in self._accumulators], window]

    def restore(self, saved: list[Any]) -> None:
        """Restore from `saved`."""
        mean, self._last, accumulators, window = saved
        self._mean = (*mean,)
        self.labels = int(self._mean[0])
        for accumulator, state in zip(self._accumulators, accumulators, strict=True):
            accumulator.restore(state)
        self._window = [np.frombuffer(column, "<f8").tolist()[-self._size :] for column in window]


def _named(accumulators: Sequence[ErrorAccumulator]) -> dict[str, dict[str, Any]]:
    return {name: accumulator.metrics() for name, accumulator in zip(FORECASTERS, accumulators, strict=True)}


class ForecastScores:
    """A forecaster beside the last label and the mean of labels, both repeated over the horizon. Captured:
    step, forecast, last label and mean for each forecast that reaches its event, one after the other, those
    of the oldest first.
    """

    def __init__(self, window: int) -> None:
        self.labels = 0
        self._events = 0
        self._mean: Mean = NO_MEAN
        self._last: float | None = None
        self._made: list[list[Any]] = []
        """`[event number, forecast, last, mean]`, oldest first, each with a step still to come."""
        self._steps: list[list[ErrorAccumulator]] = []
        self._size = window
        self._recent: list[list[list[float]]] = []
        """Per label of the window the rows `[step, error, error of no-change, error of the mean]`."""

    def can_track_class(self, y: Any) -> bool:
        """Numbers need no room."""
        return True

    def capture(self, answer: Prediction) -> list[Any]:
        """The captured forecasts of this event; its own forecast is kept for those after it."""
        event, made = self._events, self._made
        if answer.member == "forecast" and answer.detail:
            forecast = [float(value) for value in answer.detail[:MAX_HORIZON]]
            made.append([event, forecast, self._last, self._mean[1]])
        captured: list[Any] = []
        for at, forecast, last, mean in made:
            captured += (event - at, forecast[event - at], last, mean)
        self._events = after = event + 1
        self._made = [kept for kept in made if len(kept[1]) > after - kept[0]]
        return captured

    def update(self, y: Any, captured: list[Any]) -> None:
        """Score every forecast of this label; the baselines learn `y`."""
        y = float(y)
        rows = []
        for at in range(0, len(captured), 4):
            step, forecast, last, mean = captured[at : at + 4]
            no_change = _NAN if last is None else last
            while len(self._steps) <= step:
                self._steps.append([ErrorAccumulator() for _ in FORECASTERS])
            answers = (forecast, no_change, mean)
            for accumulator, answer in zip(self._steps[step], answers, strict=True):
                accumulator.add((y,), (answer,), (no_change,))
            rows.append([step, *(y - answer for answer in answers)])
        if rows:
            self._recent.append(rows)
            longest = max(len(rows), len(self._steps))
            del self._recent[: -max(1, min(self._size, MAX_CELLS // longest))]
        self.labels += 1
        self._mean = running_mean(self._mean, (y,))
        self._last = y

    def answers(self, captured: list[Any]) -> tuple[Any, ...]:
        """A forecast is for many labels."""
        return ()

    def flush(self) -> None:
        """Nothing is put off."""

    def report(self) -> dict[str, dict[str, Any]]:
        """`all` and `window`. The first number of each is the mean over the steps, as in
        `river.time_series.HorizonAggMetric(metric, mean)`.
        """
        whole = {}
        for at, name in enumerate(FORECASTERS):
            steps = [accumulators[at].metrics() for accumulators in self._steps]
            whole[name] = {
                metric: _mean_known([step[metric] for step in steps]) for metric in ("mae", "rmse", "mase")
            } | {f"{metric}_by_step": [step[metric] for step in steps] for metric in ("mae", "rmse")}
        return {"all": whole, "window": {"labels": len(self._recent), **self._window()}}

    def saved(self) -> list[Any]:
        """Serializable state."""
        steps = [[accumulator.saved() for accumulator in accumulators] for accumulators in self._steps]
        return [self.labels, self._mean, self._last, self._made, steps, self._recent, self._events]

    def restore(self, saved: list[Any]) -> None:
        """Restore from `saved`."""
        self.labels, mean, self._last, made, steps, recent, *events = saved
        if events:  # else they were counted by labels
            self._made, self._events = made, events[0]
        self._mean = (*mean,)
        self._steps = []
        for states in steps:
            accumulators = [ErrorAccumulator() for _ in FORECASTERS]
            for accumulator, state in zip(accumulators, states, strict=True):
                accumulator.restore(state)
            self._steps.append(accumulators)
        self._recent = recent[-self._size :]

    def _window(self) -> dict[str, dict[str, Any]]:
        """Over all errors of the window's labels, whatever their step."""
        rows = [row for label in self._recent for row in label]
        spans: dict[str, dict[str, Any]] = {}
        for at, name in enumerate(FORECASTERS, 1):
            errors = [(row[at], row[2]) for row in rows if not isnan(row[at])]
            paired = [(abs(error), abs(last)) for error, last in errors if not isnan(last)]
            n = len(errors)
            mse = ratio(sum(error * error for error, _ in errors), n)
            spans[name] = {
                "mae": ratio(sum(abs(error) for error, _ in errors), n),
                "rmse": None if mse is None else sqrt(mse),
                "mase": ratio(sum(error for error, _ in paired), sum(last for _, last in paired)),
            }
        return spans


def _mean_known(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return running_mean(NO_MEAN, there)[1] if there else None
