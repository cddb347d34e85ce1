"""Record batches of Kafka's format v2, encoded whole, and handed to kafka-python's producer one by one.

Record by record kafka-python takes a lock, a clock and a future for each, which costs more than a model. Here
a call's rows become the bodies of batches at once; what makes a batch exactly once (producer id, epoch,
sequence number, the order of retries) stays kafka-python's, which asks for it when a batch is sent.

Invariants:
- A batch takes at most the room that it is given, unless one record takes more. It is closed once: a retry
  sends the same bytes, with the same sequence number.
- kafka-python never splits such a batch, because nobody would wait for the halves: a batch that a broker
  refuses as too large fails.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final

from crc32c import crc32c
from kafka import TopicPartition
from kafka.errors import IllegalStateError, MessageSizeTooLargeError
from kafka.producer.producer_batch import FinalState, ProducerBatch

from streamlearn.core.records import header_name_bytes
from streamlearn.log.kafka.client import Row
from streamlearn.log.kafka.kafka_python.codecs import pack

_BEFORE_CRC: Final = struct.Struct(">qiibI")
"""Base offset, length of all that follows it, leader epoch, format, checksum of all that follows it."""
_AFTER_CRC: Final = struct.Struct(">hiqqqhii")
"""Attributes, last offset, first and last timestamp, producer id, epoch and sequence number, count."""
BATCH_HEAD: Final = _BEFORE_CRC.size + _AFTER_CRC.size

_FORMAT: Final = 2
_BEFORE_LENGTH: Final = 12
_TRANSACTIONAL: Final = 0x10
_NULL: Final = b"\x01"
"""A length of -1 as a varint."""
_NO_HEADERS: Final = b"\0"
_FRAME_BYTES: Final = 12
"""The most that the length, attributes, timestamp and number of a record take."""


def _encode_varint(number: int) -> bytes:
    """A number that is not negative, as Kafka's varint, which has the sign in its lowest bit."""
    number <<= 1
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


_VARINTS: Final = [_encode_varint(number) for number in range(1 << 13)]
"""Those of at most two bytes, which nearly all are."""
_SHORT: Final = len(_VARINTS)


def encode_rows(rows: Sequence[Row], room: int) -> Iterator[tuple[bytes, int]]:
    """`rows` as bodies of batches, each with its number of records.

    A body takes at most `room` bytes, unless one record takes more.
    """
    varints, pieces, size, count = _VARINTS, list[bytes](), 0, 0
    for row in rows:
        value = row.value
        fields: tuple[bytes, ...]
        if value is not None and len(value) < _SHORT and row.key is None and not row.headers:
            length = varints[len(value)]
            fields, fields_size = (_NULL, length, value, _NO_HEADERS), 2 + len(length) + len(value)
        else:
            fields = (_fields(row),)
            fields_size = len(fields[0])
        if 0 < size > room - _FRAME_BYTES - fields_size:
            yield b"".join(pieces), count
            pieces, size, count = [], 0, 0
        number = varints[count] if count < _SHORT else _encode_varint(count)
        record_size = 2 + len(number) + fields_size
        prefix = varints[record_size] if record_size < _SHORT else _encode_varint(record_size)
        pieces += (prefix, b"\0\0", number)
        pieces += fields
        size += len(prefix) + record_size
        count += 1
    if count:
        yield b"".join(pieces), count


def _fields(row: Row) -> bytes:
    """Key, value and headers."""
    pieces = [*_nullable(row.key), *_nullable(row.value), _encode_varint(len(row.headers))]
    for name, value in row.headers:
        pieces += _nullable(header_name_bytes(name))
        pieces += _nullable(value)
    return b"".join(pieces)


def _nullable(data: bytes | None) -> tuple[bytes, bytes]:
    """The length, and the bytes."""
    return (_NULL, b"") if data is None else (_encode_varint(len(data)), data)


class EncodedRecords:
    """The records of one batch, of which a `ProducerBatch` asks what it asks of a `MemoryRecordsBuilder`."""

    def __init__(self, body: bytes, count: int, codec: int, timestamp_ms: int) -> None:
        packed = pack(codec, body) if codec else body
        # As kafka-python: what packing does not make smaller stays as it is.
        self._codec, self._body = (codec, packed) if len(packed) < len(body) else (0, body)
        self._count = count
        self._timestamp_ms = timestamp_ms
        self._data = b""
        self._transactional = False
        self.producer_id = -1
        self.producer_epoch = -1
        self.base_sequence = -1

    def append(self, *_: Any) -> None:
        """Refuse a record, as a full batch does."""

    def is_full(self) -> bool:
        """True, always."""
        return True

    def next_offset(self) -> int:
        """The number of records."""
        return self._count

    def size_in_bytes(self) -> int:
        """The size of the whole batch."""
        return BATCH_HEAD + len(self._body)

    def set_producer_state(
        self, producer_id: int, producer_epoch: int, base_sequence: int, is_transactional: bool
    ) -> None:
        """Take the numbers that make the batch exactly once; never again, once it is closed."""
        if self._data:
            raise IllegalStateError("a batch that may have been sent keeps its sequence number")
        self.producer_id, self.producer_epoch = producer_id, producer_epoch
        self.base_sequence, self._transactional = base_sequence, is_transactional

    def close(self) -> None:
        """Make the bytes of the batch, once."""
        if self._data:
            return
        after_crc = _AFTER_CRC.pack(
            self._codec | (_TRANSACTIONAL if self._transactional else 0),
            self._count - 1,
            self._timestamp_ms,
            self._timestamp_ms,
            self.producer_id,
            self.producer_epoch,
            self.base_sequence,
            self._count,
        )
        checksum = crc32c(self._body, crc32c(after_crc))
        size = self.size_in_bytes() - _BEFORE_LENGTH
        self._data = b"".join((_BEFORE_CRC.pack(0, size, 0, _FORMAT, checksum), after_crc, self._body))

    def buffer(self) -> bytes:
        """The bytes of the closed batch."""
        return self._data


class EncodedBatch(ProducerBatch):  # type: ignore[misc]
    """A batch with one future for all its records."""

    records: EncodedRecords

    @property
    def record_count(self) -> int:
        """The number of records once they are acknowledged; one before, because kafka-python splits a batch
        that counts more, when a broker finds it too large.
        """
        return self.records.next_offset() if self.final_state is FinalState.SUCCEEDED else 1

    def errors(self) -> list[BaseException]:
        """The reasons why a batch that is done failed: one for each record, or once for all."""
        _, _, record_error = self.produce_future.value
        if record_error is None:
            return []
        return [record_error(number) for number in range(self.records.next_offset())]

    @property
    def is_over_a_lowered_limit(self) -> bool:
        """True when the broker took no batch of this size, while it may well take the records one by one."""
        errors = self.errors()
        return len(errors) > 1 and isinstance(errors[0], MessageSizeTooLargeError)

    def offsets(self) -> tuple[int, int]:
        """The first and the last offset of a batch that is done; below zero when the broker gave none."""
        first, *_ = self.produce_future.value
        return first, first + self.records.next_offset() - 1


def enqueue(accumulator: Any, batch: EncodedBatch) -> None:
    """Put `batch` behind those of its partition: what `RecordAccumulator.append` does with a new batch."""
    partition: TopicPartition = batch.topic_partition
    accumulator._appends_in_progress.increment()
    try:
        with accumulator._tp_lock(partition):
            if accumulator._closed:
                raise IllegalStateError("the producer is closed")
            accumulator._batches[partition].append(batch)
            accumulator._incomplete.add(batch)
    finally:
        accumulator._appends_in_progress.decrement()
