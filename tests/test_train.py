"""`train` and `serve --from`: a service that begins where history ended, as if it had read that too."""

import shutil
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from river import linear_model

import streamlearn
from streamlearn.config.load import load
from streamlearn.core.shard.snapshot import load_memory, seal, unseal
from streamlearn.core.shard.state import BROKEN
from streamlearn.engine.model import model_template
from streamlearn.engine.warm_start import WarmStart, carried
from streamlearn.errors import ConfigError, Stop
from tests.command import Command, command
from tests.service_process import App, Apps, apps, backend
from tests.test_service import answers, events, logistic, plain_loop

__all__ = ["apps", "backend", "command"]


LOGISTIC = "river.linear_model:LogisticRegression"


@pytest.fixture(autouse=True)
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of `train` already, so that it need not start the process again."""
    monkeypatch.setenv("PYTHONHASHSEED", "0")


def written(file: Path, stream: list[dict[str, Any]]) -> Path:
    file.write_bytes(b"".join(orjson.dumps(event) + b"\n" for event in stream))
    return file


def trained(command: Command, app: App, stream: list[dict[str, Any]], *words: object) -> dict[str, Any]:
    """Train the app's model on a stream: what `train --json` says."""
    source = written(app.folder / "history.jsonl", stream)
    out = f"file:{app.folder / 'trained'}"
    name = ("-n", app.config.app.name, "-m", "app_models:logistic", "--app-dir", app.folder)
    done: dict[str, Any] = orjson.loads(command.ok("train", source, "-o", out, *name, "--json", *words))
    return done


def test_a_service_that_begins_trained_goes_on_as_one_loop_over_history_and_stream(
    apps: Apps, backend: str, command: Command
) -> None:
    app = apps(backend)
    stream = events(1500)
    done = trained(command, app, stream[:900])
    assert (done["records"], done["learned"]) == (900, 900)
    app.produce(stream[900:1200])
    process = app.serve("--from", done["checkpoint"])
    app.wait(process, 300)
    process.kill()
    process.wait()
    # Nothing needs the training any more: neither the option nor its files.
    shutil.rmtree(app.folder / "trained")
    app.produce(stream[1200:])
    process = app.serve()
    app.wait(process, 600)
    app.stop(process)
    plain = logistic()
    assert answers(app.predictions()) == plain_loop(plain, stream)[900:]
    # A notebook has that model by the service's configuration, and its folder takes no trained checkpoint.
    log = app.config.log
    Path("streamlearn.toml").write_text(
        f'[app]\nname = "{app.config.app.name}"\n[log]\nbackend = "{log.backend}"\npath = "{log.path}"\n'
        f'bootstrap_servers = "{log.bootstrap_servers}"\n'
    )
    model = streamlearn.load(config="streamlearn.toml")
    assert model["LogisticRegression"].weights == plain["LogisticRegression"].weights
    if not backend:
        own = f"{log.path}.checkpoints"
        assert streamlearn.load(f"file:{own}@latest")["StandardScaler"].means == plain["StandardScaler"].means
        result = command("train", "river:Phishing", "-o", f"file:{own}/{app.config.app.name}/0")
        assert result.code == 2
        assert "holds the checkpoints of a service" in result.err


def test_a_state_that_is_made_again_from_its_birth_begins_with_the_very_same_checkpoint(
    apps: Apps, command: Command
) -> None:
    app = apps("", **{"checkpoint.interval_s": 3600})
    stream = events(600)
    done = trained(command, app, stream[:300])
    app.produce(stream[300:500])
    process = app.serve("--from", done["checkpoint"])
    app.wait(process, 200)
    app.stop(process)
    shutil.rmtree(app.folder / "log.db.checkpoints")
    app.produce(stream[500:])
    process = app.serve("--from", done["checkpoint"])
    app.wait(process, 300)
    app.stop(process)
    assert '"offsets":200' in app.log
    assert answers(app.predictions()) == plain_loop(logistic(), stream)[300:]


def beginning(start_from: str, model: str = LOGISTIC) -> WarmStart:
    config = load(None, {"model.start_from": start_from, "model.use": model}, need_input=False)
    return WarmStart(config, model_template(config.app.name, model, {}, []))


