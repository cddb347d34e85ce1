"""`streamlearn scores`: the newest scores of a service, as a table beside the baselines."""

from typing import TYPE_CHECKING, Any

from streamlearn.cli import common, options
from streamlearn.cli.options import ServiceOptions
from streamlearn.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from streamlearn.config.load import Config

_WIDTH = 110


def scores(
    *,
    as_json: options.AsJson = False,
    service: ServiceOptions,
) -> None:
    """The newest scores of a service, over all labels and the newest ones, beside the baselines.

    They are those of its newest message, or of its newest checkpoint where that is newer.
    """
    settings = service.settings()
    message = _newest(settings)
    if as_json:
        common.print_json(message)
    else:
        _show(settings.topics.scores, message)


def _newest(settings: "Config") -> dict[str, Any]:
    """Message or checkpoint, the newer one. Raises `ConfigError` where there is neither."""
    from streamlearn.core.records import SHARD
    from streamlearn.studies.newest_scores import newest_scores

    key, topics = settings.checkpoint.key.encode(), settings.topics
    with common.open_admin(settings) as admin, common.open_store(settings) as store:
        message = newest_scores(admin, store, key, topics.scores, (topics.journal, SHARD))
    if message is None:
        why = "[scores] every = 0: it keeps no scores" if not settings.scores.every else "it has not run yet"
        raise ConfigError(
            f"the service {settings.app.name} has neither a message on {settings.topics.scores} nor a"
            f" checkpoint with scores: {why}, or this is not its name (-n)"
        )
    return message


