"""What the values of each field look like: types, range, share of absent ones, how many different ones.

Pure: from documents to facts. A field is a path into a document, as in `[event]`: `temp`, `meta.id`,
`values.0`.
"""

import datetime
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from streamlearn.core.events import MS_PER_UNIT, unit_of

_MOST_DISTINCT = 1000
_SINCE_MS, _UNTIL_MS = 631_152_000_000, 4_102_444_800_000  # 1990 to 2100
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
DATE_FORMATS = (
    *("%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y", "%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%d/%m/%Y"),
    *("%m/%d/%Y %H:%M:%S", "%m/%d/%Y %H:%M", "%m/%d/%Y", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d"),
)


class Field(NamedTuple):
    """One field. `kinds`: how often each of number, str, bool, object occurs. `whole`: all numbers are ints.
    `low`, `high`: of its numbers, or None. `distinct`: up to 1000. `numeric`: how many texts read as numbers.
    `time`: what its values are as times: s, ms, us, ns, rfc3339, iso (no zone), a `strptime` format, or "".
    `texts`: the commonest texts. `numbers`: the share of rows with a number.
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

    @property
    def kind(self) -> str:
        """Its one type, `mixed`, or `empty`."""
        if len(self.kinds) != 1:
            return "mixed" if self.kinds else "empty"
        (only,) = self.kinds
        return ("int" if self.whole else "float") if only == "number" else only

    @property
    def unique(self) -> bool:
        """Whether each value occurs once, in enough rows to tell."""
        return self.present >= 10 and self.distinct == min(self.present, _MOST_DISTINCT)


def fields_of(documents: Sequence[Mapping[str, Any]]) -> list[Field]:
    """The fields of all documents, in the order in which they appear first."""
    columns: dict[str, list[Any]] = {}
    for document in documents:
        for path, value in flat(document):
            columns.setdefault(path, []).append(value)
    return [_field(path, values, len(documents)) for path, values in columns.items()]


def flat(part: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every scalar and null under its path; an empty object or array stands for itself."""
    pairs = part.items() if isinstance(part, Mapping) else enumerate(part)
    for name, value in pairs:
        path = f"{prefix}{name}"
        if isinstance(value, Mapping | list) and value:
            yield from flat(value, f"{path}.")
        else:
            yield path, value


def _field(path: str, values: list[Any], count: int) -> Field:
    known = [value for value in values if value is not None]
    numbers = [value for value in known if type(value) in (int, float)]
    texts = [value for value in known if type(value) is str]
    distinct = {repr(value) for value in known[:_MOST_DISTINCT]}
    return Field(
        path,
        len(known),
        1 - len(known) / count,
        Counter(_kind(value) for value in known),
        all(type(value) is int for value in numbers),
        min(numbers, default=None),
        max(numbers, default=None),
        len(distinct),
        sum(bool(_NUMBER.fullmatch(text)) for text in texts),
        _time(numbers, texts, len(known)),
        tuple(text for text, _ in Counter(texts).most_common(20)),
        len(numbers) / count,
    )


def _kind(value: Any) -> str:
    names = {int: "number", float: "number", str: "str", bool: "bool"}
    return names.get(type(value), "object")


def _time(numbers: list[Any], texts: list[str], count: int) -> str:
    if numbers and len(numbers) == count:
        units = {unit_of(number) for number in numbers}
        (unit,) = units if len(units) == 1 else ("",)
        plausible = unit and all(_SINCE_MS <= n * MS_PER_UNIT[unit] < _UNTIL_MS for n in numbers)
        return unit if plausible else ""
    if not texts or len(texts) != count or not all(any(sign.isdigit() for sign in text) for text in texts):
        return ""
    moments = [_moment(text) for text in texts]
    if None not in moments:
        zones = all(moment is not None and moment.tzinfo is not None for moment in moments)
        return "rfc3339" if zones else "iso"
    return next((form for form in DATE_FORMATS if all(_fits(text, form) for text in texts)), "")


def _moment(text: str) -> datetime.datetime | None:
    if len(text) < 8 or "-" not in text[4:8]:  # fromisoformat also takes 20260131, which may be a number
        return None
    try:
        return datetime.datetime.fromisoformat(text.strip().upper())
    except ValueError:
        return None


def _fits(text: str, form: str) -> bool:
    try:
        datetime.datetime.strptime(text.strip(), form)
    except ValueError:
        return False
    return True
