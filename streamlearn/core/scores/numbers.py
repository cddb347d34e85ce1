"""Scores of tasks with numbers: regression, and forecasts.

Regression is buffered and aggregated as classes are (see `core.scores.classes`). A forecast is for its own
event and for those after it: step k is for the k-th event after it. So the last forecasts are kept here, and
what is captured for an event holds the forecasts of it, made at it and before it.
"""

from collections.abc import Sequence
from math import isnan, sqrt
from typing import Any, Final

import msgspec
import numpy as np

from streamlearn.core.model.learner import Prediction
from streamlearn.core.scores.metrics import (
    NO_MEAN,
    Floats,
    Mean,
    finite_or_none,
    in_turn,
    ratio,
    running_mean,
)

FLUSH_AT: Final = 512
"""The number of pairs that are buffered before they are aggregated."""
MAX_HORIZON: Final = 1000
MAX_CELLS: Final = 100_000
"""The most errors of forecasts in the window; it covers fewer labels when the horizon is long."""

FORECASTERS: Final = ("model", "no_change", "mean")
_NAN: Final = float("nan")
_LARGE: Final = 1e150
"""Squares of errors from here on may be infinite."""
_PARTS: Final = 1 + len(FORECASTERS)
_BUFFER_LENGTH: Final = FLUSH_AT * _PARTS


class ErrorAccumulator(msgspec.Struct):
    """Sums over the labels that one forecaster answered: means of errors, of their squares and of labels;
    `squares` and `rest` for R2; `paired`: absolute errors where no-change answered too, and its own.
    """

    mae: Mean = NO_MEAN
    mse: Mean = NO_MEAN
    y: Mean = NO_MEAN
    squares: float = 0.0
    rest: float = 0.0
    paired: float = 0.0
    paired_no_change: float = 0.0

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

    def extend(
        self,
        weights: Sequence[float],
        errors: Floats,
        sizes: Floats,
        no_change: Floats,
        y: Mean,
        deviations: Floats,
    ) -> None:
        """As `add` for labels that were all answered. `weights`: 1 over the number of labels, for each;
        `sizes`: of the errors; `no_change`: those of no-change; `y`: labels with these, and their mean;
        `deviations`: of each label from the mean before it, times that from the mean with it.
        """
        mae, mse = self.mae[1], self.mse[1]
        for w, error, size in zip(weights, errors.tolist(), sizes.tolist(), strict=True):
            mae += w * (size - mae)
            mse += w * (error**2 - mse)
        self.mae, self.mse, self.y = (y[0], mae), (y[0], mse), y
        self.squares = in_turn(self.squares, deviations)
        self.rest = in_turn(self.rest, errors * errors)
        self.paired = in_turn(self.paired, sizes)
        self.paired_no_change = in_turn(self.paired_no_change, no_change)

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
            "mae": finite_or_none(mae),
            "rmse": finite_or_none(self.mse[1] ** 0.5),
            "r2": None if rest is None else 1 - rest,
            "mase": ratio(self.paired, self.paired_no_change),
        }


def _square(error: float) -> float:
    """As river has it; infinite where Python raises."""
    try:
        return error**2
    except OverflowError:
        return float("inf")


def _accumulators() -> list[ErrorAccumulator]:
    return [ErrorAccumulator() for _ in FORECASTERS]


@np.errstate(all="ignore")  # as in Python, where inf - inf is NaN
def _add(accumulators: Sequence[ErrorAccumulator], columns: Sequence[Sequence[float]]) -> None:
    """Add labels and each forecaster's answers to them to the accumulators."""
    ys, *answers = columns
    table = np.array(columns, np.float64)
    errors = table[0] - table[1:]
    sizes = np.abs(errors)
    if not np.all(sizes < _LARGE) or any(row.y != accumulators[0].y for row in accumulators):
        for accumulator, column in zip(accumulators, answers, strict=True):
            accumulator.add(ys, column, columns[2])
        return
    n, mean = accumulators[0].y
    end = n + len(ys)
    weights = (1.0 / np.arange(n + 1.0, end + 1.0)).tolist()
    means = [mean]
    for w, y in zip(weights, ys, strict=True):
        mean += w * (y - mean)
        means.append(mean)
    path = np.array(means)
    deviations = (table[0] - path[:-1]) * (table[0] - path[1:])
    for accumulator, error, size in zip(accumulators, errors, sizes, strict=True):
        accumulator.extend(weights, error, size, sizes[1], (end, mean), deviations)


