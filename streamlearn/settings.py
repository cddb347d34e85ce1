"""The shape of the configuration: every section, key, default and bound, as frozen values.

Invariants:
- A `Config` that exists is valid as a whole: each number is bounded, each name can be a topic, and no
  two roles share a topic.
- Every field's description says what would be right. It is what an error message, the template of
  `streamlearn config init` and the JSON Schema show, so the three cannot disagree.
- Where values come from (flags, environment, file) is not known here; see `streamlearn.config`.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from streamlearn.core.presets import DEFAULTS
from streamlearn.core.where import compile_where
from streamlearn.log.port import Names

ROLES = ("predictions", "dlq", "control", "journal", "checkpoints")

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


def duration_s(text: str) -> float:
    """Seconds in a duration such as `7d`, `1h`, `15m`, `30s` or `500ms`. Raises `ValueError`."""
    match = _DURATION.fullmatch(text)
    if not match:
        raise ValueError("is not a duration like 7d, 1h, 15m, 30s or 500ms")
    return float(match[1]) * _UNITS_S[match[2]]


def rfc3339_ms(text: str) -> int:
    """Milliseconds since 1970 of an RFC 3339 time with a zone (`2026-01-31T08:00:00Z`).

    Raises `ValueError`, also for a time without a zone: which one was meant would be a guess.
    """
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        when = datetime.min
    if when.tzinfo is None:
        raise ValueError("is not an RFC 3339 time with a zone, like 2026-01-31T08:00:00Z")
    return round((when - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000)


def _check_duration(text: str) -> str:
    if duration_s(text) <= 0:
        raise ValueError("must be longer than nothing")
    return text


def _check_start(text: str) -> str:
    if text in ("earliest", "latest"):
        return text
    if text.startswith("-"):
        duration_s(text[1:])
    else:
        rfc3339_ms(text)
    return text


def _check_topic(text: str) -> str:
    if not _TOPIC.fullmatch(text) or text in (".", ".."):
        raise ValueError("is not a topic name: 1 to 249 of the characters A-Z a-z 0-9 . _ -")
    return text


def _check_path(text: str) -> str:
    if text and not all(text.split(".")):
        raise ValueError("is not a path: members joined by single dots, like meta.id or values.0")
    return text


def _check_where(text: str) -> str:
    if text:
        compile_where(text)
    return text


def _check_features(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    paths = value if isinstance(value, tuple) else (value,)
    if not paths or not all(paths):
        raise ValueError("names nothing")
    if len(set(paths)) < len(paths):
        raise ValueError("names a path twice")
    if "*" in paths and value != "*":
        raise ValueError('has "*" in a list; it stands alone')
    for path in paths:
        _check_path(path)
    return value


def _check_http(text: str) -> str:
    if text and not re.fullmatch(r"https?://[^\s/]+\S*", text):
        raise ValueError("is not an address like http://registry:8081")
    return text


def _check_use(text: str) -> str:
    if text and not all(text.partition(":")):
        raise ValueError("must be preset:NAME or module:attribute")
    return text


def _check_url(text: str) -> str:
    if text and (not text.startswith("file:") or text == "file:"):
        raise ValueError('must be "" or file:DIR')
    return text


def _as_names(value: object) -> object:
    """One name, a comma-separated text (environment variables have no lists) or a list of names."""
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    return value


def _as_paths(value: object) -> object:
    """A table by path: an unquoted `meta.rpm = ...` is a nested table in TOML."""
    if not isinstance(value, dict):
        return value
    flat: dict[str, object] = {}
    for name, part in value.items():
        inner = _as_paths(part)
        flat |= (
            {f"{name}.{path}": one for path, one in inner.items()}
            if isinstance(inner, dict)
            else {name: inner}
        )
    return flat


Topic = Annotated[str, AfterValidator(_check_topic)]
Path = Annotated[str, AfterValidator(_check_path)]
Paths = Annotated[tuple[Path, ...], BeforeValidator(_as_names)]


class Section(BaseModel):
    """One table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class App(Section):
    """What this service is called, and how it computes."""

    name: str = Field(
        default="streamlearn",
        pattern=r"^[a-z0-9._-]{1,64}$",
        description="prefix of topics, group and transactional ids: 1 to 64 of a-z 0-9 . _ -",
    )
    replica: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9._-]{0,64}$",
        description='unique name of this replica (the pod\'s name), so that a restart is quick; "" = none',
    )
    portable_math: bool = Field(
        default=False, description="true: the same bits on CPUs of different kinds, a little slower"
    )


