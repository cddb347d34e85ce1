"""The configuration: one frozen value, and where each part of it came from.

Order: flag > environment > file > default. The file is the one named, else `streamlearn.toml`, else
`[tool.streamlearn]` of `pyproject.toml`, both looked for in the current directory only.

Invariants:
- All problems are reported in one `ConfigError`, each with its key, value, source and what would be right.
- A secret is never part of a message or of `explain`: it reads `***`. Secret is what comes by `${env:}` or
  `${file:}`, what stands under a name like `password`, and what is made of either.
- Import this module late: pydantic costs 0.15 s.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from streamlearn.config.schema import Config
from streamlearn.config.values import duration_s, rfc3339_ms
from streamlearn.errors import ConfigError
from streamlearn.log.folder_store import read_regular

__all__ = ["Config", "Setting", "duration_s", "explain", "load", "rfc3339_ms", "schema", "template"]

ENV_PREFIX = "STREAMLEARN_"
OPTIONS = "log.options."
FLAGS = {
    "app.name": "--name",
    "app.replica": "--replica",
    "log.backend": "--backend",
    "log.bootstrap_servers": "--bootstrap-servers",
    "log.path": "--db",
    "topics.input": "--input",
    "topics.predictions": "--output",
    "model.use": "--model",
    "model.start_from": "--from",
}
LATER = {"log.client", "model.per"}
_STRUCTURED = {"log.options", "model.args", "model.steps", "topics.input"}
_STRUCTURED |= {"event.features", "event.types", "event.carry", "event.columns", "event.missing"}

_SECRET = re.compile(
    r"passw|passphrase|\bpwd|_pwd|secret|sasl\.jaas|token|credential|api[._-]?key|(access|private)[._-]key|ssl\.key"
    r"|^checkpoint\.key$|^event\.schema_registry$",
    re.IGNORECASE,
)
SHORTEST_SECRET = 3
"""A shorter one would blot out parts of any text."""
MAX_SECRET_BYTES = 64 << 10
_REFERENCE = re.compile(r"\$\{(env|file):([^}]*)\}")


class Setting(NamedTuple):
    """One value of the configuration, fit to be shown: a secret reads `***`."""

    key: str
    value: object
    source: str


class _Value(NamedTuple):
    value: object
    source: str
    secret: bool = False


_Layer = dict[str, _Value]
"""Values by dotted key; client options have one key each, `log.options.<name>`."""


def load(file: Path | None, flags: Mapping[str, object], need_input: bool = True) -> Config:
    """The configuration from `flags`, else the environment, else `file`, else the defaults.

    Args:
        file: A TOML file; None for `streamlearn.toml` or `[tool.streamlearn]` in `pyproject.toml` of the
            current directory, where there is one.
        flags: Values by dotted key, as the command line gives them.
        need_input: False for commands that read no input topics.

    Returns:
        The configuration, resolved and checked: `${env:NAME}` and `${file:PATH}` are replaced.

    Raises:
        ConfigError: All problems at once, each with its key, value and source.

    Example:
        >>> load(None, {"app.name": "fans", "topics.input": ["events"]}).topics.predictions
        'fans.predictions'
    """
    return _resolve(file, flags, need_input)[0]


def explain(file: Path | None, flags: Mapping[str, object]) -> list[Setting]:
    """Every value and where it came from. Raises `ConfigError` as `load` does."""
    config, merged = _resolve(file, flags, need_input=False)
    settings = []
    secrets = _secret_texts(merged)
    defaults = dict(_flatten(Config().model_dump()))
    for key, value in _flatten(config.model_dump()):
        setting = merged.get(key, _Value(None, "default"))
        derived = key not in merged and value != defaults.get(key)
        hide = bool(value) and (setting.secret or _is_secret(key) or (derived and _holds(value, secrets)))
        settings.append(Setting(key, "***" if hide else _without_secrets(value), setting.source))
    return settings


def _secret_texts(merged: _Layer) -> list[str]:
    """The texts that must not be shown, longest first."""
    texts = {
        str(setting.value)
        for key, setting in merged.items()
        if (setting.secret or _is_secret(key)) and not isinstance(setting.value, dict | list)
    }
    return sorted(texts - {""}, key=len, reverse=True)


def _holds(value: object, secrets: list[str]) -> bool:
    return any(secret in str(value) for secret in secrets)


def _without_secrets(value: object) -> object:
    """A value with what stands under a secret's name inside it hidden."""
    if isinstance(value, dict):
        return {
            name: "***" if inner and _is_secret(str(name)) else _without_secrets(inner)
            for name, inner in value.items()
        }
    return [_without_secrets(inner) for inner in value] if isinstance(value, list | tuple) else value


def schema() -> dict[str, Any]:
    """The JSON Schema of the configuration."""
    return Config.model_json_schema()


