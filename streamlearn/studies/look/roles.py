"""Roles of fields (id, key, time, label), guessed by name and by values, with the reason.

Pure. A guess by values alone is never taken for a label: those are only named as candidates.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from streamlearn.studies.look.profile import Field

_TIMES = "ts time timestamp datetime date event_time eventtime created_at updated_at recorded_at measured_at"
_TIMES += " received_at occurred_at moment when t time_stamp utc epoch timestamp_ms zeit zeitstempel datum"
_IDS = (
    "id uuid guid event_id message_id msg_id reading_id record_id row_id row index seq sequence number nr no"
)
_KEYS = (
    "key device device_id sensor sensor_id machine machine_id host hostname station station_id unit unit_id"
)
_KEYS += " asset asset_id vehicle vehicle_id node equipment site site_id plant line customer_id user_id"
_LABELS = (
    "label target class y truth outcome failure failed fault anomaly is_anomaly outlier fraud is_fraud defect"
)
_LABELS += " is_phishing species diagnosis activity quality rul attack alarm verdict category state status"
_FEW = 20
_UNITS = ("s", "ms", "us", "ns")


class FieldRoles(NamedTuple):
    """The fields that were found for each role, None where there is none. `candidates`: what might be a
    label. `why`: the reason for each role.
    """

    id: Field | None
    key: Field | None
    time: Field | None
    label: Field | None
    candidates: tuple[Field, ...]
    why: dict[str, str]


def guess_roles(fields: Sequence[Field], rows: int, isos: bool, whole: bool = False) -> FieldRoles:
    """The roles among these fields. `isos`: times without a zone, or in another format, can be used. `whole`:
    these are all rows that there are, so that what is different in each is so for good.
    """
    why: dict[str, str] = {}
    time = _time(fields, isos, why)
    rest = _without(fields, time)
    ident = _best(rest, _IDS, _can_be_id) or (_unnamed_id(rest) if whole else None)
    if ident:
        why["id"] = f"a different one in each of {ident.present:,} rows"
    rest = _without(rest, ident)
    label = _best(rest, _LABELS, _can_be_label)
    if label:
        why["label"] = f"by its name; {describe(label)}"
    rest = _without(rest, label)
    key = _best(rest, _KEYS, lambda field: field.kind in ("str", "int") and field.distinct <= rows / 2)
    if key:
        why["key"] = f"{field_count(key)} that come again"
    rest = [] if label or rows < 20 else _without(rest, key)
    return FieldRoles(ident, key, time, label, tuple(filter(_may_be_label, rest)), why)


def _without(fields: Sequence[Field], chosen: Field | None) -> list[Field]:
    """The fields that have values, without the chosen one."""
    return [field for field in fields if field is not chosen and field.present]


def _unnamed_id(fields: Sequence[Field]) -> Field | None:
    """A field without a known name whose texts have no blanks and are all different, and no times."""
    for field in fields:
        odd = field.time or field.clock or field.numeric or field.coated
        if field.unique and field.kind == "str" and not odd and " " not in "".join(field.texts):
            return field
    return None


def _may_be_label(field: Field) -> bool:
    whole = field.kind in ("bool", "str", "int") or (field.kind == "float" and field.integral)
    return whole and 2 <= field.distinct <= 10


def _time(fields: Sequence[Field], isos: bool, why: dict[str, str]) -> Field | None:
    usable = [field for field in fields if _is_readable_time(field, isos)]
    texts = [field for field in usable if field.time not in _UNITS]
    time = _best(usable, _TIMES) or next(filter(is_named_as_time, usable), None)
    time = time or (texts[0] if len(texts) == 1 else None)
    if time:
        form = {"rfc3339": "RFC 3339", "iso": "ISO 8601 without a zone, taken as UTC"}
        why["time"] = f"plausible times, {form.get(time.time, time.time)}"
    return time


def _is_readable_time(field: Field, isos: bool) -> bool:
    """True if a field's times can be used; those without a zone, or in another format, with `isos` only."""
    return bool(field.time) and (isos or field.time in (*_UNITS, "rfc3339"))


def is_named_as_time(field: Field) -> bool:
    """True if a field's name says that it holds times."""
    return bool(re.search(r"time|date|datum|_at$|_ts$", _name(field)))


def _can_be_id(field: Field) -> bool:
    timed = field.clock or "%" in field.time or (field.kind == "str" and field.time)
    return field.unique and field.kind in ("str", "int") and not timed


def _can_be_label(field: Field) -> bool:
    return (
        field.kind in ("bool", "str", "int", "float")
        and field.distinct > 1
        and not (field.kind == "str" and field.distinct > 100)
    )


def _best(fields: Sequence[Field], names: str, fits: object = None) -> Field | None:
    """The field that fits and whose name stands first among `names`; outer fields before inner ones."""
    ranks = {name: rank for rank, name in enumerate(names.split())}
    matches = [
        (ranks[_name(field)], field.path.count("."), n)
        for n, field in enumerate(fields)
        if _name(field) in ranks and (not callable(fits) or fits(field))
    ]
    return fields[min(matches)[2]] if matches else None


def _name(field: Field) -> str:
    last = field.path.rpartition(".")[2]
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", last).lower()
    return re.sub(r"[^a-z0-9]+", "_", snake).strip("_")


def is_category(field: Field) -> bool:
    """True if a label of this field is a class, and not a quantity."""
    whole = field.kind in ("int", "float") and field.integral
    return field.kind in ("bool", "str") or (whole and field.distinct <= _FEW)


def field_count(field: Field) -> str:
    """The number of different values, in words."""
    return f"{'1,000 or more' if field.distinct >= 1000 else field.distinct} values"


def describe(field: Field) -> str:
    """A field in a few words."""
    span = (
        f" from {field.low:g} to {field.high:g}" if field.low is not None and field.high is not None else ""
    )
    gone = f", {field.missing:.0%} missing" if field.missing >= 0.005 else ""
    return f"{field.kind}, {field_count(field)}{span}{gone}"
