"""The types of features follow from the records alone: however they are read, by whatever command."""

import io
import os
from pathlib import Path
from typing import Any

import fastavro
import orjson
import pytest

from streamlearn.config.load import load
from streamlearn.config.schema import Config
from streamlearn.core.events.event import EventSpec
from streamlearn.core.events.evidence import SETTLED
from streamlearn.core.records import Record
from streamlearn.core.shard.facts import published
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.snapshot import load_memory, unseal
from streamlearn.core.shard.state import Memory, ShardSpec
from streamlearn.engine.model import model_template
from streamlearn.env import RealEnv
from streamlearn.history.sources import ReadOptions
from streamlearn.log.port import Admin
from streamlearn.studies.backtest.setup import BacktestSetup
from tests.command import Command, command
from tests.fork_server import Process
from tests.service_process import App, Apps, apps
from tests.test_backtest import recorded, result_of

__all__ = ["apps", "command"]
PRESET = "preset:classification"
Doc = dict[str, Any]


@pytest.fixture(autouse=True)
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of `train` already, so that it need not start the process again."""
    monkeypatch.setenv("PYTHONHASHSEED", "0")


def coded(n: int, k: int, beside: bool, start: int = 0) -> list[Doc]:
    """Events with `k` columns of codes, digits in texts; `beside`: and with one number."""
    made = []
    for i in range(start, start + n):
        x: Doc = {f"c{column}": str((i * (column + 3)) % 7) for column in range(k)}
        x |= {"n": i % 10 / 4} if beside else {}
        made.append({"id": f"e{i}", "features": x, "label": i % 7 > 3})
    return made


FIRST_NA = [{"id": "na", "features": {"temp": "n/a", "rpm": 0.5}, "label": True}]
NUMBERS = [
    {"id": f"n{i}", "features": {"temp": i % 9 - 4.5, "rpm": i % 4 / 2}, "label": i % 9 > 4}
    for i in range(110)
]
FIRST_NUMBER = [{"id": "z", "features": {"zip": 501, "n": 0.5}, "label": True}]
ZIPS = [{"id": f"z{i}", "features": {"zip": f"0{i % 9}1", "n": 0.5}, "label": i % 9 > 4} for i in range(110)]

STREAMS = {
    "1 code": coded(110, 1, False),
    "3 codes beside a number": coded(110, 3, True),
    "15 codes": coded(110, 15, False),
    "15 codes beside a number": coded(110, 15, True),
    "n/a, then numbers": FIRST_NA + NUMBERS,
    "a number, then digits in texts": FIRST_NUMBER + ZIPS,
    "five bad, then numbers": FIRST_NA * 3 + coded(2, 0, True) + NUMBERS,
}


def written(file: Path, stream: list[Doc]) -> Path:
    file.write_bytes(b"".join(orjson.dumps(event) + b"\n" for event in stream))
    return file


def backtested(config: Config, source: object, admin: Admin | None = None) -> dict[str, Any]:
    trial = BacktestSetup(RealEnv(), config, str(source), ReadOptions(), ("", None), None, admin)
    found: dict[str, Any] = result_of(trial, [PRESET])["models"][0]
    return found


@pytest.mark.parametrize("name", STREAMS)
def test_train_score_and_backtest_lose_no_event_and_learn_the_same(command: Command, name: str) -> None:
    stream = STREAMS[name]
    file = written(Path("stream.jsonl"), stream)
    all_answered = {"prediction": len(stream)}
    done = orjson.loads(command.ok("train", file, "-o", "file:out", "-m", PRESET, "--json"))
    assert (done["learned"], done["events"], done["outcomes"]) == (len(stream), len(stream), all_answered)
    score = ("score", file, "--checkpoint", "file:out@latest", "-o", "answers.jsonl", "--json")
    mistakes = sum(doc["features"].get("temp") == "n/a" for doc in stream)  # now that numbers are settled
    expected = {"prediction": len(stream) - mistakes, "dlq.guard.feature_type": mistakes}
    assert orjson.loads(command.ok(*score))["outcomes"] == {k: v for k, v in expected.items() if v}
    found = backtested(load(None, {"app.name": "b", "model.use": PRESET}, need_input=False), file)
    assert found["outcomes"] == all_answered
    _, sections = unseal(Path("out/000000000000.ckpt").read_bytes())
    shard = stepped(stream)
    assert load_memory(sections).types == shard.memory.types


def stepped(stream: list[Doc]) -> Shard:
    model = model_template("b", PRESET, {}, [])
    shard = Shard(ShardSpec("m", "v", 1), model.learner(), Memory())
    for n, doc in enumerate(stream):
        shard.step(Record("t", 0, n, 1_700_000_000_000, None, orjson.dumps(doc)))
    return shard


def test_a_service_says_the_same_whatever_its_reads_bring(
    tmp_path: Path, topic_prefix: str, command: Command
) -> None:
    """Read one by one, by sevens, all at once, and as they come; then as a backtest of what it read."""
    stream = [*FIRST_NA, *coded(40, 15, True), *NUMBERS[:25], *FIRST_NUMBER, *ZIPS[:25]]
    stream = [{**doc, "ts": 1_700_000_000 + n} for n, doc in enumerate(stream)]
    digests = set()
    for at, cut in enumerate((1, 7, 2000, 0)):
        (tmp_path / str(at)).mkdir()
        app = App(tmp_path / str(at), topic_prefix, "", **{"model.use": PRESET})
        try:
            if cut:
                app.produce(stream)
            process = app.serve(**{"transaction.max_records": cut or 2000})
            if not cut:
                slowly(app, process, stream)
            app.wait(process, len(stream))
            app.stop(process)
            assert app.dead_letters() == []
            assert len(app.predictions()) == len(stream)
            digests.add(recorded(app, "predictions"))
            if not cut:
                found = backtested(app.config, f"topic:{app.inputs[0]}", app.admin)
                digests.add(found["digests"]["predictions"])
        finally:
            app.close()
    assert len(digests) == 1


def slowly(app: App, process: Process, stream: list[Doc]) -> None:
    """The first events one by one, each answered before the next is there."""
    for n, doc in enumerate(stream[: SETTLED + 5]):
        app.produce([doc])
        app.wait(process, n + 1)
    app.produce(stream[SETTLED + 5 :])


# --- sources with types ---------------------------------------------------------------------------------


def test_codes_in_a_parquet_file_lose_no_event(command: Command) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    stream = coded(300, 15, True)
    columns: Doc = {
        name: pa.array([doc["features"][name] for doc in stream]) for name in stream[0]["features"]
    }
    columns = {
        name: column.dictionary_encode() if name != "n" else column for name, column in columns.items()
    }
    columns["label"] = pa.array([doc["label"] for doc in stream])
    parquet.write_table(pa.table(columns), "codes.parquet")
    done = orjson.loads(command.ok("train", "codes.parquet", "-o", "file:out", "-m", PRESET, "--json"))
    assert (done["learned"], done["outcomes"]) == (300, {"prediction": 300})
    written(Path("codes.jsonl"), [{**doc, "id": str(n)} for n, doc in enumerate(stream)])
    command.ok("train", "codes.jsonl", "-o", "file:out", "-m", PRESET)
    files = [Path(f"out/00000000000{n}.ckpt").read_bytes() for n in range(2)]
    models = [unseal(data)[1]["model"] for data in files]
    assert models[0] == models[1], "a file gives what its replay to a topic gives"


def test_texts_that_a_schema_types_reach_the_model_from_the_first_event_on() -> None:
    names = [f"c{column}" for column in range(15)]
    fields = [{"name": name, "type": "string"} for name in names]
    schema = {"type": "record", "name": "R", "fields": [*fields, {"name": "label", "type": "boolean"}]}
    spec = EventSpec(format="avro-bare", features="*", schema=orjson.dumps(schema).decode())
    model = model_template("b", PRESET, {}, [])
    shard = Shard(ShardSpec("m", "v", 1, spec), model.learner(), Memory())
    plain = model.learner().model
    for n, doc in enumerate(coded(60, 15, False)):
        x = {name: "n/a" if n % 5 == 0 and name == "c1" else doc["features"][name] for name in names}
        out = io.BytesIO()
        fastavro.schemaless_writer(out, fastavro.parse_schema(schema), {**x, "label": doc["label"]})
        (output,) = published(shard.step(Record("t", 0, n, 1_700_000_000_000, None, out.getvalue())))
        found = orjson.loads(output.value or b"")
        assert found["probabilities"] == {str(k).lower(): p for k, p in plain.predict_proba_one(x).items()}
        plain.learn_one(x, doc["label"])


# --- what is said ---------------------------------------------------------------------------------------


def test_train_says_of_how_many_events_it_learned_and_why_not_of_the_others(command: Command) -> None:
    stream = coded(100, 2, True)
    for n in range(40, 50):
        stream[n]["features"]["n"] = "broken"
    for n in range(60, 65):
        del stream[n]["label"]
    words = ("train", written(Path("s.jsonl"), stream), "-o", "file:out", "-m", PRESET)
    done = command(*words, "--dead-letters", "letters.jsonl")
    assert done.code == 0
    assert "they are in letters.jsonl" in done.err
    letters = [orjson.loads(line) for line in Path("letters.jsonl").read_bytes().splitlines()]
    assert [orjson.loads(letter["value"]) for letter in letters] == stream[40:50]
    assert "--dead-letters FILE keeps them" in command(*words).err
    assert "learned 85 of 100 events" in done.out
    assert "10 records: dlq.guard.feature_type: a feature has another type" in done.err
    assert "declare the type in [event] types" in done.err
    assert "5 events were answered and not learned: no label for them was there" in done.err


def test_columns_of_whole_events_are_not_to_be_declared_but_their_types_are(command: Command) -> None:
    file = written(Path("s.jsonl"), coded(30, 2, True))
    done = command("replay", file, "-t", "events", "--db", "x.db", "--types", "c0=str")
    assert done.code == 2
    assert "has no column 'c0'; it stands inside 'features', so these are whole events" in done.err
    assert 'like [event] types = {"c0" = "str"}' in done.err
    Path("streamlearn.toml").write_text('[event]\ntypes = {"c0" = "str"}\n')
    command.ok("train", file, "-o", "file:out", "-m", PRESET)
    rows = [{"id": 1, "payload": {"c0": "1"}}]
    done = command("replay", written(Path("r.jsonl"), rows), "-t", "e", "--db", "x.db", "--types", "c0=str")
    assert "it stands inside 'payload': write payload.c0" in done.err


@pytest.mark.parametrize("name", ["15 codes", "15 codes beside a number", "n/a, then numbers"])
def test_labels_that_come_late_lose_no_event_either(command: Command, name: str) -> None:
    stream = [{**doc, "ts": 1_700_000_000 + n} for n, doc in enumerate(STREAMS[name])]
    file = written(Path("s.jsonl"), stream)
    out = command.ok("train", file, "-o", "file:out", "-m", PRESET, "--delay", "5s", "--json")
    done = orjson.loads(out)
    assert done["learned"] == done["events"] == len(stream)
    assert set(done["outcomes"]) == {"prediction", "label.joined"}


def test_train_names_the_features_that_the_model_does_without(command: Command) -> None:
    stream = [{"features": {"temp": "hot", "rpm": 0.5}, "label": True}, *NUMBERS]
    done = command("train", written(Path("s.jsonl"), stream), "-o", "file:out", "-m", PRESET)
    assert "learned 111 of 111 events" in done.out
    assert "the model does without temp" in done.err


# --- eras from before -----------------------------------------------------------------------------------

BEFORE = """
import msgspec
import streamlearn.engine.era as eras
from streamlearn.core.journal import Entry, chain

