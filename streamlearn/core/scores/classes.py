"""Scores of tasks with classes: classification, and anomaly detection with true and false.

A prediction is captured with the baselines' answers (`capture`). When its label arrives the pair is buffered
(`update`), and buffered pairs are aggregated a few hundred at a time (`flush`). The moment of that changes no
value: counts do not depend on order, and means are river's recurrence in the order of labels. The window
keeps the columns of its labels and is added up from nothing for each report, so that it equals a river metric
that was shown just these labels, without the drift of reverted updates.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from streamlearn.core.events.json_events import label_text
from streamlearn.core.model.learner import Prediction
from streamlearn.core.scores.accumulators import (
    FORECASTERS,
    NONE,
    OTHER,
    Column,
    LabelWindow,
    MetricAccumulator,
    Tally,
    add_losses,
)
from streamlearn.core.scores.losses import probabilities, scored_column
from streamlearn.core.scores.metrics import Floats, Ints, kappa
from streamlearn.core.scores.ranks import Ranks

MAX_CLASSES: Final = 1000
"""The largest number of classes that have labels; `can_track_class` is asked before a label is passed on."""

FLUSH_AT: Final = 1024
"""The number of pairs that are buffered before they are aggregated."""

_PLAIN: Final = (bool, int, str, float, type(None))
_FLAT: Final = 6
"""The number of captured values before the counts."""
_PARTS: Final = 3 + _FLAT
_BUFFER_LENGTH: Final = FLUSH_AT * _PARTS
_ROW_PARTS: Final = 4
_MANY: Final = 32
"""With more classes than these a row is not counted in one table."""


class _Start(NamedTuple):
    """The labels before a row of answers, each of which gets its label before the next is given."""

    counts: list[int]
    last: Any
    labels: int


class _Known(NamedTuple):
    """The baselines' knowledge at answers: codes of the last and of the commonest label; counts of the label
    that came, of the commonest one, and of all.
    """

    last: Ints
    prior: Ints
    mine: Floats
    commonest: Floats
    labels: Floats


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
    """Pairs, flat: label, prediction, `p`, `q`; and after those, the label's count, the commonest's, last
    label, index of the commonest, labels so far. Or in a row: a `_Start`, then the first four of each.
    """
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
        if self.buffer and type(self.buffer[0]) is _Start:
            self.flush()
        counts, index = self.counts, self._index(y)
        at_capture = captured[_FLAT + index] if _FLAT + index < len(captured) else 0
        # Without any label the commonest one's index is -1, and its count is the number before the counts.
        buffer = self.buffer
        prediction, p, q, last, best, labels, *_ = captured
        buffer += (y, prediction, p, q, at_capture, captured[_FLAT + best], last, best, labels)
        count = counts[index] = counts[index] + 1
        best = self.best
        if index != best and (count > counts[best] or (count == counts[best] and index < best)):
            self.best = index
        self.labels += 1
        self.last = y
        if len(buffer) >= _BUFFER_LENGTH:
            self.flush()

    def _index(self, y: Any) -> int:
        """The index of a class, which gets one if it is new."""
        index = self.indices.get(y)
        if index is None:
            index = self.indices[y] = len(self.counts)
            assert index < MAX_CLASSES, "labels are checked by can_track_class"
            self.counts.append(0)
            if not index:
                self.best = index
        return index

    def score(self, ys: Sequence[Any], answers: Sequence[Prediction]) -> None:
        """As `update(y, capture(answer))` for each label and answer; a label of None is none."""
        if None in ys:
            answers = [answer for y, answer in zip(ys, answers, strict=True) if y is not None]
            ys = [y for y in ys if y is not None]
        if self.ranked:
            ys = [y == 1 for y in ys]
        if self._can_buffer_row(ys):
            self._buffer_row(ys, answers)
            return
        for y, answer in zip(ys, answers, strict=True):
            self.update(y, self.capture(answer))

    def _can_buffer_row(self, ys: Sequence[Any]) -> bool:
        """True if classes are few and known, and no pairs with what was captured are in the buffer."""
        is_row = not self.buffer or type(self.buffer[0]) is _Start
        return is_row and 0 < len(self.counts) <= _MANY and self.indices.keys() >= set(ys) and len(ys) > 0

    def _buffer_row(self, ys: Sequence[Any], answers: Sequence[Prediction]) -> None:
        """Buffer labels and answers, each of which gets its label before the next is given."""
        buffer, indices, counts = self.buffer, self.indices, self.counts
        if not buffer:
            buffer.append(_Start(counts.copy(), self.last, self.labels))
        _append_pairs(buffer, ys, answers)
        for y, count in Counter(ys).items():
            counts[indices[y]] += count
        self.best = max(range(len(counts)), key=counts.__getitem__)
        self.labels += len(ys)
        self.last = ys[-1]
        if len(buffer) >= FLUSH_AT * _ROW_PARTS:
            self.flush()

    def flush(self) -> None:
        """Aggregate the pairs in the buffer."""
        self._aggregate()

    def _aggregate(self) -> list[Tally]:
        """Aggregate the pairs in the buffer. Return how they were counted, by forecaster, where the window
        holds just these labels.
        """
        if not self.buffer:
            return []
        y, columns = self._buffered()
        positive = self.codes.get(1, OTHER)
        tallies = [Tally.tally(y, column, len(self.codes) - 1, positive) for column in columns]
        for accumulator, tally in zip(self.accumulators, tallies, strict=True):
            accumulator.add(tally)
        add_losses(self.accumulators, columns, ("log_loss", "cross"))
        self.pairs += _pairs(y, columns)
        self.window.add(y, columns)
        return tallies if len(self.window.y) == len(y) else []

    def _buffered(self) -> tuple[Ints, list[Column]]:
        """Empty the buffer: codes of labels, and the forecasters' answers."""
        buffer, self.buffer = self.buffer, []
        start = buffer.pop(0) if type(buffer[0]) is _Start else None
        width = _PARTS if start is None else _ROW_PARTS
        ys, *parts = (buffer[k::width] for k in range(width))
        self._encode(ys, parts[0])
        if not self._binary and not self.ranked:
            # A third class came: what is only meant for two must not depend on when this was noticed.
            for accumulator in self.accumulators:
                accumulator.forget_binary()
            self.window.forget_binary()
        y = np.array([self.codes[label] for label in ys], np.int64)
        known = self._known(parts[3:]) if start is None else self._since(start, y)
        return y, self._columns(ys, y, parts[:3], known)

    def report(self) -> dict[str, dict[str, Any]]:
        """`all`, `window` and `classes`; classes by name with the number of their labels, at most 50."""
        tallies = self._aggregate()
        binary, positive = self._binary, self.codes.get(1, NONE)
        names = list(self.codes)[1:]
        order = sorted(range(len(names)), key=lambda code: (type(names[code]) is str, names[code]))
        window = self.window
        recent = _accumulators(self.ranked)
        if not tallies:
            tallies = [Tally.tally(window.y, column, len(names), positive) for column in window.columns]
        for accumulator, tally in zip(recent, tallies, strict=True):
            accumulator.add(tally)
        # The loss that is not shown need not be added up.
        add_losses(recent, window.columns, ("log_loss" if binary else "cross",))
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

    def _known(self, parts: list[list[Any]]) -> _Known:
        """The baselines' knowledge from the parts of the buffer."""
        mine, commonest, lasts, bests, labels = parts
        last = np.array([self.codes[label] for label in lasts], np.int64)
        prior = self._by_index()[np.array(bests)]
        return _Known(last, prior, *(np.array(part, np.float64) for part in (mine, commonest, labels)))

    def _since(self, start: _Start, y: Ints) -> _Known:
        """The baselines' knowledge at answers in a row, each of which had its label `y` before the next."""
        by_index = self._by_index()
        rows = np.arange(len(y))
        each = y[:, None] == by_index[:-1]
        before = each.cumsum(axis=0) - each + np.array(start.counts)
        return _Known(
            np.concatenate(((self.codes[start.last],), y[:-1])),
            by_index[before.argmax(axis=1)],
            before[each].astype(np.float64),
            before.max(axis=1).astype(np.float64),
            (rows + start.labels).astype(np.float64),
        )

    def _by_index(self) -> Ints:
        """The codes of classes by index; the last is that of none."""
        return np.array([*(self.codes[label] for label in self.indices), NONE], np.int64)

    def _columns(self, ys: list[Any], y: Ints, answers: list[list[Any]], known: _Known) -> list[Column]:
        """The three forecasters' answers to labels `ys` (codes `y`) as arrays."""
        preds, p, q = answers
        codes, last, prior, unseen = self.codes, known.last, known.prior, known.mine
        model = np.array([codes.get(label, OTHER) for label in preds], np.int64)
        positive = y == codes.get(1, OTHER)
        n = np.maximum(known.labels, 1.0)
        none = last == NONE
        last_one = np.where(none, np.nan, last == codes.get(1, OTHER))
        prior_y = unseen / n
        prior_one = np.where(none, np.nan, np.where(positive, unseen, n - unseen) / n)
        if self.ranked:
            score = np.array(p, np.float64)
            absent = np.full(len(y), np.nan)
            both = ((model, score), (last, last_one), (prior, prior_one))
            return [Column(pred, of_one, absent, absent, absent) for pred, of_one in both]
        of_y, of_one, best = probabilities(ys, y, codes, p, q)
        seen = unseen > 0
        prior_y = np.where(seen, prior_y, np.nan)
        after_y = np.where(seen, last == y, np.nan)
        certain = np.where(none, np.nan, 1.0)
        most = np.where(none, np.nan, known.commonest / n)
        types = set(map(type, ys))
        crossed = np.full(len(y), bool not in types)
        if len(types) > 1:
            crossed = np.array([type(label) is not bool for label in ys])
        binary = self._binary
        return [
            scored_column(positive, (model, of_one, best, of_y), binary, crossed, False),
            scored_column(positive, (last, last_one, certain, after_y), binary, crossed, True),
            scored_column(positive, (prior, prior_one, most, prior_y), binary, crossed, False),
        ]


def _append_pairs(buffer: list[Any], ys: Sequence[Any], answers: Sequence[Prediction]) -> None:
    """Append labels and answers to the buffer, whose owner needs them for a moment only."""
    for y, answer in zip(ys, answers, strict=True):
        prediction, detail = answer.prediction, answer.detail
        if detail and answer.member == "probabilities":
            if type(prediction) is str:
                buffer += (y, prediction, detail, None)
                continue
            p, q = detail.get("false"), detail.get("true")
            if type(p) is type(q) is float and len(detail) == 2 and type(prediction) is bool:
                buffer += (y, prediction, p, q)
                continue
        buffer += (y, *_shares(answer))


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


def _pairs(y: Ints, columns: list[Column]) -> Ints:
    """Beside no-change and beside the prior: (model right, baseline right, labels both answered)."""
    model = columns[0].pred
    rows = []
    for baseline in columns[1:]:
        both = (model != NONE) & (baseline.pred != NONE)
        rows.append([((y == model) & both).sum(), ((y == baseline.pred) & both).sum(), both.sum()])
    return np.array(rows, np.int64)
