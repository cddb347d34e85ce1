"""The topics that streamlearn itself writes: how many partitions and which settings each wants.

Invariant: nothing here knows a backend. Settings carry Kafka's names; a backend that cannot replicate
ignores what is about replicas.
"""

import shlex

from streamlearn.log.port import TopicNames, TopicSpec

_DURABLE = {"min.insync.replicas": "2"}
ARRIVAL = {"message.timestamp.type": "LogAppendTime"}
"""Records carry the time of their arrival, never the event's nor our clock's: retention goes by this time,
and an old or a future one would lose what we publish, or have it refused. On all topics."""


def wanted_topics(names: TopicNames, input_partitions: int, shards: int = 1) -> list[TopicSpec]:
    """The topics to create for one service, in a fixed order; inputs belong to the user and are not here."""
    settings_by_role: dict[str, tuple[int, dict[str, str]]] = {
        "predictions": (input_partitions, {}),
        "dlq": (input_partitions, {}),
        "scores": (1, {}),
        "alerts": (1, {}),
        # Commands are as needed for a redo as events are, and are few.
        "control": (1, {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "67108864"}),
        # The journal must not vanish: streamlearn trims it, nobody else.
        "journal": (shards, {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}),
        # A chunk of a checkpoint is 512 KiB and must fit whatever the cluster's default is.
        "checkpoints": (shards, {"cleanup.policy": "compact", "max.message.bytes": "1048588"}),
    }
    return [
        TopicSpec(names.roles[role], partitions, {**settings, **ARRIVAL, **_DURABLE})
        for role, (partitions, settings) in settings_by_role.items()
        if role in names.roles
    ]


def alter_command(bootstrap: str, topic: str, setting: str) -> str:
    """The command that gives an existing topic a setting, `name=value`."""
    words = ["--alter", "--entity-type", "topics", "--entity-name", topic, "--add-config", setting]
    return shlex.join(["kafka-configs.sh", "--bootstrap-server", bootstrap, *words])
