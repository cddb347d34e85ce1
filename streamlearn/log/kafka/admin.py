"""Questions to a Kafka cluster (`Cluster`) and what the command line does to it (`KafkaAdmin`).

Invariants:
- Every question has a deadline; while a cluster moves (elections, restarts) it is asked again until then.
- `append` returns only when every single record was acknowledged by all in-sync replicas.
"""

from collections.abc import Iterable, Mapping, Sequence

import structlog

from streamlearn.core.records import Positions, TopicPartition
from streamlearn.errors import ConfigError, Stop
from streamlearn.log.kafka import new_client
from streamlearn.log.kafka.client import (
    BATCH_BYTES,
    CONNECT_S,
    EARLIEST,
    FRAME_BYTES,
    LATEST,
    Client,
    ClientError,
    Code,
    Producer,
)
from streamlearn.log.kafka.errors import ask, explained, refusal
from streamlearn.log.kafka.reader import Reader
from streamlearn.log.port import Polled, Row, TopicInfo, TopicSpec

_REPLICAS = 3
_ROWS = 5000
"""Rows in flight at once: it bounds the memory of the producer's buffer."""
_UNTOLD_BYTES = 16384

_log = structlog.get_logger()


class Cluster:
    """An admin client, connected when made. Raises `Unreachable` and `ConfigError` as `Client.admin` does."""

    def __init__(self, client: Client) -> None:
        self.bootstrap = client.bootstrap
        self.admin = client.admin()

    def topics(self, names: Iterable[str]) -> dict[str, TopicInfo]:
        """The topics of `names` that exist, Kafka's internal ones excluded."""
        wanted = sorted(set(names))
        # One question: a topic that is deleted before its offsets are asked for is gone at the next try.
        return ask(self.bootstrap, "describing topics", lambda: self._described(wanted))

    def topic_names(self) -> list[str]:
        """As `Admin.topic_names`."""
        return ask(self.bootstrap, "listing topics", self.admin.topic_names)

    def _described(self, wanted: list[str]) -> dict[str, TopicInfo]:
        found = self.admin.topics(wanted)
        places = [(name, index) for name, (_, count) in found.items() for index in range(count)]
        start = self.admin.offsets(places, EARLIEST, committed=False)
        end = self.admin.offsets(places, LATEST, committed=True)
        return {
            name: TopicInfo(
                topic_id,
                tuple(start[name, index] for index in range(count)),
                tuple(end[name, index] for index in range(count)),
            )
            for name, (topic_id, count) in found.items()
        }

    def offsets(
        self, places: Sequence[TopicPartition], at: int, *, committed: bool = False
    ) -> dict[TopicPartition, int]:
        """Offsets by `EARLIEST`, `LATEST` or a timestamp in ms; -1 where no record is that young."""
        return ask(
            self.bootstrap, "asking for offsets", lambda: self.admin.offsets(places, at, committed=committed)
        )

    def hidden(self, names: Iterable[str]) -> dict[TopicPartition, int]:
        """As `Log.hidden_outputs`, of the topics of `names` that exist."""
        places = [
            (name, index) for name, info in self.topics(names).items() for index in range(info.partitions)
        ]
        stable = self.offsets(places, LATEST, committed=True)
        high = self.offsets(places, LATEST)
        return {place: at for place, at in stable.items() if at < high[place]}

    def offsets_at(self, topic: str, timestamp_ms: int) -> tuple[int, ...]:
        """As `Log.offsets_at`."""
        info = self.topics([topic]).get(topic)
        if info is None:
            raise ConfigError(f"Kafka at {self.bootstrap}: there is no topic {topic}.")
        places = [(topic, index) for index in range(info.partitions)]
        found = self.offsets(places, timestamp_ms)
        return tuple(info.end[i] if found[topic, i] < 0 else found[topic, i] for i in range(info.partitions))

    def settings(self, topics: Sequence[str]) -> dict[str, dict[str, str]]:
        """All settings of each topic, also those that are defaults."""
        return ask(self.bootstrap, "reading topic settings", lambda: self.admin.settings(topics))

    def create(self, specs: Sequence[TopicSpec]) -> None:
        """Make the topics that do not exist, replicated as far as the cluster allows."""
        replicas = min(_REPLICAS, ask(self.bootstrap, "counting brokers", self.admin.brokers))
        for spec in specs:
            settings = dict(spec.settings)
            if replicas < _REPLICAS:
                # Two in-sync replicas of two would stop everything whenever one broker is away.
                settings.pop("min.insync.replicas", None)
            try:
                self.admin.create(spec._replace(settings=settings), replicas)
            except ClientError as error:
                if error.code != Code.TOPIC_EXISTS:
                    raise explained(self.bootstrap, f"creating topic {spec.name}", error) from error

    def delete_before(self, place: TopicPartition, offset: int) -> None:
        """Delete the records of a partition before `offset`."""
        what = f"deleting old records of {place[0]}-{place[1]}"
        ask(self.bootstrap, what, lambda: self.admin.delete_before(place, offset))

    def open_transactions(self, place: TopicPartition) -> str:
        """A sentence naming the producers that hold a transaction open in a partition."""
        try:
            producers = self.admin.open_producers(place)
        except ClientError as error:
            return f"Kafka does not say by whom: {error}."
        holders = [
            f"producer id {producer_id}, epoch {epoch}, open since offset {offset}"
            for producer_id, epoch, offset in producers
        ]
        return f"Open in {place[0]}-{place[1]}: {'; '.join(holders) or 'none any more'}."

    def transaction_owner(self, transactional_id: str) -> tuple[int, int]:
        """Producer id and epoch of who took a transactional id last. Raises `Unreachable`, `Stop`, ..."""
        what = f"who holds {transactional_id}"
        return ask(self.bootstrap, what, lambda: self.admin.owner(transactional_id))

    def remove_member(self, group: str, replica: str, member_id: str) -> None:
        """Take a static member out of its group, which it does not leave by itself. With its `member_id`, so
        that a process which replaced it stays.
        """
        ask(self.bootstrap, "leaving", lambda: self.admin.remove_member(group, replica, member_id), 2.0)

    def members(self, group: str) -> int:
        """How many members a group has now; 0 for one that does not exist, -1 when Kafka does not say."""
        try:
            return ask(self.bootstrap, f"members of {group}", lambda: self.admin.members(group))
        except (ConfigError, Stop) as error:
            cause = error.__cause__
            if isinstance(cause, ClientError) and cause.code == Code.GROUP_NOT_FOUND:  # newer brokers
                return 0
            reason = str(error)
        _log.warning(
            "election.not_described",
            group=group,
            reason=reason,
            action="taken for a group that has members; give this principal the right to describe it",
        )
        return -1

    def close(self) -> None:
        """Close the connection."""
        self.admin.close()


