"""`Env` of a process in the simulation: its clock, chance and threads are the scheduler's."""

from collections.abc import Callable
from typing import Generic, TypeVar

from tests.fake_env import FakeTask
from tests.simulator.scheduler import START_S, Process, Scheduler

Result = TypeVar("Result")


class SimulatedEnv:
    """As `RealEnv`, for one process of a simulation."""

    def __init__(self, scheduler: Scheduler, process: Process) -> None:
        self._scheduler = scheduler
        self._process = process

    def now(self) -> float:
        return self._scheduler.now

    def monotonic(self) -> float:
        return self._scheduler.now - START_S

    def sleep(self, seconds: float) -> None:
        self._scheduler.turn("sleep", self._scheduler.now + seconds)

    def jitter(self, seconds: float) -> float:
        return self._scheduler.random.uniform(0, seconds)

    def token(self, size_bytes: int = 16) -> str:
        return self._scheduler.random.randbytes(size_bytes).hex()

    def flag(self) -> "SimulatedFlag":
        return SimulatedFlag(self._scheduler)

    def spawn(self, name: str, work: Callable[[], Result]) -> "SimulatedTask[Result]":
        return SimulatedTask(self._scheduler, self._process, name, work)


class SimulatedFlag:
    """As `Flag`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True

    def wait(self, timeout_s: float) -> bool:
        self._scheduler.turn("flag.wait", self._scheduler.now + timeout_s, self.is_set)
        return self._is_set


class SimulatedTask(Generic[Result]):
    """As `Task`."""

    def __init__(self, scheduler: Scheduler, process: Process, name: str, work: Callable[[], Result]) -> None:
        self._scheduler = scheduler
        self._work = work
        self._ended: FakeTask[Result] | None = None
        scheduler.spawn(process, name, self._run)

    def _run(self) -> None:
        self._ended = FakeTask(self._work)

    @property
    def is_done(self) -> bool:
        return self._ended is not None

    def wait(self, timeout_s: float | None = None) -> bool:
        for_ever = float("inf")
        until = for_ever if timeout_s is None else self._scheduler.now + timeout_s
        self._scheduler.turn("task.wait", until, lambda: self.is_done)
        return self.is_done

    def result(self) -> Result:
        self.wait()
        assert self._ended is not None
        return self._ended.result()
