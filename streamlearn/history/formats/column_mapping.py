"""From the columns of a table to events: `{"id", "ts", "key", "group", "features", "label"}` as JSON.

Invariants:
- The bytes of an event depend on its row alone, not on the rows that were read together with it.
- A column that is the id, time, key, label, group or due time is no feature, unless `features` names it.
- Every refusal names the source, the row and the column.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from streamlearn.core.events.event import event_time_ms, likely_unit
from streamlearn.errors import ConfigError
from streamlearn.history.formats.cells import ColumnType, JsonText, text_encoder, value_encoder
from streamlearn.log.port import ProducerRecord

_SHOWN = 20
DUE = "label_ts"
"""The member that carries the time at which a label is known, until the label is taken out."""


class SourceRecord(NamedTuple):
    """One record to send; `time_s` is its event time, None when it has none. `place`: for messages;
    `number`: of the row or line there, a record's offset in a topic.
    """

    row: ProducerRecord
    time_s: float | None
    place: str = ""
    number: int = 0


class ColumnRoles(NamedTuple):
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
        return [name for name in (*self.event_columns(), self.group, self.due) if name]

    def event_columns(self) -> list[str]:
        """Those of them that say what an event is."""
        single = (self.id, self.time, self.key, self.label)
        return [name for name in (*single, *self.features) if name]


_DEFAULTS = {"id": "id", "time": "ts", "key": "key", "label": "label"}
_KINDS = {"id": "name", "key": "name", "time": "time", "due": "time"}
_MEMBERS = {"id": "id", "time": "ts", "key": "key", "group": "group", "due": DUE}
"""The members of an event before its features, in order, by the role of their column."""


class ColumnMapping(NamedTuple):
    """Reading of a table: its roles, the declared types (with their formats), texts that mean "absent",
    the decimal sign, the time unit of numbers, and whether event times are wanted.
    """

    roles: ColumnRoles = ColumnRoles()
    types: Mapping[str, tuple[str, str]] = {}
    missing: frozenset[str] = frozenset()
    decimal: str = "."
    time_unit: str = "auto"
    timed: bool = True

    @property
    def is_given(self) -> bool:
        """True if anything was said about columns, so that objects are rows and not whole events."""
        return bool(self.roles.event_columns() or self.types or self.missing)


class TableEncoder:
    """Makes events of the rows of one table. `text`: cells are text, to be read by rules; else they are
    values that have types. `commas`: the delimiter is not the comma. Raises `ConfigError`.
    """

    def __init__(
        self, source: str, names: Sequence[str], mapping: ColumnMapping, text: bool, commas: bool = False
    ) -> None:
        self._source = source
        self._names = addresses(names)
        self._mapping = mapping
        self._columns = self._columns_by_role()
        features = self._features(names)
        encoder = text_encoder if text else value_encoder
        roles = {index: role for role, index in self._columns.items()}
        self._encoders = {
            index: encoder(self._type(index, roles.get(index, ""), text, commas))
            for index in (*self._columns.values(), *features)
        }
        self._members = [
            (_head(member), self._columns[role]) for role, member in _MEMBERS.items() if role in self._columns
        ]
        self._feature_members = [(_head(self._names[index]), index) for index in features]

    def _columns_by_role(self) -> dict[str, int]:
        indexes = dict(zip(self._names, range(len(self._names)), strict=True))
        for name in (*self._mapping.roles.named(), *self._mapping.types):
            if not name or name not in indexes:
                raise ConfigError(f"{self._source} has no column {name!r}; {listed(self._names, name)}")
        named = self._mapping.roles._asdict()
        features = named.pop("features")
        for role, name in _DEFAULTS.items():
            if not named[role] and name in indexes and name not in features:
                named[role] = name
        return {role: indexes[name] for role, name in named.items() if name}

    def _features(self, names: Sequence[str]) -> list[int]:
        chosen = self._mapping.roles.features
        if chosen:
            return [self._names.index(name) for name in chosen]
        with_role = set(self._columns.values())
        return [index for index, name in enumerate(names) if name and index not in with_role]

    def _type(self, index: int, role: str, text: bool, commas: bool) -> ColumnType:
        name, mapping = self._names[index], self._mapping
        kind, pattern = mapping.types.get(name, ("", ""))
        if role in ("time", "due") and kind in ("", "date", "datetime"):
            kind = "time"
        elif not kind and text:
            kind = _KINDS.get(role, "")
        return ColumnType(name, kind, pattern, mapping.missing, mapping.decimal, commas)

    def record(self, cells: Sequence[Any], row: int, number: int) -> SourceRecord:
        """The event of a row. `row`: its number in messages; `number`: its id where no column is the id."""
        texts = self._texts(cells, row)
        by_role = {role: texts[index] for role, index in self._columns.items()}
        members = [] if "id" in by_role else [f'"id":"{number}"']
        members += _present(self._members, texts)
        members.append(f'"features":{{{",".join(_present(self._feature_members, texts))}}}')
        if (label := by_role.get("label")) is not None:
            members.append(f'"label":{label}')
        value = f"{{{','.join(members)}}}".encode()
        time_s = None
        if self._mapping.timed:
            time_s = event_time_s(orjson.loads(by_role.get("time") or "null"), self._mapping.time_unit)
        key = _key(by_role.get("key"))
        return SourceRecord(ProducerRecord(key, value), time_s, f"{self._source} row {row}", row)

    def _texts(self, cells: Sequence[Any], row: int) -> dict[int, JsonText]:
        texts: dict[int, JsonText] = {}
        for index, encode in self._encoders.items():
            try:
                texts[index] = encode(cells[index])
            except ValueError as error:
                raise ConfigError(
                    f"{self._source} row {row}, column {self._names[index]!r}: {error}"
                ) from None
        return texts


def _present(members: list[tuple[str, int]], texts: dict[int, JsonText]) -> list[str]:
    """The members of an object, without those whose cell is absent."""
    return [f"{head}{text}" for head, index in members if (text := texts[index]) is not None]


def _head(name: str) -> str:
    return f"{orjson.dumps(name).decode()}:"


def event_time_s(ts: object, time_unit: str) -> float | None:
    """Seconds since 1970 of an event's time as it stands, None when it has none that can be understood."""
    if isinstance(ts, bool) or not isinstance(ts, str | int | float):
        return None
    time_ms = event_time_ms(ts, likely_unit(ts) if time_unit == "auto" else time_unit)
    return None if time_ms is None else time_ms / 1000


def addresses(names: Sequence[str]) -> list[str]:
    """Names of columns: by name, and those without one by place, `column 1`. By default such a
    column is nothing.
    """
    return [name or f"column {number}" for number, name in enumerate(names, 1)]


def listed(names: Sequence[str], wrong: str = "") -> str:
    """The columns there are, for a message, with the one that was perhaps meant."""
    near = difflib.get_close_matches(wrong, [name for name in names if name], 1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{meant}its columns are: {', '.join(name for name in names[:_SHOWN] if name)}{more}"


def _key(text: JsonText) -> bytes | None:
    if text is None:
        return None
    return orjson.loads(text).encode() if text[0] == '"' else text.encode()
