"""A look at the first records of an app before the first of them is stepped: what types its features have.

One event cannot tell a bad value from a good one; twenty that wait together can. What they say is written
into the journal as an era, so that redo knows it too. Where fewer wait, the guard learns as it goes.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, islice

import msgspec
import structlog

from streamlearn.core.events import Event
from streamlearn.core.guard import majority
from streamlearn.core.records import Entry, Record
from streamlearn.core.records import chain as chained
from streamlearn.core.shard import Shard
from streamlearn.errors import NeedSchema
from streamlearn.log.port import Polled, ShardLog
from streamlearn.service.standing import Standing

log = structlog.get_logger()

ENOUGH = 1000


def first_events(shard: Shard, records: Iterable[Record]) -> list[Event]:
    """The first `ENOUGH` events in `records`, however many labels and commands stand before them."""
    return list(islice(_events(shard, records), ENOUGH))


def _events(shard: Shard, records: Iterable[Record]) -> Iterator[Event]:
    for record in records:
        try:
            event = shard.peek(record)
        except NeedSchema:  # what it cannot read yet, it does not look at
            continue
        if event is not None:
            yield event


def kinds_in(events: list[Event]) -> dict[str, str]:
    """The kinds of the features in `events`, {} unless texts among them could mislead the guard."""
    if not any(type(value) is str for event in events for value in event.x.values()):
        return {}
    return majority(event.x for event in events)


def look_first(standing: Standing, shard_log: ShardLog, polled: Polled) -> None:
    """Begin an era with the kinds of the features in `polled`, if their first values could mislead.

    Only texts can: numbers pass from the first event on and agree with what the guard would learn of them.
    Raises as `ShardLog.publish` does.
    """
    if standing.shard.guard is None:
        return
    found = first_events(standing.shard, chain.from_iterable(polled.records.values()))
    kinds = kinds_in(found)
    if not kinds:
        return
    era = msgspec.structs.replace(standing.era, why="types", start=[], kinds=kinds)
    entry = Entry(standing.seq + 1, standing.era_number + 1, chained(standing.digest, ()), change=era)
    shard_log.publish(entry, (), standing.positions)
    standing.begin_era(entry)
    log.info("types.looked", era=entry.era, events=len(found), features=len(kinds))
