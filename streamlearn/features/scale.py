"""Numbers to a common scale, such that a single wild reading does no lasting harm, wherever it stands.

Invariants:
- Every result is finite and bounded: twice `whole` deviations, or 0 to 1 with `unit`.
- A feature's statistics begin with the median and the spread of a block of `BLOCK` values; until then they
  are those of the values so far, and of fewer than `FEWEST` nothing is known: no value decides alone.
- From then on they weigh the last `memory` values or so. A value beyond `limit` deviations moves them as if
  it stood at `limit`, and less after others like it: a spike or a burst is a step aside.
- A new level is learned: after `NEW_LEVEL` more values beyond the limit than a tenth of those within it, the
  statistics begin anew with the next block.
- Of a constant, other values are unknown until there are `FEWEST`: then the median of their distances is the
  scale. When they are more than a tenth, a block decides whether it is a constant still.
"""

from math import copysign, inf, log1p, sqrt
from statistics import median
from typing import Any

from river import base

from streamlearn.errors import BadCheckpoint

BLOCK = 20
FEWEST = 5
NEW_LEVEL = 100
FORGIVEN = 0.1
"""What a value within the limit takes off the count of those beyond it. In balance at most 1 / limit ** 2 of
the values are beyond it, 4 % at a limit of 5, whatever their distribution: the count stays near 0."""
_IN_SPREAD = 16
"""So many of a block are within its spread: four wild ones do not widen it, fewer alike do not narrow it."""
_NORMAL = 1.2816
"""Within so many standard deviations are 80 % of normally distributed values."""
_LARGEST = 1e150
"""Beyond this a square overflows."""
_UNKNOWN = (0, 0.0, 0.0, inf)


def squashed(away: float, whole: float, most: float) -> float:
    """A deviation as it is up to `whole`, beyond that by its logarithm, up to `most`.

    >>> squashed(3.0, 5.0, 10.0), round(squashed(-50.0, 5.0, 10.0), 2), squashed(1e300, 5.0, 10.0)
    (3.0, -8.83, 10.0)
    """
    size = abs(away)
    return away if size <= whole else copysign(min(whole + log1p(size - whole), most), away)


