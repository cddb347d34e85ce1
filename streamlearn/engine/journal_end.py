"""What the journal says without anything being stepped: its end, its checkpoints, and where a revision began.

Invariant: what was trimmed is not asked for. A journal is read from the newest confirmed checkpoint on, and
without one from its oldest entry.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from streamlearn.core.journal import Checkpoint, Entry, Era
from streamlearn.core.records import Positions, TopicPartition
from streamlearn.core.shard.snapshot import Header
from streamlearn.engine.cursor import ids_under, positions_under
from streamlearn.engine.registry import Alive
from streamlearn.errors import Gone, Stop
from streamlearn.log.port import Reader, ShardLog

BIRTHS: Final = ("genesis", "model")
"""Why an era began whose entry holds the position of every input."""


class JournalEnd(NamedTuple):
    """The last entry, the era that holds there with its number, and the positions after it with the ids of
    their topics. `stepped`: the newest entry that changed the state, as far as was read; -1 without one.
    """

    entry: Entry
    era: Era
    number: int
    positions: Positions
    ids: dict[str, str]
    stepped: int


def checkpoints_at(end: Entry | None, entries: Callable[[int], Iterator[Entry]]) -> Sequence[Checkpoint]:
    """The checkpoints that a journal with this end names, oldest first. `entries`: those after some number.

    Raises `Stop` when the entry that names them is gone: trimming leaves it, so something else deleted it.
    """
    if end is None or end.checkpoints:
        return () if end is None else end.checkpoints
    try:
        naming = next(entries(end.named - 1), None)
    except Gone as error:
        raise Stop(
            f"the journal no longer holds entry {end.named}, which names the checkpoints ({error}): "
            "something else than streamlearn deleted from it. Restore it, or begin a new one where the "
            "predictions end: `streamlearn reset --start predictions`."
        ) from error
    return () if naming is None else naming.checkpoints


def named_checkpoints(reader: Reader, journal: TopicPartition) -> Sequence[Checkpoint]:
    """The checkpoints that a journal names now, as anybody may read it, oldest first; none where there is no
    journal.
    """
    if journal[0] not in reader.topics([journal[0]]):
        return ()
    return checkpoints_at(reader.end(journal), lambda after: reader.entries(journal, after))


def entries(shard_log: ShardLog, journal: str, after: int, alive: Alive) -> Iterator[Entry]:
    """The entries after `after`; `alive` is called at each, for they may be millions. Raises `Stop` when they
    are not all there.
    """
    try:
        for entry in shard_log.entries(after):
            alive()
            yield entry
    except Gone as error:
        raise Stop(
            f"the journal {journal} no longer holds entry {after + 1} ({error}), and no usable checkpoint "
            "stands later: the state cannot be made again. Restore a checkpoint or the journal, or begin a "
            "new one: `streamlearn reset`."
        ) from error


def read_end(
    shard_log: ShardLog, journal: str, end: Entry, newest: Header | None, alive: Alive
) -> JournalEnd:
    """The journal's end, from the newest checkpoint that it confirms, if there is one."""
    era = newest.under if newest else None
    number = newest.era if newest else 0
    positions: Positions = newest.next_offsets() if newest else {}
    ids = newest.topic_ids() if newest else {}
    whole = newest is not None
    stepped = -1
    after = newest.seq if newest else shard_log.first_seq() - 1
    for entry in entries(shard_log, journal, after, alive):
        whole = whole or _is_birth(entry)
        if entry.change is not None:
            era, number = entry.change, entry.era
        positions, ids = places_after(entry, positions, ids)
        stepped = entry.seq if entry.steps else stepped
    if era is None or not whole:
        raise Stop(
            f"the journal {journal} begins after its last era, and no checkpoint is usable: how far each "
            "input was read is not known. Restore a checkpoint, or begin a new journal: `streamlearn reset`."
        )
    return JournalEnd(end, era, number, positions, ids, stepped)


def places_after(
    entry: Entry, positions: Positions, ids: Mapping[str, str]
) -> tuple[Positions, dict[str, str]]:
    """The positions after an entry, from those before it, and the ids of their topics."""
    if entry.change is not None:
        positions, ids = positions_under(entry.change, positions, ids), ids_under(entry.change, ids)
    return {**positions, **{(run.topic, run.partition): run.next for run in entry.ranges}}, dict(ids)


def find_birth(shard_log: ShardLog, journal: str, revision: int, alive: Alive) -> Entry | None:
    """The era entry with which the model of `revision` began; None when it was trimmed away."""
    for entry in entries(shard_log, journal, shard_log.first_seq() - 1, alive):
        if _is_birth(entry) and entry.change is not None and entry.change.revision == revision:
            return entry
    return None


def _is_birth(entry: Entry) -> bool:
    """Whether a model began here, and with it a count of all positions from nothing."""
    return entry.change is not None and entry.change.why in BIRTHS
