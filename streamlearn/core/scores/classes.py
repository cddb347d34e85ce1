"""Scores of tasks with classes: classification, and anomaly detection with true and false.

A prediction is captured with the baselines' answers (`capture`), and waits in `captured` for its label.
`update` only files the pair; `flush` works off what was filed, a few hundred at a time. When it does so
changes no value: counts do not depend on order, and means are river's recurrence in the order of labels.
The window keeps the folded columns of its labels and is added up from nothing for each report, so that
it equals a river metric that was shown just these labels, without the drift of reverted updates.
"""

from collections.abc import Sequence
from itertools import islice
from math import log
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from streamlearn.core.events.json_events import label_text
from streamlearn.core.model.learner import Prediction
from streamlearn.core.scores.accumulators import (
    FORECASTERS,
    NONE,
    OTHER,
    Column,
    LabelWindow,
    MetricAccumulator,
)
from streamlearn.core.scores.metrics import Floats, Ints, kappa

MAX_CLASSES: Final = 1000
"""So many classes have labels; whoever passes labels on asks `can_track_class` first."""

FOLD: Final = 1024

_LEAST: Final = 1e-15
_PLAIN: Final = (bool, int, str, float, type(None))
_FLAT: Final = 6
"""So many parts of what is captured stand before the counts."""
_PARTS: Final = 3 + _FLAT
_FOLD_PARTS: Final = FOLD * _PARTS
_SAME: Final = {"1": "true", "true": "1", "0": "false", "false": "0"}


