"""The grammar of values that come as text: one for a file's cells, a topic's lines of CSV and texts in JSON.

Invariants:
- A conversion never rounds, truncates or guesses: "21.5" is the float 21.5, 3.0 and "3.0" are the int 3, and
  "abc", 3.5 as an int or a number beyond 64 bits are `MISSING`, which refuses the record.
- Blanks around a value (also a no-break space) mean nothing, unless the value is declared to be text.
- Without a declaration only what is surely a number is one: `1_000`, `0x10`, `007`, `inf` and digits other
  than 0 to 9 stay text. With one, leading zeros are digits like others.
"""

import re
from collections.abc import Callable
from decimal import Decimal
from math import isfinite
from typing import Any, Final

from streamlearn.core.events.paths import MISSING

JSON_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
"""A number as JSON writes it; a fraction or an exponent (its groups) makes it a float."""

_DECLARED: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
"""A number where a number was declared."""

COMMA_NUMBER: Final = re.compile(r"[+-]?\d+,\d+", re.ASCII)
POINT_NUMBER: Final = re.compile(r"[+-]?\d+\.\d+", re.ASCII)
INT_LIMIT: Final = 2**63
BLANKS: Final = " \t\xa0"
"""Signs that mean nothing around a text without a declared type; a line feed in a quoted cell may."""

TRUE: Final = frozenset(("true", "t", "yes", "y", "on", "1", "1.0"))
FALSE: Final = frozenset(("false", "f", "no", "n", "off", "0", "0.0"))

_LITERAL: Final = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(\.\d*)?|(\.\d+))([eE][+-]?\d+)?", re.ASCII)
_WHOLE: Final = re.compile(r"[+-]?\d{1,20}(?:\.0*)?", re.ASCII)
_EXACT: Final = 2.0**53
"""Up to here a double is an integer without having been rounded."""

NO_VALUE: Final = frozenset(
    ("-", "--", "?", "#n/a", "#na", "n/a", "na", "nan", "nil", "none", "null", "undefined", "missing", "\\n")
)
"""Words, in lower case, with which people and programs say that there is no value."""

_COAT: Final = re.compile(r"EUR|USD|GBP|CHF|[$€£¥%'’\s]")
_GROUPED: Final = re.compile(
    r"[+-]?(\d{1,3}(,\d{3})+(\.\d+)?|\d{1,3}(\.\d{3})+(,\d+)?|(0|[1-9]\d*)([.,]\d+)?)", re.ASCII
)

Convert = Callable[[Any], Any]


def is_absent(text: str, missing: frozenset[str]) -> bool:
    """Tell if a text means that there is no value: it is blank, or one of `missing`.

    >>> is_absent(" ", frozenset()), is_absent("NA", frozenset(("NA",)))
    (True, True)
    """
    bare = text.strip()
    return not bare or bare in missing


def is_word(value: Any, missing: frozenset[str]) -> bool:
    """Tell if a value that has a type already is a text of `missing`; a blank one is a text like others."""
    return type(value) is str and value.strip() in missing


def is_number(text: str) -> bool:
    """Tell if a text is a number where a number is declared."""
    return _DECLARED.fullmatch(text.strip()) is not None


def reads_as_number(text: str) -> bool:
    """Tell if anybody might take a text for a number, with either decimal sign, infinite, or in other digits:
    one that is refused as a number may still be a mistake.

    >>> [reads_as_number(text) for text in ("21,5", "1_000", "-inf", "A1")]
    [True, True, True, False]
    """
    try:
        float(text.replace(",", ".", 1))
    except ValueError:
        return False
    return True


def number(bare: str) -> int | float | None:
    """The number that a text surely is, within 64 bits or a double; None where it is none.

    >>> number("+5"), number(".5"), number("1e3"), number("007"), number("1e999")
    (5, 0.5, 1000.0, None, None)
    """
    match = _LITERAL.fullmatch(bare)
    if match is None:
        return None
    if match[1] or match[2] or match[3]:
        parsed = float(bare)
        return parsed if isfinite(parsed) else None
    return int(bare) if len(bare) <= 20 and -INT_LIMIT <= int(bare) < INT_LIMIT else None


