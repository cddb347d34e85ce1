"""Shared by `train` and `score`: from words to a feed, in a process prepared as `serve` prepares its own."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamlearn.cli import common, progress
from streamlearn.cli.service import serve
from streamlearn.errors import ConfigError

if TYPE_CHECKING:
    from streamlearn.config.load import Config
    from streamlearn.history.label_delay import Delay as Lag
    from streamlearn.history.sources import ReadOptions
    from streamlearn.log.port import Admin
    from streamlearn.studies.feed_run import FeedRun

Delay = Annotated[
    str,
    typer.Option(
        "--delay",
        metavar="WHEN",
        help="When labels are known: 5m after the event, 200 events later, field:COLUMN at the time in it,"
        " or end-of:COLUMN with the last event of the group. [default: with the event]",
    ),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Stop after N events.")]
DeadLetters = Annotated[
    str, typer.Option("--dead-letters", metavar="FILE", help="Where refused records go. [default: nowhere]")
]


def prepare(settings: "Config", app_dir: Path | None) -> None:
    """The environment in which arithmetic repeats itself, and the user's modules on the path."""
    if app_dir and not app_dir.is_dir():
        raise ConfigError(f"--app-dir {app_dir}: there is no such folder")
    serve.start_again(settings.app.portable_math)
    sys.path.insert(0, str((app_dir or Path()).resolve()))


@contextlib.contextmanager
def open_run(
    title: str,
    settings: "Config",
    source: str,
    reading: tuple["ReadOptions", "Lag | None", int | None],
    dead_letters: str,
    to_topic: bool = False,
) -> Iterator[tuple["FeedRun", "Admin | None"]]:
    """A run of a source (`reading`: its options, the labels' delay, the limit), under a progress bar; and the
    log where one is needed: for a source `topic:`, or to write to a topic.
    """
    from streamlearn.history.feed import Feed
    from streamlearn.history.sinks import Letters, open_sink
    from streamlearn.history.sources import open_source
    from streamlearn.studies.feed_run import FeedRun

    with contextlib.ExitStack() as stack:
        admin = None
        if source.startswith("topic:") or to_topic:
            admin = stack.enter_context(common.open_admin(settings))
        stream = open_source(source, reading[0], admin)
        common.note(*stream.notes)
        feed = Feed(stream, *reading, round(common.ENV.now() * 1000))
        stop = stack.enter_context(common.stop_on_signal())
        advance = stack.enter_context(progress.bar(title, feed.total))
        letters = Letters(stack.enter_context(open_sink(dead_letters, None))) if dead_letters else None
        yield FeedRun(feed, stop, advance, letters), admin
        stack.close()
        common.note(*stream.remarks())


def delay_in(text: str) -> "Lag | None":
    """The meaning of --delay, None when it was not given. Raises `ConfigError`."""
    from streamlearn.history.label_delay import parse_delay

    return parse_delay(text) if text else None