class ClassScores:
    """A model with classes, beside `river.dummy`'s NoChangeClassifier and PriorClassifier.

    Captured: `[prediction, p, q, last label, place of the commonest label, labels so far, labels so far
    by place, ...]`; the place of a class is the order of its first label. `p` and `q` are the probabilities
    of false and true; or `p` is all of them by name; or `p` is the score of an anomaly (`ranked`), which is
    on any scale. One flat list, because each container costs the garbage collector.
    """

    def __init__(self, ranked: bool, window: int) -> None:
        self._ranked = ranked
        self._places: dict[Any, int] = {}
        self._counts: list[int] = []
        self.labels = 0
        self._best = -1
        self._last: Any = None
        self._codes: dict[Any, int] = {None: NONE}
        self._names: list[Any] = []
        self._invented = 0
        self._tail: list[Any] = []
        """Buffered pairs, flat: label, its count, the commonest's, and what was captured up to its counts."""
        self._accumulators = [MetricAccumulator(self._ranked) for _ in FORECASTERS]
        self._pairs: Ints = np.zeros((2, 3), np.int64)
        self._window = LabelWindow(window)

    def can_track_class(self, y: Any) -> bool:
        """True when a label of this class can be counted."""
        return y in self._places or len(self._places) < MAX_CLASSES

    def capture(self, answer: Prediction) -> list[Any]:
        """Capture all of the answers that scoring will need, as small plain values."""
        prediction, detail = answer.prediction, answer.detail
        if type(prediction) not in _PLAIN:
            prediction = prediction.item()
        kept = yes = None
        if detail and answer.member == "probabilities":
            if len(detail) == 2 and "true" in detail and "false" in detail:
                kept, yes = detail["false"], detail["true"]
            elif len(detail) == 2 and "1" in detail and "0" in detail:
                kept, yes = detail["0"], detail["1"]
            if type(kept) is not float or type(yes) is not float or type(prediction) is str:
                kept, yes = {name: float(p) for name, p in detail.items()}, None
        elif detail is not None and answer.member == "score":
            kept = float(detail)
        return [prediction, kept, yes, self._last, self._best, self.labels, *self._counts]

    def answers(self, captured: list[Any]) -> tuple[Any, ...]:
        """The labels that were answered."""
        prediction, _, _, last, best, *_ = captured
        return prediction, last, next(islice(self._places, best, None)) if best >= 0 else None

    def update(self, y: Any, captured: list[Any]) -> None:
        """File the pair; the baselines learn `y`, for which there must be room."""
        if self._ranked:
            y = y == 1
        counts = self._counts
        place = self._places.get(y)
        if place is None:
            place = self._places[y] = len(counts)
            assert place < MAX_CLASSES, "labels are checked by knows_room_for"
            counts.append(0)
            if not place:
                self._best = place
        at = _FLAT + place
        # Without any label the commonest one's place is -1, and its count is the number before the counts.
        tail = self._tail
        tail += (
            y,
            captured[at] if at < len(captured) else 0,
            captured[_FLAT + captured[4]],
            *captured[:_FLAT],
        )
        count = counts[place] = counts[place] + 1
        best = self._best
        if place != best and (count > counts[best] or (count == counts[best] and place < best)):
            self._best = place
        self.labels += 1
        self._last = y
        if len(tail) >= _FOLD_PARTS:
            self.flush()

    def flush(self) -> None:
        """Work off what was filed."""
        tail = self._tail
        if not tail:
            return
        self._tail = []
        parts = [tail[k::_PARTS] for k in range(_PARTS)]
        ys = parts[0]
        self._name(ys, parts[3])
        if not self._binary and not self._ranked:
            # A third class came: what is only meant for two must not depend on when this was noticed.
            for accumulator in self._accumulators:
                accumulator.forget_binary()
            self._window.forget_binary()
        y = np.array([self._codes[label] for label in ys], np.int64)
        columns = self._columns(y, parts)
        one = self._codes.get(1, OTHER)
        for accumulator, column in zip(self._accumulators, columns, strict=True):
            accumulator.add(y, column, len(self._names), one)
            accumulator.add_losses(column.log_loss, column.cross)
        self._pairs += _pairs(y, columns)
        self._window.add(y, columns)

    def report(self) -> dict[str, dict[str, Any]]:
        """`all`, `window` and `classes`; classes by name with the number of their labels, at most 50."""
        self.flush()
        binary, one = self._binary, self._codes.get(1, NONE)
        order = sorted(range(len(self._names)), key=self._rank)
        window = self._window
        recent = [MetricAccumulator(self._ranked) for _ in FORECASTERS]
        for accumulator, column in zip(recent, window.columns, strict=True):
            accumulator.add(window.y, column, len(self._names), one)
            # The loss that is not shown need not be added up.
            accumulator.add_losses(*((column.log_loss, None) if binary else (None, column.cross)))
        spans = {}
        for span, accumulators, pairs in (
            ("all", self._accumulators, self._pairs),
            ("window", recent, _pairs(window.y, window.columns)),
        ):
            spans[span] = {
                name: accumulator.metrics(order, binary, one)
                for name, accumulator in zip(FORECASTERS, accumulators, strict=True)
            }
            temporal, majority = pairs.tolist()
            spans[span]["model"] |= {"kappa_m": kappa(*majority), "kappa_temporal": kappa(*temporal)}
        shown = sorted(self._places, key=lambda label: -self._counts[self._places[label]])[:50]
        classes = {label_text(label): self._counts[self._places[label]] for label in shown}
        return {
            "all": spans["all"],
            "window": {"labels": len(window.y), **spans["window"]},
            "classes": classes,
        }

    def saved(self) -> list[Any]:
        """Serializable state."""
        self.flush()
        return [
            list(self._places),
            self._counts,
            self._best,
            self._last,
            self._names,
            self._invented,
            [accumulator.saved() for accumulator in self._accumulators],
            self._pairs.tolist(),
            self._window.saved(),
        ]

    def restore(self, saved: list[Any]) -> None:
        """Restore from `saved`."""
        places, counts, self._best, self._last, names, self._invented, accumulators, pairs, window = saved
        self._places = {label: place for place, label in enumerate(places)}
        self._counts, self.labels = counts, sum(counts)
        self._names = names
        self._codes = {None: NONE} | {name: code for code, name in enumerate(names)}
        for accumulator, state in zip(self._accumulators, accumulators, strict=True):
            accumulator.restore(state)
        self._pairs = np.array(pairs, np.int64)
        self._window.restore(window)

    @property
    def _binary(self) -> bool:
        """True while all classes are 0 and 1 (false and true)."""
        return all(type(name) is not str and name in (0, 1) for name in self._names)

    def _rank(self, code: int) -> tuple[bool, Any]:
        name = self._names[code]
        return type(name) is str, name

    def _name(self, ys: list[Any], predictions: list[Any]) -> None:
        """Give a code to every class, in the order in which labels and predictions came."""
        codes, names = self._codes, self._names
        if codes.keys() >= {*ys, *predictions}:
            return
        for label, prediction in zip(ys, predictions, strict=True):
            if label not in codes:
                codes[label] = len(names)
                names.append(label)
            if prediction not in codes and self._invented < MAX_CLASSES:
                self._invented += 1
                codes[prediction] = len(names)
                names.append(prediction)

    def _columns(self, y: Ints, parts: list[list[Any]]) -> list[Column]:
        """The three forecasters' answers as arrays, from the parts of what was filed."""
        ys, mine, commonest, preds, p, q, lasts, bests, ns = parts
        codes = self._codes
        by_place = np.array([*(codes[label] for label in self._places), NONE], np.int64)
        model = np.array([codes.get(label, OTHER) for label in preds], np.int64)
        last = np.array([codes[label] for label in lasts], np.int64)
        prior = by_place[np.array(bests)]
        positive = y == codes.get(1, OTHER)
        unseen = np.array(mine, np.float64)
        n = np.maximum(np.array(ns, np.float64), 1.0)
        none = last == NONE
        last_one = np.where(none, np.nan, last == codes.get(1, OTHER))
        prior_y = unseen / n
        prior_one = np.where(none, np.nan, np.where(positive, unseen, n - unseen) / n)
        if self._ranked:
            score = np.array(p, np.float64)
            absent = np.full(len(y), np.nan)
            answers = ((model, score), (last, last_one), (prior, prior_one))
            return [Column(pred, of_one, absent, absent, absent) for pred, of_one in answers]
        of_y, of_one, best = _probabilities(ys, y, codes, p, q)
        seen = unseen > 0
        prior_y = np.where(seen, prior_y, np.nan)
        after_y = np.where(seen, last == y, np.nan)
        certain = np.where(none, np.nan, 1.0)
        most = np.where(none, np.nan, np.array(commonest, np.float64) / n)
        kinds = (self._binary, type(ys[0]) is not bool)
        return [
            _losses(positive, (model, of_one, best, of_y), kinds, False),
            _losses(positive, (last, last_one, certain, after_y), kinds, True),
            _losses(positive, (prior, prior_one, most, prior_y), kinds, False),
        ]


