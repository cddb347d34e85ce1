"""Profiles of fields: types, range, share of absent values, number of different ones.

Pure: from documents to facts. A field is a path into a document, as in `[event]`: `temp`, `meta.id`,
`values.0`.
"""

import datetime
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from streamlearn.core.events.event import MS_PER_UNIT, calendar_time, likely_unit
from streamlearn.core.events.paths import leaves
from streamlearn.core.events.values import NO_VALUE, is_coated, is_number
from streamlearn.history.formats.cells import patterned_time

_MOST_DISTINCT = 1000
_SINCE_MS, _UNTIL_MS = 631_152_000_000, 4_102_444_800_000  # 1990 to 2100
_COATED = 0.9
_MOSTLY = 0.95
_CLOCK = re.compile(r".*\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?([ap]m)?", re.IGNORECASE)
_DAY = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])", re.ASCII)
DATE_FORMATS = (
    *("%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y", "%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%d/%m/%Y"),
    *("%m/%d/%Y %H:%M:%S", "%m/%d/%Y %H:%M", "%m/%d/%Y", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d"),
    *("%d-%m-%Y %H:%M:%S", "%d-%m-%Y %H:%M", "%d-%m-%Y", "%m-%d-%Y %H:%M:%S", "%m-%d-%Y %H:%M", "%m-%d-%Y"),
    *("%b %d %Y", "%b %d, %Y", "%B %d, %Y", "%b-%d-%Y", "%d-%b-%Y", "%d %b %Y", "%d %B %Y", "%d-%b-%y"),
    *("%d/%b/%Y:%H:%M:%S %z", "%a %b %d %H:%M:%S %Y", "%m/%d/%y", "%d.%m.%y", "%d/%m/%y", "%Y-%m-%d %H.%M"),
)


class Field(NamedTuple):
    """One field. `kinds`: how often each of number, str, bool, object occurs. `whole`: all numbers are ints.
    `low`, `high`: of its numbers, or None. `distinct`: up to 1000. `numeric`: how many texts read as numbers.
    `time`: what its values are as times: s, ms, us, ns, rfc3339, iso (no zone), a `strptime` format, or "".
    `texts`: the commonest texts. `numbers`: the share of rows with a number.

    `words`: texts that say "no value"; they count as missing, where all others are numbers, times, or true
    and false. `formats`: all formats that fit its times. `clock`: its texts end in a time of day. `coated`:
    its texts would be numbers without what groups their digits, or their unit
    (`core.events.values.is_coated`). `integral`: all numbers are whole, also where they are written 1.0, as
    data frames do.
    """

    path: str
    present: int
    missing: float
    kinds: Mapping[str, int]
    whole: bool
    low: float | None
    high: float | None
    distinct: int
    numeric: int
    time: str
    texts: tuple[str, ...]
    numbers: float = 0.0
    words: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    clock: bool = False
    coated: bool = False
    integral: bool = False

    @property
    def kind(self) -> str:
        """Its one type, `mixed`, or `empty`."""
        if len(self.kinds) != 1:
            return "mixed" if self.kinds else "empty"
        (only,) = self.kinds
        return ("int" if self.whole else "float") if only == "number" else only

    @property
    def unique(self) -> bool:
        """True if each value occurs once, in enough rows to tell."""
        return self.present >= 10 and self.distinct == min(self.present, _MOST_DISTINCT)


def profile_fields(documents: Sequence[Mapping[str, Any]]) -> list[Field]:
    """The fields of all documents, in the order in which they appear first."""
    columns: dict[str, list[Any]] = {}
    for document in documents:
        for path, value in leaves(dict(document)):
            columns.setdefault(path, []).append(value)
    return [_field(path, values, len(documents)) for path, values in columns.items()]


def _field(path: str, values: list[Any], count: int) -> Field:
    present, words = _without_words([value for value in values if value is not None])
    numbers, texts = _values_with_type(present, int, float), _values_with_type(present, str)
    distinct = set(map(repr, present[:_MOST_DISTINCT]))
    formats = _formats(path, numbers, texts, len(present))
    return Field(
        path,
        len(present),
        1 - len(present) / count,
        Counter(map(_kind, present)),
        all(type(value) is int for value in numbers),
        min(numbers, default=None),
        max(numbers, default=None),
        len(distinct),
        sum(map(is_number, texts)),
        formats[0] if formats else "",
        tuple(text for text, _ in Counter(texts).most_common(20)),
        len(numbers) / count,
        words,
        formats,
        bool(texts) and all(map(_CLOCK.fullmatch, texts)),
        sum(map(is_coated, texts)) > _COATED * len(present) > 0,
        all(float(value).is_integer() for value in numbers),
    )


def _values_with_type(values: list[Any], *types: type) -> list[Any]:
    return [value for value in values if type(value) in types]


def _without_words(values: list[Any]) -> tuple[list[Any], tuple[str, ...]]:
    """The values without the words for none, and those words; all of them where a text may be a category."""
    texts = _values_with_type(values, str)
    words = {text.strip() for text in texts if text.strip().lower() in NO_VALUE}
    if not words:
        return values, ()
    rest = [value for value in values if type(value) is not str or value.strip() not in words]
    return (rest, tuple(sorted(words))) if _have_one_meaning(rest) else (values, ())


def _have_one_meaning(values: list[Any]) -> bool:
    """True if all texts are numbers, all are truths, or all values are times."""
    texts = _values_with_type(values, str)
    if all(map(is_number, texts)) or all(text.lower() in ("true", "false") for text in texts):
        return True
    rest = [value for value in values if type(value) is not str]
    return bool(_formats("", rest, texts, len(values)))


def _kind(value: Any) -> str:
    names = {int: "number", float: "number", str: "str", bool: "bool"}
    return names.get(type(value), "object")


def _formats(path: str, numbers: list[Any], texts: list[str], count: int) -> tuple[str, ...]:
    """The formats that the values may have as times, the likeliest first."""
    if len(numbers) >= _MOSTLY * count > 0:  # one that is broken does not hide the times
        return _number_formats(path, numbers, count)
    return _text_formats(texts) if texts and len(texts) == count else ()


def _number_formats(path: str, numbers: list[Any], count: int) -> tuple[str, ...]:
    units = Counter(map(likely_unit, numbers))
    unit, _ = units.most_common(1)[0]
    plausible = sum(_SINCE_MS <= n * MS_PER_UNIT[unit] < _UNTIL_MS for n in numbers)
    if plausible >= _MOSTLY * count:
        return (unit,)
    days = re.search("date|datum|day", path.lower()) and all(_DAY.fullmatch(str(n)) for n in numbers)
    return ("%Y%m%d",) if days else ()


def _text_formats(texts: list[str]) -> tuple[str, ...]:
    if not all(any(map(str.isdigit, text)) for text in texts):
        return ()
    moments = list(filter(None, map(_moment, texts)))
    if len(moments) == len(texts):
        zones = all(moment.tzinfo is not None for moment in moments)
        return ("rfc3339" if zones else "iso",)
    return tuple(form for form in DATE_FORMATS if all(patterned_time(text.strip(), form) for text in texts))


def _moment(text: str) -> datetime.datetime | None:
    if len(text) < 8 or "-" not in text[4:8]:  # fromisoformat also takes 20260131, which may be a number
        return None
    return calendar_time(text.strip())
