"""The options that say how a SOURCE is read: the same words in every command that takes one."""

from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from streamlearn.errors import ConfigError

if TYPE_CHECKING:
    from streamlearn.config.load import Config
    from streamlearn.history.label_delay import Delay
    from streamlearn.history.sources import ReadOptions

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A file (.csv .tsv .jsonl .json, also .gz .zst .bz2 .xz .zip; .parquet .arrow), - for standard"
        " input, river:NAME, topic:NAME@FROM..TO (an offset, beginning, end or an RFC 3339 time), or"
        " module:attr (an iterable of (x, y) or dicts, or a function that gives one).",
    ),
]
Missing = Annotated[
    list[str] | None,
    typer.Option("--missing", metavar="TEXT", help="Such a cell is absent, as an empty one is; repeatable."),
]


class ColumnOptions(NamedTuple):
    """Options about columns."""

    id_column: Annotated[
        str,
        typer.Option("--id", metavar="COLUMN", help="The event's id. [default: id, else numbered from 0]"),
    ] = ""
    time_column: Annotated[
        str,
        typer.Option(
            "--time",
            metavar="COLUMN",
            help="The event's time: a number or ISO 8601; without a zone it is UTC. [default: ts]",
        ),
    ] = ""
    key_column: Annotated[
        str, typer.Option("--key", metavar="COLUMN", help="The record's key. [default: key]")
    ] = ""
    features: Annotated[
        str, typer.Option("--features", metavar="A,B,C", help="The features. [default: all other columns]")
    ] = ""
    label: Annotated[str, typer.Option("--label", metavar="COLUMN", help="The label. [default: label]")] = ""
    types: Annotated[
        str,
        typer.Option(
            "--types",
            metavar="A=TYPE,...",
            help="float, int, bool, str, date or datetime; dates in another format: day=date:%d.%m.%Y."
            " Undeclared cells: numbers are numbers, the rest is text.",
        ),
    ] = ""
    missing: Missing = None


class FormatOptions(NamedTuple):
    """Options about CSV, and the format itself."""

    delimiter: Annotated[
        str, typer.Option("--delimiter", metavar="SIGN", help="CSV: , ; | or tab. [default: found out]")
    ] = ""
    decimal: Annotated[
        str, typer.Option("--decimal", metavar="SIGN", help="CSV: the decimal sign, . or a comma.")
    ] = "."
    encoding: Annotated[
        str,
        typer.Option("--encoding", metavar="NAME", help="CSV: e.g. cp1252. [default: utf-8, or by its mark]"),
    ] = ""
    header: Annotated[
        str, typer.Option("--header", metavar="A,B,C", help="CSV without a row of column names: the names.")
    ] = ""
    skip_rows: Annotated[
        int,
        typer.Option(
            "--skip-rows", min=0, metavar="N", help="CSV: lines above the column names to leave out."
        ),
    ] = 0
    form: Annotated[
        str,
        typer.Option("--format", metavar="NAME", help="csv, jsonl, parquet or arrow. [default: by the name]"),
    ] = ""


class SourceOptions(NamedTuple):
    """All options about a source."""

    columns: ColumnOptions = ColumnOptions()
    format: FormatOptions = FormatOptions()

    def read_options(self, settings: "Config", timed: bool, delay: "Delay | None" = None) -> "ReadOptions":
        """The options as the readers take them. `timed`: event times are wanted."""
        from streamlearn.history.formats import cells
        from streamlearn.history.formats.column_mapping import ColumnMapping, ColumnRoles
        from streamlearn.history.formats.delimited import Dialect
        from streamlearn.history.formats.jsonlines import EventPaths
        from streamlearn.history.sources import ReadOptions

        columns, form, event = self.columns, self.format, settings.event
        if form.decimal not in (".", ","):
            raise ConfigError(f"--decimal {form.decimal}: the decimal sign is . or a comma")
        delimiter = {"tab": "\t", "\\t": "\t"}.get(form.delimiter, form.delimiter)
        if len(delimiter) > 1 or delimiter in ('"', "\n", "\r"):
            raise ConfigError(f"--delimiter {delimiter}: give one sign, or the word tab")
        roles = ColumnRoles(
            *columns[:3],
            columns.label,
            tuple(cells.names(columns.features)),
            delay.group if delay else "",
            delay.field if delay else "",
        )
        # Rows of tables are sent as the envelope, also where the service reads other shapes.
        path = event.features if isinstance(event.features, str) else ""
        features = path if path not in ("", "*") else "features"
        types, missing = cells.declared(columns.types), frozenset(columns.missing or ())
        return ReadOptions(
            EventPaths(event.key or "key", event.time, event.time_unit, event.id, event.label, features),
            ColumnMapping(roles, types, missing, form.decimal, event.time_unit, timed),
            Dialect(delimiter, form.encoding, tuple(cells.names(form.header)), form.skip_rows),
            form.form,
        )
