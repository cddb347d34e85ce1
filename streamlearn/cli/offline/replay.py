"""`replay`: a source of the past into a topic, at its pace."""

import re
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from streamlearn.cli import common, options, progress
from streamlearn.cli.offline import source_options
from streamlearn.cli.offline.source_options import SourceOptions
from streamlearn.cli.options import ConfigOptions
from streamlearn.errors import ConfigError, StreamlearnError

if TYPE_CHECKING:
    from streamlearn.config.load import Config
    from streamlearn.history.label_delay import Delay
    from streamlearn.history.send import Pace
    from streamlearn.history.sources import ReadOptions
    from streamlearn.log.port import Admin

Topic = Annotated[str, typer.Option("--topic", "-t", metavar="TOPIC")]
LabelsTopic = Annotated[
    str,
    typer.Option("--labels-topic", metavar="TOPIC", help="Send labels apart to this topic, by event time."),
]
DelayText = Annotated[
    str,
    typer.Option(
        "--delay",
        metavar="WHEN",
        help="When labels follow: 5m after the event, 200 events later, field:COLUMN at the time in it,"
        " or end-of:COLUMN once with the last event of the group.",
    ),
]
Speed = Annotated[
    str, typer.Option(metavar="FACTOR", help="Times event time: 1, 60, ...; or max, as fast as it goes.")
]


def replay(
    *,
    source: source_options.Source,
    topic: Topic,
    table: SourceOptions,
    labels_topic: LabelsTopic = "",
    delay: DelayText = "",
    speed: Speed = "max",
    rate: Annotated[float | None, typer.Option(metavar="N", help="N records a second instead.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after N events.")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Begin again at the end, until stopped.")] = False,
    as_json: options.AsJson = False,
    config: ConfigOptions,
) -> None:
    """Send a stream of the past to a topic, at its own pace or another.

    The rows of a table become events {"id", "ts", "key", "features", "label"}. JSON lines and records of a
    topic go out byte for byte, a line made by `record` as the record it was; with options about columns
    (--id to --missing) they are rows of a table too. Event time (`ts`) paces.
    """
    settings = config.settings()
    if loop and source == "-":
        raise ConfigError("--loop: standard input cannot begin again; replay a file")
    pace = _pace(speed, rate)
    late = _delay(topic, labels_topic, delay)
    reading = table.read_options(settings, late is not None or pace.speed is not None, late)
    report = _send(settings, source, reading, (topic, labels_topic), pace, late, limit, loop)
    if as_json:
        common.print_json(report)
    else:
        rest = ", ".join(f"{name} {value}" for name, value in report.items() if name != "sent")
        print(f"sent {report['sent']} records to {topic}: {rest}")


def _send(
    settings: "Config",
    source: str,
    reading: "ReadOptions",
    topics: tuple[str, str],
    pace: "Pace",
    delay: "Delay | None",
    limit: int | None,
    loop: bool,
) -> dict[str, int | float]:
    """Open the source and the log, and send. A source that is wrong makes no file and no topic."""
    from streamlearn.history.label_delay import schedule
    from streamlearn.history.send import Sender, SendTopics
    from streamlearn.history.sources import open_source

    stream = None if source.startswith("topic:") else open_source(source, reading)
    with common.open_admin(settings, make=stream is not None) as admin, common.stop_on_signal() as stop:
        stream = stream or open_source(source, reading, admin)
        if loop and stream.once:
            raise ConfigError(f"--loop: {source} cannot begin again; name a function that gives a new one")
        common.note(*stream.notes)
        for name in filter(None, topics):
            need_topic(admin, settings, name)
        total = limit if stream.total is None or loop else min(limit or stream.total, stream.total)
        with progress.bar("replay", total) as advance:
            sender = Sender(common.ENV, admin, SendTopics(*topics), pace, stop, advance)
            try:
                report = sender.run(partial(schedule, stream, reading, delay), limit, loop)
            except StreamlearnError:
                common.note(f"{sender.sent} records were sent to {topics[0]} before this:")
                raise
        common.note(*stream.remarks())
        return report


def _delay(topic: str, labels_topic: str, text: str) -> "Delay | None":
    from streamlearn.history.label_delay import parse_delay

    if bool(labels_topic) != bool(text):
        raise ConfigError(
            "--labels-topic TOPIC and --delay go together: where labels go, and when (5m, 200 events"
            " later, field:COLUMN or end-of:COLUMN)"
        )
    if labels_topic and labels_topic == topic:
        raise ConfigError(f"--labels-topic {topic}: labels need a topic of their own")
    return parse_delay(text) if text else None


def _pace(speed: str, rate: float | None) -> "Pace":
    from streamlearn.history.send import Pace

    if rate is not None:
        if speed != "max":
            raise ConfigError("--speed and --rate are both given; keep one of them")
        if not 0 < rate <= 1e7:
            raise ConfigError(f"--rate {rate:g}: must be above 0 and up to 10000000 records a second")
        return Pace(rate=rate)
    if speed == "max":
        return Pace()
    if not re.fullmatch(r"\d+(\.\d+)?", speed) or float(speed) == 0:
        raise ConfigError(f"--speed {speed}: must be a number above 0 (1 = as it happened) or max")
    return Pace(speed=float(speed))


def need_topic(admin: "Admin", settings: "Config", topic: str) -> None:
    """Make a topic that does not exist, in an embedded log; on Kafka say how. Raises `ConfigError`."""
    from streamlearn.log.port import TopicSpec

    if topic in admin.topics([topic]):
        return
    if settings.log.backend == "kafka":
        raise ConfigError(
            f"there is no topic {topic!r} at {settings.log.bootstrap_servers}:"
            f" make it with `streamlearn topics ensure -i {topic} --partitions N`"
        )
    common.note(f"made topic {topic} with 1 partition in {settings.log.path}")
    admin.create([TopicSpec(topic, 1)])
