"""Questions to a Kafka cluster (`Cluster`) and what the command line does to it (`KafkaAdmin`).

Invariants:
- Every question has a deadline; while a cluster moves (elections, restarts) it is asked again until then.
- `append` returns only when every single record was acknowledged by all in-sync replicas.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import structlog
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, MemberToRemove, OffsetSpec
from kafka.errors import (
    GroupIdNotFoundError,
    KafkaError,
    TopicAlreadyExistsError,
    UnknownBrokerIdError,
    for_code,
)
from kafka.protocol.consumer import IsolationLevel
from kafka.protocol.metadata import MetadataRequest

from streamlearn.core.records import Positions
from streamlearn.core.records import TopicPartition as Place
from streamlearn.errors import ConfigError, Stop
from streamlearn.log.kafka.client import (
    BATCH_BYTES,
    CONNECT_S,
    FRAME_BYTES,
    append,
    ask,
    broker_count,
    client_options,
    connect,
    destroy,
    explained,
)
from streamlearn.log.kafka.reader import Reader
from streamlearn.log.kafka.refusals import refusal
from streamlearn.log.port import Polled, Row, TopicInfo, TopicSpec

_REPLICAS = 3
_ROWS = 5000
"""Rows in flight at once: it bounds the memory of the producer's buffer."""
_UNTOLD_BYTES = 16384
_ERROR_CODE = re.compile(r"\[Error (-?\d+)\]")

_log = structlog.get_logger()


class Cluster:
    """An admin client, connected when made. Raises `Unreachable` and `ConfigError` as `connect` does."""

    def __init__(self, bootstrap: str, options: Mapping[str, Any]) -> None:
        self.bootstrap = bootstrap
        self._client = connect(KafkaAdminClient, bootstrap, options)

    def topics(self, names: Iterable[str]) -> dict[str, TopicInfo]:
        """The topics of `names` that exist, Kafka's internal ones excluded."""
        wanted = sorted(set(names))
        # One question: a topic that is deleted before its offsets are asked for is gone at the next try.
        return ask(self.bootstrap, "describing topics", lambda: self._described(wanted))

    def topic_names(self) -> list[str]:
        """As `Admin.topic_names`."""
        topics = ask(self.bootstrap, "listing topics", lambda: self._client.describe_topics(None))
        return [topic["name"] for topic in topics if not topic["is_internal"]]

    def _described(self, wanted: list[str]) -> dict[str, TopicInfo]:
        found = {}
        for topic in self._client.describe_topics(wanted):
            error = for_code(topic["error_code"])
            if error.errno == 0 and not topic["is_internal"]:
                found[topic["name"]] = (str(topic["topic_id"]), len(topic["partitions"]))
            elif error.__name__ not in ("NoError", "UnknownTopicOrPartitionError", "InvalidTopicError"):
                raise error(topic["name"])
        places = [(name, index) for name, (_, count) in found.items() for index in range(count)]
        start = self._offsets(places, OffsetSpec.EARLIEST)
        end = self._offsets(places, OffsetSpec.LATEST, committed=True)
        return {
            name: TopicInfo(
                topic_id,
                tuple(start[name, index] for index in range(count)),
                tuple(end[name, index] for index in range(count)),
            )
            for name, (topic_id, count) in found.items()
        }

    def offsets(self, places: Sequence[Place], spec: Any, committed: bool = False) -> dict[Place, int]:
        """Offsets by `OffsetSpec` or by timestamp in ms; -1 where no record is that young."""
        return ask(self.bootstrap, "asking for offsets", lambda: self._offsets(places, spec, committed))

    def _offsets(self, places: Sequence[Place], spec: Any, committed: bool = False) -> dict[Place, int]:
        level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        specs = {TopicPartition(*place): spec for place in places}
        if not specs:
            return {}
        found = self._client.list_partition_offsets(specs, isolation_level=level)
        return {(place.topic, place.partition): int(at.offset) for place, at in found.items()}

    def hidden(self, names: Iterable[str]) -> dict[Place, int]:
        """As `Log.hidden_outputs`, of the topics of `names` that exist."""
        places = [
            (name, index) for name, info in self.topics(names).items() for index in range(info.partitions)
        ]
        stable = self.offsets(places, OffsetSpec.LATEST, committed=True)
        high = self.offsets(places, OffsetSpec.LATEST)
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
        resources = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
        found = ask(
            self.bootstrap,
            "reading topic settings",
            lambda: self._client.describe_configs(resources, config_filter="all"),
        )
        return {
            topic: {name: setting["value"] for name, setting in settings.items()}
            for topic, settings in found.get("topic", {}).items()
        }

    def create(self, specs: Sequence[TopicSpec]) -> None:
        """Make the topics that do not exist, replicated as far as the cluster allows."""
        brokers = ask(self.bootstrap, "counting brokers", lambda: broker_count(self._client))
        replicas = min(_REPLICAS, brokers)
        for spec in specs:
            settings = dict(spec.settings)
            if replicas < _REPLICAS:
                # Two in-sync replicas of two would stop everything whenever one broker is away.
                settings.pop("min.insync.replicas", None)
            topic = {
                spec.name: {
                    "num_partitions": spec.partitions,
                    "replication_factor": replicas,
                    "configs": settings,
                }
            }
            try:
                self._client.create_topics(topic, timeout_ms=int(CONNECT_S * 1000), wait_for_metadata=True)
            except TopicAlreadyExistsError:
                continue
            except KafkaError as error:
                raise explained(self.bootstrap, f"creating topic {spec.name}", error) from error

    def delete_before(self, place: Place, offset: int) -> None:
        """Delete the records of a partition before `offset`."""
        ask(
            self.bootstrap,
            f"deleting old records of {place[0]}-{place[1]}",
            lambda: self._client.delete_records({TopicPartition(*place): offset}),
        )

    def open_transactions(self, place: Place) -> str:
        """A sentence naming the producers that hold a transaction open in a partition."""
        tp = TopicPartition(*place)
        try:
            producers = self._client.describe_producers([tp])[tp].active_producers
        except KafkaError as error:
            return f"Kafka does not say by whom: {error}."
        holders = [
            f"producer id {p.producer_id}, epoch {p.producer_epoch}, open since offset "
            f"{p.current_transaction_start_offset}"
            for p in producers
            if p.current_transaction_start_offset is not None and p.current_transaction_start_offset >= 0
        ]
        return f"Open in {place[0]}-{place[1]}: {'; '.join(holders) or 'none any more'}."

    def ask_metadata(self, topics: Sequence[str], node: int | None) -> Any:
        """Begin to ask a broker (None: any) what it knows of `topics`; `metadata` waits for the answer."""
        manager = self._client._manager
        request = MetadataRequest(
            topics=[MetadataRequest.MetadataRequestTopic(name=topic) for topic in topics],
            allow_auto_topic_creation=False,
            include_cluster_authorized_operations=False,
            include_topic_authorized_operations=False,
        )
        # The admin client's own network thread sends it at once: no public call asks without waiting.
        return manager.call_soon(manager.send, request, node)

    def metadata(self, asked: Any) -> Sequence[Any]:
        """The topics in the answer to `ask_metadata`. Raises `KafkaError`."""
        manager = self._client._manager
        try:
            return tuple(manager.run(manager.wait_for, asked, CONNECT_S * 1000).topics)
        except UnknownBrokerIdError:
            manager.cluster.request_update()  # a broker that came after this client had looked
            raise

    def transaction_owner(self, transactional_id: str) -> tuple[int, int]:
        """Producer id and epoch of who took a transactional id last. Raises `Unreachable`, `Stop`, ..."""
        found = ask(
            self.bootstrap,
            f"who holds {transactional_id}",
            lambda: self._client.describe_transactions([transactional_id])[transactional_id],
        )
        return found.producer_id, found.producer_epoch

    def remove_member(self, group: str, replica: str, member_id: str) -> None:
        """Take a static member out of its group, which it does not leave by itself. With its `member_id`, so
        that a process which replaced it stays.
        """
        member = MemberToRemove(member_id, replica, reason="graceful stop")
        ask(self.bootstrap, "leaving", lambda: self._client.remove_group_members(group, [member]), 2.0)

    def members(self, group: str) -> int:
        """How many members a group has now; 0 for one that does not exist, -1 when Kafka does not say."""

        def described() -> int:
            found = self._client.describe_groups([group])[group]
            if code := _ERROR_CODE.match(found["error"] or ""):  # an answer that is not raised
                raise for_code(int(code[1]))(group)
            return len(found["members"])

        try:
            return ask(self.bootstrap, f"members of {group}", described)
        except (ConfigError, Stop) as error:
            if isinstance(error.__cause__, GroupIdNotFoundError):  # which newer brokers say
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
        self._client.close()


