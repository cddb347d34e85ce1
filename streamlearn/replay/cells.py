"""From a cell to the JSON text of its value, or None when the cell is absent.

Invariants:
- The value is that which `core.convert` gives the cell, so that a file and a topic of its lines agree.
- A number is written as it stood, digit for digit, when JSON can hold it so.
- A cell that does not fit its declared type is refused with its place; nothing is guessed for it.
"""

import datetime
from collections.abc import Callable, Sequence
from math import hypot
from typing import Any, NamedTuple

import orjson

from streamlearn.core import convert
from streamlearn.core.convert import BLANKS, COMMA_NUMBER, INT_LIMIT, JSON_NUMBER, is_absent, is_number
from streamlearn.core.events import calendar_time
from streamlearn.core.paths import MISSING
from streamlearn.errors import ConfigError

Text = str | None
"""The JSON text of a value; None = absent."""


class Column(NamedTuple):
    """The JSON texts of a column's cells; `whole`: none of them is absent."""

    texts: Sequence[Text]
    whole: bool


TYPES = ("float", "int", "bool", "str", "date", "datetime")
_REMEMBERED = 1 << 14


class BadCell(Exception):
    """A cell that cannot be used: `index` in its column, and the reason with its remedy."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index


class Rule(NamedTuple):
    """How the cells of one column are read. `kind`: a type of `TYPES`, `time` (an event's time: a number,
    or text that becomes RFC 3339), `name` (an id or a key), or "" (numbers are numbers, the rest is text
    without the blanks around it). `pattern`: `strptime`'s,
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
        self._blanks = rule.kind == "str" and not rule.missing  # around a word they mean nothing
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
            elif self._rule.kind in ("str", "name") and _all_plain(cells, self._blanks):
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


def _all_plain(cells: list[str], blanks: bool) -> bool:
    """Whether no cell is blank, has a sign that JSON escapes, or blanks where there should be none."""
    text = "".join(cells)
    if '"' in text or "\\" in text or not text.isprintable():
        return False
    return blanks and all(map(str.strip, cells)) if " " in text else "" not in cells


def converter(rule: Rule) -> Callable[[str], Text]:
    """The function from a text cell to its JSON text; it raises `ValueError` with the reason."""
    kind = {
        "": _undeclared,
        "float": _float,
        "int": _int,
        "bool": _bool,
        "str": _str,
        "name": _str,
        "date": date,
        "datetime": _datetime,
        "time": _time,
    }[rule.kind]

    def to_text(cell: str) -> Text:
        if is_absent(cell, rule.missing):
            return None
        return kind(cell if rule.kind == "str" else cell.strip(BLANKS if rule.kind == "" else None), rule)

    return to_text


def quoted(text: str) -> str:
    """A text as JSON."""
    try:
        return orjson.dumps(text).decode()
    except orjson.JSONEncodeError:
        raise ValueError(f"{text!r} is not valid Unicode: clean the column, or leave it out") from None


def misfit(cell: str, rule: Rule, what: str) -> ValueError:
    """What to say of a cell that is none of `what`. A number is never to be thrown away as absent."""
    text = cell if len(cell) <= 40 else f"{cell[:40]}..."
    absent = "" if is_number(cell) else f", or make it absent (--missing {text})"
    return ValueError(
        f"{text!r} is no {what}: correct it{' or' if not absent else ','} declare another type"
        f" (--types {rule.column}=str){absent}"
    )


def _written(value: Any, literal: str) -> str:
    """The JSON text of a value that was read from `literal`."""
    if type(value) is str:
        return quoted(value)
    match = JSON_NUMBER.fullmatch(literal)
    as_it_stands = match and type(value) is (float if match[1] or match[2] else int)
    return literal if as_it_stands else orjson.dumps(value).decode()


def _undeclared(bare: str, rule: Rule) -> Text:
    found = convert.cell(bare, rule.decimal, rule.commas)
    bare = bare.strip()
    if found is MISSING and rule.decimal != ".":
        raise ValueError(
            f"{bare!r} has a decimal point, and --decimal says that numbers have a comma: correct it,"
            f" or say that it is text with --types {rule.column}=str"
        )
    if found is MISSING:
        raise ValueError(
            f"{bare!r} looks like a number with a decimal comma: say --decimal , or, if it is text,"
            f" --types {rule.column}=str"
        )
    return _written(found, bare if rule.decimal == "." else bare.replace(",", ".", 1))


def _float(bare: str, rule: Rule) -> Text:
    found = convert.conversions(rule.decimal)["float"](bare)
    if found is MISSING:
        if rule.decimal != "." and "." in bare:
            raise misfit(bare, rule, "float with a decimal comma (--decimal ,)")
        if COMMA_NUMBER.fullmatch(bare):
            raise ValueError(f"{bare!r} is no float: if the comma is a decimal comma, say --decimal ,")
        raise misfit(bare, rule, "float")
    return _written(found, bare if rule.decimal == "." else bare.replace(",", ".", 1))


def _int(bare: str, rule: Rule) -> Text:
    found = convert.CONVERSIONS["int"](bare)
    if found is MISSING:
        raise misfit(bare, rule, "int of 64 bits")
    return str(found)


def _bool(bare: str, rule: Rule) -> Text:
    found = convert.CONVERSIONS["bool"](bare)
    if found is MISSING:
        raise misfit(bare, rule, "bool (true false t f yes no y n on off 1 0)")
    return "true" if found else "false"


def _str(cell: str, _rule: Rule) -> Text:
    return quoted(cell)


def _moment(bare: str, rule: Rule) -> datetime.datetime:
    """A date and time. Raises `ValueError`."""
    when = patterned_time(bare, rule.pattern) if rule.pattern else calendar_time(bare)
    if when is None:
        form = f"of the format {rule.pattern}" if rule.pattern else "in ISO 8601 like 2026-01-31 08:00:00"
        raise ValueError(
            f"{bare!r} is no date and time {form}: correct it, or declare its format, for example"
            f" --types '{rule.column}=datetime:%d.%m.%Y %H:%M:%S'"
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


def date(bare: str, rule: Rule) -> Text:
    """A day, as ISO 8601. Raises `ValueError` when it has a time of day."""
    when = _moment(bare, rule)
    if when.timetz() != datetime.time(tzinfo=when.tzinfo):
        raise ValueError(f"{bare!r} has a time of day: declare it with --types {rule.column}=datetime")
    return f'"{when.date().isoformat()}"'


def _datetime(bare: str, rule: Rule) -> Text:
    return f'"{_moment(bare, rule).isoformat()}"'


def _time(bare: str, rule: Rule) -> Text:
    literal = bare.replace(",", ".", 1) if rule.decimal != "." else bare
    if not rule.pattern and (found := convert.number(literal)) is not None:
        return _written(found, literal)
    return _datetime(bare, rule)