now = eras.era_now

def era_now(*words):
    era = now(*words)
    guard = {name: value for name, value in era.config["guard"].items() if name != "withholds"}
    return msgspec.structs.replace(era, config={**era.config, "guard": guard}, config_hash="before")

eras.era_now = era_now

import streamlearn.service.task as task

fetch_more = task.ShardTask._fetch_more

def look_first(self, batch, until_s):
    cursor = self.driver.cursor
    if cursor.era_number == 0:
        era = msgspec.structs.replace(cursor.era, why="types", start=[], kinds={"c0": "str"})
        entry = Entry(cursor.seq + 1, 1, chain(cursor.digest, ()), change=era)
        self.log.publish(entry, (), cursor.positions)
        self.driver.begin_era(entry)
    return fetch_more(self, batch, until_s)

task.ShardTask._fetch_more = look_first
"""


def test_a_journal_from_before_is_redone_as_it_was_lived(apps: Apps, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its doubtful texts were refused, but those that a look at the first records had settled."""
    app = apps("", **{"model.use": PRESET, "checkpoint.interval_s": 3600})
    stream = coded(50, 2, True)
    (app.folder / "sitecustomize.py").write_text(BEFORE)
    with monkeypatch.context() as patched:
        patched.setenv("PYTHONPATH", os.pathsep.join([str(app.folder), os.environ.get("PYTHONPATH", "")]))
        app.produce(stream)
        process = app.serve()
    app.wait(process, 50)
    process.kill()
    process.wait()
    assert len(app.dead_letters()) == SETTLED, "c1, which nobody looked at"
    (app.folder / "sitecustomize.py").unlink()
    process = app.serve()
    app.produce(coded(20, 3, True, start=50))
    app.wait(process, 70)
    app.stop(process)
    assert len(app.dead_letters()) == SETTLED, "c2 is new, and nothing of it is lost"
    assert '"why":"configuration"' in app.log and "redo.diverged" not in app.log
