"""Scores of tasks with classes: classification, and anomaly detection with true and false.

What an answer needs is taken down when it is given (`foresee`), and waits in the guess for its label.
`observe` only files the pair; `fold` works off what was filed, a few hundred at a time. When it does so
changes no value: counts do not depend on order, and means are river's recurrence in the order of labels.
The window keeps the folded columns of its labels and is added up from nothing for each report, so that
it equals a river metric that was shown just these labels, without the drift of reverted updates.
"""

from math import log
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from streamlearn.core.codec import label_text
from streamlearn.core.metrics import Floats, Ints, kappa
from streamlearn.core.score_sheets import FORECASTERS, NONE, OTHER, Column, Sheet, Window

MAX_CLASSES: Final = 1000
"""So many classes have labels; whoever passes labels on asks `knows_room_for` first."""

FOLD: Final = 512

_LEAST: Final = 1e-15
_PLAIN: Final = (bool, int, str, float, type(None))
_ONE: Final = ("1", "true")
_NULL: Final = ("0", "false")


class ClassScores:
    """A model with classes, beside `river.dummy`'s NoChangeClassifier and PriorClassifier.

    A guess: `[prediction, probabilities or score, last label, place of the commonest, labels so far,
    labels so far by place]`; the place of a class is the order of its first label. `ranked`: the answers
    are scores of anomalies, on any scale, maybe with a verdict.
    """

    def __init__(self, ranked: bool, window: int) -> None:
        self._ranked = ranked
        self._places: dict[Any, int] = {}
        self._counts: list[int] = []
        self._n = 0
        self._best = -1
        self._last: Any = None
        self._codes: dict[Any, int] = {None: NONE}
        self._names: list[Any] = []
        self._invented = 0
        self._ys: list[Any] = []
        self._guesses: list[list[Any]] = []
        self._sheets = [Sheet(self._ranked) for _ in FORECASTERS]
        self._pairs: Ints = np.zeros((2, 3), np.int64)
        self._window = Window(window)

    def knows_room_for(self, y: Any) -> bool:
        """Whether a label of this class can be counted."""
        return y in self._places or len(self._places) < MAX_CLASSES

    def foresee(self, prediction: Any, member: str, detail: Any) -> list[Any]:
        """What scoring will need of the answers at this moment. Plain values, small."""
        kept: Any = None
        if type(prediction) not in _PLAIN:
            prediction = prediction.item()
        if member == "score":
            kept = None if detail is None else float(detail)
        elif detail:
            names = (*detail,)
            if len(names) == 2 and names[1] in _ONE and names[0] in _NULL and type(prediction) is not str:
                kept = [float(detail[names[0]]), float(detail[names[1]])]
            else:
                kept = {name: float(p) for name, p in detail.items()}
        return [prediction, kept, self._last, self._best, self._n, self._counts[:]]

    def observe(self, y: Any, guess: list[Any]) -> None:
        """File the pair; the baselines learn `y`, for which there must be room."""
        self._ys.append(y)
        self._guesses.append(guess)
        place = self._places.get(y)
        if place is None:
            place = self._places[y] = len(self._counts)
            assert place < MAX_CLASSES, "labels are checked by knows_room_for"
            self._counts.append(0)
        counts = self._counts
        counts[place] += 1
        best = self._best
        if place != best and (best < 0 or (counts[place], -place) > (counts[best], -best)):
            self._best = place
        self._n += 1
        self._last = y
        if len(self._ys) >= FOLD:
            self.fold()

    def fold(self) -> None:
        """Work off what was filed."""
        if not self._ys:
            return
        ys, guesses = self._ys, self._guesses
        self._ys, self._guesses = [], []
        self._name(ys, guesses)
        if not self._binary and not self._ranked:
            # A third class came: what is only meant for two must not depend on when this was noticed.
            for sheet in self._sheets:
                sheet.forget_binary()
            self._window.forget_binary()
        y = np.array([self._codes[label] for label in ys], np.int64)
        columns = self._columns(ys, y, guesses)
        one = self._codes.get(1, OTHER)
        for sheet, column in zip(self._sheets, columns, strict=True):
            sheet.add(y, column, len(self._names), one)
        self._pairs += _pairs(y, columns)
        self._window.add(y, columns)

    def report(self) -> dict[str, dict[str, Any]]:
        """`all`, `window` and `classes`; classes by name with the number of their labels, at most 50."""
        self.fold()
        binary, one = self._binary, self._codes.get(1, NONE)
        order = sorted(range(len(self._names)), key=self._rank)
        window = self._window
        recent = [Sheet(self._ranked) for _ in FORECASTERS]
        for sheet, column in zip(recent, window.columns, strict=True):
            sheet.add(window.y, column, len(self._names), one)
        spans = {}
        for span, sheets, pairs in (
            ("all", self._sheets, self._pairs),
            ("window", recent, _pairs(window.y, window.columns)),
        ):
            spans[span] = {
                name: sheet.metrics(order, binary, one)
                for name, sheet in zip(FORECASTERS, sheets, strict=True)
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
        """What `restore` takes."""
        self.fold()
        return [
            list(self._places),
            self._counts,
            self._best,
            self._last,
            self._names,
            self._invented,
            [sheet.saved() for sheet in self._sheets],
            self._pairs.tolist(),
            self._window.saved(),
        ]

    def restore(self, saved: list[Any]) -> None:
        """Go on where another one was `saved`."""
        places, counts, self._best, self._last, names, self._invented, sheets, pairs, window = saved
        self._places = {label: place for place, label in enumerate(places)}
        self._counts, self._n = counts, sum(counts)
        self._names = names
        self._codes = {None: NONE} | {name: code for code, name in enumerate(names)}
        for sheet, state in zip(self._sheets, sheets, strict=True):
            sheet.restore(state)
        self._pairs = np.array(pairs, np.int64)
        self._window.restore(window)

    @property
    def _binary(self) -> bool:
        """Whether all classes so far are 0 and 1 (false and true)."""
        return all(type(name) is not str and name in (0, 1) for name in self._names)

    def _rank(self, code: int) -> tuple[bool, Any]:
        name = self._names[code]
        return type(name) is str, name

    def _name(self, ys: list[Any], guesses: list[list[Any]]) -> None:
        """Give a code to every class, in the order in which labels and predictions came."""
        codes, names = self._codes, self._names
        for label, guess in zip(ys, guesses, strict=True):
            prediction = guess[0]
            if label not in codes:
                codes[label] = len(names)
                names.append(label)
            if prediction not in codes and self._invented < MAX_CLASSES:
                self._invented += 1
                codes[prediction] = len(names)
                names.append(prediction)

    def _columns(self, ys: list[Any], y: Ints, guesses: list[list[Any]]) -> list[Column]:
        """The three forecasters' answers as arrays."""
        codes = self._codes
        preds, kept, lasts, bests, ns, counts = zip(*guesses, strict=True)
        labels = list(self._places)
        places = [self._places[label] for label in ys]
        prior = [NONE if at < 0 else codes[labels[at]] for at in bests]
        pred = [
            np.array([codes.get(p, OTHER) for p in preds], np.int64),
            np.array([codes[p] for p in lasts], np.int64),
            np.array(prior, np.int64),
        ]
        one = self._places.get(1, MAX_CLASSES)
        nan = float("nan")
        none = np.array(bests) < 0
        n = np.maximum(np.array(ns, np.float64), 1.0)
        share_one = np.array([c[one] if one < len(c) else 0 for c in counts]) / n
        after_one = np.where(none, nan, pred[1] == codes.get(1, OTHER))
        prior_one = np.where(none, nan, share_one)
        if self._ranked:
            score = np.array([nan if s is None else s for s in kept], np.float64)
            absent = np.full(len(ys), nan)
            return [
                Column(p, s, absent, absent, absent)
                for p, s in zip(pred, (score, after_one, prior_one), strict=True)
            ]
        of_y, of_one, best = _probabilities(ys, kept)
        mine = [c[at] if at < len(c) else nan for c, at in zip(counts, places, strict=True)]
        prior_y = np.array(mine, np.float64) / n
        commonest = np.array([c[at] if at >= 0 else nan for c, at in zip(counts, bests, strict=True)])
        after_y = np.where(np.isnan(prior_y), nan, pred[1] == y)
        positive = y == codes.get(1, OTHER)
        binary = self._binary
        crossed = type(ys[0]) is not bool
        answers = (
            (pred[0], of_one, best, of_y),
            (pred[1], after_one, np.where(none, nan, 1.0), after_y),
            (pred[2], prior_one, commonest / n, prior_y),
        )
        return [_losses(positive, answer, binary, crossed) for answer in answers]


def _probabilities(ys: list[Any], kept: tuple[Any, ...]) -> tuple[Floats, Floats, Floats]:
    """Of each answer: the probability of the label, of the positive class, and the largest one."""
    nan = float("nan")
    of_y, of_one, best = [], [], []
    for label, p in zip(ys, kept, strict=True):
        if type(p) is list:
            no, yes = p
            of_y.append(yes if label else no)
            of_one.append(yes)
            best.append(max(no, yes))
        elif p is None:
            of_y.append(nan)
            of_one.append(nan)
            best.append(nan)
        else:
            text = label_text(label)
            if text not in p and type(label) is not str:
                text = dict(zip(_ONE + _NULL, ("true", "1", "false", "0"), strict=True)).get(text, text)
            of_y.append(p.get(text, nan))
            of_one.append(p.get("true", p.get("1", 0.0)))
            best.append(max(p.values()))
    return np.array(of_y), np.array(of_one), np.array(best)


def _losses(
    positive: NDArray[np.bool_], answer: tuple[Ints, Floats, Floats, Floats], binary: bool, crossed: bool
) -> Column:
    """A column of (predictions, probabilities of the positive class, the largest, those of the label)."""
    pred, of_one, best, of_y = answer
    absent = np.full(len(pred), np.nan)
    log_loss = cross = absent
    if binary:
        clamped = np.clip(of_one, _LEAST, 1 - _LEAST)
        log_loss = _minus_log(np.where(positive, clamped, 1 - clamped))
    if crossed:
        # A class without a probability costs nothing in river's CrossEntropy.
        clamped = np.where(np.isnan(of_y), 1.0, np.clip(of_y, _LEAST, 1 - _LEAST))
        cross = np.where(np.isnan(best), np.nan, _minus_log(clamped))
    return Column(pred, of_one if binary else absent, best, log_loss, cross)


def _minus_log(values: Floats) -> Floats:
    # The scalar logarithm: numpy's own differs from it in last bits.
    return -np.array(list(map(log, values.tolist())), np.float64)


def _pairs(y: Ints, columns: list[Column]) -> Ints:
    """Beside no-change and beside the prior: (model right, baseline right, labels both answered)."""
    model = columns[0].pred
    rows = []
    for baseline in columns[1:]:
        both = (model != NONE) & (baseline.pred != NONE)
        rows.append([((y == model) & both).sum(), ((y == baseline.pred) & both).sum(), both.sum()])
    return np.array(rows, np.int64)