def _show(topic: str, message: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.text import Text

    from streamlearn.studies.backtest.words import count

    out = Console(highlight=False, soft_wrap=True)
    if not out.is_terminal:
        out.width = _WIDTH  # a file or a pipe has no width of its own
    model = message["model"]
    out.print(
        Text(
            f"{topic}: {message['task']} by {model['name']} (revision {model['revision']}), "
            f"{count(message['events'])} events, {count(message['labels'])} labels"
        )
    )
    out.print(Text(f"source: {_source(message['source'])}", style="dim"))
    cautions = _cautions(message)
    for line in cautions:
        out.print(Text(line, style="yellow"))
    out.print(_table(message), soft_wrap=False)
    verdicts = [] if cautions and message["labels"] else _verdicts(message)
    for line in (*verdicts, *_lost(message), *_joined(message)):
        out.print(Text(line))


def _table(message: dict[str, Any]) -> "Table":
    """A row per metric; a column per forecaster, over all labels and then over the newest ones."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from streamlearn.studies.backtest.words import count

    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("")
    columns = []
    spans = {"all labels": message["all"], f"newest {count(message['window']['labels'])}": message["window"]}
    for span, forecasters in spans.items():
        for name, numbers in forecasters.items():
            if isinstance(numbers, dict):
                columns.append(numbers)
                style = "" if name == "model" else "dim"
                table.add_column(Text(f"{name}\n{span}"), justify="right", style=style)
    for metric, value in message["all"]["model"].items():
        if not isinstance(value, list):
            table.add_row(*_cells(metric, columns))
    return table


def _cells(metric: str, columns: list[dict[str, Any]]) -> list[str]:
    """A metric's title with the direction that is better, and its number in each column."""
    from streamlearn.core.scores.metrics import LOWER_IS_BETTER
    from streamlearn.studies.backtest.words import count, metric_title, shown

    title = metric_title(metric)
    if metric == "answered":  # a count, which has no better direction
        return [title, *(count(numbers[metric]) for numbers in columns)]
    arrow = "↓" if metric in LOWER_IS_BETTER else "↑"
    return [f"{title} {arrow}", *(shown(numbers.get(metric)) for numbers in columns)]


def _source(source: dict[str, Any]) -> str:
    """Name the topic or the checkpoint that the numbers come from."""
    if "checkpoint" in source:
        return f"checkpoint {source['checkpoint']}, as no newer message has come"
    return f"the message after {source['topic']} partition {source['partition']} offset {source['offset']}"


def _cautions(message: dict[str, Any]) -> list[str]:
    """List the conditions that change what the model's numbers mean; with any there is no verdict."""
    from streamlearn.studies.backtest.words import abstains, answered_share, count

    lines = []
    if frozen := message.get("frozen"):
        since = f" since record {count(message['frozen_at'])}" if message.get("frozen_at") else ""
        lines.append(
            f"learning is stopped{since} ({frozen}): these are the scores of a model that learns no more"
        )
    share = None if message["task"] == "anomaly" else answered_share(message["all"])  # a score is no answer
    if abstains(share):
        answered = message["all"]["model"]["answered"]
        lines.append(
            f"the model answered {count(answered)} of {count(message['labels'])} labels: its scores are of"
            " those alone"
        )
    return lines


def _verdicts(message: dict[str, Any]) -> list[str]:
    """Say which baselines the model beats, and which not."""
    from streamlearn.core.scores.metrics import is_better, judges
    from streamlearn.studies.backtest.words import metric_title, shown

    if not message["labels"]:
        return [f"{_no_labels(message)}: nothing is known of how good the model is (proxies are no scores)"]
    window = message["window"]
    model = window["model"]
    metric = next((name for name in judges(message["task"]).headline if model.get(name) is not None), None)
    if metric is None:
        return []
    lines = []
    for name, numbers in window.items():
        if isinstance(numbers, dict) and name != "model" and (theirs := numbers.get(metric)) is not None:
            said = "beats" if is_better(model[metric], theirs, metric) else "does NOT beat"
            values = f"{shown(model[metric])} against {shown(theirs)}"
            lines.append(f"the model {said} {name} in {metric_title(metric)} of the newest labels: {values}")
    return lines


def _no_labels(message: dict[str, Any]) -> str:
    """Explain why no label was scored."""
    from streamlearn.studies.backtest.words import count

    lost, join = message.get("labels_lost", {}), message.get("join")
    came = sum(lost.values()) + (0 if join is None else join["records"])
    if unused := lost.get("label.unused"):
        return f"{count(unused)} labels came, none of them 0/1 or true/false, by which a detector is scored"
    if not came and (unread := message["source"].get("unread")):
        return (
            f"{count(unread)} records that may bring labels have come since, and these numbers do not hold"
            " them; ask again, a running service saves its own every [checkpoint] interval_s"
        )
    if not came:
        return "no label has come yet"
    if join is not None and join["records"]:
        return f"{count(came)} labels came, and none of them has found an event that was predicted"
    reasons = ", ".join(sorted(lost))
    return f"{count(came)} labels came, and all were refused ({reasons}: see streamlearn dlq list)"


def _lost(message: dict[str, Any]) -> list[str]:
    """Labels of which nothing was learned or scored, though they came."""
    from streamlearn.studies.backtest.words import count

    lost = message.get("labels_lost", {})
    if not lost or not message["labels"]:
        return []
    counts = ", ".join(f"{count(n)} {outcome}" for outcome, n in sorted(lost.items()))
    return [f"labels that were refused or of no use: {counts}"]


def _joined(message: dict[str, Any]) -> list[str]:
    """Count the outcomes of labels that come on a topic of their own."""
    from streamlearn.studies.backtest.words import count, shown

    join = message.get("join")
    if join is None:
        return []
    lost = join["orphan"] + join["late"]
    lines = [
        f"{count(join['pending'])} events wait for their label; {count(join['events_expired'])} got none in "
        f"time; of {count(join['records'])} labels {count(lost)} found no event, "
        f"{count(join['duplicate'])} were second ones"
    ]
    if join["delay_s"]["p50"] is not None:
        p50, p99 = shown(join["delay_s"]["p50"]), shown(join["delay_s"]["p99"])
        lines.append(f"half of the labels came within {p50} s, 99 % within {p99} s")
    return lines
