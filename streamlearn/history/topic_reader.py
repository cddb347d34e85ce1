"""Read a topic's records from here to there, or as they arrive, without any group.

Invariants:
- Committed records only, each once, in offset order within a partition.
- A range is read to its end, or ends with an error: a broker that answers nothing makes no short file.
- Memory holds one poll per partition, however long the range is.
"""

import contextlib
import difflib
import heapq
import itertools
import re
from collections.abc import Iterator

from streamlearn.config.load import rfc3339_ms
from streamlearn.core.records import Range, Record
from streamlearn.env import Flag
from streamlearn.errors import CheckFailed, ConfigError, Gone
from streamlearn.log.port import Reader, TopicInfo

_POLL_RECORDS = 1000
_POLL_S = 0.2
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
        read_range(admin, Range(topic, partition, *ends))
        for partition, ends in enumerate(zip(first, upto, strict=True))
    ]
    return heapq.merge(*runs, key=lambda record: (record.timestamp_ms, record.partition))


def read_range(admin: Reader, run: Range) -> Iterator[Record]:
    """The records of a range of one partition, in order, up to its end. Raises `CheckFailed` when part of it
    is no longer retained, `Unreachable` when nothing comes any more before the end.
    """
    if run.first < run.next:
        with _retention():
            yield from admin.read(run)


def arriving(admin: Reader, topic: str, first: Offsets, stop: Flag) -> Iterator[Record]:
    """The records from `first` on, and those that arrive, until `stop` is set."""
    positions = {(topic, partition): offset for partition, offset in enumerate(first)}
    while not stop.is_set():
        with _retention():
            fetched = admin.poll(positions, _POLL_RECORDS, _POLL_S)
        batches = [batch for batch in fetched.records.values() if batch]
        positions |= {batch[-1].place[:2]: batch[-1].offset + 1 for batch in batches}
        yield from sorted(
            itertools.chain.from_iterable(batches),
            key=lambda record: (record.timestamp_ms, record.partition, record.offset),
        )


@contextlib.contextmanager
def _retention() -> Iterator[None]:
    """Names retention as the cause when records are gone that were there before."""
    try:
        yield
    except Gone as error:
        raise CheckFailed(f"{error}; retention took it meanwhile: start from a later offset") from error
