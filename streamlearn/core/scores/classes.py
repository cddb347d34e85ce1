"""Scores of tasks with classes: classification, and anomaly detection with true and false.

A prediction is captured with the baselines' answers (`capture`). When its label arrives the pair is buffered
(`update`), and buffered pairs are aggregated a few hundred at a time (`flush`). The moment of that changes no
value: counts do not depend on order, and means are river's recurrence in the order of labels. The window
keeps the columns of its labels and is added up from nothing for each report, so that it equals a river metric
that was shown just these labels, without the drift of reverted updates.
"""

from collections.abc import Sequence
from itertools import islice
from math import log
from typing import Any, Final

import msgspec
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
from streamlearn.core.scores.ranks import Ranks

MAX_CLASSES: Final = 1000
"""The largest number of classes that have labels; `can_track_class` is asked before a label is passed on."""

FLUSH_AT: Final = 1024
"""The number of pairs that are buffered before they are aggregated."""

_LEAST: Final = 1e-15
_PLAIN: Final = (bool, int, str, float, type(None))
_FLAT: Final = 6
"""The number of captured values before the counts."""
_PARTS: Final = 3 + _FLAT
_BUFFER_LENGTH: Final = FLUSH_AT * _PARTS
_SAME: Final = {"1": "true", "true": "1", "0": "false", "false": "0"}


class ClassScores(msgspec.Struct, tag=True):
    """A model with classes, beside `river.dummy`'s NoChangeClassifier and PriorClassifier.

    Captured: `[prediction, p, q, last label, index of the commonest label, labels so far, labels so far
    by index, ...]`; the index of a class is the order of its first label. `p` and `q` are the probabilities
    of false and true; or `p` is all of them by name; or `p` is the score of an anomaly (`ranked`), which is
    on any scale. One flat list, because each container costs the garbage collector.
    """

    ranked: bool
    window: LabelWindow
    indices: dict[Any, int] = {}
    counts: list[int] = []
    """Labels by index."""
    labels: int = 0
    best: int = -1
    """The index of the commonest label; -1 before the first."""
    last: Any = None
    codes: dict[Any, int] = msgspec.field(default_factory=lambda: {None: NONE})
    """The codes of all classes, in the order in which labels and predictions named them."""
    invented: int = 0
    """The number of classes that were predicted before any label named them."""
    buffer: list[Any] = []
    """Pairs, flat: label, its count, the commonest's, and what was captured up to its counts."""
    accumulators: list[MetricAccumulator] = []
    pairs: Ints = msgspec.field(default_factory=lambda: np.zeros((2, 3), np.int64))

    def __post_init__(self) -> None:
        if not self.accumulators:
            self.accumulators = _accumulators(self.ranked)

    def can_track_class(self, y: Any) -> bool:
        """True when a label of this class can be counted."""
        return y in self.indices or len(self.indices) < MAX_CLASSES

    def capture(self, answer: Prediction) -> list[Any]:
        """Capture all of the answers that scoring will need, as small plain values."""
        return [*_shares(answer), self.last, self.best, self.labels, *self.counts]

    def answers(self, captured: list[Any]) -> tuple[Any, ...]:
        """The labels that were answered."""
        prediction, _, _, last, best, *_ = captured
        return prediction, last, next(islice(self.indices, best, None)) if best >= 0 else None

    def update(self, y: Any, captured: list[Any]) -> None:
        """Buffer the pair; the baselines learn `y`, for which there must be room."""
        if self.ranked:
            y = y == 1
        counts = self.counts
        index = self.indices.get(y)
        if index is None:
            index = self.indices[y] = len(counts)
            assert index < MAX_CLASSES, "labels are checked by can_track_class"
            counts.append(0)
            if not index:
                self.best = index
        at_capture = captured[_FLAT + index] if _FLAT + index < len(captured) else 0
        # Without any label the commonest one's index is -1, and its count is the number before the counts.
        buffer = self.buffer
        buffer += (y, at_capture, captured[_FLAT + captured[4]], *captured[:_FLAT])
        count = counts[index] = counts[index] + 1
        best = self.best
        if index != best and (count > counts[best] or (count == counts[best] and index < best)):
            self.best = index
        self.labels += 1
        self.last = y
        if len(buffer) >= _BUFFER_LENGTH:
            self.flush()

    def score(self, ys: Sequence[Any], answers: Sequence[Prediction]) -> None:
        """As `update(y, capture(answer))` for each label and answer; a label of None is none."""
        indices, counts, buffer = self.indices, self.counts, self.buffer
        for y, answer in zip(ys, answers, strict=True):
            if y is None:
                continue
            index = None if self.ranked else indices.get(y)
            if index is None:
                self.update(y, self.capture(answer))
                buffer = self.buffer
                continue
            best, labels, count = self.best, self.labels, counts[index]
            buffer += (y, count, counts[best], *_shares(answer), self.last, best, labels)
            count = counts[index] = count + 1
            if index != best and (count > counts[best] or (count == counts[best] and index < best)):
                self.best = index
            self.labels = labels + 1
            self.last = y
        if len(buffer) >= _BUFFER_LENGTH:
            self.flush()

    def flush(self) -> None:
        """Aggregate the pairs in the buffer."""
        buffer = self.buffer
        if not buffer:
            return
        self.buffer = []
        parts = [buffer[k::_PARTS] for k in range(_PARTS)]
        ys = parts[0]
        self._encode(ys, parts[3])
        if not self._binary and not self.ranked:
            # A third class came: what is only meant for two must not depend on when this was noticed.
            for accumulator in self.accumulators:
                accumulator.forget_binary()
            self.window.forget_binary()
        y = np.array([self.codes[label] for label in ys], np.int64)
        columns = self._columns(y, parts)
        positive = self.codes.get(1, OTHER)
        for accumulator, column in zip(self.accumulators, columns, strict=True):
            accumulator.add(y, column, len(self.codes) - 1, positive)
            accumulator.add_losses(column.log_loss, column.cross)
        self.pairs += _pairs(y, columns)
        self.window.add(y, columns)

    def report(self) -> dict[str, dict[str, Any]]:
        """`all`, `window` and `classes`; classes by name with the number of their labels, at most 50."""
        self.flush()
        binary, positive = self._binary, self.codes.get(1, NONE)
        names = list(self.codes)[1:]
        order = sorted(range(len(names)), key=lambda code: (type(names[code]) is str, names[code]))
        window = self.window
        recent = _accumulators(self.ranked)
        for accumulator, column in zip(recent, window.columns, strict=True):
            accumulator.add(window.y, column, len(names), positive)
            # The loss that is not shown need not be added up.
            accumulator.add_losses(*((column.log_loss, None) if binary else (None, column.cross)))
        spans = {}
        for span, accumulators, pairs in (
            ("all", self.accumulators, self.pairs),
            ("window", recent, _pairs(window.y, window.columns)),
        ):
            spans[span] = {
                name: accumulator.metrics(order, binary, positive)
                for name, accumulator in zip(FORECASTERS, accumulators, strict=True)
            }
            temporal, majority = pairs.tolist()
            spans[span]["model"] |= {"kappa_m": kappa(*majority), "kappa_temporal": kappa(*temporal)}
        shown = sorted(self.indices, key=lambda label: -self.counts[self.indices[label]])[:50]
        classes = {label_text(label): self.counts[self.indices[label]] for label in shown}
        return {
            "all": spans["all"],
            "window": {"labels": len(window.y), **spans["window"]},
            "classes": classes,
        }

    def resize(self, window: int) -> None:
        """Hold at most the newest `window` labels for the report's `window`."""
        self.window.resize(window)

    @property
    def _binary(self) -> bool:
        """True while all classes are 0 and 1 (false and true)."""
        return all(type(name) is not str and name in (0, 1, None) for name in self.codes)

    def _encode(self, ys: list[Any], predictions: list[Any]) -> None:
        """Give a code to every class, in the order in which labels and predictions came."""
        codes = self.codes
        if codes.keys() >= {*ys, *predictions}:
            return
        for label, prediction in zip(ys, predictions, strict=True):
            codes.setdefault(label, len(codes) - 1)
            if prediction not in codes and self.invented < MAX_CLASSES:
                self.invented += 1
                codes[prediction] = len(codes) - 1

    def _columns(self, y: Ints, parts: list[list[Any]]) -> list[Column]:
        """The three forecasters' answers as arrays, from the parts of the buffer."""
        ys, mine, commonest, preds, p, q, lasts, bests, ns = parts
        codes = self.codes
        by_index = np.array([*(codes[label] for label in self.indices), NONE], np.int64)
        model = np.array([codes.get(label, OTHER) for label in preds], np.int64)
        last = np.array([codes[label] for label in lasts], np.int64)
        prior = by_index[np.array(bests)]
        positive = y == codes.get(1, OTHER)
        unseen = np.array(mine, np.float64)
        n = np.maximum(np.array(ns, np.float64), 1.0)
        none = last == NONE
        last_one = np.where(none, np.nan, last == codes.get(1, OTHER))
        prior_y = unseen / n
        prior_one = np.where(none, np.nan, np.where(positive, unseen, n - unseen) / n)
        if self.ranked:
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


