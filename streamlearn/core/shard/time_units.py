"""The rules of an event's time: in what unit it is read, and how far ahead of its arrival it may be.

One time cannot tell its unit for certain: 0, -1 or 4711 may stand for anything. A time that is *plausible*
in exactly one unit is strong evidence for that one and is read in it: it lies between the year 2000 and the
record's arrival. Any other time is read in the unit that leads, and is weak evidence for the one that its
size suggests. The unit of most plausible times is settled (`core.events.evidence`); no more than `SETTLED`
others are counted.

Invariants:
- A declared unit (`[event] time_unit`) decides alone, whatever was settled before.
- `Memory.time_unit` is the unit that leads, "" before the first time; `Memory.time_votes` is the evidence, {}
  once the unit is settled.
- Events that are refused are no evidence.
"""

from sys import float_info
from typing import Final

from streamlearn.core.events.clocks import Evidence, time_in
from streamlearn.core.events.event import MS_PER_UNIT, Event, EventSpec, Refusal, as_moment
from streamlearn.core.events.evidence import SETTLED, is_settled
from streamlearn.core.shard.state import Memory

_FIRST_MS: Final = -float_info.max
"""No event is earlier: minus infinity stands for a time that is not known."""

_STRONG: Final = 4
"""A plausible time leads as much as so many others."""


def settled_unit(spec: EventSpec, memory: Memory) -> str:
    """The unit that is declared or settled, "" while it is open."""
    if spec.time_unit != "auto":
        return spec.time_unit
    return "" if memory.time_votes else memory.time_unit


def set_event_time(
    event: Event, arrived_ms: float, latest_ms: float, spec: EventSpec, memory: Memory
) -> Evidence | Refusal | None:
    """Set `event.time_ms`, and the feature that is a moment, where `spec.time_as` asks for one.

    The answer is evidence for `note_unit`, None where there is none, or why the event is refused. An event
    without a time of its own has that of its arrival.
    """
    ts, evidence = event.ts, None
    if ts is not None:
        unit = spec.time_unit
        if unit == "auto":  # as `settled_unit`
            unit = "" if memory.time_votes else memory.time_unit
        scale = MS_PER_UNIT.get(unit)
        if scale is not None and not isinstance(ts, str):
            time_ms: float | None = ts * scale
        else:
            time_ms, evidence = time_in(ts, unit, memory.time_unit, latest_ms)
        if time_ms is None:
            return Refusal("guard", "bad_time")
        time_ms = max(time_ms, _FIRST_MS)
        if time_ms > latest_ms:
            return Refusal("guard", "future")
        if unit and memory.time_unit != unit:
            evidence = (unit, True)
    else:
        time_ms = arrived_ms
    event.time_ms = time_ms
    if spec.time_as:
        moment = as_moment(ts, time_ms)
        if moment is None:
            return Refusal("guard", "bad_time")
        event.x[spec.time_as] = moment
    return evidence


def note_unit(evidence: Evidence, spec: EventSpec, memory: Memory) -> None:
    """An event with this evidence was accepted."""
    unit, strong = evidence
    votes = memory.time_votes
    if spec.time_unit != "auto":
        memory.time_unit, memory.time_votes = unit, {}
        return
    plausible, others = votes.get(unit, (0, 0))
    if not strong and others == SETTLED and unit == memory.time_unit:
        return  # as every record of a stream of small numbers
    votes[unit] = (plausible + 1, others) if strong else (plausible, min(others + 1, SETTLED))
    if _weight(votes[unit]) > _weight(votes.get(memory.time_unit, (0, 0))):
        memory.time_unit = unit
    plausible_times = {unit: counts[0] for unit, counts in votes.items()}
    leading = max(plausible_times, key=plausible_times.__getitem__)
    if is_settled(plausible_times, leading):
        memory.time_unit, memory.time_votes = leading, {}


def _weight(votes: tuple[int, int]) -> int:
    return _STRONG * votes[0] + votes[1]
