"""`streamlearn adopt`: go on with topics that have other ids, as after a move to another cluster."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamlearn.cli import common
from streamlearn.cli.reset import confirm, refuse_while_served
from streamlearn.cli.serve import start_again

if TYPE_CHECKING:
    from streamlearn.service.adopt import Moved


def adopt(
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    app_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where your modules are. [default: here]")
    ] = None,
    inputs: common.Inputs = None,
    name: common.Name = None,
    config: common.ConfigFile = None,
    bootstrap_servers: common.Servers = None,
    backend: common.Backend = None,
    db: common.Db = None,
    option: common.Options = None,
) -> None:
    """Go on with topics whose ids changed, as on a moved or mirrored cluster, after comparing the records.

    Example: streamlearn adopt --bootstrap-servers new-cluster:9092
    """
    from streamlearn.config.load import load

    given = common.flags(bootstrap_servers, backend, db, option, topics_input=inputs, app_name=name)
    settings = load(config, given)
    start_again(settings.app.portable_math)
    sys.path.insert(0, str((app_dir or Path()).resolve()))

    from streamlearn.observe import logs
    from streamlearn.service.adopt import moved

    logs.setup(common.ENV)
    refuse_while_served(settings)
    with moved(common.ENV, settings) as found:
        _show(found)
        confirm("Take these topics over?", yes)
        found.take_over()
    print("done: the journal goes on with the topics that are here. Start the service.")


def _show(found: "Moved") -> None:
    for one in found.changed:
        held = ", ".join(f"{first} to {end}" for first, end in zip(one.start, one.end, strict=True))
        stands = "" if one.position is None else f"; the app stands at {', '.join(map(str, one.position))}"
        print(f"{one.topic}: id {one.before} -> {one.now}; it holds offsets {held}{stands}")
    if found.compared:
        print(
            f"{found.compared} of {found.entries} entries were redone on the records that are here: each "
            "output is, byte for byte, the one that was published"
        )
    else:
        print(
            f"none of {found.entries} entries could be redone: the newest checkpoint stands at the journal's "
            "end, and there is no older one. That the records are the same is for you to know"
        )
