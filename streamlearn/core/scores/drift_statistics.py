"""Statistics that need no label: how many labels have come, and how far the stream has moved.

None of this is a score: a model can be wrong on a stream that looks as ever, and right on one that has
moved. The first `REFERENCE` events are the reference; afterwards about one in `EVERY` is looked at, chosen
by its number, and the newest `RECENT` of these are compared with the reference, bin by bin.
"""

from bisect import bisect_left
from collections import Counter
from typing import Any, Final

import numpy as np

from streamlearn.core.scores.metrics import population_stability, ratio

REFERENCE: Final = 1000
EVERY: Final = 16
RECENT: Final = 500
LEAST: Final = 100
"""With fewer recent events there is no figure: it would be noise."""
MAX_FEATURES: Final = 64
"""Names looked at, in the order in which they appear."""
MAX_BINS: Final = 10
MAX_CHARS: Final = 64
"""So much of a text tells it from others."""

NOTE: Final = "proxies, not scores: they say that the stream has moved, not that the model is wrong"

_PLAIN: Final = frozenset((bool, int, float, str))
"""A moment among the features has no distribution worth following: it only grows."""

_MISSING: Final = 0
_OTHER: Final = 1
_FIRST: Final = 2


def next_look(number: int) -> int:
    """The number of the next event to look at. The steps differ, 8 to 23 and 16 in the mean: a fixed one
    would see only some of the sensors of a stream in which they take turns.
    """
    if number < REFERENCE:
        return number + 1
    return number + EVERY // 2 + (number * 2_654_435_761 >> 16) % EVERY


class Bins:
    """Counts of one feature, or of the prediction, by bin: 0 missing, 1 of no other bin, then either
    common values or tenths of the reference.
    """

    def __init__(self, values: dict[Any, int], edges: list[float], counts: list[int]) -> None:
        self._values = values
        self._edges = edges
        self.counts = counts
        """The reference by bin."""

    @classmethod
    def of(cls, reference: list[Any]) -> "Bins":
        """Bins for these values; None is a missing one."""
        there = Counter(_trimmed(value) for value in reference if value is not None)
        numbers = sorted(v for v in there.elements() if not isinstance(v, str))
        values: dict[Any, int] = {}
        edges: list[float] = []
        if len(there) > MAX_BINS and len(numbers) > len(reference) // 2:
            tenths = {float(numbers[len(numbers) * k // MAX_BINS]) for k in range(1, MAX_BINS)}
            edges = sorted(tenths)
            size = _FIRST + len(edges) + 1
        else:
            common = [value for value, _ in there.most_common(MAX_BINS)]
            values = {value: _FIRST + k for k, value in enumerate(common)}
            size = _FIRST + len(values)
        bins = cls(values, edges, [0] * size)
        for value in reference:
            bins.counts[bins.at(value)] += 1
        return bins

    def at(self, value: Any) -> int:
        """The bin of a value."""
        if value is None:
            return _MISSING
        if self._edges:
            return _OTHER if type(value) is str else _FIRST + bisect_left(self._edges, value)
        return self._values.get(_trimmed(value), _OTHER)

    def saved(self) -> list[Any]:
        """Arguments of the constructor, values in the order of their bins."""
        return [list(self._values), self._edges, self.counts]

    @classmethod
    def restored(cls, saved: list[Any]) -> "Bins":
        """The bins that were `saved`."""
        values, edges, counts = saved
        return cls({value: _FIRST + k for k, value in enumerate(values)}, edges, counts)


def _trimmed(value: Any) -> Any:
    return value[:MAX_CHARS] if type(value) is str else value


class DriftStatistics:
    """Looks at events by their number. The prediction is the first column, then one per feature."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._reference: list[list[Any]] = []
        self._bins: list[Bins] = []
        self._recent: list[bytes] = []

    def look(self, answer: Any, x: dict[str, Any]) -> None:
        """Take in a sampled event: plain values of its features, and one for its answer."""
        names = self._names
        if self._bins:
            bins = self._bins
            row = [bins[0].at(answer)]
            row += [bins[at].at(x.get(name)) for name, at in names.items()]
            self._recent.append(bytes(row))
            del self._recent[:-RECENT]
            return
        for name, value in x.items():
            if name not in names and len(names) < MAX_FEATURES and type(value) in _PLAIN:
                names[name] = len(names) + 1
        self._reference.append([_trimmed(answer), *(_trimmed(x.get(name)) for name in names)])
        if len(self._reference) == REFERENCE:
            width = len(names) + 1
            full = [row + [None] * (width - len(row)) for row in self._reference]
            self._bins = [Bins.of(list(column)) for column in zip(*full, strict=True)]
            self._reference = []

    def report(self, events: int, labels: int) -> dict[str, Any]:
        """JSON-able; so many labels have come for so many events."""
        rows = self._recent
        width = len(self._names) + 1
        psi: list[float | None] = [None] * width
        if len(rows) >= LEAST:
            table = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), width)
            for at, bins in enumerate(self._bins):
                recent = np.bincount(table[:, at], minlength=len(bins.counts)).tolist()
                psi[at] = population_stability(bins.counts, recent)
        return {
            "note": NOTE,
            "label_coverage": ratio(labels, events),
            "reference_events": REFERENCE if self._bins else len(self._reference),
            "recent_sampled": len(rows),
            "prediction_psi": psi[0],
            "feature_psi": {name: psi[at] for name, at in self._names.items()},
        }

    def saved(self) -> list[Any]:
        """Serializable state."""
        bins = [part.saved() for part in self._bins]
        return [list(self._names), self._reference, bins, b"".join(self._recent)]

    def restore(self, saved: list[Any]) -> None:
        """Restore from `saved`."""
        names, self._reference, bins, recent = saved
        self._names = {name: at for at, name in enumerate(names, 1)}
        self._bins = [Bins.restored(part) for part in bins]
        width = len(names) + 1
        self._recent = [recent[at : at + width] for at in range(0, len(recent), width)]
