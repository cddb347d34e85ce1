"""The newest scores of a service: of its scores topic, or of its newest checkpoint, whichever is newer.

Messages come with predictions and labels. What a short or an idle stream has done since the last one is in
the checkpoint, and its scores are the very ones that the next message would go on from.

Invariant: nothing is fenced and nothing written; a checkpoint that is not whole is passed over.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import orjson

from streamlearn.core.labels.joiner import LabelJoiner
from streamlearn.core.records import Positions, TopicPartition
from streamlearn.core.scores.scores import Scores
from streamlearn.core.shard.encode import scores_report
from streamlearn.core.shard.snapshot import Header, load_memory, unseal
from streamlearn.engine.checkpoints import named_bytes
from streamlearn.engine.era import stated_spec
from streamlearn.engine.journal_end import named_checkpoints
from streamlearn.errors import BadCheckpoint
from streamlearn.history.topic_reader import between, resolve_offsets
from streamlearn.log.port import Admin, CheckpointStore

_BACK: Final = (10, 100, 10_000)
"""So far before the end the newest message is looked for: on Kafka marks of transactions take offsets too."""


def newest_scores(
    admin: Admin, store: CheckpointStore, key: bytes, topic: str, journal: TopicPartition
) -> dict[str, Any] | None:
    """As a message of the scores topic; None where there is neither message nor checkpoint. What came of a
    checkpoint has `source` `{"checkpoint": its number}`, and no `ts`. Where no label was scored, `source`
    has `unread`, if there are records after it that may bring some: how many, at most.
    """
    message = _newest_message(admin, topic)
    positions, labelled, scores = _newest_saved(admin, journal, store, key) or ({}, [], message)
    if scores is not None and message is not None and not _is_newer(scores, message, positions):
        scores = message
    if scores is None or scores["labels"]:
        return scores
    source = scores["source"]
    if scores is message:
        partition = (source["topic"], source["partition"])
        positions = positions | {partition: max(source["offset"] + 1, positions.get(partition, 0))}
    if unread := _unread(admin, labelled, positions):
        source["unread"] = unread
    return scores


def _is_newer(scores: dict[str, Any], message: dict[str, Any], positions: Positions) -> bool:
    """True if scores of a checkpoint at `positions` count more than a message."""
    return _covers(message, positions) and any(message[n] != scores[n] for n in ("events", "labels"))


def _unread(admin: Admin, topics: Sequence[str], positions: Positions) -> int:
    """The number of records of `topics` after `positions`, at most."""
    return sum(
        max(0, end - max(start, positions.get((name, partition), 0)))
        for name, info in admin.topics(topics).items()
        for partition, (start, end) in enumerate(zip(info.start, info.end, strict=True))
    )


def _newest_message(admin: Admin, topic: str) -> dict[str, Any] | None:
    if topic not in admin.topics([topic]):
        return None
    end = resolve_offsets(admin, topic, "end")
    for where in (*(f"-{back}" for back in _BACK), "beginning"):
        newest = deque(between(admin, topic, resolve_offsets(admin, topic, where), end), maxlen=1)
        if newest:
            message: dict[str, Any] = orjson.loads(newest[0].value or b"{}")
            return message
    return None


def _newest_saved(
    admin: Admin, journal: TopicPartition, store: CheckpointStore, key: bytes
) -> tuple[Positions, list[str], dict[str, Any]] | None:
    """The positions of the newest checkpoint that has scores, the topics that labels come on, and the scores
    as a message; None without one.
    """
    for named in reversed(named_checkpoints(admin, journal)):
        try:
            header, sections = unseal(named_bytes(store, named), key)
            scores = _saved(header, sections)
        except BadCheckpoint:  # an older one is whole
            continue
        labels = stated_spec(header.under).labels
        return header.next_offsets(), [labels.topic] if labels else [*header.under.topics], scores
    return None


def _saved(header: Header, sections: dict[str, bytes]) -> dict[str, Any]:
    """The scores message that the service would publish at this checkpoint. Raises `BadCheckpoint`."""
    spec, memory = stated_spec(header.under), load_memory(sections)
    if spec.scores is None or "scores" not in sections:
        raise BadCheckpoint("it has no scores")
    joiner = None if spec.labels is None else LabelJoiner(spec.labels, spec.event.time_as)
    try:
        task = str(msgspec.msgpack.decode(sections["scores"])["task"])
        scores = Scores.load(spec.scores, task, sections["scores"])
        if joiner is not None and "labels" in sections:
            joiner.load(sections["labels"])
    except Exception as error:  # it may say anything at all, and is taken at its word
        raise BadCheckpoint(f"its scores cannot be read: {error}") from error
    model = {"name": spec.model_name, "version": spec.model_version, "revision": spec.revision}
    return {
        "model": {**model, "learned": memory.learned},
        **scores_report(memory, scores, joiner),
        "source": {"checkpoint": header.seq},
    }


def _covers(message: dict[str, Any], positions: Positions) -> bool:
    """True if a checkpoint at `positions` knows of the record that a message came with."""
    source = message["source"]
    return positions.get((source["topic"], source["partition"]), 0) > int(source["offset"])
