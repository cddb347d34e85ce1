"""Histories of two processes under faults, by seed: the outcome is that of the uninterrupted run.

Each run of the suite plays `SEEDS` histories; `python -m tests.test_simulator 0 20000` plays more. A fault
that is planted into the service is found: else the histories would prove nothing.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Final

import msgspec
import pytest

from streamlearn.core.journal import Entry
from streamlearn.core.shard.snapshot import dump_state, unseal
from streamlearn.engine.checkpoints import stored
from streamlearn.engine.driver import ShardDriver
from streamlearn.errors import BadCheckpoint, Unknown
from streamlearn.service.health import sources
from streamlearn.service.recovery import Recovery
from streamlearn.service.starting_states import StartingState
from streamlearn.service.task import ShardTask
from tests.simulator.faults import ENDING, HEALING
from tests.simulator.memory_log import MemoryShardLog
from tests.simulator.world import World

SEEDS: Final = 200
CHUNK: Final = 25

Stage = Callable[[int], World]

STAGES: Final[dict[str, Stage]] = {
    "faults that heal": lambda seed: World(seed, HEALING),
    "an input made again": lambda seed: World(seed, ENDING),
    "machines of two kinds": lambda seed: World(seed, HEALING, odd=True),
    "two events that kill": lambda seed: World(seed, HEALING, faults=2, deadly=2),
    "three events that kill": lambda seed: World(seed, HEALING, faults=2, deadly=3),
}


def play(stage: Stage, seed: int) -> World:
    """One history, checked."""
    world = stage(seed)
    try:
        world.run()
        world.check()
    except AssertionError as error:
        error.add_note("\n".join([f"seed {seed}", *world.happened]))
        raise
    return world


def chunks(until: int) -> list[range]:
    return [range(first, first + CHUNK) for first in range(0, until, CHUNK)]


@pytest.mark.parametrize("seeds", chunks(SEEDS), ids=str)
def test_a_history_with_faults_ends_as_one_without(seeds: range) -> None:
    worlds = [play(STAGES["faults that heal"], seed) for seed in seeds]
    assert all(world.covered() == world.produced for world in worlds)
    happened = {told.split(": ")[1].partition(" at ")[0] for world in worlds for told in world.happened}
    assert len(happened & HEALING.keys()) >= len(HEALING) - 2


@pytest.mark.parametrize("seeds", chunks(CHUNK), ids=str)
def test_an_event_that_kills_the_process_becomes_a_dead_letter(seeds: range) -> None:
    for seed in seeds:
        assert len(play(STAGES["two events that kill"], seed).deadly) == 2


@pytest.mark.parametrize("stage", ["an input made again", "machines of two kinds", "three events that kill"])
@pytest.mark.parametrize("seeds", chunks(CHUNK), ids=str)
def test_what_cannot_heal_stops_the_service_and_spoils_nothing(stage: str, seeds: range) -> None:
    stops = [play(STAGES[stage], seed).stops for seed in seeds]
    assert any(stops)


def test_a_seed_gives_the_same_history_each_time() -> None:
    first, second = (play(STAGES["faults that heal"], 7) for _ in range(2))
    assert first.happened == second.happened
    assert first.journal() == second.journal()
    assert first.scheduler.turns == second.scheduler.turns


# Planted faults: each is found within the seeds of one run.


def takes_unknown_for_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ShardTask._publish

    def publish(self: ShardTask, batch: Any) -> None:
        def committed(*words: Any) -> None:
            with suppress(Unknown):
                inner(*words)

        inner = self.log.publish
        monkeypatch.setattr(self.log, "publish", committed, raising=False)
        real(self, batch)

    monkeypatch.setattr(ShardTask, "_publish", publish)


def reads_a_recreated_topic_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "check_live", lambda era, topics: None)


def compares_no_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ShardDriver._restep

    def restep(self: ShardDriver, entry: Entry, *words: Any) -> bool:
        real(self, entry, *words)
        return True

    monkeypatch.setattr(ShardDriver, "_restep", restep)


def names_without_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a zombie's checkpoint is named."""
    real, check = MemoryShardLog.publish, MemoryShardLog._check_epoch
    naming: list[MemoryShardLog] = []

    def publish(self: MemoryShardLog, entry: Entry, *words: Any) -> None:
        naming[:] = [self] if entry.checkpoints and not entry.steps else []
        real(self, entry, *words)

    monkeypatch.setattr(MemoryShardLog, "publish", publish)
    monkeypatch.setattr(MemoryShardLog, "_check_epoch", lambda self: None if self in naming else check(self))


def checkpoints_when_it_is_fenced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the first edition did when a stop and a fence came together: it wrote down a state that was ahead of
    its entry, and the next start took the newest checkpoint that was there.
    """
    real = ShardTask.drop

    def drop(self: ShardTask) -> StartingState:
        self.driver.advance()
        header = msgspec.structs.replace(self.driver.header(), app=self._config.app.name)
        with suppress(Exception):
            self._checkpointer.write(header, dump_state(self.driver.shard), {}, 0.0)
            self._checkpointer.wait()
        return real(self)

    def candidates(self: Recovery, end: Entry) -> Iterator[StartingState]:
        for name in reversed(stored(self._store.names(), self.birth_name.journal, 0)):
            with suppress(BadCheckpoint):
                header, sections = unseal(self._store.read(name.text))
                yield StartingState(name.text, header, sections, header.next_offsets())

    monkeypatch.setattr(ShardTask, "drop", drop)
    monkeypatch.setattr(Recovery, "candidates", candidates)


PLANTED: Final = {
    names_without_the_lock: "faults that heal",
    checkpoints_when_it_is_fenced: "faults that heal",
    takes_unknown_for_committed: "faults that heal",
    reads_a_recreated_topic_on: "an input made again",
    compares_no_digest: "machines of two kinds",
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        for seed in range(SEEDS):
            play(STAGES[PLANTED[plant]], seed)


def main(seeds: Iterable[int]) -> int:
    """Play histories of every stage; tell the seeds that went wrong."""
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    wrong = 0
    for seed in seeds:
        for name, stage in STAGES.items():
            try:
                play(stage, seed)
            except AssertionError as error:
                wrong += 1
                print(f"{name}, seed {seed}: {error}", *getattr(error, "__notes__", ()), sep="\n", flush=True)
    print(f"{wrong} histories went wrong")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main(range(*map(int, sys.argv[1:]))))
