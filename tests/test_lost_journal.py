"""What recovery concludes from a journal that is short, trimmed, contradicted, or another app's."""

from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from river import linear_model, preprocessing
from structlog.testing import capture_logs

from streamlearn.core.shard.snapshot import seal, unseal
from streamlearn.errors import ConfigError, Stop, Unknown
from streamlearn.log.port import ProducerRecord
from tests.faulty_log import Fault, Faults, Harness, Killed, fails, is_taken_over, name_anew, stops
from tests.test_faults import audit, events, expected, logistic, published


@pytest.fixture
def app(tmp_path: Path) -> Harness:
    return Harness(tmp_path, model=logistic)


def checkpoints(app: Harness) -> list[Path]:
    return sorted((app.folder / "log.db.checkpoints" / "app" / "0").glob("*.ckpt"))


def forget_positions(app: Harness) -> None:
    app.db("UPDATE owners SET positions = '[]'")


def lose_the_end(app: Harness, entries: int) -> None:
    """As by a power cut: the journal from `entries` on, and the checkpoints that stand there."""
    app.cut_tail(app.config.topics.journal, entries)
    for path in checkpoints(app):
        if int(path.stem[:12]) >= entries:
            path.unlink()


# --- witnesses of a lost end ----------------------------------------------------------------------------


@pytest.mark.parametrize("witness", ["positions", "predictions"])
def test_a_journal_that_lost_its_end_stops_the_service(app: Harness, witness: str) -> None:
    app.produce(events(500))
    app.run()
    lose_the_end(app, 5)
    if witness == "positions":
        app.db("DELETE FROM packs WHERE topic = (SELECT number FROM topics WHERE name = 'app.predictions')")
        app.db(
            "UPDATE partitions SET log_start = next_offset"
            " WHERE topic = (SELECT number FROM topics WHERE name = 'app.predictions')"
        )
    else:
        forget_positions(app)
    before = len(app.predictions())
    with pytest.raises(Stop, match=r"lost its end: .*events-0 was done up to offset 200.*reset --start"):
        app.run()
    assert len(app.predictions()) == before, "nothing was published a second time"


def test_a_changed_model_does_not_hide_a_lost_end(app: Harness) -> None:
    app.produce(events(500))
    app.run()
    lose_the_end(app, 5)
    forget_positions(app)
    app.model = None
    with pytest.raises(Stop, match="lost its end"):
        app.run(model_change="fresh")


def test_predictions_of_others_and_of_before_are_no_witnesses(app: Harness) -> None:
    stream = events(100)
    app.produce(stream)
    junk: list[Any] = [b"", None, b"[]", b"{}", b'{"source":{"topic":"events","partition":0,"offset":"x"}}']
    other = {"source": {"topic": "events", "partition": 0, "offset": 10**6}, "model": {"version": "another"}}
    records = [ProducerRecord(None, value) for value in [*junk, orjson.dumps(other)]]
    app.admin.append(app.config.topics.predictions, records)
    app.run()
    app.admin.append(app.config.topics.predictions, records)
    app.run()
    found = [
        r for r in app.records(app.config.topics.predictions) if r.value and b'"probabilities"' in r.value
    ]
    assert len(found) == 100


def test_a_genesis_over_predictions_that_are_there_needs_the_users_word(app: Harness) -> None:
    stream = events(200)
    app.produce(stream)
    app.run()
    app.cut_tail(app.config.topics.journal, 0)
    app.db("DELETE FROM owners")
    for path in checkpoints(app):
        path.unlink()
    with pytest.raises(
        Stop, match=r"holds predictions for this input already \(the newest: events-0 at 199\)"
    ):
        app.run()
    app.begin = True
    app.run()
    assert published(app) == expected(stream) * 2, "begun anew, as the user said"
    app.begin = False
    app.run()  # the predictions of the first life stand before the era's mark


