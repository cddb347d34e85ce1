"""Witnesses of how far this app has come, outside the journal, asked at every opening.

A power cut can take the end of the journal and leave what was published: each partition is cut by itself. Two
witnesses outside the journal say how far an owner has been: the positions that were reported after a commit
(group offsets), and the predictions, each of which names the record it answers. Neither may lie beyond the
journal's end with records between, or those records would be predicted a second time.

Invariants:
- A witness only ever stops a service; nothing is decided by it and no position is taken from it.
- Predictions from before the inputs were these very topics prove nothing: an era says from where on they do.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import orjson

from streamlearn.config.schema import Config
from streamlearn.core.journal import Era, Predictions
from streamlearn.core.records import Positions, Range, Record, TopicPartition
from streamlearn.errors import Gone, Reopen, Stop
from streamlearn.log.port import ShardLog, TopicInfo


class AnsweredRecord(NamedTuple):
    """The record that a prediction answers, and the version of the model that answered."""

    partition: TopicPartition
    offset: int
    version: str


def answered_record(record: Record) -> AnsweredRecord | None:
    """The source that a published prediction names; None when it is none of ours."""
    try:
        body: Any = orjson.loads(record.value or b"")
        source = body["source"]
        partition = (str(source["topic"]), int(source["partition"]))
        return AnsweredRecord(partition, int(source["offset"]), str(body["model"]["version"]))
    except (ValueError, KeyError, TypeError, IndexError):  # something else writes to this topic, too
        return None


def predictions_now(config: Config, topics: Mapping[str, TopicInfo]) -> Predictions:
    """The predictions topic as it is before anything of an era is published."""
    name = config.topics.predictions
    return Predictions(name, topics[name].id, list(topics[name].end))


def newest_predictions(
    shard_log: ShardLog, since: Mapping[int, int], accepts: Callable[[AnsweredRecord], bool]
) -> list[AnsweredRecord]:
    """The newest prediction of each partition from offsets `since` on that is `wanted`."""

    def fits(record: Record) -> bool:
        source = answered_record(record)
        return source is not None and accepts(source)

    try:
        sources = [answered_record(record) for record in shard_log.newest("predictions", since, fits)]
    except Gone as error:
        raise Reopen(f"retention went on while the newest predictions were looked for ({error})") from error
    return [source for source in sources if source is not None]


def check_witnesses(
    shard_log: ShardLog,
    journal: str,
    era: Era,
    versions: frozenset[str],
    positions: Positions,
    topics: Mapping[str, TopicInfo],
) -> None:
    """Raise `Stop` when something was done that the journal, whose end is at `positions`, does not hold.

    `era` stands at the journal's end; `versions` are the models that may have answered for this app.
    """
    for partition, reported in shard_log.seen.items():
        position = positions.get(partition)
        if (
            position is not None
            and reported > position
            and _holds_a_record(shard_log, Range(*partition, position, reported))
        ):
            raise _lost(journal, partition, position, f"its owner once reported {reported}")
    before = era.predictions
    if before is None or before.topic not in topics:
        return
    same = topics[before.topic].id == before.id
    since = dict(enumerate(before.ends)) if same else {}

    def accepts(source: AnsweredRecord) -> bool:
        return source.version in versions and source.partition in positions

    for source in newest_predictions(shard_log, since, accepts):
        position = positions[source.partition]
        if source.offset >= position:
            raise _lost(
                journal, source.partition, position, f"{before.topic} has the prediction for {source.offset}"
            )


def _holds_a_record(shard_log: ShardLog, run: Range) -> bool:
    """True if a record stands in `run`: marks of transactions alone may have been passed over."""
    try:
        return any(True for _ in shard_log.read(run))
    except Gone:  # what is not there any more, nobody can do again
        return False


def _lost(journal: str, partition: TopicPartition, position: int, witness: str) -> Stop:
    return Stop(
        f"the journal {journal} lost its end: it says that {partition[0]}-{partition[1]} was done up to "
        f"offset {position}, but {witness}. Going on would publish predictions a second time. Restore the "
        "journal; or begin a new one where the predictions end: `streamlearn reset --start predictions`."
    )