class LogSection(Section):
    """Where records come from and go to."""

    backend: Literal["kafka", "embedded"] = Field(
        default="kafka", description="kafka | embedded (one SQLite file)"
    )
    bootstrap_servers: str = Field(
        default="127.0.0.1:9092",
        pattern=r"^[^\s,:]+:\d{1,5}(,[^\s,:]+:\d{1,5})*$|^\[[0-9a-fA-F:]+\]:\d{1,5}$",
        description="kafka: HOST:PORT, several separated by commas",
    )
    path: str = Field(default="streamlearn.db", min_length=1, description="embedded: the SQLite file")
    retention: Annotated[str, AfterValidator(_check_duration)] = Field(
        default="7d", description="embedded: how long records are kept, like 7d or 12h"
    )
    options: dict[str, str] = Field(
        default={},
        repr=False,
        description='kafka: client options by Kafka\'s names, like "security.protocol"',
    )


class Topics(Section):
    """Topics by role. An empty output topic means `<app.name>.<role>`."""

    input: Annotated[tuple[Topic, ...], BeforeValidator(_as_names)] = Field(
        default=(), description="the topics to read events from: a name or a list of names"
    )
    start: Annotated[str, AfterValidator(_check_start)] = Field(
        default="earliest",
        description="where a new service begins: earliest | latest | 2026-01-31T08:00:00Z | -1h",
    )
    predictions: Topic = Field(default="", description='where predictions go; "" = <name>.predictions')
    dlq: Topic = Field(default="", description='where dead letters go; "" = <name>.dlq')
    control: Topic = Field(default="", description='where commands are read; "" = <name>.control')
    journal: Topic = Field(default="", description='the order of what was applied; "" = <name>.journal')
    checkpoints: Topic = Field(default="", description='kafka: the saved states; "" = <name>.checkpoints')


class EventSection(Section):
    """Where things stand in a record's value. A path is a member's name, or several joined by dots."""

    format: Literal["json", "csv", "avro", "avro-bare"] = Field(
        default="json",
        description="json | csv (one line) | avro (as registries frame it) | avro-bare; both: [avro]",
    )
    preset: Literal["", "debezium", "connect", "telegraf", "cloudevents"] = Field(
        default="", description='"" | debezium | connect | telegraf | cloudevents: who wrote the values'
    )
    id: Path = Field(default="id", description="path of the event's id")
    key: Path = Field(default="", description="path of the event's key; \"\" = the record's key")
    time: Path = Field(default="ts", description="path of the event's time; missing: the record's timestamp")
    time_unit: Literal["auto", "s", "ms", "us", "ns", "rfc3339"] = Field(
        default="auto", description="auto | s | ms | us | ns | rfc3339; auto is fixed by the first event"
    )
    time_as: str = Field(
        default="", description='name of a feature that gets the event\'s time as a datetime; "" = none'
    )
    features: Annotated[str | tuple[str, ...], AfterValidator(_check_features)] = Field(
        default="features",
        description='path of an object or array; or a list of paths; or "*" = all not named otherwise',
    )
    label: Path = Field(default="label", description="path of the label")
    columns: Annotated[tuple[str, ...], BeforeValidator(_as_names)] = Field(
        default=(), description='csv: the names of the columns, like ["id", "temp", "label"]'
    )
    delimiter: str = Field(default=",", min_length=1, max_length=1, description="csv: one character")
    where: Annotated[str, AfterValidator(_check_where)] = Field(
        default="", description='records to keep, like "type == \'reading\' and temp > 0"; "" = all'
    )
    types: Annotated[dict[str, Literal["float", "int", "str", "bool"]], BeforeValidator(_as_paths)] = Field(
        default={}, description='declared types by path, like {rpm = "float"}: float | int | str | bool'
    )
    null: Literal["missing"] = Field(default="missing", description="missing: a null feature is absent")
    carry: Paths = Field(default=(), description='paths copied into the prediction, like ["site"]')
    duplicates: int = Field(
        default=0, ge=0, le=1_000_000, description="0 to 1000000 newest ids that are taken once; 0 = off"
    )
    schema_file: str = Field(
        default="", description="a file with the values' Avro or JSON Schema; needs [avro]"
    )
    schema_registry: Annotated[str, AfterValidator(_check_http)] = Field(
        default="", repr=False, description="http://HOST:PORT of a schema registry; needs [avro]"
    )

    @model_validator(mode="before")
    @classmethod
    def _preset_defaults(cls, data: Any) -> Any:
        """Who wrote the values decides where their parts stand, where nothing else is said."""
        if not isinstance(data, dict):
            return data
        lines = {"features": "*"} if data.get("format") == "csv" else {}
        return {**lines, **DEFAULTS.get(str(data.get("preset", "")), {}), **data}

    @model_validator(mode="after")
    def _fits_together(self) -> "EventSection":
        if (self.format == "csv") != bool(self.columns):
            raise ValueError('event.format = "csv" and event.columns = [...] need each other')
        if len(set(self.columns)) < len(self.columns):
            raise ValueError("event.columns names a column twice")
        if self.format == "csv" and self.features == "features" and "features" not in self.columns:
            raise ValueError('event.features must be "*" or a list of columns for csv')
        if self.schema_file and self.schema_registry:
            raise ValueError("event.schema_file and event.schema_registry are both given; keep one of them")
        if self.format == "avro" and not (self.schema_file or self.schema_registry):
            raise ValueError('event.format = "avro" needs event.schema_file or event.schema_registry')
        if self.format == "avro-bare" and not self.schema_file:
            raise ValueError('event.format = "avro-bare" needs event.schema_file')
        return self