def test_positions_alone_are_a_witness_that_the_whole_journal_is_gone(app: Harness) -> None:
    app.produce(events(200))
    app.run()
    app.cut_tail(app.config.topics.journal, 0)
    for path in checkpoints(app):
        path.unlink()
    with pytest.raises(Stop, match=r"group offsets: .*events-0 at 200.*journal lost its data"):
        app.run()


# --- trimmed journals -----------------------------------------------------------------------------------


def trimmed(tmp_path: Path) -> Harness:
    app = Harness(tmp_path, model=logistic, **{"checkpoint.keep": 1})
    stream = events(300)
    for first in range(0, 300, 100):
        app.produce(stream[first : first + 100])
        app.run()
    cut_start(app, 4)
    return app


def cut_start(app: Harness, seq: int) -> None:
    """The journal is trimmed: entry `seq` is the first one that is left."""
    number = "(SELECT number FROM topics WHERE name = ?)"
    journal = app.config.topics.journal
    app.db(f"DELETE FROM packs WHERE topic = {number} AND next_offset <= ?", journal, seq)
    app.db(f"UPDATE partitions SET log_start = {seq} WHERE topic = {number}", journal)


def test_a_revision_that_began_on_a_trimmed_journal_has_its_birth_in_it(tmp_path: Path) -> None:
    app = trimmed(tmp_path)
    app.model = None
    with pytest.raises(Killed):
        app.run(Fault("publish", 0, fails(Killed()), "after"), model_change="fresh")
    app.run()
    app.produce(events(50, start=300))
    app.run()
    assert [p["model"]["revision"] for p in app.predictions()] == [1] * 300 + [2] * 50


class Drifting(linear_model.LogisticRegression):
    """Computes something else after a change that no version tells of."""

    by = 0.0

    def predict_proba_one(self, x: dict[str, float]) -> dict[bool, float]:
        answer = super().predict_proba_one(x)
        return {True: answer[True] + self.by, False: answer[False] - self.by}


def drifting() -> Any:
    return preprocessing.StandardScaler() | Drifting()


@pytest.mark.parametrize("trim", [False, True])
def test_a_redo_that_differs_says_so_and_not_that_data_were_lost(tmp_path: Path, trim: bool) -> None:
    app = Harness(tmp_path, model=drifting)
    app.produce(events(100))
    app.run()
    app.produce(events(200, start=100))
    with pytest.raises(Killed):
        app.run(Fault("publish", 3, fails(Killed()), "after"))
    if trim:
        cut_start(app, 1)
    before = app.predictions()
    Drifting.by = 1e-9
    try:
        with pytest.raises(
            Stop, match="cannot be redone: from entry 4 on, this process computes other outputs"
        ):
            app.run()
    finally:
        Drifting.by = 0.0
    assert app.predictions() == before
    app.run()
    assert len(app.predictions()) == 300


# --- who the journal and the checkpoints belong to ------------------------------------------------------


def test_a_second_app_on_the_same_journal_is_refused(app: Harness) -> None:
    app.produce(events(200))
    app.run()
    with pytest.raises(
        ConfigError, match=r"the journal app\.journal belongs to the app 'app', and this is 'other'"
    ):
        app.run(
            **{"app.name": "other", "topics.journal": "app.journal", "topics.predictions": "app.predictions",
               "topics.control": "app.control", "topics.dlq": "app.dlq", "topics.alerts": "app.alerts",
               "topics.scores": "app.scores"}
        )  # fmt: skip
    audit(app, events(200))


def test_a_journal_that_is_a_copy_of_what_it_began_as_is_not_written_to(app: Harness) -> None:
    app.produce(events(200))
    app.run()
    app.db("UPDATE topics SET id = 'mirrored' WHERE name = 'app.journal'")
    with pytest.raises(
        Stop, match=r"app\.journal is not the topic it began as.*now mirrored.*streamlearn adopt"
    ):
        app.run()


