"""`replay`, `record` and `tail`: records into a topic, out of it into a file, and onto the screen."""

import contextlib
import itertools
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamlearn.cli import common
from streamlearn.errors import ConfigError, StreamlearnError, Unreachable

if TYPE_CHECKING:
    from streamlearn.config import Config
    from streamlearn.log.port import Admin
    from streamlearn.replay.pacing import Pace

Topic = Annotated[str, typer.Option("--topic", "-t", metavar="TOPIC")]


def replay(
    *,
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="JSON lines: a file or -; or river:NAME, e.g. river:Shuttle."),
    ],
    topic: Topic,
    speed: Annotated[
        str, typer.Option(metavar="FACTOR", help="Times event time: 1, 60, ...; or max, as fast as it goes.")
    ] = "max",
    rate: Annotated[float | None, typer.Option(metavar="N", help="N records a second instead.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after N records.")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Begin again at the end, until stopped.")] = False,
    as_json: common.AsJson = False,
    config: common.ConfigFile = None,
    bootstrap_servers: common.Servers = None,
    backend: common.Backend = None,
    db: common.Db = None,
    option: common.Options = None,
) -> None:
    """Send a stream of the past to a topic, at its own pace or another.

    A line is sent byte for byte; a line made by `record` as the record it was. Its member `ts` paces.
    """
    from streamlearn.config import load
    from streamlearn.replay.produce import Producer
    from streamlearn.replay.sources import Members, open_source

    settings = load(config, common.flags(bootstrap_servers, backend, db, option), need_input=False)
    event = settings.event
    if loop and source == "-":
        raise ConfigError("--loop: standard input cannot begin again; replay a file")
    pace = _pace(speed, rate)
    stream = open_source(source, Members(event.key or "key", event.time, event.time_unit))
    with common.admin_of(settings, make=True) as admin, common.stop_on_signal() as stop:
        _need_topic(admin, settings, topic)
        total = limit if stream.total is None or loop else min(limit or stream.total, stream.total)
        with _progress(total) as progress:
            producer = Producer(admin, topic, pace, stop, progress)
            try:
                report = producer.run(stream, limit, loop)
            except StreamlearnError:
                common.note(f"{producer.sent} records were sent to {topic} before this:")
                raise
    if as_json:
        common.print_json(report)
    else:
        rest = ", ".join(f"{name} {value}" for name, value in report.items() if name != "sent")
        print(f"sent {report['sent']} records to {topic}: {rest}")


def _pace(speed: str, rate: float | None) -> "Pace":
    from streamlearn.replay.pacing import Pace

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


def _need_topic(admin: "Admin", settings: "Config", topic: str) -> None:
    from streamlearn.log.port import TopicSpec

    if topic in admin.topics():
        return
    if settings.log.backend == "kafka":
        raise ConfigError(
            f"there is no topic {topic!r} at {settings.log.bootstrap_servers}:"
            f" make it with `streamlearn topics ensure -i {topic} --partitions N`"
        )
    common.note(f"made topic {topic} with 1 partition in {settings.log.path}")
    admin.create([TopicSpec(topic, 1)])


@contextlib.contextmanager
def _progress(total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on standard error when that is a terminal, else nothing."""
    if not sys.stderr.isatty():
        yield lambda _count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("replay", total=total)
        yield lambda count: bar.advance(task, count)


def record(
    *,
    topic: Topic,
    first: Annotated[
        str, typer.Option("--from", metavar="WHERE", help="beginning, an offset, -N or an RFC 3339 time.")
    ] = "beginning",
    upto: Annotated[
        str, typer.Option("--to", metavar="WHERE", help="Where to end (exclusive): end, an offset, a time.")
    ] = "end",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="[default: standard output]")
    ] = None,
    config: common.ConfigFile = None,
    bootstrap_servers: common.Servers = None,
    backend: common.Backend = None,
    db: common.Db = None,
    option: common.Options = None,
) -> None:
    """Write a range of a topic as JSON lines that `replay` sends back byte for byte.

    The file appears under its name only when it is whole.
    """
    from streamlearn.config import load
    from streamlearn.replay import lines, reading

    settings = load(config, common.flags(bootstrap_servers, backend, db, option), need_input=False)
    with common.admin_of(settings) as admin:
        ends = [reading.offsets_of(admin, topic, where) for where in (first, upto)]
        records = reading.between(admin, topic, *ends)
        count = _write_whole(out, map(lines.line, records))
    common.note(f"recorded {count} records of {topic} to {out or 'standard output'}")


def _write_whole(out: Path | None, texts: Iterator[bytes]) -> int:
    """Write lines; into a file through a temporary one beside it. Returns how many."""
    count = 0
    if out is None:
        for text in texts:
            sys.stdout.buffer.write(text + b"\n")
            count += 1
        sys.stdout.flush()
        return count
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
    except OSError as error:
        raise Unreachable(f"{out} cannot be written: {error.strerror}; choose another file with -o") from None
    try:
        with os.fdopen(handle, "wb") as file:
            for text in texts:
                file.write(text + b"\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(out)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return count


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def tail(
    *,
    topic: Annotated[str, typer.Argument(metavar="TOPIC")],
    where: Annotated[
        str,
        typer.Option(
            "-o", "--offset", metavar="WHERE", help="beginning, end, an offset, -N or an RFC 3339 time."
        ),
    ] = "-10",
    count: Annotated[int | None, typer.Option("-n", min=1, metavar="N", help="Stop after N records.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more, until stopped.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Whole records, as `record` writes them, not only values.")
    ] = False,
    config: common.ConfigFile = None,
    bootstrap_servers: common.Servers = None,
    backend: common.Backend = None,
    db: common.Db = None,
    option: common.Options = None,
) -> None:
    """Print a topic's values, one a line: the last ten of each partition, or from WHERE on.

    A tombstone is an empty line.
    """
    from streamlearn.config import load
    from streamlearn.replay import lines, reading

    settings = load(config, common.flags(bootstrap_servers, backend, db, option), need_input=False)
    with common.admin_of(settings) as admin, common.stop_on_signal() as stop:
        first = reading.offsets_of(admin, topic, where)
        if follow:
            records = reading.arriving(admin, topic, first, stop)
        else:
            records = reading.between(admin, topic, first, reading.offsets_of(admin, topic, "end"))
        out = sys.stdout.buffer
        try:
            for one in itertools.islice(records, count):
                out.write((lines.line(one) if as_json else one.value or b"") + b"\n")
                if follow:
                    out.flush()
                if stop.is_set():
                    break
            out.flush()
        except BrokenPipeError:  # whoever read us has seen enough, as in `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
