"""One SQLite file: opening it, refusing a foreign one, transactions, and errors that a user can act on.

Invariants:
- Writers begin with BEGIN IMMEDIATE and readers fetch everything inside one short snapshot: nobody is
  refused with "database is locked", and the write-ahead log can be reset at any time.
- Every SQLite error leaves here as an error of `streamlearn.errors` that names the file.
"""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from streamlearn.env import Env
from streamlearn.errors import ConfigError, Full, Stop, StreamlearnError, Unknown, Unreachable

APPLICATION_ID = 0x73746C6E  # "stln": tells our files from those of other programs
SCHEMA_VERSION = 1
BUSY_S = 30.0
"""How long to wait for another process's write lock, which is held for milliseconds."""

IDLE_S = 0.005
_PROBE_BYTES = 1 << 20

_SCHEMA = """
CREATE TABLE topics(
  number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, id TEXT NOT NULL, settings TEXT NOT NULL);
CREATE TABLE partitions(
  topic INTEGER NOT NULL, partition INTEGER NOT NULL, log_start INTEGER NOT NULL DEFAULT 0,
  next_offset INTEGER NOT NULL DEFAULT 0, last_ms INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY(topic, partition)) WITHOUT ROWID;
CREATE TABLE packs(
  topic INTEGER NOT NULL, partition INTEGER NOT NULL, next_offset INTEGER NOT NULL,
  timestamp_ms INTEGER NOT NULL, records BLOB NOT NULL,
  PRIMARY KEY(topic, partition, next_offset)) WITHOUT ROWID;
CREATE TABLE owners(
  app TEXT NOT NULL, shard INTEGER NOT NULL, epoch INTEGER NOT NULL, holder TEXT NOT NULL,
  beat_ms INTEGER NOT NULL, positions TEXT NOT NULL, floor TEXT NOT NULL,
  syncs INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(app, shard)) WITHOUT ROWID;
"""
_NOTES = """
CREATE TABLE IF NOT EXISTS notes(
  number INTEGER PRIMARY KEY, app TEXT NOT NULL, shard INTEGER NOT NULL, key BLOB NOT NULL, value BLOB)
"""


