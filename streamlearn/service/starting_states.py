"""States that recovery can begin from: the checkpoints that the journal names, and a snapshot of the process'
own.

Invariants:
- A checkpoint is used when its bytes are those that the journal names, and the seal holds; each other one is
  told, with its reason, and the one before is taken.
- What no entry names is never used. It only ever stops a service: a whole checkpoint beyond the journal's
  end.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import structlog

from streamlearn.config.schema import Config
from streamlearn.core.journal import Checkpoint, Entry
from streamlearn.core.records import SHARD, Positions
from streamlearn.core.shard.snapshot import Header, Sections, open_header, unseal
from streamlearn.engine.checkpoints import named_bytes, stored
from streamlearn.errors import BadCheckpoint, Gone, Stop
from streamlearn.log.port import CheckpointStore, ShardLog

log = structlog.get_logger()


class StartingState(NamedTuple):
    """A state to begin from: a checkpoint that is whole, or the last snapshot of an ownership that ended."""

    name: str
    header: Header
    sections: Sections
    saved_at: Positions | None
    """The positions of the newest checkpoint that is known: its own, if it is one."""


class StartingStates:
    """The states for one recovery. `ident`: the id of the journal's topic; `checkpoints`: those that the
    journal names; `last`: what this process itself last knew to be committed.
    """

    def __init__(
        self,
        config: Config,
        store: CheckpointStore,
        shard_log: ShardLog,
        ident: str,
        checkpoints: Sequence[Checkpoint],
        last: StartingState | None,
    ) -> None:
        self._app = config.app.name
        self._key = config.checkpoint.key.encode()
        self._journal = config.topics.journal
        self._store = store
        self._shard_log = shard_log
        self._ident = ident
        self._checkpoints = checkpoints
        self._last = last

    def newest_first(self, end: Entry) -> Iterator[StartingState]:
        """The states that can be used, newest first; the others are logged with their reason."""
        self._check_not_ahead(end)
        last = self._last
        if last is not None and not self._confirms(last, end):
            last = None
        for named in reversed(self._checkpoints):
            if last is not None and last.header.seq >= named.seq:
                yield last  # no bytes to read, and less to redo
                last = None
            try:
                yield self._opened(named)
            except BadCheckpoint as reason:
                log.warning(
                    "checkpoint.refused", name=named.name, reason=str(reason), action="the one before it"
                )
        if last is not None:
            yield last

    def _opened(self, named: Checkpoint) -> StartingState:
        """The state in a checkpoint that the journal names. Raises `BadCheckpoint`."""
        header, sections = unseal(named_bytes(self._store, named), self._key)
        if (header.seq, header.digest) != (named.seq, named.digest):
            raise BadCheckpoint(f"it says that it stands at entry {header.seq}, and the journal {named.seq}")
        if header.app != self._app:
            raise BadCheckpoint(f"it belongs to the app {header.app!r}")
        return StartingState(named.name, header, sections, header.next_offsets())

    def _check_not_ahead(self, end: Entry) -> None:
        """Raise `Stop` when a checkpoint of this journal stands beyond its end. One is written only when its
        entry is known to be committed, but for that of a birth, which is the next entry.
        """
        for name in stored(self._store.names(), self._ident, SHARD):
            if name.seq <= end.seq + 1:
                continue
            try:
                header = open_header(self._store.read(name.text), self._key)
            except BadCheckpoint as reason:
                log.warning(
                    "checkpoint.refused", name=name.text, reason=str(reason), action="it is not named"
                )
                continue
            raise Stop(
                f"checkpoint {name.text} stands at entry {header.seq}, but the journal {self._journal} ends "
                f"at {end.seq}: the journal lost data. Restore it, or begin a new one where the predictions "
                "end: `streamlearn reset --start predictions`."
            )

    def _confirms(self, last: StartingState, end: Entry) -> bool:
        """True when the journal still holds the entry of the process' own snapshot, with its digest."""
        header = last.header
        entry: Entry | None = None
        try:
            if header.seq <= end.seq:
                entry = end if header.seq == end.seq else next(self._shard_log.entries(header.seq - 1))
        except Gone as error:
            log.info("snapshot.refused", seq=header.seq, reason=f"the journal no longer holds it: {error}")
            return False
        if entry is None or entry.digest != header.digest:
            raise Stop(
                f"the journal {self._journal} and this process disagree about entry {header.seq}, which was "
                "committed: the journal lost data, or is another one now. Restore it, or begin a new one "
                "where the predictions end: `streamlearn reset --start predictions`."
            )
        return True