class SteadyScaler(base.Transformer):  # type: ignore[misc] # river has no types for mypy
    """Deviations from a feature's running mean, in standard deviations, squashed beyond `whole` of them.

    River's `StandardScaler` weighs all values since the beginning alike, without bound, so that one value of
    1e12 makes a feature a constant. A feature of which too little is known is at its mean. `unit`: from 0 to
    1 (for half-space trees), the mean at 0.5 and `limit` deviations at the ends.

    >>> scaler = SteadyScaler()
    >>> for value in (1, 1e12, 2, 3, 2, 1, 3):
    ...     scaler.learn_one({"temp": value})
    >>> scaler.transform_one({"temp": 2, "rpm": 900}), scaler.transform_one({"temp": 1e300})
    ({'temp': 0.0, 'rpm': 0.0}, {'temp': 40.0})
    """

    def __init__(
        self, limit: float = 5.0, memory: int = 10_000, unit: bool = False, whole: float = 20.0
    ) -> None:
        self.limit = limit
        self.memory = memory
        self.unit = unit
        self.whole = whole
        # Per feature: how many values were seen (up to `memory`), their mean, their standard deviation (0 for
        # a constant), and by how much values beyond the limit prevail: infinite while a block is gathered.
        self._known: dict[Any, tuple[int, float, float, float]] = {}
        self._gathered: dict[Any, list[float]] = {}
        # The newest values of a constant that are not it, FEWEST at most.
        self._others: dict[Any, list[float]] = {}

    def learn_one(self, x: dict[Any, Any]) -> None:
        """Take an event's numbers into the statistics."""
        for name, value in x.items():
            known = self._known.get(name)
            if known is None:
                self._known[name] = _UNKNOWN
                self._gather(name, value)
                continue
            count, mean, deviation, beyond = known
            away = value - mean
            most = self.limit * deviation
            if beyond != 0.0 or not -most <= away <= most:
                self._learn_unusual(name, value)
            elif deviation != 0.0:
                if count < self.memory:
                    count += 1
                weight = 1.0 / count
                variance = (1.0 - weight) * (deviation * deviation + weight * away * away)
                self._known[name] = (count, mean + weight * away, sqrt(variance), 0.0)

    def transform_one(self, x: dict[Any, Any]) -> dict[Any, float]:
        """The numbers in deviations, or from 0 to 1."""
        known = self._known
        whole = self.limit if self.unit else self.whole
        scaled = {}
        for name, value in x.items():
            _count, mean, deviation, _beyond = known.get(name, _UNKNOWN)
            if deviation > 0.0:
                away = (value - mean) / deviation
            else:
                away = self._from_constant(name, value) if value != mean else 0.0
            if not -whole <= away <= whole:
                away = copysign(whole, away) if self.unit else squashed(away, whole, 2.0 * whole)
            scaled[name] = 0.5 + 0.5 * away / whole if self.unit else away
        return scaled

    def scale(self, name: Any) -> tuple[int, float, float]:
        """How many values a feature had, `memory` at most, their mean and standard deviation (0: unknown)."""
        count, mean, deviation, _beyond = self._known.get(name, _UNKNOWN)
        if deviation == 0.0 and name in self._others:
            deviation = self._constant_scale(name)
        return count, mean, deviation

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "whole" not in state:
            raise BadCheckpoint("its SteadyScaler is one of an earlier version: train the model again")
        self.__dict__.update(state)

    # --- what is unusual ------------------------------------------------------------------------------

    def _learn_unusual(self, name: Any, value: float) -> None:
        """A value of a feature whose block is being gathered, or that is beyond the limit, or after such."""
        count, mean, deviation, beyond = self._known[name]
        if beyond == inf:
            self._gather(name, value)
            return
        value = _within(value)
        away, most = value - mean, self.limit * deviation
        weight = 1.0 / min(count + 1, self.memory)
        if -most <= away <= most:
            beyond = max(0.0, beyond - FORGIVEN)
        else:
            away = copysign(most, away)
            weight /= 1.0 + beyond
            beyond += 1.0
        if deviation == 0.0:
            if value != mean:
                self._others[name] = [*self._others.get(name, ()), value][-FEWEST:]
            self._known[name] = (count, mean, 0.0, inf if beyond >= FEWEST else beyond)
            return
        variance = (1.0 - weight) * (deviation * deviation + weight * away * away)
        self._known[name] = (
            min(count + 1, self.memory),
            mean + weight * away,
            sqrt(variance),
            inf if beyond >= NEW_LEVEL else beyond,
        )

    def _gather(self, name: Any, value: float) -> None:
        """One more of a block; the first block of a feature is used while it grows, a later one when full."""
        block = self._gathered.setdefault(name, [])
        block.append(_within(value))
        count, _mean, _deviation, _beyond = self._known[name]
        if len(block) < BLOCK:
            if count < BLOCK:
                middle, spread = _middle_and_spread(block)
                self._known[name] = (len(block), middle, spread if len(block) >= FEWEST else 0.0, inf)
            return
        del self._gathered[name]
        middle, spread = _middle_and_spread(block)
        if spread == 0.0:
            self._known[name] = (BLOCK, middle, 0.0, 0.0)
            return
        self._others.pop(name, None)
        most = self.limit * spread
        steps = [max(-most, min(most, value - middle)) for value in block]
        step = sum(steps) / BLOCK
        variance = sum((one - step) ** 2 for one in steps) / BLOCK
        self._known[name] = (BLOCK, middle + step, sqrt(variance), 0.0)

    def _from_constant(self, name: Any, value: float) -> float:
        """The deviation of a value of a feature that has no spread (yet)."""
        count, mean, deviation = self.scale(name)
        if count < FEWEST:
            return 0.0
        if self.unit:
            return copysign(self.limit, value - mean)
        return (value - mean) / deviation if deviation > 0.0 else 0.0

    def _constant_scale(self, name: Any) -> float:
        others, mean = self._others[name], self._known[name][1]
        return median(abs(other - mean) for other in others) if len(others) == FEWEST else 0.0


def _within(value: float) -> float:
    return max(-_LARGEST, min(_LARGEST, float(value)))


def _middle_and_spread(block: list[float]) -> tuple[float, float]:
    """The median, and what would be the standard deviation if the inner 80 % were normally distributed."""
    middle = median(block)
    away = sorted(abs(value - middle) for value in block)
    return middle, away[len(block) * _IN_SPREAD // BLOCK - 1] / _NORMAL
