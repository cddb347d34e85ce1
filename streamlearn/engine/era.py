"""What a stretch of the journal was made under, and what a start may change about it.

Invariants:
- An era holds everything `step` depends on besides the records, so an entry is always redone under the
  era it was written in, whatever the configuration says today.
- A changed model is never replaced silently.
"""

import hashlib
import platform
import re
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from streamlearn.config.schema import Config, EventSection
from streamlearn.config.values import duration_s, rfc3339_ms, start_places
from streamlearn.core.events.event import MAX_HEADER_BYTES, MAX_OUTPUT_BYTES, REASONS, EventSpec
from streamlearn.core.events.mapping import compile_decoder
from streamlearn.core.journal import Era
from streamlearn.core.labels.record import LabelSpec
from streamlearn.core.model.fingerprint import fingerprint
from streamlearn.core.records import Positions
from streamlearn.core.scores.scores import ScoresSpec
from streamlearn.core.shard.guard import GuardSpec
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.snapshot import Sections, load_state
from streamlearn.core.shard.state import Memory, ShardSpec
from streamlearn.engine.model import ModelTemplate
from streamlearn.env import Env
from streamlearn.errors import BadCheckpoint, ConfigError, Stop
from streamlearn.log.port import Log, TopicInfo

T = TypeVar("T")


_version = cache(metadata.version)  # a process asks at each recovery, and each answer is a parsed file


def versions() -> dict[str, str]:
    """The code that decides what a step does, by name."""
    installed = {name: _version(name) for name in ("streamlearn", "river", "numpy", "orjson")}
    return {"python": platform.python_version(), **installed}


def spec_of(era: Era) -> ShardSpec:
    """What the shard needs to know of an era."""
    guard = msgspec.convert(era.config.get("guard"), dict[str, Any] | None)
    return ShardSpec(
        model_name=str(era.config["model_name"]),
        model_version=era.model_version,
        revision=era.revision,
        event=msgspec.convert(era.config["event"], EventSpec),
        guard=None if guard is None else msgspec.convert({"withholds": False} | guard, GuardSpec),
        control=str(era.config.get("control", "")),
        labels=_part(era, "labels", LabelSpec),
        scores=_part(era, "scores", ScoresSpec),
        horizon=msgspec.convert(era.config.get("horizon", 1), int),
        prediction_bytes=msgspec.convert(era.config.get("prediction_bytes"), int | None),
    )


def stated_spec(era: Era) -> ShardSpec:
    """`spec_of` for the era that a checkpoint claims. Raises `BadCheckpoint`."""
    try:
        return spec_of(era)
    except Exception as error:  # an era of anybody's: any part of it may be missing, or be something else
        raise BadCheckpoint(f"its era cannot be read: {type(error).__name__}: {error}") from error


def restored_state(era: Era, sections: Sections, trusted: frozenset[str]) -> Shard:
    """The state in a checkpoint that says it stands under `era`. `trusted`: see
    `core.model.pickles.trusted_by`.

    Raises `BadCheckpoint`, whatever the bytes are: no era of ours, no model, or something else entirely.
    """
    return load_state(stated_spec(era), sections, trusted)


def _part(era: Era, name: str, kind: type[T]) -> T | None:
    """A part of the era's configuration; None where it has none, as an older era may."""
    value = era.config.get(name)
    return None if value is None else msgspec.convert(value, kind)


def label_spec(config: Config) -> LabelSpec | None:
    """`[labels]` as the core takes it; None when labels come inside the events."""
    labels = config.labels
    if not config.topics.labels:
        return None
    return LabelSpec(
        topic=config.topics.labels,
        join=labels.join,
        id=labels.id,
        label=labels.label,
        time=labels.time,
        group=labels.group,
        key=labels.key,
        start=labels.start,
        end=labels.end,
        ttl_ms=duration_s(labels.ttl) * 1e3,
        early_ttl_ms=duration_s(labels.early_ttl) * 1e3,
        pending_max=labels.pending_max,
        default=None if labels.default == "" else labels.default,
        learn=labels.learn,
        orphans_max_share=labels.orphans_max_share,
    )


