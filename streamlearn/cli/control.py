"""`streamlearn control`: send a command to a service, as a record of its control topic."""

from typing import Annotated

import typer

from streamlearn.cli import common
from streamlearn.errors import ConfigError

app = typer.Typer(help="Send a command to a running or stopped service.", no_args_is_help=True)


@app.callback()
def _commands() -> None:
    """A group, though there is one command yet."""


@app.command("guard-reset")
def guard_reset(
    *,
    feature: Annotated[str, typer.Argument(metavar="NAME", help="The feature's name.")],
    name: common.Name = None,
    config: common.ConfigFile = None,
    bootstrap_servers: common.Servers = None,
    backend: common.Backend = None,
    db: common.Db = None,
    option: common.Options = None,
) -> None:
    """Forget the type that was learned for a feature; it is learned again from the next events."""
    from streamlearn.config import load
    from streamlearn.core.commands import GUARD_RESET, Command, encode_command
    from streamlearn.log.port import Row

    if not feature:
        raise ConfigError("control guard-reset: NAME is empty; name the feature")
    given = common.flags(bootstrap_servers, backend, db, option, app_name=name)
    settings = load(config, given, need_input=False)
    topic = settings.topics.control
    with common.admin_of(settings) as admin:
        if topic not in admin.topics([topic]):
            raise ConfigError(
                f"there is no control topic {topic}: is the service called {settings.app.name}? "
                "`streamlearn topics ensure` makes the topics of a service"
            )
        admin.append(topic, [Row(None, encode_command(Command(GUARD_RESET, feature)), (), 0)])
    print(f"sent guard-reset of {feature} to {topic}; the service applies it when it reads it")
