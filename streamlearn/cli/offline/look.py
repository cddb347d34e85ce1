"""`look`: what is in a source or a topic, and the configuration that would serve it."""

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamlearn.cli import common, options
from streamlearn.cli.offline import source_options
from streamlearn.cli.offline.source_options import ColumnOptions, FormatOptions, SourceOptions
from streamlearn.cli.options import ConfigOptions
from streamlearn.errors import ConfigError, Unreachable

if TYPE_CHECKING:
    from streamlearn.config.load import Config
    from streamlearn.history.sources import ReadOptions
    from streamlearn.log.port import Admin
    from streamlearn.studies.look.propose import Proposal
    from streamlearn.studies.look.sampling import Sample

LIMIT = 1000
_MOST_SHOWN = 200
_LEAST_WIDTH = 80
_NUMBERS = ("missing", "distinct", "least", "most")

Limit = Annotated[
    int, typer.Option("--limit", min=1, max=1_000_000, metavar="N", help="Look at N rows or records.")
]


def look(
    *,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE_OR_TOPIC",
            help="A topic of the log, or a SOURCE as `replay` takes it: a file, -, river:NAME,"
            " topic:NAME@FROM..TO, module:attr.",
        ),
    ],
    limit: Limit = LIMIT,
    missing: source_options.Missing = None,
    form: FormatOptions,
    table: Annotated[
        bool, typer.Option("--table", help="Print the table of fields, and no configuration.")
    ] = False,
    as_json: options.AsJson = False,
    config: ConfigOptions,
) -> None:
    """Propose a configuration for what is there: types, gaps, id, time, label, a preset of a model.

    Standard output is a file for `serve`; on a terminal a table of the fields stands before it.
    """
    proposal, text = proposed(source, limit, config, SourceOptions(ColumnOptions(missing=missing), form))
    if as_json:
        common.print_json(_as_json(proposal, text))
    elif table:
        _print_table(proposal, to_stderr=False)
    else:
        if sys.stderr.isatty():
            _print_table(proposal, to_stderr=True)
        print(text, end="")


def proposed(
    source: str,
    limit: int,
    config: ConfigOptions,
    table: SourceOptions,
) -> "tuple[Proposal, str]":
    """The proposal for a source or topic, and its TOML."""
    from streamlearn.studies.look import proposed_toml
    from streamlearn.studies.look.propose import propose

    settings = config.settings()
    sample, topic = _sample(settings, source, table.read_options(settings, timed=True), limit)
    if not sample.size:
        raise ConfigError(f"{source} holds nothing to look at; look again once something has arrived")
    proposal = propose(sample._replace(options=(*_file_options(table), *sample.options)))
    return proposal, proposed_toml.toml(proposal, source, topic or "events", _log(settings, config))


def _sample(settings: "Config", source: str, reading: "ReadOptions", limit: int) -> "tuple[Sample, str]":
    """The sample, and the topic it came from, "" when from none."""
    from streamlearn.studies.look import sampling

    ranged = source.startswith("topic:")
    if not ranged and not sampling.is_topic(source):
        return sampling.sample_source(source, reading, limit), ""
    with _topics(settings, source) as admin:
        if ranged:
            topic = source.removeprefix("topic:").partition("@")[0]
            return sampling.sample_source(source, reading, limit, admin), topic
        return sampling.sample_topic(admin, source, limit), source


@contextlib.contextmanager
def _topics(settings: "Config", source: str) -> Iterator["Admin"]:
    """The log; where it cannot be had, or has no such topic, `source` may be a misspelt file as well."""
    try:
        with common.open_admin(settings) as admin:
            yield admin
    except (ConfigError, Unreachable) as error:
        if source.startswith("topic:"):
            raise
        from streamlearn.history.sources import like_it

        raise type(error)(
            f"{source} is no file here{like_it(source)}. As a topic it was looked for: {error}"
        ) from error


def _file_options(table: SourceOptions) -> list[str]:
    """The options about the file, as `replay` takes them."""
    import shlex

    form = table.format
    texts = {"delimiter": form.delimiter, "decimal": form.decimal.replace(".", ""), "encoding": form.encoding}
    texts |= {"header": form.header, "format": form.form, "skip-rows": str(form.skip_rows or "")}
    words = [f"--{name} {shlex.quote(text)}" for name, text in texts.items() if text]
    return words + [f"--missing {shlex.quote(text)}" for text in table.columns.missing or ()]


def _log(settings: "Config", config: ConfigOptions) -> dict[str, Any]:
    """The keys of `[log]`: what was said about it, else one file, which needs no broker."""
    from streamlearn.config.load import explain

    said = {value.key for value in explain(config.config, config.log.flags()) if value.source != "default"}
    if said & {"log.bootstrap_servers", "log.backend", "log.path"} and settings.log.backend == "kafka":
        return {"backend": "kafka", "bootstrap_servers": settings.log.bootstrap_servers}
    return {"backend": "embedded", "path": settings.log.path}


def _as_json(proposal: "Proposal", text: str) -> dict[str, Any]:
    members = proposal._asdict()
    members["fields"] = [
        {**field._asdict(), "kind": field.kind, "kinds": dict(field.kinds)} for field in proposal.fields
    ]
    return {**members, "toml": text}


def _print_table(proposal: "Proposal", to_stderr: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{proposal.shape}: {proposal.rows:,} rows", title_justify="left")
    for head in ("field", "type", "missing", "distinct", "least", "most", "as a time", "e.g."):
        table.add_column(
            head, justify="right" if head in ("missing", "distinct", "least", "most") else "left"
        )
    for field in proposal.fields[:_MOST_SHOWN]:
        ends = ["" if end is None else f"{end:g}" for end in (field.low, field.high)]
        texts = re.sub(r"\s+", " ", ", ".join(field.texts[:3]))[:40]
        distinct = "1000+" if field.distinct >= 1000 else str(field.distinct)
        cells = (field.path, field.kind, f"{field.missing:.1%}", distinct, *ends, field.time, texts)
        table.add_row(*map(Text, cells))  # data are no markup
    console = Console(stderr=to_stderr)
    console.width = max(console.width, _LEAST_WIDTH)
    console.print(table)
    if len(proposal.fields) > _MOST_SHOWN:
        console.print(f"and {len(proposal.fields) - _MOST_SHOWN:,} more fields")
