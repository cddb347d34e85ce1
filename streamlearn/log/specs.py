"""The topics that streamlearn itself writes: how many partitions and which settings each wants.

Invariant: nothing here knows a backend. Settings carry Kafka's names; a backend that cannot replicate
ignores what is about replicas.
"""

from streamlearn.log.port import Names, TopicSpec

_DURABLE = {"min.insync.replicas": "2"}
_ARRIVAL = {"message.timestamp.type": "LogAppendTime"}
"""Records carry the time of their arrival, never the event's: retention goes by this timestamp, and an old
or a future event time would lose or refuse what we publish."""


def wanted_topics(names: Names, input_partitions: int, shards: int = 1) -> list[TopicSpec]:
    """The topics to create for one service, in a fixed order; inputs belong to the user and are not here."""
    wanted: dict[str, tuple[int, dict[str, str]]] = {
        "predictions": (input_partitions, {**_ARRIVAL, **_DURABLE}),
        "dlq": (input_partitions, {**_ARRIVAL, **_DURABLE}),
        "scores": (1, {**_ARRIVAL, **_DURABLE}),
        "alerts": (1, {**_ARRIVAL, **_DURABLE}),
        # Commands are as needed for a redo as events are, and are few.
        "control": (
            1,
            {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "67108864"}
            | _ARRIVAL
            | _DURABLE,
        ),
        # The journal must not vanish: streamlearn trims it, nobody else.
        "journal": (
            shards,
            {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1", **_DURABLE},
        ),
        # A chunk of a checkpoint is 512 KiB and must fit whatever the cluster's default is.
        "checkpoints": (shards, {"cleanup.policy": "compact", "max.message.bytes": "1048588", **_DURABLE}),
    }
    return [
        TopicSpec(names.roles[role], partitions, settings)
        for role, (partitions, settings) in wanted.items()
        if role in names.roles
    ]
