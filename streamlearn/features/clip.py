"""Numbers as they are, unless they stand alone far off: for trees, which need no common scale.

Invariants:
- The range within which numbers pass is one that `AGREE` values reach at either end: none widens it alone.
- What is kept of a feature is bounded, and a range is forgotten after two `memory` of its values.
"""

from bisect import insort
from math import inf
from typing import Any

from river import base

AGREE = 3
FIRST = 10
"""Of fewer values no range is known."""
_NONE = (inf, -inf)
_MARGIN = 0.5
"""So far beyond the range a number still passes, in widths of the range."""


class SteadyClip(base.Transformer):  # type: ignore[misc] # river has no types for mypy
    """Puts a number that is far outside a feature's range to the end of it; all else stays as it is.

    A tree's leaf keeps the mean, the variance and the range of a feature for each label, all of them without
    bound: after one reading of 1e12 the feature tells the leaf nothing any more. Three readings of that size
    are a new range, and the third passes whole. A number of which no range is known yet is left out.

    >>> clip = SteadyClip()
    >>> for value in (20, 1e12, 21, 19, 22, 20, 21, 18, 21, 20):
    ...     clip.learn_one({"temp": value, "mode": "eco"})
    >>> clip.transform_one({"temp": 21, "mode": "eco", "rpm": 900}), clip.transform_one({"temp": 1e12})
    ({'temp': 21, 'mode': 'eco'}, {'temp': 21})
    """

    def __init__(self, memory: int = 10_000) -> None:
        self.memory = memory
        # Per feature: the range, low above high while there is none.
        self._ranges: dict[Any, tuple[float, float]] = {}
        # Per feature: the range of earlier values, how many came since, the AGREE outermost of those.
        self._since: dict[Any, tuple[tuple[float, float], int, list[float], list[float]]] = {}

    def learn_one(self, x: dict[Any, Any]) -> None:
        """Take an event's numbers into the ranges."""
        for name, value in x.items():
            if type(value) is not float and type(value) is not int:
                continue
            before, count, least, greatest = self._since.get(name, (_NONE, 0, [], []))
            count += 1
            moved = count == FIRST
            if count <= AGREE or value < least[-1]:
                insort(least, value)
                del least[AGREE:]
                moved = True
            if count <= AGREE or value > greatest[0]:
                insort(greatest, value)
                del greatest[:-AGREE]
                moved = True
            if moved and (count >= FIRST or (before != _NONE and count >= AGREE)):
                self._ranges[name] = (min(before[0], least[-1]), max(before[1], greatest[0]))
            if count >= self.memory:
                before, count, least, greatest = (least[-1], greatest[0]), 0, [], []
            self._since[name] = before, count, least, greatest

    def transform_one(self, x: dict[Any, Any]) -> dict[Any, Any]:
        """The features, without numbers that are far off or unknown."""
        ranges = self._ranges
        passed = dict(x)
        for name, value in x.items():
            if type(value) is float or type(value) is int:
                low, high = ranges.get(name, _NONE)
                if low <= value <= high:
                    continue
                if low > high:
                    del passed[name]
                    continue
                margin = _MARGIN * (high - low)
                if not low - margin <= value <= high + margin:
                    passed[name] = low if value < low else high
        return passed