class KafkaAdmin:
    """`Admin` on Kafka."""

    def __init__(self, bootstrap: str, options: Mapping[str, str]) -> None:
        self._client = new_client(bootstrap, options)
        self._cluster = Cluster(self._client)
        self._reader = Reader(self._client)
        self._producers: dict[int, Producer] = {}
        self._batches: dict[str, int] = {}

    def topics(self, names: Iterable[str]) -> dict[str, TopicInfo]:
        """As `Admin.topics`."""
        return self._cluster.topics(names)

    def topic_names(self) -> list[str]:
        """As `Admin.topic_names`."""
        return self._cluster.topic_names()

    def settings(self, topic: str) -> dict[str, str]:
        """As `Admin.settings`."""
        return self._cluster.settings([topic])[topic]

    def create(self, specs: Sequence[TopicSpec]) -> None:
        """As `Admin.create`; `min.insync.replicas` only where there are three replicas."""
        self._cluster.create(specs)

    def append(self, topic: str, rows: Sequence[Row]) -> None:
        """As `Admin.append`. What was acknowledged before an error stays."""
        size = self._batch_size(topic)
        if size not in self._producers:
            self._producers[size] = self._client.producer(linger_ms=5, batch_bytes=size)
        try:
            for first in range(0, len(rows), _ROWS):
                append(self._producers[size], topic, rows[first : first + _ROWS])
        except ClientError as error:
            self._producers.pop(size).destroy()
            refused = refusal([topic], [error])
            raise refused or explained(self._client.bootstrap, f"appending to {topic}", error) from error

    def _batch_size(self, topic: str) -> int:
        """How large a batch may be: one over the topic's limit would be split, and rows come twice."""
        if topic not in self._batches:
            try:
                limit = int(self.settings(topic)["max.message.bytes"]) - FRAME_BYTES
            except ConfigError:  # whoever may write need not be allowed to ask
                limit = _UNTOLD_BYTES
            self._batches[topic] = max(1, min(BATCH_BYTES, limit))
        return self._batches[topic]

    def poll(self, positions: Positions, max_records: int, timeout_s: float) -> Polled:
        """As `Admin.poll`."""
        return self._reader.poll(positions, max_records, 1 << 62, timeout_s)

    def offsets_at(self, topic: str, timestamp_ms: int) -> tuple[int, ...]:
        """As `Admin.offsets_at`."""
        return self._cluster.offsets_at(topic, timestamp_ms)

    def close(self) -> None:
        """Close every client."""
        for producer in self._producers.values():
            producer.destroy()
        self._producers.clear()
        self._reader.close()
        self._cluster.close()


def append(producer: Producer, topic: str, rows: Sequence[Row]) -> list[int]:
    """Append rows and wait until every one is acknowledged; returns their offsets. Raises `ClientError`."""
    count = producer.partitions(topic)
    for row in rows:
        partition = row.partition
        if partition is None:
            partition = producer.partition(topic, row.key, row.value)
        elif not 0 <= partition < count:
            raise Stop(f"{topic} has {count} partitions; there is no partition {partition} to append to.")
        producer.append((topic, partition), row.key, row.value, row.headers)
    return producer.flush(CONNECT_S)
