"""The lock of one shard on Kafka, and all that is written under it: a transactional producer.

Invariants:
- Making a writer fences every earlier one of its transactional id.
- A transaction is committed only after the flush *and* every single future succeeded: flush and commit do
  not tell of a batch that timed out.
- What the broker has refused before the commit was asked for is a `Stop`; of every other error after the
  begin nobody knows the outcome but the journal: `Unknown`, or `Fenced` when the error says so.
- A writer that showed any error is destroyed, never reused, and raises the same again.
- Every wait has a deadline of its own; a client's commit may wait for ever for a coordinator.
"""

from collections.abc import Mapping, Sequence

import structlog

from streamlearn.core.journal import CLAIM_KEY, encode_claim
from streamlearn.core.records import TopicPartition, headers_bytes
from streamlearn.errors import ConfigError, Fenced, Stop, Unknown, Unreachable
from streamlearn.log.kafka.client import (
    CONNECT_S,
    FRAME_BYTES,
    Client,
    ClientError,
    Row,
    TransactionalProducer,
)
from streamlearn.log.kafka.cluster import Cluster
from streamlearn.log.kafka.errors import explained, refusal
from streamlearn.log.port import ProducerRecord

_COMMIT_S = 10.0
_ABORT_S = 2.0

PlacedRows = Sequence[tuple[TopicPartition, Sequence[Row]]]

_log = structlog.get_logger()


class Transactions:
    """The newest producer of one transactional id.

    `limits`: the topics that are written to, each with its `max.message.bytes`, which Kafka compares with
    whole batches. A batch that is over it would be split by the client, whose flush does not wait for the
    halves: so no batch may be.
    """

    def __init__(
        self, client: Client, cluster: Cluster, transactional_id: str, limits: Mapping[str, int]
    ) -> None:
        self._cluster = cluster
        self._id = transactional_id
        self._limits = {topic: limit - FRAME_BYTES for topic, limit in limits.items()}
        self._lost: Fenced | Unknown | Stop | None = None
        self._producer: TransactionalProducer | None = self._fence(client)
        self._epoch = self._producer.owner

    def check(self, topic: str, rows: Sequence[Row]) -> None:
        """Refuse a record that the broker would refuse, while that costs nothing yet."""
        limit = self._limits[topic]
        for row in rows:
            size = len(row.value or b"") + len(row.key or b"")
            if row.headers:
                size += headers_bytes(row.headers)
            if size > limit:
                raise Stop(
                    f"A record of {size} bytes for {topic} is over its max.message.bytes "
                    f"({limit + FRAME_BYTES}). Raise that setting of the topic, then start again."
                )

    def commit(self, rows: PlacedRows) -> int:
        """Commit `rows`, by partition, as one transaction; returns the offset of the last partition's last.

        Raises `Fenced`, `Unknown` or `Stop`.
        """
        if self._lost is not None:
            raise self._lost
        assert self._producer is not None, "a closed writer publishes nothing"
        try:
            return self._transact(self._producer, rows)
        except ClientError as error:
            self.close()
            self._lost = Fenced(f"a newer owner: {error}") if error.fenced else Unknown(str(error))
            raise self._lost from error
        except Stop as error:
            newer = self.newer_owner()
            self._lost = Fenced(newer) if newer else error
            raise self._lost from error.__cause__
        except BaseException:
            self.close()
            raise

    def claim(self, journal: TopicPartition) -> int:
        """Commit this owner's claim, which is no entry; returns its offset. Raises as `commit` does."""
        return self.note(journal, CLAIM_KEY, encode_claim(self._id, self._epoch[1]))

    def note(self, journal: TopicPartition, key: bytes, value: bytes | None) -> int:
        """Commit what is no entry to the journal; returns its offset. Raises as `commit` does."""
        return self.commit([(journal, [ProducerRecord(key, value)])])

    def newer_owner(self) -> str:
        """As `ShardLog.newer_owner`. Kafka itself takes the lock away from a transaction that stays open for
        too long; then nobody may hold it, and opening the shard again is right as well. Who may not ask would
        try for ever: that is a `ConfigError`.
        """
        overtaken = str(self._lost) if isinstance(self._lost, Fenced) else ""
        try:
            producer_id, epoch = self._cluster.transaction_owner(self._id)
        except (Unreachable, Stop) as error:
            return overtaken or f"unknown: {error}"
        except ConfigError:
            if overtaken:
                return overtaken
            raise
        if (producer_id, epoch) == self._epoch:
            return overtaken
        return "producer id {}, epoch {}; ours was {}, {}".format(producer_id, epoch, *self._epoch)

    def close(self) -> None:
        """Stop the producer so that it can send nothing more. Kafka aborts what it left open."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.destroy()

    def _fence(self, client: Client) -> TransactionalProducer:
        """A new producer that has fenced every earlier one and settled its open transaction."""
        try:
            return client.fence(
                self._id,
                list(self._limits),
                batch_bytes=min(self._limits.values()),
                request_bytes=max(self._limits.values()) + FRAME_BYTES,
            )
        except ClientError as error:
            if error.fenced:
                raise Fenced(f"{self._id} was taken over while it was opened: {error}") from error
            raise explained(client.bootstrap, f"fencing with {self._id}", error) from error

    def _transact(self, producer: TransactionalProducer, rows: PlacedRows) -> int:
        """One transaction. Raises `ClientError`, or `Stop` for a refusal."""
        producer.begin()
        for partition, batch in rows:
            producer.append(partition, batch)
        try:
            acknowledged = producer.flush(CONNECT_S)
        except ClientError as error:
            if not error.fenced and (stop := refusal(error.topics or self._limits, [error])):
                self._abort(producer)
                raise stop from error
            raise
        producer.commit(_COMMIT_S)
        return acknowledged[rows[-1][0]].last

    def _abort(self, producer: TransactionalProducer) -> None:
        """Let nobody wait behind what was refused. What fails here Kafka does by itself, somewhat later."""
        try:
            producer.abort(_ABORT_S)
            self._epoch = producer.owner
        except ClientError as error:
            _log.debug("transaction.not_aborted", transactional_id=self._id, reason=str(error))
        self.close()
