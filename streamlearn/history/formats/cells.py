"""From a cell to the JSON text of its value, or None when the cell is absent.

A cell is text (CSV), or a value that has a type already (JSON lines, Parquet, Arrow, Python). Every encoder
raises `ValueError` with the reason and the remedy for a cell that cannot be used.

Invariants:
- The value of a text is that which `core.events.values` gives it, so that a file and a topic of its lines
  agree.
- A number is written as it stood, digit for digit, when JSON can hold it so.
- A value that has a type keeps it: its text is not looked into for numbers, unless a type is declared.
  None and NaN are absent; infinities, integers beyond 64 bits, lists, objects and bytes are refused.
- A cell that does not fit its declared type is refused; nothing is guessed for it.
"""

import datetime
import decimal
import itertools
from collections import Counter
from collections.abc import Callable, Container, Iterable
from math import isfinite, isnan
from typing import Any, NamedTuple

import orjson

from streamlearn.core.events import values
from streamlearn.core.events.event import calendar_time
from streamlearn.core.events.paths import MISSING, optional
from streamlearn.core.events.values import (
    BLANKS,
    COMMA_NUMBER,
    CONVERSIONS,
    INT_LIMIT,
    JSON_NUMBER,
    from_decimal,
    is_absent,
    is_coated,
    is_number,
    is_word,
)
from streamlearn.errors import ConfigError

JsonText = str | None
"""The JSON text of a value; None = absent."""

TYPES = ("float", "int", "bool", "str", "date", "datetime")
NOTED_EVENTS = 1000
_MOSTLY = 0.9
_LEAST = 10


class ColumnType(NamedTuple):
    """The way to read the cells of one column. `kind`: a type of `TYPES`, `time` (an event's time: a number,
    or text that becomes RFC 3339), `name` (an id or a key), or "" (numbers are numbers, the rest is text
    without the blanks around it). `pattern`: `strptime`'s, for dates. `missing`: texts that mean "absent".
    `decimal`: the decimal sign. `commas`: a comma may be meant as one, because it is not the delimiter.
    """

    column: str
    kind: str = ""
    pattern: str = ""
    missing: frozenset[str] = frozenset()
    decimal: str = "."
    commas: bool = False


def declared(text: str) -> dict[str, tuple[str, str]]:
    """`name=float,day=date:%d.%m.%Y` as (type, pattern) by column. Raises `ConfigError`."""
    types = {}
    for item in names(text):
        column, _, kind = item.rpartition("=")
        if ":" in kind or not column:
            column, _, kind = item.partition("=")
        kind, _, pattern = kind.partition(":")
        if not column or kind not in TYPES or (pattern and not kind.startswith("date")):
            raise ConfigError(
                f"--types {item}: write COLUMN=TYPE with a type of {', '.join(TYPES)}, and for date and"
                " datetime a format where it is not ISO 8601, like day=date:%d.%m.%Y"
            )
        types[column] = (kind, pattern)
    return types


def names(text: str) -> list[str]:
    """A comma-separated list; a name that holds a comma stands in double quotes."""
    import csv

    return [name.strip() for row in csv.reader([text], skipinitialspace=True) for name in row if name.strip()]


def text_encoder(column: ColumnType) -> Callable[[str], JsonText]:
    """The function from a text cell to its JSON text."""
    encode = {
        "": _undeclared,
        "float": _float,
        "int": _int,
        "bool": _bool,
        "str": _str,
        "name": _str,
        "date": _date,
        "datetime": _datetime,
        "time": _time,
    }[column.kind]
    missing, keeps_blanks = column.missing, column.kind == "str"
    blanks = BLANKS if column.kind == "" else None

    def to_text(cell: str) -> JsonText:
        if is_absent(cell, missing):
            return None
        return encode(cell if keeps_blanks else cell.strip(blanks), column)

    return to_text


# --- text ---------------------------------------------------------------------------------------------


def quoted(text: str) -> str:
    """A text as JSON."""
    try:
        return orjson.dumps(text).decode()
    except orjson.JSONEncodeError:
        raise ValueError(f"{text!r} is not valid Unicode: clean the column, or leave it out") from None


