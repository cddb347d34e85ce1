"""Numbers to a common scale, such that a single wild reading does no lasting harm.

Invariants:
- Each result is within `limit` deviations, or between 0 and 1 with `unit`; none is NaN or infinite.
- A feature's statistics weigh its last `memory` values or so, and move by at most `limit` deviations
  with each: a spike of 1e300 is one step aside, a new level is learned.
"""

from math import sqrt
from typing import Any

from river import base

_WARM_UP = 20
_LARGEST = 1e100
"""Beyond this a square overflows."""


class SteadyScaler(base.Transformer):  # type: ignore[misc] # river has no types for mypy
    """Deviations from a feature's running mean, in standard deviations, cut off at `limit`.

    River's `StandardScaler` weighs all values since the beginning alike, without bound, so that one value of
    1e12 makes a feature a constant. `unit`: the same from 0 to 1 (for half-space trees), the mean at 0.5.

    >>> scaler = SteadyScaler()
    >>> for value in (1, 2, 3):
    ...     scaler.learn_one({"temp": value})
    >>> scaler.transform_one({"temp": 2, "rpm": 900}), scaler.transform_one({"temp": 1e300})
    ({'temp': 0.0, 'rpm': 0.0}, {'temp': 5.0})
    """

    def __init__(self, limit: float = 5.0, memory: int = 10_000, unit: bool = False) -> None:
        self.limit = limit
        self.memory = memory
        self.unit = unit
        # Per feature: how many values were seen (up to `memory`), their mean, their variance.
        self._known: dict[Any, tuple[int, float, float]] = {}

    def learn_one(self, x: dict[Any, Any]) -> None:
        """Take an event's numbers into the statistics."""
        for name, value in x.items():
            count, mean, variance = self._known.get(name, (0, 0.0, 0.0))
            away = max(-_LARGEST, min(_LARGEST, float(value))) - mean
            if count >= _WARM_UP and variance > 0.0:
                most = self.limit * sqrt(variance)
                away = max(-most, min(most, away))
            count = min(count + 1, self.memory)
            weight = 1.0 / count
            variance = (1.0 - weight) * (variance + weight * away * away)
            self._known[name] = (count, mean + weight * away, variance)

    def transform_one(self, x: dict[Any, Any]) -> dict[Any, float]:
        """The numbers in deviations; a feature without a spread (yet) is at its mean."""
        limit = self.limit
        scaled = {}
        for name, value in x.items():
            _count, mean, variance = self._known.get(name, (0, 0.0, 0.0))
            away = (value - mean) / sqrt(variance) if variance > 0.0 else 0.0
            away = max(-limit, min(limit, away))
            scaled[name] = 0.5 + 0.5 * away / limit if self.unit else away
        return scaled
