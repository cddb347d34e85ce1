"""`record` and `tail`: records out of a topic into a file, and onto the screen."""

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from streamlearn.cli import common, options
from streamlearn.cli.options import ConfigOptions

Topic = Annotated[str, typer.Option("--topic", "-t", metavar="TOPIC")]


def record(
    *,
    topic: Topic,
    first: options.From = "beginning",
    upto: options.To = "end",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="FILE.csv is a table. [default: standard output]"),
    ] = None,
    config: ConfigOptions,
) -> None:
    """Write a range of a topic as JSON lines that `replay` sends back byte for byte.

    Into a file that ends in .csv: a table of the JSON values, one column for each member. The file appears
    under its name only when it is whole.
    """
    from streamlearn.history import sinks, topic_reader
    from streamlearn.history.formats import record_json

    with common.open_admin(config.settings()) as admin:
        ends = [topic_reader.resolve_offsets(admin, topic, where) for where in (first, upto)]
        if out and out.suffix.lower() == ".csv":
            columns = sinks.csv_columns(topic_reader.between(admin, topic, *ends))
            texts = sinks.csv_lines(topic_reader.between(admin, topic, *ends), columns)
            count = _write_whole(out, texts) - 1  # the header is none
        else:
            count = _write_whole(out, map(record_json.line, topic_reader.between(admin, topic, *ends)))
    common.note(f"recorded {count} records of {topic} to {out or 'standard output'}")


def _write_whole(out: Path | None, texts: Iterator[bytes]) -> int:
    """Write lines; into a file through a temporary one beside it. Returns how many."""
    from streamlearn.history.whole_file import whole_file

    count = 0
    if out is None:
        for text in texts:
            sys.stdout.buffer.write(text + b"\n")
            count += 1
        sys.stdout.flush()
        return count
    with whole_file(out) as file:
        for text in texts:
            file.write(text + b"\n")
            count += 1
    return count


def tail(
    *,
    topic: Annotated[str, typer.Argument(metavar="TOPIC")],
    where: Annotated[
        str,
        typer.Option(
            "-o",
            "--offset",
            metavar="WHERE",
            help="beginning, end, an offset, -N or an RFC 3339 time. On Kafka each commit takes an"
            " offset, too: the newest N offsets hold fewer records.",
        ),
    ] = "-10",
    count: Annotated[int | None, typer.Option("-n", min=1, metavar="N", help="Stop after N records.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more, until stopped.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Whole records, as `record` writes them, not only values.")
    ] = False,
    config: ConfigOptions,
) -> None:
    """Print a topic's values, one a line: the last ten of each partition, or from WHERE on.

    A tombstone is an empty line.
    """
    from streamlearn.history import topic_reader
    from streamlearn.history.formats import record_json

    with common.open_admin(config.settings()) as admin, common.stop_on_signal() as stop:
        first = topic_reader.resolve_offsets(admin, topic, where)
        if follow:
            records = topic_reader.arriving(admin, topic, first, stop)
        else:
            records = topic_reader.between(
                admin, topic, first, topic_reader.resolve_offsets(admin, topic, "end")
            )
        out = sys.stdout.buffer
        try:
            for item in itertools.islice(records, count):
                out.write((record_json.line(item) if as_json else item.value or b"") + b"\n")
                if follow:
                    out.flush()
                if stop.is_set():
                    break
            out.flush()
        except BrokenPipeError:  # whoever read us has seen enough, as in `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
