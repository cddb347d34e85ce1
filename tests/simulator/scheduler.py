"""Threads that pass one baton: at every call of the environment or the log one seed says who goes on.

A *process* is what `kill -9` ends as a whole; a *thread* belongs to one. Exactly one thread runs at a time;
at `Scheduler.turn` it may hand the baton to another, sleep until a moment, be paused, or die. When nobody can
run, time jumps to the next moment at which somebody can: nothing here waits for a real clock.
"""

import random
import threading
from collections.abc import Callable
from typing import Any, Final

START_S: Final = 1_800_000_000.0
STUCK_S: Final = 60.0
"""Real seconds after which a thread that does not give the baton back is an error of the simulation."""
TURN_S: Final = 0.002
"""A turn takes so long at most."""
SWITCHES: Final = 0.3
"""The share of turns at which another thread goes on, if there is one that can."""


def _held_lock() -> threading.Lock:
    """A lock that one thread releases and another acquires: the quickest baton there is."""
    lock = threading.Lock()
    lock.acquire()
    return lock


class Killed(BaseException):
    """The process dies here: nothing of it may run any more but what Python itself insists on."""


class Process:
    """What lives and dies as one. `paused_until`: a SIGSTOP that ends at a moment."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.killed = False
        self.paused_until = 0.0


class Thread:
    """One thread of a process, at rest until it is given the baton."""

    def __init__(self, process: Process, name: str, work: Callable[[], None]) -> None:
        self.process = process
        self.name = name
        self.wakes_at = 0.0
        self.wakes_if: Callable[[], bool] = lambda: False
        self.done = False
        self.error: BaseException | None = None
        self._work = work
        self._baton = _held_lock()
        self._thread = threading.Thread(target=self._run, name=f"{process.name}/{name}", daemon=True)
        self._back: Callable[[], None] = lambda: None

    def begin(self, back: Callable[[], None]) -> None:
        self._back = back
        self._thread.start()

    def _run(self) -> None:
        self.wait()
        try:
            if not self.process.killed:
                self._work()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - told by `Scheduler.run`, which ends with it
            self.error = error
        self.done = True
        self._back()

    def give(self) -> None:
        """Hand it the baton."""
        self._baton.release()

    def wait(self) -> None:
        """Rest until the baton comes."""
        if not self._baton.acquire(timeout=STUCK_S):
            raise RuntimeError(f"the baton never came back to {self._thread.name}")


class Scheduler:
    """The one clock, the one source of chance, and who runs."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = START_S
        self.turns = 0
        self.on_turn: Callable[[Process, str, tuple[Any, ...]], None] = lambda process, call, words: None
        """What may happen at a turn, at a call with these words: the faults."""
        self._threads: list[Thread] = []
        self._running: Thread | None = None
        self._rest = _held_lock()

    def spawn(self, process: Process, name: str, work: Callable[[], None]) -> Thread:
        """A thread that begins when the baton first comes to it."""
        thread = Thread(process, name, work)
        self._threads.append(thread)
        thread.begin(self._rest.release)
        return thread

    @property
    def running(self) -> Process | None:
        """The process that has the baton."""
        return self._running and self._running.process

    def run(self) -> None:
        """Hand out the baton until every thread is done; raise what one of them raised."""
        while True:
            self._threads = [thread for thread in self._threads if not thread.done]
            if not self._threads:
                return
            thread = self._running = self._next()
            thread.give()
            if not self._rest.acquire(timeout=STUCK_S):
                raise RuntimeError(f"{thread.process.name}/{thread.name} keeps the baton")
            if thread.error is not None:
                raise thread.error

    def turn(
        self,
        call: str,
        until: float = 0.0,
        unless: Callable[[], bool] = lambda: False,
        words: tuple[Any, ...] = (),
    ) -> None:
        """Let others go on, and go on not before `until`, `unless` something is so before. Raises `Killed` in
        a process that was killed.
        """
        thread = self._running
        assert thread is not None, f"{call} outside of the simulation"
        self.turns += 1
        self.now += self.random.random() * TURN_S
        if not thread.process.killed:
            self.on_turn(thread.process, call, words)
        if thread.process.killed:
            raise Killed
        thread.wakes_at, thread.wakes_if = until, unless
        if until > self.now or thread.process.paused_until > self.now or self.random.random() < SWITCHES:
            self._rest.release()
            thread.wait()
        if thread.process.killed:
            raise Killed

    def _next(self) -> Thread:
        ready = [thread for thread in self._threads if self._ready_at(thread) <= self.now]
        if not ready:
            self.now = min(map(self._ready_at, self._threads))
            ready = [thread for thread in self._threads if self._ready_at(thread) <= self.now]
        return self.random.choice(ready)

    def _ready_at(self, thread: Thread) -> float:
        if thread.process.killed:
            return 0.0
        wakes_at = 0.0 if thread.wakes_if() else thread.wakes_at
        return max(wakes_at, thread.process.paused_until)
