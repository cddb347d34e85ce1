"""The real environment: clocks, waiting, chance and threads as `Env` promises them."""

import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import pytest

from streamlearn.env import Env, Flag, RealEnv


@pytest.fixture
def env() -> Env:
    return RealEnv()


def test_the_clocks_are_the_machines(env: Env) -> None:
    assert abs(env.now() - time.time()) < 1
    began_s = env.monotonic()
    env.sleep(0.02)
    assert 0.02 <= env.monotonic() - began_s < 5


def test_jitter_is_a_share_and_not_always_the_same(env: Env) -> None:
    shares = [env.jitter(2.0) for _ in range(1000)]
    assert min(shares) >= 0
    assert max(shares) <= 2
    assert 0.9 < sum(shares) / 1000 < 1.1
    assert len(set(shares)) > 900
    assert env.jitter(0) == 0
    assert RealEnv().jitter(1) != RealEnv().jitter(1)  # replicas that start together do not draw alike


def test_no_token_comes_twice(env: Env) -> None:
    assert len({env.token() for _ in range(1000)}) == 1000
    assert [len(bytes.fromhex(env.token(size))) for size in (4, 16, 32)] == [4, 16, 32]


def test_a_task_gives_what_its_work_returned(env: Env) -> None:
    names = env.spawn("checkpoint", lambda: threading.current_thread().name)
    assert names.result() == "checkpoint"
    assert names.is_done
    assert names.wait(0)
    assert names.result() == "checkpoint"


def test_a_task_raises_what_its_work_raised_each_time_it_is_asked(env: Env) -> None:
    def broken() -> int:
        raise KeyError("x")

    task = env.spawn("broken", broken)
    assert task.wait(5)
    for _ in range(2):
        with pytest.raises(KeyError, match="x"):
            task.result()


def test_a_task_is_not_done_before_its_end(env: Env) -> None:
    go = env.flag()
    task = env.spawn("waiting", lambda: go.wait(10))
    assert not task.is_done
    assert not task.wait(0.01)
    go.set()
    assert task.wait(10)
    assert task.result() is True


def test_a_flag_stays_set_and_wakes_everybody(env: Env) -> None:
    flag = env.flag()
    assert not flag.is_set()
    assert not flag.wait(0)
    assert not flag.wait(0.01)
    began_s = env.monotonic()
    waiting = [env.spawn("waiting", lambda: flag.wait(1e12)) for _ in range(5)]  # beyond what a lock can wait
    flag.set()
    flag.set()
    assert all(task.result() for task in waiting)
    assert flag.is_set()
    assert flag.wait(60)
    assert env.monotonic() - began_s < 30


@pytest.fixture
def storm() -> Iterator[list[Flag]]:
    """A signal every 50 us whose handler sets the flags of this list, as that of Ctrl-C does."""
    flags: list[Flag] = []

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        for flag in flags:
            flag.set()

    before = signal.signal(signal.SIGALRM, on_signal)
    signal.setitimer(signal.ITIMER_REAL, 50e-6, 50e-6)
    try:
        yield flags
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_signal_handler_may_set_the_flag_that_its_thread_is_just_waiting_for(
    env: Env, storm: list[Flag]
) -> None:
    """With `threading.Event` this hangs for ever, within some thousand waits."""
    until_s = env.monotonic() + 1
    while env.monotonic() < until_s:
        storm[:] = [env.flag()]
        while not storm[0].wait(0.0001):
            pass
