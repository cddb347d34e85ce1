"""`streamlearn control`: send a command to a service, as a record of its control topic."""

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from streamlearn.cli import common
from streamlearn.cli.options import ServiceOptions, register
from streamlearn.errors import ConfigError

if TYPE_CHECKING:
    from streamlearn.core.shard.commands import Command


class What(Enum):
    """The things that `control reset` can forget."""

    TIME = "time"
    LABEL = "label"


app = typer.Typer(help="Send a command to a running or stopped service.", no_args_is_help=True)


@register(app, "guard-reset")
def guard_reset(
    *,
    feature: Annotated[str, typer.Argument(metavar="NAME", help="The feature's name.")],
    service: ServiceOptions,
) -> None:
    """Forget the type that was learned for a feature; it is learned again from the next events."""
    from streamlearn.core.shard.commands import GUARD_RESET, Command

    if not feature:
        raise ConfigError("control guard-reset: NAME is empty; name the feature")
    _send(service, Command(GUARD_RESET, feature))


@register(app, "freeze")
def freeze(service: ServiceOptions) -> None:
    """Stop learning, until `thaw`; predictions go on."""
    from streamlearn.core.shard.commands import FREEZE, Command

    _send(service, Command(FREEZE))


@register(app, "thaw")
def thaw(service: ServiceOptions) -> None:
    """Let learning go on, whatever has stopped it: `freeze`, a pause, or a state that was broken."""
    from streamlearn.core.shard.commands import THAW, Command

    _send(service, Command(THAW))


@register(app, "reset")
def reset(
    *,
    subject: Annotated[What, typer.Argument(metavar="time|label", help="What to forget.")],
    service: ServiceOptions,
) -> None:
    """Forget the time unit that was settled, or the type of labels; the next records decide anew."""
    from streamlearn.core.shard.commands import RESET_LABEL, RESET_TIME, Command

    command = Command(RESET_TIME if subject is What.TIME else RESET_LABEL)
    _send(service, command)


def _send(service: ServiceOptions, command: "Command") -> None:
    """Append the command to the service's control topic."""
    from streamlearn.core.shard.commands import encode_command
    from streamlearn.log.port import ProducerRecord

    settings = service.settings()
    topic = settings.topics.control
    with common.open_admin(settings) as admin:
        if topic not in admin.topics([topic]):
            raise ConfigError(
                f"there is no control topic {topic}: is the service called {settings.app.name}? "
                "`streamlearn topics ensure` makes the topics of a service"
            )
        admin.append(topic, [ProducerRecord(None, encode_command(command), (), 0)])
    about = f" of {command.feature}" if command.feature else ""
    print(f"sent {command.name}{about} to {topic}; the service applies it when it reads it")
