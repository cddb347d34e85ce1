"""librdkafka's consumer by position.

librdkafka has one queue for all partitions, and fetches ahead into it. What it gives of a paused partition is
held here, up to `_HELD`; a partition of which more comes is taken from librdkafka, and given back later.

Invariants:
- A partition begins at the offset that `seek` said, when it is first wanted. A seek takes it from librdkafka:
  what was fetched before then is outdated there.
- `next` of a partition is the offset after the last record that came, or, from a mark or the partition's end,
  past what holds no record.
"""

from collections.abc import Sequence
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from streamlearn.core.records import Record
from streamlearn.core.records import TopicPartition as Place
from streamlearn.env import Env
from streamlearn.log.kafka.client import CONNECT_S, ClientError, Code
from streamlearn.log.kafka.confluent.connect import LibraryLog, end, mapped, maps

_AT_ONCE: Final = 5000
_HELD: Final = 20_000
_HELD_BYTES: Final = 16 << 20
_LEADERS_S: Final = 1.0
_PASSED_OVER: Final = (Code.GROUP_DENIED, Code.UNKNOWN_TOPIC)
"""What a consumer says by the way: of its group, which has no member, and of a topic that may come back."""


class _Source:
    """A partition that is read. `epoch`: of its leader, as the newest record tells."""

    __slots__ = ("epoch", "has_come", "held", "held_bytes", "is_paused", "is_started", "next", "partition")

    def __init__(self, partition: Place) -> None:
        self.partition = TopicPartition(*partition)
        self.next = -1
        self.is_paused = False
        self.is_started = False
        self.has_come = False
        self.held: list[Record] = []
        self.held_bytes = 0
        self.epoch: int | None = None


