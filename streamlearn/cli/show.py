"""`streamlearn config` and `streamlearn version`: what is set, from where, and what is installed."""

import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamlearn.cli import common, options
from streamlearn.cli.options import ConfigOptions, InputOptions, LogOptions, register
from streamlearn.cli.service import checkpoints

if TYPE_CHECKING:
    from streamlearn.config.load import Config

PARTS = ("streamlearn", "river", "numpy", "kafka-python")

app = typer.Typer(help="Show the configuration, a template for it, or its schema.", no_args_is_help=True)


@register(app)
def show(
    *,
    learned: Annotated[
        bool, typer.Option("--learned", help="Instead: the features' types in the newest checkpoint.")
    ] = False,
    as_json: options.AsJson = False,
    service: InputOptions,
) -> None:
    """Every value and where it came from. Secrets read ***."""
    from streamlearn.config.load import explain

    if learned:
        _show_learned(service.settings(need_input=False), as_json)
        return
    settings = explain(service.file, service.flags())
    if as_json:
        common.print_json({item.key: {"value": item.value, "source": item.source} for item in settings})
        return
    import orjson

    for item in settings:
        assignment = f"{item.key} = {orjson.dumps(item.value).decode()}"
        print(f"{assignment.ljust(52)} # {item.source}")


def _show_learned(settings: "Config", as_json: bool) -> None:
    """The guard's table: as the newest checkpoint has it, which may be some seconds old."""
    name, rows = checkpoints.learned_types(settings)
    if as_json:
        common.print_json({"checkpoint": name, "types": rows})
        return
    print(f"{'feature':<32} {'type':<8} {'from':<9} {'agreed':>6} {'texts':>6}  as of checkpoint {name}")
    for row in rows:
        line = f"{row['feature']:<32} {row['kind']:<8} {row['from']:<9} {row['agreed']:>6} {row['texts']:>6}"
        note = "  withheld from the model: declare it in [event] types" if row["withheld"] else ""
        print(line + note)


@register(app)
def init(
    *,
    source: Annotated[
        str,
        typer.Option("--from", metavar="SOURCE", help="Propose one for this source or topic (see `look`)."),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="A new file. [default: standard output]"),
    ] = None,
    log: LogOptions,
) -> None:
    """A commented TOML file with every default, or one that fits what is in a source or topic."""
    if source:
        from streamlearn.cli.offline.look import LIMIT, proposed
        from streamlearn.cli.offline.source_options import SourceOptions

        text = proposed(source, LIMIT, ConfigOptions(log=log), SourceOptions())[1]
    else:
        from streamlearn.config.load import template

        text = template()
    if out is None:
        print(text, end="")
        return
    from streamlearn.history.whole_file import whole_file

    with whole_file(out, new=True) as file:
        file.write(text.encode("utf-8", "backslashreplace"))
    common.note(f"wrote {out}")


@register(app)
def schema() -> None:
    """The JSON Schema of the configuration, for editors."""
    from streamlearn.config.load import schema as json_schema

    common.print_json(json_schema())


def version(as_json: options.AsJson = False) -> None:
    """What is installed: streamlearn, Python, and the parts that decide its results."""
    versions = {name: metadata.version(name) for name in PARTS} | {"python": platform.python_version()}
    if as_json:
        common.print_json(versions)
    else:
        for name, number in versions.items():
            print(f"{name} {number}")
