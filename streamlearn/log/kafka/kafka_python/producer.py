"""kafka-python's producer, with deadlines of our own.

Invariants:
- A batch that hits its delivery timeout fails only its futures, and flush and commit return well after it:
  so `flush` returns only when each future is done without an error.
- kafka-python's own commit and abort wait for ever for a coordinator; ours do not.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError

from streamlearn.core.records import Headers
from streamlearn.core.records import TopicPartition as Place
from streamlearn.log.kafka.client import Acknowledged, ClientError, Row
from streamlearn.log.kafka.kafka_python.connect import mapped, maps
from streamlearn.log.kafka.kafka_python.records import for_client


class _NullHeaders(tuple[Any, ...]):
    """Headers of which a value is null. The protocol and kafka-python's encoder know them; only a statistic
    of sizes fails on them, and that is left out for headers that are false.
    """

    __slots__ = ()

    def __bool__(self) -> bool:
        return False


def _headers(row: Row) -> Headers:
    """The headers of a row, as kafka-python encodes them."""
    headers = for_client(row.headers)
    if any(data is None for _, data in headers):
        return _NullHeaders(headers)
    return headers


class PythonProducer:
    """`Producer` around a connected `KafkaProducer`, whose transactions are ready if it has any."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self._append = producer._accumulator.append
        self._manager = producer._transaction_manager
        mine = self._manager.producer_id_and_epoch
        self.owner = (int(mine.producer_id), int(mine.epoch))
        self._places: dict[Place, TopicPartition] = {}
        self._begun: set[Place] = set()
        self._in_transaction = False
        self._futures: dict[Place, list[Any]] = {}

    @maps
    def begin(self) -> None:
        """As `Producer.begin`."""
        self._producer.begin_transaction()
        self._begun.clear()
        self._in_transaction = True

    def append(self, partition: Place, rows: Sequence[Row]) -> None:
        """As `Producer.append`.

        `KafkaProducer.send` refuses null headers, and a null key with a null value, which Kafka allows and
        dead letters need; it also checks for each record what is checked here once per transaction.
        """
        tp = self._places.get(partition)
        if tp is None:
            tp = self._places[partition] = TopicPartition(*partition)
        futures = self._futures.setdefault(partition, [])
        try:
            if self._in_transaction and partition not in self._begun:
                self._manager.maybe_add_partition_to_transaction(tp)
                self._begun.add(partition)
            for row in rows:
                futures.append(self._append(tp, None, row.key, row.value, _headers(row))[0])
        except KafkaError as error:
            raise mapped(error) from error

    @maps
    def partition(self, topic: str, key: bytes | None, value: bytes | None) -> int:
        """As `Producer.partition`."""
        return int(self._producer._partition(topic, None, key, value, key, value))

    @maps
    def partitions(self, topic: str) -> int:
        """As `Producer.partitions`."""
        return len(self._producer.partitions_for(topic))

    def flush(self, timeout_s: float) -> dict[Place, Acknowledged]:
        """As `Producer.flush`. Its error carries every reason that a record has."""
        by_partition, self._futures = self._futures, {}
        late: KafkaError | None = None
        try:
            self._producer.flush(timeout=timeout_s)
        except KafkaError as error:
            late = error
        every = [*chain.from_iterable(by_partition.values())]
        failed = [future for future in every if future.exception is not None]
        if late is None and not failed and all(future.is_done for future in every):
            return {
                partition: Acknowledged(int(futures[0].value.offset), int(futures[-1].value.offset))
                for partition, futures in by_partition.items()
            }
        # What is said first may only be that the transaction had failed by then, for another batch's reason.
        raise _failure(failed, self._manager.last_error, late)

    @maps
    def commit(self, timeout_s: float) -> None:
        """As `Producer.commit`: `commit_transaction()` with a deadline.

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
        """As `Producer.abort`."""
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


def _failure(failed: Sequence[Any], *others: BaseException | None) -> ClientError:
    """One error for `failed` futures and `others`, each of which counts once: the first that fences, else the
    first.
    """
    exceptions = [*(future.exception for future in failed), *others]
    unique = {id(exception): exception for exception in exceptions if exception is not None}
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
        topics=frozenset(future._produce_future.topic_partition.topic for future in failed),
    )