class LogFile:
    """An open file. For one thread; not for use across a fork.

    `durable`: each transaction survives a power cut when it returns (otherwise: a crash of the process).
    """

    def __init__(self, env: Env, path: str | Path, durable: bool = False) -> None:
        self.env = env
        self.path = Path(path)
        try:
            # The fixed isolation level turns off the module's own, implicit transactions.
            self.db = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
        except sqlite3.Error as error:
            self.fail(error)
        try:
            self._prepare("FULL" if durable else "NORMAL")
            self._inode = self.path.stat().st_ino
        except BaseException:
            self.db.close()
            raise

    def check_there(self) -> None:
        """Raise `Stop` when the path no longer leads to the file that is open: it was removed or replaced."""
        try:
            is_same_file = self.path.stat().st_ino == self._inode
        except OSError:
            is_same_file = False
        if not is_same_file:
            raise Stop(
                f"{self.path} was removed or replaced while it was in use. What is served from now on would "
                "be lost with the old file: put it back, or start on the new one under another [app] name"
            )

    def close(self) -> None:
        """Close the file; an open transaction is rolled back."""
        self.db.close()

    def _prepare(self, synchronous: str) -> None:
        self._refuse_foreign()
        # For a file that is made now. A pack fills many small pages: with 16 KiB a publish of 2,000 records
        # costs a third less, and one of a single record no more than it did.
        self.pragma("page_size = 16384")
        self._use_wal()
        self.pragma(f"synchronous = {synchronous}")
        # Some builds overwrite what retention deletes with zeros, which doubles what it writes.
        self.pragma("secure_delete = OFF")
        with self.transaction():
            if self.db.execute("PRAGMA user_version").fetchone()[0] == 0:
                for statement in _SCHEMA.split(";"):
                    self.db.execute(statement)
                self.db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self.db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            self.db.execute(_NOTES)

    def _use_wal(self) -> None:
        deadline = self.env.monotonic() + BUSY_S
        while True:
            try:
                self.db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.Error as error:
                # SQLite does not wait here, however long the timeout, when two processes make the file.
                if _primary_code(error) != sqlite3.SQLITE_BUSY or self.env.monotonic() > deadline:
                    self.fail(error)
                self.env.sleep(IDLE_S)

    def pragma(self, text: str) -> int:
        """Run a pragma; its first value, 0 without one."""
        try:
            row = self.db.execute(f"PRAGMA {text}").fetchone()
        except sqlite3.Error as error:
            self.fail(error)
        return int(row[0]) if row else 0

    def _refuse_foreign(self) -> None:
        with self.snapshot():
            application_id = self.db.execute("PRAGMA application_id").fetchone()[0]
            version = self.db.execute("PRAGMA user_version").fetchone()[0]
            empty = self.db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if empty and application_id == version == 0:
            return
        if application_id != APPLICATION_ID:
            raise ConfigError(
                f"{self.path} is an SQLite file of another program and was not touched:"
                " choose another log.path"
            )
        if version != SCHEMA_VERSION:
            raise ConfigError(
                f"{self.path} has layout {version}; this streamlearn reads layout {SCHEMA_VERSION}:"
                " use the streamlearn that wrote it, or another log.path"
            )

    @contextmanager
    def transaction(self, unclear: type[Exception] = Stop) -> Iterator[None]:
        """A write transaction: all of it or nothing. `unclear` is raised when a commit's outcome is not
        known, which is so for an I/O error inside the commit only: after any other error SQLite has
        written no commit mark, and the transaction is certainly void.
        """
        with self._scope("BEGIN IMMEDIATE", unclear):
            yield

    @contextmanager
    def synced(self) -> Iterator[None]:
        """A write transaction that survives a power cut when it ends, and with it all before it."""
        self.pragma("synchronous = FULL")
        try:
            with self.transaction():
                yield
        finally:
            self.pragma("synchronous = NORMAL")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Reads that see one state of the file. Fetch everything before it ends."""
        with self._scope("BEGIN", Stop):
            yield

    @contextmanager
    def _scope(self, begin: str, unclear: type[Exception]) -> Iterator[None]:
        committing = False
        try:
            try:
                self.db.execute(begin)
                yield
                committing = True
                self.db.execute("COMMIT")
            finally:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
        except sqlite3.Error as error:
            if committing and _primary_code(error) == sqlite3.SQLITE_IOERR:
                said = f"{self.path}: the commit may or may not have been written: {error}"
                if lack := _lack(self.path):
                    said += f" ({lack}): make room for it, and start again"
                    raise (Full(said) if unclear is Stop else Unknown(said, full=True)) from error
                raise unclear(said) from error
            self.fail(error)

    def fail(self, error: sqlite3.Error) -> NoReturn:
        """Raise what a user can act on instead of `error`."""
        raise _explain(self.path, error) from error


def _primary_code(error: sqlite3.Error) -> int:
    """SQLite's result code without its extension; 0 for an error that is the sqlite3 module's own."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def _lack(path: Path) -> str:
    """The system's word against a file as large as ours and a little more; "" when nothing. SQLite calls a
    quota and a limit of size (`ulimit -f`) an I/O error, like a broken disk.
    """
    files = [file for end in ("", "-wal", "-shm") if (file := Path(f"{path}{end}")).exists()]
    try:
        with tempfile.TemporaryFile(dir=path.absolute().parent) as probe:
            probe.seek(max((file.stat().st_size for file in files), default=0))
            probe.write(b"\0" * _PROBE_BYTES)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return error.strerror or ""
    return ""


_REMEDIES: dict[int, tuple[type[StreamlearnError], str]] = {
    sqlite3.SQLITE_NOTADB: (
        ConfigError,
        "it is not an SQLite file and was not touched: choose another log.path",
    ),
    sqlite3.SQLITE_FULL: (
        Full,
        "its disk is full and nothing of this transaction was written: make room, restart",
    ),
    sqlite3.SQLITE_CORRUPT: (Stop, "it is damaged: restore it from a copy, or start with another log.path"),
    sqlite3.SQLITE_BUSY: (
        Unreachable,
        f"another process has held its write lock for {BUSY_S:.0f} s: end that process if it is stuck",
    ),
    sqlite3.SQLITE_READONLY: (Unreachable, "make the file and its folder writable for this user"),
    sqlite3.SQLITE_PERM: (Unreachable, "make the file and its folder writable for this user"),
    sqlite3.SQLITE_CANTOPEN: (
        Unreachable,
        "its folder must exist, and be readable and writable for this user",
    ),
    sqlite3.SQLITE_TOOBIG: (ConfigError, "a record is larger than SQLite takes (1 GB): send smaller ones"),
}


def _explain(path: Path, error: sqlite3.Error) -> StreamlearnError:
    code = _primary_code(error)
    kind, remedy = _REMEDIES.get(code, (Stop, "check the disk, then restart"))
    if code == sqlite3.SQLITE_IOERR and (lack := _lack(path)):
        kind, remedy = Full, f"{lack}. Nothing of this transaction was written: make room, restart"
    return kind(f"the log file {path} cannot be used ({error}): {remedy}")
