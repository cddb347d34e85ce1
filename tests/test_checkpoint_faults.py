"""What becomes of a service whose checkpoints cannot be written: it says so, and never as a success."""

import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from river import linear_model

from streamlearn.engine import checkpoints
from streamlearn.engine.checkpoints import BlobName
from streamlearn.env import RealEnv
from streamlearn.errors import ConfigError, Stop, Unreachable
from streamlearn.log.embedded.log import EmbeddedLog
from streamlearn.log.folder_store import names_in
from streamlearn.service.health.checkpoint_age import CheckpointAge
from tests.fake_env import FakeEnv
from tests.faulty_log import Fault, Faults, Harness, Killed, fails, is_taken_over
from tests.test_faults import audit, events, logistic


@pytest.fixture
def app(tmp_path: Path) -> Harness:
    return Harness(tmp_path, model=logistic)


FULL = fails(Unreachable("the disk is full"))


def test_a_last_checkpoint_that_cannot_be_written_is_no_success(app: Harness) -> None:
    stream = events(300)
    app.produce(stream)
    with pytest.raises(Stop, match="last checkpoint could not be written: the disk is full"):
        app.run(Fault("store.write", 1, FULL))
    audit(app, stream)


def test_a_last_checkpoint_without_an_answer_from_the_log_is_no_success(app: Harness) -> None:
    stream = events(300)
    app.produce(stream)

    def then_away(faults: Faults) -> None:
        now = faults.calls["topics"]
        faults.left += [Fault("topics", now + n, fails(Unreachable("away"))) for n in range(1, 9)]

    with pytest.raises(Stop, match="last checkpoint could not be written: away"):
        app.run(Fault("publish", 2, then_away))
    audit(app, stream)


def test_a_service_that_cannot_write_its_first_checkpoint_does_not_begin(app: Harness) -> None:
    stream = events(300)
    app.produce(stream)
    for _ in range(2):  # at genesis, and once there is a genesis and still no checkpoint
        with pytest.raises(Stop, match="first checkpoint cannot be written: the disk is full"):
            app.run(Fault("store.write", 0, FULL))
        assert app.predictions() == []
    audit(app, stream)


def test_a_new_model_does_not_begin_without_its_checkpoint(app: Harness) -> None:
    stream = events(300)
    app.produce(stream[:200])
    app.run()
    app.model = None
    app.produce(stream[200:])
    for _ in range(2):
        with pytest.raises(Stop, match="first checkpoint cannot be written"):
            app.run(Fault("store.write", 0, FULL), model_change="fresh")
        assert len(app.predictions()) == 200
    app.run(model_change="fresh")
    assert [p["model"]["revision"] for p in app.predictions()[200:]] == [2] * 100


def blob_names(store: Path) -> list[BlobName]:
    return [name for name in map(BlobName.parse, names_in(store)) if name]


def test_an_overtaken_owner_replaces_no_checkpoint_of_the_new_one(
    app: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "REDO_S", 0.0)
    monkeypatch.setattr(checkpoints, "WORK_PER_COST", 0)
    stream = events(400)
    app.produce(stream)
    app.run(Fault("sync", 0, is_taken_over))  # it writes its checkpoint of entry 1 when the other is at 8
    store = app.folder / "log.db.checkpoints" / "app" / "0"
    until = time.monotonic() + 60
    while not any(name.claim == 1 and name.seq == 1 for name in blob_names(store)):
        assert time.monotonic() < until, "the checkpoint of the overtaken one is there"
        time.sleep(0.01)
    entries = app.journal()
    kept = entries[entries[-1].named].checkpoints
    assert {BlobName.parse(one.name).claim for one in kept if one.seq} == {2}, "and nothing names it"
    audit(app, stream)
    app.produce(stream[:1])
    app.run()
    app.produce(stream[:1])
    app.run()
    assert not any(name.claim == 1 and name.seq for name in blob_names(store))