@pytest.mark.parametrize(
    ("named_anew", "why"),
    [(False, "it is not the one that the journal names (another SHA-256)"), (True, "it says that it stands")],
)
def test_a_checkpoint_of_another_history_is_refused_without_a_key(
    app: Harness, named_anew: bool, why: str
) -> None:
    stream = events(300)
    app.produce(stream[:200])
    app.run()
    newest = checkpoints(app)[-1]
    header, sections = unseal(newest.read_bytes())
    newest.write_bytes(seal(msgspec.structs.replace(header, digest="00" * 32), sections))
    if named_anew:
        name_anew(app.config.log.path, app.config.topics.journal, newest)
    app.produce(stream[200:])
    with capture_logs() as told:
        app.run()
    refused = [line for line in told if line["event"] == "checkpoint.refused"]
    assert [(line["name"], line["reason"][: len(why)]) for line in refused] == [(newest.stem, why)]
    assert published(app) == expected(stream)


# --- an answer that never came ---------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_without_an_answer_is_asked_for_and_never_repeated_blindly(app: Harness, when: str) -> None:
    stream = events(500)
    app.produce(stream)
    app.run(*(Fault("publish", call, fails(Unknown(f"no answer to {call}")), when) for call in (2, 5, 6, 7)))
    audit(app, stream)


def test_after_a_commit_without_an_answer_a_journal_that_went_on_is_not_written_over(app: Harness) -> None:
    stream = events(500)
    app.produce(stream)

    def lost_and_overtaken(faults: Faults) -> None:
        is_taken_over(faults)
        raise Unknown("no answer")

    app.run(Fault("publish", 4, lost_and_overtaken, "instead"))
    audit(app, stream)


def test_a_stop_while_a_commit_has_no_answer_is_a_success(app: Harness) -> None:
    stream = events(300)
    app.produce(stream)

    def silence(faults: Faults) -> None:
        faults.left += [Fault("open", n, fails(Unknown("no answer"))) for n in range(1, 30)]
        stops(faults)
        raise Unknown("no answer")

    app.run(Fault("publish", 2, silence, "instead"))
    audit(app, stream)


class Forgetful(linear_model.LogisticRegression):
    """Keeps a count outside of itself, which matters for odd events, so that an undo cannot bring it back."""

    calls = 0

    def predict_proba_one(self, x: dict[str, float]) -> dict[bool, float]:
        type(self).calls += "odd" in x
        return {True: 1 / (2 + type(self).calls), False: 1 - 1 / (2 + type(self).calls)}

    def learn_one(self, x: dict[str, float], y: bool) -> None:
        if "poison" in x:
            raise ValueError("poisoned")


def test_an_undo_that_computes_something_else_stops_the_service(tmp_path: Path) -> None:
    app = Harness(tmp_path, model=Forgetful)
    stream = events(200)
    for event in stream[100:]:
        event["features"]["odd"] = 1.0
    stream[120]["features"]["poison"] = 1.0
    app.produce(stream[:100])
    app.run()
    app.produce(stream[100:])
    with pytest.raises(Stop, match="undoing a failed step gave other outputs"):
        app.run()
    assert len(app.predictions()) == 100


def test_a_topic_that_left_before_a_new_model_and_came_back_as_another_is_read_from_its_start(
    tmp_path: Path,
) -> None:
    app = Harness(tmp_path, model=logistic, **{"topics.input": ["events", "more"]})
    app.produce(events(100))
    app.produce(events(100, start=100), "more")
    app.run()
    app.run(**{"topics.input": ["events"]})
    app.model = None
    app.run(model_change="fresh", **{"topics.input": ["events"]})
    app.recreate("more")
    app.produce(events(300, start=200), "more")
    app.run()
    assert [p["id"] for p in app.predictions()][200:] == [f"e{i}" for i in range(200, 500)]


def test_a_stop_for_the_streams_sake_after_a_settled_commit_is_no_fence(app: Harness) -> None:
    """Opening the shard again to settle raises the epoch: that newer owner is oneself."""
    junk: list[Any] = [{"id": f"j{n}", "features": "none"} for n in range(600)]
    app.produce(junk)
    with pytest.raises(Stop, match="dead letters"):
        app.run(Fault("publish", 9, fails(Unknown("no answer")), "after"))
