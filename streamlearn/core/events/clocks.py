"""Time as records tell it: a clock that one wild record does not move, when a record arrived, and what a time
is evidence for whose unit is not known.

Invariants:
- No wall clock: everything follows from the records, in their order, and is saved in checkpoints.
- One record alone moves a clock by at most a limit. Further ahead, it waits for a second one that agrees.
"""

from itertools import chain
from typing import Final

import msgspec

from streamlearn.core.events.event import MAX_AHEAD_MS, MS_PER_UNIT, event_time_ms, likely_unit
from streamlearn.core.records import Record

KNOWN_FROM_MS: Final = 946_684_800_000
"""2000-01-01. An earlier arrival, as the -1 of a producer that gives none, is not known."""

KNOWN_TO_MS: Final = 4_102_444_800_000
"""2100-01-01: what is not known to have arrived by then is from a broken clock."""

NEVER: Final = float("inf")

AHEAD_MAX: Final = 3
"""The number of records in a row, too far ahead, that move a clock even if no two of them agree."""


class Clock(msgspec.Struct, array_like=True):
    """A running maximum of times. `ahead_ms` is the time of the newest record that was too far ahead, and
    `ahead` how many of those came in a row. A clock that was set by one record only is not `sure`.
    """

    now_ms: float = -NEVER
    ahead_ms: float = 0.0
    ahead: int = 0
    sure: bool = False

    def advance(self, time_ms: float, limit_ms: float) -> None:
        """A record of `time_ms` came. The clock follows at once, but by more than `limit_ms` only when the
        records in a row that are so far ahead are two within `limit_ms` of each other, or three: then to the
        last but one of them, at least. A first record that the second one is so far behind is taken back.

        >>> clock = Clock()
        >>> seen = []
        >>> for time_ms in (0, 5, 9_000, 6, 9_000, 9_001):
        ...     clock.advance(time_ms, 100)
        ...     seen.append(clock.now_ms)
        >>> seen
        [0, 5, 5, 6, 6, 9001]
        """
        if self.sure and not self.ahead and 0 <= time_ms - self.now_ms <= limit_ms:
            self.now_ms = time_ms  # as most records
        elif self.now_ms == -NEVER:
            self.now_ms = time_ms
        elif time_ms <= self.now_ms + limit_ms:
            if not self.sure and time_ms < self.now_ms - limit_ms:
                self.ahead_ms, self.ahead, self.now_ms = self.now_ms, 1, time_ms
            else:
                self.now_ms, self.ahead = max(self.now_ms, time_ms), 0
            self.sure = True
        elif self.ahead and (self.ahead + 1 >= AHEAD_MAX or abs(time_ms - self.ahead_ms) <= limit_ms):
            self.now_ms, later_ms = sorted((time_ms, self.ahead_ms))
            self.ahead_ms, self.ahead = later_ms, 1
            if later_ms <= self.now_ms + limit_ms:
                self.now_ms, self.ahead = later_ms, 0
            self.sure = True
        else:
            self.ahead_ms, self.ahead = time_ms, self.ahead + 1


Arrivals = dict[str, dict[int, Clock]]
"""By topic and partition the newest arrival."""

_LEAST: Final = KNOWN_FROM_MS / 1000
"""No smaller number is plausible in any unit."""

UNKNOWN_MS: Final = 0
"""The timestamp of a record of which nothing tells when it arrived."""


def dated(record: Record, arrivals: Arrivals) -> tuple[Record, float]:
    """`record`, and the latest time that can be in it unless a clock is broken. `arrivals` learns of it.

    Where its timestamp is not known, the newest arrival in its partition takes the place, else the newest of
    all, else `UNKNOWN_MS`; and then nothing is too late for it but what is so for every record.
    """
    stamp_ms = record.timestamp_ms
    topic = arrivals.get(record.topic)
    clock = None if topic is None else topic.get(record.partition)
    if clock is not None and clock.sure and not clock.ahead and 0 <= stamp_ms - clock.now_ms <= MAX_AHEAD_MS:
        clock.now_ms = float(stamp_ms)  # as most records; no clock has ever stood before `KNOWN_FROM_MS`
        return record, stamp_ms + MAX_AHEAD_MS
    if stamp_ms < KNOWN_FROM_MS:
        clocks = [clock] if clock is not None else chain(*(topic.values() for topic in arrivals.values()))
        stamp_ms = max((int(clock.now_ms) for clock in clocks), default=UNKNOWN_MS)
        return msgspec.structs.replace(record, timestamp_ms=stamp_ms), KNOWN_TO_MS + MAX_AHEAD_MS
    if clock is None:
        arrivals.setdefault(record.topic, {})[record.partition] = Clock(float(stamp_ms))
        return record, stamp_ms + MAX_AHEAD_MS
    if stamp_ms != clock.now_ms:
        clock.advance(float(stamp_ms), MAX_AHEAD_MS)
    return record, max(stamp_ms, clock.now_ms) + MAX_AHEAD_MS


Evidence = tuple[str, bool]
"""A time unit, and whether a time is plausible in it."""


def time_in(
    ts: str | int | float, unit: str, leading: str, latest_ms: float
) -> tuple[float | None, Evidence | None]:
    """`ts` in milliseconds since 1970, and what it is evidence for. `unit`: the one that is settled, "" while
    it is open: then `leading` counts. None when `ts` is no time in that unit.

    >>> time_in(1_700_000_000_000, "", "s", 1.8e12), time_in(4711, "", "ms", 1.8e12)
    ((1700000000000.0, ('ms', True)), (4711.0, ('s', False)))
    """
    if unit:
        return event_time_ms(ts, unit), None
    plausible = _plausible_unit(ts, latest_ms)
    if plausible:
        return event_time_ms(ts, plausible), (plausible, True)
    looks = likely_unit(ts)
    time_ms = event_time_ms(ts, leading) if leading else None
    if time_ms is None or time_ms > latest_ms:
        time_ms = event_time_ms(ts, looks)
    return time_ms, (looks, False)


def _plausible_unit(ts: str | int | float, latest_ms: float) -> str:
    """The one unit in which `ts` lies between the year 2000 and `latest_ms`; "" when there is not one."""
    if not isinstance(ts, str) and ts < _LEAST:
        return ""
    if isinstance(ts, str):
        time_ms = event_time_ms(ts, "rfc3339")
        return "rfc3339" if time_ms is not None and KNOWN_FROM_MS <= time_ms <= latest_ms else ""
    units = [unit for unit, scale in MS_PER_UNIT.items() if KNOWN_FROM_MS <= ts * scale <= latest_ms]
    return units[0] if len(units) == 1 else ""
