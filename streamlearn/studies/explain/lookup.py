"""Find one record among many: a prediction by its event's id or place, and the entry that covers a record.

Invariants:
- Topics are read as anybody may read them, committed records only; nothing is fenced and nothing written.
- Memory holds one block of records, however long the topic is; `ScanCounter` counts the records read.
"""

from collections.abc import Callable, Iterator

import msgspec
import orjson

from streamlearn.core.events.paths import optional
from streamlearn.core.journal import Entry, journalled
from streamlearn.core.records import Range, Record
from streamlearn.errors import ConfigError, Gone
from streamlearn.history import topic_reader
from streamlearn.log.port import Reader
from streamlearn.studies.dead_letters import Letter, parse_letter

BLOCK = 5_000
TOLD_EVERY = 100_000
SLACK_MS = 60_000
"""A prediction and its entry are published together; their arrival times differ by less than this."""


class ScanCounter:
    """Counts of records read, in all and by topic. `tell` hears about it now and then."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.by_topic: dict[str, int] = {}
        self._tell = tell

    def __call__(self, records: Iterator[Record]) -> Iterator[Record]:
        """The records, counted."""
        for record in records:
            count = self.by_topic[record.topic] = self.by_topic.get(record.topic, 0) + 1
            if count % TOLD_EVERY == 0:
                self._tell(f"looked at {count:,} records of {record.topic} ...")
            yield record

    def summary(self) -> str:
        """For a message."""
        return (
            ", ".join(f"{count:,} records of {topic}" for topic, count in self.by_topic.items()) or "nothing"
        )


class Place(msgspec.Struct, frozen=True):
    """A record's place."""

    topic: str
    partition: int
    offset: int


def parse_place(text: str) -> Place:
    """The place in TOPIC-PARTITION-OFFSET. Raises `ConfigError`."""
    head, _, offset = text.rpartition("-")
    topic, _, partition = head.rpartition("-")
    if not (topic and partition.isdigit() and offset.isdigit()):
        raise ConfigError(f"--at {text}: write TOPIC-PARTITION-OFFSET, like events-0-1234")
    return Place(topic, int(partition), int(offset))


def backwards(admin: Reader, topic: str, upto: topic_reader.Offsets) -> Iterator[Record]:
    """A topic's records before `upto`, the newest first within a block."""
    info = topic_reader.topic_info(admin, topic)
    while any(end > start for end, start in zip(upto, info.start, strict=True)):
        first = tuple(max(start, end - BLOCK) for end, start in zip(upto, info.start, strict=True))
        yield from reversed(list(topic_reader.between(admin, topic, first, upto)))
        upto = first


def newest_prediction(admin: Reader, topic: str, ident: str, counter: ScanCounter) -> Record | None:
    """The newest prediction for an event's id, which is a text or the text of an integer."""
    spellings = {orjson.dumps(ident), ident.encode()} if _is_integer(ident) else {orjson.dumps(ident)}
    heads = tuple(b'{"id":' + spelling + b"," for spelling in spellings)
    end = topic_reader.topic_info(admin, topic).end
    for record in counter(backwards(admin, topic, end)):
        if (record.value or b"").startswith(heads):
            return record
    return None


def _is_integer(ident: str) -> bool:
    return ident.removeprefix("-").isdigit()


def prediction_at(admin: Reader, topic: str, source: Place, counter: ScanCounter) -> Record | None:
    """The prediction for the record at `source`."""
    end = b',"source":' + orjson.dumps(msgspec.to_builtins(source)) + b"}"
    for record in counter(backwards(admin, topic, topic_reader.topic_info(admin, topic).end)):
        if (record.value or b"").endswith(end):
            return record
    return None


def letter_about(
    admin: Reader, topic: str, source: Place | None, ident: str, id_path: str, counter: ScanCounter
) -> Letter | None:
    """The newest dead letter of the record at `source`, or of an event that has this id."""
    if topic not in admin.topics([topic]):
        return None
    for record in counter(backwards(admin, topic, topic_reader.topic_info(admin, topic).end)):
        letter = parse_letter(record)
        if letter is None:
            continue
        if source == Place(letter.topic, letter.partition, letter.offset):
            return letter
        if source is None and _has_id(record.value, ident, id_path):
            return letter
    return None


def _has_id(value: bytes | None, ident: str, path: str) -> bool:
    try:
        doc = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return False
    value = optional(path)(doc) if isinstance(doc, dict) else None
    return isinstance(value, str | int) and not isinstance(value, bool) and str(value) == ident


def record_at(admin: Reader, source: Place) -> Record | None:
    """The record there, None when it is no longer retained."""
    if source.topic not in admin.topics([source.topic]):
        return None
    try:
        return next(admin.read(Range(source.topic, source.partition, source.offset, source.offset + 1)), None)
    except (Gone, ConfigError):
        return None


def entry_covering(
    admin: Reader, journal: str, source: Place, around_ms: int, counter: ScanCounter
) -> Entry | None:
    """The entry that covers a record. `around_ms`: when its prediction was published."""
    end = topic_reader.topic_info(admin, journal).end
    near = admin.offsets_at(journal, around_ms - SLACK_MS)
    for first, upto in ((near, end), (topic_reader.topic_info(admin, journal).start, near)):
        for record in counter(topic_reader.between(admin, journal, first, upto)):
            entry = journalled(record)
            if entry is not None and any(covers(run, source) for run in entry.ranges):
                return entry
    return None


def covers(run: Range, source: Place) -> bool:
    """True if a run holds the record."""
    return (run.topic, run.partition) == (
        source.topic,
        source.partition,
    ) and run.first <= source.offset < run.next
