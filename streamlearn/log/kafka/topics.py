"""Conditions that a service's topics must meet before it may join the election or open its shard.

Invariant: each refusal names the topic, what it is, and the command that changes it. Nothing is changed here.
"""

from collections.abc import Mapping
from typing import NamedTuple

from streamlearn.core.records import TopicPartition
from streamlearn.errors import ConfigError
from streamlearn.log.internal_topics import ARRIVAL, alter_command
from streamlearn.log.kafka.client import FRAME_BYTES
from streamlearn.log.kafka.cluster import Cluster
from streamlearn.log.port import TopicInfo, TopicNames

_MESSAGE_BYTES = 1048588
_KEPT = ("retention.ms", "retention.bytes")
_OTHER_WRITERS = ("checkpoints", "control")
"""Roles that the shard's own producer does not write."""

_Settings = Mapping[str, Mapping[str, str]]


class Looked(NamedTuple):
    """The partitions of each role's topic, `max.message.bytes` of what is written with an entry, and the
    partitions that are read, each with the id of its topic.
    """

    places: dict[str, list[TopicPartition]]
    limits: dict[str, int]
    inputs: dict[TopicPartition, str]


def look(cluster: Cluster, names: TopicNames, shard: int) -> Looked:
    """Look at every topic of a service. Raises `ConfigError` for the first one that it cannot work with."""
    ours = names.roles
    journal = ours["journal"]
    topics = cluster.topics([*names.sources, *ours.values()])
    _check_existence(cluster.bootstrap, names, topics, shard)
    settings = cluster.settings([*names.sources, *ours.values()])
    _check_journal(cluster.bootstrap, journal, settings)
    for topic in ours.values():
        _check_arrival(cluster.bootstrap, topic, settings)
    for topic in names.sources:
        _check_not_compacted(cluster.bootstrap, topic, settings)
    return Looked(
        {role: [(topic, n) for n in range(topics[topic].partitions)] for role, topic in ours.items()},
        {
            topic: batch_limit(settings.get(topic, {}))
            for role, topic in ours.items()
            if role not in _OTHER_WRITERS
        },
        {(topic, n): topics[topic].id for topic in names.sources for n in range(topics[topic].partitions)},
    )


def _check_existence(bootstrap: str, names: TopicNames, topics: Mapping[str, TopicInfo], shard: int) -> None:
    """Every topic is there, and the journal has a partition for the shard."""
    for topic in (*names.sources, *names.roles.values()):
        if topic not in topics:
            raise ConfigError(
                f"Kafka at {bootstrap} has no topic {topic}. "
                "Create it; `streamlearn topics ensure` makes those that streamlearn writes."
            )
    journal = names.roles["journal"]
    if shard >= topics[journal].partitions:
        raise ConfigError(
            f"The journal {journal} has {topics[journal].partitions} partitions, none for shard "
            f"{shard}. Add partitions to it, or begin a new journal: `streamlearn reset`."
        )


def batch_limit(settings: Mapping[str, str]) -> int:
    """The largest batch that a topic with these settings takes."""
    return int(settings.get("max.message.bytes", _MESSAGE_BYTES))


def record_limit(settings: Mapping[str, str]) -> int:
    """The largest record, as `Transactions.check` counts it, that a topic with these settings takes."""
    return batch_limit(settings) - FRAME_BYTES


def _check_journal(bootstrap: str, journal: str, settings: _Settings) -> None:
    """Nobody but streamlearn may delete from the journal."""
    actual = settings.get(journal, {})
    policy = actual.get("cleanup.policy", "delete")
    if policy == "":  # since Kafka 4.2: nothing is deleted, whatever the retention
        return
    wrong = {"cleanup.policy": "delete"} if policy != "delete" else {}
    wrong |= {name: "-1" for name in _KEPT if actual.get(name, "-1") != "-1"}
    for name, needed in wrong.items():
        raise ConfigError(
            f"The journal {journal} has {name} = {actual[name]}, so Kafka would delete "
            f"what recovery needs. Set {name} = {needed} on that topic, then start again:\n  "
            + alter_command(bootstrap, journal, f"{name}={needed}")
        )


def _check_arrival(bootstrap: str, topic: str, settings: _Settings) -> None:
    """Records of ours get their time from the broker, because a host's clock may be wrong by any amount."""
    for name, needed in ARRIVAL.items():
        actual = settings.get(topic, {}).get(name, needed)
        if actual != needed:
            raise ConfigError(
                f"The topic {topic} has {name} = {actual}: its records would carry the clock of this host, "
                f"and Kafka refuses them when that is wrong. Set {name} = {needed}, then start again:\n  "
                + alter_command(bootstrap, topic, f"{name}={needed}")
            )


def _check_not_compacted(bootstrap: str, topic: str, settings: _Settings) -> None:
    """Refuse topics that are not the same when read again: compaction takes records out of the middle."""
    policy = settings.get(topic, {}).get("cleanup.policy", "delete")
    if "compact" in policy.split(","):
        raise ConfigError(
            f"The topic {topic} has cleanup.policy = {policy}: compaction takes records away, after which "
            "nothing that was learned from them can be computed again. Read from a topic that is not "
            "compacted, or change this one, then start again:\n  "
            + alter_command(bootstrap, topic, "cleanup.policy=delete")
        )
