"""kafka-python's producer, with deadlines of our own.

Invariants:
- A batch that hits its delivery timeout fails only its future, and kafka-python's flush and commit return
  well after it: so `flush` returns only when each batch is done without an error.
- No batch is over the bytes that the producer was made for, unless one record is.
- kafka-python's own commit and abort wait for ever for a coordinator; ours do not.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError

from streamlearn.core.records import TopicPartition as Place
from streamlearn.env import Env
from streamlearn.log.kafka.client import Acknowledged, ClientError, Row
from streamlearn.log.kafka.kafka_python.batch_encoder import (
    BATCH_HEAD,
    EncodedBatch,
    EncodedRecords,
    encode_rows,
    enqueue,
)
from streamlearn.log.kafka.kafka_python.connect import mapped, maps


class PythonProducer:
    """`PlainProducer`, or `TransactionalProducer`, around a connected `KafkaProducer`, whose transactions are
    ready if it has any. `owner`: (-1, -1) without a transactional id.
    """

    def __init__(self, producer: Any, env: Env, batch_bytes: int) -> None:
        self._producer = producer
        self._env = env
        self._accumulator = producer._accumulator
        self._codec = int(self._accumulator.config["compression_attrs"])
        self._room = min(batch_bytes, producer.config["batch_size"]) - BATCH_HEAD
        self._manager = producer._transaction_manager
        mine = self._manager.producer_id_and_epoch
        self.owner = (int(mine.producer_id), int(mine.epoch))
        self._places: dict[Place, TopicPartition] = {}
        self._begun: set[Place] = set()
        self._in_transaction = False
        self._batches: dict[Place, list[EncodedBatch]] = {}

    @maps
    def begin(self) -> None:
        """As `TransactionalProducer.begin`."""
        self._producer.begin_transaction()
        self._begun.clear()
        self._in_transaction = True

    @maps
    def append(self, partition: Place, rows: Sequence[Row]) -> None:
        """As `Producer.append`. All rows of a call have the time of the call."""
        tp = self._places.get(partition)
        if tp is None:
            tp = self._places[partition] = TopicPartition(*partition)
        if self._in_transaction and partition not in self._begun:
            self._manager.maybe_add_partition_to_transaction(tp)
            self._begun.add(partition)
        now_ms = int(self._env.now() * 1000)
        for body, count in encode_rows(rows, self._room):
            batch = EncodedBatch(tp, EncodedRecords(body, count, self._codec, now_ms))
            enqueue(self._accumulator, batch)
            self._batches.setdefault(partition, []).append(batch)

    @maps
    def partition(self, topic: str, key: bytes | None, value: bytes | None) -> int:
        """As `PlainProducer.partition`."""
        return int(self._producer._partition(topic, None, key, value, key, value))

    @maps
    def partitions(self, topic: str) -> int:
        """As `Producer.partitions`."""
        return len(self._producer.partitions_for(topic))

    def flush(self, timeout_s: float) -> dict[Place, Acknowledged]:
        """As `Producer.flush`. Its error carries every reason that a record has."""
        by_partition, self._batches = self._batches, {}
        late: KafkaError | None = None
        try:
            self._producer.flush(timeout=timeout_s)
        except KafkaError as error:
            late = error
        batches = [*chain.from_iterable(by_partition.values())]
        failed = [batch for batch in batches if batch.is_done and batch.errors()]
        if late is not None or failed or not all(batch.is_done for batch in batches):
            # What is said first may only be that the transaction had failed by then, for another's reason.
            raise _failure(failed, self._manager.last_error, late)
        return {partition: _acknowledged(batches) for partition, batches in by_partition.items()}

    @maps
    def commit(self, timeout_s: float) -> None:
        """As `TransactionalProducer.commit`: `commit_transaction()` with a deadline.

        A commit that had to be sent twice may have been taken twice, the second time for the transaction
        after this one, as long as that has the same epoch: so there must be none, and the journal tells.
        """
        manager = self._manager
        with manager._lock:
            committed = manager.begin_commit()
            (request,) = (
                request_ for *_, request_ in manager._pending_requests if request_.result is committed
            )
        self._producer._sender.wakeup()
        if not committed.wait(timeout_ms=timeout_s * 1000):
            raise KafkaTimeoutError(f"the commit was not acknowledged within {timeout_s:.0f} s")
        if request.is_retry:
            raise KafkaTimeoutError("the commit had to be sent again, and may be taken twice")

    @maps
    def abort(self, timeout_s: float) -> None:
        """As `TransactionalProducer.abort`."""
        aborted = self._manager.begin_abort()
        self._producer._sender.wakeup()
        aborted.wait(timeout_ms=timeout_s * 1000)

    def destroy(self) -> None:
        """As `Producer.destroy`."""
        destroy(self._producer)


def destroy(producer: Any) -> None:
    """Stop a `KafkaProducer` so that it can send nothing more.

    A plain `close(timeout=0)` raises before it stops the sender, which later fences the new owner.
    """
    producer._sender.force_close()
    try:
        producer.close(timeout=0)
    except KafkaError:
        # It only says that records were left, which is the point; without this mark the garbage
        # collector would close it once more, and wait.
        producer._closed = True


def _acknowledged(batches: Sequence[EncodedBatch]) -> Acknowledged:
    """The offsets of the batches of one partition. Raises `ClientError` when a broker does not tell them."""
    offsets = [batch.offsets() for batch in batches]
    if min(offsets)[0] < 0:  # so it answers a batch that it took long before
        raise ClientError(f"{batches[0].topic_partition} was acknowledged without offsets", retriable=True)
    return Acknowledged(offsets[0][0], offsets[-1][1])


def _failure(failed: Sequence[EncodedBatch], *others: BaseException | None) -> ClientError:
    """One error for `failed` batches and `others`, each of which counts once: the first that fences, else the
    first.
    """
    if over := [batch for batch in failed if batch.is_over_a_lowered_limit]:
        # A new producer makes smaller ones, so that this is no refusal.
        where = "{}-{}".format(*over[0].topic_partition)
        return ClientError(f"a batch for {where} is over a limit that was lowered", retriable=True)
    exceptions = filter(None, [*chain.from_iterable(map(EncodedBatch.errors, failed)), *others])
    unique = {(type(error), str(error)): error for error in exceptions}
    reasons = [mapped(exception) for exception in unique.values()]
    if not reasons:
        reasons = [mapped(KafkaTimeoutError("a record was not acknowledged in time"))]
    first = next((reason for reason in reasons if reason.fenced), reasons[0])
    return ClientError(
        str(first),
        first.code,
        first.name,
        retriable=first.retriable,
        carried=[*first.carried, *reasons],
        topics=frozenset(batch.topic_partition.topic for batch in failed),
    )
