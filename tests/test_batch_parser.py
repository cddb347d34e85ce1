"""Batches that we read ourselves: as kafka-python reads them, and a named error for broken ones."""

import binascii
import struct
from typing import Any

import pytest
from crc32c import crc32c
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError, KafkaError, UnsupportedCodecError
from kafka.protocol.consumer import FetchResponse, IsolationLevel
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.legacy_records import LegacyRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords

from streamlearn.core.records import UNREADABLE_HEADER, Record, header_name
from streamlearn.log.kafka.kafka_python import batch_parser
from streamlearn.log.kafka.kafka_python.batch_encoder import EncodedRecords, encode_rows
from streamlearn.log.kafka.kafka_python.batch_parser import HEAD_BYTES, read_head
from streamlearn.log.kafka.kafka_python.codecs import TooLargeInsideError, pack
from streamlearn.log.kafka.kafka_python.records import PartitionRecords, split
from streamlearn.log.port import ProducerRecord
from tests.test_batch_encoder import CODECS, NOW_MS, rows

PLACE = TopicPartition("t", 0)
Aborted = FetchResponse.FetchableTopicResponse.PartitionData.AbortedTransaction
HEAD = struct.Struct(">qiibIhiqqqhii")

times = st.integers(0, 1 << 41) | st.integers(NOW_MS, NOW_MS + 20_000)
timed = st.tuples(rows, times, st.integers(0, 300))
"""A row, its time, and the records before it that compaction took out."""


def packed(records: list[tuple[ProducerRecord, int, int]], codec: int = 0, base: int = 0) -> bytes:
    """A batch of kafka-python's own builder, at an offset as a broker puts it."""
    builder = DefaultRecordBatchBuilder(2, codec, False, -1, -1, -1, 1 << 40)
    offset = -1
    for row, time_ms, gap in records:
        offset += 1 + gap
        builder.append(offset, time_ms, row.key, row.value, row.headers)
    return struct.pack(">q", base) + bytes(builder.build())[8:]


def changed(batch: bytes, body: bytes | None = None, **fields: int) -> bytes:
    """`batch` with other fields or records, and a checksum that confirms them."""
    names = ["base", "length", "epoch", "magic", "crc", "attributes", "last", "first_ms", "max_ms"]
    names += ["producer_id", "producer_epoch", "sequence", "count"]
    body = batch[HEAD.size :] if body is None else body
    head = dict(zip(names, HEAD.unpack_from(batch), strict=True)) | {"length": HEAD.size - 12 + len(body)}
    raw = HEAD.pack(*(head | fields).values()) + body
    return raw[:17] + struct.pack(">I", crc32c(raw[21:])) + raw[21:]


def reader(*batches: bytes, offset: int = 0, **options: Any) -> PartitionRecords:
    return PartitionRecords(offset, PLACE, MemoryRecords(b"".join(batches)), **options)


def read(*batches: bytes, offset: int = 0, **options: Any) -> list[Record]:
    return reader(*batches, offset=offset, **options).take()


def kafka_pythons(*batches: bytes, offset: int = 0) -> tuple[list[Record], int]:
    theirs = Fetcher.PartitionRecords(offset, PLACE, MemoryRecords(b"".join(batches)))
    found = [
        Record("t", 0, row.offset, row.timestamp, row.key, row.value, tuple(row.headers))
        for row in theirs.take()
    ]
    return found, theirs.next_fetch_offset


@given(
    st.lists(st.lists(timed, min_size=1, max_size=8), min_size=1, max_size=3),
    st.sampled_from([*CODECS.values()]),
    st.booleans(),
    st.integers(0, 40),
    st.integers(0, 60),
)
def test_every_record_is_read_as_kafka_python_reads_it(
    batches: list[Any], codec: int, arrival: bool, offset: int, cut: int
) -> None:
    data, base = [], 0
    for records in batches:
        batch = packed(records, codec, base)
        if arrival:  # the topic has LogAppendTime
            batch = changed(batch, attributes=codec_in(batch) | 8, max_ms=NOW_MS)
        data.append(batch)
        base = read_head(batch).last_offset + 1
    data.append(packed([(ProducerRecord(None, b"behind the cut"), 0, 0)], 0, base)[:cut])
    ours = reader(*data, offset=offset)
    assert (ours.take(), ours.next_fetch_offset) == kafka_pythons(*data, offset=offset)
    assert not ours, "nothing is left"


