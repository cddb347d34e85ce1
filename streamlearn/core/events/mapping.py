"""The field mapping: an `[event]` table compiled once into a function from records to events.

A value is read (`json`, `csv`, `avro`, or what a schema registry framed), unwrapped by its preset, asked
`where`, and its parts are taken from their paths. A plain envelope is left to `json_events.decode`.

Invariants:
- Every check of the envelope holds for a mapped record too: names twice, 64 bits, NaN, depth, size.
- The paths of id, key, time, label and group are never features by "*", nor by an object or array that
  happens to contain them: a label must not leak into the features. "*" also leaves out what is carried.
- The order of features is that of the value, or of the list of paths: models add numbers in this order.
"""

from collections.abc import Callable, MutableMapping
from typing import Any, Final

from streamlearn.core.events.csv_line import csv_reader
from streamlearn.core.events.envelopes import META, UNWRAP
from streamlearn.core.events.event import MAX_EVENT_BYTES, Event, EventSpec, NoEvent, Refusal
from streamlearn.core.events.json_events import checked_event, clean_object, decode
from streamlearn.core.events.paths import MISSING, Getter, flat, getter, optional
from streamlearn.core.events.registry import Schema, schema_reader
from streamlearn.core.events.values import Convert, conversions, is_word
from streamlearn.core.events.where import compile_where
from streamlearn.core.records import Record
from streamlearn.errors import NeedSchema

Decoder = Callable[[Record], Event | Refusal | NoEvent]
Features = dict[str, Any]
Document = dict[str, Any]
Reader = Callable[[Record, bytes], Document | Refusal | NoEvent]
Take = Callable[[Document], Features | Refusal]

_SCALARS: Final = frozenset((float, int, str, bool))
_NULLABLE: Final = _SCALARS | {type(None)}


def compile_decoder(spec: EventSpec, schemas: MutableMapping[str, Schema] | None = None) -> Decoder:
    """The decoder of `spec`. `schemas` are the registry's, by id: filled by the caller that answers
    `NeedSchema`, which the decoder raises for a record whose schema it does not have.

    Raises `ValueError` for a `where` or a schema that cannot be understood.
    """
    if _is_plain(spec):
        return lambda record: decode(spec, record)
    read = compile_reader(spec, {} if schemas is None else schemas)
    keep = compile_where(spec.where) if spec.where else None
    carried = [(path, optional(path)) for path in spec.carry]
    take_parts = _other_parts(spec)
    group_of = optional(spec.group) if spec.group else None
    take = _features(spec)

    def mapped(record: Record) -> Event | Refusal | NoEvent:
        value = record.value
        assert value is not None, "a tombstone is a skip and never decoded"
        if len(value) > MAX_EVENT_BYTES:
            return Refusal("decode", "too_large")
        doc = read(record, value)
        if type(doc) is not dict:
            return doc  # type: ignore[return-value] # what is no document is a refusal or a skip
        if keep is not None and not keep(doc):
            return NoEvent("where")
        ident, key, ts, y = take_parts(doc)
        carry = {path: get(doc) for path, get in carried} if carried else None
        if y is MISSING:
            return Refusal("label", "bad_type", spec.label)
        x = take(doc)
        if type(x) is not dict:
            return x  # type: ignore[return-value] # as above
        group = None if group_of is None else group_of(doc)
        event = checked_event(spec, record, ident, key, ts, x, y, group)
        if carry is not None and type(event) is Event:
            event.carry = carry
        return event

    return mapped


def event_in(record: Record, decode: Decoder) -> Event | None:
    """The event that `decode` finds in a record; None where that needs a registry, or there is none."""
    try:
        event = decode(record)
    except NeedSchema:
        return None
    return event if isinstance(event, Event) else None


def _is_plain(spec: EventSpec) -> bool:
    """Tell if `decode` reads these values: top-level members, nothing to convert or to leave out."""
    names = (spec.id, spec.key, spec.time, spec.label, spec.group)
    return (
        isinstance(spec.features, str)
        and spec.features not in ("", "*")
        and not any("." in path for path in (*names, spec.features))
        and (spec.format, spec.preset, spec.schema, spec.registry) == ("json", "", "", False)
        and not (spec.where or spec.types or spec.carry or spec.missing)
    )


def has_schema(spec: EventSpec) -> bool:
    """Tell if values are read by a schema, which distinguishes texts from numbers."""
    return spec.format != "csv" and bool(spec.format.startswith("avro") or spec.schema or spec.registry)


# --- reading ------------------------------------------------------------------------------------------


def compile_reader(spec: EventSpec, schemas: MutableMapping[str, Schema]) -> Reader:
    """Compile the reader of the document to which the paths of `spec` refer; it refuses a value that has
    none.
    """
    read: Reader = clean_object
    if spec.format == "csv":
        read = csv_reader(spec)
    elif has_schema(spec):
        read = schema_reader(spec, schemas)
    unwrap = UNWRAP.get(spec.preset)
    return read if unwrap is None else lambda record, value: unwrap(record, value, read)


# --- parts --------------------------------------------------------------------------------------------


