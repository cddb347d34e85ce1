"""Numbers as they are, unless they stand alone far off: for trees, which need no common scale.

Invariants:
- The range within which numbers pass is one that `AGREE` values reach at either end: none widens it alone.
- Values beyond `_FAR` widths of it do not widen it, but found a new one when they prevail (see `scale`).
- What is kept of a feature is bounded, and a range is forgotten after two `memory` of its values.
"""

from bisect import insort
from math import inf
from typing import Any

from river import base

from streamlearn.features.scale import FORGIVEN, NEW_LEVEL

AGREE = 3
FIRST = 7
"""Of fewer values no range is known."""
_NONE = (inf, -inf)
_MARGIN = 0.5
"""So far beyond the range a number still passes, in widths of the range."""
_FAR = 1000.0
"""The watch of examples/sensors moves hundreds of times as much in one exercise as in another."""


class SteadyClip(base.Transformer):  # type: ignore[misc] # river has no types for mypy
    """Puts a number that is far outside a feature's range to the end of it; all else stays as it is.

    A tree's leaf keeps the mean, the variance and the range of a feature for each label, all of them without
    bound: after one reading of 1e12 the feature tells the leaf nothing any more. Three readings outside the
    range are a wider one, and the third passes whole; of readings as far off as an error code it takes a
    hundred. A number of which no range is known yet is left out.

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
        # Per feature that had any: by how much values that are far off prevail.
        self._far: dict[Any, float] = {}

    def learn_one(self, x: dict[Any, Any]) -> None:
        """Take an event's numbers into the ranges."""
        for name, value in x.items():
            if type(value) is not float and type(value) is not int:
                continue
            low, high = self._ranges.get(name, _NONE)
            if (name in self._far or not low <= value <= high) and self._is_far(name, value, low, high):
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

    def _is_far(self, name: Any, value: float, low: float, high: float) -> bool:
        """Whether a value is of no use for a range, since it is far off, and does not found a new one."""
        reach = _FAR * (high - low)
        if reach <= 0.0 or low - reach <= value <= high + reach:
            if name in self._far:
                self._far[name] -= FORGIVEN
                if self._far[name] <= 0.0:
                    del self._far[name]
            return False
        self._far[name] = self._far.get(name, 0.0) + 1.0
        if self._far[name] < NEW_LEVEL:
            return True
        del self._far[name], self._since[name], self._ranges[name]
        return False

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
