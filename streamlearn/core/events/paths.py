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
"""What a path gives where there is nothing; null is something."""

_PLACE: Final = re.compile("0|[1-9][0-9]{0,8}")

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
    return lambda doc: None if (found := _find(doc, path)) is MISSING else found


def take(doc: dict[str, Any], path: str) -> Any:
    """Remove what `path` finds in `doc`, and return it; None where there is nothing. An element of an array
    becomes null, so that the others keep their places.

    >>> doc = {"meta": {"y": 1, "n": 2}}
    >>> take(doc, "meta.y"), doc
    (1, {'meta': {'n': 2}})
    """
    place = _locate(doc, path)
    if place is None:
        return None
    part, name = place
    found = part[name]
    if type(part) is dict:
        del part[name]
    else:
        part[name] = None
    return found


def _find(part: Any, path: str) -> Any:
    place = _locate(part, path)
    return MISSING if place is None else place[0][place[1]]


def _locate(part: Any, path: str) -> tuple[Any, Any] | None:
    """The object or array in which `path` ends, and the name or number there."""
    if type(part) is dict:
        if path in part:
            return part, path
        at = path.rfind(".")
        while at >= 0:
            if (inner := part.get(path[:at])) is not None:
                found = _locate(inner, path[at + 1 :])
                if found is not None:
                    return found
            at = path.rfind(".", 0, at)
    elif type(part) is list:
        head, dot, rest = path.partition(".")
        # Only the one spelling of a number, so that no element has two paths.
        if _PLACE.fullmatch(head) and int(head) < len(part):
            return _locate(part[int(head)], rest) if dot else (part, int(head))
    return None


def flat(doc: dict[str, Any]) -> dict[str, Any] | Refusal:
    """Every scalar and null in `doc` under its path, in the order of the text; refused where two have one.

    >>> flat({"a": 1, "b": {"c": [2, 3]}})
    {'a': 1, 'b.c.0': 2, 'b.c.1': 3}
    """
    pairs = leaves(doc, empties=False)
    found = dict(pairs)
    return found if len(found) == len(pairs) else Refusal("guard", "same_path")


def leaves(doc: dict[str, Any], empties: bool = True) -> list[tuple[str, Any]]:
    """Every scalar and null in `doc` with its path, in the order of the text. `empties`: an empty object or
    array stands for itself. However deeply values are nested, the stack of calls is not.
    """
    found = []
    stack = [_members("", doc)]
    while stack:
        for path, part in stack[-1]:
            if (type(part) is dict or type(part) is list) and (part or not empties):
                stack.append(_members(path + ".", part))
                break
            found.append((path, part))
        else:
            stack.pop()
    return found


def _members(prefix: str, part: Any) -> Any:
    pairs = part.items() if type(part) is dict else enumerate(part)
    return ((f"{prefix}{name}", inner) for name, inner in pairs)
