"""The journal in an embedded file, as anybody may read it: an entry's offset is its `seq`."""

from collections.abc import Iterator

import msgspec

from streamlearn.core.journal import Entry, decode_entry
from streamlearn.core.records import Range, Record, TopicPartition
from streamlearn.errors import Stop
from streamlearn.log.embedded.topics import TopicTables


def last_entry(topics: TopicTables, journal: TopicPartition) -> Entry | None:
    """The last entry. Trimming never takes it. Call this inside a scope."""
    start, end, _ = topics.bounds(*journal)
    if end == 0:
        return None
    if start == end:
        raise Stop(
            f"the journal {journal[0]} in {topics.file.path} is empty, but it was not: everything before "
            f"entry {end} was deleted. Begin a new one where the predictions end: `streamlearn reset --start "
            "predictions`."
        )
    (last,) = topics.read_now(Range(*journal, end - 1, end))
    return _entry_in(topics, last)


def entries_after(topics: TopicTables, journal: TopicPartition, after: int) -> Iterator[Entry]:
    """Committed entries with `seq > after`, in order. Raises `Gone`."""
    with topics.file.snapshot():
        _, end, _ = topics.bounds(*journal)
    for record in topics.read(Range(*journal, after + 1, end)):
        yield _entry_in(topics, record)


def _entry_in(topics: TopicTables, record: Record) -> Entry:
    where = f"entry {record.offset} of {record.topic} in {topics.file.path}"
    try:
        entry = decode_entry(record.value or b"")
    except msgspec.MsgspecError as error:
        raise Stop(f"{where} cannot be read ({error}): restore the file") from error
    if entry.seq != record.offset:
        raise Stop(f"{where} says that it is {entry.seq}: restore the file")
    return entry
