"""Questions to a Kafka cluster, and a few orders.

Invariant: every question has a deadline; while a cluster moves (elections, restarts) it is asked again until
then.
"""

from collections.abc import Iterable, Sequence

import structlog

from streamlearn.core.records import TopicPartition
from streamlearn.env import Env
from streamlearn.errors import ConfigError, Stop
from streamlearn.log.kafka.client import EARLIEST, LATEST, Client, ClientError, Code
from streamlearn.log.kafka.errors import ask, explained
from streamlearn.log.port import TopicInfo, TopicSpec

_REPLICAS = 3

_log = structlog.get_logger()


class Cluster:
    """An admin client, connected when made. Raises `Unreachable` and `ConfigError` as `Client.admin` does."""

    def __init__(self, env: Env, client: Client) -> None:
        self.env = env
        self.bootstrap = client.bootstrap
        self.admin = client.admin()

    def topics(self, names: Iterable[str]) -> dict[str, TopicInfo]:
        """The topics of `names` that exist, Kafka's internal ones excluded."""
        asked_names = sorted(set(names))
        # One question: a topic that is deleted before its offsets are asked for is gone at the next try.
        return ask(self.env, self.bootstrap, "describing topics", lambda: self._described(asked_names))

    def topic_names(self) -> list[str]:
        """As `Admin.topic_names`."""
        return ask(self.env, self.bootstrap, "listing topics", self.admin.topic_names)

    def _described(self, topic_names: list[str]) -> dict[str, TopicInfo]:
        described = self.admin.topics(topic_names)
        places = [(name, index) for name, (_, count) in described.items() for index in range(count)]
        start = self.admin.offsets(places, EARLIEST, committed=False)
        end = self.admin.offsets(places, LATEST, committed=True)
        return {
            name: TopicInfo(
                topic_id,
                tuple(start[name, index] for index in range(count)),
                tuple(end[name, index] for index in range(count)),
            )
            for name, (topic_id, count) in described.items()
        }

    def offsets(
        self, places: Sequence[TopicPartition], timestamp_ms: int, *, committed: bool = False
    ) -> dict[TopicPartition, int]:
        """Offsets by `EARLIEST`, `LATEST` or a timestamp in ms; -1 where no record is that young."""
        return ask(
            self.env,
            self.bootstrap,
            "asking for offsets",
            lambda: self.admin.offsets(places, timestamp_ms, committed=committed),
        )

    def hidden(self, names: Iterable[str]) -> dict[TopicPartition, int]:
        """As `Log.hidden_outputs`, of the topics of `names` that exist."""
        places = [
            (name, index) for name, info in self.topics(names).items() for index in range(info.partitions)
        ]
        stable = self.offsets(places, LATEST, committed=True)
        high = self.offsets(places, LATEST)
        return {tp: offset for tp, offset in stable.items() if offset < high[tp]}

    def offsets_at(self, topic: str, timestamp_ms: int) -> tuple[int, ...]:
        """As `Log.offsets_at`."""
        info = self.topics([topic]).get(topic)
        if info is None:
            raise ConfigError(f"Kafka at {self.bootstrap}: there is no topic {topic}.")
        places = [(topic, index) for index in range(info.partitions)]
        offsets = self.offsets(places, timestamp_ms)
        return tuple(
            info.end[i] if offsets[topic, i] < 0 else offsets[topic, i] for i in range(info.partitions)
        )

    def settings(self, topics: Sequence[str]) -> dict[str, dict[str, str]]:
        """All settings of each topic, also those that are defaults."""
        return ask(self.env, self.bootstrap, "reading topic settings", lambda: self.admin.settings(topics))

    def create(self, specs: Sequence[TopicSpec]) -> None:
        """Make the topics that do not exist, replicated as far as the cluster allows."""
        replicas = min(_REPLICAS, ask(self.env, self.bootstrap, "counting brokers", self.admin.brokers))
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

    def delete_before(self, tp: TopicPartition, offset: int) -> None:
        """Delete the records of a partition before `offset`."""
        purpose = f"deleting old records of {tp[0]}-{tp[1]}"
        ask(self.env, self.bootstrap, purpose, lambda: self.admin.delete_before(tp, offset))

    def open_transactions(self, tp: TopicPartition) -> str:
        """A sentence naming the producers that hold a transaction open in a partition."""
        try:
            producers = self.admin.open_producers(tp)
        except ClientError as error:
            return f"Kafka does not say by whom: {error}."
        holders = [
            f"producer id {producer_id}, epoch {epoch}, open since offset {offset}"
            for producer_id, epoch, offset in producers
        ]
        return f"Open in {tp[0]}-{tp[1]}: {'; '.join(holders) or 'none any more'}."

    def transaction_owner(self, transactional_id: str) -> tuple[int, int]:
        """Producer id and epoch of who took a transactional id last. Raises `Unreachable`, `Stop`, ..."""
        purpose = f"who holds {transactional_id}"
        return ask(self.env, self.bootstrap, purpose, lambda: self.admin.owner(transactional_id))

    def remove_member(self, group: str, replica: str, member_id: str) -> None:
        """Take a static member out of its group, which it does not leave by itself. With its `member_id`, so
        that a process which replaced it stays.
        """
        ask(
            self.env,
            self.bootstrap,
            "leaving",
            lambda: self.admin.remove_member(group, replica, member_id),
            2.0,
        )

    def members(self, group: str) -> int:
        """The number of members of a group now; 0 for one that does not exist, -1 when Kafka does not say."""
        try:
            return ask(self.env, self.bootstrap, f"members of {group}", lambda: self.admin.members(group))
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
