"""Resolve `module:attribute`: a model, a factory, a source."""

import importlib
from typing import Any

from streamlearn.errors import ConfigError


def attribute(name: str, where: str) -> Any:
    """The object that `name` leads to. Raises `ConfigError`, whose message begins with `where`."""
    module_name, _, path = name.partition(":")
    try:
        target: Any = importlib.import_module(module_name)
    except Exception as error:  # importing runs the user's module: whatever it raises, it cannot be used
        raise ConfigError(
            f"{where}: importing {module_name} raised {type(error).__name__}: {error}. Modules are "
            "looked for in the working directory (of `serve` also --app-dir) and the installed packages."
        ) from error
    for attribute in path.split("."):
        if not hasattr(target, attribute):
            raise ConfigError(f"{where}: {module_name} has no {path!r}.")
        target = getattr(target, attribute)
    return target
