"""The common event, read in one call: a flat JSON value that proves by its shape that nothing is wrong in it.

`common_reader` compiles an `[event]` table into a function from a record to its event, or None. None says
nothing about the record: whoever gets it asks the decoder of `core.events.mapping`.

Invariants:
- Where a reader has an event, the decoder has the same.
- The proof that no member is named twice is that of `json_events.is_clean`: without escapes, a text has as
  many colons as members, plus those inside strings. No number is beyond 64 bits.
- No feature is a list, an object or a number of 2**63 or more.
"""

from collections.abc import Callable
from math import hypot
from typing import Any, Final

import orjson

from streamlearn.core.events.event import MAX_EVENT_BYTES, Event, EventSpec
from streamlearn.core.events.json_events import names_once
from streamlearn.core.records import Record

CommonReader = Callable[[Record], Event | None]

_LIMIT: Final = 2.0**63
_NAMES: Final = frozenset((str, int, type(None)))
_TIMES: Final = frozenset((float, int, str, type(None)))
_SCALARS: Final = frozenset((float, int, str, bool, type(None)))
_PLACES: Final = tuple(map(str, range(256)))


def common_reader(spec: EventSpec) -> CommonReader | None:
    """The reader of common events; None where `spec` asks for more than members of flat JSON.

    >>> read = common_reader(EventSpec())
    >>> read(Record("events", 0, 7, 0, None, b'{"id": "e1", "features": {"temp": 21.5}, "label": true}')).x
    {'temp': 21.5}
    >>> read(Record("events", 0, 8, 0, None, b'{"id": "e1", "id": "e2", "features": {}}')) is None
    True
    """
    if not _is_flat(spec):
        return None
    return _compiled(spec)


def _compiled(spec: EventSpec) -> CommonReader:
    nested = "" if isinstance(spec.features, tuple) or spec.features == "*" else spec.features
    # No member is named None: a part without a path is not there; only `json_events.decode` looks for "".
    ident, ts, label = (path if nested else path or None for path in (spec.id, spec.time, spec.label))
    key, group = spec.key or None, spec.group or None
    columns = spec.features if isinstance(spec.features, tuple) else ()
    others, has_key = frozenset(_names(spec)), key is not None

    def read(record: Record) -> Event | None:
        value = record.value
        if value is None or len(value) > MAX_EVENT_BYTES:
            return None
        try:
            doc = orjson.loads(value)
        except orjson.JSONDecodeError:
            return None
        if type(doc) is not dict:
            return None
        get, members = doc.get, len(doc)
        if nested:
            x = get(nested)
            if type(x) is dict:
                members += len(x)
            elif type(x) is list and len(x) <= len(_PLACES):
                x = doc[nested] = dict(zip(_PLACES, x, strict=False))
            else:
                return None
        elif columns:
            x = {name: doc[name] for name in columns if name in doc}
        else:
            x = {name: item for name, item in doc.items() if name not in others}
        if not names_once(value, members, (doc, x) if nested else (doc,)):
            return None
        if not (x or nested):
            return None
        for item in doc.values():
            kind = type(item)
            if kind is list or ((kind is float or kind is int) and not -_LIMIT < item < _LIMIT):
                return None
        try:
            if not hypot(*x.values()) < _LIMIT:  # at least as large as the largest, in one pass in C
                return None
        except TypeError:  # a text or a null is among them
            if not _are_scalars(x):
                return None
            x = {name: item for name, item in x.items() if item is not None}
        y, name, when, team = get(label), get(ident), get(ts), get(group)
        if type(name) not in _NAMES or type(when) not in _TIMES or type(y) not in _SCALARS:
            return None
        if name is None:
            name = f"{record.topic}-{record.partition}-{record.offset}"
        code: Any = record.key
        code = get(key) if has_key or code is None else code.decode("utf-8", "backslashreplace")
        if type(code) not in _NAMES or type(team) not in _NAMES:
            return None
        return Event(name, code, when, x, y, None, team)

    return read


def _names(spec: EventSpec) -> list[str]:
    return [path for path in (spec.id, spec.key, spec.time, spec.label, spec.group) if path]


def _is_flat(spec: EventSpec) -> bool:
    """True if every part of an event is a member of the JSON itself, as it is, and nothing else is asked."""
    listed = spec.features if isinstance(spec.features, tuple) else (spec.features,)
    return (
        all(listed)
        and not any("." in path for path in (*_names(spec), *listed))
        and (spec.format, spec.preset, spec.schema, spec.registry) == ("json", "", "", False)
        and not (spec.where or spec.types or spec.carry or spec.missing)
    )


def _are_scalars(x: dict[str, Any]) -> bool:
    """True if all features are texts, nulls, true, false, or numbers within 64 bits."""
    for item in x.values():
        kind = type(item)
        if kind not in _SCALARS or ((kind is float or kind is int) and not -_LIMIT < item < _LIMIT):
            return False
    return True
