"""Reasons for which recovery goes no further: what a person must decide, or mend.

Invariant: nothing here changes anything. Each function returns when there is no such reason, else raises it.
"""

from collections.abc import Iterable, Mapping

from streamlearn.config.schema import Config
from streamlearn.core.journal import Era
from streamlearn.core.records import Positions
from streamlearn.engine.checkpoints import BlobName
from streamlearn.engine.journal_end import JournalEnd
from streamlearn.engine.witnesses import AnsweredRecord, newest_predictions
from streamlearn.errors import ConfigError, Stop
from streamlearn.log.port import ShardLog, TopicInfo
from streamlearn.service.starting_states import StartingState


def refuse_lost_journal(birth_name: BlobName, journal: str, stored: Iterable[str], seen: Positions) -> None:
    """Raise when something says that this app has run, though its journal is empty.

    Args:
        birth_name: The name of the checkpoint that this life begins with.
        journal: The name of the journal.
        stored: The names of the checkpoints that are there.
        seen: The group offsets that an owner has reported.

    Raises:
        Stop: There is a checkpoint of an earlier life, or a group offset.
    """
    left = [name for name in map(BlobName.parse, stored) if name is not None]
    lives = [name.text for name in left if name.seq > 0 or name.journal != birth_name.journal]
    witness = ", ".join(lives) or ", ".join(
        f"{topic}-{partition} at {offset}" for (topic, partition), offset in seen.items()
    )
    if witness:
        raise Stop(
            f"the journal {journal} is empty, but this app has run before (checkpoints or group "
            f"offsets: {witness}): the journal lost its data. Restore it, or begin a new one: "
            "`streamlearn reset`."
        )


def refuse_answered_input(
    config: Config, shard_log: ShardLog, topics: Mapping[str, TopicInfo], start: Positions
) -> None:
    """Raise `Stop` when there are predictions already of what would be read from `start` on, beside an empty
    journal.
    """
    ends = {
        (name, partition): end
        for name in config.names().sources
        for partition, end in enumerate(topics[name].end)
    }

    def again(source: AnsweredRecord) -> bool:
        return start.get(source.partition, 0) <= source.offset < ends.get(source.partition, 0)

    answered = newest_predictions(shard_log, {}, again)
    if answered:
        newest = ", ".join(f"{partition[0]}-{partition[1]} at {offset}" for partition, offset, _ in answered)
        raise Stop(
            f"the journal {config.topics.journal} is empty, but {config.topics.predictions} holds "
            f"predictions for this input already (the newest: {newest}). If the journal was lost, "
            "restore it, or begin a new one where the predictions end: `streamlearn reset --start "
            "predictions`. If they are another app's, or are to be made once more: `serve --begin`."
        )


def refuse_other_bits(end: JournalEnd, now: Era, newest: StartingState | None) -> None:
    """Raise `Stop` when entries would be redone on a machine that computes other bits than the one which
    wrote them. None are where the newest state stands at the journal's end.
    """
    at_end = newest is not None and newest.header.seq >= end.stepped
    if end.era.fingerprint != now.fingerprint and not at_end:
        raise Stop(
            f"this machine's floating point ({now.fingerprint}) differs from that of the machine which "
            f"wrote the journal ({end.era.fingerprint}), so it would not compute the same bits. Stop the "
            "old machine's service gracefully first (it leaves a checkpoint at the end), or set "
            "[app] portable_math = true on all machines."
        )


def refuse_silent_change(model_change: str, journal: str, era: Era, now: Era) -> None:
    """Raise `ConfigError` when a changed model would replace the old one, unless the user said so."""
    if model_change != "fresh":
        raise ConfigError(
            f"the model has changed: the journal {journal} was written by version "
            f"{era.model_version}, and [model] now builds version {now.model_version}. Choose: bring the "
            "old model back; or `--model-change fresh` to begin with the new one, untrained, at the "
            "place where the old one stopped. (`rival` and `relearn` come in a later version.)"
        )