def template() -> str:
    """A commented TOML file that `load` accepts as it is."""
    lines = ["# streamlearn: a commented line shows the default. Any value may be ${env:NAME} or",
             "# ${file:/run/secrets/NAME}; each key is also an environment variable, for example",
             "# STREAMLEARN_LOG__BOOTSTRAP_SERVERS."]  # fmt: skip
    for section, description, fields in _sections():
        lines += ["", f"# {description}", f"[{section}]"]
        for name, field in fields.items():
            default = json.dumps(field.default) if field.default != {} else "{}"
            line = 'input = "events"' if f"{section}.{name}" == "topics.input" else f"# {name} = {default}"
            lines.append(f"{line.ljust(44)}# {field.description}")
    return "\n".join(lines) + "\n"


def _resolve(file: Path | None, flags: Mapping[str, object], need_input: bool) -> tuple[Config, _Layer]:
    problems: list[str] = []
    layers = [_from_flags(flags, problems), _from_environment(), _from_file(file)]
    merged: _Layer = {}
    for layer in reversed(layers):
        merged.update(layer)
    _choose_backend(layers[0], merged)
    for key in list(merged):
        if problem := _unknown(key):
            problems.append(_line(key, merged.pop(key), problem))
        else:
            _dereference(key, merged, problems)
    if need_input and not merged.get("topics.input", _Value(None, "")).value:
        problems.append("topics.input is not given: name the topic to read, with -i TOPIC or in the file")
    config = _validate(merged, problems)
    if config is None or problems:
        secrets = [text for text in _secret_texts(merged) if len(text) >= SHORTEST_SECRET]
        raise ConfigError("the configuration cannot be used:\n  " + "\n  ".join(_redacted(problems, secrets)))
    return config, merged


def _redacted(problems: list[str], secrets: list[str]) -> Iterator[str]:
    """Problems with no secret in them, not even as a part of what was made of it."""
    for problem in problems:
        for secret in secrets:
            problem = problem.replace(secret, "***")  # noqa: PLW2901 - one after the other
        yield problem


def _validate(merged: _Layer, problems: list[str]) -> Config | None:
    nested: dict[str, Any] = {}
    for key, setting in merged.items():
        section, _, name = key.partition(".")
        if key.startswith(OPTIONS):
            nested.setdefault("log", {}).setdefault("options", {})[key[len(OPTIONS) :]] = setting.value
        else:
            nested.setdefault(section, {})[name] = setting.value
    try:
        return Config.model_validate(nested)
    except ValidationError as error:
        problems += [_explain_error(detail, merged) for detail in error.errors(include_url=False)]
        return None


def _explain_error(detail: Any, merged: _Layer) -> str:
    message = str(detail["msg"]).removeprefix("Value error, ")
    key = ".".join(str(segment) for segment in detail["loc"][:2])
    section, _, name = key.partition(".")
    if not name:  # it is about several keys, and names them
        return message
    field = {s: f for s, _, f in _sections()}[section][name]
    # A role whose default name cannot be a topic was given nowhere: the name it is made of was.
    setting = merged.get(key, _Value(detail["input"], "default"))
    if detail["type"] == "string_pattern_mismatch":
        message = "does not have the right form"
    elif detail["type"] != "value_error":
        message = message[:1].lower() + message[1:]
    return _line(key, setting, f"{message}. Right is: {field.description}")


def _line(key: str, setting: _Value, message: str) -> str:
    hide = setting.secret or _is_secret(key)
    shown = "***" if hide else json.dumps(_without_secrets(setting.value), default=str)
    return f"{key} = {shown} ({setting.source}): {message}"


def _is_secret(key: str) -> bool:
    return bool(_SECRET.search(key))


def _sections() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for section, field in Config.model_fields.items():
        shape = type(field.default)
        yield section, str(shape.__doc__), shape.model_fields


def _known() -> list[str]:
    return [f"{section}.{name}" for section, _, fields in _sections() for name in fields]


def _unknown(key: str) -> str | None:
    """The mistake in this key, or None."""
    known_keys = _known()
    if key in known_keys or (key.startswith(OPTIONS) and key != OPTIONS):
        return None
    if key in LATER:
        return "not in this version yet; take it out"
    nearest = difflib.get_close_matches(key, known_keys, n=1, cutoff=0.5)
    name = key.rpartition(".")[2]
    same_name = [candidate for candidate in known_keys if candidate.endswith(f".{name}")]
    guess = (same_name or nearest or [""])[0]
    return f"unknown key; did you mean {guess}?" if guess else f"unknown key; sections are {_section_names()}"


def _section_names() -> str:
    return ", ".join(Config.model_fields)


def _choose_backend(flags: _Layer, merged: _Layer) -> None:
    """A file on the command line means embedded, a broker there means Kafka; else what was configured,
    else a path configured anywhere means embedded.
    """
    if "log.backend" in flags:
        return
    if "log.path" in flags:
        merged["log.backend"] = _Value("embedded", flags["log.path"].source)
    elif "log.bootstrap_servers" in flags:
        merged["log.backend"] = _Value("kafka", flags["log.bootstrap_servers"].source)
    elif "log.backend" not in merged and "log.path" in merged:
        merged["log.backend"] = _Value("embedded", merged["log.path"].source)


