"""Options that several commands have: each is defined once, and those that go together are a group.

A command takes a group as one parameter, and typer sees the group's options in its place (`register`).

Invariant: a group is a `NamedTuple` whose fields are options or groups, each with a default.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import typer

from streamlearn.errors import ConfigError

if TYPE_CHECKING:
    from streamlearn.config.load import Config

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Name = Annotated[
    str | None,
    typer.Option("--name", "-n", metavar="NAME", help="The service's name. [default: streamlearn]"),
]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="MODEL", help="preset:NAME, my_module:build, river.tree:Class."),
]
AppDir = Annotated[
    Path | None, typer.Option("--app-dir", metavar="DIR", help="Where your modules are. [default: here]")
]
Inputs = Annotated[
    list[str] | None, typer.Option("--input", "-i", metavar="TOPIC", help="A topic to read; may be repeated.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
From = Annotated[
    str, typer.Option("--from", metavar="WHERE", help="beginning, an offset, -N or an RFC 3339 time.")
]
To = Annotated[
    str, typer.Option("--to", metavar="WHERE", help="Where to end (exclusive): end, an offset, a time.")
]


class LogOptions(NamedTuple):
    """The log: brokers, or the embedded log's file."""

    bootstrap_servers: Annotated[
        str | None,
        typer.Option("--bootstrap-servers", "-b", metavar="HOST:PORT", help="The Kafka brokers."),
    ] = None
    backend: Annotated[str | None, typer.Option("--backend", metavar="NAME", help="kafka or embedded.")] = (
        None
    )
    db: Annotated[
        str | None, typer.Option("--db", metavar="FILE", help="Use the embedded log in this SQLite file.")
    ] = None
    option: Annotated[
        list[str] | None,
        typer.Option("-X", metavar="KEY=VALUE", help="Kafka client option, e.g. security.protocol=SSL."),
    ] = None

    def flags(self, **more: object) -> dict[str, object]:
        """The flags that were given, by dotted configuration key (`app_name` stands for `app.name`)."""
        flags: dict[str, object] = {
            "log.bootstrap_servers": self.bootstrap_servers,
            "log.backend": self.backend,
            "log.path": self.db,
        }
        flags |= {key.replace("_", ".", 1): value for key, value in more.items()}
        for option in self.option or []:
            key, equals, value = option.partition("=")
            if not equals or not key:
                raise ConfigError(f"-X {option}: write KEY=VALUE, for example -X security.protocol=SSL")
            flags[f"log.options.{key}"] = value
        return {key: value for key, value in flags.items() if value is not None and value != []}


class ConfigOptions(NamedTuple):
    """The configuration: its file, and the log that options name instead."""

    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            help="TOML file. [default: streamlearn.toml, else pyproject.toml]",
        ),
    ] = None
    log: LogOptions = LogOptions()

    def settings(self, need_input: bool = False, **more: object) -> "Config":
        """The configuration, with flags before the file's values (see `LogOptions.flags`)."""
        from streamlearn.config.load import load

        return load(self.config, self.log.flags(**more), need_input=need_input)


class ServiceOptions(NamedTuple):
    """A service: its name and its configuration."""

    name: Name = None
    config: ConfigOptions = ConfigOptions()

    def settings(self) -> "Config":
        """The service's configuration, for a command that reads no input."""
        return self.config.settings(app_name=self.name)


class InputOptions(NamedTuple):
    """A service whose input topics may be named, too."""

    inputs: Inputs = None
    service: ServiceOptions = ServiceOptions()

    @property
    def file(self) -> Path | None:
        """The configuration file that was named."""
        return self.service.config.config

    def flags(self) -> dict[str, object]:
        """The flags that were given."""
        return self.service.config.log.flags(topics_input=self.inputs, app_name=self.service.name)

    def settings(self, need_input: bool = True) -> "Config":
        """The service's configuration."""
        from streamlearn.config.load import load

        return load(self.file, self.flags(), need_input=need_input)


Command = TypeVar("Command", bound=Callable[..., None])


def register(
    app: typer.Typer, name: str | None = None, short_help: str | None = None
) -> Callable[[Command], Command]:
    """Add a command to `app`: each of its parameters that is a group is the group's options there."""

    def add(command: Command) -> Command:
        app.command(name, short_help=short_help)(_with_options(command))
        return command

    return add


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with options instead of groups."""
    signature = inspect.signature(command)
    parameters = signature.parameters.values()

    @functools.wraps(command)
    def call(**values: Any) -> None:
        command(**_arguments(parameters, values))

    vars(call)["__signature__"] = signature.replace(parameters=[*_options(parameters)])
    return call


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple)


def _fields(group: Any) -> Iterable[inspect.Parameter]:
    return inspect.signature(group).parameters.values()


def _options(parameters: Iterable[inspect.Parameter]) -> Iterator[inspect.Parameter]:
    for parameter in parameters:
        if _is_group(parameter.annotation):
            yield from _options(_fields(parameter.annotation))
        else:
            yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)


def _arguments(parameters: Iterable[inspect.Parameter], values: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a command or group out of the values of all options."""
    return {
        parameter.name: parameter.annotation(**_arguments(_fields(parameter.annotation), values))
        if _is_group(parameter.annotation)
        else values[parameter.name]
        for parameter in parameters
    }
