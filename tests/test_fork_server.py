"""Processes from the fork server are those that were asked for, whoever asks at the same time."""

import os
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fork_server import fork_server
from tests.service_process import START_S

AT_ONCE = 4
WAITS = ("serve", "--bootstrap-servers", "127.0.0.1:1")
"""For a broker that is not there."""


class _Slow:
    """A socket whose owner is held up for a while, or none, before he receives."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real

    def recv(self, size: int) -> bytes:
        time.sleep(random.random() / 100)
        return self._real.recv(size)

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


def test_who_starts_a_process_gets_its_pid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, together = fork_server(), threading.Barrier(AT_ONCE)

    def seen_in(number: int) -> Path:
        """The folder of the process that was started in the folder of this number."""
        folder = tmp_path / str(number)
        folder.mkdir()
        with (folder / "log").open("wb") as log:
            together.wait()
            process = server.start(WAITS, {**os.environ, "PYTHONHASHSEED": "0"}, folder, log)
        deadline_s = time.monotonic() + START_S
        place = Path(f"/proc/{process.pid}/cwd")
        try:
            while (seen := place.readlink()).parent != tmp_path:
                assert time.monotonic() < deadline_s
                time.sleep(0.01)
        finally:
            os.kill(process.pid, 9)
        process.wait(START_S)
        return seen

    numbers = range(AT_ONCE * 10)
    monkeypatch.setattr(server, "_socket", _Slow(server._socket))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert list(pool.map(seen_in, numbers)) == [tmp_path / str(number) for number in numbers]
