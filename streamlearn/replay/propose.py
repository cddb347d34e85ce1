"""From a sample to a proposal: the `[event]` table, a preset of a model, and how to replay a table.

What is proposed are only the keys that differ from the defaults, each with the reason. The sample is read
again with what is proposed (`rehearsal`), and what would be refused is said.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from streamlearn.core.presets import look_like_decimals, may_hold_part
from streamlearn.errors import ConfigError
from streamlearn.replay import coats, mapping, rehearsal
from streamlearn.replay.mapping import ColumnMapping
from streamlearn.replay.profile import Field, fields_of
from streamlearn.replay.roles import Roles, describe, is_category, is_named_as_time, roles_of
from streamlearn.replay.sampling import Sample
from streamlearn.replay.shapes import PRESETS, Shape, shape_of
from streamlearn.settings import EventSection

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
    fields = fields_of(sample.rows)
    roles = roles_of(fields, sample.size, isos=True, whole=sample.whole)
    nameless = [field for field in fields if field.path in sample.nameless and field is not roles.time]
    fields = [field for field in fields if field not in nameless]
    gone = {field.path: poor for field in _others(fields, roles) if (poor := _unusable(field))}
    kept = [field for field in _others(fields, roles) if field.path not in gone]
    options = list(sample.options)
    for role in ("id", "time", "key", "label"):
        field = getattr(roles, role)
        if field:
            options.append(f"--{role} {_quoted(field.path)}")
    if gone:
        options.append(f"--features {_quoted(','.join(_comma_safe(field.path) for field in kept))}")
    types, missing = _cell_types(fields, roles)
    options += [f"--missing {_quoted(text)}" for text in missing]
    if types:
        options.append(
            f"--types {_quoted(','.join(f'{_comma_safe(name)}={kind}' for name, kind in types.items()))}"
        )
    model, reason = _model(roles.label, kept)
    why = {"model.use": reason} | {f"replay.{role}": text for role, text in roles.why.items()}
    notes = [*sample.notes, *_time_notes(fields, roles), *_coat_notes(fields, "--types")]
    notes += [f"{path} is left out of the features: {poor}" for path, poor in gone.items()]
    if sample.read_options is not None:
        ident, when, key, label = (
            f.path if f else "" for f in (roles.id, roles.time, roles.key, roles.label)
        )
        features = tuple(field.path for field in kept) if gone else ()
        roles_by_column = mapping.ColumnRoles(ident, when, key, label, features)
        cells = {name: (kind.partition(":")[0], kind.partition(":")[2]) for name, kind in types.items()}
        told = sample.read_options.columns
        columns = ColumnMapping(roles_by_column, cells, told.missing | set(missing), told.decimal)
        notes += rehearsal.of_table(sample, columns, is_class(roles.label))
    return Proposal("table", sample.size, fields, {}, model, why, options, notes, _named(roles))


def _records(sample: Sample) -> Proposal:
    shape = shape_of(sample.records)
    if not shape.documents and shape.name != "registry":
        raise _nothing_known(sample)
    fields = fields_of(shape.documents)
    event: dict[str, Any] = {}
    why: dict[str, str] = {}
    _say_format(shape, event, why)
    default = EventSection(
        **{key: part for key, part in event.items() if key in ("preset", "columns")}
        | ({"format": "csv"} if shape.name == "csv" else {})
    )
    searched = [field for field in fields if may_hold_part(shape.name, field.path)]
    roles = roles_of(searched, len(shape.documents), isos=False, whole=sample.whole)
    if shape.name == "envelope":
        kept = [field for field in fields if field.path.startswith("features.")]
        roles = roles._replace(label=next((field for field in fields if field.path == "label"), None))
    else:
        features, kept, reason = _features(shape.name, fields, roles, str(default.features))
        wanted = {
            role: field.path for role in ("id", "key", "time", "label") if (field := getattr(roles, role))
        }
        for name, value in {**wanted, "features": features}.items():
            if value != getattr(default, name):
                event[name] = value
                why[f"event.{name}"] = reason if name == "features" else roles.why.get(name, "")
    if roles.time and roles.time.time in ("s", "ms", "us", "ns"):
        event["time_unit"], why["event.time_unit"] = roles.time.time, f"e.g. {roles.time.high:.15g}"
    types, missing = _types([*kept, *([roles.label] if roles.label else [])])
    if types:
        event["types"], why["event.types"] = types, "numbers that also come as text, or a mixture"
    if missing:
        event["missing"], why["event.missing"] = missing, "texts that say that there is no value"
    model, why["model.use"] = _model(roles.label, kept)
    notes = [*_notes(sample, shape), *_coat_notes(kept, "[event] types"), *_decimal_notes(kept)]
    if shape.documents and "schema_registry" not in event:
        notes += rehearsal.of_records(event, sample.records, is_class(roles.label))
    return Proposal(shape.name, sample.size, fields, event, model, why, [], notes, _named(roles))


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


def _others(fields: Sequence[Field], roles: Roles) -> list[Field]:
    taken = [roles.id, roles.key, roles.time, roles.label]
    return [field for field in fields if all(field is not one for one in taken)]


def _features(
    shape: str, fields: list[Field], roles: Roles, default: str
) -> tuple[str | list[str], list[Field], str]:
    """The key's value, the fields it stands for, and the reason."""
    others = _others(fields, roles)
    if shape in PRESETS and default != "*":
        return default, [field for field in others if field.path.startswith(f"{default}.")], ""
    gone = [field for field in others if _unusable(field)]
    kept = [field for field in others if field not in gone]
    parent = {field.path.partition(".")[0] for field in kept if "." in field.path}
    if len(parent) == 1 and all("." in field.path for field in kept):
        (name,) = parent
        if not any(field.path.startswith(f"{name}.") for field in gone):
            return name, kept, "all features stand in it"
    names = ", ".join(f"{field.path} ({_unusable(field)})" for field in gone)
    if gone and kept and len(kept) <= _MOST_LISTED:
        return [field.path for field in kept], kept, f"without {names}"
    return "*", kept, "all that is named nowhere else" + (f", also {names}" if names else "")


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
    found = {}
    missing: list[str] = []
    for field in fields:
        missing += [text for text in field.words if text not in missing]
        texts = field.kinds.get("str", 0)
        if field.kind == "str" and field.numeric == texts:
            found[field.path] = "float"
        elif field.kind == "mixed":
            found[field.path] = "float" if field.numeric == texts else "str"
    return found, missing


