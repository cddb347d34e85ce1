"""Columns of probabilities, and of the losses that they make.

Losses are river's to the last digit: `river.metrics.LogLoss` and `river.metrics.CrossEntropy`.
"""

import math
from collections.abc import Sequence
from math import log
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from streamlearn.core.events.json_events import label_text
from streamlearn.core.scores.accumulators import OTHER, Column
from streamlearn.core.scores.metrics import Floats, Ints

_LEAST: Final = 1e-15
_SAME: Final = {"1": "true", "true": "1", "0": "false", "false": "0"}


def probabilities(
    ys: list[Any], y: Ints, codes: dict[Any, int], ps: Sequence[Any], qs: Sequence[Any]
) -> tuple[Floats, Floats, Floats]:
    """For each answer: the probability of the label, of the positive class, and the largest one."""
    if None not in qs:
        positive, null = y == codes.get(1, OTHER), codes.get(0, OTHER)
        p_false, p_true = np.array(ps, np.float64), np.array(qs, np.float64)
        of_y = np.where(positive, p_true, np.where(y == null, p_false, np.nan))
        return of_y, p_true, np.maximum(p_false, p_true)
    if set(map(type, ys)) == {str} and None not in ps:
        pairs = [(p.get(label, math.nan), max(p.values())) for label, p in zip(ys, ps, strict=True)]
        of_y, best = np.array(pairs, np.float64).T
        return of_y, np.full(len(ys), math.nan), best
    rows = [_named_shares(*row) for row in zip(ys, ps, qs, strict=True)]
    of_y, of_one, best = np.array(rows, np.float64).T
    return of_y, of_one, best


def _named_shares(label: Any, p: Any, q: Any) -> tuple[float, float, float]:
    """The probability of a label, of the positive class, and the largest one; NaN for none."""
    if p is None:
        return math.nan, math.nan, math.nan
    if q is not None:
        return (q if label == 1 else p if label == 0 else math.nan), q, max(p, q)
    text = label_text(label)
    if text not in p and type(label) is not str:
        text = _SAME.get(text, text)
    return p.get(text, math.nan), p.get("true", p.get("1", 0.0)), max(p.values())


def scored_column(
    positive: NDArray[np.bool_],
    answer: tuple[Ints, Floats, Floats, Floats],
    binary: bool,
    crossed: NDArray[np.bool_],
    certain: bool,
) -> Column:
    """A column of (predictions, probabilities of the positive class, the largest, those of the label).
    `binary`: True while there are two classes; `crossed`: the labels beside which there may be more than
    two; `certain`: True if all probabilities are 0 or 1.
    """
    pred, of_one, best, of_y = answer
    absent = np.full(len(pred), np.nan)
    log_loss = cross = absent
    within = np.minimum(np.maximum(of_one, _LEAST), 1 - _LEAST)
    within = np.where(positive, within, 1 - within)
    logs = _minus_log_of_few if certain else _minus_log
    if binary:
        log_loss = logs(within)
    if crossed.any():
        # A class without a probability costs nothing in river's CrossEntropy.
        named = np.minimum(np.maximum(of_y, _LEAST), 1 - _LEAST)
        named = np.where(np.isnan(of_y) & ~np.isnan(best), 1.0, named)
        differ = np.flatnonzero((named != within) if binary else np.ones(len(named), np.bool_))
        cross = log_loss  # the same numbers have the same logarithms, and mostly they are the same
        if differ.size:
            cross = log_loss.copy()
            cross[differ] = logs(named[differ])
        if not crossed.all():
            cross = np.where(crossed, cross, np.nan)
    return Column(pred, of_one if binary else absent, best, log_loss, cross)


def _minus_log(values: Floats) -> Floats:
    # The scalar logarithm: numpy's own differs from it in last bits.
    result = np.fromiter(map(log, values.tolist()), np.float64, len(values))
    return np.negative(result, out=result)


def _minus_log_of_few(values: Floats) -> Floats:
    """The same, for what is certain: one of the limits, or NaN."""
    result = np.full(len(values), np.nan)
    for limit in (_LEAST, 1 - _LEAST, 1 - (1 - _LEAST), 1.0):
        result[values == limit] = -log(limit)
    return result
