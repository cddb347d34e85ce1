"""One place for every `-o FILE`: a file that is whole or not there; what is no file is written straight into.

Invariants:
- A regular file gets its new bytes all at once, when the block has ended well; what ends early leaves the old
  file as it was, and nothing beside it.
- A link stays a link, what it leads to is written; an existing file keeps its owner and its permissions.
- A device, a pipe or a descriptor (`/dev/null`, a FIFO, `/dev/stdout`) is opened and written, never replaced.
"""

import contextlib
import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from streamlearn.errors import ConfigError, Unreachable

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EROFS)
_LINKS = 40


@contextlib.contextmanager
def whole_file(path: Path, new: bool = False, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file to write that is at `path` when the block ends well. `new`: a file that is there is refused;
    `mode`: of a file that is made, less the umask.

    Raises `ConfigError` for a folder, or a file that must not be replaced; `Unreachable` when the disk or the
    permissions do not let it be written; `BrokenPipeError` when the reader of a pipe has left.
    """
    try:
        with _writing(path, new, mode) as file:
            yield file
    except OSError as error:
        # What else fails in the block, as reading its source, has the name of that file, or words of its own.
        if error.filename is None and error.errno in _FULL:
            raise _unwritable(path, error) from error
        raise


def _writing(path: Path, new: bool, mode: int) -> contextlib.AbstractContextManager[BinaryIO]:
    with _named_errors(path):
        old = _standing(path)
    if old is not None and stat.S_ISDIR(old.st_mode):
        raise ConfigError(f"{path} is a folder: name a file in it with -o")
    if (old is not None and not stat.S_ISREG(old.st_mode)) or _descriptor(path) is not None:
        return _straight(path)
    if old is not None and new:
        raise ConfigError(f"{path} exists already: choose another file with -o, or remove it")
    return _replacing(path, old, mode)


@contextlib.contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritable(path, error) from error


def _standing(path: Path) -> os.stat_result | None:
    """Status of the file behind links; None when there is none."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _descriptor(path: Path) -> int | None:
    """The number of our own open file that `path` leads to, as `/dev/stdout` and `/dev/fd/3` do."""
    own = f"/proc/{os.getpid()}/fd"
    for _ in range(_LINKS):
        if path.name.isdigit() and os.path.realpath(path.parent) == own:
            return int(path.name)
        if not path.is_symlink():
            break
        path = path.parent / path.readlink()
    return None


@contextlib.contextmanager
def _straight(path: Path) -> Iterator[BinaryIO]:
    """A file that is no regular one. A descriptor is used as it stands: opened anew it would begin at its
    start.
    """
    number = _descriptor(path)
    sys.stdout.flush()
    with _named_errors(path):
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY) if number is None else os.dup(number)
    with os.fdopen(handle, "wb") as file:
        yield file


@contextlib.contextmanager
def _replacing(path: Path, old: os.stat_result | None, mode: int) -> Iterator[BinaryIO]:
    """A regular file, or one that is not there yet. Without the right to make one beside it, an old one is
    written over at the end.
    """
    target = Path(os.path.realpath(path))
    beside = old is None or os.access(target.parent, os.W_OK)
    with _named_errors(path):
        handle, name = tempfile.mkstemp(
            prefix=f".{target.name[:100]}.", dir=target.parent if beside else None
        )
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            with _named_errors(path):
                file.flush()
                os.fsync(file.fileno())
                _place(file, Path(name), target, old, mode)
    finally:
        Path(name).unlink(missing_ok=True)


def _place(file: BinaryIO, temporary: Path, target: Path, old: os.stat_result | None, mode: int) -> None:
    """Give the written file its name, with the owner and the permissions of the old one."""
    if old is None:
        os.fchmod(file.fileno(), mode & ~_umask())
        temporary.replace(target)
        return
    with contextlib.suppress(OSError):
        if old.st_nlink == 1 and os.access(target, os.W_OK):
            os.fchown(file.fileno(), old.st_uid, old.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
            temporary.replace(target)
            return
    # Another one's file, one with several names, or one that is mounted: only its bytes can be replaced.
    file.seek(0)
    with target.open("r+b") as standing:
        shutil.copyfileobj(file, standing)
        standing.truncate()
        standing.flush()
        os.fsync(standing.fileno())


def _unwritable(path: Path, error: OSError) -> Unreachable:
    remedy = "make room on its disk, or choose" if error.errno in _FULL[:3] else "choose"
    return Unreachable(f"{path} cannot be written: {error.strerror}; {remedy} another file with -o")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
