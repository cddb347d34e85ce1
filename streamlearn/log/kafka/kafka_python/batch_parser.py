"""Record batches of Kafka's format v2, read straight into records.

Through kafka-python each record becomes three objects, by about forty calls. Here one loop reads the bytes;
for the shape that nearly all records have (no key, no headers, lengths of two bytes) it calls nothing.

Invariants:
- Whatever the bytes say, reading them ends with records, `CorruptRecordError` or `TooLargeInsideError`. At
  most `UNPACKED_RECORDS` records, and as many headers, of one batch are in memory.
- A header's name may be any bytes (`core.records.header_name`).
"""

import struct
from typing import Final, NamedTuple

from kafka.errors import CorruptRecordError

from streamlearn.core.records import Headers, Record, TopicPartition, header_name
from streamlearn.log.kafka.kafka_python.codecs import TooLargeInsideError

UNPACKED_RECORDS: Final = 1_000_000
"""The smallest record has seven bytes, and the smallest header two; as objects they have hundreds."""

CHECKED_FROM: Final = 21
"""The first byte that a batch's checksum is of."""
HEAD_BYTES: Final = 61

_HEAD: Final = struct.Struct(">qiibIhiqqqhii")
_CODEC, _APPEND_TIME, _TRANSACTIONAL, _CONTROL = 0x07, 0x08, 0x10, 0x20
_ABORT: Final = b"\0\0"


class BatchHead(NamedTuple):
    """The fields before the records of a batch.

    Compaction takes records out, all of them even; offsets then have gaps, and `last_delta` stays.
    """

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    checksum: int
    attributes: int
    last_delta: int
    first_ms: int
    max_ms: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def last_offset(self) -> int:
        """The offset of the last record, whether it is still there or not."""
        return self.base_offset + self.last_delta

    @property
    def codec(self) -> int:
        """Kafka's number of the codec; 0 for none."""
        return self.attributes & _CODEC

    @property
    def is_transactional(self) -> bool:
        """True when the records count only with a mark that commits them."""
        return bool(self.attributes & _TRANSACTIONAL)

    @property
    def is_control(self) -> bool:
        """True for the mark at the end of a transaction."""
        return bool(self.attributes & _CONTROL)


def read_head(batch: bytes | memoryview) -> BatchHead:
    """The head of a batch. Raises `CorruptRecordError` when there is none."""
    if len(batch) < HEAD_BYTES:
        raise CorruptRecordError(f"a batch of {len(batch)} bytes, which has no head")
    return BatchHead(*_HEAD.unpack_from(batch))


def is_abort(head: BatchHead, data: bytes) -> bool:
    """True when a control batch with these (unpacked) records says that its transaction was aborted."""
    marks = read_records(head, data, ("", 0))
    if any(len(mark.key or b"") < 4 for mark in marks):
        raise CorruptRecordError("a mark without a key that says what it marks")
    return any((mark.key or b"")[2:4] == _ABORT for mark in marks)


def read_records(head: BatchHead, data: bytes, partition: TopicPartition) -> list[Record]:
    """The records of a batch whose records, unpacked, are `data`.

    Raises `CorruptRecordError`; `TooLargeInsideError` for more than `UNPACKED_RECORDS` records or headers.
    """
    if head.record_count > UNPACKED_RECORDS:
        raise TooLargeInsideError
    try:
        return _read_records(head, data, *partition)
    except IndexError:
        raise CorruptRecordError("a record goes on after the end of its batch") from None


def _read_records(head: BatchHead, data: bytes, topic: str, partition: int) -> list[Record]:
    base, first_ms = head.base_offset, head.first_ms
    append_ms = head.max_ms if head.attributes & _APPEND_TIME else None
    records: list[Record] = []
    add, pos, room = records.append, 0, UNPACKED_RECORDS
    key: bytes | None
    value: bytes | None
    for _ in range(head.record_count):
        size = data[pos]
        if size < 0x80:
            pos += 1
        elif (high := data[pos + 1]) < 0x80:
            size, pos = size & 0x7F | high << 7, pos + 2
        else:
            size, pos = _varint(data, pos)
        start, pos = pos, pos + 1  # attributes: none are defined
        since_first = data[pos]
        if since_first < 0x80:
            pos += 1
        else:
            since_first, pos = _varint(data, pos)
        number = data[pos]
        if number < 0x80:
            pos += 1
        elif (high := data[pos + 1]) < 0x80:
            number, pos = number & 0x7F | high << 7, pos + 2
        else:
            number, pos = _varint(data, pos)
        if data[pos] == 1:
            key, pos = None, pos + 1
        else:
            key, pos = _nullable(data, pos)
        length = data[pos]
        if length & 0x81 == 0x80 and (high := data[pos + 1]) < 0x80:
            pos += 2
            end = pos + (length >> 1 & 0x3F | high << 6)
            value, pos = data[pos:end], end
        else:
            value, pos = _nullable(data, pos)
        headers: Headers = ()
        if data[pos] == 0:
            pos += 1
        else:
            headers, pos = _headers(data, pos, room)
            room -= len(headers)
        if 2 * (pos - start) != size:  # a size below zero is odd
            raise CorruptRecordError(f"a record of {size >> 1 ^ -(size & 1)} bytes ends after {pos - start}")
        ms = append_ms if append_ms is not None else first_ms + (since_first >> 1 ^ -(since_first & 1))
        add(Record(topic, partition, base + (number >> 1 ^ -(number & 1)), ms, key, value, headers))
    if pos != len(data):
        raise CorruptRecordError(f"{len(data) - pos} bytes after the last record of a batch")
    return records


def _headers(data: bytes, pos: int, room: int) -> tuple[Headers, int]:
    count, pos = _signed(data, pos)
    if count > room:
        raise TooLargeInsideError
    headers = []
    for _ in range(count):
        name, pos = _nullable(data, pos)
        content, pos = _nullable(data, pos)
        if name is None:
            raise CorruptRecordError("a header without a name")
        headers.append((header_name(name), content))
    if count < 0:
        raise CorruptRecordError(f"a record of {count} headers")
    return tuple(headers), pos


def _nullable(data: bytes, pos: int) -> tuple[bytes | None, int]:
    """Bytes with their length before them; None for a length below zero."""
    size, pos = _signed(data, pos)
    return (None, pos) if size < 0 else (data[pos : pos + size], pos + size)


def _signed(data: bytes, pos: int) -> tuple[int, int]:
    number, pos = _varint(data, pos)
    return number >> 1 ^ -(number & 1), pos


def _varint(data: bytes, pos: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first; its sign is still its lowest bit."""
    number = 0
    for shift in range(0, 70, 7):
        byte = data[pos]
        pos += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, pos
    raise CorruptRecordError("a number of more than ten bytes")
