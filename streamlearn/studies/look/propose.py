"""From a sample to a proposal: the `[event]` table, a preset of a model, and how to replay a table.

What is proposed are only the keys that differ from the defaults, each with the reason. The sample is read
again with what is proposed (`rehearsal`), and what would be refused is said.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from streamlearn.config.schema import EventSection
from streamlearn.core.events.envelopes import look_like_decimals, may_hold_part
from streamlearn.errors import ConfigError
from streamlearn.history.formats import cells
from streamlearn.history.formats.column_mapping import ColumnMapping, ColumnRoles
from streamlearn.studies.look import rehearsal
from streamlearn.studies.look.profile import Field, profile_fields
from streamlearn.studies.look.roles import FieldRoles, describe, guess_roles, is_category, is_named_as_time
from streamlearn.studies.look.sampling import Sample
from streamlearn.studies.look.shapes import PRESETS, Shape, recognise_shape

_GAPS = 0.02
_MANY_TEXTS = 100
_MOST_LISTED = 100


class Proposal(NamedTuple):
    """`event` and `model`: keys of the configuration. `why`: the reason by dotted key. `replay`: options that
    make events of a table. `notes`: what a person should know.
    """

    shape: str
    rows: int
    fields: list[Field]
    event: dict[str, Any]
    model: str
    why: dict[str, str]
    replay: list[str]
    notes: list[str]
    candidates: list[str]


def propose(sample: Sample) -> Proposal:
    """Propose a service for this sample. Raises `ConfigError` when nothing of it is known."""
    return _table(sample) if sample.rows else _records(sample)


def _table(sample: Sample) -> Proposal:
    fields = profile_fields(sample.rows)
    roles = guess_roles(fields, sample.size, isos=True, whole=sample.whole)
    fields = [field for field in fields if field.path not in sample.nameless or field is roles.time]
    usable, unusable = _usable(fields, roles)
    chosen = [field.path for field in usable] if unusable else []
    types, missing = _cell_types(fields, roles)
    options = [*sample.options, *_replay_options(roles, chosen, types, missing)]
    model, reason = _model(roles.label, usable)
    why = {"model.use": reason} | {f"replay.{role}": text for role, text in roles.why.items()}
    notes = [*sample.notes, *_time_notes(fields, roles), *_coat_notes(fields, "--types")]
    notes += [f"{path} is left out of the features: {why_not}" for path, why_not in unusable.items()]
    if sample.read_options is not None:
        columns = _mapping(sample.read_options.columns, roles, chosen, types, missing)
        notes += rehearsal.rehearse_table(sample, columns, is_class(roles.label))
    return Proposal("table", sample.size, fields, {}, model, why, options, notes, _named(roles))


def _replay_options(
    roles: FieldRoles, features: list[str], types: dict[str, str], missing: list[str]
) -> list[str]:
    """The options of `replay` that read the table as proposed."""
    named = {role: getattr(roles, role) for role in ("id", "time", "key", "label")}
    options = [f"--{role} {_quoted(field.path)}" for role, field in named.items() if field]
    if features:
        options.append(f"--features {_quoted(','.join(map(_comma_safe, features)))}")
    options += [f"--missing {_quoted(text)}" for text in missing]
    if types:
        declared = ",".join(f"{_comma_safe(name)}={kind}" for name, kind in types.items())
        options.append(f"--types {_quoted(declared)}")
    return options


def _mapping(
    columns: ColumnMapping, roles: FieldRoles, features: list[str], types: dict[str, str], missing: list[str]
) -> ColumnMapping:
    """The same as the reader of the table takes it."""
    ident, time, key, label = (
        field.path if field else "" for field in (roles.id, roles.time, roles.key, roles.label)
    )
    column_roles = ColumnRoles(ident, time, key, label, tuple(features))
    declared = {name: (kind.partition(":")[0], kind.partition(":")[2]) for name, kind in types.items()}
    return ColumnMapping(column_roles, declared, columns.missing | set(missing), columns.decimal)


def _records(sample: Sample) -> Proposal:
    shape = recognise_shape(sample.records)
    if not shape.documents and shape.name != "registry":
        raise _nothing_known(sample)
    fields = profile_fields(shape.documents)
    event: dict[str, Any] = {}
    why: dict[str, str] = {}
    _say_format(shape, event, why)
    searched = [field for field in fields if may_hold_part(shape.name, field.path)]
    roles = guess_roles(searched, len(shape.documents), isos=False, whole=sample.whole)
    if shape.name == "envelope":
        features = _fields_inside("features", fields)
        roles = roles._replace(label=next((field for field in fields if field.path == "label"), None))
    else:
        features = _say_roles(shape, fields, roles, event, why)
    _say_values(roles, features, event, why)
    model, why["model.use"] = _model(roles.label, features)
    notes = [*_notes(sample, shape), *_coat_notes(features, "[event] types"), *_decimal_notes(features)]
    if "schema_registry" not in event:
        notes += rehearsal.rehearse_records(event, sample.records, is_class(roles.label))
    return Proposal(shape.name, sample.size, fields, event, model, why, [], notes, _named(roles))


def _say_roles(
    shape: Shape, fields: list[Field], roles: FieldRoles, event: dict[str, Any], why: dict[str, str]
) -> list[Field]:
    """Say in `event` where the parts of events are, as far as it is not the default; the features."""
    rules: dict[str, Any] = {key: event[key] for key in ("preset", "columns") if key in event}
    default = EventSection(**rules | ({"format": "csv"} if shape.name == "csv" else {}))
    chosen, features, reason = _features(shape.name, fields, roles, str(default.features))
    named = {role: getattr(roles, role) for role in ("id", "key", "time", "label")}
    paths: dict[str, str | list[str]] = {role: field.path for role, field in named.items() if field}
    for name, path in {**paths, "features": chosen}.items():
        if path != getattr(default, name):
            event[name] = path
            why[f"event.{name}"] = reason if name == "features" else roles.why.get(name, "")
    return features


def _say_values(roles: FieldRoles, features: list[Field], event: dict[str, Any], why: dict[str, str]) -> None:
    """Say in `event` how values are read: the unit of times, types, words for "absent"."""
    if roles.time and roles.time.time in ("s", "ms", "us", "ns"):
        event["time_unit"], why["event.time_unit"] = roles.time.time, f"e.g. {roles.time.high:.15g}"
    types, missing = _types([*features, *([roles.label] if roles.label else [])])
    if types:
        event["types"], why["event.types"] = types, "numbers that also come as text, or a mixture"
    if missing:
        event["missing"], why["event.missing"] = missing, "texts that say that there is no value"


def _say_format(shape: Shape, event: dict[str, Any], why: dict[str, str]) -> None:
    if shape.name in PRESETS:
        event["preset"], why["event.preset"] = shape.name, f"{len(shape.documents):,} records have this shape"
    if shape.name == "csv":
        event |= {"format": "csv", "columns": list(shape.columns)}
        why["event.columns"] = "lines have no names: give the columns theirs, here and in the keys below"
        if shape.columns[0] != "c1":
            why["event.columns"] = "named by the first line"
        if shape.delimiter != ",":
            event["delimiter"] = shape.delimiter
        if shape.decimal != ".":
            event["decimal"] = shape.decimal
    if shape.name == "registry" or shape.framed:
        event |= {"format": "json" if shape.framed else "avro", "schema_registry": "http://127.0.0.1:8081"}
        why["event.schema_registry"] = "put the address of your schema registry here"


# --- features -----------------------------------------------------------------------------------------


def _others(fields: Sequence[Field], roles: FieldRoles) -> list[Field]:
    with_role = [roles.id, roles.key, roles.time, roles.label]
    return [field for field in fields if all(field is not chosen for chosen in with_role)]


def _usable(fields: Sequence[Field], roles: FieldRoles) -> tuple[list[Field], dict[str, str]]:
    """The fields without a role that can be features, and the reasons why others cannot, by path."""
    others = _others(fields, roles)
    reasons = {field.path: _unusable(field) for field in others}
    usable = [field for field in others if not reasons[field.path]]
    return usable, {path: reason for path, reason in reasons.items() if reason}


def _features(
    shape: str, fields: list[Field], roles: FieldRoles, default: str
) -> tuple[str | list[str], list[Field], str]:
    """The key's value, the fields it stands for, and the reason."""
    usable, unusable = _usable(fields, roles)
    if shape in PRESETS and default != "*":
        return default, _fields_inside(default, _others(fields, roles)), ""
    if parent := _one_parent(usable, unusable):
        return parent, usable, "all features stand in it"
    names = ", ".join(f"{path} ({reason})" for path, reason in unusable.items())
    if unusable and 0 < len(usable) <= _MOST_LISTED:
        return [field.path for field in usable], usable, f"without {names}"
    return "*", usable, "all that is named nowhere else" + (f", also {names}" if names else "")


