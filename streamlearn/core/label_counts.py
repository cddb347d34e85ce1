"""Numbers of labels and of the events that waited for them: counts, delays, orphans.

Invariant: all of it is part of the state and of bounded size.
"""

from collections.abc import Mapping
from math import inf, isnan, log2, nan
from typing import Any, Final

import msgspec

from streamlearn.core.clocks import UNKNOWN_MS

ORPHANS_OF: Final = 1_000
"""The share of orphans is looked at after each so many labels that came to an end."""

MAX_DELAY_MS: Final = 1e18
"""Longer delays count as this one: event times are any number a double holds."""

_STEPS_PER_OCTAVE: Final = 8


class Counts(msgspec.Struct):
    """`records` of the labels topic that were labels; how each ended; how events ended without one;
    and those that no label can name, because they have no group or key.
    """

    records: int = 0
    joined: int = 0
    early: int = 0
    duplicate: int = 0
    late: int = 0
    orphan: int = 0
    events_joined: int = 0
    events_expired: int = 0
    events_dropped: int = 0
    events_unnamed: int = 0


def label_delay_ms(known_ms: float | None, event_ms: float, between_ms: float) -> float:
    """How long a label took in milliseconds, 0 to `MAX_DELAY_MS`: it became known at `known_ms`, its event
    being of `event_ms`; where a label has no time of its own (None), what lay between both arrivals counts.
    """
    delay_ms = between_ms if known_ms is None else known_ms - event_ms
    if not 0.0 <= delay_ms <= MAX_DELAY_MS:  # also what no number is: moments can be endlessly far apart
        return MAX_DELAY_MS if delay_ms > 0 else 0.0
    return delay_ms


def between_ms(arrived_ms: int, later_ms: int) -> float:
    """The time from one arrival to a later one; NaN when one of them is not known."""
    return nan if UNKNOWN_MS in (arrived_ms, later_ms) else later_ms - arrived_ms


class Delays(msgspec.Struct):
    """How long labels took. Buckets of the logarithm of milliseconds, 9 % wide each, hence few."""

    buckets: dict[int, int] = {}
    max_ms: float = 0.0

    def note(self, known_ms: float | None, event_ms: float, between_ms: float) -> None:
        """Count the delay of a label; see `label_delay_ms`. What is not known is none: that of an event whose
        time is -inf, or what lay between two arrivals (NaN).
        """
        if event_ms == -inf if known_ms is not None else isnan(between_ms):
            return
        delay_ms = label_delay_ms(known_ms, event_ms, between_ms)
        bucket = int(_STEPS_PER_OCTAVE * log2(1.0 + delay_ms))
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        self.max_ms = max(self.max_ms, delay_ms)

    def report(self) -> dict[str, float | None]:
        """Quantiles and the largest, in seconds; None before the first."""
        quantiles = {
            "p50": self._quantile_s(0.5),
            "p90": self._quantile_s(0.9),
            "p99": self._quantile_s(0.99),
        }
        return {**quantiles, "max": self.max_ms / 1e3 if self.buckets else None}

    def _quantile_s(self, quantile: float) -> float | None:
        """The upper edge of the bucket in which the quantile lies."""
        left = quantile * sum(self.buckets.values())
        for bucket in sorted(self.buckets):
            left -= self.buckets[bucket]
            if left <= 0:
                edge_ms: float = 2.0 ** ((bucket + 1) / _STEPS_PER_OCTAVE) - 1.0
                return round(min(edge_ms, self.max_ms) / 1e3, 3)
        return None


class Orphans(msgspec.Struct):
    """Labels that joined and labels that never found an event, since their share was looked at last."""

    joined: int = 0
    orphans: int = 0
    raised: bool = False

    def alert(self, limit: float, topic: str, join: str) -> dict[str, Any] | None:
        """Asked after each `ORPHANS_OF` labels that ended: an alert when the share of orphans has passed
        `limit`, another when it is below again; else None.
        """
        ended = self.joined + self.orphans
        orphans, share = self.orphans, self.orphans / ended
        self.joined = self.orphans = 0
        if (share > limit) == self.raised:
            return None
        self.raised = share > limit
        found = f"{orphans} of the last {ended} labels of {topic} found no event within early_ttl."
        return {
            "alert": "labels.orphans",
            "state": "raised" if self.raised else "cleared",
            "share": share,
            "limit": limit,
            "labels": ended,
            "message": f"{found} {_WHY_ORPHANS[join]}" if self.raised else "labels find their events again",
        }


_WHY_ORPHANS: Final[Mapping[str, str]] = {
    "id": "Compare the ids of both topics: the usual causes are other ids, and labels for another stream.",
    "group": "Compare the groups of both topics, and look at [event] group.",
    "interval": "Compare keys and time units of both topics: from and to are event times.",
}


SETTLED_MAX: Final = 100_000
JOINED: Final = 0
ENDED: Final = 1


class SettledNames:
    """The ends of the events of a name, `JOINED` or `ENDED`: of at most `SETTLED_MAX` names, in two
    generations of half as many, of which the older one goes as a whole. `generations`: the younger first.
    """

    def __init__(self, generations: list[dict[str, int]] | None = None) -> None:
        self.generations = generations or [{}, {}]

    def note(self, name: str, state: int) -> None:
        """Remember what became of this name."""
        young = self.generations[0]
        young[name] = state
        if len(young) >= SETTLED_MAX // 2:
            self.generations = [{}, young]

    def get(self, name: str) -> int | None:
        """The end that is remembered of this name; None for one that is not remembered."""
        young, old = self.generations
        return young[name] if name in young else old.get(name)
