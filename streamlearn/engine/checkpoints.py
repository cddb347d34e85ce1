"""When checkpoints are written, which are kept, and the thread that writes them.

Invariants:
- A checkpoint is written only for an entry whose commit is known.
- The loop pays for the pickle alone; sealing, compressing and writing happen in one writer thread, one
  checkpoint at a time. When one is still being written, the next is not due.
- A checkpoint never stands before one that is there already: that one is of a newer owner.
- Kept are the newest few, then one per doubling of age, for as long as the input after it is retained.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import structlog

from streamlearn.core.records import Positions
from streamlearn.core.shard.snapshot import Header, Sections, open_header, seal
from streamlearn.env import Env, Task
from streamlearn.errors import BadCheckpoint, Fenced
from streamlearn.log.port import Store, TopicInfo

log = structlog.get_logger()

REDO_S = 1.0
"""So much model work may have to be redone after a crash before a checkpoint is due ahead of its time."""

WORK_PER_COST = 20


def name_of(seq: int) -> str:
    """A checkpoint's name: its entry's number, so that names sort by age.

    >>> name_of(42)
    '000000000042'
    """
    return f"{seq:012d}"


def stored(store: Store) -> list[str]:
    """The checkpoints in `store`, oldest first; other things that lie there are not ours."""
    return [name for name in store.names() if re.fullmatch(r"\d{12}", name)]


def starts_of(topics: Mapping[str, TopicInfo]) -> Positions:
    """The first retained offset of each partition."""
    return {
        (name, partition): offset
        for name, info in topics.items()
        for partition, offset in enumerate(info.start)
    }


def newest_header(store: Store, key: bytes) -> Header | None:
    """The header of the newest checkpoint that is whole, None when there is none."""
    for name in reversed(stored(store)):
        try:
            return open_header(store.read(name), key)
        except BadCheckpoint:  # recovery, which comes next, says why
            continue
    return None


def to_drop(names: Sequence[str], keep: int) -> list[str]:
    """Choose those of `names` (oldest first) that are no longer kept, by number and age.

    The newest `keep` stay; of the older ones, the oldest in each doubling of distance from the newest.

    >>> to_drop([name_of(n) for n in range(0, 100, 10)], keep=2)
    ['000000000070', '000000000050', '000000000040', '000000000020', '000000000010']
    """
    if len(names) <= keep:
        return []
    newest = int(names[-1])
    dropped: list[str] = []
    seen: set[int] = set()
    for name in names[:-keep]:  # oldest first, so that the oldest of each doubling stays
        age = (newest - int(name)).bit_length()
        if age in seen:
            dropped.append(name)
        seen.add(age)
    return sorted(dropped, reverse=True)


class Written(NamedTuple):
    """What became of one checkpoint. `oldest_seq`: no entry before it is needed any more."""

    seq: int
    size_bytes: int
    duration_s: float
    oldest_seq: int
    positions: Positions


class Checkpointer:
    """Writes one shard's checkpoints. All methods are for the loop's thread."""

    def __init__(self, env: Env, store: Store, interval_s: float, keep: int, key: bytes) -> None:
        self._env = env
        self._store = store
        self._interval_s = interval_s
        self._keep = keep
        self._key = key
        self._last_s = self._env.monotonic()
        self._last_seq = -1
        self._cost_s = 0.0
        self._task: Task[None] | None = None
        self._written: list[Written] = []
        self._failed: Exception | None = None
        self._positions: dict[str, Positions] = {}
        self.failure = ""
        """Why the newest try gave no checkpoint; "" when it gave one."""
        self.newest: Positions | None = None
        """The positions of the newest checkpoint that is known to be whole; None before there is one."""

    def begins(self, newest: Positions | None) -> None:
        """A shard was opened whose state came from the checkpoint at `newest`, or from none."""
        self.newest = newest
        self.failure = ""

    def due(self, seq: int, stepped_s: float) -> bool:
        """True if it is time for a checkpoint at entry `seq`, `stepped_s` of model work after the last one.

        By the clock every `interval_s`; under a backlog also as soon as redoing would take longer than a
        second, but never so often that checkpoints cost more than a twentieth of the work.
        """
        if seq <= self._last_seq or (self._task is not None and not self._task.is_done):
            return False
        if self._env.monotonic() - self._last_s >= self._interval_s:
            return True
        return stepped_s >= max(REDO_S, WORK_PER_COST * self._cost_s)

    def write(self, header: Header, sections: Sections, starts: Positions, dumped_s: float) -> None:
        """Begin to write. `starts`: the first retained offset of each input partition; `dumped_s`: what
        the sections took the loop.
        """
        self.wait()
        self._cost_s = dumped_s
        self._last_s = self._env.monotonic()
        self._last_seq = header.seq
        self._task = self._env.spawn("checkpoint", partial(self._write, header, sections, starts))

    def wait(self) -> None:
        """Return when nothing is being written."""
        if self._task is not None:
            self._task.wait()

    def collect(self) -> list[Written]:
        """What was written since the last call. A failure is logged once; the next interval tries again."""
        if self._task is not None and not self._task.is_done:
            return []
        if self._failed is not None:
            failed, self._failed = self._failed, None
            self.put_off(str(failed))
        written, self._written = self._written, []
        if written:
            self.failure, self.newest = "", written[-1].positions
        return written

    def put_off(self, reason: str) -> None:
        """Note that there is no checkpoint for a reason; the next interval tries again."""
        log.error("checkpoint.failed", reason=reason, next_try_s=self._interval_s)
        self.failure = reason
        self._last_seq = -1
        self._last_s = self._env.monotonic()

    def _write(self, header: Header, sections: Sections, starts: Positions) -> None:
        began_s = self._env.monotonic()
        try:
            data = seal(header, sections, self._key)
            name = name_of(header.seq)
            names = [*(n for n in stored(self._store) if n != name), name]
            if newer := [one for one in names if one > name and self._is_whole(one)]:
                raise Fenced(f"checkpoint {newer[-1]} is newer: another process has gone on from here")
            drop = self._obsolete(names, header, starts)
            self._store.write(name, data, drop)
            kept = [n for n in names if n not in set(drop)]
            wrote_s = self._env.monotonic() - began_s
            self._cost_s += wrote_s
            self._written.append(
                Written(header.seq, len(data), round(wrote_s, 4), int(kept[0]), header.next_offsets())
            )
        except Exception as error:  # noqa: BLE001 - the edge of this thread: `collect` tells what failed
            self._failed = error

    def _is_whole(self, name: str) -> bool:
        """True if recovery would look at it: a damaged one is passed over."""
        try:
            open_header(self._store.read(name), self._key)
        except BadCheckpoint:
            return False
        return True

    def _obsolete(self, names: list[str], header: Header, starts: Positions) -> list[str]:
        """What to drop: by number and age, and those after which the input is no longer retained."""
        self._positions[names[-1]] = header.next_offsets()
        drop = to_drop(names, self._keep)
        kept = [name for name in names if name not in set(drop)]
        while len(kept) > 1 and self._is_stranded(kept[0], starts):
            drop.append(kept.pop(0))
        for name in drop:
            self._positions.pop(name, None)
        return drop

    def _is_stranded(self, name: str, starts: Positions) -> bool:
        if name not in self._positions:
            try:
                self._positions[name] = open_header(self._store.read(name), self._key).next_offsets()
            except BadCheckpoint as reason:
                log.warning("checkpoint.refused", name=name, reason=str(reason), action="kept for a look")
                return False
        return any(starts.get(tp, 0) > offset for tp, offset in self._positions[name].items())
