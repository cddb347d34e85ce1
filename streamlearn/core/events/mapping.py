"""The field mapping: an `[event]` table compiled once into a function from records to events.

A value is read (`json`, `csv`, `avro`, or what a schema registry framed), unwrapped by its preset, asked
`where`, and its parts are taken from their paths. A plain envelope is left to `codec.decode`.

Invariants:
- Every check of the envelope holds for a mapped record too: names twice, 64 bits, NaN, depth, size.
- The paths of id, key, time, label and group are never features by "*", nor by an object or array that
  happens to contain them: a label must not leak into the features. "*" also leaves out what is carried.
- The order of features is that of the value, or of the list of paths: models add numbers in this order.
"""

from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, Final

from streamlearn.core.events.csv_line import csv_reader
from streamlearn.core.events.envelopes import META, UNWRAP
from streamlearn.core.events.event import MAX_EVENT_BYTES, Event, EventSpec, NoEvent, Refusal
from streamlearn.core.events.json_events import checked_event, clean_object, decode
from streamlearn.core.events.paths import MISSING, Getter, flat, getter, optional
from streamlearn.core.events.registry import Schema, schema_reader
from streamlearn.core.events.values import conversions, is_word
from streamlearn.core.events.where import compile_where
from streamlearn.core.records import Record

Decoder = Callable[[Record], Event | Refusal | NoEvent]
Features = dict[str, Any]
Document = dict[str, Any]
Reader = Callable[[Record, bytes], Document | Refusal | NoEvent]
Take = Callable[[Document], Features | Refusal]

_SCALARS: Final = frozenset((float, int, str, bool))
_NULLABLE: Final = _SCALARS | {type(None)}


def compile_decoder(spec: EventSpec, schemas: MutableMapping[str, Schema] | None = None) -> Decoder:
    """The decoder of `spec`. `schemas` are the registry's, by id: filled by whoever answers `NeedSchema`,
    which the decoder raises for a record whose schema it does not have.

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


def _is_plain(spec: EventSpec) -> bool:
    """Whether `codec.decode` reads these values: top-level members, nothing to convert or to leave out."""
    names = (spec.id, spec.key, spec.time, spec.label, spec.group)
    return (
        isinstance(spec.features, str)
        and spec.features not in ("", "*")
        and not any("." in path for path in (*names, spec.features))
        and (spec.format, spec.preset, spec.schema, spec.registry) == ("json", "", "", False)
        and not (spec.where or spec.types or spec.carry or spec.missing)
    )


def has_schema(spec: EventSpec) -> bool:
    """Whether values are read by a schema, which says what is a text and what a number."""
    return spec.format != "csv" and bool(spec.format.startswith("avro") or spec.schema or spec.registry)


# --- reading ------------------------------------------------------------------------------------------


def compile_reader(spec: EventSpec, schemas: MutableMapping[str, Schema]) -> Reader:
    """What makes the document of a value to which the paths of `spec` refer, or says why there is none."""
    read: Reader = clean_object
    if spec.format == "csv":
        read = csv_reader(spec)
    elif has_schema(spec):
        read = schema_reader(spec, schemas)
    unwrap = UNWRAP.get(spec.preset)
    return read if unwrap is None else lambda record, value: unwrap(record, value, read)


# --- parts --------------------------------------------------------------------------------------------


def _other_parts(spec: EventSpec) -> Callable[[Document], tuple[Any, Any, Any, Any]]:
    """What takes id, key, time and label."""
    paths = (spec.id, spec.key, spec.time, spec.label)
    if not spec.missing and not any("." in path or path in spec.types for path in paths):
        # No member is named None: what is not asked for is not found.
        ident, key, ts, y = (path or None for path in paths)
        return lambda doc: (doc.get(ident), doc.get(key), doc.get(ts), doc.get(y))  # type: ignore[arg-type]
    get_id, get_key, get_time, get_label = (_typed(path, spec) for path in paths)
    return lambda doc: (get_id(doc), get_key(doc), get_time(doc), get_label(doc))


def _typed(path: str, spec: EventSpec) -> Getter:
    """What finds the part at `path`, converted where a type is declared: None where there is nothing (or
    no path at all), `MISSING` for a value that is not of its declared type.
    """
    if not path:
        return lambda _doc: None
    get = optional(path)
    convert = conversions(spec.decimal).get(spec.types.get(path, ""))
    missing = frozenset(spec.missing)
    if convert is None and not missing:
        return get

    def typed(doc: Document) -> Any:
        found = get(doc)
        if found is None or (missing and is_word(found, missing)):
            return None
        return found if convert is None else convert(found)

    return typed


def _features(spec: EventSpec) -> Take:
    """What takes the features out of a document: without nulls, converted, and each a scalar. No path: none,
    as in a series of labels.
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

    def features(doc: Document) -> Features | Refusal:
        x = take(doc)
        if type(x) is not dict:
            return x
        if not _SCALARS.issuperset(map(type, x.values())):
            x = settle(x)
            if type(x) is not dict:
                return x
        if missing:
            x = {name: part for name, part in x.items() if not is_word(part, missing)}
        for name, convert in converts:
            if name in x and (value := convert(x[name])) is not x[name]:
                if value is MISSING:
                    return Refusal("guard", "bad_type", name)
                x[name] = value
        return x

    return features