def from_decimal(value: Decimal) -> Any:
    """The number of an exact decimal, as databases have: an int where it has no places behind the point, else
    the nearest double; `MISSING` where it is none.

    >>> from_decimal(Decimal("7")), from_decimal(Decimal("7.00")), from_decimal(Decimal("1e999")) is MISSING
    (7, 7.0, True)
    """
    if value.as_tuple().exponent == 0 and -INT_LIMIT <= value < INT_LIMIT:
        return int(value)
    parsed = float(value)
    return parsed if isfinite(parsed) else MISSING


def cell(text: str, decimal: str = ".", commas: bool = False) -> Any:
    """The value of a cell of which nothing is declared and that is not absent: a number, or its text without
    the blanks around it. `commas`: a comma may be meant for a decimal sign, because it is not the delimiter.
    `MISSING` when the cell is a number with the other decimal sign than `decimal`.

    >>> cell("21.50"), cell(" 3 "), cell("007"), cell(" on"), cell("1,5", decimal=",")
    (21.5, 3, '007', 'on', 1.5)
    """
    bare = text.strip()
    parsed: int | float | None
    if decimal != ".":
        if POINT_NUMBER.fullmatch(bare):
            return MISSING
        parsed = number(bare.replace(",", ".", 1))
    else:
        if commas and COMMA_NUMBER.fullmatch(bare):
            return MISSING
        parsed = number(bare)
    return text.strip(BLANKS) if parsed is None else parsed


def is_coated(text: str) -> bool:
    """Tell if a text that is no number would be one without what groups its digits, or its unit of money or
    percent.

    >>> is_coated("1,234.5"), is_coated("12 %"), is_coated("EUR 3"), is_coated("21.5"), is_coated("10.0.0.1")
    (True, True, True, False, False)
    """
    return not _DECLARED.fullmatch(text.strip()) and _GROUPED.fullmatch(_COAT.sub("", text)) is not None


def conversions(decimal: str = ".") -> dict[str, Convert]:
    """By the name of a type, what makes a scalar a value of that type, or `MISSING`. Texts are read with
    this decimal sign.
    """
    if decimal == ".":
        return CONVERSIONS
    return {**CONVERSIONS, "float": lambda value: _float(_with_point(value))}


def _with_point(value: Any) -> Any:
    if type(value) is not str:
        return value
    return value.replace(",", ".", 1) if "." not in value else "."


def _float(value: Any) -> Any:
    kind = type(value)
    if kind is float:
        return value
    if kind is int:
        parsed = float(value)
        return parsed if int(parsed) == value else MISSING
    if kind is str and _DECLARED.fullmatch(value.strip()):
        parsed = float(value)
        return parsed if isfinite(parsed) else MISSING
    return MISSING


def _int(value: Any) -> Any:
    if type(value) is str:
        value = value.strip()
        if _WHOLE.fullmatch(value):
            value = int(value.partition(".")[0])
        else:
            value = float(value) if _DECLARED.fullmatch(value) else MISSING
            value = value if value is not MISSING and abs(value) <= _EXACT else MISSING
    if type(value) is float:
        value = int(value) if value.is_integer() else MISSING
    return value if type(value) is int and -INT_LIMIT <= value < INT_LIMIT else MISSING


def _str(value: Any) -> Any:
    if type(value) is bool:
        return "true" if value else "false"
    return str(value) if type(value) in (str, int, float) else MISSING


def _bool(value: Any) -> Any:
    if type(value) is bool:
        return value
    if type(value) is str:
        word = value.strip().lower()
        return True if word in TRUE else False if word in FALSE else MISSING
    return bool(value) if type(value) in (int, float) and value in (0, 1) else MISSING


CONVERSIONS: Final[dict[str, Convert]] = {"float": _float, "int": _int, "str": _str, "bool": _bool}
"""By the name of the type: a scalar to a value of that type, or `MISSING`."""
