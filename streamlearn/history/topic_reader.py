"""Read a topic's records from here to there, or as they arrive, without any group.

Invariants:
- Committed records only, each once, in offset order within a partition.
- Memory holds one poll per partition, however long the range is.
"""

import difflib
import heapq
import re
from collections.abc import Iterator

from streamlearn.config.load import rfc3339_ms
from streamlearn.core.records import Positions, Record
from streamlearn.env import Flag
from streamlearn.errors import CheckFailed, ConfigError, Gone, Unreachable
from streamlearn.log.port import Polled, Reader, TopicInfo

_POLL_RECORDS = 1000
_POLL_S = 0.2
_SILENCE_S = 10.0
_SHOWN = 10
"""So many topics are named at most when one is not there: a cluster may have thousands."""

Offsets = tuple[int, ...]
"""One offset per partition."""


def topic_info(admin: Reader, topic: str) -> TopicInfo:
    """The topic, or a `ConfigError` that names those there are."""
    info = admin.topics([topic]).get(topic)
    if info is None:
        existing = admin.topic_names()
        near = difflib.get_close_matches(topic, existing, _SHOWN) or sorted(existing)[:_SHOWN]
        more = f" and {len(existing) - len(near):,} more" if len(existing) > len(near) else ""
        names = ", ".join(near) or "none"
        raise ConfigError(f"there is no topic {topic!r}; the topics are: {names}{more}")
    return info


def resolve_offsets(admin: Reader, topic: str, where: str) -> Offsets:
    """The offsets that `where` means, within what is retained.

    `beginning`, `end`, an offset, `-N` (N before the end), or an RFC 3339 time (arrival), each for every
    partition. Raises `ConfigError`.
    """
    info = topic_info(admin, topic)
    if where == "beginning":
        return info.start
    if where == "end":
        return info.end
    if re.fullmatch(r"-?\d+", where):
        number = int(where)
        offsets = tuple(end + number for end in info.end) if where[0] == "-" else (number,) * len(info.end)
    else:
        try:
            offsets = admin.offsets_at(topic, rfc3339_ms(where))
        except ValueError:
            raise ConfigError(
                f"{where!r} is no place in a topic: give beginning, end, an offset, -N for N before the end,"
                " or an RFC 3339 time with a zone, like 2026-01-31T08:00:00Z"
            ) from None
    return tuple(
        min(max(offset, first), end) for offset, first, end in zip(offsets, info.start, info.end, strict=True)
    )


def between(admin: Reader, topic: str, first: Offsets, upto: Offsets) -> Iterator[Record]:
    """The records with `first <= offset < upto`, partitions merged by arrival time."""
    runs = [
        run(admin, topic, partition, *ends) for partition, ends in enumerate(zip(first, upto, strict=True))
    ]
    return heapq.merge(*runs, key=lambda record: (record.timestamp_ms, record.partition))


def run(admin: Reader, topic: str, partition: int, position: int, upto: int) -> Iterator[Record]:
    """The records of one partition with `position <= offset < upto`, in order."""
    source = (topic, partition)
    silent_s = 0.0
    at_end = False
    while position < upto:
        records, behind = _poll(admin, {source: position})
        if source in records:
            silent_s, at_end = 0.0, False
            for record in records[source]:
                if record.offset >= upto:
                    return
                yield record
            position = records[source][-1].offset + 1
            continue
        # What is left may be the marks of transactions, which never come as records: then a second look,
        # after the log was seen to answer, finds the end again.
        topic_info(admin, topic)
        if at_end and source not in behind:
            return
        at_end = source not in behind
        silent_s += _POLL_S  # so long each poll waits where there is nothing
        if silent_s > _SILENCE_S:
            raise Unreachable(
                f"{topic}-{partition} gives nothing from offset {position} on for {_SILENCE_S:.0f} s, and is"
                f" wanted up to {upto}: check its leader, and for a producer that holds a transaction open"
            )


def arriving(admin: Reader, topic: str, first: Offsets, stop: Flag) -> Iterator[Record]:
    """The records from `first` on, and those that arrive, until `stop` is set."""
    positions = {(topic, partition): offset for partition, offset in enumerate(first)}
    while not stop.is_set():
        arrived, _ = _poll(admin, positions)
        for source, records in arrived.items():
            positions[source] = records[-1].offset + 1
        yield from sorted(
            (record for records in arrived.values() for record in records),
            key=lambda record: (record.timestamp_ms, record.partition, record.offset),
        )


def _poll(admin: Reader, positions: Positions) -> Polled:
    try:
        polled = admin.poll(positions, _POLL_RECORDS, _POLL_S)
    except Gone as error:
        raise CheckFailed(f"{error}; retention took it meanwhile: start from a later offset") from error
    return polled._replace(records={source: batch for source, batch in polled.records.items() if batch})
