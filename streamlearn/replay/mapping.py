"""From the columns of a table to events: `{"id", "ts", "key", "group", "features", "label"}` as JSON.

Invariants:
- The bytes of an event depend on its row alone, not on the rows that were read together with it.
- A column that is the id, time, key, label, group or due time is no feature, unless `features` names it.
- Every refusal names the source, the row and the column.

Events are put together a block at a time, column by column: one call per column and block, not per
cell. (Measured: 2.1 us for a row of 11 cells; with a dict and `orjson.dumps` per row 6.8 us.)
"""

import difflib
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

import orjson

from streamlearn.core.events import event_time_ms, unit_of
from streamlearn.errors import ConfigError
from streamlearn.log.port import Row
from streamlearn.replay.cells import BadCell, Column, Rule, Text, Texts
from streamlearn.replay.values import texts_of

_SHOWN = 20
DUE = "label_ts"
"""The member that carries the time at which a label is known, until the label is taken out."""


class Batch(NamedTuple):
    """Rows to send, in order. `times_s`: event times, None where a row has none, and None as a whole when
    nobody asked. `places`: row or line numbers. `pause`: nothing more has arrived yet, so send what is here.
    `headers`: how many rows between them repeat the header, and are none.
    """

    rows: Sequence[Row]
    times_s: Sequence[float | None] | None = None
    places: Sequence[int] = ()
    pause: bool = False
    spread: bool = False
    headers: int = 0


class Encoded(NamedTuple):
    """Events, each in a line that a line feed ends, with the keys of their records and their times.
    `headers`: as in `Batch`.
    """

    lines: bytes
    keys: list[bytes | None] | None
    times_s: list[float | None] | None
    headers: int = 0


_new_row = partial(tuple.__new__, Row)  # a third of the time of `Row(...)`


class Roles(NamedTuple):
    """Columns by their role. "" = the column of the default name (`id ts key label`), if there is one.
    `features` empty = all columns that are nothing else. `group` and `due` serve labels sent apart.
    """

    id: str = ""
    time: str = ""
    key: str = ""
    label: str = ""
    features: tuple[str, ...] = ()
    group: str = ""
    due: str = ""

    def named(self) -> list[str]:
        """The columns that somebody named."""
        return [name for name in (*self.events(), self.group, self.due) if name]

    def events(self) -> list[str]:
        """Those of them that say what an event is."""
        single = (self.id, self.time, self.key, self.label)
        return [name for name in (*single, *self.features) if name]


_DEFAULTS = {"id": "id", "time": "ts", "key": "key", "label": "label"}
_KINDS = {"id": "name", "key": "name", "time": "time", "due": "time"}


class Meaning(NamedTuple):
    """Reading of a table: its roles, the declared types (with their formats), texts that mean "absent",
    the decimal sign, the time unit of numbers, and whether event times are wanted.
    """

    roles: Roles = Roles()
    types: Mapping[str, tuple[str, str]] = {}
    missing: frozenset[str] = frozenset()
    decimal: str = "."
    time_unit: str = "auto"
    timed: bool = True

    @property
    def given(self) -> bool:
        """True if anything was said about columns, so that objects are rows and not whole events."""
        return bool(self.roles.events() or self.types or self.missing)


class Layout:
    """One table's columns and what becomes of them. `text`: cells are text, to be read by rules; else they
    are values that have types. `commas`: the delimiter is not the comma. Raises `ConfigError`.
    """

    def __init__(
        self, source: str, names: Sequence[str], meaning: Meaning, text: bool, commas: bool = False
    ) -> None:
        self._source = source
        self._names = addresses(names)
        self._meaning = meaning
        self._text = text
        self._commas = commas
        self._numbered = 0
        self._roles = self._find_roles()
        taken = set(self._roles.values())
        chosen = meaning.roles.features
        self._features = (
            [self._names.index(name) for name in chosen]
            if chosen
            else [index for index, name in enumerate(names) if name and index not in taken]
        )
        roles = {index: role for role, index in self._roles.items()}
        used = [*self._roles.values(), *(index for index in self._features if index not in roles)]
        self._rules = {index: self._rule(index, roles.get(index, "")) for index in used}
        self._readers = {index: Texts(rule) for index, rule in self._rules.items()} if text else {}

    def begin(self, numbered: int) -> None:
        """Rows without an id column are numbered from here on."""
        self._numbered = numbered

    def _find_roles(self) -> dict[str, int]:
        known = dict(zip(self._names, range(len(self._names)), strict=True))
        for name in (*self._meaning.roles.named(), *self._meaning.types):
            if not name or name not in known:
                raise ConfigError(f"{self._source} has no column {name!r}; {listed(self._names, name)}")
        given = self._meaning.roles._asdict()
        del given["features"]
        wanted = {role: name or _DEFAULTS.get(role, "") for role, name in given.items()}
        features = set(self._meaning.roles.features)
        return {
            role: known[name]
            for role, name in wanted.items()
            if name and name in known and (given[role] or name not in features)
        }

    def _rule(self, index: int, role: str) -> Rule:
        name, meaning = self._names[index], self._meaning
        kind, pattern = meaning.types.get(name, ("", ""))
        if role in ("time", "due") and kind in ("", "date", "datetime"):
            kind = "time"
        elif not kind and self._text:
            kind = _KINDS.get(role, "")
        return Rule(name, kind, pattern, meaning.missing, meaning.decimal, self._commas)

    def batch(self, columns: Sequence[Sequence[Any]], places: Sequence[int], pause: bool = False) -> Batch:
        """The rows of a block given by columns, one place per row."""
        return batch_of(self.encoded(columns, places), places, pause)

    def encoded(self, columns: Sequence[Sequence[Any]], places: Sequence[int]) -> Encoded:
        """The same as bytes: what `batch_of` makes rows of."""
        read = {index: self._read(index, columns[index], places) for index in self._rules}
        by_role = {role: read[index] for role, index in self._roles.items()}
        if "id" not in by_role:
            numbers = range(self._numbered, self._numbered + len(places))
            by_role["id"] = Column([f'"{number}"' for number in numbers], True)
        self._numbered += len(places)
        features = [(self._names[index], read[index]) for index in self._features]
        lines = _join(by_role, features, len(places))
        keys = list(map(_key, by_role["key"].texts)) if "key" in by_role else None
        times_s = self._times(by_role.get("time"), len(places)) if self._meaning.timed else None
        return Encoded(lines, keys, times_s)

    def _read(self, index: int, cells: Sequence[Any], places: Sequence[int]) -> Column:
        try:
            if self._text:
                return self._readers[index](cells if isinstance(cells, list) else list(cells))
            return texts_of(cells, self._rules[index])
        except BadCell as bad:
            raise ConfigError(
                f"{self._source} row {places[bad.index]}, column {self._names[index]!r}: {bad}"
            ) from None

    def _times(self, column: Column | None, count: int) -> list[float | None]:
        if column is None:
            return [None] * count
        return [time_of(orjson.loads(text or "null"), self._meaning.time_unit) for text in column.texts]


