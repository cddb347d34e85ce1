"""The driver of a shard: what it answers for, and what may not be taken from a state that is ahead."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from river import linear_model

from streamlearn.config.schema import Config
from streamlearn.core.journal import GENESIS, Entry, chain
from streamlearn.core.records import Range, Record, Skip
from streamlearn.core.shard.facts import published
from streamlearn.core.shard.snapshot import fresh_state
from streamlearn.engine.driver import Failure
from streamlearn.engine.era import era_now
from streamlearn.engine.model import fresh_model
from streamlearn.engine.registry import Schemas
from streamlearn.engine.standing import Standing
from streamlearn.env import RealEnv
from streamlearn.log.port import TopicInfo


class Touchy(linear_model.LogisticRegression):
    """Raises in the middle of learning, after it has changed."""

    def learn_one(self, x: dict[str, Any], y: Any) -> None:
        super().learn_one(x, y)
        if "poison" in x:
            raise RuntimeError("poisoned")


def record(offset: int, **features: float) -> Record:
    event = {"features": {"a": offset % 7 - 3.0, **features}, "label": offset % 7 > 3}
    return Record("events", 0, offset, 1_785_000_000_000 + offset, None, orjson.dumps(event))


@pytest.fixture
def standing() -> Standing:
    fresh = fresh_model("app", "", {}, [], Touchy())
    config = Config(app={"name": "app"}, topics={"input": ["events"]})  # type: ignore[arg-type]
    era = era_now(
        config, fresh, dict.fromkeys(["events", "app.control"], TopicInfo("id", (0,), (0,))), "genesis"
    )
    sections = fresh_state(fresh.pickled)
    return Standing.at_genesis(
        fresh, Entry(0, 0, chain(GENESIS, ()), change=era), Schemas(RealEnv(), ""), sections
    )


def entry(standing: Standing, offset: int, outputs: Any) -> Entry:
    ranges = [Range("events", 0, offset, offset + 1)]
    return Entry(standing.seq + 1, 0, chain(standing.digest, outputs), ranges, len(outputs))


def leave_out(standing: Standing) -> None:
    standing.driver.leave_out(record(0), Skip("events", 0, 0, "learn", "raised"))


@pytest.mark.parametrize("take", [Standing.header, Standing.take_snapshot])
@pytest.mark.parametrize("go_on", [lambda standing: standing.driver.step(record(0)), leave_out])
def test_nothing_can_be_saved_of_a_state_that_is_ahead(
    standing: Standing, take: Callable[[Standing], Any], go_on: Callable[[Standing], Any]
) -> None:
    take(standing)
    go_on(standing)
    with pytest.raises(AssertionError):
        take(standing)
    standing.advance(entry(standing, 0, ()))
    take(standing)


def test_a_state_is_ahead_from_the_first_step_on_until_the_journal_has_it(standing: Standing) -> None:
    driver = standing.driver
    for offset in range(3):
        assert not driver.ahead
        facts = driver.step(record(offset))
        assert not isinstance(facts, Failure)
        assert driver.ahead
        standing.advance(entry(standing, offset, published(facts)))
    before = orjson.loads(standing.take_snapshot()["memory"])
    failure = driver.step(record(3, poison=1.0))
    assert isinstance(failure, Failure)
    assert failure.skip == Skip("events", 0, 3, "learn", "raised")
    assert driver.ahead, "a step that raised has changed something"
    assert standing.restored(None, [], [], lambda: None) == []  # type: ignore[arg-type]
    assert not driver.ahead
    assert orjson.loads(standing.take_snapshot()["memory"]) == before
