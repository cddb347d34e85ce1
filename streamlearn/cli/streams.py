"""The process' three streams, as a shell, a service manager or a closed terminal hands them over.

Invariants:
- Descriptors 0, 1 and 2 are open from the start: a file or a socket that is opened later never gets one of
  these numbers, into which a library, or our own log, would write.
- Writing a text never fails for its letters: what an encoding lacks is spelled `\\xe4`, `\\u2191`.
- What could not be written is told at the end, once, and by the exit code; never by a traceback of Python's.
"""

import contextlib
import errno
import io
import os
import sys

from streamlearn.errors import StreamlearnError, Unreachable

CLOSED_PIPE = 141
"""The exit code of who wrote into a pipe that nobody reads any more: 128 + SIGPIPE, as of any Unix tool."""

_NEEDS = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE)
"""What the machine lacks, wherever it shows."""


class ClosedPipe(Exception):
    """Whoever read our output has seen enough: end, and say nothing."""


def prepare() -> None:
    """Open what is closed on /dev/null, and let every text pass. Call it before anything is opened."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number: this one
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Write what waits for standard output. Raises `ClosedPipe` or `Unreachable`."""
    try:
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise ClosedPipe from error
    except OSError as error:
        raise Unreachable(f"standard output cannot be written: {error.strerror}") from error


def drop() -> None:
    """Forget what can not be written, so that the end of the process does not try again, and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)


def explained(error: OSError) -> StreamlearnError | None:
    """An error of the machine in the words of ours; None when nothing is known of it."""
    try:
        flush()
    except Unreachable as told:
        return told
    if error.errno in _NEEDS:
        name = f"{error.filename}: " if error.filename else ""
        return Unreachable(
            f"{name}{error.strerror}: what was being written is not whole. Make room where output, log and "
            "temporary files (TMPDIR) go, and run it again"
        )
    return Unreachable(gone) if (gone := folder_gone()) else None


def folder_gone() -> str:
    """A sentence when the working folder was deleted under us, else ""."""
    try:
        os.getcwd()  # noqa: PTH109 - asked for the error
    except OSError:
        return "the working folder was deleted: change into one that is there (cd), and try again"
    return ""