def codec_in(batch: bytes) -> int:
    return read_head(batch).codec


@given(st.lists(rows, min_size=1, max_size=10), st.sampled_from([*CODECS.values()]))
def test_what_we_encode_we_read(records: list[ProducerRecord], codec: int) -> None:
    ((body, count),) = encode_rows(records, 1 << 40)
    batch = EncodedRecords(body, count, codec, NOW_MS)
    batch.close()
    assert read(batch.buffer()) == [
        Record("t", 0, number, NOW_MS, row.key, row.value, row.headers) for number, row in enumerate(records)
    ]


@given(st.binary(min_size=1, max_size=20), st.none() | st.binary(max_size=20))
def test_a_header_has_any_bytes_for_a_name(name: bytes, value: bytes | None) -> None:
    ((body, count),) = encode_rows([ProducerRecord(None, b"x", ((header_name(name), value),))], 1 << 40)
    batch = EncodedRecords(body, count, 0, NOW_MS)
    batch.close()
    (record,) = read(batch.buffer())
    assert record.headers == ((header_name(name), value),)
    assert name in batch.buffer()


SOUND = packed(
    [
        (
            ProducerRecord(None, b'{"a": 1}' * n, (("h", b"v"), ("i", None)) if n % 3 == 0 else ()),
            NOW_MS + n,
            n % 2,
        )
        for n in range(12)
    ]
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from([*CODECS.values()]),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), min_size=1, max_size=4),
    st.booleans(),
)
@example(0, [(0, 0xFF)], True)
def test_flipped_bits_end_in_records_or_a_named_error(
    codec: int, flips: list[tuple[int, int]], confirmed: bool
) -> None:
    """Of the whole batch, or with a checksum that confirms the damage."""
    body = bytearray(SOUND[HEAD_BYTES:])
    if confirmed:
        for where, bits in flips:
            body[where % len(body)] ^= bits
        data = pack(codec, bytes(body)) if codec else bytes(body)
        batch = changed(SOUND, data, attributes=codec)
    else:
        whole = bytearray(
            changed(SOUND, pack(codec, bytes(body)) if codec else bytes(body), attributes=codec)
        )
        for where, bits in flips:
            whole[where % len(whole)] ^= bits
        batch = bytes(whole)
        assume(batch[16] == 2)
    try:
        records = read(batch)
    except KafkaError as error:
        assert isinstance(error, CorruptRecordError | UnsupportedCodecError)
        assert isinstance(error, UnsupportedCodecError) or "t-0, from offset 0 on" in str(error)
        return
    assert all(type(record) is Record for record in records)
    if confirmed:
        return
    assert [record.value for record in records] in ([], [record.value for record in read(SOUND)])


@settings(max_examples=300)
@given(st.binary(max_size=200), st.integers(-2, 40), st.integers(0, 63))
def test_junk_that_a_checksum_confirms_ends_in_records_or_a_named_error(
    body: bytes, count: int, attributes: int
) -> None:
    try:
        records = read(changed(SOUND, body, count=count, attributes=attributes))
    except (CorruptRecordError, UnsupportedCodecError):
        return
    assert len(records) in (0, 1, count)


@given(st.binary(max_size=300), st.integers(0, 255))
def test_junk_in_place_of_batches_is_nothing_or_a_named_error(data: bytes, magic: int) -> None:
    junk = data[:16] + bytes([magic]) + data[17:]
    try:
        assert read(junk) == []
    except (CorruptRecordError, UnsupportedCodecError):
        return


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_a_codec_that_does_not_exist_is_named(codec: int) -> None:
    with pytest.raises(UnsupportedCodecError, match=str(codec)):
        read(changed(SOUND, attributes=codec))


def record(*fields: bytes) -> bytes:
    """A record of these fields, without its attributes, with a length of one byte."""
    content = b"\0" + b"".join(fields)
    return bytes([2 * len(content)]) + content


