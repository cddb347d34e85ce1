"""Paths into a JSON value: `temp`, `meta.id`, `values.0`; and the flat view of a whole value.

One rule serves both directions. At each object the longest part of the path that names a member is tried
first, so a member literally named `a.b` wins over `b` inside `a`. A number descends into an array. `flat`
gives every scalar its path.
"""

import re
from collections.abc import Callable
from typing import Any, Final

from streamlearn.core.events.event import Refusal

MISSING: Final[Any] = object()
"""The value of a path that leads nowhere; null is a value of its own."""

_INDEX: Final = re.compile("0|[1-9][0-9]{0,8}")

Getter = Callable[[Any], Any]


def getter(path: str) -> Getter:
    """Compile the look-up of `path` in an object: its value, or `MISSING`.

    >>> getter("meta.id")({"meta": {"id": 7}}), getter("a.1")({"a": [4, 5]})
    (7, 5)
    """
    if "." not in path:
        return lambda doc: doc.get(path, MISSING)
    return lambda doc: _find(doc, path)


def optional(path: str) -> Getter:
    """The same for those to whom null and nothing are one: the value, or None."""
    if "." not in path:
        return lambda doc: doc.get(path)
    return lambda doc: None if (value := _find(doc, path)) is MISSING else value


def take(doc: dict[str, Any], path: str) -> Any:
    """Remove what `path` finds in `doc`, and return it; None where there is nothing. An element of an array
    becomes null, so that the others keep their places.

    >>> doc = {"meta": {"y": 1, "n": 2}}
    >>> take(doc, "meta.y"), doc
    (1, {'meta': {'n': 2}})
    """
    location = _locate(doc, path)
    if location is None:
        return None
    node, name = location
    value = node[name]
    if type(node) is dict:
        del node[name]
    else:
        node[name] = None
    return value


def _find(node: Any, path: str) -> Any:
    location = _locate(node, path)
    return MISSING if location is None else location[0][location[1]]


def _locate(node: Any, path: str) -> tuple[Any, Any] | None:
    """The object or array in which `path` ends, and the name or number there."""
    if type(node) is dict:
        if path in node:
            return node, path
        split = path.rfind(".")
        while split >= 0:
            if (inner := node.get(path[:split])) is not None:
                value = _locate(inner, path[split + 1 :])
                if value is not None:
                    return value
            split = path.rfind(".", 0, split)
    elif type(node) is list:
        head, dot, rest = path.partition(".")
        # Only the one spelling of a number, so that no element has two paths.
        if _INDEX.fullmatch(head) and int(head) < len(node):
            return _locate(node[int(head)], rest) if dot else (node, int(head))
    return None


def flat(doc: dict[str, Any]) -> dict[str, Any] | Refusal:
    """Every scalar and null in `doc` under its path, in the order of the text; refused where two have one.

    >>> flat({"a": 1, "b": {"c": [2, 3]}})
    {'a': 1, 'b.c.0': 2, 'b.c.1': 3}
    """
    pairs = leaves(doc, empties=False)
    value = dict(pairs)
    return value if len(value) == len(pairs) else Refusal("guard", "same_path")


def leaves(doc: dict[str, Any], empties: bool = True) -> list[tuple[str, Any]]:
    """Every scalar and null in `doc` with its path, in the order of the text. `empties`: an empty object or
    array stands for itself. However deeply values are nested, the stack of calls is not.
    """
    value = []
    stack = [_members("", doc)]
    while stack:
        for path, node in stack[-1]:
            if (type(node) is dict or type(node) is list) and (node or not empties):
                stack.append(_members(path + ".", node))
                break
            value.append((path, node))
        else:
            stack.pop()
    return value


def _members(prefix: str, node: Any) -> Any:
    pairs = node.items() if type(node) is dict else enumerate(node)
    return ((f"{prefix}{name}", inner) for name, inner in pairs)
