"""Sums over labels that one forecaster answered, for tasks with classes, and the columns they are fed with.

A class is a code, an integer from 0. Adding columns in one piece or in several gives the same sums.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

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
    running_means,
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


class Tally(NamedTuple):
    """Counts of consecutive labels and one forecaster's answers to them, as in `MetricAccumulator`.

    Attributes:
        counts: Labels, predictions and hits by code.
        roc, scaled, scores, positive: Of the answers with a score.
        calibration, bins, confidence: Of the answers with a confidence; answers and hits by bin.
    """

    counts: Ints
    roc: Ints
    scaled: bool
    scores: Floats
    positive: NDArray[np.bool_]
    calibration: Ints
    bins: Ints
    confidence: Floats

    @classmethod
    def tally(cls, y: Ints, column: Column, classes: int, positive_code: int) -> Self:
        """Count labels `y` (codes below `classes`; `positive_code`: of the positive class) and answers."""
        pred = column.pred
        right = y == pred
        counts = np.stack(
            (
                np.bincount(y[pred != NONE], minlength=classes),
                np.bincount(pred[pred >= 0], minlength=classes),
                np.bincount(y[right], minlength=classes),
            )
        )
        scored, confident = ~np.isnan(column.score), ~np.isnan(column.confidence)
        scores, positive = column.score[scored], (y == positive_code)[scored]
        width = len(THRESHOLDS) + 1
        cells = np.searchsorted(THRESHOLDS, scores) + width * positive
        confidence = column.confidence[confident]
        bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
        calibration = np.bincount(bins + CALIBRATION_BINS * right[confident], minlength=2 * CALIBRATION_BINS)
        wrong, hits = calibration.reshape(2, CALIBRATION_BINS)
        return cls(
            counts,
            np.bincount(cells, minlength=2 * width).reshape(2, width),
            not scores.size or bool(scores.min() >= 0 and scores.max() <= 1),
            scores,
            positive,
            np.stack((wrong + hits, hits)),
            bins,
            confidence,
        )


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

    def add(self, tally: Tally) -> None:
        """Count labels and their answers."""
        counts = tally.counts
        if self.counts.shape[1] < counts.shape[1]:
            self.counts = np.pad(self.counts, ((0, 0), (0, counts.shape[1] - self.counts.shape[1])))
        self.counts += counts
        self.roc += tally.roc
        self.scaled = self.scaled and tally.scaled
        if self.ranks is not None and tally.scores.size:
            self.ranks.add(tally.scores, tally.positive)
        self.calibration[:2] += tally.calibration
        # One after the other, however they are added.
        np.add.at(self.calibration[2], tally.bins, tally.confidence)

    def put_loss(self, kind: str, mean: Mean) -> None:
        """Note the mean of a kind of losses, from now on."""
        if kind == "log_loss":
            self.log_loss = mean
        else:
            self.cross = mean

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


def add_losses(
    accumulators: Sequence[MetricAccumulator], columns: Sequence[Column], kinds: Sequence[str]
) -> None:
    """Add up the losses of each forecaster, label by label. `kinds`: of the members of both."""
    done: dict[tuple[Any, ...], list[Mean]] = {}
    for kind in kinds:
        before = [getattr(accumulator, kind) for accumulator in accumulators]
        losses = [getattr(column, kind) for column in columns]
        same = (*before, *map(id, losses))  # most often both kinds are
        if same not in done:
            done[same] = running_means(before, losses)
        for accumulator, mean in zip(accumulators, done[same], strict=True):
            accumulator.put_loss(kind, mean)


class LabelWindow(msgspec.Struct):
    """The columns of the last `size` labels, one of each forecaster."""

    size: int
    y: Ints = msgspec.field(default_factory=lambda: np.zeros(0, np.int64))
    columns: list[Column] = msgspec.field(default_factory=lambda: [_column(0) for _ in FORECASTERS])

    def add(self, y: Ints, columns: list[Column]) -> None:
        """Append, and forget the oldest beyond `size`."""
        if len(y) >= self.size:
            self.y, self.columns = y, columns
        else:
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