def _misfit(cell: str, column: ColumnType, meant: str) -> ValueError:
    """The error for a cell that is not as `meant`. A number is never to be thrown away as absent."""
    text = cell if len(cell) <= 40 else f"{cell[:40]}..."
    absent = "" if is_number(cell) else f", or make it absent (--missing {text})"
    return ValueError(
        f"{text!r} is no {meant}: correct it{' or' if not absent else ','} declare another type"
        f" (--types {column.column}=str){absent}"
    )


def _written(value: Any, literal: str) -> str:
    """The JSON text of a value that was read from `literal`."""
    if type(value) is str:
        return quoted(value)
    match = JSON_NUMBER.fullmatch(literal)
    as_it_stands = match and type(value) is (float if match[1] or match[2] else int)
    return literal if as_it_stands else orjson.dumps(value).decode()


def _undeclared(bare: str, column: ColumnType) -> JsonText:
    value = values.cell(bare, column.decimal, column.commas)
    bare = bare.strip()
    if value is MISSING and column.decimal != ".":
        raise ValueError(
            f"{bare!r} has a decimal point, and --decimal says that numbers have a comma: correct it,"
            f" or say that it is text with --types {column.column}=str"
        )
    if value is MISSING:
        raise ValueError(
            f"{bare!r} looks like a number with a decimal comma: say --decimal , or, if it is text,"
            f" --types {column.column}=str"
        )
    return _written(value, bare if column.decimal == "." else bare.replace(",", ".", 1))


def _float(bare: str, column: ColumnType) -> JsonText:
    value = values.conversions(column.decimal)["float"](bare)
    if value is MISSING:
        if column.decimal != "." and "." in bare:
            raise _misfit(bare, column, "float with a decimal comma (--decimal ,)")
        if COMMA_NUMBER.fullmatch(bare):
            raise ValueError(f"{bare!r} is no float: if the comma is a decimal comma, say --decimal ,")
        raise _misfit(bare, column, "float")
    return _written(value, bare if column.decimal == "." else bare.replace(",", ".", 1))


def _int(bare: str, column: ColumnType) -> JsonText:
    value = values.CONVERSIONS["int"](bare)
    if value is MISSING:
        raise _misfit(bare, column, "int of 64 bits")
    return str(value)


def _bool(bare: str, column: ColumnType) -> JsonText:
    value = values.CONVERSIONS["bool"](bare)
    if value is MISSING:
        raise _misfit(bare, column, "bool (true false t f yes no y n on off 1 0)")
    return "true" if value else "false"


def _str(cell: str, _column: ColumnType) -> JsonText:
    return quoted(cell)


def _moment(bare: str, column: ColumnType) -> datetime.datetime:
    """A date and time. Raises `ValueError`."""
    when = patterned_time(bare, column.pattern) if column.pattern else calendar_time(bare)
    if when is None:
        form = f"of the format {column.pattern}" if column.pattern else "in ISO 8601 like 2026-01-31 08:00:00"
        raise ValueError(
            f"{bare!r} is no date and time {form}: correct it, or declare its format, for example"
            f" --types '{column.column}=datetime:%d.%m.%Y %H:%M:%S'"
        )
    return zoned(when)


def patterned_time(text: str, pattern: str) -> datetime.datetime | None:
    """The date and time that a text names in a format of `strptime`; None where it names none."""
    try:
        return datetime.datetime.strptime(text, pattern)
    except ValueError:
        return None


def zoned(when: datetime.datetime) -> datetime.datetime:
    """A time with a zone: without one it is taken as UTC, as river's own loaders do."""
    return when if when.tzinfo else when.replace(tzinfo=datetime.UTC)


def _date(bare: str, column: ColumnType) -> JsonText:
    """A day, as ISO 8601. Raises `ValueError` when it has a time of day."""
    when = _moment(bare, column)
    if when.timetz() != datetime.time(tzinfo=when.tzinfo):
        raise ValueError(f"{bare!r} has a time of day: declare it with --types {column.column}=datetime")
    return f'"{when.date().isoformat()}"'


def _datetime(bare: str, column: ColumnType) -> JsonText:
    return f'"{_moment(bare, column).isoformat()}"'


