"""Pauses and deadlines of a service that are too long to wait for: in virtual time, at their full length."""

import time
from pathlib import Path

import pytest

from streamlearn.errors import Fenced, Unreachable
from streamlearn.service.process import AWAY_TRIES
from tests.fake_env import FakeEnv
from tests.faulty_log import Fault, Faults, Harness, fails, stops
from tests.test_faults import audit, events, logistic


@pytest.fixture
def app(tmp_path: Path) -> Harness:
    made = Harness(tmp_path, model=logistic)
    made.env = FakeEnv(time.time())
    return made


def slept_s(app: Harness) -> float:
    assert isinstance(app.env, FakeEnv)
    return app.env.slept_s


def test_a_service_runs_in_virtual_time(app: Harness) -> None:
    stream = events(200)
    app.produce(stream)
    app.run()
    audit(app, stream)


def test_a_log_that_stays_away_is_waited_for_and_given_up_in_the_end(app: Harness) -> None:
    app.produce(events(100))
    away = Unreachable("no broker answers")
    with pytest.raises(Unreachable, match="no broker answers"):
        app.run(*(Fault("owned", call, fails(away)) for call in range(3, 500)))
    assert AWAY_TRIES * 0.2 < slept_s(app) < AWAY_TRIES * 1.5


def test_a_log_that_comes_back_in_time_is_served_on(app: Harness) -> None:
    stream = events(100)
    app.produce(stream)
    away = Unreachable("no broker answers")
    app.run(*(Fault("owned", call, fails(away)) for call in range(3, 3 + AWAY_TRIES)))
    audit(app, stream)
    assert slept_s(app) > AWAY_TRIES * 0.2


def test_a_stop_cuts_the_pause_after_a_fence_short(app: Harness) -> None:
    app.produce(events(100))

    def is_fenced_and_stopped(faults: Faults) -> None:
        stops(faults)
        raise Fenced("a newer owner")

    before = app.run(Fault("publish", 1, is_fenced_and_stopped))
    assert before.process is not None
    assert slept_s(app) == 0
