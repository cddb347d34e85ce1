"""librdkafka's transactional producer, with deadlines of our own.

Invariants:
- The first and the last row of an append are reported, one by one; of the others librdkafka itself knows, and
  refuses to commit a transaction of which any record failed.
- A commit during which a connection broke is of unknown outcome, whatever was answered: librdkafka sends it
  again by itself, and the first one may arrive later, in the transaction after it.
- Names of headers that are no UTF-8 it cannot send. Then `odd_names` is told, and a `ClientError` raised: the
  shard is opened again, with another producer.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from streamlearn.core.records import Headers
from streamlearn.core.records import TopicPartition as Place
from streamlearn.env import Env
from streamlearn.log.kafka.client import Acknowledged, ClientError, Code, Row
from streamlearn.log.kafka.confluent.connect import LibraryLog, end, mapped, maps

_Reports = dict[int, KafkaError | int]
"""By number of a row of a partition: its error, or its offset."""


class ConfluentProducer:
    """`TransactionalProducer` around a librdkafka producer whose transactions are ready."""

    def __init__(
        self,
        producer: Any,
        env: Env,
        said: LibraryLog,
        owner: Callable[[], tuple[int, int]],
        odd_names: Callable[[], object],
    ) -> None:
        """`owner`: asks who took the transactional id last."""
        self._producer = producer
        self._env = env
        self._said = said
        self._ask_owner = owner
        self._odd_names = odd_names
        self._rows: dict[Place, int] = {}
        self._reports: dict[Place, _Reports] = {}
        self.owner = owner()

    @maps
    def begin(self) -> None:
        """As `TransactionalProducer.begin`."""
        self._producer.begin_transaction()

    @maps
    def append(self, partition: Place, rows: Sequence[Row]) -> None:
        """As `Producer.append`. All rows of a call have the time of the call."""
        if not rows:
            return
        topic, index = partition
        reports = self._reports.setdefault(partition, {})
        first = self._rows.get(partition, 0)
        self._rows[partition] = first + len(rows)
        now_ms = int(self._env.now() * 1000)
        produce, last = self._producer.produce, len(rows) - 1
        for number, row in enumerate(rows):
            report = partial(_note, reports, first + number) if number in (0, last) else None
            if row.headers:
                headers = self._sendable(row.headers)
                produce(topic, row.value, row.key, index, report, None, now_ms, headers)
            else:
                produce(topic, row.value, row.key, index, report, None, now_ms)

    def _sendable(self, headers: Headers) -> list[tuple[str, bytes | None]]:
        """The headers, if librdkafka can send them as they are."""
        for name, _ in headers:
            if "\0" in name or not (name.isascii() or _is_text(name)):
                self._odd_names()
                raise ClientError(
                    f"librdkafka cannot send the header {name!a}; it is sent by kafka-python, after the "
                    "shard was opened again",
                    retriable=True,
                )
        return [*headers]

    def flush(self, timeout_s: float) -> dict[Place, Acknowledged]:
        """As `Producer.flush`."""
        rows, self._rows = self._rows, {}
        reports, self._reports = self._reports, {}
        waiting = self._flush(timeout_s)
        failed = {
            partition: errors
            for partition, by_row in reports.items()
            if (errors := [report for report in by_row.values() if isinstance(report, KafkaError)])
        }
        if waiting or failed:
            raise self._failure(failed, rows)
        return {
            partition: _acknowledged(partition, reports[partition], count)
            for partition, count in rows.items()
        }

    @maps
    def _flush(self, timeout_s: float) -> int:
        """The number of records that still wait."""
        return int(self._producer.flush(timeout_s))

    @maps
    def commit(self, timeout_s: float) -> None:
        """As `TransactionalProducer.commit`."""
        self._producer.poll(0)  # what broke before is no matter
        before = self._said.failures
        self._producer.commit_transaction(timeout_s)
        self._producer.poll(0)
        if self._said.failures != before:
            raise ClientError(
                f"a connection broke ({self._said.last}): the commit may have had to be sent again, and may "
                "be taken twice",
                retriable=True,
            )

    @maps
    def abort(self, timeout_s: float) -> None:
        """As `TransactionalProducer.abort`. librdkafka may take a new epoch for it."""
        self._producer.abort_transaction(timeout_s)
        self.owner = self._ask_owner()

    def destroy(self) -> None:
        """As `Producer.destroy`."""
        producer, self._producer = [self._producer], None
        if producer[0] is not None:
            end(self._env, "kafka.producer.end", producer, _purge)

    def _failure(self, failed: dict[Place, list[KafkaError]], rows: dict[Place, int]) -> ClientError:
        """One error for all that failed: the first that fences, else the first."""
        for partition, errors in failed.items():
            if rows[partition] > 1 and any(error.code() == Code.MESSAGE_TOO_LARGE for error in errors):
                # Each row alone was under the limit: a new producer makes smaller batches, no refusal.
                where = "{}-{}".format(*partition)
                return ClientError(f"a batch for {where} is over a limit that was lowered", retriable=True)
        unique = {error.code(): error for errors in failed.values() for error in errors}
        if self._said.of_transaction is not None:
            unique = {self._said.of_transaction.code(): self._said.of_transaction, **unique}
        reasons = [mapped(error) for error in unique.values()]
        if not reasons:
            reasons = [ClientError("a record was not acknowledged in time", retriable=True)]
        first = next((reason for reason in reasons if reason.fenced), reasons[0])
        topics = frozenset(topic for topic, _ in failed)
        return ClientError(
            str(first), first.code, first.name, retriable=first.retriable, carried=reasons, topics=topics
        )


def _note(reports: _Reports, number: int, error: KafkaError | None, message: Any) -> None:
    """Take the report of a row."""
    reports[number] = message.offset() if error is None else error


def _acknowledged(partition: Place, reports: _Reports, count: int) -> Acknowledged:
    """The offsets of the first and the last of `count` rows. Raises `ClientError` when they are not told."""
    first, last = reports.get(0), reports.get(count - 1)
    if not isinstance(first, int) or not isinstance(last, int) or min(first, last) < 0:
        raise ClientError(f"{partition} was acknowledged without offsets", retriable=True)
    return Acknowledged(first, last)


def _is_text(name: str) -> bool:
    """True when a name has UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _purge(producer: Any) -> None:
    """Let a producer send nothing more."""
    try:
        producer.purge(blocking=False)
    except KafkaException:
        producer.poll(0)
