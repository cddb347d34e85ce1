"""Batches that unpack to more than a machine has: one dead letter, and what comes after is read."""

import tracemalloc

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords

from streamlearn.core.records import UNREADABLE_HEADER, Record
from streamlearn.log.kafka.kafka_python import batch_parser
from streamlearn.log.kafka.kafka_python import records as kafka_records
from streamlearn.log.kafka.kafka_python.batch_parser import UNPACKED_RECORDS
from streamlearn.log.kafka.kafka_python.codecs import UNPACKED_BYTES, TooLargeInsideError, unpack
from streamlearn.log.kafka.kafka_python.records import PartitionRecords
from tests.service_process import Apps, apps

__all__ = ["apps"]

CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


def batch(codec: int, values: list[bytes]) -> bytes:
    builder = DefaultRecordBatchBuilder(2, codec, False, -1, -1, -1, 1 << 40)
    for offset, value in enumerate(values):
        builder.append(offset, 0, None, value, [])
    return bytes(builder.build())


def read(*batches: bytes) -> list[Record]:
    return PartitionRecords(0, TopicPartition("t", 0), MemoryRecords(b"".join(batches))).take()


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_packed_honestly_comes_back(codec: str) -> None:
    values = [b"%d" % n * n for n in range(2000)]
    assert [record.value for record in read(batch(CODECS[codec], values))] == values


@pytest.mark.parametrize("codec", CODECS)
def test_a_batch_that_is_too_large_inside_is_one_record_that_says_so(codec: str) -> None:
    bomb = batch(CODECS[codec], [bytes(UNPACKED_BYTES * 4)])
    tracemalloc.start()
    (record, *_), after = read(bomb), read(bomb, batch(0, [b"good"]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (record.offset, record.key, record.value) == (0, None, b"")
    assert record.headers[0][0] == UNREADABLE_HEADER
    assert after[-1].value == b"good"
    assert peak < UNPACKED_BYTES * 2


def test_so_is_one_of_very_many_records(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (kafka_records, batch_parser):
        monkeypatch.setattr(module, "UNPACKED_RECORDS", 99)
    (record,) = read(batch(4, [b""] * 100))
    assert (record.offset, record.value) == (99, b"")
    assert len(read(batch(4, [b""] * 99))) == 99
    assert UNPACKED_RECORDS * 7 < UNPACKED_BYTES


def test_batches_beyond_the_bound_are_left_for_the_next_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_records, "UNPACKED_BYTES", 1000)
    assert [
        record.value[:1] for record in read(*(batch(4, [name * 600]) for name in (b"a", b"b", b"c")))
    ] == [
        b"a",
        b"b",
    ]


@pytest.mark.parametrize("codec", CODECS)
def test_what_does_not_unpack_is_corrupt(codec: str) -> None:
    whole = batch(CODECS[codec], [bytes(100_000)])[61:]
    with pytest.raises(CorruptRecordError):
        unpack(CODECS[codec], b"\x28garbage" + whole)
    if codec != "zstd":  # whose reader gives what there is; then a record is cut short
        with pytest.raises(CorruptRecordError):
            unpack(CODECS[codec], whole[:-3])


def test_the_bound_is_inclusive() -> None:
    whole = batch(1, [b""])  # only to have a batch: what counts is unpacked here
    assert whole
    import gzip

    assert len(unpack(1, gzip.compress(bytes(UNPACKED_BYTES)))) == UNPACKED_BYTES
    with pytest.raises(TooLargeInsideError):
        unpack(1, gzip.compress(bytes(UNPACKED_BYTES + 1)))


@pytest.mark.kafka
def test_a_service_makes_it_a_dead_letter_and_goes_on(apps: Apps, kafka: str) -> None:
    app = apps(kafka, **{"checkpoint.interval_s": 3600})
    event = b'{"id":"e","features":{"a":1},"label":true}'
    app.produce([event])
    producer = KafkaProducer(
        bootstrap_servers=kafka, compression_type="zstd", max_request_size=1 << 31, batch_size=1 << 30
    )
    producer.send(app.inputs[0], bytes(UNPACKED_BYTES + 1000)).get(60)
    producer.close()
    app.produce([event])
    process = app.serve()
    app.wait(process, 3)
    process.kill()
    process.wait()
    app.produce([event])
    process = app.serve()
    app.wait(process, 4)
    app.stop(process)
    (letter,) = app.dead_letters()
    headers = dict(letter.headers)
    assert headers["__connect.errors.exception.class.name"] == b"streamlearn.unreadable"
    assert headers["__connect.errors.offset"] == b"1"
    assert b"unpack to more than" in (headers[UNREADABLE_HEADER] or b"")