class NumberScores(msgspec.Struct, tag=True):
    """A regressor beside the last label and `river.dummy.StatisticRegressor(stats.Mean())`. Before the first
    label both say 0.0, as river's regressors do, so that all are scored on the same labels. Captured:
    `[prediction, last label, mean]`.
    """

    size: int
    labels: int = 0
    mean: Mean = NO_MEAN
    last: float = 0.0
    buffer: list[Any] = []
    """Pairs, flat: label, and what was captured."""
    accumulators: list[ErrorAccumulator] = msgspec.field(default_factory=_accumulators)
    window: list[list[float]] = msgspec.field(default_factory=lambda: [[], [], [], []])
    """The last `size` labels and the forecasters' answers to them, a list each."""

    def can_track_class(self, y: Any) -> bool:
        """Numbers need no room."""
        return True

    def capture(self, answer: Prediction) -> list[Any]:
        """Capture all of the answers that scoring will need."""
        return [answer.prediction, self.last, self.mean[1]]

    def answers(self, captured: list[Any]) -> tuple[Any, ...]:
        """The numbers that were answered."""
        return tuple(captured)

    def update(self, y: Any, captured: list[Any]) -> None:
        """Buffer the pair; the baselines learn `y`."""
        self.last = y = float(y)
        self.buffer += (y, *captured)
        self.labels += 1
        self.mean = running_mean(self.mean, (y,))
        if len(self.buffer) >= _BUFFER_LENGTH:
            self.flush()

    def score(self, ys: Sequence[Any], answers: Sequence[Prediction]) -> None:
        """As `update(y, capture(answer))` for each label and answer; a label of None is none."""
        buffer, last, labels, (n, mean) = self.buffer, self.last, self.labels, self.mean
        for label, answer in zip(ys, answers, strict=True):
            if label is not None:
                y = float(label)
                buffer += (y, answer.prediction, last, mean)
                n += 1.0
                mean += (1.0 / n) * (y - mean)
                labels += 1
                last = y
        self.last, self.labels, self.mean = last, labels, (n, mean)
        if len(buffer) >= _BUFFER_LENGTH:
            self.flush()

    def flush(self) -> None:
        """Aggregate the pairs in the buffer."""
        if not self.buffer:
            return
        columns = [self.buffer[k::_PARTS] for k in range(_PARTS)]
        columns = [
            [_NAN if answer is None else answer for answer in column] if None in column else column
            for column in columns
        ]
        self.buffer = []
        _add(self.accumulators, columns)
        for old, new in zip(self.window, columns, strict=True):
            old.extend(new)
        self.resize(self.size)

    def resize(self, window: int) -> None:
        """Hold at most the newest `window` labels for the report's `window`."""
        self.size = window
        for column in self.window:
            del column[:-window]

    def report(self) -> dict[str, dict[str, Any]]:
        """`all` and `window`."""
        self.flush()
        recent = _accumulators()
        _add(recent, self.window)
        labels = len(self.window[0])
        return {"all": _named(self.accumulators), "window": {"labels": labels, **_named(recent)}}


def _named(accumulators: Sequence[ErrorAccumulator]) -> dict[str, dict[str, Any]]:
    return {name: accumulator.metrics() for name, accumulator in zip(FORECASTERS, accumulators, strict=True)}


