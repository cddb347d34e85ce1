"""Paths into a JSON value: `temp`, `meta.id`, `values.0`; and the flat view of a whole value.

One rule serves both directions. At each object the whole rest of the path is tried as the name of a
member first, so a member literally named `a.b` wins over `b` inside `a`; only then the first part is
descended into. A number descends into an array. `flat` gives every scalar its path.
"""

from collections.abc import Callable
from typing import Any, Final

from streamlearn.core.events import Refusal

MISSING: Final[Any] = object()
"""What a path gives where there is nothing; null is something."""

MAX_INDEX_DIGITS: Final = 9

Getter = Callable[[Any], Any]


def getter(path: str) -> Getter:
    """What finds `path` in an object: its value, or `MISSING`.

    >>> getter("meta.id")({"meta": {"id": 7}}), getter("a.1")({"a": [4, 5]})
    (7, 5)
    """
    if "." not in path:
        return lambda doc: doc.get(path, MISSING)
    return lambda doc: _find(doc, path)


def _find(part: Any, path: str) -> Any:
    rest = path
    while True:
        if type(part) is dict:
            if rest in part:
                return part[rest]
            head, dot, rest = rest.partition(".")
            part = part.get(head, MISSING)
        elif type(part) is list:
            head, dot, rest = rest.partition(".")
            # Only the one spelling of a number, so that no element has two paths.
            known = head.isdecimal() and head.isascii() and len(head) <= MAX_INDEX_DIGITS
            index = int(head) if known and str(int(head)) == head else len(part)
            part = part[index] if index < len(part) else MISSING
        else:
            return MISSING
        if not dot:
            return part


def flat(doc: dict[str, Any]) -> dict[str, Any] | Refusal:
    """Every scalar and null in `doc` under its path, in the order of the text; refused where two have one.

    >>> flat({"a": 1, "b": {"c": [2, 3]}})
    {'a': 1, 'b.c.0': 2, 'b.c.1': 3}
    """
    found: dict[str, Any] = {}
    scalars = 0
    stack = [_members("", doc)]
    while stack:
        for path, part in stack[-1]:
            if type(part) is dict or type(part) is list:
                stack.append(_members(path + ".", part))
                break
            found[path] = part
            scalars += 1
        else:
            stack.pop()
    return found if len(found) == scalars else Refusal("guard", "same_path")


def _members(prefix: str, part: Any) -> Any:
    pairs = part.items() if type(part) is dict else enumerate(part)
    return ((f"{prefix}{name}", inner) for name, inner in pairs)
