"""The formulas behind the scores: from counts and sums to numbers, without state.

Where river has the metric, the order of operations is river's (0.26.1), so that the last digit is the
same. River sums over classes in the order of a set; here numbers come in ascending order (which is the
order of a set of small integers) and texts sorted, so that the result depends on nothing else.
A metric without a definition on what was seen (no label yet, one class only) is None, never NaN.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from math import isfinite, log
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mean = tuple[float, float]
"""A running mean as in `river.stats.Mean`: how many values, and their mean."""

THRESHOLDS: Final = np.array([-1e-7, *(i / 9 for i in range(1, 9)), 1 + 1e-7])
"""The ten thresholds of `river.metrics.ROCAUC()`."""

LOWER_IS_BETTER: Final = frozenset({"mae", "rmse", "mse", "mase", "log_loss", "calibration_error"})


class Judges(NamedTuple):
    """The metrics that judge a task. `headline`: what tables, curves and warnings are about, the first that
    there is; `loss`: what the mean of single losses stands for (0 for a right label and 1 for a wrong one, or
    the error), "" where a single answer has none; `decay`: what is compared over time, "" for nothing. Kappa
    and not accuracy there, because it makes no difference to kappa how rare a class is.
    """

    headline: tuple[str, ...] = ()
    loss: str = ""
    decay: str = ""


_JUDGES: Final = {
    "classification": Judges(("accuracy",), "accuracy", "cohen_kappa"),
    "anomaly": Judges(("average_precision", "roc_auc"), "accuracy", "average_precision"),
    "regression": Judges(("mae",), "mae", "mae"),
    "forecasting": Judges(("mae",)),
}

CALIBRATION_BINS: Final = 10
NO_MEAN: Final[Mean] = (0.0, 0.0)


def judges(task: str) -> Judges:
    """The metrics that judge a task.

    >>> judges("regression").headline
    ('mae',)
    """
    return _JUDGES.get(task, Judges())


def is_better(score: float, rival: float, metric: str) -> bool:
    """True if a score is better than a rival's."""
    return score < rival if metric in LOWER_IS_BETTER else score > rival


def finite_or_none(value: float) -> float | None:
    """`value`, or None when it is no finite number."""
    return value if isfinite(value) else None


def ratio(share: float, whole: float) -> float | None:
    """`share / whole`, None without a whole."""
    return finite_or_none(share / whole) if whole else None


def running_mean(mean: Mean, values: Iterable[float]) -> Mean:
    """The recurrence of `river.stats.Mean.update` for each of `values`."""
    n, m = mean
    for x in values:
        n += 1.0
        m += (1.0 / n) * (x - m)
    return n, m


def in_turn(total: float, values: Floats) -> float:
    """`total` and then each of `values` added one after the other, not in pairs."""
    return float(np.cumsum(np.concatenate(((total,), values)))[-1])


def running_means(means: Sequence[Mean], columns: Sequence[Floats]) -> list[Mean]:
    """`running_mean` of each of three means with its column; a NaN there is no value."""
    if any(np.isnan(column).any() for column in columns):
        return [
            running_mean(mean, column[~np.isnan(column)].tolist())
            for mean, column in zip(means, columns, strict=True)
        ]
    size = len(columns[0])
    weights = {n: (1.0 / np.arange(n + 1.0, n + 1.0 + size)).tolist() for n, _ in means}
    (n, a), (m, b), (k, c) = means
    values = [column.tolist() for column in columns]
    for u, v, w, x, y, z in zip(weights[n], weights[m], weights[k], *values, strict=True):
        a += u * (x - a)
        b += v * (y - b)
        c += w * (z - c)
    return [(n + size, a), (m + size, b), (k + size, c)]


def class_metrics(counts: Ints, order: Sequence[int], positive: int | None) -> dict[str, float | None]:
    """Metrics of labels. `counts[:, c]` holds for class `c` the labels, the predictions and the hits;
    `order` is the order in which classes are summed; `positive` the code of the positive class (-1: never
    seen) of a binary task, None for a task of several classes.
    """
    support, predicted, hits = counts.tolist()
    n = sum(support)
    f1 = "macro_f1" if positive is None else "f1"
    if not n:
        return {"answered": 0, **dict.fromkeys(("accuracy", "balanced_accuracy", f1, "cohen_kappa"))}
    occurs = np.any(counts, axis=0).tolist()
    seen = [c for c in order if occurs[c]]
    recalls = [hits[c] / support[c] for c in seen if support[c]]
    f1s = [_f1(hits[c], predicted[c], support[c]) for c in seen if positive in (None, c)]
    observed = sum(hits) / n
    expected = _sum((support[c] / n) * (predicted[c] / n) for c in seen)
    return {
        "answered": n,
        "accuracy": observed,
        "balanced_accuracy": _sum(recalls) / len(recalls),
        f1: ratio(_sum(f1s), len(f1s)),
        "cohen_kappa": ratio(observed - expected, 1 - expected),
    }


def _sum(values: Iterable[float]) -> float:
    """Left to right, as river adds; the `sum` of newer Pythons compensates rounding."""
    total = 0.0
    for value in values:
        total += value
    return total


def _f1(hits: int, predicted: int, support: int) -> float:
    """F1 of a class that was there or predicted."""
    p = hits / predicted if predicted else 0.0
    r = hits / support if support else 0.0
    return (1 + 1.0) * p * r / (1.0 * p + r) if p + r else 0.0


