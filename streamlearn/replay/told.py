"""The label of one event: inside it, or on the labels topic, joined as the service joins.

Invariant: the first label for an event is the one that counts; what came later for it was a duplicate.
"""

from typing import Any

from streamlearn.core.events import Event, event_time_ms, unit_of
from streamlearn.core.label_records import LabelSpec, Told, label_reader, short
from streamlearn.core.mapping import compile_decoder
from streamlearn.core.records import Record
from streamlearn.errors import NeedSchema
from streamlearn.log.port import Admin
from streamlearn.replay import reading
from streamlearn.replay.lookup import Looked
from streamlearn.service.eras import event_spec, label_spec
from streamlearn.settings import Config


def event_in(config: Config, record: Record) -> Event | None:
    """The event in a record, by today's `[event]`; None where that needs a registry, or there is none."""
    try:
        event = compile_decoder(event_spec(config), {})(record)
    except NeedSchema:
        return None
    if not isinstance(event, Event):
        return None
    event.time_ms = record.timestamp_ms
    if event.ts is not None:
        unit = unit_of(event.ts) if config.event.time_unit == "auto" else config.event.time_unit
        event.time_ms = event_time_ms(event.ts, unit) or event.time_ms
    return event


def label_of(
    config: Config, admin: Admin, event: Event, record: Record, looked: Looked
) -> dict[str, Any] | None:
    """What is known of the label: `label`, `where` and `delay_s`, from event to label by the times they name,
    else by their arrival; None when there is none yet.
    """
    if event.y is not None:
        return {"label": event.y, "where": "in the event", "delay_s": 0.0}
    spec = label_spec(config)
    if spec is None:
        return None
    found = _told(admin, spec, event, record, looked)
    if found is None:
        return None
    told, place = found
    arrival_ms = place.timestamp_ms - record.timestamp_ms
    delay_ms = arrival_ms if told.time_ms is None else told.time_ms - event.time_ms
    where = f"{place.topic} partition {place.partition} offset {place.offset}"
    return {"label": told.y, "where": where, "delay_s": delay_ms / 1e3}


def _told(
    admin: Admin, spec: LabelSpec, event: Event, record: Record, looked: Looked
) -> tuple[Told, Record] | None:
    """The first label that names the event; one that came early arrived up to `early_ttl` before it."""
    join = {"id": event.id, "group": event.group, "interval": event.key}[spec.join]
    if join is None:
        return None
    name, read = short(join), label_reader(spec)
    unit = "" if event.ts is None else unit_of(event.ts)
    first = admin.offsets_at(spec.topic, int(record.timestamp_ms - spec.early_ttl_ms))
    end = reading.topic_info(admin, spec.topic).end
    for one in looked(reading.between(admin, spec.topic, first, end)):
        told = read(one, unit) if one.value is not None else None
        if not isinstance(told, Told) or told.join != name:
            continue
        if spec.join != "interval" or told.start_ms <= event.time_ms < told.end_ms:
            return told, one
    return None
