"""`streamlearn scores`: of the newest message or checkpoint, and never "no label" when labels came."""

from typing import Any

import orjson
import pytest

from streamlearn.core.model.learner import Prediction
from streamlearn.core.records import Record
from streamlearn.core.scores.scores import Scores, ScoresSpec
from streamlearn.core.shard.encode import Encoder, scores_report
from streamlearn.core.shard.state import Memory
from tests.command import Command, command
from tests.service_process import App, Apps, apps, backend
from tests.test_explain import labels_taken
from tests.test_service import events

__all__ = ["apps", "backend", "command"]


def words(app: App) -> list[object]:
    log = app.config.log
    where = ["--db", log.path] if log.backend == "embedded" else ["-b", log.bootstrap_servers]
    return [*where, "-n", app.config.app.name]


@pytest.mark.parametrize("folder", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_short_stream_is_scored_by_the_checkpoint_of_its_end(
    apps: Apps, backend: str, folder: bool, command: Command, tmp_path: Any
) -> None:
    if folder and not backend:
        pytest.skip("embedded checkpoints are in a folder anyway")
    more = {"checkpoint.url": f"file:{tmp_path}/saved"} if folder else {}
    app = apps(backend, labels=1, **{"scores.every": 100, **more})
    stream = events(150)
    labels = [{"id": e["id"], "label": e.pop("label"), "ts": e["ts"]} for e in stream]
    app.produce(stream)
    process = app.serve()
    app.wait(process, 150)
    options = words(app) if not folder else [*words(app), "-c", str(config_of(app, tmp_path, more))]
    first = command.ok("scores", *options)
    assert "events, 0 labels" in first
    assert "no label has come yet" in first
    app.admin.append(app.labels, app.producer_records(labels[:130]))
    labels_taken(app, 130)
    app.stop(process)
    assert [(one["events"], one["labels"]) for one in app.scores()] == [(100, 0), (150, 100)]
    found = orjson.loads(command.ok("scores", "--json", *options))
    assert (found["events"], found["labels"], list(found["source"])) == (150, 130, ["checkpoint"])
    assert found["join"]["pending"] == 20
    assert found["model"]["learned"] == 130
    text = command.ok("scores", *options)
    assert f"source: checkpoint {found['source']['checkpoint']}, as no newer message has come\n" in text
    assert "no label" not in text


def config_of(app: App, folder: Any, more: dict[str, Any]) -> Any:
    path = folder / "streamlearn.toml"
    path.write_text(f'[topics]\ninput = "{app.inputs[0]}"\n[checkpoint]\nurl = "{more["checkpoint.url"]}"\n')
    return path


def test_the_newer_one_of_message_and_checkpoint_is_shown(apps: Apps, command: Command) -> None:
    app = apps("", **{"scores.every": 100, "checkpoint.interval_s": 3600})
    assert command("scores", *words(app)).code == 2  # it has never run
    app.produce(events(230))
    process = app.serve()
    app.wait(process, 230)
    found = orjson.loads(command.ok("scores", "--json", *words(app)))
    assert (found["events"], found["source"]["offset"]) == (200, 199)
    assert f"source: the message after {app.inputs[0]} partition 0 offset 199" in command.ok(
        "scores", *words(app)
    )
    app.stop(process)
    found = orjson.loads(command.ok("scores", "--json", *words(app)))
    assert (found["events"], found["labels"]) == (230, 230)
    assert "checkpoint" in found["source"]


def test_labels_that_came_after_the_newest_checkpoint_are_not_denied(apps: Apps, command: Command) -> None:
    inside = apps("", **{"checkpoint.interval_s": 3600})
    process = inside.serve()
    for count in (30, 60, 90):
        inside.produce(events(30))
        inside.wait(process, count)
        said = command.ok("scores", *words(inside))
        source = orjson.loads(command.ok("scores", "--json", *words(inside)))["source"]
        if source["unread"]:  # else a machine that was held up has made a checkpoint of them
            break
    assert source["unread"] >= 30
    assert f"{source['unread']} records that may bring labels have come since" in said
    assert "no label" not in said


def test_labels_after_the_newest_message_are_not_denied(apps: Apps, command: Command) -> None:
    late = apps("", labels=1, **{"checkpoint.interval_s": 3600, "scores.every": 100})
    stream = events(100)
    labels = [{"id": e["id"], "label": e.pop("label"), "ts": e["ts"]} for e in stream]
    late.produce(stream)
    process = late.serve()
    late.wait(process, 100)
    args = words(late)
    assert "no label has come yet" in command.ok("scores", *args)
    late.admin.append(late.labels, late.producer_records(labels[:40]))
    labels_taken(late, 40)
    said = command.ok("scores", *args)
    assert "40 records that may bring labels have come since" in said
    assert "no label" not in said


def test_labels_that_a_detector_cannot_use_are_said(apps: Apps, command: Command) -> None:
    app = apps("", **{"model.use": "preset:anomaly", "scores.every": 100})
    app.produce([{**event, "label": "rain"} for event in events(30)])
    process = app.serve()
    app.wait(process, 30)
    app.stop(process)
    said = command.ok("scores", *words(app))
    assert "30 labels came, none of them 0/1 or true/false, by which a detector is scored" in said
    assert "no label" not in said
    assert '"label.unused":30' in app.log.replace(" ", "")


def test_a_detector_that_only_scores_leaves_nothing_out(apps: Apps, command: Command) -> None:
    app = apps("", **{"model.use": "preset:anomaly", "scores.every": 100})
    app.produce([{**event, "label": n % 10 == 0} for n, event in enumerate(events(120))])
    process = app.serve()
    app.wait(process, 120)
    app.stop(process)
    said = command.ok("scores", *words(app))
    assert "of 120 labels" not in said
    assert "average precision of the newest labels" in said


@pytest.mark.parametrize(("frozen", "labels"), [("raised", 20), ("", 20), ("", 400)])
def test_a_model_that_is_frozen_or_abstains_gets_no_verdict(
    apps: Apps, command: Command, frozen: str, labels: int
) -> None:
    app = apps("")
    scores = Scores(ScoresSpec(window=1000), "classification")
    for n in range(400):
        answer = Prediction(True, "probabilities", {"true": 1.0}, True)
        abstained = Prediction(None, "probabilities", {}, True)
        scores.update(n % 3 > 0, scores.capture(answer if n < labels or frozen else abstained, {"a": 1.0}))
    report = scores_report(Memory(frozen=frozen), scores, None)
    record = Record(app.inputs[0], 0, 7, 0, None, b"")
    output = Encoder("m", "v", 1, False).scores(1, record, 3, report)
    app.admin.append(app.config.topics.scores, app.producer_records([output.value]))
    said = command.ok("scores", *words(app))
    assert ("the model beats" in said or "the model does NOT beat" in said) == (not frozen and labels == 400)
    assert ("learning is stopped" in said) == bool(frozen)
    assert ("the model answered 20 of 400 labels" in said) == (not frozen and labels == 20)
