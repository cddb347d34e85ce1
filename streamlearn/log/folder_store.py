"""Checkpoints as files of one folder.

Invariants:
- A file `<name>.ckpt` is whole: its bytes were synced before it got that name, and the name, with every
  folder that was made for it, was synced before `write` returned.
- Only regular files are read, of a size that was looked at before: a pipe or a device with such a name
  neither hangs the start nor fills its memory.
- While a writer lives it holds a lock on its temporary file, so that only leftovers of dead ones are removed.
"""

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from streamlearn.env import Env
from streamlearn.errors import BadCheckpoint, Unreachable

_SUFFIX = ".ckpt"
MAX_FILE_BYTES = 4 << 30
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


def read_regular(path: Path, limit: int = MAX_FILE_BYTES) -> bytes:
    """The bytes of a regular file of at most `limit` bytes. Never waits for a writer.

    Raises `OSError`, with the reason as its `strerror`.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with open(handle, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if status.st_size > limit:
            raise OSError(
                errno.EFBIG, f"it has {status.st_size:,} bytes, over the limit of {limit:,}", str(path)
            )
        data = file.read(limit + 1)
    if len(data) > limit:  # some say that they are empty, as in /proc
        raise OSError(errno.EFBIG, f"it has more than {limit:,} bytes", str(path))
    return data


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def names_in(folder: Path) -> list[str]:
    """The complete checkpoints in a folder, oldest first. Raises `Unreachable` when it cannot be read."""
    try:
        return sorted(path.stem for path in folder.iterdir() if path.suffix == _SUFFIX)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreachable(folder, "read", error) from error


class FolderStore:
    """`Blobs` in `folder`, which is made by the first write."""

    def __init__(self, env: Env, folder: str | Path) -> None:
        self._env = env
        self._folder = Path(folder)

    def names(self) -> list[str]:
        """The complete checkpoints, oldest first. Raises `Unreachable` when the folder cannot be read."""
        return names_in(self._folder)

    def read(self, name: str, where: str = "") -> bytes:
        """The bytes of one. Raises `BadCheckpoint`."""
        path = self._path(name)
        try:
            return read_regular(path)
        except OSError as error:
            raise BadCheckpoint(f"{path} cannot be read: {error.strerror}") from error

    def write(self, name: str, data: bytes | bytearray) -> str:
        """Durable under `name` when it returns."""
        path = self._path(name)
        try:
            self._make_folder()
            self._remove_leftovers()
            self._write_whole(path, data)
        except OSError as error:
            raise _unreachable(self._folder, "written", error) from error
        return ""

    def forget(self, blobs: Mapping[str, str]) -> None:
        """Delete these; one that is not there is no error."""
        paths = [self._path(name) for name in blobs]
        try:
            for path in paths:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise _unreachable(self._folder, "written", error) from error

    def close(self) -> None:
        """Nothing is held."""

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise BadCheckpoint(f"{name!r} is not a checkpoint's name: use A-Z a-z 0-9 . _ -")
        return self._folder / f"{name}{_SUFFIX}"

    def _write_whole(self, path: Path, data: bytes | bytearray) -> None:
        temporary = self._folder / f".{path.name}.{self._env.token()}.tmp"
        try:
            with temporary.open("xb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync(self._folder)

    def _make_folder(self) -> None:
        """Make the folder and those above it, each synced into the one that it lies in."""
        missing = []
        folder = self._folder.absolute()
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for new_folder in reversed(missing):
            new_folder.mkdir(exist_ok=True)
            _sync(new_folder.parent)

    def _remove_leftovers(self) -> None:
        for path in self._folder.glob(".*.tmp"):
            # It may have been renamed or removed by its owner meanwhile, or be locked: then it lives.
            with contextlib.suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def _unreachable(folder: Path, action: str, error: OSError) -> Unreachable:
    return Unreachable(
        f"the checkpoint folder {folder} cannot be {action} ({error.strerror}):"
        " make it writable for this user, make room on its disk, or set checkpoint.url to another folder"
    )