def _time(bare: str, column: ColumnType) -> JsonText:
    literal = bare.replace(",", ".", 1) if column.decimal != "." else bare
    if not column.pattern and (number := values.number(literal)) is not None:
        return _written(number, literal)
    return _datetime(bare, column)


# --- values that have a type ---------------------------------------------------------------------------


def value_encoder(column: ColumnType) -> Callable[[Any], JsonText]:
    """The function from a value that has a type to its JSON text."""
    from_text = text_encoder(column)

    def to_text(value: Any) -> JsonText:
        value = _plain(value)
        if value is None:
            return None
        if isinstance(value, str):
            if column.kind:
                return from_text(value)
            return None if is_word(value, column.missing) else quoted(value)
        if isinstance(value, datetime.datetime | datetime.date | datetime.time):
            return _calendar(value, column)
        if column.kind in CONVERSIONS:
            return _declared(value, column)
        text = _number(value, column)
        return from_text(text) if column.kind else text

    return to_text


def _plain(value: Any) -> Any:
    """A number of numpy's or an exact decimal as one of Python's; None for NaN, which data frames write for a
    missing value.
    """
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, decimal.Decimal):
        number = from_decimal(value)
        value = float(value) if number is MISSING else number
    if isinstance(value, float) and not isfinite(value):
        if isnan(value):
            return None
        raise ValueError(f"{value} is an infinity, which JSON cannot hold: correct it, or leave it out")
    return value


def _number(value: Any, column: ColumnType) -> str:
    if not isinstance(value, bool | int | float):
        raise ValueError(
            f"a value of the type {type(value).__name__} can be no feature: choose the columns with"
            " --features, or take it apart before"
        )
    if type(value) is not float and not -INT_LIMIT <= value < INT_LIMIT:
        raise ValueError(f"{value} does not fit in 64 bits: declare it as text, --types {column.column}=str")
    return orjson.dumps(value).decode()


def _declared(value: Any, column: ColumnType) -> JsonText:
    """As `[event] types` converts it."""
    if str(value) in column.missing:
        return None
    converted = CONVERSIONS[column.kind](value)
    if converted is MISSING:
        raise _misfit(str(value), column, "int of 64 bits" if column.kind == "int" else column.kind)
    return quoted(converted) if type(converted) is str else orjson.dumps(converted).decode()


def _calendar(value: datetime.date | datetime.time, column: ColumnType) -> JsonText:
    if isinstance(value, datetime.time):
        return f'"{value.isoformat()}"'
    if isinstance(value, datetime.datetime):
        text = zoned(value).isoformat()
        return _date(text, column._replace(pattern="")) if column.kind == "date" else f'"{text}"'
    if column.kind in ("time", "datetime"):
        return f'"{value.isoformat()}T00:00:00+00:00"'
    return f'"{value.isoformat()}"'


# --- notes --------------------------------------------------------------------------------------------


def formatted_note(column: str, example: str, where: str = "--types") -> str:
    """A note about a column of texts that would be numbers but for how they are written: a model takes each
    such text for a category of its own, and nothing else would tell. `where`: how a column is declared."""
    return (
        f"{column} is text, and nearly all of it would be numbers without the signs for thousands, money or"
        f" percent (e.g. {example!r}): each text is a category of its own to the model. Take the signs out"
        f" where the data are made (pandas: thousands=','), or declare it as str ({where}) if it is text"
    )


def formatted_notes(events: Iterable[bytes], features: str, declared: Container[str] = ()) -> list[str]:
    """Notes about the first events. `features`: the path of what holds them; without it, all members do."""
    texts: Counter[str] = Counter()
    coated: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for event in itertools.islice(events, NOTED_EVENTS):
        for name, value in _features(event, features).items():
            if type(value) is str and name not in declared:
                texts[name] += 1
                if is_coated(value):
                    coated[name] += 1
                    examples.setdefault(name, value)
    return [
        formatted_note(name, examples[name])
        for name, count in coated.items()
        if count > _MOSTLY * texts[name] and count >= _LEAST
    ]


def _features(event: bytes, path: str) -> dict[str, Any]:
    try:
        doc = orjson.loads(event)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(doc, dict):
        return {}
    features = optional(path)(doc)
    return features if isinstance(features, dict) else doc
