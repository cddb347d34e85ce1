"""The log on Kafka: how the parts in this folder make one connection of a service.

Invariants:
- One admin connection and one group membership per process; a producer and two readers per open shard.
- Making a `KafkaLog` proves that a broker answers; everything else is connected when first needed.
"""

import math
from collections.abc import Mapping

import structlog

from streamlearn.core.records import SHARD
from streamlearn.core.records import TopicPartition as Place
from streamlearn.env import Env
from streamlearn.errors import ConfigError, Fenced, NotOwner
from streamlearn.log.kafka import ClientName, new_client
from streamlearn.log.kafka.admin import KafkaAdmin
from streamlearn.log.kafka.cluster import Cluster
from streamlearn.log.kafka.election import Election
from streamlearn.log.kafka.shard import KafkaShardLog
from streamlearn.log.kafka.store import TopicStore
from streamlearn.log.kafka.topics import look, record_limit
from streamlearn.log.port import ProducerRecord, TopicInfo, TopicNames

_log = structlog.get_logger()

__all__ = ["KafkaAdmin", "KafkaLog", "KafkaShardLog", "TopicStore"]

_OUTPUTS = ("predictions", "dlq", "scores", "alerts")


class KafkaLog:
    """`Log` on Kafka. `options` are the client's, by their dotted Kafka names. Without `trims` the journal is
    kept whole, for replicas that do not share the checkpoints.
    """

    def __init__(
        self,
        env: Env,
        names: TopicNames,
        bootstrap: str,
        options: Mapping[str, str],
        trims: bool = True,
        client: ClientName = "kafka-python",
    ) -> None:
        self._env = env
        self._names = names
        self._given = options
        self._trims = trims
        self._client = new_client(env, bootstrap, options, client)
        _log.info("kafka.client", **self._client.versions)
        self._cluster = Cluster(env, self._client)
        self._election: Election | None = None

    def owned(self, timeout_s: float) -> frozenset[int]:
        """As `Log.owned`. The first call joins the group."""
        return self._member().owned(timeout_s)

    def open(self, shard: int) -> KafkaShardLog:
        """As `Log.open`. Raises `Unreachable`, `Fenced` (a newer owner meanwhile) or `Stop`."""
        member = self._member()
        try:
            return KafkaShardLog(self._client, self._cluster, self._names, member, shard, trims=self._trims)
        except Fenced:
            member.doubt()
            raise

    def lost(self) -> NotOwner:
        """As `Log.lost`: the election alone knows no more."""
        return NotOwner(self._member().why_not())

    def others(self) -> int:
        """As `Log.others`."""
        return self._cluster.members(self._names.lock)

    def retire(self, shard: int) -> None:
        """As `Log.retire`: an epoch is taken, and an open transaction aborted, as at every opening."""
        self.open(shard).close()

    def retention_s(self) -> dict[str, float]:
        """As `Log.retention_s`. A limit in bytes is not counted: when it acts depends on the rate."""
        settings = self._cluster.settings(list(self._names.sources))
        kept_ms = {topic: float(values.get("retention.ms", "-1")) for topic, values in settings.items()}
        return {topic: math.inf if age_ms < 0 else age_ms / 1000 for topic, age_ms in kept_ms.items()}

    def tell(self, value: bytes) -> None:
        """As `Log.tell`. It is rare: a producer is made for it, and closed."""
        admin = KafkaAdmin(self._env, self._cluster.bootstrap, self._given)
        try:
            admin.append(self._names.roles["alerts"], [ProducerRecord(None, value)])
        finally:
            admin.close()

    def members(self) -> int:
        """As `Log.members`."""
        return self.others()

    def topics(self) -> dict[str, TopicInfo]:
        """As `Log.topics`."""
        return self._cluster.topics([*self._names.sources, *self._names.roles.values()])

    def hidden_outputs(self) -> dict[Place, int]:
        """As `Log.hidden_outputs`."""
        roles = self._names.roles
        return self._cluster.hidden([topic for role, topic in roles.items() if role in _OUTPUTS])

    def open_transactions(self, tp: Place) -> str:
        """As `Log.open_transactions`."""
        return self._cluster.open_transactions(tp)

    def record_limit(self, role: str) -> int | None:
        """As `Log.record_limit`."""
        topic = self._names.roles[role]
        return record_limit(self._cluster.settings([topic]).get(topic, {}))

    def offsets_at(self, topic: str, timestamp_ms: int) -> tuple[int, ...]:
        """As `Log.offsets_at`."""
        return self._cluster.offsets_at(topic, timestamp_ms)

    def close(self) -> None:
        """As `Log.close`: leaves the group at once, also as a static member."""
        if self._election is not None:
            self._election.close(self._cluster)
            self._election = None
        self._cluster.close()

    def _member(self) -> Election:
        if self._election is None:
            journal = self._names.roles["journal"]
            if journal not in self._cluster.topics([journal]):
                raise ConfigError(
                    f"Kafka at {self._cluster.bootstrap} has no topic {journal}. "
                    "Run `streamlearn topics ensure`, or create it."
                )
            look(self._cluster, self._names, shard=SHARD)
            if not self._trims:
                _log.warning(
                    "journal.not_trimmed",
                    topic=journal,
                    reason="[checkpoint] url is a folder, which other replicas may not have: the journal "
                    "keeps all entries, and a replica without checkpoints redoes it from the first",
                )
            self._election = Election(self._env, self._client, self._names)
        return self._election