def _from_flags(flags: Mapping[str, object], problems: list[str]) -> _Layer:
    if "log.path" in flags and "log.bootstrap_servers" in flags and "log.backend" not in flags:
        problems.append("--db (embedded) and --bootstrap-servers (kafka) are both given; keep one of them")
    return {
        key: _Value(value, f"flag {'-X' if key.startswith(OPTIONS) else FLAGS.get(key, key)}")
        for key, value in flags.items()
    }


def _from_environment() -> _Layer:
    layer: _Layer = {}
    if servers := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        layer["log.bootstrap_servers"] = _Value(servers, "env KAFKA_BOOTSTRAP_SERVERS")
    for name, text in os.environ.items():
        # Two underscores make a key; STREAMLEARN_DEBUG, or what Kubernetes sets for a service, has none.
        if not name.startswith(ENV_PREFIX) or "__" not in name:
            continue
        key = name.removeprefix(ENV_PREFIX).lower().replace("__", ".", 1)
        for flat, value in _flatten_key(key, _structured(key, text)):
            layer[flat] = _Value(value, f"env {name}")
    return layer


def _structured(key: str, text: str) -> object:
    """Tables and lists are written as JSON in the environment; everything else stays text."""
    if key in _STRUCTURED and text[:1] in ("{", "["):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{key} in the environment is not JSON: {error}") from None
    return text


def _from_file(file: Path | None) -> _Layer:
    path = file or next(filter(Path.is_file, map(Path, ("streamlearn.toml", "pyproject.toml"))), None)
    if path is None:
        return {}
    try:
        text = path.read_text("utf-8")
        tables = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"the configuration file {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"the configuration file {path} is not TOML: {error}") from None
    prefix = ""
    if path.name == "pyproject.toml":
        tables, prefix = tables.get("tool", {}).get("streamlearn", {}), "tool.streamlearn."
    lines = dict(_line_numbers(text, prefix))
    layer: _Layer = {}
    for key, value in _flatten(tables):
        number = lines.get(key) or lines.get(key.partition(".")[0])
        layer[key] = _Value(value, f"{path}:{number}" if number else str(path))
    return layer


def _flatten(tables: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for section, table in tables.items():
        if not isinstance(table, dict):
            yield section, table
            continue
        for name, value in table.items():
            yield from _flatten_key(f"{section}.{name}", value)


def _flatten_key(key: str, value: object) -> Iterator[tuple[str, object]]:
    """Client options one by one, as text in Kafka's spelling, so that a flag replaces only its own."""
    if f"{key}." != OPTIONS or not isinstance(value, dict):
        yield key, value
        return
    for name, option in value.items():
        if isinstance(option, dict):  # an unquoted `security.protocol = ...` is a nested table in TOML
            yield from _flatten_key(key, {f"{name}.{inner}": deeper for inner, deeper in option.items()})
        else:
            yield OPTIONS + name, str(option).lower() if isinstance(option, bool) else str(option)


def _line_numbers(text: str, prefix: str) -> Iterator[tuple[str, int]]:
    """The line of each `key = value` under a `[section]` header; good enough to point a reader at it."""
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[([^\]]+)\]", line):
            section = header[1].strip().removeprefix(prefix)
            yield section, number
        elif key := re.match(r"\s*([\w.\"'-]+)\s*=", line):
            name = key[1].replace('"', "").replace("'", "")
            yield (f"{section}.{name}" if section else name), number


def _dereference(key: str, merged: _Layer, problems: list[str]) -> None:
    """Replace `${env:NAME}` and `${file:PATH}` in every text of a value."""
    setting = merged[key]
    secret = setting.secret

    def fetch(match: re.Match[str]) -> str:
        nonlocal secret
        kind, name = match[1], match[2]
        secret = True
        if kind == "env":
            return os.environ[name]
        return read_regular(Path(name), MAX_SECRET_BYTES).decode("utf-8").rstrip("\r\n")

    def walk(value: object) -> object:
        if isinstance(value, str):
            return _REFERENCE.sub(fetch, value)
        if isinstance(value, dict):
            return {name: walk(inner) for name, inner in value.items()}
        return [walk(inner) for inner in value] if isinstance(value, list) else value

    try:
        value = walk(setting.value)
    except KeyError as error:
        problems.append(_line(key, setting, f"the environment has no variable {error.args[0]}; set it"))
        del merged[key]
    except (OSError, UnicodeDecodeError) as error:
        problems.append(_line(key, setting, f"the file cannot be read as text: {error}"))
        del merged[key]
    else:
        merged[key] = _Value(value, setting.source, secret)
