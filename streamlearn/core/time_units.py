"""The rules of an event's time: in what unit it is read, and how far ahead of its arrival it may be."""

from streamlearn.core.events import (
    MAX_AHEAD_MS,
    MS_PER_UNIT,
    Event,
    EventSpec,
    Refusal,
    event_time_ms,
    moment_of,
    unit_of,
)


def set_event_time(event: Event, arrived_ms: int, spec: EventSpec, unit: str) -> str | Refusal:
    """Set `event.time_ms`, and the feature that is a moment, where `spec.time_as` asks for one.

    `unit` is the stream's, "" while it is not known. The answer is the unit by which the time was read (""
    for an event without one while none is known), or why the event is refused.
    """
    ts = event.ts
    if ts is not None:
        unit = unit or (unit_of(ts) if spec.time_unit == "auto" else spec.time_unit)
        scale = MS_PER_UNIT.get(unit)
        time_ms = event_time_ms(ts, unit) if scale is None or isinstance(ts, str) else ts * scale
        if time_ms is None:
            return Refusal("guard", "bad_time")
        if time_ms > arrived_ms + MAX_AHEAD_MS:
            return Refusal("guard", "future")
    else:
        time_ms = arrived_ms
    event.time_ms = time_ms
    if spec.time_as:
        moment = moment_of(ts, time_ms)
        if moment is None:
            return Refusal("guard", "bad_time")
        event.x[spec.time_as] = moment
    return unit
