"""Declared types: a value as it came to the value of its declared type, exactly or not at all.

A conversion never rounds, truncates or guesses: "21.5" is the float 21.5, 3.0 is the int 3, and "abc",
3.5 as an int or a number beyond 64 bits are `MISSING`, which makes the record a dead letter.
"""

import re
from collections.abc import Callable
from math import isfinite
from typing import Any, Final

from streamlearn.core.paths import MISSING

_NUMBER: Final = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_WHOLE: Final = re.compile(r"\s*[+-]?\d{1,19}\s*", re.ASCII)
_CELL: Final = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_BOOLS: Final = {"true": True, "false": False, "1": True, "0": False}

Convert = Callable[[Any], Any]


def _float(value: Any) -> Any:
    kind = type(value)
    if kind is float:
        return value
    if kind is int:
        number = float(value)
        return number if int(number) == value else MISSING
    if kind is str and _NUMBER.fullmatch(value):
        number = float(value)
        return number if isfinite(number) else MISSING
    return MISSING


def _int(value: Any) -> Any:
    kind = type(value)
    if kind is float:
        value = int(value) if value.is_integer() else MISSING
    elif kind is str:
        value = int(value) if _WHOLE.fullmatch(value) else MISSING
    elif kind is not int:
        return MISSING
    return value if value is not MISSING and -(2**63) <= value < 2**63 else MISSING


def _str(value: Any) -> Any:
    if type(value) is bool:
        return "true" if value else "false"
    return str(value) if type(value) in (str, int, float) else MISSING


def _bool(value: Any) -> Any:
    if type(value) is bool:
        return value
    if type(value) is str:
        return _BOOLS.get(value.strip().lower(), MISSING)
    return bool(value) if type(value) in (int, float) and value in (0, 1) else MISSING


CONVERSIONS: Final[dict[str, Convert]] = {"float": _float, "int": _int, "str": _str, "bool": _bool}
"""By the name of the type: a scalar to a value of that type, or `MISSING`."""


def cell(text: str) -> str | int | float | None:
    """A cell of a CSV line: nothing, a number as JSON would write it, or the text as it stands.

    A number is one only when a double or 64 bits hold it; "007" and "1e999" stay text.

    >>> cell(""), cell("3"), cell("21.50"), cell("007"), cell("on")
    (None, 3, 21.5, '007', 'on')
    """
    if not text:
        return None
    match = _CELL.fullmatch(text)
    if not match:
        return text
    if match[2] or match[3]:
        number = float(text)
        return number if isfinite(number) else text
    return int(text) if len(text) < 20 and -(2**63) <= int(text) < 2**63 else text
