"""Half-space trees whose features are those that events have, not those that the first one had.

Invariants:
- Events are held back, and features counted, for at most `FIRST` events and one window.
- A forest that answers has a whole window behind it.
"""

from typing import Any

from river import anomaly, base

FIRST = 20
"""So many events are looked at before there is a forest."""
_STAYS = 0.1
"""A feature that so large a share of the events has, has come to stay."""


class SettledForest(base.AnomalyDetector):  # type: ignore[misc] # river has no types for mypy
    """River's `HalfSpaceTrees`, made anew when other features have come to stay.

    River's trees are made of the first event's features, for ever: what that event lacked is never looked at,
    and what only that event had makes trees that see nothing. Here a feature counts when at least a tenth of
    the first events have it. When at the end of a window a tenth of its events had another one, or none had
    one that counts, the next forest begins, and takes the place of the one that answers a window later.

    >>> forest = SettledForest()
    >>> forest.learn_one({"odd": 0.5})
    >>> for n in range(600):
    ...     forest.learn_one({"temp": 0.4 + n % 10 / 50})
    >>> forest.score_one({"temp": 0.45}) < forest.score_one({"temp": 0.95})
    True
    """

    def __init__(self, window: int = 250, seed: int = 1) -> None:
        self.window = window
        self.seed = seed
        self._held: list[dict[Any, float]] = []
        self._features: set[Any] = set()
        self._forest = self._planted()
        self._next_features: set[Any] = set()
        self._next_forest: anomaly.HalfSpaceTrees | None = None
        # Of the current window: how many events it has, and how many of them had each feature.
        self._events = 0
        self._counts: dict[Any, int] = {}

    def learn_one(self, x: dict[Any, float]) -> None:
        """Take an event's features, numbers from 0 to 1, into the forest's masses."""
        if self._features:
            self._learn(x)
        elif x:
            self._held.append(x)
            if len(self._held) == FIRST:
                self._begin()

    def score_one(self, x: dict[Any, float]) -> float:
        """From 0 to 1, high for what is unlike the events of the last window; 0 in the first window."""
        return float(self._forest.score_one(x))

    def _planted(self) -> anomaly.HalfSpaceTrees:
        return anomaly.HalfSpaceTrees(window_size=self.window, seed=self.seed)

    def _begin(self) -> None:
        held, self._held = self._held, []
        names = {name for x in held for name in x}
        self._features = {name for name in names if sum(name in x for x in held) >= _STAYS * FIRST}
        # The forest is made of the features of what it learns first.
        held[0] = {name: held[0].get(name, 0.5) for name in self._features}
        for x in held:
            self._learn(x)

    def _learn(self, x: dict[Any, float]) -> None:
        self._forest.learn_one(x)
        if self._next_forest is not None:
            if not self._next_forest.trees:
                x = {name: x.get(name, 0.5) for name in self._next_features}
            self._next_forest.learn_one(x)
        self._events += 1
        for name in x:
            self._counts[name] = self._counts.get(name, 0) + 1
        if self._events == self.window:
            self._end_window()

    def _end_window(self) -> None:
        if self._next_forest is not None:
            self._forest, self._features = self._next_forest, self._next_features
            self._next_forest = None
        least = _STAYS * self.window
        stay = {n for n, count in self._counts.items() if count >= least or n in self._features}
        if stay and stay != self._features:
            self._next_forest, self._next_features = self._planted(), stay
        self._events, self._counts = 0, {}
