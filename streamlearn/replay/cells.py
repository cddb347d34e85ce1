"""From a cell to the JSON text of its value, or None when the cell is absent.

Invariants:
- A number is written as it stood, digit for digit, when JSON can hold it so. What is not surely a number
  stays text: `007`, `NaN`, `inf`, `1_000`, an integer beyond 64 bits.
- A cell that does not fit its declared type is refused with its place; nothing is guessed for it.
"""

import datetime
import re
from collections.abc import Callable, Sequence
from math import hypot, isfinite
from typing import NamedTuple

import orjson

from streamlearn.errors import ConfigError

Text = str | None
"""The JSON text of a value; None = absent."""


class Column(NamedTuple):
    """The JSON texts of a column's cells; `whole`: none of them is absent."""

    texts: Sequence[Text]
    whole: bool


TYPES = ("float", "int", "bool", "str", "date", "datetime")
INT_LIMIT = 2**63
_REMEMBERED = 1 << 14
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_LITERAL = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_DECLARED = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_INT = re.compile(r"[+-]?\d{1,20}", re.ASCII)
_COMMA_NUMBER = re.compile(r"[+-]?\d+,\d+", re.ASCII)
_POINT_NUMBER = re.compile(r"[+-]?\d+\.\d+", re.ASCII)
_BOOLS = dict.fromkeys(("true", "t", "yes", "y", "on", "1"), "true") | dict.fromkeys(
    ("false", "f", "no", "n", "off", "0"), "false"
)


class BadCell(Exception):
    """A cell that cannot be used: `index` in its column, and the reason with its remedy."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index


class Rule(NamedTuple):
    """How the cells of one column are read. `kind`: a type of `TYPES`, `time` (an event's time: a number,
    or text that becomes RFC 3339), or "" (numbers are numbers, the rest is text). `pattern`: `strptime`'s,
    for dates. `missing`: texts that mean "absent". `decimal`: the decimal sign. `commas`: a comma may be
    meant as one, because it is not the delimiter.
    """

    column: str
    kind: str = ""
    pattern: str = ""
    missing: frozenset[str] = frozenset()
    decimal: str = "."
    commas: bool = False


def declared(text: str) -> dict[str, tuple[str, str]]:
    """`name=float,day=date:%d.%m.%Y` as (type, pattern) by column. Raises `ConfigError`."""
    found = {}
    for part in names(text):
        column, _, kind = part.rpartition("=")
        if ":" in kind or not column:
            column, _, kind = part.partition("=")
        kind, _, pattern = kind.partition(":")
        if not column or kind not in TYPES or (pattern and not kind.startswith("date")):
            raise ConfigError(
                f"--types {part}: write COLUMN=TYPE with a type of {', '.join(TYPES)}, and for date and"
                " datetime a format where it is not ISO 8601, like day=date:%d.%m.%Y"
            )
        found[column] = (kind, pattern)
    return found


def names(text: str) -> list[str]:
    """A comma-separated list; a name that holds a comma stands in double quotes."""
    import csv

    return [name.strip() for row in csv.reader([text], skipinitialspace=True) for name in row if name.strip()]


class Texts:
    """Turns the text cells of one column into JSON texts, remembering those it has seen (bounded)."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._known: dict[str, Text] = {}
        self._convert = converter(rule)
        # A declared float needs a point in each cell to be written as it stands: 5 becomes 5.0.
        self._as_it_stands = rule.decimal == "." and rule.kind in ("", "time", "float")

    def __call__(self, cells: list[str]) -> Column:
        """One JSON text per cell. Raises `BadCell`."""
        if not self._rule.missing or self._rule.missing.isdisjoint(cells):
            if self._as_it_stands:
                text = ",".join(cells)
                points = self._rule.kind != "float" or text.count(".") == len(cells)
                if points and _all_numbers(text, len(cells)):
                    return Column(cells, True)
            elif self._rule.kind == "str" and _all_plain(cells):
                return Column([f'"{cell}"' for cell in cells], True)
        known = self._known
        if len(known) > _REMEMBERED:
            known.clear()
        try:
            texts = [known[cell] for cell in cells]
        except KeyError:
            texts = [self._learn(index, cell) for index, cell in enumerate(cells)]
        return Column(texts, None not in texts)

    def _learn(self, index: int, cell: str) -> Text:
        try:
            return self._known[cell]
        except KeyError:
            try:
                text = self._known[cell] = self._convert(cell)
            except ValueError as error:
                raise BadCell(index, str(error)) from None
            return text


def _all_numbers(text: str, count: int) -> bool:
    """Whether the cells joined by commas are all numbers that JSON can hold as they stand. The letters
    are those of true, false, null and NaN.
    """
    if any(sign in text for sign in '[{"tfn \t\r\n'):
        return False
    try:
        values = orjson.loads(f"[{text}]")
    except orjson.JSONDecodeError:
        return False
    return len(values) == count and hypot(*values) < INT_LIMIT


def _all_plain(cells: list[str]) -> bool:
    """Whether no cell is blank or has a sign that JSON escapes."""
    text = "".join(cells)
    if '"' in text or "\\" in text or not text.isprintable():
        return False
    return all(map(str.strip, cells)) if " " in text else "" not in cells