def _cell_types(fields: Sequence[Field], roles: Roles) -> tuple[dict[str, str], list[str]]:
    """Declared types for the cells of a table, and the texts that mean "absent"."""
    types: dict[str, str] = {}
    missing: list[str] = []
    for field in fields:
        missing += [text for text in field.words if text not in missing]
        if field is roles.time:
            if "%" in field.time:
                types[field.path] = f"datetime:{field.time}"
        elif field.kind == "mixed" and set(field.kinds) == {"number", "str"}:
            if len(field.texts) <= 3 and field.kinds["str"] < field.kinds["number"]:
                missing += [text for text in field.texts if text not in missing]
            elif field.numeric < field.kinds["str"]:
                types[field.path] = "str"
        elif field is roles.label and field.kind == "float" and is_category(field):
            types[field.path] = "int"
        elif field.kind == "str" and {text.lower() for text in field.texts} <= {"true", "false"}:
            types[field.path] = "bool"
    return types, missing


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


def _named(roles: Roles) -> list[str]:
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
    for other, count in shape.others.items():
        notes.append(
            f"{count:,} of {sample.size:,} records {names.get(other, f'have another shape: {other}')}"
        )
    if shape.name == "registry":
        notes.append(
            "Avro values cannot be looked into here; serving them needs the extra: streamlearn[avro]"
        )
    kinds = [
        f
        for f in fields_of(shape.documents)
        if f.path in ("type", "event_type", "kind", "name") and 1 < f.distinct < 20
    ]
    for field in kinds:
        notes.append(
            f"{field.path} has {field.distinct} values; to keep one: where = \"{field.path} == '...'\""
        )
    return notes


def is_class(label: Field | None) -> bool:
    """True if the model that is proposed for this label is a classifier."""
    return label is not None and is_category(label)


def _time_notes(fields: Sequence[Field], roles: Roles) -> list[str]:
    """Notes on fields like times that are not used as such, and on times with two readings."""
    notes = []
    for field in fields:
        if field is roles.time:
            if len(field.formats) > 1:
                notes.append(
                    f"{field.path} is read as {field.time}, and could as well be {field.formats[1]}: say the"
                    f" right one, --types {_quoted(f'{_comma_safe(field.path)}=datetime:{field.formats[1]}')}"
                )
        elif field.kind == "str" and (field.time or field.clock):
            also = f" --types {_quoted(f'{_comma_safe(field.path)}=datetime:{field.time}')}"
            if field.time:
                form = f", format {field.time}" if "%" in field.time else ""
                option = also if "%" in field.time else ""
                notes.append(f"{field.path} looks like a time{form}: --time {_quoted(field.path)}{option}")
            elif roles.time and not roles.time.clock:
                notes.append(
                    f"{field.path} holds times of day apart from {roles.time.path}: join the two into one"
                    " column, or all events of a day have one time"
                )
        elif field.kind == "str" and is_named_as_time(field) and not roles.time:
            told = f"--types {_quoted(f'{_comma_safe(field.path)}=datetime:FORMAT')}"
            notes.append(
                f"{field.path} may hold times, in a format that is not known here (e.g. {field.texts[0]!r}):"
                f" --time {_quoted(field.path)} {told}"
            )
    return notes


def _coat_notes(fields: Sequence[Field], where: str) -> list[str]:
    return [coats.note(field.path, field.texts[0], where) for field in fields if field.coated]


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
