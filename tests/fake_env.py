"""An environment in virtual time, for one thread: nothing waits, and each run is as the last one."""

import random
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class FakeEnv:
    """As `Env`. Only sleeping and waiting move the clocks; spawned work is done before `spawn` returns."""

    def __init__(self, now_s: float = 1_700_000_000.0, seed: int = 0) -> None:
        self.now_s = now_s
        self.slept_s = 0.0
        self._random = random.Random(seed)

    def now(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.slept_s += seconds

    def jitter(self, seconds: float) -> float:
        return self._random.uniform(0, seconds)

    def token(self, size_bytes: int = 16) -> str:
        return self._random.randbytes(size_bytes).hex()

    def flag(self) -> "FakeFlag":
        return FakeFlag(self)

    def spawn(self, name: str, work: Callable[[], Result]) -> "FakeTask[Result]":
        return FakeTask(work)


class FakeFlag:
    """As `Flag`."""

    def __init__(self, env: FakeEnv) -> None:
        self._env = env
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True

    def wait(self, timeout_s: float) -> bool:
        if not self._is_set:
            self._env.sleep(timeout_s)
        return self._is_set


class FakeTask(Generic[Result]):
    """As `Task`."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self.is_done = True
        self._results: list[Result] = []
        self._error: BaseException | None = None
        try:
            self._results.append(work())
        except BaseException as error:  # noqa: BLE001 - the edge of what would be a thread
            self._error = error

    def wait(self, timeout_s: float | None = None) -> bool:
        return True

    def result(self) -> Result:
        if self._error is not None:
            raise self._error
        return self._results[0]
