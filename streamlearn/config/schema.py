"""The shape of the configuration: every section, key, default and bound, as frozen values.

Invariants:
- A `Config` that exists is valid as a whole: each number is bounded, each name can be a topic, and no
  two roles share a topic.
- Every field's description says what would be right. It is what an error message, the template of
  `streamlearn config init` and the JSON Schema show, so the three cannot disagree.
- Where values come from (flags, environment, file) is not known here; see `streamlearn.config.load`.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from streamlearn.config.values import (
    Path,
    Paths,
    Topic,
    as_names,
    as_paths,
    as_scalar,
    check_duration,
    check_features,
    check_http,
    check_start,
    check_topic_or_none,
    check_url,
    check_use,
    check_where,
)
from streamlearn.core.events.envelopes import DEFAULTS
from streamlearn.log.port import TopicNames

ROLES = ("predictions", "dlq", "scores", "alerts", "control", "journal", "checkpoints")


class Section(BaseModel):
    """One table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class App(Section):
    """What this service is called, and how it computes."""

    name: str = Field(
        default="streamlearn",
        pattern=r"^[a-z0-9_][a-z0-9._-]{0,63}$",
        description="prefix of the topics that streamlearn writes, and a folder: 1 to 64 of a-z 0-9 . _ -,"
        " the first none of . -",
    )
    replica: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9_][A-Za-z0-9._-]{0,63})?$",
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
    client: Literal["auto", "kafka-python", "confluent"] = Field(
        default="auto",
        description="kafka: auto | kafka-python | confluent (less CPU; needs streamlearn[fast])",
    )
    path: str = Field(default="streamlearn.db", min_length=1, description="embedded: the SQLite file")
    retention: Annotated[str, AfterValidator(check_duration)] = Field(
        default="7d", description="embedded: how long records are kept, like 7d or 12h"
    )
    options: dict[str, str] = Field(
        default={},
        repr=False,
        description='kafka: client options by Kafka\'s names: "security.protocol", "compression.type"',
    )


