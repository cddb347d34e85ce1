"""Which room of the package may import which: an allow-list. `python scripts/rooms.py` prints it as a table.

What is not in the list is forbidden. A house of the core has a door: its `__all__` names the modules that
other rooms may import. `tests/test_house.py` compares it with the code, and with the table in
ARCHITECTURE.md, which is this script's.
"""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).resolve().parent.parent / "streamlearn"
ENTRANCES: Final = frozenset(("__init__", "__main__"))
"""Modules of the package itself: they lead into every room."""

CORE: Final = (
    "core.records",
    "core.journal",
    "core.events",
    "core.model",
    "core.labels",
    "core.scores",
    "core.shard",
)
MAY_IMPORT: Final[dict[str, tuple[str, ...]]] = {
    "errors": (),
    "env": ("errors",),
    "core": (),
    "core.records": (),
    "core.turns": ("core.records",),
    "core.journal": ("errors", "core.records", "core.turns"),
    "core.events": ("errors", "core.records"),
    "core.model": ("errors", "core.events"),
    "core.labels": ("errors", "core.records", "core.events"),
    "core.scores": ("errors", "core.events", "core.model"),
    "core.shard": ("errors", *CORE[:-1]),
    "features": ("errors",),
    "config": ("errors", "core.records", "core.events", "log.port", "log.folder_store"),
    "log": ("errors", "env", "core.records", "core.journal"),
    "log.backends": ("errors", "env", "log", "config"),
    "engine": ("errors", "env", *CORE, "features", "config", "log.port", "log.folder_store"),
    "observe": ("errors", "env", "core.shard", "engine"),
    "service": ("errors", "env", *CORE, "config", "log.port", "log.backends", "engine", "observe"),
    "history": ("errors", "env", *CORE, "config", "log.port"),
    "studies": ("errors", "env", *CORE, "config", "log.port", "engine", "history"),
    "cli": ("everything",),
    "demo": ("everything",),
}


def modules() -> Iterator[tuple[str, Path]]:
    """The dotted name, without the package's own, and the file of each module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts), path


def room(module: str) -> str:
    """The longest name in the list that `module` is, or lies in; the first part of its name in no such."""
    found = [name for name in MAY_IMPORT if f"{module}.".startswith(f"{name}.")]
    return max(found, key=len, default=module.split(".", maxsplit=1)[0])


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """The line and the name, without the package's own, of all that a module imports from the package."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("streamlearn."):
                yield node.lineno, name.removeprefix("streamlearn.")


def doors() -> dict[str, list[str]]:
    """The modules of each house of the core that other rooms may import, as its `__init__` names them."""
    found = {}
    for house in CORE:
        entrance = PACKAGE / house.replace(".", "/") / "__init__.py"
        for node in ast.parse(entrance.read_text()).body if entrance.exists() else ():
            match node:
                case ast.Assign(targets=[ast.Name(id="__all__")], value=names):
                    found[house] = [f"{house}.{name}" for name in ast.literal_eval(names)]
    return found


def _lies_in(name: str, rooms: Iterable[str]) -> bool:
    return any(f"{name}.".startswith(f"{room}.") for room in rooms)


def breaches() -> list[str]:
    """Every import that the list does not allow: file, line, and what is imported."""
    found = []
    open_modules = doors()
    for module, path in modules():
        inside, file = room(module), path.relative_to(PACKAGE)
        if module in ENTRANCES:
            continue
        if inside not in MAY_IMPORT:
            found.append(f"{file}: no room of scripts/rooms.py")
            continue
        allowed = MAY_IMPORT[inside]
        for line, name in imported(path):
            owner = room(name)
            if owner == inside:
                continue
            if "everything" not in allowed and not _lies_in(name, allowed):
                found.append(f"{file}:{line}: {inside} imports {name}")
            elif owner in open_modules and not _lies_in(name, open_modules[owner]):
                found.append(f"{file}:{line}: {name} is behind the door of {owner}")
    return found


def table() -> str:
    """The list as a table in Markdown."""
    rows = (
        f"| `{name}` | {', '.join(f'`{one}`' for one in may) or '-'} |" for name, may in MAY_IMPORT.items()
    )
    return "\n".join(("| room | may import |", "|---|---|", *rows)).replace("`everything`", "all")


if __name__ == "__main__":
    print(table())
    for breach in breaches():
        print(breach)