def _other_parts(spec: EventSpec) -> Callable[[Document], tuple[Any, Any, Any, Any]]:
    """Compile the getter of id, key, time and label."""
    paths = (spec.id, spec.key, spec.time, spec.label)
    if not spec.missing and not any("." in path or path in spec.types for path in paths):
        # No member is named None: what is not asked for is not found.
        ident, key, ts, y = (path or None for path in paths)
        return lambda doc: (doc.get(ident), doc.get(key), doc.get(ts), doc.get(y))  # type: ignore[arg-type]
    get_id, get_key, get_time, get_label = (_typed(path, spec) for path in paths)
    return lambda doc: (get_id(doc), get_key(doc), get_time(doc), get_label(doc))


def _typed(path: str, spec: EventSpec) -> Getter:
    """Compile the getter of the value at `path`, converted where a type is declared: None where there is
    nothing (or no path at all), `MISSING` for a value that is not of its declared type.
    """
    if not path:
        return lambda _doc: None
    get = optional(path)
    convert = conversions(spec.decimal).get(spec.types.get(path, ""))
    missing = frozenset(spec.missing)
    if convert is None and not missing:
        return get

    def typed(doc: Document) -> Any:
        value = get(doc)
        if value is None or (missing and is_word(value, missing)):
            return None
        return value if convert is None else convert(value)

    return typed


def _features(spec: EventSpec) -> Take:
    """Compile the getter of the features: without nulls, converted, and each a scalar. No path: none, as in a
    series of labels.
    """
    if not spec.features:
        return lambda _doc: {}
    by_kind, missing = conversions(spec.decimal), frozenset(spec.missing)
    converts = [(name, by_kind[kind]) for name, kind in spec.types.items()]
    settle: Take = _settled
    if isinstance(spec.features, tuple):
        take = _listed(spec.features)
    elif spec.features == "*":
        take, settle = _all_others(spec)
    else:
        take = _inside(spec)
        prefix = spec.features + "."
        # A type may be declared by the whole path or, as the model knows it, by the feature's name.
        converts = [(name.removeprefix(prefix), c) for name, c in converts if name not in _parts(spec)]

    return _converted(take, settle, missing, converts)


def _converted(
    take: Take, settle: Take, missing: frozenset[str], converts: list[tuple[str, Convert]]
) -> Take:
    """Compile the getter of features that are settled where not all are scalars, and converted."""

    def features(doc: Document) -> Features | Refusal:
        x = take(doc)
        if type(x) is dict and not _SCALARS.issuperset(map(type, x.values())):
            x = settle(x)
        if type(x) is not dict:
            return x
        if missing:
            x = {name: item for name, item in x.items() if not is_word(item, missing)}
        for name, convert in converts:
            if name in x and (value := convert(x[name])) is not x[name]:
                if value is MISSING:
                    return Refusal("guard", "bad_type", name)
                x[name] = value
        return x

    return features


def _settled(x: Features) -> Features | Refusal:
    """Features that are not all scalars: without the nulls; refused for what is neither."""
    for name, item in x.items():
        if type(item) not in _NULLABLE:
            return Refusal("guard", "bad_feature", name)
    return {name: item for name, item in x.items() if item is not None}


def _parts(spec: EventSpec) -> frozenset[str]:
    """The paths of an event's other parts, which are never features unless a list names them."""
    return frozenset((spec.id, spec.key, spec.time, spec.label, spec.group)) - {""}


def _listed(paths: tuple[str, ...]) -> Take:
    if not any("." in path for path in paths):
        return lambda doc: (
            {name: doc[name] for name in paths if name in doc} or Refusal("guard", "no_features")
        )
    getters = [(path, getter(path)) for path in paths]

    def listed(doc: Document) -> Features | Refusal:
        x = {path: item for path, get in getters if (item := get(doc)) is not MISSING}
        return x or Refusal("guard", "no_features")

    return listed


def _all_others(spec: EventSpec) -> tuple[Take, Take]:
    """Compile the getter of the members that are not named otherwise; and the function that flattens them
    where they are not all scalars: nested ones stand under their dotted paths. What is named is left out with
    all inside it.
    """
    named = _parts(spec) | frozenset(spec.carry) | META.get(spec.preset, frozenset())
    prefixes = tuple(f"{path}." for path in named)

    def unnamed(doc: Document) -> Features | Refusal:
        x = {name: item for name, item in doc.items() if name not in named}
        return x or Refusal("guard", "no_features")

    def flattened(x: Features) -> Features | Refusal:
        leaves = flat(x)
        if type(leaves) is not dict:
            return leaves
        others = {
            path: item for path, item in leaves.items() if path not in named and not path.startswith(prefixes)
        }
        return _settled(others) if others else Refusal("guard", "no_features")

    return unnamed, flattened


def _inside(spec: EventSpec) -> Take:
    """The members of the object, or the places of the array, at the path of the features."""
    path = str(spec.features)
    get = getter(path)
    prefix = path + "."
    others = frozenset(name.removeprefix(prefix) for name in _parts(spec) if name.startswith(prefix))
    copies = bool(others or spec.carry)  # what is carried stays as it came, whatever becomes of a feature

    def members(doc: Document) -> Features | Refusal:
        x = get(doc)
        if type(x) is list:
            x = {str(n): item for n, item in enumerate(x)}
        if type(x) is not dict:
            return Refusal("guard", "no_features")
        features: Features = {name: item for name, item in x.items() if name not in others} if copies else x
        return features

    return members
