"""Labels by interval: of the half-open `start <= moment < end` that hold a moment, the one that came first.

Intervals may overlap and be of any lengths. What makes the answer cheap is that they leave in the order in
which they came. So this is a queue made of two stacks, each with a map of moments to the one that wins there:

- `_strokes` holds the older ones. Their map is painted from the youngest to the oldest, because an older one
  covers a younger one; each stroke keeps what it covered, and the oldest leaves by undoing the last stroke.
- `_younger` holds those that came since. A new one fills what is still free in their map, and no more.

When the older ones are used up, the younger ones are painted. An interval is thus filled in once and painted
once, a stroke takes away the pieces that it covers and adds at most three, and a filling joins the stretches
that it bridges: the work is O(log n) for an interval and for a moment, over all that came. The worst single
call paints all of them: a second for a hundred thousand. (A list moves its pointers at each insertion, in C.)
"""

from bisect import bisect_left, bisect_right, insort
from operator import itemgetter
from typing import Generic, TypeVar

Item = TypeVar("Item")

_start = itemgetter(0)


class Intervals(Generic[Item]):
    """Intervals of one key in their order of arrival, no two of them equal, each with an item."""

    __slots__ = ("_filled", "_painted", "_spans", "_stretches", "_strokes", "_younger")

    def __init__(self) -> None:
        self._spans: set[tuple[float, float]] = set()
        self._painted: list[tuple[float, float, Item]] = []
        """Disjoint pieces in the order of time; `_filled` likewise."""
        self._strokes: list[tuple[int, int, list[tuple[float, float, Item]], tuple[float, float, Item]]] = []
        """Index and number of a stroke's pieces, what they covered, and the interval; the oldest is last."""
        self._younger: list[tuple[float, float, Item]] = []
        self._filled: list[tuple[float, float, Item]] = []
        self._stretches: list[tuple[float, float]] = []
        """The time that `_filled` covers, in as few stretches as possible: no two of them touch."""

    def __len__(self) -> int:
        return len(self._spans)

    def __contains__(self, span: tuple[float, float]) -> bool:
        """Tell if there is an interval with exactly this start and end."""
        return span in self._spans

    def find(self, moment: float) -> Item | None:
        """The item of the first interval that came and holds `moment`; None without one."""
        for pieces in (self._painted, self._filled):
            index = bisect_right(pieces, moment, key=_start) - 1
            if index >= 0 and moment < pieces[index][1]:
                return pieces[index][2]
        return None

    def add(self, start: float, end: float, item: Item) -> None:
        """A new interval, `start < end`, which is not there yet."""
        assert start < end and (start, end) not in self._spans
        self._spans.add((start, end))
        self._younger.append((start, end, item))
        stretches = self._stretches
        first = bisect_right(stretches, start, key=_start)
        if first and stretches[first - 1][1] >= start:
            first -= 1
        last = bisect_right(stretches, end, key=_start)
        free = start
        for begins, ends in stretches[first:last]:
            if begins > free:
                insort(self._filled, (free, begins, item), key=_start)
            free = max(free, ends)
        if free < end:
            insort(self._filled, (free, end, item), key=_start)
        begins = min(start, stretches[first][0]) if first < last else start
        stretches[first:last] = [(begins, max(free, end))]

    def pop(self) -> Item:
        """Remove the interval that came first; its item."""
        if not self._strokes:
            for interval in reversed(self._younger):
                self._paint(interval)
            self._younger, self._filled, self._stretches = [], [], []
        index, count, covered, (start, end, item) = self._strokes.pop()
        self._painted[index : index + count] = covered
        self._spans.discard((start, end))
        return item

    def _paint(self, interval: tuple[float, float, Item]) -> None:
        """Let an interval win wherever it is."""
        start, end, _ = interval
        pieces = self._painted
        first = bisect_right(pieces, start, key=_start)
        if first and pieces[first - 1][1] > start:
            first -= 1
        last = bisect_left(pieces, end, key=_start)
        covered = pieces[first:last]
        stroke = [interval]
        if covered and covered[0][0] < start:
            stroke.insert(0, (covered[0][0], start, covered[0][2]))
        if covered and covered[-1][1] > end:
            stroke.append((end, covered[-1][1], covered[-1][2]))
        pieces[first:last] = stroke
        self._strokes.append((first, len(stroke), covered, interval))
