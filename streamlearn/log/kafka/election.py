"""Who should hold which shard: a consumer group on the journal topic, and the positions it reports.

Invariants:
- What is returned is a level and a hint. The lock is the producer's epoch, checked by `publish`.
- A membership that the coordinator has not confirmed for a session timeout counts as none: a process that
  was paused must not fence whoever took over meanwhile. During a rebalance the old assignment stands.
- Being fenced is evidence against the membership: after it nothing is held until the coordinator has
  confirmed that membership anew, in a later generation or in answer to a later heartbeat.
- A newcomer takes nothing from a member: the assignment is sticky. It is agreed upon with members that know
  only older ones (a group takes the first that all of its members offer).
- Reported positions are for lag tools. That a report fails is no error of the service.
"""

import time
from collections.abc import Mapping
from typing import Any

import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.errors import FencedInstanceIdError, KafkaError, RetriableError
from kafka.structs import OffsetAndMetadata

from streamlearn.core.records import Positions
from streamlearn.core.records import TopicPartition as Place
from streamlearn.errors import Stop, Unreachable
from streamlearn.log.kafka.admin import Cluster
from streamlearn.log.kafka.client import CONNECT_S, ask, connect, explained
from streamlearn.log.port import Names

REPORT_S = 5.0
_ROUND_S = 0.1
_LEAVE_MS = 1000
_BUSY_MS = 90_000
"""The longest time between two polls: `[transaction] max_ms`, at most 60 s of stepping, and a publish."""
_ASSIGNORS = (StickyPartitionAssignor, RangePartitionAssignor, RoundRobinPartitionAssignor)

_log = structlog.get_logger()


