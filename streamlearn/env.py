"""The world outside a process, as far as streamlearn asks it: clocks, waiting, chance and threads.

Nothing else in the package reads a clock, sleeps, draws or starts a thread: whoever needs that takes an
`Env` in its constructor, and the entrance of a process (the command line, `serve`, `run`) makes the one
`RealEnv`. So a test, or a simulator with one seed, decides when everything happens. (Drawing is also what the
user's model does; a seed is a part of the model.) LevelDB's `Env` is the precedent, without its files.

Invariants that whoever implements `Env` keeps:
- Every method may be called from any thread.
- A thread waits in four places only: `Env.sleep`, `Flag.wait`, `Task.wait` and `Task.result`, and in calls of
  a port (`log.port`). No thread of the service holds anything then that another one waits for; what an
  adapter locks behind its port is its own affair.
- `monotonic` never goes back; `now` may. No deadline is counted by `now`.
"""

import queue
import random
import secrets
import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class Task(Protocol[Result_co]):
    """Work that goes on beside its caller. What it raises is kept until somebody asks for the result."""

    @property
    def is_done(self) -> bool:
        """True when the work has returned or raised. Does not wait."""

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end of the work, at most `timeout_s`; True when it has ended."""

    def result(self) -> Result_co:
        """Wait for the end of the work, and return what it returned or raise what it raised."""


class Flag(Protocol):
    """A fact that, once it is so, stays so: the request to stop is one. `threading.Event` is a `Flag`, too,
    but may be set in no signal handler: it hangs when the signal meets its own lock.
    """

    def is_set(self) -> bool:
        """True from the first `set` on. Does not wait."""

    def set(self) -> None:
        """Let it be so, and wake whoever waits for it. May be called in a signal handler."""

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is set, at most `timeout_s`; True when it is. A sleep that a stop cuts short."""


PART_S = 0.02
"""Long work goes in parts of about so long: heartbeats go on between parts."""

_PART_MOST = 1_000


class PartSize:
    """How many items of long work, all about as long, take half of `PART_S`. `clock`: seconds.

    Example:
        >>> size = PartSize(lambda: 0.0)
        >>> size.begin(), size.end(), size.count
        (None, None, 2)
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began_s = 0.0
        self.count = 1

    def begin(self) -> None:
        """A part begins."""
        self._began_s = self._clock()

    def end(self, *, is_whole: bool = True) -> None:
        """It has ended; `is_whole`: it had as many items as it could. The next one is larger or smaller."""
        if self._clock() - self._began_s > PART_S / 2:
            self.count = max(1, self.count // 2)
        elif is_whole:
            self.count = min(2 * self.count, _PART_MOST)


class Env(Protocol):
    """Clocks, waiting, chance and threads: all that the package asks of the world by itself.

    An `Env` is handed to the constructor of whoever needs it. Every method may be called from any thread.
    """

    def now(self) -> float:
        """Seconds since 1970 by the wall clock, which may go back: for timestamps and ages, no deadlines."""

    def monotonic(self) -> float:
        """Seconds since some moment of this process, never going back: for durations and deadlines."""

    def sleep(self, seconds: float) -> None:
        """Wait, all of that time: for pauses of a second at most, which a stop need not cut short."""

    def jitter(self, seconds: float) -> float:
        """A random share of `seconds`, uniform from 0 on, so that processes do not try in step."""

    def token(self, size_bytes: int = 16) -> str:
        """Unpredictable random bytes as `2 * size_bytes` hexadecimal digits: a unique name, or a key."""

    def flag(self) -> Flag:
        """A new flag, not set."""

    def spawn(self, name: str, work: Callable[[], Result]) -> Task[Result]:
        """Begin `work` in a thread of its own, which dies with the process.

        Args:
            name: The thread's name.
            work: A function without arguments.

        Returns:
            The task. Ask for its `result` some time, or an error is lost.
        """


class RealEnv:
    """The machine's own clocks, chance and threads.

    Example:
        >>> env = RealEnv()
        >>> env.spawn("sum", lambda: 1 + 1).result()
        2
    """

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)

    def __init__(self) -> None:
        self._random = random.Random(secrets.randbits(128))

    def jitter(self, seconds: float) -> float:
        """As `Env.jitter`."""
        return self._random.uniform(0, seconds)

    def token(self, size_bytes: int = 16) -> str:
        """As `Env.token`."""
        return secrets.token_hex(size_bytes)

    def flag(self) -> Flag:
        """As `Env.flag`."""
        return _QueueFlag()

    def spawn(self, name: str, work: Callable[[], Result]) -> Task[Result]:
        """As `Env.spawn`."""
        return _Thread(name, work)


class _QueueFlag:
    """A flag by a queue, whose C code may be interrupted by a handler that puts something into it."""

    def __init__(self) -> None:
        self._is_set = False
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        if not self._is_set:
            self._is_set = True
            self._wake.put(None)

    def wait(self, timeout_s: float) -> bool:
        if not self._is_set and timeout_s > 0:
            try:
                self._wake.get(timeout=min(timeout_s, threading.TIMEOUT_MAX))
            except queue.Empty:
                pass
            else:
                self._wake.put(None)  # for whoever else waits
        return self._is_set


class _Thread(Generic[Result]):
    """Work in a thread of its own."""

    def __init__(self, name: str, work: Callable[[], Result]) -> None:
        self._work = work
        self._results: list[Result] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def wait(self, timeout_s: float | None = None) -> bool:
        self._thread.join(timeout_s)
        return self.is_done

    def result(self) -> Result:
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:  # noqa: BLE001 - the edge of this thread: `result` raises it
            self._error = error
