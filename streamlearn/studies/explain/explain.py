"""A prediction explained: event, answer, model, label, and what each feature added.

Invariant: nothing is made up. What is no longer retained is said to be gone; numbers of another model than
the one that answered are said to be that.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import orjson

from streamlearn.config.schema import Config
from streamlearn.core.events.event import Event
from streamlearn.core.events.mapping import compile_decoder, event_in
from streamlearn.core.journal import Entry
from streamlearn.core.records import Record
from streamlearn.engine.era import event_spec
from streamlearn.engine.model import ModelTemplate
from streamlearn.engine.registry import Schemas
from streamlearn.env import Env
from streamlearn.errors import Gone, Stop, StreamlearnError
from streamlearn.log.port import Admin, CheckpointStore
from streamlearn.studies.explain.contributions import contributions
from streamlearn.studies.explain.lookup import (
    Place,
    ScanCounter,
    entry_covering,
    letter_about,
    newest_prediction,
    prediction_at,
    record_at,
)
from streamlearn.studies.explain.rebuild import ReconstructedModel, Reconstructor

Tell = Callable[[str], None]


def explain(
    env: Env,
    config: Config,
    template: ModelTemplate,
    admin: Admin,
    store: CheckpointStore,
    ident: str,
    source: Place | None,
    tell: Tell,
) -> dict[str, Any]:
    """Explain the prediction for the event `ident`, or for the record at `source`, as the command does.

    Returns:
        `prediction` (as published), `published` (its place), `event`, `label`, `labels` (the outcome of the
        service's joiner: `Joins.result`), `model`, `contributions` (by feature) and `looked_at` (records read
        by topic); for a record that was refused `dead_letter` instead.

    Raises:
        Stop: There is neither a prediction nor a dead letter.
    """
    counter = ScanCounter(tell)
    topic = config.topics.predictions
    if source:
        published = prediction_at(admin, topic, source, counter)
    else:
        published = newest_prediction(admin, topic, ident, counter)
    if published is None:
        return _refused(config, admin, ident, source, counter)
    prediction: dict[str, Any] = orjson.loads(published.value or b"")
    schemas = Schemas(env, config.event.schema_registry)
    reconstructor = Reconstructor(config, template, admin, store, schemas, tell)
    record, entry = _source(config, admin, Place(**prediction["source"]), published, counter, tell)
    event = None if record is None else _event_in(config, record)
    model = None
    if record is not None and entry is not None:
        model = reconstructor.model_for(record, published.value or b"", entry)
    labels = _labels(reconstructor, record, event, entry)
    return {
        "prediction": prediction,
        "published": {
            "topic": published.topic,
            "partition": published.partition,
            "offset": published.offset,
            "timestamp": published.timestamp_ms,
        },
        "event": _event(record, event, model),
        "label": labels.pop("label"),
        "labels": labels,
        "model": _model(model, record),
        "contributions": _contributions(model, prediction["prediction"]),
        "looked_at": counter.by_topic,
    }


def _source(
    config: Config, admin: Admin, source: Place, published: Record, counter: ScanCounter, tell: Tell
) -> tuple[Record | None, Entry | None]:
    """The record that a prediction answers, and the journal's entry that covers it, as far as retained."""
    record = record_at(admin, source)
    if record is None:
        return None, None
    journal = config.topics.journal
    entry = entry_covering(admin, journal, source, published.timestamp_ms, counter)
    if entry is None:
        tell(f"the journal {journal} no longer holds the entry of this prediction")
    return record, entry


def _refused(
    config: Config, admin: Admin, ident: str, source: Place | None, counter: ScanCounter
) -> dict[str, Any]:
    """The dead letter instead of a prediction. Raises `Stop` when there is none either."""
    letter = letter_about(admin, config.topics.dlq, source, ident, config.event.id, counter)
    if letter is None:
        name = f"the id {ident!r}"
        if source:
            name = f"the record at {source.topic}-{source.partition}-{source.offset}"
        raise Stop(
            f"there is neither a prediction nor a dead letter for {name} of the app {config.app.name};"
            f" looked at {counter.summary()}. Is it the right app (-n), has the service come so far, and are"
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
        "looked_at": counter.by_topic,
    }


def _event_in(config: Config, record: Record) -> Event | None:
    """The event in a record, by today's `[event]`; None where that needs a registry, or there is none."""
    return event_in(record, compile_decoder(event_spec(config), {}))


def _labels(
    reconstructor: Reconstructor, record: Record | None, event: Event | None, entry: Entry | None
) -> dict[str, Any]:
    """The fate of the event's label: `Joins.result`; `why` says what keeps it from being known."""
    fate: dict[str, Any] = {"state": "unknown", "label": None, "records": []}
    if record is None:
        fate["why"] = "the event's record is no longer retained"
    elif entry is None:
        fate["why"] = "the journal's entry of this prediction is no longer retained"
    else:
        try:
            fate = reconstructor.joins(record, entry.seq)
        except (Gone, StreamlearnError) as error:
            fate["why"] = str(error)
    if event is not None and event.y is not None:
        fate |= {"state": "inside", "label": {"label": event.y, "where": "in the event", "delay_s": 0.0}}
    return fate


def _event(
    record: Record | None, event: Event | None, model: ReconstructedModel | None
) -> dict[str, Any] | None:
    """The event as its model saw it, else as it was read; None when its record is no longer retained."""
    if record is None:
        return None
    arrived = {"timestamp": record.timestamp_ms}
    if model is not None or event is not None:
        return {**arrived, "features": model.x if model is not None else event and event.x}
    return {**arrived, "value": (record.value or b"").decode("utf-8", "backslashreplace")}


def _model(model: ReconstructedModel | None, record: Record | None) -> dict[str, Any]:
    """The model that the contributions are of."""
    if model is None:
        gone = "its record is no longer retained" if record is None else "no older checkpoint leads to it"
        return {"exact": False, "why": f"the model cannot be made again: {gone}"}
    return {
        "exact": model.exact,
        "why": model.why,
        "checkpoint": model.seq,
        "redone": model.redone,
        "learned": model.learned,
    }


def _contributions(model: ReconstructedModel | None, predicted: Any) -> dict[str, Any] | None:
    parts = None if model is None else contributions(model.model, model.x, predicted)
    return None if parts is None else msgspec.to_builtins(parts)