ENDLESS = b"\xff" * 60
NULL, NONE = b"\x01", b"\0"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        ENDLESS,
        record(NONE, NONE, NULL, NULL, NONE)[:-1],
        record(NONE, NONE, NULL, NULL, NONE) + b"\0",
        b"\x0d" + record(NONE, NONE, NULL, NULL, NONE)[1:],  # a length below zero
        record(ENDLESS[:11]),
        record(NONE, ENDLESS[:11]),
        record(NONE, NONE, ENDLESS[:11]),
        record(NONE, b"\x80" * 10 + b"\0", NULL, NULL, NONE),  # a number of eleven bytes
        record(NONE, NONE, NULL, ENDLESS[:11]),
        record(NONE, NONE, NULL, b"\x64x", NONE),  # a value of fifty bytes
        record(NONE, NONE, b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", NULL, NONE),
        record(NONE, NONE, NULL, NULL, b"\x01"),  # less than no headers
        record(NONE, NONE, NULL, NULL, b"\x04", b"\x02a", NULL),  # one of two headers
        record(NONE, NONE, NULL, NULL, b"\x02", NULL, NULL),  # a name that is null
    ],
)
def test_a_record_that_cannot_be_is_corrupt(body: bytes) -> None:
    assert len(read(changed(SOUND, record(NONE, NONE, NULL, NULL, NONE), count=1, attributes=0))) == 1
    with pytest.raises(CorruptRecordError, match="t-0, from offset 0 on"):
        read(changed(SOUND, body, count=1, attributes=0))


def test_every_length_below_zero_is_null_as_for_kafka_python() -> None:
    body = record(NONE, NONE, b"\x03", b"\x81\x01", b"\x02", b"\x02a", b"\x05")
    batch = changed(SOUND, body, count=1, attributes=0)
    assert read(batch) == kafka_pythons(batch)[0]
    assert (read(batch)[0].key, read(batch)[0].value, read(batch)[0].headers) == (None, None, (("a", None),))


def test_very_many_headers_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_parser, "UNPACKED_RECORDS", 10)
    row = ProducerRecord(None, b"x", (("h", None),) * 4)
    assert len(read(packed([(row, 0, 0)] * 2))) == 2
    (unreadable,) = read(packed([(row, 0, 0)] * 3))
    assert (unreadable.offset, unreadable.headers[0][0]) == (2, UNREADABLE_HEADER)
    with pytest.raises(TooLargeInsideError):
        batch_parser._headers(b"\xfe\xff\xff\xff\x0f", 0, 10)


def test_what_comes_before_a_broken_batch_is_handed_out_first() -> None:
    after = packed([(ProducerRecord(None, b"x"), 0, 0)], 0, read_head(SOUND).last_offset + 1)
    broken = after[:-2] + b"y\0"
    ours = reader(SOUND, broken)
    assert ours.take() == read(SOUND)
    assert ours.next_fetch_offset == read_head(SOUND).last_offset + 1
    with pytest.raises(CorruptRecordError, match=r"t-0, from offset 18 on: the checksum"):
        ours.take()
    assert len(read(SOUND, broken, check_crcs=False)) == 13


COMMITTED = {"isolation_level": IsolationLevel.READ_COMMITTED}


def of_producer(number: int, base: int, *values: bytes) -> bytes:
    batch = packed([(ProducerRecord(None, value), 0, 0) for value in values], 0, base)
    return changed(batch, attributes=0x10, producer_id=number, producer_epoch=0, sequence=0)


def mark(number: int, base: int, kind: int) -> bytes:
    batch = packed([(ProducerRecord(struct.pack(">hh", 0, kind), b"\0\0\0\0\0\0"), 0, 0)], 0, base)
    return changed(batch, attributes=0x30, producer_id=number, producer_epoch=0, sequence=-1)


def emptied(batch: bytes) -> bytes:
    """As compaction leaves the last batch of a producer."""
    return changed(batch, b"", count=0)


