"""When each record of a replay is due, and how late it was.

Invariants:
- Every deadline is counted from one anchor, the first record, so that lateness never adds up.
- A record that is older than the one before it is due at once, and counted.
"""

import math
from typing import NamedTuple

from streamlearn.core.label_counts import Durations


class Pace(NamedTuple):
    """A replay's speed: `rate` records a second, or `speed` times event time; neither: as fast as it goes."""

    speed: float | None = None
    rate: float | None = None


class Pacer:
    """Deadlines of one pass through a source, by the clock that `anchor_s` was read from."""

    def __init__(self, pace: Pace, anchor_s: float) -> None:
        self._pace = pace
        self._anchor_s = anchor_s
        self._first_s: float | None = None
        self._latest_s = -math.inf
        self._count = 0
        self.out_of_order = 0
        self.without_time = 0

    def due_s(self, time_s: float | None) -> float | None:
        """When the next record, with event time `time_s`, is due; None = at once."""
        self._count += 1
        if self._pace.rate:
            return self._anchor_s + (self._count - 1) / self._pace.rate
        if self._pace.speed is None:
            return None
        if time_s is None:
            self.without_time += 1
            return None
        if self._first_s is None:
            self._first_s = time_s
        if time_s < self._latest_s:
            self.out_of_order += 1
            return None
        self._latest_s = time_s
        return self._anchor_s + (time_s - self._first_s) / self._pace.speed


class Lateness:
    """Lateness of paced records, with quantiles to within 5 %."""

    def __init__(self) -> None:
        self._late = Durations(steps_per_octave=16)

    def add(self, late_s: float) -> None:
        """Count a record that went out `late_s` after its deadline."""
        self._late.add(max(0.0, late_s * 1000))

    def percentile_ms(self, share: float) -> float:
        """The lateness that `share` (0 to 1) of the records did not exceed; 0 without records."""
        return self._late.quantile_ms(share) or 0.0

    def summary(self) -> dict[str, float]:
        """p50, p99 and the maximum, in milliseconds; empty when nothing had a deadline."""
        if not self._late.buckets:
            return {}
        return {
            "late_p50_ms": round(self.percentile_ms(0.5), 1),
            "late_p99_ms": round(self.percentile_ms(0.99), 1),
            "late_max_ms": round(self._late.max_ms, 1),
        }
