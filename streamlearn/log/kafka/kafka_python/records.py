"""Reading of record batches for kafka-python's consumer: names of headers in any bytes, memory in bounds.

Kafka lets a producer name a header by any bytes, and compress what unpacks to any size. kafka-python raises
on a name that is not UTF-8, which would stop a reader at that offset for ever, and unpacks without a bound.

Invariants:
- A name that is not UTF-8 is text with surrogates for its odd bytes (`core.records.header_name`), and goes
  out again as the bytes that it came as.
- Of one batch at most `UNPACKED_BYTES` are unpacked, and of one fetch of a partition not much more: what is
  left of it is fetched again. A batch that is larger inside is *one* record at its last offset, with an
  empty value, and a header that says so; the records inside are never seen.
- What a batch's checksum confirms and yet cannot be read raises `CorruptRecordError` with the place.
Underscored attributes of kafka-python are used here on purpose: it has no public way to say how to read.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from kafka import KafkaConsumer
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch
from kafka.record.memory_records import MemoryRecords
from kafka.record.util import decode_varint

from streamlearn.core.records import UNREADABLE_HEADER, Headers, header_name, header_name_bytes
from streamlearn.log.kafka.kafka_python.codecs import UNPACKED_BYTES, TooLargeInsideError, unpack

UNPACKED_RECORDS: Final = 1_000_000
"""The smallest record has seven bytes; as an object it has hundreds."""


class OddName(str):
    """A header's name that kafka-python encodes to the bytes it came as: it calls `encode("utf-8")`."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        """The bytes of the name."""
        return header_name_bytes(str(self))


def plain(headers: Sequence[tuple[str, bytes | None]]) -> Headers:
    """Headers as the core has them."""
    if any(type(name) is OddName for name, _ in headers):
        return tuple((str(name), content) for name, content in headers)
    return tuple(headers)


def for_client(headers: Headers) -> Headers:
    """Headers as kafka-python encodes them without an error, whatever their names."""
    if all(name.isascii() for name, _ in headers):
        return headers
    return tuple((OddName(name), content) for name, content in headers)


def read_any_names(consumer: KafkaConsumer) -> None:
    """Let `consumer` read batches as this module says."""
    consumer._fetcher.PartitionRecords = _PartitionRecords


class _PartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """Records of one partition that one fetch brought."""

    def _unpack_records(self, tp: Any, records: MemoryRecords, *deserializers: Any) -> Iterator[Any]:
        try:
            yield from super()._unpack_records(tp, _Batches(records._buffer), *deserializers)
        except CorruptRecordError as error:
            where = f"{tp.topic}-{tp.partition}, from offset {self.next_fetch_offset} on"
            raise CorruptRecordError(f"{where}: {error}") from error


class _Batches(MemoryRecords):  # type: ignore[misc]
    """The batches of a fetch; those after `UNPACKED_BYTES` are left, to be fetched again."""

    __slots__ = ("_unpacked", "_unpacked_bytes")

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        self._unpacked: _Batch | None = None
        self._unpacked_bytes = 0

    def next_batch(self) -> Any:
        """The next batch, of any format of records."""
        if self._unpacked is not None:
            self._unpacked_bytes += self._unpacked.unpacked_bytes
            self._unpacked = None
        piece = self._next_slice
        if piece is None or self._unpacked_bytes >= UNPACKED_BYTES:
            return None
        if len(piece) < DefaultRecordBatch.HEADER_STRUCT.size or piece[self.MAGIC_OFFSET] != 2:
            return super().next_batch()  # records of before Kafka 0.11, or broken ones
        self._cache_next()
        self._unpacked = _Batch(piece)
        return self._unpacked


_read_msg = DefaultRecordBatch._read_msg  # found once, because it is called for each record


class _Batch(DefaultRecordBatch):  # type: ignore[misc]
    """A batch of records."""

    _buffer: bytearray
    _pos: int
    _decompressed: bool

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        self.too_large = False
        self.unpacked_bytes = 0

    def _maybe_uncompress(self) -> None:
        if self._decompressed:
            return
        self._decompressed = True
        if self.records_count > UNPACKED_RECORDS:
            self.too_large = True
        elif self.compression_type != self.CODEC_NONE:
            self._assert_has_codec(self.compression_type)
            try:
                packed = bytes(memoryview(self._buffer)[self._pos :])
                self._buffer = bytearray(unpack(self.compression_type, packed))
                self._pos = 0
            except TooLargeInsideError:
                self.too_large = True
        self.unpacked_bytes = len(self._buffer)

    def __iter__(self) -> Iterator[Any]:
        self._maybe_uncompress()
        return iter([self._unreadable()]) if self.too_large else self

    def _unreadable(self) -> DefaultRecord:
        """The one record of a batch that is too large."""
        why = (
            f"{self.records_count} records in {self.size_in_bytes} bytes, which unpack to more than "
            f"{UNPACKED_BYTES} bytes or are more than {UNPACKED_RECORDS}"
        )
        headers = [(UNREADABLE_HEADER, why.encode())]
        return DefaultRecord(0, self.last_offset, self.max_timestamp, self.timestamp_type, None, b"", headers)

    def _read_msg(self) -> Any:
        try:
            return _read_msg(self)
        except UnicodeDecodeError:  # nothing has been moved on yet
            return self._read_with_odd_names()

    def _read_with_odd_names(self) -> DefaultRecord:
        """The record at hand. Its structure was sound as far as a header's name."""
        buffer = self._buffer
        length, start = decode_varint(buffer, self._pos)
        _, pos = decode_varint(buffer, start)  # attributes: none are defined
        since_first_ms, pos = decode_varint(buffer, pos)
        since_base, pos = decode_varint(buffer, pos)
        key, pos = self._field(pos)
        value, pos = self._field(pos)
        count, pos = decode_varint(buffer, pos)
        headers = []
        for _ in range(count):
            name, pos = self._field(pos)
            content, pos = self._field(pos)
            if name is None:
                raise CorruptRecordError("a header without a name")
            headers.append((OddName(header_name(name)), content))
        if pos - start != length:
            raise CorruptRecordError(f"a record of {length} bytes ends after {pos - start}")
        self._pos = pos
        appended = self.timestamp_type == self.LOG_APPEND_TIME
        when_ms = self.max_timestamp if appended else self.first_timestamp + since_first_ms
        offset = self.base_offset + since_base
        return DefaultRecord(length, offset, when_ms, self.timestamp_type, key, value, headers)

    def _field(self, pos: int) -> tuple[bytes | None, int]:
        size, pos = decode_varint(self._buffer, pos)
        return (None, pos) if size < 0 else (bytes(self._buffer[pos : pos + size]), pos + size)