def _probabilities(
    ys: list[Any], y: Ints, codes: dict[Any, int], kept: Sequence[Any], yes: Sequence[Any]
) -> tuple[Floats, Floats, Floats]:
    """For each answer: the probability of the label, of the positive class, and the largest one."""
    if None not in yes:
        positive, null = y == codes.get(1, OTHER), codes.get(0, OTHER)
        of_no, of_yes = np.array(kept, np.float64), np.array(yes, np.float64)
        of_y = np.where(positive, of_yes, np.where(y == null, of_no, np.nan))
        return of_y, of_yes, np.maximum(of_no, of_yes)
    nan = float("nan")
    rows = []
    for label, p, q in zip(ys, kept, yes, strict=True):
        if p is None:
            rows.append((nan, nan, nan))
        elif q is not None:
            rows.append((q if label == 1 else p if label == 0 else nan, q, max(p, q)))
        else:
            text = label_text(label)
            if text not in p and type(label) is not str:
                text = _SAME.get(text, text)
            rows.append((p.get(text, nan), p.get("true", p.get("1", 0.0)), max(p.values())))
    of_y, of_one, best = np.array(rows, np.float64).T
    return of_y, of_one, best


def _losses(
    positive: NDArray[np.bool_],
    answer: tuple[Ints, Floats, Floats, Floats],
    kinds: tuple[bool, bool],
    certain: bool,
) -> Column:
    """A column of (predictions, probabilities of the positive class, the largest, those of the label).
    `kinds`: whether there are two classes, and whether there can ever be more; `certain`: all are 0 or 1.
    """
    pred, of_one, best, of_y = answer
    binary, crossed = kinds
    absent = np.full(len(pred), np.nan)
    log_loss = cross = absent
    within = np.minimum(np.maximum(of_one, _LEAST), 1 - _LEAST)
    within = np.where(positive, within, 1 - within)
    logs = _minus_log_of_few if certain else _minus_log
    if binary:
        log_loss = logs(within)
    if crossed:
        # A class without a probability costs nothing in river's CrossEntropy.
        named = np.minimum(np.maximum(of_y, _LEAST), 1 - _LEAST)
        named = np.where(np.isnan(of_y) & ~np.isnan(best), 1.0, named)
        other = np.flatnonzero((named != within) if binary else np.ones(len(named), np.bool_))
        cross = log_loss  # the same numbers have the same logarithms, and mostly they are the same
        if other.size:
            cross = log_loss.copy()
            cross[other] = logs(named[other])
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


def _pairs(y: Ints, columns: list[Column]) -> Ints:
    """Beside no-change and beside the prior: (model right, baseline right, labels both answered)."""
    model = columns[0].pred
    rows = []
    for baseline in columns[1:]:
        both = (model != NONE) & (baseline.pred != NONE)
        rows.append([((y == model) & both).sum(), ((y == baseline.pred) & both).sum(), both.sum()])
    return np.array(rows, np.int64)