def test_a_killed_writer_leaves_the_checkpoint_before(app: Harness) -> None:
    stream = events(400)
    app.produce(stream)
    with pytest.raises(Killed):
        app.run(Fault("publish", 3, fails(Killed())))
    with pytest.raises(Killed):
        app.run(Fault("store.write", 0, fails(Killed())))
    audit(app, stream)


def test_a_checkpoint_older_than_half_of_the_inputs_retention_is_an_alert_and_no_output(
    tmp_path: Path,
) -> None:
    app = Harness(tmp_path, model=logistic)
    app.produce(events(50))
    app.run()
    before = len(app.journal())
    log = EmbeddedLog(RealEnv(), app.config.names(), app.config.log.path, 100)
    env = FakeEnv(now_s := time.time())
    age = CheckpointAge(env, log)
    newest, done = {("events", 0): 20}, {("events", 0): 50}
    told = []
    for seconds, saved in ((10, newest), (45, newest), (60, newest), (70, newest), (80, done)):
        env.now_s = now_s + seconds
        age.look(saved, done, "the disk is full")
        told.append([orjson.loads(r.value or b"") for r in app.records(app.config.topics.alerts)])
    log.close()
    assert [len(some) for some in told] == [0, 0, 1, 1, 2]
    raised, cleared = told[-1]
    assert (raised["alert"], raised["state"], raised["topic"]) == ("checkpoint.old", "raised", "events")
    assert "older than half of the retention of events (50 s)" in raised["message"]
    assert "failed: the disk is full" in raised["message"]
    assert (cleared["alert"], cleared["state"]) == ("checkpoint.old", "cleared")
    assert len(app.journal()) == before, "it is no part of the journal"
    app.run()


class Leaky(linear_model.LogisticRegression):
    """Part of its state is lost in a pickle, and matters only for odd events."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def predict_proba_one(self, x: dict[str, float]) -> dict[bool, float]:
        self.count += "odd" in x
        return {True: 1 / (2 + self.count), False: 1 - 1 / (2 + self.count)}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "count": 0}


@pytest.mark.parametrize("end", ["before", "after"])
def test_the_first_records_are_checked_although_the_service_was_killed_among_them(
    tmp_path: Path, end: str
) -> None:
    app = Harness(tmp_path, model=Leaky)
    stream = events(1300)
    for event in stream[40:]:
        event["features"]["odd"] = 1.0
    app.produce(stream[:40])
    with pytest.raises(Killed):
        app.run(Fault("publish", 1, fails(Killed()), end))
    app.produce(stream[40:])
    with pytest.raises(ConfigError, match="does not come back the same from a checkpoint"):
        app.run()


def test_an_alert_that_cannot_be_told_costs_nothing_and_is_told_later(app: Harness) -> None:
    app.produce(events(50))
    app.run()
    log = EmbeddedLog(RealEnv(), app.config.names(), app.config.log.path, 100)
    told: list[bytes] = []
    refusals = [Unreachable("away"), ConfigError("no right"), Stop("too large")]

    def tell(value: bytes) -> None:
        if refusals:
            raise refusals.pop()
        told.append(value)

    log.tell = tell  # type: ignore[method-assign]
    env = FakeEnv(time.time() + 60)
    age = CheckpointAge(env, log)
    for _ in range(5):
        env.sleep(6)
        age.look({("events", 0): 20}, {("events", 0): 50}, "")
    log.close()
    assert len(told) == 1


def test_a_damaged_checkpoint_with_a_larger_number_does_not_stop_others_from_being_written(
    app: Harness,
) -> None:
    stream = events(300)
    app.produce(stream[:100])
    app.run()
    folder = app.folder / "log.db.checkpoints" / "app" / "0"
    (folder / f"{10**6:012d}.ckpt").write_bytes(b"junk")
    app.produce(stream[100:])
    app.run()
    assert len(list(folder.glob("*.ckpt"))) > 2
    audit_predictions = [p["id"] for p in app.predictions()]
    assert audit_predictions == [event["id"] for event in stream]