class GuardSection(Section):
    """Bounds on features; an event beyond one is a dead letter, and what is known already goes on."""

    features: int = Field(default=2_000, ge=1, le=100_000, description="1 to 100000 features in an event")
    names: int = Field(
        default=10_000, ge=1, le=1_000_000, description="1 to 1000000 feature names in all, of all events"
    )
    string_length: int = Field(
        default=1_000, ge=1, le=1_000_000, description="1 to 1000000 characters in a text or a feature's name"
    )
    categories: int = Field(
        default=10_000,
        ge=0,
        le=100_000,
        description="0 to 100000 different texts a feature; 0 = any number",
    )


class DlqSection(Section):
    """Dead letters: when they are too many, and how often one may be tried again."""

    max_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="above 0 to 1: this share of the last 1000 records stops the service; 1 = never",
    )
    retries_max: int = Field(
        default=3, ge=0, le=1_000, description="0 to 1000 times that `dlq retry` sends a record back"
    )


class ModelSection(Section):
    """The river model."""

    use: Annotated[str, AfterValidator(_check_use)] = Field(
        default="preset:classification",
        description="preset:NAME, my_module:factory_or_model, or river.tree:HoeffdingTreeClassifier",
    )
    args: dict[str, Any] = Field(default={}, description="arguments for a factory or class")
    steps: tuple[dict[str, Any], ...] = Field(
        default=(), description='instead of `use`, a pipeline: [{use = "preprocessing.StandardScaler"}, ...]'
    )


class TransactionSection(Section):
    """How much one transaction may hold; the first limit reached cuts it."""

    max_records: int = Field(default=2000, ge=1, le=100_000, description="1 to 100000 records")
    max_bytes: int = Field(
        default=16_777_216, ge=1024, le=1_073_741_824, description="1024 to 1073741824 bytes"
    )
    max_ms: int = Field(default=100, ge=1, le=60_000, description="1 to 60000 ms of stepping")
    min_interval_ms: int = Field(
        default=0, ge=0, le=60_000, description="0 to 60000 ms between commits; more = fewer, larger commits"
    )


class CheckpointSection(Section):
    """Saved states: how often, how many, where."""

    url: Annotated[str, AfterValidator(_check_url)] = Field(
        default="", description='"" = topic on kafka, folder beside the file on embedded; or file:DIR'
    )
    interval_s: float = Field(
        default=30, ge=0.1, le=86_400, description="0.1 to 86400 seconds between checkpoints"
    )
    keep: int = Field(default=5, ge=1, le=1000, description="1 to 1000 newest checkpoints are kept")
    key: str = Field(
        default="", repr=False, description="secret that signs checkpoints, like ${file:/run/secrets/x}"
    )


class Config(Section):
    """The whole configuration, resolved and checked."""

    app: App = App()
    log: LogSection = LogSection()
    topics: Topics = Topics()
    event: EventSection = EventSection()
    guard: GuardSection = GuardSection()
    dlq: DlqSection = DlqSection()
    model: ModelSection = ModelSection()
    transaction: TransactionSection = TransactionSection()
    checkpoint: CheckpointSection = CheckpointSection()

    @model_validator(mode="before")
    @classmethod
    def _name_topics(cls, data: dict[str, Any]) -> dict[str, Any]:
        name = data.get("app", {}).get("name", App.model_fields["name"].default)
        topics = dict(data.get("topics", {}))
        for role in ROLES:
            topics[role] = topics.get(role) or f"{name}.{role}"
        model = dict(data.get("model", {}))
        if model.get("steps"):
            model.setdefault("use", "")
        return {**data, "topics": topics, "model": model}

    @model_validator(mode="after")
    def _fits_together(self) -> "Config":
        used: dict[str, str] = {}
        for role, topic in [("input", name) for name in self.topics.input] + [
            (role, getattr(self.topics, role)) for role in ROLES
        ]:
            if topic in used:
                raise ValueError(
                    f"topics.{role} and topics.{used[topic]} are both {topic!r}; each needs its own topic"
                )
            used[topic] = role
        if self.model.use and self.model.steps:
            raise ValueError("model.use and model.steps are both given; keep one of them")
        return self

    def names(self) -> Names:
        """What the log adapters need to know."""
        roles = {role: getattr(self.topics, role) for role in ROLES}
        return Names(self.app.name, self.app.replica, self.topics.input, roles)