def converter(rule: Rule) -> Callable[[str], Text]:
    """The function from a text cell to its JSON text; it raises `ValueError` with the reason."""
    kind = {
        "": _undeclared,
        "float": _float,
        "int": _int,
        "bool": _bool,
        "str": _str,
        "date": date,
        "datetime": _datetime,
        "time": _time,
    }[rule.kind]

    def convert(cell: str) -> Text:
        bare = cell.strip()
        if not bare or bare in rule.missing:
            return None
        return kind(cell if rule.kind in ("", "str") else bare, rule)

    return convert


def quoted(text: str) -> str:
    """A text as JSON."""
    try:
        return orjson.dumps(text).decode()
    except orjson.JSONEncodeError:
        raise ValueError(f"{text!r} is not valid Unicode: clean the column, or leave it out") from None


def _misfit(cell: str, rule: Rule, what: str) -> ValueError:
    text = cell if len(cell) <= 40 else f"{cell[:40]}..."
    return ValueError(
        f"{text!r} is no {what}: correct it, declare another type (--types {rule.column}=str), or make it"
        f" absent (--missing {text})"
    )


def _number(bare: str) -> Text:
    """The JSON text of a number literal, or None when it is none that JSON and 64 bits hold."""
    match = _NUMBER.fullmatch(bare)
    if match is None:
        if not _LITERAL.fullmatch(bare):
            return None
        if _INT.fullmatch(bare):
            bare = str(int(bare))
            return bare if -INT_LIMIT <= int(bare) < INT_LIMIT else None
        return orjson.dumps(float(bare)).decode() if isfinite(float(bare)) else None
    if match[1] is None and match[2] is None:
        return bare if len(bare) <= 20 and -INT_LIMIT <= int(bare) < INT_LIMIT else None
    return bare if isfinite(float(bare)) else None


def _undeclared(cell: str, rule: Rule) -> Text:
    bare = cell.strip()
    if rule.decimal != ".":
        if _POINT_NUMBER.fullmatch(bare):
            raise ValueError(
                f"{bare!r} has a decimal point, and --decimal says that numbers have a comma: correct it,"
                f" or say that it is text with --types {rule.column}=str"
            )
        return _number(bare.replace(",", ".", 1)) or quoted(cell)
    if rule.commas and _COMMA_NUMBER.fullmatch(bare):
        raise ValueError(
            f"{bare!r} looks like a number with a decimal comma: say --decimal , or, if it is text,"
            f" --types {rule.column}=str"
        )
    return _number(bare) or quoted(cell)


def _float(bare: str, rule: Rule) -> Text:
    literal = bare
    if rule.decimal != ".":
        if "." in bare:
            raise _misfit(bare, rule, "float with a decimal comma (--decimal ,)")
        literal = bare.replace(",", ".", 1)
    elif _COMMA_NUMBER.fullmatch(bare):
        raise ValueError(f"{bare!r} is no float: if the comma is a decimal comma, say --decimal ,")
    if not _DECLARED.fullmatch(literal) or not isfinite(float(literal)):
        raise _misfit(bare, rule, "float")
    match = _NUMBER.fullmatch(literal)
    return literal if match and (match[1] or match[2]) else orjson.dumps(float(literal)).decode()


def _int(bare: str, rule: Rule) -> Text:
    if not _INT.fullmatch(bare) or not -INT_LIMIT <= int(bare) < INT_LIMIT:
        raise _misfit(bare, rule, "int of 64 bits")
    return str(int(bare))


def _bool(bare: str, rule: Rule) -> Text:
    found = _BOOLS.get(bare.lower())
    if found is None:
        raise _misfit(bare, rule, "bool (true false t f yes no y n on off 1 0)")
    return found


def _str(cell: str, _rule: Rule) -> Text:
    return quoted(cell)


def _moment(bare: str, rule: Rule) -> datetime.datetime:
    """A date and time; without a zone it is taken as UTC, as river's own loaders do."""
    try:
        if rule.pattern:
            when = datetime.datetime.strptime(bare, rule.pattern)
        else:
            when = datetime.datetime.fromisoformat(bare.upper())
    except ValueError:
        form = f"of the format {rule.pattern}" if rule.pattern else "in ISO 8601 like 2026-01-31 08:00:00"
        raise ValueError(
            f"{bare!r} is no date and time {form}: correct it, or declare its format, for example"
            f" --types '{rule.column}=datetime:%d.%m.%Y %H:%M:%S'"
        ) from None
    return when if when.tzinfo else when.replace(tzinfo=datetime.UTC)


def date(bare: str, rule: Rule) -> Text:
    """A day, as ISO 8601. Raises `ValueError` when it has a time of day."""
    when = _moment(bare, rule)
    if when.timetz() != datetime.time(tzinfo=when.tzinfo):
        raise ValueError(f"{bare!r} has a time of day: declare it with --types {rule.column}=datetime")
    return f'"{when.date().isoformat()}"'


def _datetime(bare: str, rule: Rule) -> Text:
    return f'"{_moment(bare, rule).isoformat()}"'


def _time(bare: str, rule: Rule) -> Text:
    if not rule.pattern and (number := _number(bare.replace(",", ".", 1) if rule.decimal != "." else bare)):
        return number
    return _datetime(bare, rule)