def _fields_inside(parent: str, fields: Sequence[Field]) -> list[Field]:
    return [field for field in fields if field.path.startswith(f"{parent}.")]


def _one_parent(usable: list[Field], unusable: dict[str, str]) -> str:
    """The object that holds all usable fields and no other; "" where there is none."""
    parents = {field.path.partition(".")[0] if "." in field.path else "" for field in usable}
    if len(parents) != 1:
        return ""
    (parent,) = parents
    return "" if any(path.startswith(f"{parent}.") for path in unusable) else parent


def _unusable(field: Field) -> str:
    """The reason why a field is a poor feature, "" without one."""
    if field.kind in ("empty", "object"):
        return "it has no values" if field.kind == "empty" else "it is no number, text, true or false"
    if field.kind == "str" and field.time:
        return "it is a date"
    if field.kind == "str" and field.clock:
        return "it is a time of day, or a duration"
    if field.kind == "str" and not field.numeric and field.distinct > _MANY_TEXTS:
        return "nearly every value is different"
    return ""


def _types(fields: Sequence[Field]) -> tuple[dict[str, str], list[str]]:
    """Declared types for fields of JSON whose values are of several types, or numbers written as text; and
    texts that mean "absent".
    """
    types = {}
    missing: dict[str, None] = {}
    for field in fields:
        missing |= dict.fromkeys(field.words)
        texts = field.kinds.get("str", 0)
        if field.kind == "str" and field.numeric == texts:
            types[field.path] = "float"
        elif field.kind == "mixed":
            types[field.path] = "float" if field.numeric == texts else "str"
    return types, list(missing)


