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
from streamlearn.core.shard.work import Failure
from streamlearn.engine.cursor import JournalCursor
from streamlearn.engine.driver import ShardDriver
from streamlearn.engine.era import era_now
from streamlearn.engine.model import model_template
from streamlearn.engine.registry import Schemas
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
def driver() -> ShardDriver:
    fresh = model_template("app", "", {}, [], Touchy())
    config = Config(app={"name": "app"}, topics={"input": ["events"]})  # type: ignore[arg-type]
    era = era_now(
        config, fresh, dict.fromkeys(["events", "app.control"], TopicInfo("id", (0,), (0,))), "genesis"
    )
    sections = fresh_state(fresh.pickled)
    cursor = JournalCursor.at_birth(Entry(0, 0, chain(GENESIS, ()), change=era))
    return ShardDriver.at_cursor(cursor, sections, fresh.trusted, Schemas(RealEnv(), ""), None)  # type: ignore[arg-type]


def entry(driver: ShardDriver, offset: int, outputs: Any) -> Entry:
    ranges = [Range("events", 0, offset, offset + 1)]
    return Entry(driver.cursor.seq + 1, 0, chain(driver.cursor.digest, outputs), ranges, len(outputs))


def leave_out(driver: ShardDriver) -> None:
    driver.leave_out(record(0), Skip("events", 0, 0, "learn", "raised"))


@pytest.mark.parametrize("take", [ShardDriver.header, ShardDriver.take_snapshot])
@pytest.mark.parametrize("go_on", [lambda driver: driver.step(record(0)), leave_out])
def test_nothing_can_be_saved_of_a_state_that_is_ahead(
    driver: ShardDriver, take: Callable[[ShardDriver], Any], go_on: Callable[[ShardDriver], Any]
) -> None:
    take(driver)
    go_on(driver)
    with pytest.raises(AssertionError):
        take(driver)
    driver.advance(entry(driver, 0, ()))
    take(driver)


def test_a_state_is_ahead_from_the_first_step_on_until_the_journal_has_it(driver: ShardDriver) -> None:
    for offset in range(3):
        assert not driver.ahead
        facts = driver.step(record(offset))
        assert not isinstance(facts, Failure)
        assert driver.ahead
        driver.advance(entry(driver, offset, published(facts)))
    before = orjson.loads(driver.take_snapshot()["memory"])
    failure = driver.step(record(3, poison=1.0))
    assert isinstance(failure, Failure)
    assert failure.skip == Skip("events", 0, 3, "learn", "raised")
    assert driver.ahead, "a step that raised has changed something"
    assert driver.restored([], []) == []
    assert not driver.ahead
    assert orjson.loads(driver.take_snapshot()["memory"]) == before