class ForecastScores(msgspec.Struct, tag=True):
    """A forecaster beside the last label and the mean of labels, both repeated over the horizon. Captured:
    step, forecast, last label and mean for each forecast that reaches its event, one after the other, those
    of the oldest first.
    """

    size: int
    labels: int = 0
    events: int = 0
    mean: Mean = NO_MEAN
    last: float | None = None
    forecasts: list[list[Any]] = []
    """`[event number, forecast, last, mean]`, oldest first, each with a step still to come."""
    steps: list[list[ErrorAccumulator]] = []
    recent: list[list[list[Any]]] = []
    """Per label of the window the rows `[step, error, error of no-change, error of the mean]`."""

    def can_track_class(self, y: Any) -> bool:
        """Numbers need no room."""
        return True

    def capture(self, answer: Prediction) -> list[Any]:
        """Capture the forecasts of this event, and keep its own for those after it."""
        number, forecasts = self.events, self.forecasts
        if answer.member == "forecast" and answer.detail:
            forecast = [float(value) for value in answer.detail[:MAX_HORIZON]]
            forecasts.append([number, forecast, self.last, self.mean[1]])
        captured: list[Any] = []
        for event, forecast, last, mean in forecasts:
            captured += (number - event, forecast[number - event], last, mean)
        self.events = number + 1
        self.forecasts = [item for item in forecasts if len(item[1]) > self.events - item[0]]
        return captured

    def update(self, y: Any, captured: list[Any]) -> None:
        """Score every forecast of this label; the baselines learn `y`."""
        y = float(y)
        rows = []
        for first in range(0, len(captured), 4):
            step, forecast, last, mean = captured[first : first + 4]
            no_change = _NAN if last is None else last
            while len(self.steps) <= step:
                self.steps.append(_accumulators())
            answers = (forecast, no_change, mean)
            for accumulator, answer in zip(self.steps[step], answers, strict=True):
                accumulator.add((y,), (answer,), (no_change,))
            rows.append([step, *(y - answer for answer in answers)])
        if rows:
            self.recent.append(rows)
            longest = max(len(rows), len(self.steps))
            del self.recent[: -max(1, min(self.size, MAX_CELLS // longest))]
        self.labels += 1
        self.mean = running_mean(self.mean, (y,))
        self.last = y

    def score(self, ys: Sequence[Any], answers: Sequence[Prediction]) -> None:
        """As `update(y, capture(answer))` for each label and answer; a label of None is none."""
        for y, answer in zip(ys, answers, strict=True):
            captured = self.capture(answer)  # a forecast is for later labels, too
            if y is not None:
                self.update(y, captured)

    def answers(self, captured: list[Any]) -> tuple[Any, ...]:
        """A forecast is for many labels."""
        return ()

    def flush(self) -> None:
        """Do nothing: pairs are aggregated at once."""

    def resize(self, window: int) -> None:
        """Hold at most the newest `window` labels for the report's `window`."""
        self.size = window
        del self.recent[:-window]

    def report(self) -> dict[str, dict[str, Any]]:
        """`all` and `window`. The first number of each is the mean over the steps, as in
        `river.time_series.HorizonAggMetric(metric, mean)`.
        """
        whole = {}
        for number, name in enumerate(FORECASTERS):
            steps = [accumulators[number].metrics() for accumulators in self.steps]
            whole[name] = {
                metric: _mean_known([step[metric] for step in steps]) for metric in ("mae", "rmse", "mase")
            } | {f"{metric}_by_step": [step[metric] for step in steps] for metric in ("mae", "rmse")}
        return {"all": whole, "window": {"labels": len(self.recent), **self._window()}}

    def _window(self) -> dict[str, dict[str, Any]]:
        """Over all errors of the window's labels, whatever their step."""
        rows = [row for label in self.recent for row in label]
        return {
            name: _error_metrics([(row[column], row[2]) for row in rows if not isnan(row[column])])
            for column, name in enumerate(FORECASTERS, 1)
        }


def _error_metrics(errors: Sequence[tuple[float, float]]) -> dict[str, float | None]:
    """The metrics of errors, each beside that of no-change."""
    paired = [(abs(error), abs(last)) for error, last in errors if not isnan(last)]
    n = len(errors)
    mse = ratio(sum(error * error for error, _ in errors), n)
    return {
        "mae": ratio(sum(abs(error) for error, _ in errors), n),
        "rmse": None if mse is None else sqrt(mse),
        "mase": ratio(sum(error for error, _ in paired), sum(last for _, last in paired)),
    }


def _mean_known(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return running_mean(NO_MEAN, defined)[1] if defined else None
