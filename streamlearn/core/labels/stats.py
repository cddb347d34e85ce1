"""Numbers of labels and of the events that waited for them: counts, delays, orphans.

Invariant: all of it is part of the state and of bounded size.
"""

from collections.abc import Mapping
from math import inf, log2
from typing import Any, Final

import msgspec

from streamlearn.core.events.clocks import UNKNOWN_MS

ORPHANS_OF: Final = 1_000
"""The share of orphans is looked at after each so many labels that came to an end."""

MAX_DELAY_MS: Final = 1e18
"""Longer delays count as this one: event times are any number a double holds."""

_STEPS_PER_OCTAVE: Final = 8
"""Buckets to each doubling of 1 ms + the duration: 9 % wide each."""


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
    """The delay of a label, 0 to `MAX_DELAY_MS`: its time `known_ms` minus that of its event, or for a label
    without a time (None) the difference of both arrivals.
    """
    delay_ms = between_ms if known_ms is None else known_ms - event_ms
    if not 0.0 <= delay_ms <= MAX_DELAY_MS:  # also what no number is: moments can be endlessly far apart
        return MAX_DELAY_MS if delay_ms > 0 else 0.0
    return delay_ms


class Durations(msgspec.Struct, omit_defaults=True):
    """Durations counted by buckets of their logarithm, hence few, and the longest one; nothing else makes
    buckets.
    """

    buckets: dict[int, int] = {}
    max_ms: float = 0.0
    steps_per_octave: int = _STEPS_PER_OCTAVE

    def add(self, duration_ms: float) -> None:
        """Count one duration of at least 0 milliseconds."""
        bucket = int(self.steps_per_octave * log2(1.0 + duration_ms))
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        self.max_ms = max(self.max_ms, duration_ms)

    def quantile_ms(self, share: float) -> float | None:
        """The duration that `share` (0 to 1) of all did not exceed: the upper edge of its bucket, at most the
        longest duration. None before the first.
        """
        left = share * sum(self.buckets.values())
        for bucket in sorted(self.buckets):
            left -= self.buckets[bucket]
            if left <= 0:
                edge_ms: float = 2.0 ** ((bucket + 1) / self.steps_per_octave) - 1.0
                return min(edge_ms, self.max_ms)
        return None


def count_delay(
    delays: Durations, known_ms: float | None, event_ms: float, arrived_ms: int, later_ms: int
) -> None:
    """Count the delay of a label; see `label_delay_ms`. `arrived_ms` and `later_ms`: arrivals of the first
    and the second of event and label. Unknown delays are not counted: those of events whose time is -inf
    and, for labels without a time, of unknown arrivals.
    """
    unknown = UNKNOWN_MS in (arrived_ms, later_ms) if known_ms is None else event_ms == -inf
    if not unknown:
        delays.add(label_delay_ms(known_ms, event_ms, later_ms - arrived_ms))


def delay_report(delays: Durations) -> dict[str, float | None]:
    """Quantiles of delays and the longest one, in seconds; None before the first."""
    quantiles_ms = {f"p{percent}": delays.quantile_ms(percent / 100) for percent in (50, 90, 99)}
    quantiles_s = {name: None if ms is None else round(ms / 1e3, 3) for name, ms in quantiles_ms.items()}
    return {**quantiles_s, "max": delays.max_ms / 1e3 if delays.buckets else None}


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
        message = f"{orphans} of the last {ended} labels of {topic} found no event within early_ttl."
        return {
            "alert": "labels.orphans",
            "state": "raised" if self.raised else "cleared",
            "share": share,
            "limit": limit,
            "labels": ended,
            "message": f"{message} {_WHY_ORPHANS[join]}" if self.raised else "labels find their events again",
        }


_WHY_ORPHANS: Final[Mapping[str, str]] = {
    "id": "Compare the ids of both topics: the usual causes are other ids, and labels for another stream.",
    "group": "Compare the groups of both topics, and look at [event] group.",
    "interval": "Compare keys and time units of both topics: from and to are event times.",
}


SETTLED_MAX: Final = 100_000
JOINED: Final = 0
ENDED: Final = 1


class SettledNames(msgspec.Struct):
    """Outcomes of join keys, `JOINED` or `ENDED`: of at most `SETTLED_MAX` of them, in two generations of
    half as many, of which the older one goes as a whole. `generations`: the younger first.
    """

    generations: list[dict[str, int]] = msgspec.field(default_factory=lambda: [{}, {}])

    def note(self, name: str, state: int) -> None:
        """Remember the outcome of a join key."""
        young = self.generations[0]
        young[name] = state
        if len(young) >= SETTLED_MAX // 2:
            self.generations = [{}, young]

    def get(self, name: str) -> int | None:
        """The outcome that is remembered of a join key; None for others."""
        young, old = self.generations
        return young[name] if name in young else old.get(name)
