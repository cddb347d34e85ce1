"""Statistics that need no label: how many labels have come, and how far the stream has moved.

None of this is a score: a model can be wrong on a stream that looks as ever, and right on one that has
moved. The first `REFERENCE` events are the reference; afterwards about one in `EVERY` is looked at, chosen
by its number, and the newest `RECENT` of these are compared with the reference, bin by bin.
"""

from bisect import bisect_left
from collections import Counter
from typing import Any, Final

import msgspec
import numpy as np

from streamlearn.core.scores.metrics import population_stability, ratio

REFERENCE: Final = 1000
EVERY: Final = 16
RECENT: Final = 500
LEAST: Final = 100
"""With fewer recent events there is no figure: it would be noise."""
MAX_FEATURES: Final = 64
"""The most features that are sampled, in the order in which they appear."""
MAX_BINS: Final = 10
MAX_CHARS: Final = 64
"""The length from which on texts are no longer told apart."""

NOTE: Final = "proxies, not scores: they say that the stream has moved, not that the model is wrong"

_PLAIN: Final = frozenset((bool, int, float, str))
"""A moment among the features has no distribution worth following: it only grows."""

_MISSING: Final = 0
_OTHER: Final = 1
_FIRST: Final = 2


def next_sample(number: int) -> int:
    """The number of the next event to sample. The steps differ, 8 to 23 and 16 in the mean: a fixed one
    would see only some of the sensors of a stream in which they take turns.
    """
    if number < REFERENCE:
        return number + 1
    return number + EVERY // 2 + (number * 2_654_435_761 >> 16) % EVERY


class Bins(msgspec.Struct):
    """Counts of one feature, or of the prediction, by bin: 0 missing, 1 of no other bin, then either
    common values or tenths of the reference.
    """

    values: dict[Any, int]
    edges: list[float]
    counts: list[int]
    """The reference by bin."""

    @classmethod
    def fit(cls, reference: list[Any]) -> "Bins":
        """Make the bins of these values; None is a missing one."""
        counts = Counter(_trimmed(value) for value in reference if value is not None)
        numbers = sorted(value for value in counts.elements() if not isinstance(value, str))
        values: dict[Any, int] = {}
        edges: list[float] = []
        if len(counts) > MAX_BINS and len(numbers) > len(reference) // 2:
            edges = sorted({float(numbers[len(numbers) * k // MAX_BINS]) for k in range(1, MAX_BINS)})
            size = _FIRST + len(edges) + 1
        else:
            values = {value: _FIRST + k for k, (value, _) in enumerate(counts.most_common(MAX_BINS))}
            size = _FIRST + len(values)
        bins = cls(values, edges, [0] * size)
        for value in reference:
            bins.counts[bins.find(value)] += 1
        return bins

    def find(self, value: Any) -> int:
        """The bin of a value."""
        if value is None:
            return _MISSING
        if self.edges:
            return _OTHER if type(value) is str else _FIRST + bisect_left(self.edges, value)
        return self.values.get(_trimmed(value), _OTHER)


def _trimmed(value: Any) -> Any:
    return value[:MAX_CHARS] if type(value) is str else value


class DriftStatistics(msgspec.Struct):
    """Samples of events. The prediction is the first column, then one per feature."""

    names: dict[str, int] = {}
    """The columns of the features."""
    reference: list[list[Any]] = []
    """Rows of the reference, until it is whole; then `bins` holds it."""
    bins: list[Bins] = []
    recent: list[bytes] = []
    """The newest sampled events, a bin per column."""

    def sample(self, answer: Any, x: dict[str, Any]) -> None:
        """Take in a sampled event: plain values of its features, and one for its answer."""
        names = self.names
        if self.bins:
            bins = self.bins
            row = [bins[0].find(answer)]
            row += [bins[column].find(x.get(name)) for name, column in names.items()]
            self.recent.append(bytes(row))
            del self.recent[:-RECENT]
            return
        for name, value in x.items():
            if type(value) in _PLAIN and len(names) < MAX_FEATURES:
                names.setdefault(name, len(names) + 1)
        self.reference.append([_trimmed(answer), *(_trimmed(x.get(name)) for name in names)])
        if len(self.reference) == REFERENCE:
            rows, width = self.reference, len(names) + 1
            table = [row + [None] * (width - len(row)) for row in rows]
            self.bins = [Bins.fit(list(column)) for column in zip(*table, strict=True)]
            self.reference = []

    def report(self, events: int, labels: int) -> dict[str, Any]:
        """JSON-able; so many labels have come for so many events."""
        rows = self.recent
        width = len(self.names) + 1
        psi: list[float | None] = [None] * width
        if len(rows) >= LEAST:
            table = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), width)
            for column, bins in enumerate(self.bins):
                recent = np.bincount(table[:, column], minlength=len(bins.counts)).tolist()
                psi[column] = population_stability(bins.counts, recent)
        return {
            "note": NOTE,
            "label_coverage": ratio(labels, events),
            "reference_events": REFERENCE if self.bins else len(self.reference),
            "recent_sampled": len(rows),
            "prediction_psi": psi[0],
            "feature_psi": {name: psi[column] for name, column in self.names.items()},
        }