def _settled(x: Features) -> Features | Refusal:
    """Features that are not all scalars: without the nulls; refused for what is neither."""
    for name, part in x.items():
        if type(part) not in _NULLABLE:
            return Refusal("guard", "bad_feature", name)
    return {name: part for name, part in x.items() if part is not None}


def _parts(spec: EventSpec) -> frozenset[str]:
    """The paths of an event's other parts, which are never features unless a list names them."""
    return frozenset((spec.id, spec.key, spec.time, spec.label, spec.group)) - {""}


def _listed(paths: Iterable[str]) -> Take:
    getters = [(path, getter(path)) for path in paths]
    if not any("." in path for path, _ in getters):
        names = [path for path, _ in getters]

        def members(doc: Document) -> Features | Refusal:
            return {name: doc[name] for name in names if name in doc} or Refusal("guard", "no_features")

        return members

    def listed(doc: Document) -> Features | Refusal:
        found = {path: part for path, get in getters if (part := get(doc)) is not MISSING}
        return found or Refusal("guard", "no_features")

    return listed


def _all_others(spec: EventSpec) -> tuple[Take, Take]:
    """What takes the members that are not named otherwise; and what settles them where they are not all
    scalars: nested ones stand under their dotted paths. What is named is left out with all inside it.
    """
    named = _parts(spec) | frozenset(spec.carry) | META.get(spec.preset, frozenset())
    inside = tuple(f"{path}." for path in named)

    def others(doc: Document) -> Features | Refusal:
        x = {name: part for name, part in doc.items() if name not in named}
        return x or Refusal("guard", "no_features")

    def flattened(x: Features) -> Features | Refusal:
        found = flat(x)
        if type(found) is not dict:
            return found
        left = {
            path: part for path, part in found.items() if path not in named and not path.startswith(inside)
        }
        return _settled(left) if left else Refusal("guard", "no_features")

    return others, flattened


def _inside(spec: EventSpec) -> Take:
    """The members of the object, or the places of the array, at the path of the features."""
    path = str(spec.features)
    get = getter(path)
    prefix = path + "."
    others = frozenset(name.removeprefix(prefix) for name in _parts(spec) if name.startswith(prefix))
    copies = bool(others or spec.carry)  # what is carried stays as it came, whatever becomes of a feature

    def members(doc: Document) -> Features | Refusal:
        found = get(doc)
        if type(found) is list:
            found = {str(n): part for n, part in enumerate(found)}
        elif type(found) is not dict:
            return Refusal("guard", "no_features")
        if copies:
            return {name: part for name, part in found.items() if name not in others}
        features: Features = found
        return features

    return members
