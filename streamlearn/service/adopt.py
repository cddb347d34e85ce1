"""Taking topics over that have other ids than the journal says: a cluster that was moved or mirrored.

The ids are how a topic that was made again is told from the one that a journal speaks of. When a cluster was
copied, they change and the records do not. That is a claim, and most of it can be proven: the newest entries
are redone on the records that are here now, and each must give the digest that was published.

Invariants:
- Nothing is written before a person has seen what matches; where a digest differs, nothing can be written.
- The era that takes the topics over holds every position, so that a redo across it needs no id from before.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import msgspec

from streamlearn.config.schema import Config
from streamlearn.core.journal import Era
from streamlearn.core.records import SHARD
from streamlearn.engine.cursor import JournalCursor, positions_under
from streamlearn.engine.driver import ShardDriver
from streamlearn.engine.era import check_app, era_now, with_start
from streamlearn.engine.journal_end import JournalEnd, read_end
from streamlearn.engine.model import ModelTemplate, configured_model
from streamlearn.engine.registry import Schemas
from streamlearn.env import Env
from streamlearn.errors import ConfigError, Fenced, Stop, Unknown
from streamlearn.log.backends import open_log, open_store
from streamlearn.log.port import Log, ShardLog, TopicInfo
from streamlearn.service.recovery import Recovery, Resources
from streamlearn.service.starting_states import StartingState


class Changed(NamedTuple):
    """A topic whose id is another: what the journal says, and what is here. `position`: where the app stands
    in each partition; None for the journal itself.
    """

    topic: str
    before: str
    now: str
    position: tuple[int, ...] | None
    start: tuple[int, ...]
    end: tuple[int, ...]


class Moved(NamedTuple):
    """A shard on moved topics. `compared`: so many entries were redone on them with equal digests."""

    changed: Sequence[Changed]
    compared: int
    entries: int
    cursor: JournalCursor
    era: Era
    log: ShardLog

    def take_over(self) -> None:
        """Write the era that goes on with the topics that are here."""
        cursor = self.cursor
        places = [(topic, partition, offset) for (topic, partition), offset in cursor.positions.items()]
        era = msgspec.structs.replace(self.era, why="adopted", start=sorted([*self.era.start, *places]))
        entry = cursor.next_entry(change=era)
        try:
            self.log.publish(entry, (), positions_under(era, cursor.positions, {}))
        except (Fenced, Unknown) as error:
            raise Stop(
                f"whether the topics were taken over is not known ({error}). Say `streamlearn adopt` again: "
                "it tells if there is still something to take over."
            ) from error


@contextmanager
def moved(env: Env, config: Config) -> Iterator[Moved]:
    """Open the shard, and compare what is here with what the journal says. Raises `Stop` when the records are
    not those of the journal, `ConfigError` when there is nothing to take over.
    """
    template = configured_model(config)
    log = open_log(env, config)
    store = open_store(env, config, SHARD)
    try:
        try:
            shard_log = log.open(SHARD)
        except Fenced as error:
            raise Stop(
                f"another process took the shard meanwhile ({error}): stop it, and try again"
            ) from error
        try:
            schemas = Schemas(env, config.event.schema_registry)
            resources = Resources(env, config, template, log, store, schemas)
            recovery = Recovery(resources, shard_log, lambda: None)
            yield _looked_at(env, config, template, log, shard_log, recovery)
        finally:
            shard_log.close()
    finally:
        store.close()
        log.close()


def _looked_at(
    env: Env, config: Config, template: ModelTemplate, log: Log, shard_log: ShardLog, recovery: Recovery
) -> Moved:
    """Compare; change nothing."""
    if shard_log.end is None:
        raise ConfigError(
            f"the journal {config.topics.journal} is empty: there is nothing to go on with. "
            "`streamlearn serve` begins."
        )
    candidates = recovery.candidates(shard_log.end)  # large, and read one by one
    newest = next(candidates, None)
    end = read_end(shard_log, config.topics.journal, shard_log.end, newest and newest.header, lambda: None)
    topics = log.topics()
    now = era_now(config, template, topics, "", log.record_limit("predictions"))
    check_app(config, end.era, now)
    if now.model_version != end.era.model_version:
        raise ConfigError("the model has changed as well: take the topics over with the old model first")
    changed = _changed(end, topics, config.topics.journal)
    if not changed:
        raise ConfigError("every topic is the one that the journal knows: there is nothing to take over")
    for change in changed:
        _check_bounds(change)
    before = end.era
    _check_partitions(before, now)
    driver, compared = _compare(recovery, end, newest, candidates)
    predictions = before.predictions
    if predictions is not None and predictions.topic in topics:
        predictions = predictions._replace(id=topics[predictions.topic].id)
    now = msgspec.structs.replace(
        now,
        revision=before.revision,
        warm_start_sha256=before.warm_start_sha256,
        predictions=predictions,
        kinds=before.kinds,
        resets=driver.shard.memory.resets,
    )
    # Partitions and topics that are new here begin somewhere:
    now = with_start(env, log, config, now, topics, driver.cursor.positions)
    return Moved(changed, compared, end.entry.seq + 1, driver.cursor, now, shard_log)


def _changed(end: JournalEnd, topics: Mapping[str, TopicInfo], journal: str) -> list[Changed]:
    return [
        Changed(
            name,
            before,
            topics[name].id,
            _positions(end, name, topics[name].partitions),
            topics[name].start,
            topics[name].end,
        )
        for name, before in {**end.ids, journal: end.era.journal}.items()
        if name in topics and before and before != topics[name].id
    ]


def _positions(end: JournalEnd, topic: str, partitions: int) -> tuple[int, ...] | None:
    offsets = [end.positions.get((topic, partition)) for partition in range(partitions)]
    return None if all(offset is None for offset in offsets) else tuple(offset or 0 for offset in offsets)


def _check_bounds(changed: Changed) -> None:
    """Raise `Stop` when the app stands where this topic has nothing: it is no copy, or not a whole one."""
    for partition, position in enumerate(changed.position or ()):
        if position > changed.end[partition]:
            raise Stop(
                f"{changed.topic}-{partition} ends at offset {changed.end[partition]}, and the app has read "
                f"up to {position}: it is no copy of the topic that the journal knows, or not a whole one. "
                "Copy it with its offsets; or begin a new journal on it: `streamlearn reset`."
            )


def _check_partitions(before: Era, now: Era) -> None:
    """Raise `Stop` when a topic has fewer partitions here."""
    for name, (_, count) in before.topics.items():
        if name in now.topics and now.topics[name][1] < count:
            raise Stop(
                f"{name} has {now.topics[name][1]} partitions here and had {count}: it is no copy of the "
                "topic that the journal knows. Copy it whole; or begin a new journal on it: "
                "`streamlearn reset`."
            )


def _compare(
    recovery: Recovery, end: JournalEnd, newest: StartingState | None, others: Iterator[StartingState]
) -> tuple[ShardDriver, int]:
    """The state at the journal's end, and how many entries were redone for it: from the newest checkpoint
    that leaves any, because one at the very end proves nothing about the records.
    """
    candidates = itertools.chain([newest] if newest else [], others)
    stepped = end.stepped if end.stepped >= 0 or newest is None else newest.header.seq
    older = (state for state in candidates if state.header.seq < stepped)
    first = next(older, newest)
    try:
        recovered = recovery.redone(end, itertools.chain([first] if first else [], older))
    except Stop as error:
        raise Stop(f"what is here could not be proven to be what the journal speaks of: {error}") from error
    return recovered.driver, end.entry.seq - (-1 if recovered.saved_seq is None else recovered.saved_seq)