def kappa(right: int, baseline_right: int, n: int) -> float | None:
    """(p0 - p) / (1 - p), accuracy in excess of a baseline's on the same `n` labels. None when the
    baseline is never wrong. Kappa-M with the majority class, kappa-temporal with no-change.

    Source: Bifet, de Francisci Morales, Read, Holmes, Pfahringer (2015), "Efficient Online Evaluation of
    Big Data Stream Classifiers", KDD.
    """
    return (
        None if not n or baseline_right == n else (right / n - baseline_right / n) / (1 - baseline_right / n)
    )


def roc_auc(bins: Ints) -> float | None:
    """`river.metrics.ROCAUC()`: the trapezoids under ten thresholds. `bins[y, b]`: how many scores with
    label `y` exceed exactly `b` of the thresholds. None unless both labels were there.
    """
    negatives, positives = bins.sum(axis=1).tolist()
    if not negatives or not positives:
        return None
    above = [[*accumulate(reversed(counts))][-2::-1] for counts in bins.tolist()]
    fpr, tpr = [count / negatives for count in above[0]], [count / positives for count in above[1]]
    # numpy's sum over the same nine terms, as scipy's `trapezoid` that river calls.
    areas = [(b - a) * (d + c) / 2.0 for a, b, c, d in zip(fpr, fpr[1:], tpr, tpr[1:], strict=False)]
    return float(-np.sum(np.array(areas)))


def calibration_error(bins: Floats) -> float | None:
    """Expected calibration error: mean distance of confidence and accuracy over ten bins of confidence,
    weighted by count. `bins` holds rows of counts, hits and sums of confidence.

    Source: Guo, Pleiss, Sun, Weinberger (2017), "On Calibration of Modern Neural Networks", ICML, eq. 3.
    """
    n, hits, confidence = bins
    total = float(n.sum())
    return finite_or_none(float(np.abs(hits - confidence).sum()) / total) if total else None


def rank_metrics(groups: Ints) -> dict[str, float | None]:
    """From scores in ascending groups, a row of negatives and positives each, none of them empty: the area
    under the ROC curve by ranks (a tie counts half), and average precision, the sum of (R_n - R_n-1) P_n over
    the thresholds from above.

    Source: Fawcett (2006), "An introduction to ROC analysis"; average precision as scikit-learn defines it.
    """
    neg, pos = groups.T
    negatives, positives = int(neg.sum()), int(pos.sum())
    wins = in_turn(0.0, pos * (neg.cumsum() - neg + neg / 2))
    true, false = pos[::-1].cumsum(), neg[::-1].cumsum()
    precision = in_turn(0.0, pos[::-1] * (true / (true + false)))  # divided at the end: else it may exceed 1
    return {
        "roc_auc_ranks": ratio(wins, negatives * positives),
        "average_precision": ratio(precision, positives),
    }


def cluster_metrics(cells: Mapping[tuple[Any, Any], int]) -> dict[str, float | None]:
    """Adjusted Rand index and V-measure of a contingency table `{(label, cluster): count}`.

    Sources: Hubert, Arabie (1985), "Comparing partitions"; Rosenberg, Hirschberg (2007), "V-Measure".
    """
    if not cells:
        return {"adjusted_rand": None, "v_measure": None}
    rows: dict[Any, int] = {}
    columns: dict[Any, int] = {}
    for (label, cluster), count in cells.items():
        rows[label] = rows.get(label, 0) + count
        columns[cluster] = columns.get(cluster, 0) + count
    n = sum(rows.values())
    squares = sum(count * count for count in cells.values())
    tp = float(squares - n)
    fp = float(sum(count * columns[cluster] for (_, cluster), count in cells.items()) - squares)
    fn = float(sum(count * rows[label] for (label, _), count in cells.items()) - squares)
    tn = float(n * n - (fp + fn) - squares)
    whole = (tp + fn) * (fn + tn) + (tp + fp) * (fp + tn)
    homogeneity = _explained(cells, rows, columns, 1, n)
    completeness = _explained(cells, columns, rows, 0, n)
    both = homogeneity + completeness
    return {
        "adjusted_rand": 2.0 * (tp * tn - fn * fp) / whole if whole else 1.0,
        "v_measure": 2 * homogeneity * completeness / both if both else 0.0,
    }


def _explained(
    cells: Mapping[tuple[Any, Any], int],
    classes: Mapping[Any, int],
    others: Mapping[Any, int],
    axis: int,
    n: int,
) -> float:
    """1 - H(classes | others) / H(classes); 1 when there is nothing to explain."""
    entropy = -_sum(count / n * log(count / n) for count in classes.values())
    if not entropy:
        return 1.0
    rest = -_sum(count / n * log(count / others[cell[axis]]) for cell, count in cells.items())
    return 1.0 - rest / entropy


def population_stability(reference: Sequence[int], recent: Sequence[int]) -> float | None:
    """Population stability index of two histograms over the same bins, half a count added to each bin:
    sum of (p - q) ln(p / q). Usual reading: under 0.1 little has changed, over 0.25 much has.

    Source: Siddiqi (2006), "Credit Risk Scorecards"; Yurdakul, Naranjo (2020) on its sampling noise.
    """
    n, m = sum(reference), sum(recent)
    if not n or not m:
        return None
    half = len(reference) / 2
    total = 0.0
    for a, b in zip(reference, recent, strict=True):
        p, q = (a + 0.5) / (n + half), (b + 0.5) / (m + half)
        total += (p - q) * log(p / q)
    return total