def event_rules(event: EventSection) -> EventSpec:
    """What `[event]` says by itself: without a schema, and without groups, which `[labels]` decides."""
    return EventSpec(
        id=event.id,
        key=event.key,
        time=event.time,
        time_unit=event.time_unit,
        features=event.features,
        label=event.label,
        format=event.format,
        preset=event.preset,
        columns=event.columns,
        delimiter=event.delimiter,
        missing=event.missing,
        decimal=event.decimal,
        where=event.where,
        types=dict(event.types),
        carry=event.carry,
        time_as=event.time_as,
        duplicates=event.duplicates,
    )


def event_spec(config: Config) -> EventSpec:
    """`[event]` as the core takes it, with the text of its schema. Raises `ConfigError`."""
    event = config.event
    if (event.schema_file or event.schema_registry) and find_spec("fastavro") is None:
        raise ConfigError("[event] schema_file and schema_registry need: pip install fastavro")
    spec = msgspec.structs.replace(
        event_rules(event),
        schema=_schema_text(event.schema_file),
        registry=bool(event.schema_registry),
        group=event.group if config.topics.labels and config.labels.join == "group" else "",
    )
    try:
        compile_decoder(spec)
    except ValueError as error:
        raise ConfigError(f"[event] schema_file = {event.schema_file!r}: {error}") from None
    return spec


def _schema_text(file: str) -> str:
    try:
        return Path(file).read_text("utf-8") if file else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"[event] schema_file = {file!r} cannot be read as text: {error}") from None


def era_now(
    config: Config,
    template: ModelTemplate,
    topics: Mapping[str, TopicInfo],
    why: str,
    prediction_bytes: int | None = None,
) -> Era:
    """The era that the configuration, the code and the machine of this process would make; it starts no
    partition yet, and its revision is the first. `prediction_bytes`: what the topic of predictions takes.
    """
    sources = sorted(config.names().sources)
    missing = [name for name in sources if name not in topics]
    if missing:
        raise ConfigError(
            f"the input topic {', '.join(missing)} does not exist. Make it with "
            "`streamlearn topics ensure`, or correct [topics] input and labels."
        )
    rules: dict[str, Any] = {
        "event": msgspec.to_builtins(event_spec(config)),
        "model_name": template.name,
        "inputs": sorted(config.topics.input),
        "guard": config.guard.model_dump() | {"withholds": True},
        "control": config.topics.control,
        "horizon": config.model.horizon,
    }
    labels = label_spec(config)
    if labels is not None:
        _check_default(labels, template)
        rules["labels"] = msgspec.to_builtins(labels)
    if config.scores.every:
        rules["scores"] = {**config.scores.model_dump(), "after_labels": True}
    if prediction_bytes is not None and prediction_bytes < MAX_OUTPUT_BYTES + MAX_HEADER_BYTES:
        rules["prediction_bytes"] = prediction_bytes  # else the topic takes all that is published
    return Era(
        why=why,
        config=rules,
        config_hash=hashlib.blake2b(msgspec.json.encode(rules), digest_size=8).hexdigest(),
        model_version=template.version,
        revision=1,
        versions=versions(),
        topics={name: (topics[name].id, topics[name].partitions) for name in sources},
        start=[],
        fingerprint=fingerprint(),
        app=config.app.name,
        journal=topics[config.topics.journal].id if config.topics.journal in topics else "",
    )


def _check_default(labels: LabelSpec, template: ModelTemplate) -> None:
    """Raise `ConfigError` for a default label that the model cannot learn: it would only be counted."""
    if labels.default is None:
        return
    shard = Shard(ShardSpec(template.name, template.version, 1, labels=labels), template.learner(), Memory())
    refusal = shard.label_rules.refusal(labels.default, strict=True)
    if refusal is not None:
        raise ConfigError(
            f"[labels] default = {str(labels.default)[:60]!r} is nothing that {template.name} could learn "
            f"({REASONS[refusal.reason]}). Give a label of this stream, or leave it out to forget events."
        )


