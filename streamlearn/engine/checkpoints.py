"""When checkpoints are written, how the journal comes to name them, and which are kept.

A checkpoint is written beside the loop, as a blob under a name that nobody else uses. Once it is durable, the
next entry of the journal names it, with its hash, and with it all that are kept; on an idle stream an entry
of its own does. Until then, and without an entry for ever, it is nothing: what a writer that was overtaken
leaves behind counts for nobody.

Invariants:
- A checkpoint is written only for an entry whose commit is known, and named only by a later one (that of a
  birth by the very entry).
- A blob is forgotten only when a committed entry no longer names it, or when it is of an older claim of this
  journal and no entry names it.
- The loop pays for the pickle alone; sealing, compressing and writing happen in the store's thread, one
  checkpoint at a time. When one is still being written, the next is not due.
- Kept are the newest few, then one per doubling of age, for as long as the input after it is retained.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import structlog

from streamlearn.core.journal import Checkpoint, Entry
from streamlearn.core.records import Positions
from streamlearn.core.shard.snapshot import Header, Sections, open_header, seal
from streamlearn.env import Env
from streamlearn.errors import BadCheckpoint
from streamlearn.log.port import CheckpointStore, TopicInfo, Written

log = structlog.get_logger()

REDO_S = 1.0
"""So much model work may have to be redone after a crash before a checkpoint is due ahead of its time."""

WORK_PER_COST = 20


class BlobName(NamedTuple):
    """The parts of a blob's name. Within one journal, a claim and a number make it unique; `seq` comes first,
    so that names sort by age.

    >>> BlobName(42, "QX-7a", 3, 9, 1).text
    '000000000042-QX-7a-3-9-1'
    >>> BlobName.parse("000000000042-QX-7a-3-9-1")
    BlobName(seq=42, journal='QX-7a', shard=3, claim=9, number=1)
    """

    seq: int
    journal: str
    shard: int
    claim: int
    number: int

    @property
    def text(self) -> str:
        """The name."""
        return f"{self.seq:012d}-{self.journal}-{self.shard}-{self.claim}-{self.number}"

    @classmethod
    def parse(cls, name: str) -> "BlobName | None":
        """The parts of a name; None for a name of something else."""
        match = re.fullmatch(r"(\d{12})-(.+)-(\d+)-(\d+)-(\d+)", name)
        return match and cls(int(match[1]), match[2], int(match[3]), int(match[4]), int(match[5]))


def stored(names: Iterable[str], journal: str | None, shard: int) -> list[BlobName]:
    """The blobs among `names` that are of a shard of the journal with this id (None: of any), oldest
    first.
    """
    blobs = (BlobName.parse(name) for name in names)
    return sorted(blob for blob in blobs if blob and blob.shard == shard and journal in (None, blob.journal))


def newest_header(store: CheckpointStore, key: bytes, journal: str | None, shard: int) -> Header | None:
    """The header of the newest blob of a shard that is whole, None when there is none. Whether the journal
    names it is not asked.
    """
    for name in reversed(stored(store.names(), journal, shard)):
        try:
            return open_header(store.read(name.text), key)
        except BadCheckpoint:  # recovery, which comes next, says why
            continue
    return None


def named_bytes(store: CheckpointStore, named: Checkpoint) -> bytes:
    """The bytes of a checkpoint that the journal names. Raises `BadCheckpoint` when they are others, or
    gone.
    """
    data = store.read(named.name, named.where)
    if len(data) != named.size or hashlib.sha256(data).hexdigest() != named.sha256:
        raise BadCheckpoint(
            "it is not the one that the journal names (another SHA-256): it was damaged, changed or exchanged"
        )
    return data


def first_offsets(topics: Mapping[str, TopicInfo]) -> Positions:
    """The first retained offset of each partition."""
    return {
        (name, partition): offset
        for name, info in topics.items()
        for partition, offset in enumerate(info.start)
    }


def to_drop(seqs: Sequence[int], keep: int) -> list[int]:
    """Choose those of `seqs` (oldest first) that are no longer kept, by number and age.

    The newest `keep` stay; of the older ones, the oldest in each doubling of distance from the newest.

    >>> to_drop(range(0, 100, 10), keep=2)
    [10, 20, 40, 50, 70]
    """
    dropped: list[int] = []
    seen: set[int] = set()
    for seq in seqs[:-keep]:  # oldest first, so that the oldest of each doubling stays
        age = (seqs[-1] - seq).bit_length()
        if age in seen:
            dropped.append(seq)
        seen.add(age)
    return dropped


def write_birth(
    store: CheckpointStore, name: BlobName, header: Header, sections: Sections, key: bytes
) -> Checkpoint:
    """Write the state with which a revision begins, and wait. Raises what the store raised."""
    store.wait()
    with contextlib.suppress(Exception):
        store.finished()  # what an ownership before this one had begun
    store.begin(name.text, partial(seal, header, sections, key), {})
    store.wait()
    written = store.finished()
    assert written is not None
    return _checkpoint(header, written)


def _checkpoint(header: Header, written: Written) -> Checkpoint:
    return Checkpoint(header.seq, header.digest, written.name, written.size, written.sha256, written.where)


class _Unnamed(NamedTuple):
    """A checkpoint on its way: durable, and named by no entry yet."""

    checkpoint: Checkpoint
    duration_s: float


class Checkpointer:
    """The checkpoints of one ownership. All methods are for the loop's thread."""

    def __init__(
        self,
        env: Env,
        store: CheckpointStore,
        birth: BlobName,
        named: Sequence[Checkpoint],
        interval_s: float,
        keep: int,
        key: bytes,
    ) -> None:
        """`birth`: the name that a birth of this ownership has, or would have; `kept`: what the journal
        names.
        """
        self._env = env
        self._store = store
        self._interval_s = interval_s
        self._keep = keep
        self._key = key
        self._name = birth
        self._kept = [*named]
        self._last_s = self._env.monotonic()
        self._began_s = 0.0
        self._header: Header | None = None
        """Of the checkpoint that is being written."""
        self._unnamed: list[_Unnamed] = []
        self._named_seq = -1
        """The entry of the newest checkpoint that is named and was not refused."""
        self._last_seq = -1
        """The entry of the newest checkpoint that was begun and has not failed."""
        self._cost_s = 0.0
        self._positions: dict[str, Positions] = {}
        self._starts: Positions = {}
        self._elsewhere: set[str] = set()
        """Checkpoints that were in another host's folder when this ownership began."""
        self._forget: dict[str, str] = {}
        self._forgetting: dict[str, str] = {}
        """What the write that goes on is to forget at its end."""
        self._needed: int | None = None
        self.failure = ""
        """Why the newest try gave no checkpoint; "" when it gave one."""
        self.newest: Positions | None = None
        """The positions of the newest checkpoint that is named; None before there is one."""

    def begins(self, newest: Positions | None, seq: int | None, saving_s: float = 0.0) -> None:
        """A shard was opened, from the state at entry `seq`: that of a checkpoint at `newest`, or a later
        one; both None where no checkpoint could be used. What is of older claims and has no entry that names
        it goes with the next write. Raises `Unreachable`.
        """
        self.newest = newest
        self._cost_s = saving_s
        if seq is not None and self._kept:
            self._named_seq = self._last_seq = min(seq, self._kept[-1].seq)
        listed = {blob.name for blob in self._kept}
        names = self._store.names()
        self._elsewhere = listed - {*names}
        ours = stored(names, self._name.journal, self._name.shard)
        self._forget = {
            blob.text: "" for blob in ours if blob.claim < self._name.claim and blob.text not in listed
        }

    def due(self, seq: int, stepped_s: float) -> bool:
        """True if it is time for a checkpoint, after `stepped_s` of model work since the last one. `seq`: the
        newest entry that changed the state.

        By the clock every `interval_s`; under a backlog also as soon as redoing would take longer than a
        second, but never so often that checkpoints cost more than a twentieth of the work.
        """
        if seq <= self._last_seq or self._store.is_busy():
            return False
        if self._env.monotonic() - self._last_s >= self._interval_s:
            return True
        return stepped_s >= max(REDO_S, WORK_PER_COST * self._cost_s)

    def covers(self, seq: int) -> bool:
        """True if a checkpoint of entry `seq` or later was begun, and has not failed."""
        return seq <= self._last_seq

    def write(self, header: Header, sections: Sections, starts: Positions, dumped_s: float) -> None:
        """Begin to write. `starts`: the first retained offset of each input partition; `dumped_s`: what
        the sections took the loop.
        """
        self.wait()
        self.collect()
        self._cost_s = dumped_s
        self._began_s = self._last_s = self._env.monotonic()
        self._last_seq = header.seq
        self._header = header
        self._starts = starts
        self._name = self._name._replace(seq=header.seq, number=self._name.number + 1)
        self._forgetting, self._forget = self._forget, {}
        self._store.begin(self._name.text, partial(self._sealed, header, sections), self._forgetting)

    def wait(self) -> None:
        """Return when nothing is being written."""
        self._store.wait()

    def collect(self) -> None:
        """Take note of a write that has ended. A failure is logged once; the next interval tries again."""
        header, self._header = self._header, self._header if self._store.is_busy() else None
        try:
            written = self._store.finished()
        except Exception as error:  # noqa: BLE001 - the edge of the store's thread: whatever ended it
            if header is not None:
                self._forget.update(self._forgetting)
                self.put_off(str(error))
            return
        if written is None or header is None:
            return  # nothing, or what an ownership before this one had begun: it names that no more
        wrote_s = self._env.monotonic() - self._began_s
        self._cost_s += wrote_s
        self._positions[written.name] = header.next_offsets()
        self._forget.update(written.left)
        self._unnamed.append(_Unnamed(_checkpoint(header, written), round(wrote_s, 4)))

    @property
    def has_unnamed(self) -> bool:
        """True if an entry is to name what is durable."""
        return bool(self._unnamed)

    def to_name(self) -> list[Checkpoint]:
        """What the next entry is to name: all that is kept from there on; nothing where nothing changes."""
        return [*self._choose()] if self._unnamed else []

    def named(self, entry: Entry) -> None:
        """Note that `entry`, which names checkpoints, is committed."""
        listed = {checkpoint.name for checkpoint in entry.checkpoints}
        for checkpoint in (*self._kept, *(blob.checkpoint for blob in self._unnamed)):
            if checkpoint.name not in listed:
                self._forget[checkpoint.name] = checkpoint.where
                self._positions.pop(checkpoint.name, None)
        self._kept = entry.checkpoints
        self._needed = oldest_seq = self._kept[0].seq  # so a birth stays as long as its checkpoint
        for checkpoint, duration_s in self._unnamed:
            log.info(
                "checkpoint.saved",
                seq=checkpoint.seq,
                size_bytes=checkpoint.size,
                duration_s=duration_s,
                oldest_seq=oldest_seq,
            )
        self._unnamed = []
        self._named_seq = self._kept[-1].seq
        self.failure, self.newest = "", self._positions.get(self._kept[-1].name, self.newest)

    def oldest_needed(self) -> int | None:
        """The first entry that is still needed, once after each time that this may have changed."""
        needed, self._needed = self._needed, None
        return needed

    def put_off(self, reason: str) -> None:
        """Note that there is no checkpoint for a reason; the next interval tries again."""
        log.error("checkpoint.failed", reason=reason, next_try_s=self._interval_s)
        self.failure = reason
        self._last_seq = max([self._named_seq, *(blob.checkpoint.seq for blob in self._unnamed)])
        self._last_s = self._env.monotonic()

    def _sealed(self, header: Header, sections: Sections) -> bytearray:
        """In the store's thread: the bytes of a checkpoint."""
        for checkpoint in self._kept:
            if checkpoint.name not in self._positions and checkpoint.name not in self._elsewhere:
                try:
                    opened = open_header(self._store.read(checkpoint.name, checkpoint.where), self._key)
                    self._positions[checkpoint.name] = opened.next_offsets()
                except BadCheckpoint as reason:
                    log.warning(
                        "checkpoint.refused",
                        name=checkpoint.name,
                        reason=str(reason),
                        action="kept for a look",
                    )
                    self._positions[checkpoint.name] = {}
        return seal(header, sections, self._key)

    def _choose(self) -> Iterator[Checkpoint]:
        """All that is kept, oldest first: by number and age, here and in other hosts' folders alike, and
        without those after which the input is no longer retained. The newest always stays.
        """
        every = [*self._kept, *(blob.checkpoint for blob in self._unnamed)]
        dropped: set[tuple[bool, int]] = set()
        for elsewhere in (False, True):
            seqs = [each.seq for each in every if (each.name in self._elsewhere) == elsewhere]
            dropped |= {(elsewhere, seq) for seq in to_drop(seqs, self._keep)}
        for each in every[:-1]:
            if (each.name in self._elsewhere, each.seq) not in dropped and not self._is_stranded(each):
                yield each
        yield every[-1]

    def _is_stranded(self, checkpoint: Checkpoint) -> bool:
        positions = self._positions.get(checkpoint.name, {})
        return any(self._starts.get(partition, 0) > offset for partition, offset in positions.items())