class Topics(Section):
    """Topics by role. An empty output topic means `<app.name>.<role>`."""

    input: Annotated[tuple[Topic, ...], BeforeValidator(as_names)] = Field(
        default=(), description="the topics to read events from: a name or a list of names"
    )
    start: Annotated[str, AfterValidator(check_start)] = Field(
        default="earliest",
        description="where a new service begins: earliest | latest | 2026-01-31T08:00:00Z | -1h | "
        "events-0@600, events-1@20",
    )
    labels: Annotated[str, AfterValidator(check_topic_or_none)] = Field(
        default="", description='the topic of labels that come later; "" = labels come inside the events'
    )
    predictions: Topic = Field(default="", description='where predictions go; "" = <name>.predictions')
    dlq: Topic = Field(default="", description='where dead letters go; "" = <name>.dlq')
    scores: Topic = Field(default="", description='where scores go; "" = <name>.scores')
    alerts: Topic = Field(default="", description='where alerts go; "" = <name>.alerts')
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
        default="auto", description="auto | s | ms | us | ns | rfc3339; auto: twenty good times settle it"
    )
    time_as: str = Field(
        default="", description='name of a feature that gets the event\'s time as a datetime; "" = none'
    )
    features: Annotated[str | tuple[str, ...], AfterValidator(check_features)] = Field(
        default="features",
        description='path of an object or array; or paths; or "*" = all not named otherwise; "" = none',
    )
    label: Path = Field(default="label", description="path of the label")
    group: Path = Field(
        default="group", description='path of the group that a label is about; for labels.join = "group"'
    )
    columns: Annotated[tuple[str, ...], BeforeValidator(as_names)] = Field(
        default=(), description='csv: the names of the columns, like ["id", "temp", "label"]'
    )
    delimiter: str = Field(default=",", min_length=1, max_length=1, description="csv: one character")
    decimal: Literal[".", ","] = Field(
        default=".", description="the decimal sign of numbers that come as text, . or a comma"
    )
    missing: Annotated[tuple[str, ...], BeforeValidator(as_names)] = Field(
        default=(), description='texts that mean "no value", like ["NA", "NULL"]; empty ones always do'
    )
    where: Annotated[str, AfterValidator(check_where)] = Field(
        default="", description='records to keep, like "type == \'reading\' and temp > 0"; "" = all'
    )
    types: Annotated[dict[str, Literal["float", "int", "str", "bool"]], BeforeValidator(as_paths)] = Field(
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
    schema_registry: Annotated[str, AfterValidator(check_http)] = Field(
        default="", repr=False, description="http://HOST:PORT of a schema registry; needs [avro]"
    )

    @model_validator(mode="before")
    @classmethod
    def _preset_defaults(cls, data: Any) -> Any:
        """Place the parts of the value where its preset has them, unless the user says otherwise."""
        if not isinstance(data, dict):
            return data
        lines = {"features": "*"} if data.get("format") == "csv" else {}
        return {**lines, **DEFAULTS.get(str(data.get("preset", "")), {}), **data}

    @model_validator(mode="after")
    def _fits_together(self) -> "EventSection":
        csv, file, registry = self.format == "csv", bool(self.schema_file), bool(self.schema_registry)
        mistakes = {
            'event.format = "csv" and event.columns = [...] need each other': csv != bool(self.columns),
            "event.columns names a column twice": len(set(self.columns)) < len(self.columns),
            'event.features must be "*" or a list of columns for csv': (
                csv and self.features == "features" and "features" not in self.columns
            ),
            "event.schema_file and event.schema_registry are both given; keep one of them": file and registry,
            'event.format = "avro" needs event.schema_file or event.schema_registry': (
                self.format == "avro" and not (file or registry)
            ),
            'event.format = "avro-bare" needs event.schema_file': self.format == "avro-bare" and not file,
        }
        for mistake, is_made in mistakes.items():
            if is_made:
                raise ValueError(mistake)
        return self


class LabelsSection(Section):
    """Labels that come later than their events, on topics.labels. Paths are those of a label's record."""

    join: Literal["id", "group", "interval"] = Field(
        default="id", description="id | group | interval (key, from, to): what of an event a label names"
    )
    id: Path = Field(default="id", min_length=1, description="path of the event's id")
    group: Path = Field(default="group", min_length=1, description="path of the group")
    key: Path = Field(default="key", min_length=1, description="path of the key, for intervals")
    start: Path = Field(default="from", min_length=1, description="path of an interval's first event time")
    end: Path = Field(default="to", min_length=1, description="path of the event time after an interval")
    label: Path = Field(default="label", min_length=1, description="path of the label")
    time: Path = Field(default="ts", min_length=1, description="path of the time at which it became known")
    ttl: Annotated[str, AfterValidator(check_duration)] = Field(
        default="1d", description="how long events wait for their label, in event time, like 1d or 2h"
    )
    default: Annotated[bool | int | float | str, BeforeValidator(as_scalar)] = Field(
        default="", description='the label of an event that got none in time, like false; "" = forget it'
    )
    early_ttl: Annotated[str, AfterValidator(check_duration)] = Field(
        default="1h", description="how long a label waits for its event, in event time, like 1h"
    )
    pending_max: int = Field(
        default=1_000_000, ge=1, le=100_000_000, description="1 to 100000000 events that wait for their label"
    )
    learn: Literal["label", "event"] = Field(
        default="label",
        description="when a model that needs no labels learns: label (with the label or at ttl) | event",
    )
    orphans_max_share: float = Field(
        default=0.5, ge=0, le=1, description="0 to 1: a larger share of labels without an event is an alert"
    )


class ScoresSection(Section):
    """Scores of the predictions beside baselines, published to topics.scores."""

    every: int = Field(
        default=1_000, ge=0, le=1_000_000, description="0 to 1000000 predictions between two; 0 = no scores"
    )
    window: int = Field(
        default=1_000, ge=10, le=100_000, description="10 to 100000 newest labels that the window holds"
    )


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

    use: Annotated[str, AfterValidator(check_use)] = Field(
        default="preset:classification",
        description="preset:NAME, my_module:factory_or_model, or river.tree:HoeffdingTreeClassifier",
    )
    args: dict[str, Any] = Field(default={}, description="arguments for a factory or class")
    steps: tuple[dict[str, Any], ...] = Field(
        default=(), description='instead of `use`, a pipeline: [{use = "preprocessing.StandardScaler"}, ...]'
    )
    horizon: int = Field(default=1, ge=1, le=1000, description="1 to 1000 labels a forecaster looks ahead")
    accelerate: bool = Field(
        default=True, description="false: river's own methods only; the outputs are the same either way"
    )
    start_from: str = Field(
        default="",
        description='trained state to begin with: file:DIR@latest, file:DIR@SEQ or a file; "" = none',
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

    url: Annotated[str, AfterValidator(check_url)] = Field(
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
    """The whole configuration, resolved and checked; frozen. Each field is a table of the file.

    `streamlearn config schema` prints every key with its type, bounds, default and description.

    Attributes:
        app: The service's name, and the name of this replica.
        log: The backend, and the way to it.
        topics: The topics to read and to write.
        event: The places of an event's parts in a record, see `EventSpec`.
        labels: The join of labels on a topic of their own, see `LabelSpec`.
        scores: When scores are published.
        guard: Bounds of features.
        dlq: When dead letters stop the service.
        model: The model.
        transaction: Limits of one transaction.
        checkpoint: When, where and under which key the state is saved.

    Example:
        >>> Config.model_validate({"app": {"name": "fans"}}).topics.journal
        'fans.journal'
    """

    app: App = App()
    log: LogSection = LogSection()
    topics: Topics = Topics()
    event: EventSection = EventSection()
    labels: LabelsSection = LabelsSection()
    scores: ScoresSection = ScoresSection()
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
        inputs = [("input", name) for name in self.topics.input]
        if self.topics.labels:
            inputs.append(("labels", self.topics.labels))
        for role, topic in inputs + [(role, getattr(self.topics, role)) for role in ROLES]:
            if topic in used:
                raise ValueError(
                    f"topics.{role} and topics.{used[topic]} are both {topic!r}; each needs its own topic"
                )
            used[topic] = role
        if self.model.use and self.model.steps:
            raise ValueError("model.use and model.steps are both given; keep one of them")
        return self

    def names(self) -> TopicNames:
        """The names that the log adapters need: the app, the replica and all topics."""
        roles = {role: getattr(self.topics, role) for role in ROLES}
        return TopicNames(self.app.name, self.app.replica, self.topics.input, roles, self.topics.labels)
