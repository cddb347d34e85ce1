"""Reading of record batches for kafka-python's consumer: straight into records, with memory in bounds.

Kafka lets a producer name a header by any bytes, and compress what unpacks to any size. kafka-python raises
on a name that is not UTF-8, which would stop a reader at that offset for ever, unpacks without a bound, and
makes three objects of each record. Fetches, sessions and positions stay kafka-python's.

Invariants:
- A batch counts only when its checksum is right. Passed over are batches that were aborted, marks, records
  before the offset that was asked for, and what is behind the last whole batch of a fetch.
- Of one batch at most `UNPACKED_BYTES` are unpacked, and of one fetch of a partition not much more: what is
  left of it is fetched again. A batch that is larger inside is *one* record at its last offset, with an
  empty value, and a header that says so; the records inside are never seen.
- What a batch's checksum confirms and yet cannot be read raises `CorruptRecordError` with the place.
Underscored attributes of kafka-python are used here on purpose: it has no public way to say how to read.
"""

import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any

from crc32c import crc32c
from kafka import KafkaConsumer
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError, KafkaError
from kafka.protocol.consumer import IsolationLevel
from kafka.record.legacy_records import LegacyRecordBatch
from kafka.record.memory_records import MemoryRecords

from streamlearn.core.records import UNREADABLE_HEADER, Record
from streamlearn.log.kafka.kafka_python.batch_parser import (
    CHECKED_FROM,
    HEAD_BYTES,
    UNPACKED_RECORDS,
    BatchHead,
    is_abort,
    read_head,
    read_records,
)
from streamlearn.log.kafka.kafka_python.codecs import UNPACKED_BYTES, TooLargeInsideError, unpack

_LENGTH_FROM, _LENGTH_TO = 8, 12
_MAGIC = 16
_OLD_HEAD_BYTES = 26
"""The smallest batch of before Kafka 0.11, which is one message: the format has to be there to be read."""


def read_batches(consumer: KafkaConsumer) -> None:
    """Let `consumer` read batches as this module says: its polls give `Record`s, all that were fetched."""
    consumer._fetcher.PartitionRecords = PartitionRecords


class PartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """Records of one partition that one fetch brought."""

    def __init__(self, fetch_offset: int, tp: Any, records: MemoryRecords, *args: Any, **kwargs: Any) -> None:
        super().__init__(fetch_offset, tp, records, *args, **kwargs)
        self._unpacked_bytes = 0
        self.record_iterator = self._read(records._buffer)

    def take(self, n: int | None = None) -> list[Record]:
        """All records, whatever `n`: who fetches here asks for all. An error waits until those before it are
        taken.
        """
        self._maybe_raise_next_inline_exception()
        records: list[Record] = []
        try:
            for batch in self.record_iterator:
                records += batch
        except KafkaError as error:
            if not records:
                raise
            self._next_inline_exception = error
        return records

    def _read(self, data: Any) -> Iterator[list[Record]]:
        """The records of each batch. Once they are handed out, the next offset to fetch is past the batch,
        although its last records may be gone.
        """
        try:
            for batch in split(data):
                records, next_offset = self._batch(batch)
                if records and records[0].offset < self.fetch_offset:
                    records = [record for record in records if record.offset >= self.fetch_offset]
                if records:
                    self.records_read += len(records)
                    self.bytes_read += len(batch)
                self.next_fetch_offset = next_offset
                yield records
                if self._unpacked_bytes >= UNPACKED_BYTES:
                    break
        except CorruptRecordError as error:
            where = "{}-{}".format(*self.topic_partition)
            raise CorruptRecordError(
                f"{where}, from offset {self.next_fetch_offset} on: {error.args[0]}"
            ) from error
        self.drain()

    def _batch(self, batch: memoryview) -> tuple[list[Record], int]:
        """The records of a batch, and the offset after it."""
        if batch[_MAGIC] > 2:
            raise CorruptRecordError(f"a batch of the format {batch[_MAGIC]}, which is not known")
        if batch[_MAGIC] < 2:
            records = self._old(batch)
            return records, records[-1].offset + 1 if records else self.next_fetch_offset
        head = read_head(batch)
        if self.check_crcs and crc32c(batch[CHECKED_FROM:]) != head.checksum:
            raise CorruptRecordError(f"the checksum of the batch at {head.base_offset} is wrong")
        self.leader_epoch = head.leader_epoch
        try:
            return self._committed(head, batch), head.last_offset + 1
        except TooLargeInsideError:
            unreadable = self._unreadable(
                head.last_offset, head.max_ms, f"{head.record_count} records", len(batch)
            )
            return [unreadable], head.last_offset + 1

    def _committed(self, head: BatchHead, batch: memoryview) -> list[Record]:
        """The records of a batch; none of one that was aborted, and of a mark."""
        if self.isolation_level == IsolationLevel.READ_COMMITTED and head.producer_id >= 0:
            self._consume_aborted_transactions_up_to(head.last_offset)
            if head.is_control and is_abort(head, self._unpacked(head, batch)):
                self.aborted_producer_ids.discard(head.producer_id)
            if head.is_transactional and head.producer_id in self.aborted_producer_ids:
                return []
        if head.is_control:
            return []
        return read_records(head, self._unpacked(head, batch), self.topic_partition)

    def _unpacked(self, head: BatchHead, batch: memoryview) -> bytes:
        if head.record_count > UNPACKED_RECORDS:
            raise TooLargeInsideError
        data = bytes(batch[HEAD_BYTES:])
        if head.codec:
            data = unpack(head.codec, data)
        self._unpacked_bytes += len(data)
        return data

    def _unreadable(self, offset: int, timestamp_ms: int, content: str, size: int) -> Record:
        """The one record of a batch that is too large."""
        why = (
            f"{content} in {size} bytes, which unpack to more than {UNPACKED_BYTES} bytes or are more than "
            f"{UNPACKED_RECORDS}"
        )
        headers = ((UNREADABLE_HEADER, why.encode()),)
        topic, partition = self.topic_partition
        return Record(topic, partition, offset, timestamp_ms, None, b"", headers)

    def _old(self, batch: memoryview) -> list[Record]:
        """The records of a batch of before Kafka 0.11, as kafka-python reads them. Those of the oldest format
        have no time.
        """
        try:
            message = _OldBatch(batch, batch[_MAGIC])
            if self.check_crcs and not message.validate_crc():
                raise CorruptRecordError(f"the checksum of the message at {message.base_offset} is wrong")
            rows = [*islice(message, UNPACKED_RECORDS)]
        except TooLargeInsideError:
            return [self._unreadable(message.base_offset, -1, "old messages", len(batch))]
        except (AssertionError, IndexError, ValueError, OverflowError, struct.error) as error:
            raise CorruptRecordError(f"an old message cannot be read: {error!r}") from error
        if self.check_crcs and not all(row.validate_crc() for row in rows):
            raise CorruptRecordError(f"a checksum inside the message at {message.base_offset} is wrong")
        self._unpacked_bytes += message.unpacked_bytes
        topic, partition = self.topic_partition
        return [
            Record(
                topic,
                partition,
                row.offset,
                -1 if row.timestamp is None else row.timestamp,
                row.key,
                row.value,
            )
            for row in rows
        ]


class _OldBatch(LegacyRecordBatch):  # type: ignore[misc]
    """A batch of before Kafka 0.11, with the bounds that others have."""

    unpacked_bytes = 0

    def _decompress(self, key_offset: int) -> bytes:
        if self.magic == 0 and self.compression_type == self.CODEC_LZ4:  # of a kind of its own
            return bytes(super()._decompress(key_offset))
        _, value = self._read_key_value(key_offset)
        data = unpack(self.compression_type, value or b"")
        self.unpacked_bytes = len(data)
        return data

    def _read_header(self, pos: int) -> Any:
        head = super()._read_header(pos)
        if head[1] < _OLD_HEAD_BYTES - _LENGTH_TO:  # kafka-python would read on at the same place, for ever
            raise CorruptRecordError(f"an old message of {head[1]} bytes")
        return head


def split(data: Any) -> Iterator[memoryview]:
    """The whole batches of a fetch: a broker cuts the last one anywhere."""
    view, pos = memoryview(data), 0
    while len(view) - pos >= _LENGTH_TO:
        length = int.from_bytes(view[pos + _LENGTH_FROM : pos + _LENGTH_TO], "big", signed=True)
        end = pos + _LENGTH_TO + length
        if length < _OLD_HEAD_BYTES - _LENGTH_TO:
            raise CorruptRecordError(f"a batch of {length} bytes")
        if end > len(view):
            return
        yield view[pos:end]
        pos = end
