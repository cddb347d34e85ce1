"""`streamlearn explain`: what was known when a prediction was made."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamlearn.cli import common, options
from streamlearn.cli.offline import feeding
from streamlearn.cli.options import ConfigOptions
from streamlearn.errors import ConfigError

if TYPE_CHECKING:
    from streamlearn.config.load import Config

_SHOWN = 20
_EVENTS_SHOWN = 10
_WITHOUT_LABEL = {
    "none": "none is known",
    "waiting": "none has come yet; the event waits",
    "expired": "none came within [labels] ttl; the event was let go",
    "dropped": "none came before more than [labels] pending_max events waited; the event was let go",
    "unnamed": "none can name the event: it lacks what [labels] join asks for",
    "unknown": "not known",
}


def explain(
    *,
    ident: Annotated[str, typer.Argument(metavar="ID", help="The event's id.")] = "",
    record_place: Annotated[
        str, typer.Option("--at", metavar="TOPIC-PARTITION-OFFSET", help="The record instead of an id.")
    ] = "",
    as_json: options.AsJson = False,
    name: options.Name = None,
    model: options.Model = None,
    app_dir: options.AppDir = None,
    config: ConfigOptions,
) -> None:
    """Why a prediction is what it is: event, answer, model, label, and what each feature added to it.

    The model that answered is reproduced from checkpoint and journal, beside the running service; for a
    linear model its weights times the features are shown. The newest prediction of an id is explained.
    """
    settings = config.settings(app_name=name, model_use=model)
    if bool(ident) == bool(record_place):
        raise ConfigError("explain: give the event's ID, or --at TOPIC-PARTITION-OFFSET")
    feeding.prepare(settings, app_dir)
    explanation = _explained(settings, ident, record_place)
    if as_json:
        common.print_json(explanation)
    elif "dead_letter" in explanation:
        _print_letter(explanation["dead_letter"])
    else:
        _print(explanation)
    looked = ", ".join(f"{count:,} of {topic}" for topic, count in explanation["looked_at"].items())
    common.note(f"looked at {looked}")


def _explained(settings: "Config", ident: str, record_place: str) -> dict[str, Any]:
    from streamlearn.engine.model import configured_model
    from streamlearn.studies.explain.explain import explain as run
    from streamlearn.studies.explain.lookup import parse_place

    source_place = parse_place(record_place) if record_place else None
    template = configured_model(settings)
    with common.open_admin(settings) as admin, common.open_store(settings) as store:
        return run(common.ENV, settings, template, admin, store, ident, source_place, common.note)


def _print_letter(letter: dict[str, Any]) -> None:
    about = f" feature {letter['feature']!r}" if letter["feature"] else ""
    print(f"refused    {letter['stage']}.{letter['reason']}{about}: {letter['message']}")
    print(f"           see `streamlearn dlq show {letter['place']}`")


def _print(explanation: dict[str, Any]) -> None:
    """For a person: one line for each thing that was known."""
    prediction, model = explanation["prediction"], explanation["prediction"]["model"]
    source, event = prediction["source"], explanation["event"]
    source_place = f"{source['topic']} partition {source['partition']} offset {source['offset']}"
    print(f"event      {prediction['id']}: {source_place}")
    print(f"answer     {_text(prediction['prediction'])}{_detail(prediction)}")
    print(f"           published {_time(explanation['published']['timestamp'])}")
    revision = f"revision {model['revision']}, learned {model['learned']:,}"
    print(f"model      {model['name']} {model['version']}, {revision}")
    if event is None:
        print("features   gone: the event's record is no longer retained")
    elif "features" in event:
        print(
            f"features   {', '.join(f'{name} = {_text(value)}' for name, value in event['features'].items())}"
        )
    else:
        print(f"value      {event['value']}")
    for line in _label_lines(explanation["label"], explanation["labels"]):
        print(line)
    print(_reproduced(explanation["model"]))
    if explanation["contributions"]:
        _print_table(explanation["contributions"])


def _detail(prediction: dict[str, Any]) -> str:
    detail = prediction.get("probabilities") or {}
    parts = [f"{label} {share:.4g}" for label, share in sorted(detail.items(), key=lambda pair: -pair[1])[:5]]
    if "score" in prediction:
        parts.append(f"score {prediction['score']:.6g}")
    return f" ({', '.join(parts)})" if parts else ""


def _label_lines(label: dict[str, Any] | None, labels: dict[str, Any]) -> list[str]:
    """The label, then what became of every record of the labels topic that names the event."""
    if label is None:
        why = f": {labels['why']}" if "why" in labels else ""
        lines = [f"label      {_WITHOUT_LABEL[labels['state']]}{why}"]
    else:
        delay = "" if label["delay_s"] is None else f", {label['delay_s']:,.1f} s after it"
        lines = [f"label      {_text(label['label'])}, {label['where']}{delay}"]
    for record in labels["records"]:
        joined = len(record["events"]) + record["older_events"]
        alone = joined == 1 and label is not None and record["where"] == label["where"]
        if not alone:
            lines.append(_label_record_line(record, joined))
    return lines


def _label_record_line(record: dict[str, Any], joined: int) -> str:
    """A record of the labels topic, and the events that it `joined`, as many as fit."""
    line = f"           {record['outcome']}: {_text(record['label'])}, {record['where']}"
    if not joined:
        return line
    events = [
        f"{event['id']} ({event['topic']}-{event['partition']}-{event['offset']})"
        for event in record["events"][:_EVENTS_SHOWN]
    ]
    if joined > len(events):
        events.append(f"{joined - len(events):,} more")
    return f"{line}; it joined {', '.join(events)}"


def _reproduced(model: dict[str, Any]) -> str:
    if model["exact"]:
        after = f"{model['redone']:,} record{'' if model['redone'] == 1 else 's'}"
        return f"reproduced exactly: checkpoint {model['checkpoint']} + {after}; same bytes as published"
    if "checkpoint" not in model:
        return f"not reproduced: {model['why']}"
    return (
        f"not reproduced: {model['why']}. The numbers below are those of an older model (checkpoint"
        f" {model['checkpoint']}, learned {model['learned']:,})"
    )


def _print_table(explanation: dict[str, Any]) -> None:
    label = "" if explanation["label"] is None else f" for {_text(explanation['label'])}"
    print(f"adds up to {explanation['total']:.6g}{label}: intercept {explanation['intercept']:.6g}, and")
    width = max([len(term["feature"]) for term in explanation["parts"][:_SHOWN]], default=0)
    print(f"           {'feature':<{max(width, 7)}} {'value':>12} {'weight':>12} {'adds':>12}")
    for term in explanation["parts"][:_SHOWN]:
        numbers = " ".join(f"{term[name]:>12.6g}" for name in ("value", "weight", "contribution"))
        print(f"           {term['feature']:<{max(width, 7)}} {numbers}")
    if len(explanation["parts"]) > _SHOWN:
        rest = sum(term["contribution"] for term in explanation["parts"][_SHOWN:])
        print(f"           and {len(explanation['parts']) - _SHOWN:,} more, {rest:.6g} together")


def _text(value: Any) -> str:
    import orjson

    return orjson.dumps(value).decode()


def _time(timestamp_ms: int) -> str:
    return datetime.fromtimestamp(timestamp_ms / 1e3, UTC).isoformat(timespec="milliseconds")
