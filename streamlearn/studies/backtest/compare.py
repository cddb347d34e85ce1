"""Is one model better than another? The mean difference of their losses, with an interval valid at any time.

Two models answer the same events, and each label gives one difference of their losses. What is estimated
after n labels is the *running average of the conditional means* of these n differences: how much better one
of them was on average so far, on this stream, given all that came before. Nothing is assumed about the
stream: it may drift, and then the truth itself moves. So it says nothing about the future, and intervals
of different moments may not be intersected.

Valid at any time: with probability 0.95 *all* intervals, from the first label on, hold what they estimate.
One may look after every label and stop when one likes; the usual t-test or Wilcoxon test allows one look.

- Losses of 0 or 1, differences within [-1, 1]: the empirical-Bernstein confidence sequence of Howard, Ramdas,
  McAuliffe and Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences" (Annals of
  Statistics 49, 2021), theorem 4, with their gamma-exponential mixture; used on forecasters by Choe and
  Ramdas, "Comparing sequential forecasters" (Operations Research 72, 2024). Exact for every n.
- Errors of regression have no bound: the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha,
  Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences" (Annals of
  Statistics 52, 2024). Right as n grows, while variances settle; so there is none for the first `MIN_LABELS`
  labels.

Invariant: O(1) memory, whatever the number of labels; the estimate of the next difference is made from
those before it.
"""

import math
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import gammainc, gammaln

Floats = NDArray[np.float64]

ALPHA: Final = 0.05
"""One in twenty comparisons may have an interval, at any time, that misses what it estimates."""

MIN_LABELS: Final = 100
"""An asymptotic interval means nothing before."""

EXACT: Final = "Howard et al. 2021, exact"
ASYMPTOTIC: Final = "Waudby-Smith et al. 2024, asymptotic"

_SCALE: Final = 2.0
"""Differences and their guesses lie within [-1, 1], so that one is never further than this from the other."""

_TUNED_SPREAD: Final = 100.0
"""The spread (for 0/1 losses about the number of events where one is right and one is wrong) at which
intervals are about as short as they can be; they are valid for any."""

_TUNED_LABELS: Final = 1000.0


class Interval(NamedTuple):
    """From `low` to `high`, both included."""

    low: float
    high: float


class Difference:
    """The differences (loss of one minus loss of the other) so far. `bounded`: they lie within [-1, 1]."""

    __slots__ = ("_total", "bounded", "labels", "spread")

    def __init__(self, bounded: bool) -> None:
        self.bounded = bounded
        self.labels = 0
        self.spread = 0.0
        """Sum of the squared distances from what was expected."""
        self._total = 0.0

    def add(self, values: Floats) -> None:
        """The differences of the next labels, finite numbers, in their order; how they are cut up changes
        nothing but the last digits.
        """
        before = self._total + np.cumsum(values) - values
        expected = before / np.maximum(1, np.arange(self.labels, self.labels + len(values)))
        self.spread += float(np.sum((values - expected) ** 2))
        self._total += float(np.sum(values))
        self.labels += len(values)

    @property
    def mean(self) -> float:
        """The average difference, 0 before the first."""
        return self._total / self.labels if self.labels else 0.0

    @property
    def method(self) -> str:
        """The source of the interval."""
        return EXACT if self.bounded else ASYMPTOTIC

    def moment(self) -> "Moment":
        """Sums from which the interval of this moment can be computed later."""
        return Moment(self.bounded, self.labels, self.mean, self.spread)

    def interval(self) -> Interval | None:
        """The interval now, None while nothing can be said."""
        return self.moment().interval()


class Moment(NamedTuple):
    """A `Difference` as it was; small, and quicker to take than an interval is."""

    bounded: bool
    labels: int
    mean: float
    spread: float

    def interval(self) -> Interval | None:
        """The interval of that moment, None where nothing could be said."""
        n, mean = self.labels, self.mean
        if self.bounded:
            if not n:
                return None
            half = bounded_radius(self.spread) / n
            return Interval(max(-1.0, mean - half), min(1.0, mean + half))
        if n < MIN_LABELS:
            return None
        half = asymptotic_radius(n, self.spread)
        return Interval(mean - half, mean + half)


def verdict(interval: Interval | None) -> int:
    """The smaller loss: -1 the first one's, 1 the second one's, 0 when that cannot be told (yet)."""
    if interval is None or interval.low <= 0 <= interval.high:
        return 0
    return -1 if interval.high < 0 else 1


def asymptotic_radius(labels: int, spread: float) -> float:
    """Half the width of the asymptotic interval for a mean of `labels` values."""
    rho2 = _asymptotic_rho2()
    grown = labels * rho2 + 1
    deviation = math.sqrt(spread / labels)
    return deviation * math.sqrt(2 * grown / (labels * labels * rho2) * math.log(math.sqrt(grown) / ALPHA))


def bounded_radius(spread: float) -> float:
    """Greatest distance of the *sum* of differences from that of conditional means, at this `spread`."""
    evidence = math.log(2 / ALPHA)

    def above(distance: float) -> float:
        return float(log_evidence(distance, spread)) - evidence

    high = _SCALE
    while above(high) < 0:
        high *= 2
    return float(brentq(above, 0.0, high, xtol=1e-9 * high))


def log_evidence(distance: Any, spread: Any) -> Any:
    """The logarithm of the gamma-exponential mixture, of numbers or of arrays of one shape: what a bet would
    have won by now on the sum being above that of its means, fair if it were not, now that it is `distance`
    above. It starts at 1, and ever reaches 1/a with probability a at most (Ville's inequality).
    """
    shape = (spread + _rho()) / _SCALE**2
    reach = (_SCALE * distance + spread + _rho()) / _SCALE**2
    grown = gammaln(shape) + np.log(gammainc(shape, reach)) - shape * np.log(reach)
    return _leading() + grown + reach - _rho() / _SCALE**2


@lru_cache(1)
def _asymptotic_rho2() -> float:
    """The variance of the Gaussian mixture for `_TUNED_LABELS`, in units of the differences' own."""
    spent = -2 * math.log(ALPHA)
    return (spent + math.log(spent + 1)) / _TUNED_LABELS


@lru_cache(1)
def _rho() -> float:
    """The mixture's parameter for `_TUNED_SPREAD`."""
    spent = 2 * math.log(1 / ALPHA)
    return _TUNED_SPREAD / (spent + math.log(1 + spent))


@lru_cache(1)
def _leading() -> float:
    shape = _rho() / _SCALE**2
    return float(shape * math.log(shape) - gammaln(shape) - math.log(gammainc(shape, shape)))