class Election:
    """This process' membership in the group of one service."""

    def __init__(self, bootstrap: str, options: Mapping[str, Any], names: Names) -> None:
        self.group = names.lock
        self._bootstrap = bootstrap
        self._replica = names.replica
        self._positions: Positions = {}
        self._ids: dict[Place, str] = {}
        self._reported: Positions = {}
        self._report_at = time.monotonic() + REPORT_S
        self._generation: tuple[int, str] | None = None
        self._joined_at = 0.0
        self._doubted_at = 0.0
        self._consumer = connect(
            KafkaConsumer,
            bootstrap,
            options,
            group_id=self.group,
            group_instance_id=names.replica or None,
            session_timeout_ms=8000,
            heartbeat_interval_ms=1000,
            max_poll_interval_ms=_BUSY_MS,
            partition_assignment_strategy=_ASSIGNORS,
            isolation_level="read_committed",
            # Nothing is read through this consumer: it only must not fail over a missing position.
            auto_offset_reset="latest",
            enable_auto_commit=False,
            max_partition_fetch_bytes=1,
        )
        journal = names.roles["journal"]
        self._consumer.subscribe([journal])
        # A leader that does not know the topic's partitions yet would assign none, to everybody.
        ask(bootstrap, f"partitions of {journal}", lambda: self._consumer.partitions_for_topic(journal))

    def owned(self, timeout_s: float) -> frozenset[int]:
        """As `Log.owned`: returns at once when a shard is held, else waits up to `timeout_s` for one."""
        until = time.monotonic() + timeout_s
        while True:
            left = max(0.0, until - time.monotonic())
            self._poll(min(left, _ROUND_S))
            held = self._held()
            if held or time.monotonic() >= until:
                self._report()
                return held

    def doubt(self) -> None:
        """A newer owner has come: hold nothing that was confirmed before now."""
        self._doubted_at = time.monotonic()

    def why_not(self) -> str:
        """Why nothing is held, as far as this member knows."""
        coordinator = self._consumer._coordinator
        silent_s = time.monotonic() - self._confirmed_at()
        if self._generation is None:
            return f"this process is not yet a member of group {self.group}"
        if silent_s > self._session_s:
            return (
                f"Kafka at {self._bootstrap} has confirmed no heartbeat for {silent_s:.0f} s: it does not "
                "answer, or this process stood still"
            )
        if self._is_doubted():
            return f"a newer owner has come, and group {self.group} has not confirmed this member since"
        if not coordinator.stable() or coordinator.rejoin_needed:
            return f"the members of group {self.group} are just being assigned their shards"
        return f"another member of group {self.group} holds it"

    def report(self, positions: Positions) -> None:
        """Note positions to report some time later."""
        self._positions.update(positions)

    def reported(self, places: Mapping[Place, str]) -> Positions:
        """What was once reported for `places`, by any member. Each is given with the id of its topic: what
        was reported of another topic of that name says nothing.
        """
        self._ids = dict(places)
        tps = [TopicPartition(*place) for place in places]
        found = ask(
            self._bootstrap,
            f"reading the offsets of group {self.group}",
            lambda: self._consumer._coordinator.fetch_committed_offsets(tps, timeout_ms=CONNECT_S * 1000),
        )
        return {
            (tp.topic, tp.partition): int(at.offset)
            for tp, at in found.items()
            if at.offset >= 0 and at.metadata in ("", places[tp.topic, tp.partition])
        }

    def close(self, cluster: Cluster) -> None:
        """Report once more and leave at once; a static member must be taken out by name."""
        try:
            if self._positions != self._reported and not self._is_replaced():
                self._consumer.commit(self._offsets(self._positions), timeout_ms=_LEAVE_MS)
        except KafkaError as error:
            _log.debug("positions.not_reported", group=self.group, reason=str(error))
        member = self._consumer.group_metadata().member_id
        self._consumer.close(autocommit=False, timeout_ms=_LEAVE_MS)
        if self._replica and member:
            try:
                cluster.remove_member(self.group, self._replica, member)
            except (Unreachable, Stop) as error:
                _log.warning("election.not_left", group=self.group, replica=self._replica, reason=str(error))

    def _poll(self, timeout_s: float) -> None:
        """Let the client heartbeat, join and learn its assignment."""
        coordinator = self._consumer._coordinator
        if coordinator._join_task is not None:
            coordinator._join_task = _Join(coordinator._join_task)
        try:
            self._consumer.poll(timeout_ms=int(timeout_s * 1000))
        except FencedInstanceIdError as error:
            raise self._replaced() from error
        except RetriableError:
            return  # the coordinator moves or is away; the level says what that means
        except KafkaError as error:
            raise explained(self._bootstrap, f"election in group {self.group}", error) from error
        assigned = self._consumer.assignment()
        if assigned - self._consumer.paused():
            self._consumer.pause(*assigned)

    def _held(self) -> frozenset[int]:
        """The assigned shards, if the coordinator confirmed this membership lately."""
        coordinator = self._consumer._coordinator
        member = self._consumer.group_metadata()
        generation = (member.generation_id, member.member_id)
        if generation != self._generation and coordinator.stable():
            self._generation, self._joined_at = generation, time.monotonic()
        if self._is_replaced():
            raise self._replaced()
        if time.monotonic() - self._confirmed_at() > self._session_s or self._is_doubted():
            return frozenset()
        return frozenset(tp.partition for tp in self._consumer.assignment())

    @property
    def _session_s(self) -> float:
        return float(self._consumer.config["session_timeout_ms"]) / 1000

    def _confirmed_at(self) -> float:
        """When the coordinator last said that this is a member. A rebalance is no denial of it."""
        return max(self._joined_at, float(self._consumer._coordinator.heartbeat.last_receive))

    def _is_doubted(self) -> bool:
        """No answer since the doubt: neither a generation joined nor a heartbeat sent and granted."""
        coordinator = self._consumer._coordinator
        if self._joined_at > self._doubted_at:
            return False
        beat = coordinator.heartbeat
        granted = self._doubted_at < beat.last_send <= beat.last_receive
        return not (granted and coordinator.stable() and not coordinator.rejoin_needed)

    def _is_replaced(self) -> bool:
        """A static member that was replaced is told so in a heartbeat, after which those just stop."""
        coordinator = self._consumer._coordinator
        return bool(coordinator.stable() and not coordinator.rejoining and not coordinator._heartbeat_enabled)

    def _replaced(self) -> Stop:
        return Stop(
            f"Another process has joined group {self.group} as replica {self._replica!r}, and has taken this "
            "one's place. Give every process its own [app] replica (or none), or stop one of them."
        )

    def _report(self) -> None:
        if time.monotonic() < self._report_at or self._positions == self._reported:
            return
        self._report_at = time.monotonic() + REPORT_S
        self._reported = dict(self._positions)
        self._consumer.commit_async(self._offsets(self._reported), callback=self._answered)

    def _offsets(self, positions: Positions) -> dict[Any, Any]:
        """As the client takes them, each with the id of its topic."""
        return {
            TopicPartition(*tp): OffsetAndMetadata(offset, self._ids.get(tp, ""), -1)
            for tp, offset in positions.items()
        }

    def _answered(self, _: object, answer: object) -> None:
        if isinstance(answer, KafkaError):
            self._reported = {}
            _log.debug("positions.not_reported", group=self.group, reason=str(answer))


class _Join:
    """A join under way. kafka-python takes one that was finished between two polls for none at all, and
    begins another, for which everybody must join again: among busy loops that may never end (155 generations
    were seen for four members). This one does not look finished, so that the next poll takes its result.
    """

    is_done = False

    def __init__(self, task: Any) -> None:
        self.add_callback, self.add_errback = task.add_callback, task.add_errback