def batch_of(encoded: Encoded, places: Sequence[int], pause: bool = False) -> Batch:
    """Rows of events that stand one a line."""
    values = encoded.lines.split(b"\n")
    values.pop()
    keys = encoded.keys if encoded.keys is not None else repeat(None)
    rows = list(map(_new_row, zip(keys, values, repeat(()), repeat(None), strict=False)))
    assert len(rows) == len(places), "JSON text holds no line feed"
    return Batch(rows, encoded.times_s, places, pause, spread=True, headers=encoded.headers)


def time_of(ts: object, time_unit: str) -> float | None:
    """Seconds since 1970 of an event's time as it stands, None when it has none that can be understood."""
    if isinstance(ts, bool) or not isinstance(ts, str | int | float):
        return None
    time_ms = event_time_ms(ts, unit_of(ts) if time_unit == "auto" else time_unit)
    return None if time_ms is None else time_ms / 1000


def addresses(names: Sequence[str]) -> list[str]:
    """Names of columns: by name, and those without one by place, `column 1`. By default such a
    column is nothing.
    """
    return [name or f"column {at}" for at, name in enumerate(names, 1)]


def listed(names: Sequence[str], wrong: str = "") -> str:
    """The columns there are, for a message, with the one that was perhaps meant."""
    near = difflib.get_close_matches(wrong, [name for name in names if name], 1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{meant}its columns are: {', '.join(name for name in names[:_SHOWN] if name)}{more}"


def _key(text: Text) -> bytes | None:
    if text is None:
        return None
    return orjson.loads(text).encode() if text[0] == '"' else text.encode()


def _join(by_role: Mapping[str, Column], features: list[tuple[str, Column]], count: int) -> bytes:
    """The events' JSON. What is joined is a list of pieces, row after row, filled column by column.

    A member that some rows lack is a piece with its name and comma, or an empty one. When the last feature
    is such a member, a NUL (which JSON text never holds) marks the end, so that a comma before it can go.
    """
    slots: list[str | Sequence[str]] = ["{"]
    for role, name in (("id", "id"), ("time", "ts"), ("key", "key"), ("group", "group"), ("due", DUE)):
        if role in by_role:
            _member(slots, name, by_role[role])
    slots.append('"features":{')
    for name, column in features:
        _member(slots, name, column)
    marked = bool(features) and not features[-1][1].whole
    if marked:
        slots.append("\0}")
    else:
        if features:
            slots[-1] = ""
        slots.append("}")
    label = by_role.get("label")
    if label is not None:
        slots.append([f',"label":{text}' if text is not None else "" for text in label.texts])
    slots.append("}\n")
    text = _interleave(slots, count)
    if marked:
        text = text.replace(",\0", "").replace("\0", "")
    return text.encode()


def _member(slots: list[str | Sequence[str]], name: str, column: Column) -> None:
    head = f"{orjson.dumps(name).decode()}:"
    if column.whole:
        slots += (head, column.texts, ",")  # type: ignore[arg-type]
    else:
        slots.append([f"{head}{text}," if text is not None else "" for text in column.texts])


def _interleave(slots: list[str | Sequence[str]], count: int) -> str:
    """Slot after slot, row after row; a slot that is one text is the same in each row."""
    merged: list[str | Sequence[str]] = []
    for slot in slots:
        if merged and isinstance(slot, str) and isinstance(merged[-1], str):
            merged[-1] += slot
        else:
            merged.append(slot)
    width = len(merged)
    pieces: list[str] = [""] * (width * count)
    for at, slot in enumerate(merged):
        pieces[at::width] = [slot] * count if isinstance(slot, str) else slot
    return "".join(pieces)
