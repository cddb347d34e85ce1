"""streamlearn: models that keep learning on a live stream, and can be trusted with it.

Public names: `run(model, events)` is the service in memory; `serve(config, model=None)` the service on a
log; `load("file:DIR@latest")` the river model in a checkpoint; everything else is the command line's,
`streamlearn --help`.

To read the code, begin with ARCHITECTURE.md, then core/records.py, core/journal.py,
core/shard/shard.py, log/port.py, service/process.py and service/recovery.py.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamlearn.engine.in_memory import run
    from streamlearn.service import serve
    from streamlearn.service.loading import load

__all__ = ["load", "run", "serve"]


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used: river and pydantic take seconds (PEP 562)."""
    if name == "run":
        from streamlearn.engine.in_memory import run

        return run
    if name == "load":
        from streamlearn.service.loading import load

        return load
    if name == "serve":
        from streamlearn.service import serve

        return serve
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
