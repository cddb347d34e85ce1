"""`score`: a fixed model answers a whole source, and says since when it was no longer good."""

import itertools
import random
from pathlib import Path
from typing import Any

import orjson
import pytest
from river import dummy, metrics

import streamlearn
from tests.command import Command, command
from tests.service_process import App, Apps, apps, backend
from tests.test_service import events

__all__ = ["apps", "backend", "command"]

LOGISTIC = "river.linear_model:LogisticRegression"


@pytest.fixture(autouse=True)
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the service already, so that the command need not start the process again."""
    monkeypatch.setenv("PYTHONHASHSEED", "0")


def written(name: str, stream: list[dict[str, Any]]) -> str:
    Path(name).write_bytes(b"".join(orjson.dumps(event) + b"\n" for event in stream))
    return name


def read(name: str) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in Path(name).read_bytes().splitlines()]


def written_config() -> str:
    Path("ahead.toml").write_text("[model]\nargs = { p = 1, d = 0, q = 0 }\n")
    return "ahead.toml"


def drifting(n: int, at: int) -> list[dict[str, Any]]:
    """Events whose labels mean the opposite from `at` on."""
    stream = events(n, seed=5)
    for event in stream[at:]:
        event["label"] = not event["label"]
    return stream


def trained(command: Command, model: str = LOGISTIC) -> str:
    command.ok("train", written("history.jsonl", events(1000)), "-m", model, "-o", "file:out")
    return "file:out@latest"


def test_every_event_gets_the_answer_of_the_model_as_it_was_saved(command: Command) -> None:
    checkpoint = trained(command)
    stream = drifting(2500, 500)
    command.ok("score", written("new.jsonl", stream), "--checkpoint", checkpoint, "-o", "answers.jsonl")
    model = streamlearn.load(checkpoint)
    found = read("answers.jsonl")
    assert [answer["id"] for answer in found] == [event["id"] for event in stream]
    for answer, event in zip(found, stream, strict=True):
        proba = model.predict_proba_one(event["features"])
        assert answer["probabilities"] == {"false": proba[False], "true": proba[True]}
    assert {answer["model"]["learned"] for answer in found} == {1000}
    assert found[7]["source"] == {"topic": "new.jsonl", "partition": 0, "offset": 7}
    assert (
        command.ok("score", "new.jsonl", "--checkpoint", checkpoint).encode()
        == Path("answers.jsonl").read_bytes()
    )
    command.ok("score", "new.jsonl", "--checkpoint", checkpoint, "-o", "answers.csv")
    rows = Path("answers.csv").read_text().splitlines()
    assert rows[0].startswith("id,key,ts,prediction,probabilities.false")
    assert rows[1].startswith(f"e0,,{stream[0]['ts']},{str(found[0]['prediction']).lower()},")
    assert len(rows) == 2501


def test_a_model_that_leaves_hard_events_out_gets_no_verdict(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("timid.py").write_text(
        "from river import linear_model\n\n\n"
        "class Timid(linear_model.LogisticRegression):\n"
        "    def predict_proba_one(self, x):\n"
        "        found = super().predict_proba_one(x)\n"
        "        return found if max(found.values()) > 0.8 else {}\n\n\n"
        "def build():\n    return Timid()\n"
    )
    told = ("-m", "timid:build", "--app-dir", ".")
    command.ok("train", written("old.jsonl", drifting(1000, 1000)), *told, "-o", "file:timid")
    words = ("--checkpoint", "file:timid@latest", "-o", "answers.jsonl", "--window", "100", *told)
    source = written("new.jsonl", drifting(1000, 1000))
    share = orjson.loads(command.ok("score", source, *words, "--json"))["decay"]["answered"]
    assert 0 < share < 0.99
    said = command("score", source, *words).err
    assert f"no verdict: the model answered {share * 100:.3g} % of the labels" in said


@pytest.mark.parametrize("late", [0, 30])
def test_the_report_says_since_when_and_its_numbers_are_rivers(command: Command, late: int) -> None:
    checkpoint = trained(command)
    stream = drifting(3000, 1800)
    delay = ("--delay", f"{late}s") if late else ()
    source = written("new.jsonl", stream)
    words = ("--checkpoint", checkpoint, "-o", "answers.jsonl", "--window", "500", "--json", *delay)
    decay = orjson.loads(command.ok("score", source, *words))["decay"]
    model = streamlearn.load(checkpoint)
    no_change, prior = dummy.NoChangeClassifier(), dummy.PriorClassifier()
    said: list[tuple[Any, Any, Any]] = []
    # An event a second: when event n is predicted, the labels up to n - late are known.
    for at, event in enumerate(stream):
        if late and at >= late:
            label = stream[at - late]["label"]
            no_change.learn_one({}, label)
            prior.learn_one({}, label)
        x = event["features"]
        said.append((model.predict_one(x), no_change.predict_one(x), prior.predict_one(x)))
        if not late:
            no_change.learn_one(x, event["label"])
            prior.learn_one(x, event["label"])
    for number, window in enumerate(decay["windows"]):
        assert window["labels"] == 500 * (number + 1)
        for which, name in enumerate(("model", "no_change", "prior")):
            kappa = metrics.CohenKappa()
            for at in range(500 * number, 500 * number + 500):
                if said[at][which] is not None:
                    kappa.update(stream[at]["label"], said[at][which])
            assert window[name] == pytest.approx(kappa.get(), abs=1e-12), (number, name)
    assert [window["better"] for window in decay["windows"]] == [True, True, True, True, False, False]
    assert decay["worse_since"] == decay["windows"][4]
    text = command("score", source, *words[:-3], *delay, "--window", "500").err if late else ""
    assert not late or "it stopped being good: from label 2,001 on" in text


def test_a_window_in_which_no_baseline_had_an_answer_is_not_judged(command: Command) -> None:
    """All labels come after the last event: baselines answered nothing, and beating nothing is no merit."""
    source = written("new.jsonl", events(500))
    words = ("--checkpoint", trained(command), "-o", "answers.jsonl", "--window", "100", "--delay", "5000")
    said = command("score", source, *words).err
    assert said.count("cannot be compared: no baseline had an answer yet") == 5
    assert "no window could be compared" in said
    assert "better than" not in said


def test_a_folder_of_checkpoints_means_the_latest_and_a_window_of_one_class_is_said(command: Command) -> None:
    source = written("same.jsonl", [{**event, "label": True} for event in events(300)])
    command.ok("train", source, "-m", "preset:classification", "-o", "file:same")
    said = command("score", source, "--checkpoint", "file:same", "-o", "answers.jsonl", "--window", "100").err
    assert said.count("cannot be compared: all labels and all answers are one class") == 3


def test_a_regression_is_judged_by_its_error_of_which_less_is_better(command: Command) -> None:
    rng = random.Random(2)
    stream = [{"id": n, "features": {"x": rng.uniform(-1, 1)}} for n in range(900)]
    for n, event in enumerate(stream):
        event["label"] = 3 * event["features"]["x"] + (50 if n >= 600 else 0)
    words = ("-m", "river.linear_model:LinearRegression", "-o", "file:out")
    command.ok("train", written("history.jsonl", stream[:300]), *words)
    score = ("--checkpoint", "file:out@latest", "-o", "answers.jsonl", "--window", "100", "--json")
    decay = orjson.loads(command.ok("score", written("new.jsonl", stream[300:]), *score))["decay"]
    assert (decay["metric"], decay["more_is_better"]) == ("mae", False)
    labels = [event["label"] for event in stream[300:]]
    last = [abs(y - before) for before, y in itertools.pairwise(labels)]
    assert decay["windows"][5]["no_change"] == pytest.approx(sum(last[499:]) / 100, rel=1e-9)
    model, errors = streamlearn.load("file:out@latest"), metrics.MAE()
    for event in stream[800:]:
        errors.update(event["label"], model.predict_one(event["features"]))
    assert decay["windows"][5]["model"] == pytest.approx(errors.get(), rel=1e-9)
    assert decay["worse_since"] == decay["windows"][3]


def test_rows_that_no_model_can_take_are_counted_and_kept_for_a_replay(command: Command) -> None:
    checkpoint = trained(command)
    stream = events(60)
    stream[10]["features"]["f0"] = "hot"
    stream[20]["features"] = 3
    source = written("new.jsonl", stream)
    words = ("--checkpoint", checkpoint, "-o", "answers.jsonl")
    result = command("score", source, *words, "--dead-letters", "letters.jsonl")
    assert result.code == 0
    assert "1 records: dlq.guard.feature_type" in result.err
    assert "2 refused records are in letters.jsonl" in result.err
    assert len(read("answers.jsonl")) == 58
    letters = read("letters.jsonl")
    assert [letter["offset"] for letter in letters] == [10, 20]
    assert orjson.loads(letters[0]["value"]) == stream[10]
    again = "sent 2 records to again"
    assert again in command.ok("replay", "letters.jsonl", "-t", "again", "--db", "log.db")
    assert "--dead-letters FILE keeps them" in command("score", source, *words).err


def test_an_event_that_makes_the_model_raise_is_left_out_and_changes_no_other_answer(
    apps: Apps, command: Command
) -> None:
    app = apps("")
    model = ("-m", "app_models:blind", "--app-dir", app.folder)
    command.ok("train", written("history.jsonl", events(200)), "-o", "file:out", *model)
    stream = events(1200, seed=4)
    for at in (30, 1100):
        del stream[at]["features"]["f0"]
    words = ("--checkpoint", "file:out@latest", "-o", "answers.jsonl", *model)
    result = command("score", written("new.jsonl", stream), *words)
    assert "2 records: dlq.predict.raised" in result.err
    plain = streamlearn.load("file:out@latest", use="app_models:blind")
    good = [event for event in stream if "f0" in event["features"]]
    assert [answer["probabilities"]["true"] for answer in read("answers.jsonl")] == [
        plain.predict_proba_one(event["features"])[True] for event in good
    ]


def test_a_row_whose_id_came_before_is_answered_too(command: Command) -> None:
    Path("streamlearn.toml").write_text("[event]\nduplicates = 100\n")
    checkpoint = trained(command)
    source = written("new.jsonl", [*events(20), *events(20)])
    assert command.ok("score", source, "--checkpoint", checkpoint).count("\n") == 40


def test_a_batch_that_is_interrupted_leaves_no_file(command: Command) -> None:
    checkpoint = trained(command)
    Path("slow_source.py").write_text(
        "import os, signal\n"
        "def rows():\n"
        "    for n in range(3000):\n"
        "        if n == 1500: os.kill(os.getpid(), signal.SIGINT)\n"
        "        yield {'f0': 1.0, 'f1': 2.0}, True\n"
    )
    before = sorted(Path().iterdir())
    result = command("score", "slow_source:rows", "--checkpoint", checkpoint, "-o", "answers.jsonl")
    assert result.code == 1
    assert "answers.jsonl was not written" in result.err
    assert sorted(path for path in Path().iterdir() if path.name != "__pycache__") == before


def test_topic_to_topic_keeps_places_and_says_where_each_event_stood(
    apps: Apps, backend: str, command: Command
) -> None:
    app: App = apps(backend, inputs=(("events", 2), ("answers", 2)))
    checkpoint = trained(command)
    stream = events(300)
    app.produce(stream[:200], partition=0)
    app.produce(stream[200:], partition=1)
    log = app.config.log
    where = ("--db", log.path) if log.backend == "embedded" else ("-b", log.bootstrap_servers)
    source, target = (f"topic:{topic}" for topic in app.inputs)
    report = orjson.loads(
        command.ok("score", f"{source}@5..end", "-o", target, "--checkpoint", checkpoint, "--json", *where)
    )
    assert (report["records"], report["predictions"]) == (290, 290)
    model = streamlearn.load(checkpoint)
    answers = [(record.partition, orjson.loads(record.value or b"")) for record in app.records(app.inputs[1])]
    assert len(answers) == 290
    for partition, answer in answers:
        event = stream[answer["source"]["offset"] + 200 * partition]
        assert answer["source"] == {
            "topic": app.inputs[0], "partition": partition, "offset": answer["source"]["offset"]
        }  # fmt: skip
        assert answer["id"] == event["id"]
        assert answer["probabilities"]["true"] == model.predict_proba_one(event["features"])[True]


def test_what_cannot_be_is_said_before_anything_is_read(apps: Apps, command: Command) -> None:
    app = apps("")
    source = written("history.jsonl", events(30))
    model = ("-m", "app_models:touchy", "--app-dir", app.folder)
    command.ok("train", source, "-o", "file:out", *model)
    words = ("score", source, "--checkpoint", "file:out@latest")
    assert "name the model (use=, -m or [model] use)" in command(*words).err
    assert command(*words, "--json").code == 2
    command.ok(*words, *model)
    assert command("score", source, "--checkpoint", "file:nowhere@latest").code == 2
    numbers = [{"id": n, "features": {}, "label": float(n % 7)} for n in range(50)]
    series = written("series.jsonl", numbers)
    command.ok(
        "train", series, "-m", "river.time_series:SNARIMAX", "-c", written_config(), "-o", "file:ahead"
    )
    result = command("score", series, "--checkpoint", "file:ahead@latest")
    assert result.code == 2
    assert "would forecast the same for every event" in result.err
