"""The lock of one shard on the embedded file: a row that says who opened it last.

Invariants:
- The row is named by the journal, which is what the lock protects, and not by the app: two configurations
  that share a journal fence each other, whatever they are called.
- Every call is one statement or two, made inside a scope (`snapshot`, `transaction`) of the caller.
- What owners note after the journal's last entry stands in rows of its own, until the next entry.
- Beside the epoch the row keeps what the owner wants its successor to know: the positions after its last
  reported commit, and the `floor` below which retention may delete input.
"""

import os
import socket
from typing import NamedTuple

import msgspec

from streamlearn.core.journal import Unfinished, unfinished
from streamlearn.core.records import Positions
from streamlearn.log.embedded.file import LogFile
from streamlearn.log.port import TopicNames

_Triples = list[tuple[str, int, int]]
_triples = msgspec.json.Decoder(_Triples)

_MINE = "WHERE app = ? AND shard = ?"


def encode_positions(positions: Positions) -> str:
    """Positions as a column keeps them."""
    triples = [(topic, partition, offset) for (topic, partition), offset in sorted(positions.items())]
    return msgspec.json.encode(triples).decode()


def decode_positions(text: str) -> Positions:
    """The positions in a column."""
    return {(topic, partition): offset for topic, partition, offset in _triples.decode(text)}


class Taken(NamedTuple):
    """The content of a row: `holder` is "" when the owner has closed the shard."""

    epoch: int
    holder: str
    beat_ms: int


class Owner:
    """The row of one shard."""

    def __init__(self, file: LogFile, names: TopicNames, shard: int) -> None:
        self._file = file
        self._app = names.app
        self._journal = names.roles["journal"]
        # An app's name has no colon: files from before the lock was named by the journal have the app here.
        self._mine = (f"journal:{self._journal}", shard)

    def take(self, now_ms: int) -> int:
        """Become the newest owner; returns the new epoch."""
        self._rename()
        self._file.db.execute(
            "INSERT INTO owners(app, shard, epoch, holder, beat_ms, positions, floor)"
            " VALUES(?, ?, 1, ?, ?, '[]', '[]') ON CONFLICT(app, shard)"
            " DO UPDATE SET epoch = epoch + 1, holder = excluded.holder, beat_ms = excluded.beat_ms",
            (*self._mine, f"{self._app} on {socket.gethostname()}, process {os.getpid()}", now_ms),
        )
        return self.held().epoch

    def _rename(self) -> None:
        """Take over the row of a file from before the lock was named by the journal, with what it knows."""
        if not self._file.db.execute(f"SELECT 1 FROM owners {_MINE}", self._mine).fetchone():
            shard = self._mine[1]
            self._file.db.execute(f"UPDATE owners SET app = ? {_MINE}", (self._mine[0], self._app, shard))

    def note_unfinished(self, key: bytes, value: bytes | None) -> None:
        """Keep a note of what is begun after the journal's last entry."""
        self._file.db.execute(
            "INSERT INTO notes(app, shard, key, value) VALUES(?, ?, ?, ?)", (*self._mine, key, value)
        )

    def unfinished(self) -> Unfinished:
        """The attempts that were begun after the journal's last entry."""
        notes = self._file.db.execute(f"SELECT key, value FROM notes {_MINE} ORDER BY number", self._mine)
        return unfinished(notes.fetchall())

    def finish(self) -> None:
        """Forget the notes: there is an entry after them, or an owner ended in order."""
        self._file.db.execute(f"DELETE FROM notes {_MINE}", self._mine)

    def held(self) -> Taken:
        """The newest owner. There is such a row once the shard was ever opened."""
        row = self._file.db.execute(f"SELECT epoch, holder, beat_ms FROM owners {_MINE}", self._mine)
        return Taken(*row.fetchone())

    def is_held(self, now_ms: int, silent_ms: int) -> bool:
        """True if somebody holds the shard who was heard of lately, by a clock that may have been set."""
        row = self._file.db.execute(
            f"SELECT 1 FROM owners {_MINE} AND holder != '' AND abs(beat_ms - ?) <= ?",
            (*self._mine, now_ms, silent_ms),
        )
        return row.fetchone() is not None

    def newer(self, epoch: int) -> str:
        """The process that has opened the shard after `epoch`, in words; "" when none has."""
        held = self.held()
        return "" if held.epoch == epoch else held.holder or "another process, which has closed it again"

    def beat(self, epoch: int, now_ms: int) -> None:
        """The holder is alive."""
        self._file.db.execute(
            f"UPDATE owners SET beat_ms = ? {_MINE} AND epoch = ?", (now_ms, *self._mine, epoch)
        )

    def release(self, epoch: int) -> None:
        """Give the shard back, unless it was taken over."""
        self._file.db.execute(f"UPDATE owners SET holder = '' {_MINE} AND epoch = ?", (*self._mine, epoch))

    def positions(self) -> Positions:
        """The positions that an owner reported last."""
        return self._read("positions")

    def floor(self) -> Positions:
        """The offset at which retention must stop in each input partition."""
        return self._read("floor")

    def note(self, **columns: Positions) -> None:
        """Keep `positions` or `floor`."""
        for column, positions in columns.items():
            self._file.db.execute(
                f"UPDATE owners SET {column} = ? {_MINE}", (encode_positions(positions), *self._mine)
            )

    def touch(self) -> None:
        """Change the row: SQLite writes no page, and so syncs nothing, for an equal value."""
        self._file.db.execute(f"UPDATE owners SET syncs = syncs + 1 {_MINE}", self._mine)

    def _read(self, column: str) -> Positions:
        row = self._file.db.execute(f"SELECT {column} FROM owners {_MINE}", self._mine)
        return decode_positions(row.fetchone()[0])


def floors(file: LogFile) -> Positions:
    """The lowest floor of each input partition, over every journal in the file."""
    lowest: Positions = {}
    for (text,) in file.db.execute("SELECT floor FROM owners").fetchall():
        for tp, offset in decode_positions(text).items():
            lowest[tp] = min(offset, lowest.get(tp, offset))
    return lowest
