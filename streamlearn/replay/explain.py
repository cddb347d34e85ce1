"""What was known when a prediction was made: event, answer, model, label, and what each feature added.

Invariant: nothing is made up. What is no longer retained is said to be gone; numbers of another model than
the one that answered are said to be that.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import orjson

from streamlearn.core.events import Event
from streamlearn.core.mapping import compile_decoder
from streamlearn.core.records import Entry, Record
from streamlearn.engine.driver import event_in
from streamlearn.engine.schemas import Schemas
from streamlearn.env import Env
from streamlearn.errors import Gone, Stop, StreamlearnError
from streamlearn.log.port import Admin, Store
from streamlearn.replay.contributions import contributions
from streamlearn.replay.lookup import (
    Looked,
    Place,
    entry_covering,
    letter_about,
    prediction_at,
    prediction_of,
    record_at,
)
from streamlearn.replay.rebuild import Rebuild, Rebuilt
from streamlearn.service.eras import event_spec
from streamlearn.service.models import FreshModel
from streamlearn.settings import Config

Tell = Callable[[str], None]


def explain(
    env: Env,
    config: Config,
    fresh: FreshModel,
    admin: Admin,
    store: Store,
    ident: str,
    place: Place | None,
    tell: Tell,
) -> dict[str, Any]:
    """All that is known of the prediction for the event `ident`, or for the record at `place`.

    Members: `prediction` (as published), `published`, `event`, `label`, `labels` (what the joiner of the
    service did: `Joins.result`), `model`, `contributions` and `looked_at`; for a record that was refused
    `dead_letter` instead. Raises `Stop` when there is neither.
    """
    looked = Looked(tell)
    topics = config.topics
    found = (
        prediction_at(admin, topics.predictions, place, looked)
        if place
        else prediction_of(admin, topics.predictions, ident, looked)
    )
    if found is None:
        return _refused(config, admin, ident, place, looked)
    prediction: dict[str, Any] = orjson.loads(found.value or b"")
    source = Place(**prediction["source"])
    record = record_at(admin, source)
    event = None if record is None else _event_in(config, record)
    way = None
    if record is not None:
        way = entry_covering(admin, config.topics.journal, source, found.timestamp_ms, looked)
    rebuild = Rebuild(config, fresh, admin, store, Schemas(env, config.event.schema_registry), tell)
    rebuilt = None
    if way is None and record is not None:
        tell(f"the journal {config.topics.journal} no longer holds the entry of this prediction")
    elif way is not None and record is not None:
        rebuilt = rebuild.at(record, found.value or b"", way)
    labels = _labels(rebuild, record, event, way)
    return {
        "prediction": prediction,
        "published": {
            "topic": found.topic,
            "partition": found.partition,
            "offset": found.offset,
            "timestamp": found.timestamp_ms,
        },
        "event": _event(record, event, rebuilt),
        "label": labels.pop("label"),
        "labels": labels,
        "model": _model(rebuilt, record),
        "contributions": _contributions(rebuilt, prediction["prediction"]),
        "looked_at": looked.by_topic,
    }


def _refused(config: Config, admin: Admin, ident: str, place: Place | None, looked: Looked) -> dict[str, Any]:
    """The dead letter instead of a prediction. Raises `Stop` when there is none either."""
    letter = letter_about(admin, config.topics.dlq, place, ident, config.event.id, looked)
    if letter is None:
        wanted = (
            f"the record at {place.topic}-{place.partition}-{place.offset}" if place else f"the id {ident!r}"
        )
        raise Stop(
            f"there is neither a prediction nor a dead letter for {wanted} of the app {config.app.name};"
            f" looked at {looked.summary()}. Is it the right app (-n), has the service come so far, and are"
            " the topics still retained?"
        )
    return {
        "dead_letter": {
            "place": letter.place,
            "stage": letter.stage,
            "reason": letter.reason,
            "message": letter.message,
            "feature": letter.feature,
            "source": {"topic": letter.topic, "partition": letter.partition, "offset": letter.offset},
        },
        "looked_at": looked.by_topic,
    }


def _event_in(config: Config, record: Record) -> Event | None:
    """The event in a record, by today's `[event]`; None where that needs a registry, or there is none."""
    return event_in(record, compile_decoder(event_spec(config), {}))


def _labels(
    rebuild: Rebuild, record: Record | None, event: Event | None, way: Entry | None
) -> dict[str, Any]:
    """What became of the event's label: `Joins.result`; `why` says what keeps it from being known."""
    if record is not None and way is not None:
        try:
            found = rebuild.joins(record, way.seq)
        except (Gone, StreamlearnError) as error:
            found = {"state": "unknown", "label": None, "records": [], "why": str(error)}
    else:
        gone = "the event's record" if record is None else "the journal's entry of this prediction"
        found = {"state": "unknown", "label": None, "records": [], "why": f"{gone} is no longer retained"}
    if event is not None and event.y is not None:
        found |= {"state": "inside", "label": {"label": event.y, "where": "in the event", "delay_s": 0.0}}
    return found


def _event(record: Record | None, event: Event | None, rebuilt: Rebuilt | None) -> dict[str, Any] | None:
    """The event as its model saw it, else as it was read; None when its record is no longer retained."""
    if record is None:
        return None
    arrived = {"timestamp": record.timestamp_ms}
    if rebuilt is not None or event is not None:
        return {**arrived, "features": rebuilt.x if rebuilt is not None else event and event.x}
    return {**arrived, "value": (record.value or b"").decode("utf-8", "backslashreplace")}


def _model(rebuilt: Rebuilt | None, record: Record | None) -> dict[str, Any]:
    """Which model the contributions are of."""
    if rebuilt is None:
        gone = "its record is no longer retained" if record is None else "no older checkpoint leads to it"
        return {"exact": False, "why": f"the model cannot be made again: {gone}"}
    return {
        "exact": rebuilt.exact,
        "why": rebuilt.why,
        "checkpoint": rebuilt.seq,
        "redone": rebuilt.redone,
        "learned": rebuilt.learned,
    }


def _contributions(rebuilt: Rebuilt | None, predicted: Any) -> dict[str, Any] | None:
    found = None if rebuilt is None else contributions(rebuilt.model, rebuilt.x, predicted)
    return None if found is None else msgspec.to_builtins(found)