class KafkaAdmin:
    """`Admin` on Kafka."""

    def __init__(self, bootstrap: str, options: Mapping[str, str]) -> None:
        self._bootstrap = bootstrap
        self._options = client_options(options)
        self._cluster = Cluster(bootstrap, self._options)
        self._reader = Reader(bootstrap, self._options)
        self._producers: dict[int, Any] = {}
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
            self._producers[size] = connect(
                KafkaProducer,
                self._bootstrap,
                self._options,
                enable_idempotence=True,
                acks="all",
                delivery_timeout_ms=int(CONNECT_S * 1000),
                max_block_ms=int(CONNECT_S * 1000),
                linger_ms=5,
                batch_size=size,
            )
        try:
            for first in range(0, len(rows), _ROWS):
                self._append(self._producers[size], topic, rows[first : first + _ROWS])
        except KafkaError as error:
            destroy(self._producers.pop(size))
            refused = refusal([topic], [error])
            raise refused or explained(self._bootstrap, f"appending to {topic}", error) from error

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
            destroy(producer)
        self._producers.clear()
        self._reader.close()
        self._cluster.close()

    def _append(self, producer: Any, topic: str, rows: Sequence[Row]) -> None:
        count = len(producer.partitions_for(topic))
        futures = []
        for row in rows:
            partition = row.partition
            if partition is not None and not 0 <= partition < count:
                raise Stop(f"{topic} has {count} partitions; there is no partition {partition} to append to.")
            if partition is None:
                partition = producer._partition(topic, None, row.key, row.value, row.key, row.value)
            place = TopicPartition(topic, partition)
            futures.append(append(producer, place, row.key, row.value, row.headers))
        producer.flush(CONNECT_S)
        for future in futures:
            future.get(timeout=CONNECT_S)