def test_aborted_batches_and_marks_are_passed_over() -> None:
    data = [
        of_producer(1, 0, b"a0", b"a1"),
        of_producer(2, 2, b"b0"),
        mark(1, 3, 0),
        of_producer(1, 4, b"a2"),
        mark(2, 5, 1),
        mark(1, 6, 1),
    ]
    aborted = [Aborted(producer_id=1, first_offset=0)]
    ours = reader(*data, aborted_transactions=aborted, **COMMITTED)
    assert [(record.offset, record.value) for record in ours.take()] == [(2, b"b0"), (4, b"a2")]
    assert ours.next_fetch_offset == 7
    assert len(read(*data)) == 4, "uncommitted, it is all there"
    ours = reader(*data[:1], aborted_transactions=aborted, **COMMITTED)
    assert (ours.take(), ours.next_fetch_offset) == ([], 2)
    outside = changed(data[0], attributes=0)  # of the same producer, in no transaction
    assert len(read(outside, aborted_transactions=aborted, **COMMITTED)) == 2


def test_batches_that_compaction_has_emptied_are_passed_over() -> None:
    data = [emptied(of_producer(1, 0, b"a0", b"a1")), emptied(mark(1, 2, 0)), of_producer(1, 3, b"a2")]
    ours = reader(*data, **COMMITTED)
    assert [record.offset for record in ours.take()] == [3]
    ours = reader(data[0], **COMMITTED)
    assert (ours.take(), ours.next_fetch_offset) == ([], 2)


def test_the_next_offset_is_past_last_records_that_are_gone() -> None:
    batch = changed(packed([(ProducerRecord(None, b"x"), 0, 0)], 0, 40), last=9)
    ours = reader(batch, offset=40)
    assert [record.offset for record in ours.take()] == [40]
    assert ours.next_fetch_offset == 50


def test_a_mark_without_its_kind_is_corrupt() -> None:
    batch = packed([(ProducerRecord(b"\0\0", b""), 0, 0)])
    with pytest.raises(CorruptRecordError, match="a mark without a key"):
        read(changed(batch, attributes=0x30, producer_id=1), **COMMITTED)


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", [0, 1, 2, 3])
def test_formats_of_before_kafka_0_11_are_read_as_kafka_python_reads_them(magic: int, codec: int) -> None:
    if (magic, codec) == (0, 3):
        pytest.skip("that kind of lz4 needs a package that is not there")
    builder = LegacyRecordBatchBuilder(magic, codec, 1 << 20)
    for number in range(5):
        builder.append(number, NOW_MS + number, b"k" if number else None, b"v%d" % number)
    old = bytes(builder.build())
    records, next_offset = kafka_pythons(old, offset=2)
    assert len(records) == 3
    ours = reader(old, packed([(ProducerRecord(None, b"new"), 0, 0)], 0, 5), offset=2)
    *first, last = ours.take()
    assert [(r.offset, r.key, r.value) for r in first] == [(r.offset, r.key, r.value) for r in records]
    assert [r.timestamp_ms for r in first] == [r.timestamp_ms if magic else -1 for r in records]
    assert (next_offset, last.value, ours.next_fetch_offset) == (5, b"new", 6)
    for where in {*range(12, 12 + struct.unpack_from(">i", old, 8)[0])} - {16}:
        broken = old[:where] + bytes([old[where] ^ 0xFF]) + old[where + 1 :]
        with pytest.raises(CorruptRecordError):
            read(broken)


def test_an_old_message_that_would_be_read_for_ever_is_corrupt() -> None:
    builder = LegacyRecordBatchBuilder(1, 0, 1 << 20)
    builder.append(0, NOW_MS, None, b"v")
    inside = bytearray(builder.build())
    struct.pack_into(">i", inside, 8, -12)
    wrapper = LegacyRecordBatchBuilder(1, 0, 1 << 20)
    wrapper.append(0, NOW_MS, None, pack(1, bytes(inside)))
    raw = bytearray(wrapper.build())
    raw[17] = 1
    struct.pack_into(">I", raw, 12, binascii.crc32(raw[16:]))
    with pytest.raises(CorruptRecordError, match="an old message of -12 bytes"):
        read(bytes(raw))


def test_a_fetch_is_cut_anywhere() -> None:
    for size in range(len(SOUND)):
        assert [len(batch) for batch in split(SOUND + SOUND[:size])] == [len(SOUND)]
    for length in (-(1 << 31), -13, -12, 0, 13):
        with pytest.raises(CorruptRecordError):
            [*split(bytes(8) + struct.pack(">i", length) + bytes(60))]
