"""The lock of one shard on Kafka, and all that is written under it: a transactional producer.

Invariants:
- Making a writer fences every earlier one of its transactional id.
- A transaction is committed only after the flush *and* every single future succeeded: flush and commit do
  not tell of a batch that timed out.
- What the broker has refused before the commit was asked for is a `Stop`; of every other error after the
  begin nobody knows the outcome but the journal: `Unknown`, or `Fenced` when the error says so.
- A writer that showed any error is destroyed, never reused, and raises the same again.
- Every wait has a deadline of its own; kafka-python's commit would wait for ever for a coordinator.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import structlog
from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError

from streamlearn.core.codec import headers_bytes
from streamlearn.core.records import Headers
from streamlearn.errors import Fenced, Stop, Unknown, Unreachable
from streamlearn.log.kafka.admin import Cluster
from streamlearn.log.kafka.client import (
    BATCH_BYTES,
    CONNECT_S,
    FRAME_BYTES,
    append,
    connect,
    destroy,
    explained,
    fenced,
)
from streamlearn.log.kafka.refusals import refusal

_FLUSH_S = 12.0
_COMMIT_S = 10.0
_ABORT_S = 2.0
_TRANSACTION_MS = 20000

_log = structlog.get_logger()


class Writer:
    """The newest producer of one transactional id.

    `limits`: the topics that are written to, each with its `max.message.bytes`, which Kafka compares with
    whole batches. A batch that is over it would be split by the client, whose flush does not wait for the
    halves: so no batch may be.
    """

    def __init__(
        self, cluster: Cluster, options: Mapping[str, Any], transactional_id: str, limits: Mapping[str, int]
    ) -> None:
        self._cluster = cluster
        self._id = transactional_id
        self._limits = {topic: limit - FRAME_BYTES for topic, limit in limits.items()}
        self._lost: Fenced | Unknown | Stop | None = None
        self._producer: Any = self._fence(options)
        mine = self._producer._transaction_manager.producer_id_and_epoch
        self._epoch = (int(mine.producer_id), int(mine.epoch))

    def check(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        """Refuse a record that the broker would refuse, while that costs nothing yet."""
        size = (len(key) if key else 0) + (len(value) if value else 0)
        if headers:
            size += headers_bytes(headers)
        if size > self._limits[topic]:
            raise Stop(
                f"A record of {size} bytes for {topic} is over its max.message.bytes "
                f"({self._limits[topic] + FRAME_BYTES}). Raise that setting of the topic, then start again."
            )

    def commit(self, rows: Iterable[tuple[Any, bytes | None, bytes | None, Headers]]) -> int:
        """Commit `rows` (place, key, value, headers) as one transaction; returns the offset of the last one.

        Raises `Fenced`, `Unknown` or `Stop`.
        """
        if self._lost is not None:
            raise self._lost
        try:
            return self._transact(rows)
        except KafkaError as error:
            self.close()
            self._lost = Fenced(f"a newer owner: {error}") if fenced(error) else Unknown(str(error))
            raise self._lost from error
        except Stop as error:
            newer = self.newer_owner()
            self._lost = Fenced(newer) if newer else error
            raise self._lost from error.__cause__
        except BaseException:
            self.close()
            raise

    def newer_owner(self) -> str:
        """As `ShardLog.newer_owner`. Kafka itself takes the lock away from a transaction that stays open for
        too long; then nobody may hold it, and opening the shard again is right as well. Who may not ask would
        try for ever: that is a `ConfigError`.
        """
        if isinstance(self._lost, Fenced):
            return str(self._lost)
        try:
            producer_id, epoch = self._cluster.transaction_owner(self._id)
        except (Unreachable, Stop) as error:
            return f"unknown: {error}"
        if (producer_id, epoch) == self._epoch:
            return ""
        return "producer id {}, epoch {}; ours was {}, {}".format(producer_id, epoch, *self._epoch)

    def close(self) -> None:
        """Stop the producer so that it can send nothing more. Kafka aborts what it left open."""
        producer, self._producer = self._producer, None
        if producer is not None:
            destroy(producer)

    def _fence(self, options: Mapping[str, Any]) -> Any:
        """A new producer that has fenced every earlier one and settled its open transaction."""
        producer = connect(
            KafkaProducer,
            self._cluster.bootstrap,
            options,
            transactional_id=self._id,
            # A newer protocol lets a zombie's send bump the epoch, which fences the live owner.
            api_version=(2, 4),
            transaction_timeout_ms=_TRANSACTION_MS,
            delivery_timeout_ms=int(_FLUSH_S * 1000),
            max_block_ms=int(CONNECT_S * 1000),
            max_request_size=max(self._limits.values()) + FRAME_BYTES,
            batch_size=min(BATCH_BYTES, *self._limits.values()),
            linger_ms=1000,  # the flush at the end of each transaction sends at once what is there
        )
        try:
            for topic in self._limits:
                producer._sender.add_topic(topic)  # one request for all, beside the next call
            producer.init_transactions()
            for topic in self._limits:
                producer.partitions_for(topic)
        except KafkaError as error:
            destroy(producer)
            if fenced(error):
                raise Fenced(f"{self._id} was taken over while it was opened: {error}") from error
            raise explained(self._cluster.bootstrap, f"fencing with {self._id}", error) from error
        return producer

    def _transact(self, rows: Iterable[tuple[Any, bytes | None, bytes | None, Headers]]) -> int:
        """One transaction. Raises `KafkaError`, or `Stop` for a refusal."""
        producer = self._producer
        producer.begin_transaction()
        manager = producer._transaction_manager
        begun: set[Any] = set()
        futures = []
        for place, key, value, headers in rows:
            if place not in begun:
                manager.maybe_add_partition_to_transaction(place)
                begun.add(place)
            futures.append(append(producer, place, key, value, headers))
        self._flush(futures)
        self._end()
        return int(futures[-1].value.offset)

    def _flush(self, futures: Sequence[Any]) -> None:
        """Return when every record was acknowledged."""
        producer = self._producer
        late: KafkaError | None = None
        try:
            producer.flush(timeout=_FLUSH_S)
        except KafkaError as error:
            late = error
        failed = [future for future in futures if future.exception is not None]
        if late is None and not failed and all(future.is_done for future in futures):
            return
        # What is said first may only be that the transaction had failed by then, for another batch's reason.
        reasons = [*(future.exception for future in failed), producer._transaction_manager.last_error, late]
        for reason in reasons:
            if fenced(reason):
                raise reason
        topics = {future._produce_future.topic_partition.topic for future in failed} or self._limits
        if stop := refusal(topics, reasons):
            self._abort()
            raise stop from failed[0].exception if failed else late
        reason = next((reason for reason in reasons if reason is not None), None)
        raise reason or KafkaTimeoutError("a record was not acknowledged in time")

    def _end(self) -> None:
        """Ask for the commit and wait for it: `commit_transaction()` with a deadline.

        A commit that had to be sent twice may have been taken twice, the second time for the transaction
        after this one, as long as that has the same epoch: so there must be none, and the journal tells.
        """
        manager = self._producer._transaction_manager
        with manager._lock:
            committed = manager.begin_commit()
            (request,) = (one for *_, one in manager._pending_requests if one.result is committed)
        self._producer._sender.wakeup()
        if not committed.wait(timeout_ms=_COMMIT_S * 1000):
            raise KafkaTimeoutError(f"the commit was not acknowledged within {_COMMIT_S:.0f} s")
        if request.is_retry:
            raise KafkaTimeoutError("the commit had to be sent again, and may be taken twice")

    def _abort(self) -> None:
        """Let nobody wait behind what was refused. What fails here Kafka does by itself, somewhat later."""
        producer = self._producer
        try:
            aborted = producer._transaction_manager.begin_abort()
            producer._sender.wakeup()
            aborted.wait(timeout_ms=_ABORT_S * 1000)
        except KafkaError as error:
            _log.debug("transaction.not_aborted", transactional_id=self._id, reason=str(error))
        self.close()