def _shares(answer: Prediction) -> tuple[Any, Any, Any]:
    """The prediction, and `p` and `q` as they are captured."""
    prediction, detail = answer.prediction, answer.detail
    if type(prediction) not in _PLAIN:
        prediction = prediction.item()
    if answer.member == "score":
        return prediction, None if detail is None else float(detail), None
    if not detail or answer.member != "probabilities":
        return prediction, None, None
    p = q = None
    if len(detail) == 2:
        p, q = detail.get("false"), detail.get("true")
        if p is None or q is None:
            p, q = detail.get("0"), detail.get("1")
    if type(p) is not float or type(q) is not float or type(prediction) is str:
        return prediction, {name: float(share) for name, share in detail.items()}, None
    return prediction, p, q


def _accumulators(ranked: bool) -> list[MetricAccumulator]:
    return [MetricAccumulator(Ranks() if ranked else None) for _ in FORECASTERS]


def _probabilities(
    ys: list[Any], y: Ints, codes: dict[Any, int], ps: Sequence[Any], qs: Sequence[Any]
) -> tuple[Floats, Floats, Floats]:
    """For each answer: the probability of the label, of the positive class, and the largest one."""
    if None not in qs:
        positive, null = y == codes.get(1, OTHER), codes.get(0, OTHER)
        p_false, p_true = np.array(ps, np.float64), np.array(qs, np.float64)
        of_y = np.where(positive, p_true, np.where(y == null, p_false, np.nan))
        return of_y, p_true, np.maximum(p_false, p_true)
    nan = float("nan")
    rows = []
    for label, p, q in zip(ys, ps, qs, strict=True):
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
        differ = np.flatnonzero((named != within) if binary else np.ones(len(named), np.bool_))
        cross = log_loss  # the same numbers have the same logarithms, and mostly they are the same
        if differ.size:
            cross = log_loss.copy()
            cross[differ] = logs(named[differ])
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