def test_no_other_checkpoint_and_no_other_model_takes_its_place(command: Command) -> None:
    words = ("train", "river:Phishing", "-m", LOGISTIC, "-o", "file:out", "--limit")
    command.ok(*words, 20)
    command.ok(*words, 30)
    era, _ = unseal(Path("out/000000000000.ckpt").read_bytes())
    began = msgspec.structs.replace(era.under, warm_start_sha256=beginning("file:out@0").sha256)
    assert beginning("file:out@0").sections(began)["model"]
    with pytest.raises(Stop, match=r"must be made again from that one\. Name it with --from"):
        beginning("").sections(began)
    with pytest.raises(Stop, match="is another one"):
        beginning("file:out@1").sections(began)
    other = "river.linear_model:Perceptron"
    with pytest.raises(ConfigError) as refused:
        assert beginning("file:out@0", other).sha256
    assert f"holds the model version {era.under.model_version} ({LOGISTIC})" in str(refused.value)
    assert f"builds version {model_template('streamlearn', other, {}, []).version} ({other})" in str(
        refused.value
    )


def test_a_retrained_model_takes_the_place_of_the_old_one_with_model_change_fresh(
    apps: Apps, command: Command
) -> None:
    app = apps("")
    stream = events(500)
    app.produce(stream[:100])
    process = app.serve()
    app.wait(process, 100)
    app.stop(process)
    done = trained(command, app, stream[:400])
    fresh = ("--from", done["checkpoint"], "--model-change", "fresh")
    # Asked for again, also after another change, it has nothing to do: it is that model which goes on.
    for upto, words, features in ((430, fresh, 2000), (460, (), 1000), (500, fresh, 1000)):
        app.produce(stream[app.outcomes() + 300 : upto])
        process = app.serve(*words, **{"guard.features": features})
        app.wait(process, upto - 300)
        app.stop(process)
    assert answers(app.predictions())[100:] == plain_loop(logistic(), stream)[400:]
    assert {p["model"]["revision"] for p in app.predictions()[100:]} == {2}
    assert "model.unchanged" in app.log


def test_what_is_carried_is_what_the_model_was_taught(command: Command) -> None:
    stream = events(100)
    stream[50]["features"]["f0"] = "hot"
    written(Path("history.jsonl"), stream)
    command.ok("train", "history.jsonl", "-m", LOGISTIC, "-o", "file:out")
    _, sections = unseal(Path("out/000000000000.ckpt").read_bytes())
    memory = load_memory(sections)
    assert (memory.learned, memory.label_type, memory.outcomes["dlq.guard.feature_type"]) == (99, "bool", 1)
    found = carried(sections)
    assert (found.learned, found.label_type, set(found.types)) == (99, "bool", {"f0", "f1", "f2", "f3"})
    assert (found.records, found.outcomes, found.time_unit) == (0, {}, "")


def test_a_model_that_no_longer_learns_is_no_beginning(command: Command) -> None:
    command.ok("train", "river:Phishing", "-m", LOGISTIC, "-o", "file:out", "--limit", "20")
    file = Path("out/000000000000.ckpt")
    header, sections = unseal(file.read_bytes())
    memory = load_memory(sections)
    memory.frozen = BROKEN
    file.write_bytes(seal(header, {**sections, "memory": msgspec.json.encode(memory)}))
    with pytest.raises(ConfigError, match="no longer learns"):
        assert beginning("file:out@latest").sha256


def test_a_history_without_labels_teaches_nothing_and_says_so(command: Command) -> None:
    Path("rows.csv").write_text("a,b,broken\n1,2,yes\n2,3,no\n")
    words = ("-m", LOGISTIC, "-o", "file:out")
    result = command("train", "rows.csv", *words)
    assert result.code == 2
    assert "none of its 2 records had a label" in result.err
    assert not Path("out").exists()
    Path("rows.csv").write_text("a,b,broken\n1,2,true\n2,3,false\n")
    result = command("train", "rows.csv", "--label", "broken", *words)
    assert "2 of them were refused" in result.err
    assert "--types COLUMN=bool" in result.err
    words = ("--label", "broken", "--types", "broken=bool", *words)
    assert "learned 2 of 2 events" in command.ok("train", "rows.csv", *words)


