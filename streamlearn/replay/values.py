"""From a value that has a type already (JSON lines, Parquet, Arrow, Python) to its JSON text.

Invariants:
- Types stay: text is not looked into for numbers, unless a type is declared.
- None and NaN are absent; infinities, integers beyond 64 bits, lists, objects and bytes are refused.
"""

import datetime
import decimal
from collections.abc import Callable, Iterable
from math import isfinite, isnan
from typing import Any

import orjson

from streamlearn.core.convert import CONVERSIONS, INT_LIMIT, from_decimal, is_word
from streamlearn.core.paths import MISSING
from streamlearn.replay.cells import BadCell, Column, Rule, Text, converter, date, misfit, quoted, zoned


def texts_of(values: Iterable[Any], rule: Rule) -> Column:
    """JSON texts of values that have types already (JSON lines, Parquet, Python). Raises `BadCell`."""
    convert = converter(rule)
    found: list[Text] = []
    for index, value in enumerate(values):
        try:
            found.append(_text_of(value, rule, convert))
        except ValueError as error:
            raise BadCell(index, str(error)) from None
    return Column(found, None not in found)


def _text_of(value: Any, rule: Rule, convert: Callable[[str], Text]) -> Text:
    if value is None:
        return None
    if hasattr(value, "item"):  # numpy's numbers
        value = value.item()
    if isinstance(value, decimal.Decimal):
        found = from_decimal(value)
        value = float(value) if found is MISSING else found
    if isinstance(value, str):
        return convert(value) if rule.kind else (None if is_word(value, rule.missing) else quoted(value))
    if isinstance(value, float):
        if isnan(value):  # what data frames write for a missing value
            return None
        if not isfinite(value):
            raise ValueError(f"{value} is an infinity, which JSON cannot hold: correct it, or leave it out")
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return _text_of_date(value, rule)
    if not isinstance(value, bool | int | float):
        raise ValueError(
            f"a value of the type {type(value).__name__} can be no feature: choose the columns with"
            " --features, or take it apart before"
        )
    if rule.kind in CONVERSIONS:
        return _declared(value, rule)
    text = orjson.dumps(value).decode() if -INT_LIMIT <= value < INT_LIMIT or type(value) is float else ""
    if not text:
        raise ValueError(f"{value} does not fit in 64 bits: declare it as text, --types {rule.column}=str")
    return convert(text) if rule.kind else text


def _declared(value: bool | int | float, rule: Rule) -> Text:
    """As `[event] types` converts it."""
    if str(value) in rule.missing:
        return None
    found = CONVERSIONS[rule.kind](value)
    if found is MISSING:
        raise misfit(str(value), rule, "int of 64 bits" if rule.kind == "int" else rule.kind)
    return quoted(found) if type(found) is str else orjson.dumps(found).decode()


def _text_of_date(value: datetime.date | datetime.time, rule: Rule) -> Text:
    if isinstance(value, datetime.time):
        return f'"{value.isoformat()}"'
    if isinstance(value, datetime.datetime):
        text = zoned(value).isoformat()
        return date(text, rule._replace(pattern="")) if rule.kind == "date" else f'"{text}"'
    if rule.kind in ("time", "datetime"):
        return f'"{value.isoformat()}T00:00:00+00:00"'
    return f'"{value.isoformat()}"'