def check_app(config: Config, before: Era, now: Era) -> None:
    """Raise `ConfigError` when the journal is another app's."""
    journal = config.topics.journal
    if before.app and before.app != now.app:
        raise ConfigError(
            f"the journal {journal} belongs to the app {before.app!r}, and this is {now.app!r}: two apps on "
            "one journal would publish each other's predictions again. Give this app topics of its own "
            f"(leave [topics] journal and checkpoints out), or name it {before.app!r}."
        )


def check_journal(config: Config, before: Era, now: Era) -> None:
    """Raise `Stop` when the journal is a copy of the topic that it began as."""
    journal = config.topics.journal
    if before.journal and now.journal and before.journal != now.journal:
        raise Stop(
            f"the journal {journal} is not the topic it began as (its id was {before.journal}, now "
            f"{now.journal}), as on a mirrored or moved cluster. `streamlearn adopt` compares what is here "
            "with what the journal says, and goes on; `streamlearn reset` begins a new journal."
        )


def check_topics(before: Era, now: Era) -> None:
    """Raise `Stop` when an input topic is not the one the journal knows."""
    for name, (ident, partitions) in now.topics.items():
        before_id, count = before.topics.get(name, (ident, partitions))
        if before_id != ident:
            raise Stop(
                f"the input topic {name} was deleted and made again (its id was {before_id}, now {ident}): "
                "its offsets mean other records than the journal says. Bring the old topic back; or begin a "
                "new journal on this one: `streamlearn reset`; or, when it holds the same records at the "
                "same offsets (a moved cluster), `streamlearn adopt`."
            )
        if count > partitions:
            raise Stop(
                f"the input topic {name} had {count} partitions and now has {partitions}: those that are "
                "missing cannot be redone. Bring them back, or begin a new journal: `streamlearn reset`."
            )


def what_changed(before: Era, now: Era) -> str:
    """Why a new era must begin, in words; "" when the era goes on."""
    changed = []
    if before.model_version != now.model_version:
        changed.append("model")
    if before.config_hash != now.config_hash:
        changed.append("configuration")
    if before.versions != now.versions:
        changed.append("versions")
    if before.topics != now.topics:
        changed.append("topics")
    if before.fingerprint != now.fingerprint:
        changed.append("floating point")
    if (before.predictions and before.predictions.topic) != (now.predictions and now.predictions.topic):
        changed.append("predictions topic")
    return ", ".join(changed)


def with_start(
    env: Env, log: Log, config: Config, era: Era, topics: Mapping[str, TopicInfo], positions: Positions
) -> Era:
    """`era` with the starting offset of each partition that `known` does not have yet.

    In the genesis, `[topics] start` is resolved, once; partitions and topics that come later begin at
    their first record, because nothing of them has been seen; so do commands.
    """
    start: list[tuple[str, int, int]] = []
    for name in era.topics:
        all_of_it = bool(positions) or name == config.topics.control
        info = topics[name]
        offsets = info.start if all_of_it else _resolved(env, log, config.topics.start, name, info)
        start.extend(
            (name, partition, offset)
            for partition, offset in enumerate(offsets)
            if (name, partition) not in positions
        )
    return msgspec.structs.replace(era, start=start)


def at_places(places: Mapping[tuple[str, int], int], topic: str, info: TopicInfo) -> tuple[int, ...]:
    """Each partition at the offset that is named for it, else at its first record."""
    offsets = []
    for partition, (first, end) in enumerate(zip(info.start, info.end, strict=True)):
        offset = places.get((topic, partition), first)
        if not first <= offset <= end:
            raise ConfigError(
                f"[topics] start = {topic}-{partition}@{offset}: that partition holds the offsets {first} to "
                f"{end}"
            )
        offsets.append(offset)
    return tuple(offsets)


def _resolved(env: Env, log: Log, start: str, topic: str, info: TopicInfo) -> tuple[int, ...]:
    if start == "earliest":
        return info.start
    if start == "latest":
        return info.end
    if "@" in start:
        return at_places(start_places(start), topic, info)
    if re.fullmatch(r"-.+", start):
        return log.offsets_at(topic, int((env.now() - duration_s(start[1:])) * 1e3))
    return log.offsets_at(topic, rfc3339_ms(start))
