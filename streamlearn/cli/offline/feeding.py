"""Shared by `train` and `score`: from words to a feed, in a process prepared as `serve` prepares its own."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamlearn.cli import common
from streamlearn.cli.service import serve
from streamlearn.errors import ConfigError

if TYPE_CHECKING:
    from streamlearn.config.load import Config
    from streamlearn.history.feed import Feed
    from streamlearn.history.label_delay import Delay as Lag
    from streamlearn.history.sources import ReadOptions
    from streamlearn.log.port import Admin

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
def feed_of(
    settings: "Config",
    source: str,
    reading: "ReadOptions",
    delay: "Lag | None",
    limit: int | None,
    out_topic: bool = False,
) -> Iterator[tuple["Feed", "Admin | None"]]:
    """The feed, and the log where one is needed: for a source `topic:`, or to write to a topic."""
    from streamlearn.history.feed import Feed
    from streamlearn.history.sources import open_source

    with contextlib.ExitStack() as stack:
        admin = None
        if source.startswith("topic:") or out_topic:
            admin = stack.enter_context(common.admin_of(settings))
        stream = open_source(source, reading, admin)
        for text in stream.notes:
            common.note(text)
        yield Feed(stream, reading, delay, limit, round(common.ENV.now() * 1000)), admin
        for text in stream.remarks():
            common.note(text)


def delay_in(text: str) -> "Lag | None":
    """The meaning of --delay, None when it was not given. Raises `ConfigError`."""
    from streamlearn.history.label_delay import parse_delay

    return parse_delay(text) if text else None