def _cell_types(fields: Sequence[Field], roles: FieldRoles) -> tuple[dict[str, str], list[str]]:
    """Declared types for the cells of a table, and the texts that mean "absent"."""
    types: dict[str, str] = {}
    missing: dict[str, None] = {}
    for field in fields:
        missing |= dict.fromkeys(field.words)
        if field is not roles.time and _has_few_texts(field):
            missing |= dict.fromkeys(field.texts)
        elif kind := _cell_type(field, roles):
            types[field.path] = kind
    return types, list(missing)


def _is_mixed(field: Field) -> bool:
    return field.kind == "mixed" and set(field.kinds) == {"number", "str"}


def _has_few_texts(field: Field) -> bool:
    """True if texts among numbers are so few that they mean "absent"."""
    return _is_mixed(field) and len(field.texts) <= 3 and field.kinds["str"] < field.kinds["number"]


def _is_truth(field: Field) -> bool:
    """True if all texts are true or false."""
    return field.kind == "str" and {text.lower() for text in field.texts} <= {"true", "false"}


def _cell_type(field: Field, roles: FieldRoles) -> str:
    """The type to declare, "" for none."""
    if field is roles.time:
        return f"datetime:{field.time}" if "%" in field.time else ""
    if _is_mixed(field):
        return "str" if field.numeric < field.kinds["str"] else ""
    if field is roles.label and field.kind == "float" and is_category(field):
        return "int"
    return "bool" if _is_truth(field) else ""


def _model(label: Field | None, features: Sequence[Field]) -> tuple[str, str]:
    if label is None:
        return "preset:anomaly", "there is no label to learn from, and this learns without"
    if not is_category(label):
        return "preset:regression", f"the label is a quantity: {describe(label)}"
    gaps = [field for field in features if "number" in field.kinds and 1 - field.numbers >= _GAPS]
    if gaps:
        return "preset:sensors", f"the label is a class, and {len(gaps)} numeric features have gaps"
    return "preset:classification", f"the label is a class: {describe(label)}"


