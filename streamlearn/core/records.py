"""The nouns of the log: record, output, range, skip, and the places that they stand at.

Invariant: everything here is a value. Nothing refers to a client, a clock or a file.
"""

from typing import Final, NamedTuple

import msgspec

SHARD: Final = 0
"""The one shard of a service, and its partition of the journal."""

TopicPartition = tuple[str, int]
RecordPlace = tuple[str, int, int]
"""Topic, partition and offset of a record."""

Positions = dict[TopicPartition, int]
"""The next offset to step, by topic and partition."""

Headers = tuple[tuple[str, bytes | None], ...]


ORDER_HEADER = "streamlearn.order"
"""In this header `replay` says in what order it sent records to several topics: microseconds since 1970, in
digits, never twice. It is not passed on.
"""

UNREADABLE_HEADER = "streamlearn.unreadable"
"""With this header, which says why, and an empty value the log hands out a record that it cannot read."""


def header_name(data: bytes) -> str:
    """The name of a header that was named by these bytes, which Kafka wants to be UTF-8 and does not check:
    others stand as surrogates, as Python has them in the names of files.

    >>> header_name_bytes(header_name(b"\\xff\\xfe"))
    b'\\xff\\xfe'
    """
    return data.decode("utf-8", "surrogateescape")


def header_name_bytes(name: str) -> bytes:
    """The inverse of `header_name`."""
    return name.encode("utf-8", "surrogateescape")


HEADER_BYTES: Final = 10
"""What a header takes beside its name and value, at most: two lengths as varints."""


def header_bytes(name: str, value: bytes | None) -> int:
    """The most that a header takes in a record."""
    return len(header_name_bytes(name)) + len(value or b"") + HEADER_BYTES


def headers_bytes(headers: Headers) -> int:
    """The most that all headers of a record take in it."""
    return sum(header_bytes(name, value) for name, value in headers)


class Record(msgspec.Struct, gc=False):
    """One Kafka record, as a reader of committed records sees it.

    Attributes:
        topic, partition, offset: The record's place in the log.
        timestamp_ms: Arrival or creation time in milliseconds since 1970, never the event time.
        key, value: The bytes; None for null. A null value is a tombstone.
        headers: Pairs of a name, as `header_name` makes it, and bytes or None.

    Example:
        >>> Record("events", 0, 17, 1_700_000_000_000, None, b"{}").place
        ('events', 0, 17)
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @property
    def place(self) -> RecordPlace:
        """Topic, partition and offset."""
        return self.topic, self.partition, self.offset


class Output(msgspec.Struct, gc=False):
    """One record to publish.

    Attributes:
        role: The topic's name in the configuration: `predictions`, `dlq`, `scores` or `alerts`.
        partition: The partition of the *source*; the adapter places the output on `partition mod n`.
        key, value: The bytes; None for null.
        headers: As in `Record`.

    Example:
        >>> from streamlearn.core.journal import GENESIS, chain
        >>> output = Output("predictions", 0, None, b'{"prediction":true}')
        >>> chain(GENESIS, [output]) == chain(GENESIS, [output, output])
        False
    """

    role: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Range(NamedTuple):
    """A contiguous run of records: offsets `first <= offset < next` (Kafka may leave gaps inside).

    Attributes:
        topic, partition: The partition of the run.
        first: The offset of the first record.
        next: The offset after the last record.

    Example:
        >>> run = Range("events", 0, 10, 15)
        >>> run.next - run.first
        5
    """

    topic: str
    partition: int
    first: int
    next: int

    @property
    def last(self) -> RecordPlace:
        """The place of the last record."""
        return self.topic, self.partition, self.next - 1


CRASH_STAGE: Final = "crash"
"""The stage of a record that killed the process, wherever it did."""


class Skip(NamedTuple):
    """A record that made the model raise, so that it never reaches the model again, live or in redo.

    Attributes:
        topic, partition, offset: The record's place in the log.
        stage: The stage of its dead letter: `predict`, `learn`, `expire`, `decode` or `crash`.
        reason: The reason of its dead letter, one of `core.events.event.REASONS`.

    Example:
        >>> Skip("events", 0, 17, "learn", "raised").place
        ('events', 0, 17)
    """

    topic: str
    partition: int
    offset: int
    stage: str
    reason: str

    @property
    def place(self) -> RecordPlace:
        """Topic, partition and offset of the record."""
        return self.topic, self.partition, self.offset
