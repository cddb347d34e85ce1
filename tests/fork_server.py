"""Service processes forked from one that has imported everything: they start in milliseconds.

A start of python with river, scipy and Kafka's client costs two seconds of CPU, and the suite starts hundreds
of services. A forked one is a process like any other: it is killed, waited for and started again, and runs
the command line from its first word on. Cold starts have tests of their own: tests/test_cli.py, the README's.

Invariants:
- The server runs under PYTHONHASHSEED=0, as every service does (`cli.service.serve.start_again`). A service
  with another environment of what works only from the start of a process starts cold.
- The server has one thread, and ends with the process that started it.
"""

import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
_REQUEST_BYTES: Final = 1 << 20
_FROM_THE_START: Final = ("PYTHON", "LD_", "OPENBLAS_", "GLIBC_", "NPY_", "MALLOC_")
"""Beginnings of variables that work only from the start of a process."""

_UNWANTED: Final = ("__main__", "kafka.vendor", "river.test_estimators")


class ServiceProcess:
    """A forked process, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, pid: int, status: int) -> None:
        """`status`: the descriptor of a pipe that gets the exit code."""
        self.pid = pid
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        """The exit code; minus the signal's number for a killed process; None while it runs."""
        return self._returncode(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end: the exit code. Raises `subprocess.TimeoutExpired`."""
        code = self._returncode(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(["streamlearn", f"pid {self.pid}"], timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def _returncode(self, timeout_s: float | None) -> int | None:
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._status, selectors.EVENT_READ)
                if selector.select(timeout_s):
                    text = os.read(self._status, 16)
                    os.close(self._status)
                    assert text, "the fork server has died"
                    self.returncode = int(text)
        return self.returncode


Process = ServiceProcess | subprocess.Popen[bytes]


def _from_the_start(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(_FROM_THE_START)}


class ForkServer:
    """The client's end."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        self._from_the_start = _from_the_start(environment)
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.fork_server", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
            cwd=ROOT,
        )
        theirs.close()
        self._one_request = threading.Lock()
        """Held from a request to its answer: else two threads may take each other's."""

    def start(self, words: Sequence[str], env: Mapping[str, str], folder: Path, stderr: IO[bytes]) -> Process:
        """Run `python -m streamlearn WORDS` in a folder, with this environment and no other."""
        if _from_the_start(env) != self._from_the_start:
            command = [sys.executable, "-m", "streamlearn", *words]
            return subprocess.Popen(command, env=env, stderr=stderr, cwd=folder)
        reader, writer = os.pipe()
        request = json.dumps({"words": [*words], "env": {**env}, "folder": str(folder)}).encode()
        assert len(request) < _REQUEST_BYTES
        with self._one_request:
            socket.send_fds(self._socket, [request], [stderr.fileno(), writer])
            pid = int(self._socket.recv(16))
        os.close(writer)
        return ServiceProcess(pid, reader)


@cache
def fork_server() -> ForkServer:
    """The one of this process."""
    return ForkServer()


# --- the server ---------------------------------------------------------------------------------------------


def _import_all() -> None:
    """Import what any service may need."""
    for package in ("streamlearn", "river", "kafka"):
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not module.name.endswith(_UNWANTED):
                try:
                    importlib.import_module(module.name)
                except ImportError:
                    continue  # a part of river's or kafka's for which something is not installed
    gc.collect()
    gc.freeze()


def _report(pid: int, status: int) -> None:
    """Reap a process and tell its exit code."""
    _, ended = os.waitpid(pid, 0)
    os.write(status, str(os.waitstatus_to_exitcode(ended)).encode())
    os.close(status)


def _serve(requests: socket.socket) -> dict[str, Any] | None:
    """Fork at each request, until nobody asks any more: then None, and in a forked process the request."""
    selector = selectors.DefaultSelector()
    selector.register(requests, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.data is not None:
                pid, status = key.data
                selector.unregister(key.fd)
                os.close(key.fd)
                _report(pid, status)
                continue
            text, descriptors, _, _ = socket.recv_fds(requests, _REQUEST_BYTES, 2)
            if not text:
                return None
            stderr, status = descriptors
            pid = os.fork()
            if pid == 0:
                selector.close()
                requests.close()
                os.dup2(stderr, 2)
                os.closerange(3, os.sysconf("SC_OPEN_MAX"))
                asked: dict[str, Any] = json.loads(text)
                return asked
            os.close(stderr)
            requests.send(str(pid).encode())
            selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, status))


def _become(asked: dict[str, Any]) -> None:
    """Go on as `python -m streamlearn` in the folder and the environment that were asked for."""
    with Path(os.devnull).open("r+b", buffering=0) as null:
        os.dup2(null.fileno(), 0)
        os.dup2(null.fileno(), 1)
    os.environ.clear()
    os.environ.update(asked["env"])
    time.tzset()
    os.chdir(asked["folder"])
    sys.path[0] = asked["folder"]
    sys.argv = ["streamlearn", *asked["words"]]
    sys.orig_argv[:] = [sys.executable, "-m", "streamlearn", *asked["words"]]
    runpy.run_module("streamlearn", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _import_all()
    with socket.socket(fileno=int(sys.argv[1])) as own:
        wanted = _serve(own)
    if wanted is not None:
        _become(wanted)
