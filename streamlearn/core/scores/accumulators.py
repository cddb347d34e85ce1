"""Sums over labels that one forecaster answered, for tasks with classes, and the columns they are fed with.

A class is a code, an integer from 0. Adding columns in one piece or in several gives the same sums.
"""

from typing import Final

import msgspec
import numpy as np

from streamlearn.core.scores.metrics import (
    CALIBRATION_BINS,
    NO_MEAN,
    THRESHOLDS,
    Floats,
    Ints,
    Mean,
    calibration_error,
    class_metrics,
    finite_or_none,
    roc_auc,
    running_mean,
)
from streamlearn.core.scores.ranks import Ranks

NONE: Final = -1
"""The code of no answer."""
OTHER: Final = -2
"""The code of a predicted class that was never a label, after `MAX_CLASSES` of such."""
FORECASTERS: Final = ("model", "no_change", "prior")


class Column(msgspec.Struct):
    """One forecaster's answers to consecutive labels, an array each; NaN where there is no number.

    `pred`: codes; `score`: of the positive class; `confidence`: in the predicted class; `log_loss` as
    `river.metrics.LogLoss`, `cross` as `river.metrics.CrossEntropy` has it.
    """

    pred: Ints
    score: Floats
    confidence: Floats
    log_loss: Floats
    cross: Floats


class MetricAccumulator(msgspec.Struct):
    """Counts and sums over the labels that one forecaster answered. `counts`: labels, predictions and hits by
    code; `roc` and `calibration`: as in `roc_auc` and `calibration_error`; `scaled`: True while all scores
    were within [0, 1], where the thresholds of the ROC curve are; `ranks`: None where scores need none.
    """

    ranks: Ranks | None = None
    counts: Ints = msgspec.field(default_factory=lambda: np.zeros((3, 0), np.int64))
    roc: Ints = msgspec.field(default_factory=lambda: np.zeros((2, len(THRESHOLDS) + 1), np.int64))
    calibration: Floats = msgspec.field(default_factory=lambda: np.zeros((3, CALIBRATION_BINS)))
    log_loss: Mean = NO_MEAN
    cross: Mean = NO_MEAN
    scaled: bool = True

    def add(self, y: Ints, column: Column, classes: int, positive_code: int) -> None:
        """Count labels `y` (codes below `classes`; `positive_code`: of the positive class) and answers."""
        pred = column.pred
        if self.counts.shape[1] < classes:
            self.counts = np.pad(self.counts, ((0, 0), (0, classes - self.counts.shape[1])))
        right = y == pred
        self.counts[0] += np.bincount(y[pred != NONE], minlength=classes)
        self.counts[1] += np.bincount(pred[pred >= 0], minlength=classes)
        self.counts[2] += np.bincount(y[right], minlength=classes)
        positive = y == positive_code
        scored = ~np.isnan(column.score)
        if scored.any():
            score = column.score[scored]
            self.scaled = self.scaled and bool(score.min() >= 0 and score.max() <= 1)
            cells = np.searchsorted(THRESHOLDS, score) + self.roc.shape[1] * positive[scored]
            self.roc += np.bincount(cells, minlength=self.roc.size).reshape(self.roc.shape)
            if self.ranks is not None:
                for value, label in zip(score.tolist(), positive[scored].tolist(), strict=True):
                    self.ranks.add(value, label)
        confident = ~np.isnan(column.confidence)
        if confident.any():
            confidence = column.confidence[confident]
            bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
            self.calibration[0] += np.bincount(bins, minlength=CALIBRATION_BINS)
            self.calibration[1] += np.bincount(bins, right[confident], CALIBRATION_BINS)
            np.add.at(self.calibration[2], bins, confidence)  # one after the other, however they are added

    def add_losses(self, log_loss: Floats | None, cross: Floats | None) -> None:
        """Add up losses, label by label."""
        same = cross is log_loss and self.cross == self.log_loss
        if log_loss is not None:
            self.log_loss = _fed(self.log_loss, log_loss)
        if cross is not None:
            self.cross = self.log_loss if same else _fed(self.cross, cross)

    def forget_binary(self) -> None:
        """Drop the sums that mean something with two classes only."""
        self.roc[:] = 0
        self.scaled = True
        self.log_loss = NO_MEAN

    def metrics(self, order: list[int], binary: bool, positive_code: int) -> dict[str, float | None]:
        """The numbers of a report, all but those that compare with a baseline."""
        positive = positive_code if binary else None
        counts = self.counts
        if counts.shape[1] < len(order):
            counts = np.pad(counts, ((0, 0), (0, len(order) - counts.shape[1])))
        result = class_metrics(counts, order, positive)
        if binary:
            result["roc_auc"] = roc_auc(self.roc) if self.scaled else None
        if self.ranks is not None:
            return result | self.ranks.metrics()
        n, loss = self.log_loss if binary else self.cross
        result["log_loss"] = finite_or_none(loss) if n else None
        result["calibration_error"] = calibration_error(self.calibration)
        return result


def _fed(mean: Mean, values: Floats) -> Mean:
    answered = values[~np.isnan(values)]
    return running_mean(mean, answered.tolist()) if answered.size else mean


class LabelWindow(msgspec.Struct):
    """The columns of the last `size` labels, one of each forecaster."""

    size: int
    y: Ints = msgspec.field(default_factory=lambda: np.zeros(0, np.int64))
    columns: list[Column] = msgspec.field(default_factory=lambda: [_column(0) for _ in FORECASTERS])

    def add(self, y: Ints, columns: list[Column]) -> None:
        """Append, and forget the oldest beyond `size`."""
        self.y = np.concatenate((self.y, y))
        for old, new in zip(self.columns, columns, strict=True):
            for name in Column.__struct_fields__:
                setattr(old, name, np.concatenate((getattr(old, name), getattr(new, name))))
        self.resize(self.size)

    def resize(self, size: int) -> None:
        """Hold at most `size` labels from now on."""
        self.size, self.y = size, self.y[-size:]
        for column in self.columns:
            for name in Column.__struct_fields__:
                setattr(column, name, getattr(column, name)[-size:])

    def forget_binary(self) -> None:
        """Drop the columns that mean something with two classes only."""
        for column in self.columns:
            column.score = column.log_loss = np.full(len(self.y), np.nan)


def _column(n: int) -> Column:
    return Column(np.full(n, NONE, np.int64), *(np.full(n, np.nan) for _ in range(4)))
