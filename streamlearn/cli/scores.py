"""`streamlearn scores`: the newest scores of a service, as a table beside the baselines."""

from collections import deque
from typing import TYPE_CHECKING, Any

from streamlearn.cli import common
from streamlearn.errors import ConfigError

if TYPE_CHECKING:
    from streamlearn.log.port import Admin

_WIDTH = 110
_BACK = (10, 100, 10_000)
"""So far before the end the newest message is looked for: on Kafka marks of transactions take offsets too."""


def scores(
    *,
    as_json: common.AsJson = False,
    name: common.Name = None,
    config: common.ConfigFile = None,
    bootstrap_servers: common.Servers = None,
    backend: common.Backend = None,
    db: common.Db = None,
    option: common.Options = None,
) -> None:
    """The newest scores of a service, over all labels and the newest ones, beside the baselines."""
    from streamlearn.config import load

    given = common.flags(bootstrap_servers, backend, db, option, app_name=name)
    settings = load(config, given, need_input=False)
    topic = settings.topics.scores
    with common.admin_of(settings) as admin:
        found = _newest(admin, topic)
    if found is None:
        raise ConfigError(
            f"{topic} holds no scores yet: there is a message after every [scores] every = "
            f"{settings.scores.every} predictions of the service {settings.app.name}"
        )
    if as_json:
        common.print_json(found)
    else:
        _show(topic, found)


def _newest(admin: "Admin", topic: str) -> dict[str, Any] | None:
    import orjson

    from streamlearn.replay.reading import between, offsets_of

    end = offsets_of(admin, topic, "end")
    for where in (*(f"-{back}" for back in _BACK), "beginning"):
        newest = deque(between(admin, topic, offsets_of(admin, topic, where), end), maxlen=1)
        if newest:
            message: dict[str, Any] = orjson.loads(newest[0].value or b"{}")
            return message
    return None


def _show(topic: str, message: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from streamlearn.replay.report import LOWER_IS_BETTER, count, shown, title_of

    out = Console(highlight=False, soft_wrap=True)
    if not out.is_terminal:
        out.width = _WIDTH  # a file or a pipe has no width of its own
    parts = {"all labels": message["all"], f"newest {count(message['window']['labels'])}": message["window"]}
    model = message["model"]
    out.print(
        Text(
            f"{topic}: {message['task']} by {model['name']} (revision {model['revision']}), "
            f"{count(message['events'])} events, {count(message['labels'])} labels"
        )
    )
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("")
    columns = []
    for part, found in parts.items():
        for who, numbers in found.items():
            if isinstance(numbers, dict):
                columns.append(numbers)
                style = "" if who == "model" else "dim"
                table.add_column(Text(f"{who}\n{part}"), justify="right", style=style)
    metrics = [name for name, value in message["all"]["model"].items() if not isinstance(value, list)]
    for metric in metrics:
        arrow = "" if metric == "answered" else " ↓" if metric in LOWER_IS_BETTER else " ↑"
        cells = [count(one[metric]) if metric == "answered" else shown(one.get(metric)) for one in columns]
        table.add_row(f"{title_of(metric)}{arrow}", *cells)
    out.print(table, soft_wrap=False)
    for line in (*_verdicts(message), *_joined(message)):
        out.print(Text(line))


def _verdicts(message: dict[str, Any]) -> list[str]:
    """What a newcomer must not miss."""
    from streamlearn.replay.report import MAIN, is_better, shown, title_of

    if not message["labels"]:
        return ["no label has come yet: nothing is known of how good the model is (proxies are no scores)"]
    window = message["window"]
    known = [metric for metric in MAIN.get(message["task"], ()) if window["model"].get(metric) is not None]
    if not known:
        return []
    metric, mine = known[0], window["model"][known[0]]
    lines = []
    for who, numbers in window.items():
        if isinstance(numbers, dict) and who != "model" and (theirs := numbers.get(metric)) is not None:
            said = "beats" if is_better(mine, theirs, metric) else "does NOT beat"
            values = f"{shown(mine)} against {shown(theirs)}"
            lines.append(f"the model {said} {who} in {title_of(metric)} of the newest labels: {values}")
    return lines


def _joined(message: dict[str, Any]) -> list[str]:
    """What became of labels that come on a topic of their own."""
    from streamlearn.replay.report import count, shown

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