class ConfluentConsumer:
    """`Consumer` around a connected librdkafka consumer, whose group has no member."""

    def __init__(self, consumer: Any, env: Env, said: LibraryLog, odd_names: Any) -> None:
        """`odd_names` is called when a record has a header that librdkafka cannot read."""
        self._consumer = consumer
        self._env = env
        self._said = said
        self._odd_names = odd_names
        self._sources: dict[Place, _Source] = {}
        self._leaders: dict[str, dict[int, int]] = {}

    @maps
    def assign(self, places: Sequence[Place]) -> None:
        """As `Consumer.assign`."""
        for partition in self._sources.keys() - {*places}:
            self._stop(self._sources.pop(partition))
        for partition in places:
            if partition not in self._sources:
                self._sources[partition] = _Source(partition)
                if partition[0] not in self._leaders:
                    self._look(partition[0], CONNECT_S)

    @maps
    def seek(self, partition: Place, offset: int) -> None:
        """As `Consumer.seek`."""
        source = self._sources[partition]
        self._stop(source)
        source.held.clear()
        source.held_bytes = 0
        source.next = offset

    def pause(self, places: Sequence[Place]) -> None:
        """As `Consumer.pause`."""
        for partition in places:
            self._sources[partition].is_paused = True

    def resume(self, places: Sequence[Place]) -> None:
        """As `Consumer.resume`."""
        for partition in places:
            self._sources[partition].is_paused = False

    @maps
    def fetch(self, timeout_s: float) -> dict[Place, list[Record]]:
        """As `Consumer.fetch`."""
        self._start()
        fetched = self._taken()
        until = self._env.monotonic() + (0.0 if fetched else timeout_s)
        while True:
            left_s = max(0.0, until - self._env.monotonic())
            first = self._consumer.poll(left_s)
            if first is None:
                return fetched
            for partition, records in self._records([first, *self._consumer.consume(_AT_ONCE, 0)]).items():
                source = self._sources[partition]
                if source.is_paused:
                    self._hold(source, records)
                else:
                    fetched.setdefault(partition, []).extend(records)
            if fetched:
                return fetched

    def position(self, partition: Place) -> int:
        """As `Consumer.position`."""
        source = self._sources[partition]
        if source.held:
            return source.held[0].offset
        if source.is_started and source.has_come:
            (position,) = self._consumer.position([source.partition])
            source.next = max(source.next, position.offset)
        return source.next

    def known_end(self, partition: Place) -> int:
        """As `Consumer.known_end`."""
        bounds = self._consumer.get_watermark_offsets(self._sources[partition].partition, cached=True)
        return 0 if bounds is None else max(0, int(bounds[1]))

    @maps
    def bounds(self, partition: Place) -> tuple[int, int]:
        """As `Consumer.bounds`."""
        bounds = self._consumer.get_watermark_offsets(TopicPartition(*partition), timeout=CONNECT_S)
        if bounds is None:
            raise ClientError("no answer about {}-{} came in time".format(*partition), retriable=True)
        return int(bounds[0]), int(bounds[1])

    def ends(self, places: Sequence[Place]) -> dict[Place, int]:
        """As `Consumer.ends`."""
        return {partition: self.bounds(partition)[1] for partition in places}

    def leader(self, partition: Place) -> int | None:
        """As `Consumer.leader`."""
        topic, index = partition
        leader = self._leaders.get(topic, {}).get(index, -1)
        return None if leader < 0 else leader

    @maps
    def partitions(self, topic: str) -> int:
        """As `Consumer.partitions`."""
        return len(self._leaders.get(topic) or self._look(topic, CONNECT_S))

    def close(self) -> None:
        """As `Consumer.close`."""
        consumer, self._consumer = [self._consumer], None
        if consumer[0] is not None:
            end(self._env, "kafka.consumer.end", consumer, lambda client: client.close())

    def _start(self) -> None:
        """Give librdkafka the partitions that are wanted and that it does not have."""
        starting = [
            source
            for source in self._sources.values()
            if not (source.is_started or source.is_paused) and source.next >= 0
        ]
        if starting:
            self._consumer.incremental_assign(
                [TopicPartition(s.partition.topic, s.partition.partition, s.next) for s in starting]
            )
        for source in starting:
            source.is_started, source.has_come = True, False

    def _stop(self, source: _Source) -> None:
        """Take a partition from librdkafka, which forgets what it fetched of it."""
        if source.is_started:
            source.is_started = source.has_come = False
            self._consumer.incremental_unassign([source.partition])

    def _taken(self) -> dict[Place, list[Record]]:
        """What was held of partitions that are not paused any more."""
        handed: dict[Place, list[Record]] = {}
        for partition, source in self._sources.items():
            if source.held and not source.is_paused:
                handed[partition], source.held, source.held_bytes = source.held, [], 0
        return handed

    def _hold(self, source: _Source, records: list[Record]) -> None:
        source.held += records
        source.held_bytes += sum(len(record.value or b"") for record in records)
        if len(source.held) > _HELD or source.held_bytes > _HELD_BYTES:
            self._stop(source)

    def _records(self, messages: list[Any]) -> dict[Place, list[Record]]:
        """The records among `messages`, by partition."""
        if any(map(Message.error, messages)):
            for message in messages:
                if (error := message.error()) is not None:
                    self._heed(message, error)
            messages = [message for message in messages if message.error() is None]
        if not messages:
            return {}
        try:
            records = _read(messages)
        except (SystemError, UnicodeError) as odd:
            self._odd_names()
            raise ClientError(
                f"{messages[0].topic()}-{messages[0].partition()}: librdkafka cannot read a header's name; "
                "kafka-python goes on reading",
                retriable=True,
            ) from odd
        fetched: dict[Place, list[Record]] = {}
        newest: dict[Place, Any] = {}
        first = records[0]
        if all(record.partition == first.partition and record.topic is first.topic for record in records):
            fetched[first.topic, first.partition] = records
            newest[first.topic, first.partition] = messages[-1]
        else:
            for record, message in zip(records, messages, strict=True):
                partition = record.topic, record.partition
                fetched.setdefault(partition, []).append(record)
                newest[partition] = message
        for partition, message in newest.items():
            self._follow(partition, message)
        return fetched

    def _follow(self, partition: Place, message: Any) -> None:
        """Move on past `message`; where another leader took it, ask who that is."""
        source = self._sources[partition]
        source.next, source.has_come = message.offset() + 1, True
        epoch = message.leader_epoch()
        if source.epoch is not None and epoch != source.epoch:
            try:
                self._look(partition[0], _LEADERS_S)
            except (ClientError, KafkaException):
                self._leaders.pop(partition[0], None)  # then any broker is asked
        source.epoch = epoch

    def _heed(self, message: Any, error: KafkaError) -> None:
        """Take what stands in a record's partition. Raises `ClientError` where reading cannot go on."""
        partition = message.topic(), message.partition()
        if error.code() == KafkaError._PARTITION_EOF:
            source = self._sources.get(partition)
            if source is not None and source.is_started:
                source.next = max(source.next, message.offset())
            return
        reason = mapped(error, "{}-{} at {}: ".format(*partition, message.offset()) if partition[0] else "")
        if reason.code not in _PASSED_OVER and not (reason.retriable and reason.code != Code.CORRUPT_MESSAGE):
            raise reason

    def _look(self, topic: str, timeout_s: float) -> dict[int, int]:
        """The leader of each partition of a topic, by index; empty when there is no such topic."""
        metadata = self._consumer.list_topics(topic, timeout=timeout_s).topics.get(topic)
        if (
            metadata is not None
            and metadata.error is not None
            and metadata.error.code() != Code.UNKNOWN_TOPIC
        ):
            raise mapped(metadata.error)
        leaders = (
            {} if metadata is None else {index: each.leader for index, each in metadata.partitions.items()}
        )
        if leaders:
            self._leaders[topic] = leaders
        return leaders


def _read(messages: Sequence[Any]) -> list[Record]:
    """The records in `messages`, column by column, which costs half of what a loop does.

    Raises `SystemError` or `UnicodeError` at a header whose name is no UTF-8. There the wrapper leaves an
    exception behind and returns all the same: `map` sees it, while the interpreter's own fast calls do not.
    """
    topics = [*map(Message.topic, messages)]
    names = {topic: topic for topic in topics}  # one object for each
    return [
        *map(
            Record,
            map(names.__getitem__, topics),
            map(Message.partition, messages),
            map(Message.offset, messages),
            [time[1] for time in map(Message.timestamp, messages)],
            map(Message.key, messages),
            map(Message.value, messages),
            [tuple(headers) if headers else () for headers in map(Message.headers, messages)],
        )
    ]