# --- words --------------------------------------------------------------------------------------------


def _named(roles: FieldRoles) -> list[str]:
    return [field.path for field in roles.candidates]


def _nothing_known(sample: Sample) -> ConfigError:
    values = [record.value for record in sample.records if record.value is not None]
    if not values:
        return ConfigError(
            f"{sample.name}: nothing but deletions among {sample.size:,} records; look again later"
        )
    shown = values[0][:60].decode("utf-8", "backslashreplace")
    return ConfigError(
        f"{sample.name}: nothing was recognised in {sample.size:,} records, the first of which is {shown!r}."
        " An event is a JSON object, or a line of CSV; a file that is a table needs --format csv, where its"
        " name does not end in .csv"
    )


def _notes(sample: Sample, shape: Shape) -> list[str]:
    notes = []
    names = {"unknown": "are neither JSON objects nor lines of CSV"}
    for name, count in shape.others.items():
        notes.append(f"{count:,} of {sample.size:,} records {names.get(name, f'have another shape: {name}')}")
    if shape.name == "registry":
        notes.append(
            "Avro values cannot be looked into here; serving them needs the extra: streamlearn[avro]"
        )
    kinds = [
        field
        for field in profile_fields(shape.documents)
        if field.path in ("type", "event_type", "kind", "name") and 1 < field.distinct < 20
    ]
    for field in kinds:
        notes.append(
            f"{field.path} has {field.distinct} values; to keep one: where = \"{field.path} == '...'\""
        )
    return notes


def is_class(label: Field | None) -> bool:
    """True if the model that is proposed for this label is a classifier."""
    return label is not None and is_category(label)


def _time_notes(fields: Sequence[Field], roles: FieldRoles) -> list[str]:
    """Notes on fields like times that are not used as such, and on times with two readings."""
    return [note for field in fields if (note := _time_note(field, roles.time))]


def _time_note(field: Field, time: Field | None) -> str:
    """The note on one field; "" for none. `time`: the field that is used."""
    if field is time:
        return _two_readings(field)
    if field.kind != "str":
        return ""
    if field.time:
        form, option = "", ""
        if "%" in field.time:
            form, option = f", format {field.time}", f" --types {_datetime_type(field, field.time)}"
        return f"{field.path} looks like a time{form}: --time {_quoted(field.path)}{option}"
    if field.clock:
        if time is None or time.clock:
            return ""
        return (
            f"{field.path} holds times of day apart from {time.path}: join the two into one"
            " column, or all events of a day have one time"
        )
    if time is None and is_named_as_time(field):
        return (
            f"{field.path} may hold times, in a format that is not known here (e.g. {field.texts[0]!r}):"
            f" --time {_quoted(field.path)} --types {_datetime_type(field, 'FORMAT')}"
        )
    return ""


def _two_readings(time: Field) -> str:
    if len(time.formats) < 2:
        return ""
    return (
        f"{time.path} is read as {time.time}, and could as well be {time.formats[1]}: say the"
        f" right one, --types {_datetime_type(time, time.formats[1])}"
    )


def _datetime_type(field: Field, form: str) -> str:
    return _quoted(f"{_comma_safe(field.path)}=datetime:{form}")


def _coat_notes(fields: Sequence[Field], where: str) -> list[str]:
    return [cells.formatted_note(field.path, field.texts[0], where) for field in fields if field.coated]


def _decimal_notes(fields: Sequence[Field]) -> list[str]:
    return [
        f"{field.path} is text that looks like base 64 of a few bytes (e.g. {field.texts[0]!r}), as Kafka"
        " Connect writes decimals: send the schema with them (schemas.enable=true), or numbers"
        " (decimal.format=NUMERIC)"
        for field in fields
        if field.kind == "str" and look_like_decimals(field.texts)
    ]


def _comma_safe(name: str) -> str:
    return f'"{name}"' if "," in name else name


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)
