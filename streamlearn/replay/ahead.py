"""Read a CSV file in a process of its own, so that reading and sending overlap.

Invariants:
- The batches are those of `delimited.batches`, in their order, byte for byte; an error comes at its place.
- The reading process is at most about two frames ahead, and ends with the one that started it.

Measured on two cores (`scripts/bench replay`): reading a row of 11 cells costs more than the embedded log
needs to append it, so that one process alone cannot reach half of the log's speed.
"""

import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import IO

from streamlearn.errors import ConfigError, Stop
from streamlearn.replay import delimited
from streamlearn.replay.delimited import Dialect
from streamlearn.replay.mapping import Batch, Encoded, Meaning, batch_of

WORTH_BYTES = 16 << 20
"""A smaller file is read sooner than a process has started (0.1 s)."""

_FRAME_BYTES = 1 << 19
_PIPE_BYTES = 1 << 20

_START = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from streamlearn.replay.ahead import work
work(sys.stdin.buffer, sys.stdout.buffer)
"""


def batches(name: str, dialect: Dialect, meaning: Meaning, numbered: int) -> Iterator[Batch]:
    """As `delimited.batches`. Raises `Stop` when the reading process ends without a word."""
    child = subprocess.Popen(
        [sys.executable, "-c", _START], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pipesize=_PIPE_BYTES
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        with child.stdin as job:
            pickle.dump(sys.path, job)
            pickle.dump((name, dialect, meaning, numbered), job)
        yield from _received(name, child.stdout)
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        raise Stop(
            f"the process that reads {name} ended with code {child.wait()}: what it said stands above; when"
            " it was killed, look for too little memory, then run this again"
        ) from None
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def _received(name: str, pipe: IO[bytes]) -> Iterator[Batch]:
    while frame := pickle.load(pipe):
        if isinstance(frame, str):
            raise ConfigError(frame)
        for found, places in frame:
            yield batch_of(found, places)


def work(job: IO[bytes], out: IO[bytes]) -> None:
    """The reading process: frames of encoded batches, an error as text, and None at the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the sender's to handle; it ends this process
    try:
        try:
            _send_frames(pickle.load(job), out)
        except ConfigError as error:
            pickle.dump(str(error), out)
        pickle.dump(None, out)
        out.flush()
    except BrokenPipeError:  # the sender has ended or has enough
        sys.stderr.close()


def _send_frames(arguments: tuple[str, Dialect, Meaning, int], out: IO[bytes]) -> None:
    frame: list[tuple[Encoded, object]] = []
    size = 0
    try:
        for found, places in delimited.encoded(*arguments):
            frame.append((found, places))
            size += len(found.lines)
            if size >= _FRAME_BYTES:
                pickle.dump(frame, out, protocol=5)
                frame, size = [], 0
    finally:
        if frame:
            pickle.dump(frame, out, protocol=5)
