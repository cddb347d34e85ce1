"""Start of a new journal for an app, and its name.

Invariants:
- Nothing is fenced and nothing written: topics are read as anybody may read them.
- A place is taken over only from the very topic that is there now, not from one of the same name.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from streamlearn.config.schema import Config
from streamlearn.config.values import start_places
from streamlearn.core.journal import Entry, Era, journalled
from streamlearn.core.records import SHARD, Positions, Range
from streamlearn.core.shard.snapshot import Header
from streamlearn.engine.era import at_places
from streamlearn.engine.journal_end import places_after
from streamlearn.engine.witnesses import answered_record
from streamlearn.errors import ConfigError, Stop
from streamlearn.history import topic_reader
from streamlearn.log.port import Admin, TopicInfo
from streamlearn.studies.explain.lookup import ScanCounter, backwards


class Life(NamedTuple):
    """Facts from the old journal: its last entry, the app's positions there, and the ids of their topics."""

    end: Entry | None
    era: Era | None
    positions: Positions
    ids: dict[str, str]


def old_life(admin: Admin, journal: str, newest: Header | None, tell: Callable[[str], None]) -> Life:
    """The journal of shard 0 as it is now; nothing where it does not exist or is empty. `newest`: the newest
    checkpoint, which knows the positions from before what was trimmed away.
    """
    life = Life(None, None, {}, {})
    if newest is not None:
        life = Life(None, newest.under, newest.next_offsets(), newest.topic_ids())
    if journal not in admin.topics([journal]):
        return life
    info = topic_reader.topic_info(admin, journal)
    run = Range(journal, SHARD, info.start[SHARD], info.end[SHARD])
    for record in topic_reader.read_range(admin, run):
        try:
            entry = journalled(record)
        except (msgspec.MsgspecError, Stop) as error:
            tell(
                f"{journal} at offset {record.offset} cannot be read ({error}): what follows is not looked at"
            )
            break
        if entry is None:
            continue
        if newest is not None and entry.seq <= newest.seq:
            life = life._replace(end=entry)
            continue
        positions, ids = places_after(entry, life.positions, life.ids)
        life = Life(entry, entry.change or life.era, positions, ids)
    return life


def free_names(admin: Admin, config: Config) -> tuple[str, str]:
    """Names of a journal and a topic of checkpoints that are not there yet: with the next number."""
    stems = [re.sub(r"-\d+$", "", name) for name in (config.topics.journal, config.topics.checkpoints)]
    number = 2
    while admin.topics([f"{stem}-{number}" for stem in stems]):
        number += 1
    journal, checkpoints = (f"{stem}-{number}" for stem in stems)
    return journal, checkpoints


def after_predictions(
    admin: Admin, config: Config, life: Life, tell: Callable[[str], None]
) -> tuple[Positions, list[str]]:
    """The old life's end: after the newest prediction of each input partition, and never before the
    old journal's end. The second value names the topics that are others by now: they begin at their start.
    """
    existing = admin.topics(config.names().sources)
    sources = [name for name in config.names().sources if name in existing]
    replaced = [name for name in sources if life.ids.get(name, existing[name].id) != existing[name].id]
    same = existing.keys() - replaced
    positions = {source: offset for source, offset in life.positions.items() if source[0] in same}
    inputs = {name: existing[name] for name in config.topics.input if name in same}
    for source, offset in _newest(admin, config.topics.predictions, inputs, tell).items():
        positions[source] = max(positions.get(source, 0), offset + 1)
    return _within(positions, existing), replaced


def _newest(
    admin: Admin, predictions: str, inputs: dict[str, TopicInfo], tell: Callable[[str], None]
) -> Positions:
    """The largest offset that was answered, of each partition of the inputs that was answered at all."""
    partitions = {(name, number) for name, info in inputs.items() for number in range(info.partitions)}
    if predictions not in admin.topics([predictions]):
        return {}
    newest: Positions = {}
    counter = ScanCounter(tell)
    for record in counter(backwards(admin, predictions, topic_reader.topic_info(admin, predictions).end)):
        source = answered_record(record)
        if source is not None and source.partition in partitions:
            newest.setdefault(source.partition, source.offset)  # within a partition the newest comes first
            if len(newest) == len(partitions):
                break
    return newest


def _within(positions: Positions, existing: dict[str, TopicInfo]) -> Positions:
    """`positions` within what is retained."""
    retained = {}
    for (topic, partition), offset in positions.items():
        info = existing[topic]
        if partition < info.partitions:
            retained[topic, partition] = min(max(offset, info.start[partition]), info.end[partition])
    return retained


def check_places(admin: Admin, config: Config, start: str) -> None:
    """Raise `ConfigError` when `start` names a place that its topic does not hold."""
    if "@" not in start:
        return
    places = start_places(start)
    existing = admin.topics([*config.names().sources, *(topic for topic, _ in places)])
    for topic, partition in places:
        if topic not in existing or partition >= existing[topic].partitions:
            raise ConfigError(f"--start {topic}-{partition}@...: there is no such partition")
        if topic not in config.names().sources:
            raise ConfigError(f"--start {topic}-{partition}@...: {topic} is no input of {config.app.name}")
        at_places(places, topic, existing[topic])


def start_text(positions: Positions) -> str:
    """`positions` as `[topics] start` takes them.

    >>> start_text({("events", 1): 20, ("events", 0): 600})
    'events-0@600, events-1@20'
    """
    return ", ".join(
        f"{topic}-{partition}@{offset}" for (topic, partition), offset in sorted(positions.items())
    )


def describe_end(life: Life) -> str:
    """For a person: where a journal ends."""
    if life.end is None:
        return "empty"
    places = [f"{topic}-{number} at {offset}" for (topic, number), offset in sorted(life.positions.items())]
    return f"ends at entry {life.end.seq} ({', '.join(places) or 'nothing read yet'})"
