"""The worker of the demo: a real `streamlearn serve` process, and how it is killed inside a transaction.

Invariants:
- Whatever happens, no worker outlives `close`.
- Nothing is asked of the worker: what it does is seen in the log file that it serves, as anybody could.
"""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from streamlearn.env import Env
from streamlearn.errors import Stop

STOP_S: Final = 20.0
_PROBE_S: Final = 0.0002
_FREEZE_S: Final = 0.005
_FEED_S: Final = 0.02
_LOG_LINES: Final = 15


class Worker:
    """One worker process after another, all of them on the log file at `db`."""

    def __init__(self, env: Env, folder: Path, db: Path, config: Path) -> None:
        self._env = env
        self._log = folder / "worker.log"
        self._command = [sys.executable, "-m", "streamlearn", "serve", "--config", str(config),
                         "--db", str(db), "--app-dir", str(folder)]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start a worker. Settings of the caller's own services in the environment are kept from it."""
        assert self._process is None, "one worker at a time"
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("STREAMLEARN_") and name != "KAFKA_BOOTSTRAP_SERVERS"
        }
        # With this set already, the worker need not execute itself again to get it.
        environment["PYTHONHASHSEED"] = "0"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def check(self) -> None:
        """Raise `Stop`, with the end of its log, when the worker has ended by itself."""
        code = self._running().poll()
        if code is not None:
            raise Stop(f"the demo's worker ended by itself with code {code}; {self.last_words()}")

    def kill_inside(self, db: Path, feed: Callable[[], bool]) -> bool:
        """Kill the worker with SIGKILL while its transaction is open; False when it was between two.

        Its transaction is open exactly while it holds the file's write lock, for a millisecond at a time. So
        the lock is tried again and again; when it is taken, the worker is frozen at once, and if the lock is
        still taken then, it was frozen inside. `feed` is called now and then, outside of our own attempts;
        when it returns False there is nothing left to wait for.
        """
        process = self._running()
        in_transaction = False
        fed_s = 0.0
        with _Lock(db) as lock:
            while not in_transaction:
                self.check()
                if lock.is_taken():
                    process.send_signal(signal.SIGSTOP)
                    self._env.sleep(_FREEZE_S)
                    in_transaction = lock.is_taken()
                    if not in_transaction:
                        process.send_signal(signal.SIGCONT)
                elif self._env.monotonic() - fed_s > _FEED_S:
                    if not feed():
                        break
                    fed_s = self._env.monotonic()
                else:
                    self._env.sleep(_PROBE_S)
        self.close()
        return in_transaction

    def stop(self) -> None:
        """End the worker as an operator would, with SIGTERM. Raises `Stop` when it does not end well."""
        process = self._running()
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            raise Stop(f"the demo's worker did not stop within {STOP_S:.0f} s; {self.last_words()}") from None
        if code != 0:
            raise Stop(f"the demo's worker stopped with code {code}, not 0; {self.last_words()}")
        self._process = None

    def close(self) -> None:
        """Kill the worker, if there is one, and wait for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def last_words(self) -> str:
        """The end of the workers' log, for a message."""
        lines = self._log.read_text("utf-8", "replace").splitlines()
        return "the end of its log:\n  " + "\n  ".join(lines[-_LOG_LINES:] or ["(nothing)"])

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "no worker was started"
        return self._process


class _Lock:
    """The write lock of an SQLite file, seen through a connection of its own."""

    def __init__(self, db: Path) -> None:
        self._db = sqlite3.connect(db, timeout=0, isolation_level=None)

    def __enter__(self) -> "_Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def is_taken(self) -> bool:
        """True when another connection holds the lock. When not, it is ours for some microseconds."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            return True
        self._db.execute("ROLLBACK")
        return False
