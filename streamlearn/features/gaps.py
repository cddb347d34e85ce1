"""Readings that are missing for a while: the last one known stands in.

Invariants:
- What is kept is bounded: a reading is forgotten `max_gap` learned events after it was seen.
- Time is counted in events, so that the same events give the same features on every run.
"""

from typing import Any

from river import base


class LastKnown(base.Transformer):  # type: ignore[misc] # river has no types for mypy
    """Fills an absent feature with its last value, for at most `max_gap` events.

    River's `PreviousImputer` fills features that are present and None; an event has no such ones, because
    null means absent. A sensor that is gone for longer is absent again: an old value is no reading.

    >>> filled = LastKnown(max_gap=1)
    >>> filled.learn_one({"temp": 20, "rpm": 900})
    >>> filled.learn_one({"temp": 21})
    >>> filled.transform_one({"temp": 22})
    {'temp': 22, 'rpm': 900}
    >>> filled.learn_one({"temp": 22})
    >>> filled.transform_one({"temp": 23})
    {'temp': 23}
    """

    def __init__(self, max_gap: int = 100) -> None:
        self.max_gap = max_gap
        self._events = 0
        # Oldest first: a reading that is seen again moves to the end.
        self._latest: dict[Any, tuple[int, Any]] = {}

    def learn_one(self, x: dict[Any, Any]) -> None:
        """Remember the readings of an event, and forget those that are too old."""
        self._events += 1
        latest = self._latest
        for name, value in x.items():
            latest.pop(name, None)
            latest[name] = (self._events, value)
        while latest:
            name, (seen, _value) = next(iter(latest.items()))
            if seen >= self._events - self.max_gap:
                break
            del latest[name]

    def transform_one(self, x: dict[Any, Any]) -> dict[Any, Any]:
        """The features with what is known of the absent ones after them, by name."""
        if len(x) >= len(self._latest) and self._latest.keys() <= x.keys():
            return x
        gone = sorted(self._latest.keys() - x.keys())
        return {**x, **{name: self._latest[name][1] for name in gone}}
