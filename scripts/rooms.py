"""Which room of the package may import which: an allow-list. `python scripts/rooms.py` prints it as a table.

What is not in the list is forbidden. `tests/test_house.py` compares it with the code, and with the table in
ARCHITECTURE.md, which is this script's.
"""

import ast
from collections.abc import Iterator
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
    "core.journal": ("errors", "core.records"),
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


def breaches() -> list[str]:
    """Every import that the list does not allow: file, line, and what is imported."""
    found = []
    for module, path in modules():
        inside = room(module)
        if module in ENTRANCES:
            continue
        if inside not in MAY_IMPORT:
            found.append(f"{path.relative_to(PACKAGE)}: no room of scripts/rooms.py")
            continue
        allowed = MAY_IMPORT[inside]
        found += [
            f"{path.relative_to(PACKAGE)}:{line}: {inside} imports {name}"
            for line, name in imported(path)
            if "everything" not in allowed and room(name) not in (inside, *allowed)
            if not any(f"{name}.".startswith(f"{one}.") for one in allowed)
        ]
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
