"""A store whose writes go on beside the loop, over any backend of blobs.

Invariants:
- One write at a time, in a thread of its own; its end, good or bad, is told once.
- What is to be forgotten goes only after the new blob is durable.
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial

import structlog

from streamlearn.env import Env, Task
from streamlearn.log.port import Blobs, Written

log = structlog.get_logger()


class BackgroundStore:
    """`CheckpointStore` over `blobs`. All methods are for the loop's thread."""

    def __init__(self, env: Env, blobs: Blobs) -> None:
        self._env = env
        self._blobs = blobs
        self._task: Task[Written] | None = None
        self.names = blobs.names
        self.read = blobs.read

    def begin(self, name: str, data: Callable[[], bytes | bytearray], forget: Mapping[str, str]) -> None:
        """As `CheckpointStore.begin`."""
        assert self._task is None, "the end of a write is asked for before the next one begins"
        self._task = self._env.spawn("checkpoint", partial(self._write, name, data, forget))

    def is_busy(self) -> bool:
        """As `CheckpointStore.is_busy`."""
        return self._task is not None and not self._task.is_done

    def wait(self) -> None:
        """As `CheckpointStore.wait`."""
        if self._task is not None:
            self._task.wait()

    def finished(self) -> Written | None:
        """As `CheckpointStore.finished`."""
        if self._task is None or self.is_busy():
            return None
        task, self._task = self._task, None
        return task.result()

    def close(self) -> None:
        """As `CheckpointStore.close`. A write that goes on is cut short: nothing names it."""
        self._blobs.close()

    def _write(self, name: str, data: Callable[[], bytes | bytearray], forget: Mapping[str, str]) -> Written:
        whole = data()
        sha256 = hashlib.sha256(whole).hexdigest()
        where = self._blobs.write(name, whole)
        left: Mapping[str, str] = {}
        if forget:
            try:
                self._blobs.forget(forget)
            except Exception as error:  # noqa: BLE001 - the blob is written; these are tried again with the next
                log.warning("checkpoint.not_forgotten", names=[*forget], reason=str(error))
                left = forget
        return Written(name, where, len(whole), sha256, left)
