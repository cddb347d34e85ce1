"""The election of the owner of a shard: a consumer group on the journal topic, and the positions it reports.

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

from collections.abc import Mapping

import structlog

from streamlearn.core.records import Positions, TopicPartition
from streamlearn.env import Env
from streamlearn.errors import Stop, Unreachable
from streamlearn.log.kafka.client import Client, ClientError, Code, Membership
from streamlearn.log.kafka.cluster import Cluster
from streamlearn.log.kafka.errors import ask, explained
from streamlearn.log.port import TopicNames

REPORT_S = 5.0
_ROUND_S = 0.1
_LEAVE_S = 1.0

_log = structlog.get_logger()


class Election:
    """This process' membership in the group of one service."""

    def __init__(self, env: Env, client: Client, names: TopicNames) -> None:
        self._env = env
        self.group = names.lock
        self._bootstrap = client.bootstrap
        self._replica = names.replica
        self._positions: Positions = {}
        self._ids: dict[TopicPartition, str] = {}
        self._reported: Positions = {}
        self._report_at = self._env.monotonic() + REPORT_S
        self._generation: tuple[int, str] | None = None
        self._joined_at = 0.0
        self._doubted_at = 0.0
        journal = names.roles["journal"]
        self._member = client.group(self.group, names.replica, journal)
        # A leader that does not know the topic's partitions yet would assign none, to everybody.
        ask(self._env, client.bootstrap, f"partitions of {journal}", self._member.partitions)

    def owned(self, timeout_s: float) -> frozenset[int]:
        """As `Log.owned`: returns at once when a shard is held, else waits up to `timeout_s` for one."""
        until = self._env.monotonic() + timeout_s
        while True:
            left = max(0.0, until - self._env.monotonic())
            self._poll(min(left, _ROUND_S))
            held = self._held()
            if held or self._env.monotonic() >= until:
                self._report()
                return held

    def doubt(self) -> None:
        """A newer owner has come: hold nothing that was confirmed before now."""
        self._doubted_at = self._env.monotonic()

    def why_not(self) -> str:
        """The reason why nothing is held, as far as this member knows."""
        membership = self._member.held()
        silent_s = self._env.monotonic() - self._confirmed_at(membership)
        if self._generation is None:
            return f"this process is not yet a member of group {self.group}"
        if silent_s > self._member.session_s:
            return (
                f"Kafka at {self._bootstrap} has confirmed no heartbeat for {silent_s:.0f} s: it does not "
                "answer, or this process stood still"
            )
        if self._is_doubted(membership):
            return f"a newer owner has come, and group {self.group} has not confirmed this member since"
        if not membership.stable or membership.must_rejoin:
            return f"the members of group {self.group} are just being assigned their shards"
        return f"another member of group {self.group} holds it"

    def report(self, positions: Positions) -> None:
        """Note positions to report some time later."""
        self._positions.update(positions)

    def reported(self, places: Mapping[TopicPartition, str]) -> Positions:
        """The offsets once reported for `places`, by any member. Each is given with the id of its topic: what
        was reported of another topic of that name says nothing.
        """
        self._ids = dict(places)
        committed = ask(
            self._env,
            self._bootstrap,
            f"reading the offsets of group {self.group}",
            lambda: self._member.reported([*places]),
        )
        return {tp: offset for tp, (offset, ident) in committed.items() if ident in ("", places[tp])}

    def close(self, cluster: Cluster) -> None:
        """Report once more and leave at once; a static member must be taken out by name."""
        last = self._positions != self._reported and not self._member.held().replaced
        member = self._member.leave(self._positions if last else {}, self._ids, _LEAVE_S)
        self._note_failed_report()
        if self._replica and member:
            try:
                cluster.remove_member(self.group, self._replica, member)
            except (Unreachable, Stop) as error:
                _log.warning("election.not_left", group=self.group, replica=self._replica, reason=str(error))

    def _poll(self, timeout_s: float) -> None:
        """Let the client heartbeat, join and learn its assignment."""
        try:
            self._member.join(timeout_s)
        except ClientError as error:
            if error.code == Code.FENCED_INSTANCE:
                raise self._replaced() from error
            if not error.retriable:
                raise explained(self._bootstrap, f"election in group {self.group}", error) from error
            # Else the coordinator moves or is away; the level says what that means.

    def _held(self) -> frozenset[int]:
        """The assigned shards, if the coordinator confirmed this membership lately."""
        membership = self._member.held()
        if membership.generation != self._generation and membership.stable:
            self._generation, self._joined_at = membership.generation, self._env.monotonic()
        if membership.replaced:
            raise self._replaced()
        silent_s = self._env.monotonic() - self._confirmed_at(membership)
        if silent_s > self._member.session_s or self._is_doubted(membership):
            return frozenset()
        return membership.shards

    def _confirmed_at(self, membership: Membership) -> float:
        """When the coordinator last said that this is a member. A rebalance is no denial of it."""
        return max(self._joined_at, membership.granted_at_s)

    def _is_doubted(self, membership: Membership) -> bool:
        """No answer since the doubt: neither a generation joined nor a heartbeat sent and granted."""
        if self._joined_at > self._doubted_at:
            return False
        granted = self._doubted_at < membership.asked_at_s <= membership.granted_at_s
        return not (granted and membership.stable and not membership.must_rejoin)

    def _replaced(self) -> Stop:
        return Stop(
            f"Another process has joined group {self.group} as replica {self._replica!r}, and has taken this "
            "one's place. Give every process its own [app] replica (or none), or stop one of them."
        )

    def _report(self) -> None:
        self._note_failed_report()
        if self._env.monotonic() < self._report_at or self._positions == self._reported:
            return
        self._report_at = self._env.monotonic() + REPORT_S
        self._reported = dict(self._positions)
        self._member.report(self._reported, self._ids)

    def _note_failed_report(self) -> None:
        if reason := self._member.report_error():
            self._reported = {}
            _log.debug("positions.not_reported", group=self.group, reason=reason)
