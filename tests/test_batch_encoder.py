"""Batches that we encode ourselves: the bytes of kafka-python's builder, and what its sender asks of them."""

import itertools
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.errors import IllegalStateError, KafkaError, MessageSizeTooLargeError, RecordListTooLargeError
from kafka.producer.record_accumulator import RecordAccumulator
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords

from streamlearn.log.kafka.kafka_python.batch_encoder import (
    BATCH_HEAD,
    EncodedBatch,
    EncodedRecords,
    encode_rows,
    enqueue,
)
from streamlearn.log.port import ProducerRecord

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
MANY = 1 << 40
NOW_MS = 1_700_000_000_000

data = st.none() | st.binary(max_size=300) | st.integers(8180, 8200).map(bytes)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
rows = st.builds(ProducerRecord, data, data, st.lists(st.tuples(names, data), max_size=3).map(tuple))


def encoded(records: list[ProducerRecord], room: int = MANY, codec: int = 0) -> list[EncodedRecords]:
    return [EncodedRecords(body, count, codec, NOW_MS) for body, count in encode_rows(records, room)]


def sent(batch: EncodedRecords, transactional: bool = True) -> bytes:
    batch.set_producer_state(7, 3, 11, transactional)
    batch.close()
    return batch.buffer()


def contents(*batches: bytes) -> list[tuple[Any, ...]]:
    """What kafka-python reads, with the offsets that a broker would give."""
    read: list[tuple[Any, ...]] = []
    for raw in batches:
        batch = MemoryRecords(raw).next_batch()
        assert batch.validate_crc()
        first = len(read)
        for record in batch:
            assert record.timestamp == NOW_MS
            read.append((first + record.offset, record.key, record.value, tuple(record.headers)))
        assert batch.last_offset_delta == len(read) - first - 1
    return read


def told(records: list[ProducerRecord]) -> list[tuple[Any, ...]]:
    return [(n, row.key, row.value, row.headers) for n, row in enumerate(records)]


@given(st.lists(rows, min_size=1, max_size=20), st.booleans())
def test_a_batch_has_the_bytes_that_kafka_pythons_own_builder_makes(
    records: list[ProducerRecord], transactional: bool
) -> None:
    builder = DefaultRecordBatchBuilder(2, 0, transactional, 7, 3, 11, MANY)
    for number, row in enumerate(records):
        builder.append(number, NOW_MS, row.key, row.value, row.headers)
    (batch,) = encoded(records)
    assert sent(batch, transactional) == builder.build()
    assert batch.size_in_bytes() == len(batch.buffer())


@settings(max_examples=50)
@given(st.lists(rows, min_size=1, max_size=20), st.sampled_from([*CODECS]), st.integers(1, 20_000))
def test_what_is_packed_and_cut_is_read_as_it_was(
    records: list[ProducerRecord], codec: str, room: int
) -> None:
    batches = encoded(records, room, CODECS[codec])
    assert contents(*map(sent, batches)) == told(records)


@settings(max_examples=50)
@given(st.lists(rows, min_size=1, max_size=20), st.integers(1, 20_000))
@example([ProducerRecord(None, b"x" * n) for n in range(60)], 500)
def test_a_batch_is_within_its_room_unless_one_record_is_not(
    records: list[ProducerRecord], room: int
) -> None:
    batches = encoded(records, room)
    sizes = [batch.size_in_bytes() - BATCH_HEAD for batch in batches]
    assert sizes == [len(sent(batch)) - BATCH_HEAD for batch in batches]
    assert all(size <= room for size, batch in zip(sizes, batches, strict=True) if batch.next_offset() > 1)
    for before, after in itertools.pairwise(range(len(batches))):
        first_of_next = sizes[after] if batches[after].next_offset() == 1 else MANY
        assert sizes[before] + first_of_next > room - 12, "one batch would have done"


def test_rows_that_fit_into_one_batch_are_one_batch() -> None:
    records = [ProducerRecord(None, b"x" * 50)] * 100
    (batch,) = encoded(records)
    size = batch.size_in_bytes() - BATCH_HEAD
    assert [len(encoded(records, room)) for room in (size - 1, size + 12)] == [2, 1]


def test_a_batch_of_very_many_records_numbers_them_all() -> None:
    records = [ProducerRecord(None, b"%d" % n) for n in range(20_000)]
    (batch,) = encoded(records)
    assert contents(sent(batch)) == told(records)


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec != "none"])
def test_packing_makes_a_batch_smaller_or_is_left_alone(codec: str) -> None:
    (small,) = encoded([ProducerRecord(None, bytes(10_000))], MANY, CODECS[codec])
    assert small.size_in_bytes() < 1000
    (same,) = encoded([ProducerRecord(None, b"\x00")], MANY, CODECS[codec])
    assert sent(same) == sent(encoded([ProducerRecord(None, b"\x00")])[0])


def test_a_retry_sends_the_same_bytes_with_the_same_sequence_number() -> None:
    (batch,) = encoded([ProducerRecord(None, b"x")])
    before = sent(batch)
    batch.close()
    assert batch.buffer() is before
    with pytest.raises(IllegalStateError):
        batch.set_producer_state(8, 0, 0, True)


def queued(count: int) -> tuple[RecordAccumulator, EncodedBatch]:
    accumulator = RecordAccumulator()
    (records,) = encoded([ProducerRecord(None, b"x")] * count)
    batch = EncodedBatch(TopicPartition("t", 0), records)
    enqueue(accumulator, batch)
    return accumulator, batch


def test_a_closed_producer_takes_no_batch() -> None:
    accumulator, batch = queued(1)
    accumulator.close()
    with pytest.raises(IllegalStateError):
        enqueue(accumulator, batch)


def test_a_producer_that_is_stopped_fails_what_was_not_sent() -> None:
    accumulator, batch = queued(3)
    accumulator.abort_incomplete_batches()
    assert batch.is_done
    assert [type(error) for error in batch.errors()] == [IllegalStateError] * 3
    assert not accumulator.has_incomplete


def test_a_batch_that_is_done_tells_its_offsets_or_its_errors() -> None:
    _, batch = queued(3)
    batch.complete(40, -1)
    assert batch.errors() == []
    assert (batch.offsets(), batch.record_count) == ((40, 42), 3)
    _, batch = queued(3)
    reasons: list[KafkaError] = [KafkaError("first"), KafkaError("second"), KafkaError("third")]
    batch.complete_exceptionally(reasons[0], reasons.__getitem__)
    assert batch.errors() == reasons


@pytest.mark.parametrize("error", [MessageSizeTooLargeError, RecordListTooLargeError])
def test_a_batch_that_is_too_large_is_never_split(error: type[KafkaError]) -> None:
    """As `Sender._can_split` decides: the halves would be acknowledged to nobody."""
    _, batch = queued(3)
    assert batch.record_count <= 1
    batch.complete_exceptionally(error(), lambda _: error())
    assert batch.is_over_a_lowered_limit == (error is MessageSizeTooLargeError)
    _, batch = queued(1)
    batch.complete_exceptionally(error(), lambda _: error())
    assert not batch.is_over_a_lowered_limit
