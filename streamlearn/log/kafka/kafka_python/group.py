"""kafka-python's group member."""

from collections.abc import Mapping, Sequence
from typing import Any

from kafka import TopicPartition
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from streamlearn.core.records import Positions
from streamlearn.core.records import TopicPartition as Place
from streamlearn.log.kafka.client import CONNECT_S, Membership
from streamlearn.log.kafka.kafka_python.connect import maps

ASSIGNORS = (StickyPartitionAssignor, RangePartitionAssignor, RoundRobinPartitionAssignor)
"""A newcomer takes nothing from a member: the assignment is sticky. It is agreed upon with members that know
only older ones (a group takes the first that all of its members offer).
"""


class PythonGroup:
    """`Group` around a connected `KafkaConsumer`."""

    def __init__(self, consumer: Any, topic: str) -> None:
        self._consumer = consumer
        self._topic = topic
        self._error = ""
        self.session_s = float(consumer.config["session_timeout_ms"]) / 1000
        consumer.subscribe([topic])

    @maps
    def join(self, timeout_s: float) -> None:
        """As `Group.join`."""
        coordinator = self._consumer._coordinator
        if coordinator._join_task is not None:
            coordinator._join_task = _Join(coordinator._join_task)
        self._consumer.poll(timeout_ms=int(timeout_s * 1000))
        assigned = self._consumer.assignment()
        if assigned - self._consumer.paused():
            self._consumer.pause(*assigned)

    def held(self) -> Membership:
        """As `Group.held`."""
        coordinator, member = self._consumer._coordinator, self._consumer.group_metadata()
        stable = bool(coordinator.stable())
        beat = coordinator.heartbeat
        return Membership(
            shards=frozenset(tp.partition for tp in self._consumer.assignment()),
            generation=(member.generation_id, member.member_id),
            stable=stable,
            must_rejoin=bool(coordinator.rejoin_needed),
            asked_at_s=float(beat.last_send),
            granted_at_s=float(beat.last_receive),
            # A static member that was replaced is told so in a heartbeat, after which those just stop.
            replaced=stable and not coordinator.rejoining and not coordinator._heartbeat_enabled,
        )

    @maps
    def partitions(self) -> int:
        """As `Group.partitions`."""
        return len(self._consumer.partitions_for_topic(self._topic) or ())

    def report(self, positions: Positions, metadata: Mapping[Place, str]) -> None:
        """As `Group.report`."""
        self._consumer.commit_async(_offsets(positions, metadata), callback=self._answered)

    def report_error(self) -> str:
        """As `Group.report_error`."""
        error, self._error = self._error, ""
        return error

    @maps
    def reported(self, places: Sequence[Place]) -> dict[Place, tuple[int, str]]:
        """As `Group.reported`. The public `committed()` asks for one partition, and waits for ever."""
        answers = self._consumer._coordinator.fetch_committed_offsets(
            [TopicPartition(*partition) for partition in places], timeout_ms=CONNECT_S * 1000
        )
        return {
            (tp.topic, tp.partition): (int(committed.offset), str(committed.metadata))
            for tp, committed in answers.items()
            if committed.offset >= 0
        }

    def leave(self, positions: Positions, metadata: Mapping[Place, str], timeout_s: float) -> str:
        """As `Group.leave`."""
        timeout_ms = int(timeout_s * 1000)
        try:
            if positions:
                self._consumer.commit(_offsets(positions, metadata), timeout_ms=timeout_ms)
        except KafkaError as error:
            self._error = str(error)
        member = str(self._consumer.group_metadata().member_id)
        self._consumer.close(autocommit=False, timeout_ms=timeout_ms)
        return member

    def _answered(self, _: object, answer: object) -> None:
        if isinstance(answer, KafkaError):
            self._error = str(answer) or type(answer).__name__


def _offsets(positions: Positions, metadata: Mapping[Place, str]) -> dict[Any, Any]:
    return {
        TopicPartition(*partition): OffsetAndMetadata(offset, metadata.get(partition, ""), -1)
        for partition, offset in positions.items()
    }


class _Join:
    """A join under way. kafka-python takes one that was finished between two polls for none at all, and
    begins another, for which everybody must join again: among busy loops that may never end (155 generations
    were seen for four members). This one does not look finished, so that the next poll takes its result.
    """

    is_done = False

    def __init__(self, task: Any) -> None:
        self.add_callback, self.add_errback = task.add_callback, task.add_errback