def test_labels_that_come_late_are_learned_when_they_are_known(command: Command) -> None:
    stream = events(400)
    source = written(Path("history.jsonl"), stream)
    done = orjson.loads(
        command.ok("train", source, "--delay", "30s", "-m", LOGISTIC, "-o", "file:out", "--json")
    )
    assert (done["records"], done["learned"], done["outcomes"]["label.joined"]) == (800, 400, 400)
    assert done["outcomes"]["prediction"] == 400
    model, plain = streamlearn.load("file:out@latest"), linear_model.LogisticRegression()
    for event in stream:
        plain.learn_one(event["features"], event["label"])
    assert model.weights == plain.weights  # an event a second: the labels come in the same order


def test_labels_days_after_their_events_are_no_labels_from_the_future(command: Command) -> None:
    daily = [{**event, "ts": 1.7e9 + 86_400 * n} for n, event in enumerate(events(60))]
    words = ("-m", LOGISTIC, "-o", "file:out", "--json")
    for delay in ("3", "2d"):
        source = written(Path("history.jsonl"), daily)
        done = orjson.loads(command.ok("train", source, "--delay", delay, *words))
        assert (done["learned"], done["outcomes"]["label.joined"]) == (60, 60)


def test_one_label_at_the_end_of_a_group_is_learned_by_all_of_its_events(command: Command) -> None:
    rows = [f"{n},{n // 10},{n % 7},{'up' if n // 10 % 2 else 'down'}" for n in range(200)]
    Path("rows.csv").write_text("\n".join(["ts,series,a,which", *rows]) + "\n")
    words = ("--time", "ts", "--label", "which", "--delay", "end-of:series", "--json")
    tree = ("-m", "river.naive_bayes:GaussianNB", "-o", "file:out")
    done = orjson.loads(command.ok("train", "rows.csv", *words, *tree))
    assert (done["learned"], done["outcomes"]["label.joined"]) == (200, 20)


def test_a_model_that_raises_leaves_no_trace_of_the_event_and_training_goes_on(
    apps: Apps, command: Command
) -> None:
    app = apps("")
    stream = events(2200)
    for at in (5, 1500, 1501):
        stream[at]["features"]["poison"] = 1
    source = written(app.folder / "history.jsonl", stream)
    words = ("-m", "app_models:touchy", "--app-dir", app.folder, "-o", "file:out", "--json")
    done = orjson.loads(command.ok("train", source, *words))
    assert (done["learned"], done["outcomes"]["dlq.learn.raised"]) == (2197, 3)
    plain = logistic()
    for event in stream:
        if "poison" not in event["features"]:
            plain.predict_proba_one(event["features"])
            plain.learn_one(event["features"], event["label"])
    model = streamlearn.load("file:out@latest", use="app_models:touchy")
    assert model["Touchy"].weights == plain["LogisticRegression"].weights
    with pytest.raises(ConfigError, match=r"asks for app_models\.Touchy.*name the model"):
        streamlearn.load("file:out@latest")


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("nowhere", "there is no checkpoint 'nowhere': name it file:DIR@latest"),
        ("file:nowhere@latest", "there is no folder nowhere"),
        ("file:out@soon", "names no checkpoint"),
        ("file:out@7", "there is no checkpoint 7 in out; there are: 0"),
        ("out/000000000000.ckpt", "its seal does not hold"),
        ("", "say which checkpoint"),
    ],
)
def test_load_says_what_would_be_right(command: Command, where: str, said: str) -> None:
    command.ok("train", "river:Phishing", "-o", "file:out", "--limit", "20")
    file = Path("out/000000000000.ckpt")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ConfigError, match=said):
        streamlearn.load(where)


def test_a_preset_loads_without_being_named(command: Command) -> None:
    command.ok("train", "river:WaterFlow", "-m", "preset:regression", "-o", "file:out", "--limit", "50")
    assert isinstance(streamlearn.load("file:out@latest").predict_one({}), float)
    assert (
        command.ok("score", "river:WaterFlow", "--checkpoint", "file:out@0", "--limit", "3").count("\n") == 3
    )


def test_a_signed_checkpoint_opens_with_its_key_alone(command: Command) -> None:
    Path("streamlearn.toml").write_text('[checkpoint]\nkey = "s3cret"\n')
    command.ok("train", "river:Phishing", "-o", "file:out", "--limit", "20")
    with pytest.raises(ConfigError, match=r"give the \[checkpoint\] key"):
        streamlearn.load("file:out@latest")
    assert streamlearn.load("file:out@latest", key="s3cret") is not None
    assert streamlearn.load("file:out@latest", config="streamlearn.toml") is not None
