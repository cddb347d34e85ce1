"""What becomes of a service whose checkpoints cannot be written: it says so, and never as a success."""

from pathlib import Path

import pytest

from streamlearn.errors import Stop, Unreachable
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
        faults.left += [Fault("topics", n, fails(Unreachable("away"))) for n in range(2, 9)]

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
    app.run()
    assert [p["model"]["revision"] for p in app.predictions()[200:]] == [2] * 100


def test_an_overtaken_owner_replaces_no_checkpoint_of_the_new_one(app: Harness) -> None:
    stream = events(400)
    app.produce(stream)
    app.run(Fault("sync", 0, is_taken_over))  # it writes its checkpoint of entry 0 when the other is at 8
    store = app.folder / "log.db.checkpoints" / "app" / "0"
    assert sorted(path.stem for path in store.iterdir()) == [f"{0:012d}", f"{8:012d}"]

    audit(app, stream)


def test_a_killed_writer_leaves_the_checkpoint_before(app: Harness) -> None:
    stream = events(400)
    app.produce(stream)
    with pytest.raises(Killed):
        app.run(Fault("publish", 3, fails(Killed())))
    for call in range(2):
        with pytest.raises(Killed):
            app.run(Fault("store.write", 0, fails(Killed())), Fault("topics", 3 + call, fails(Killed())))
    audit(app, stream)
