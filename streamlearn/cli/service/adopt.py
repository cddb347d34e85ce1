"""`streamlearn adopt`: go on with topics that have other ids, as after a move to another cluster."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from streamlearn.cli import common, options
from streamlearn.cli.options import InputOptions
from streamlearn.cli.service.reset import confirm, refuse_while_served
from streamlearn.cli.service.serve import start_again

if TYPE_CHECKING:
    from streamlearn.service.adopt import Moved


def adopt(
    *,
    yes: options.Yes = False,
    app_dir: options.AppDir = None,
    service: InputOptions,
) -> None:
    """Go on with topics whose ids changed, as on a moved or mirrored cluster, after comparing the records.

    Example: streamlearn adopt --bootstrap-servers new-cluster:9092
    """
    settings = service.settings()
    start_again(settings.app.portable_math)
    sys.path.insert(0, str((app_dir or Path()).resolve()))

    from streamlearn.observe import logs
    from streamlearn.service.adopt import moved

    logs.setup(common.ENV)
    refuse_while_served(settings)
    with moved(common.ENV, settings) as move:
        _show(move)
        confirm("Take these topics over?", yes)
        move.take_over()
    print("done: the journal goes on with the topics that are here. Start the service.")


def _show(move: "Moved") -> None:
    for new in move.changed:
        held = ", ".join(f"{first} to {end}" for first, end in zip(new.start, new.end, strict=True))
        stands = "" if new.position is None else f"; the app stands at {', '.join(map(str, new.position))}"
        print(f"{new.topic}: id {new.before} -> {new.now}; it holds offsets {held}{stands}")
    if move.compared:
        print(
            f"{move.compared} of {move.entries} entries were redone on the records that are here: each "
            "output is, byte for byte, the one that was published"
        )
    else:
        print(
            f"none of {move.entries} entries could be redone: the newest checkpoint stands at the journal's "
            "end, and there is no older one. That the records are the same is for you to know"
        )
