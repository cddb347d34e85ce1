"""The control topic: commands are records, applied exactly once, in their place, live and in redo."""

import os
import random
from pathlib import Path
from typing import Any

import orjson
import pytest
from river import linear_model

from streamlearn.core.events.event import Refusal
from streamlearn.core.events.evidence import SETTLED
from streamlearn.core.model.learner import Learner
from streamlearn.core.records import Record
from streamlearn.core.shard.commands import (
    FREEZE,
    GUARD_RESET,
    MAX_COMMAND_BYTES,
    THAW,
    Command,
    command_in,
    encode_command,
)
from streamlearn.core.shard.facts import published
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.state import Memory, ShardSpec
from tests.command import Command as Run
from tests.command import command
from tests.service_process import App, Apps, apps, backend

__all__ = ["apps", "backend", "command"]

NOW_MS = 1_700_000_000_000
RESET = b'{"command":"guard-reset","feature":"a"}'


def on_control(value: bytes | None, offset: int = 0) -> Record:
    return Record("m.control", 0, offset, NOW_MS, None, value)


def shard() -> Shard:
    spec = ShardSpec("m", "v", 1, control="m.control")
    return Shard(spec, Learner(linear_model.LogisticRegression()), Memory())


def event(value: Any, topic: str = "t") -> Record:
    return Record(topic, 0, 0, NOW_MS, None, orjson.dumps({"features": {"a": value}}))


def test_a_reset_lets_a_feature_be_learned_again_and_is_counted() -> None:
    subject = shard()
    for _ in range(SETTLED):
        subject.step(event(1.0))
    assert published(subject.step(event(True)))[0].role == "dlq"
    assert published(subject.step(on_control(RESET))) == ()
    assert published(subject.step(event(True)))[0].role == "predictions"
    assert subject.memory.outcomes == {
        "prediction": SETTLED + 1,
        "dlq.guard.feature_type": 1,
        "command.guard-reset": 1,
    }
    assert sum(subject.memory.outcomes.values()) == subject.memory.records


def test_a_command_is_one_only_on_the_control_topic() -> None:
    subject = shard()
    (output,) = published(subject.step(Record("t", 0, 0, NOW_MS, None, RESET)))
    assert dict(output.headers)["streamlearn.stage"] == b"guard"
    (output,) = published(subject.step(event(1.0, "m.control")))
    assert dict(output.headers)["streamlearn.stage"] == b"control"
    assert published(subject.step(on_control(None))) == ()
    assert subject.memory.outcomes["skip.tombstone"] == 1


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "bad_command"),
        (b"\xff", "bad_command"),
        (b"[]", "bad_command"),
        (b'"guard-reset"', "bad_command"),
        (b"[" * 5000, "bad_command"),
        (b'{"command": "guard-reset"}', "bad_command"),
        (b'{"command": "guard-reset", "feature": ""}', "bad_command"),
        (b'{"command": "guard-reset", "feature": 5}', "bad_command"),
        (b'{"command": "guard-reset", "feature": "a", "more": 1}', "bad_command"),
        (b'{"command": "guard-reset", "feature": "%b"}' % (b"a" * MAX_COMMAND_BYTES), "bad_command"),
        (b'{"command": "freeze", "feature": "a"}', "bad_command"),
        (b'{"command": "thaw", "feature": "a"}', "bad_command"),
        (b'{"command": "melt", "feature": "a"}', "unknown_command"),
        (b'{"command": "melt"}', "unknown_command"),
    ],
)
def test_what_is_no_command_is_a_dead_letter_with_its_bytes(value: bytes, reason: str) -> None:
    assert command_in(on_control(value)) == Refusal("control", reason)
    (output,) = published(shard().step(on_control(value, 7)))
    headers = dict(output.headers)
    assert (output.role, output.value) == ("dlq", value)
    assert headers["__connect.errors.exception.class.name"] == f"streamlearn.{reason}".encode()
    assert (headers["__connect.errors.topic"], headers["__connect.errors.offset"]) == (b"m.control", b"7")


def test_what_is_encoded_is_understood() -> None:
    for asked in (
        Command(FREEZE),
        Command(THAW),
        *(Command(GUARD_RESET, x) for x in ("a", 'sp "ace', "é\n")),
    ):
        assert command_in(on_control(encode_command(asked))) == asked


# --- the command line -----------------------------------------------------------------------------------


def test_guard_reset_appends_one_command(command: Run) -> None:
    command.ok("topics", "ensure", "-i", "events", "--db", "s.db", "-n", "app")
    assert "app.control" in command.ok("control", "guard-reset", "temp", "-n", "app", "--db", "s.db")
    sent = command.ok("tail", "app.control", "--db", "s.db")
    assert sent == '{"command":"guard-reset","feature":"temp"}\n'


def test_guard_reset_of_a_service_that_is_not_there_exits_2(command: Run) -> None:
    command.ok("topics", "ensure", "-i", "events", "--db", "s.db", "-n", "app")
    result = command("control", "guard-reset", "temp", "-n", "other", "--db", "s.db")
    assert result.code == 2
    assert "there is no control topic other.control" in result.err
    assert command("control", "guard-reset", "", "-n", "app", "--db", "s.db").code == 2
    assert command("control", "guard-reset", "temp", "--db", "none.db").code == 2
    assert not Path("none.db").exists()


# --- a service ------------------------------------------------------------------------------------------


def events(n: int, start: int, temp: Any = None) -> list[dict[str, Any]]:
    rng = random.Random(start)
    made = []
    for i in range(start, start + n):
        x = {"temp": rng.gauss(0, 1) if temp is None else temp, "rpm": rng.gauss(0, 1)}
        made.append({"id": f"e{i}", "features": x, "label": x["rpm"] > 0})
    return made


def reset(app: App, feature: str = "temp") -> None:
    app.admin.append(
        app.config.topics.control, app.producer_records([encode_command(Command(GUARD_RESET, feature))])
    )


def outcomes_by_id(app: App) -> dict[str, str]:
    found = {p["id"]: "prediction" for p in app.predictions()}
    for letter in app.dead_letters():
        ident = orjson.loads(letter.value or b"")["id"]
        assert ident not in found, "one outcome"
        found[ident] = dict(letter.headers)["__connect.errors.exception.class.name"].decode()  # type: ignore[union-attr]
    return found


def test_a_reset_is_applied_once_also_when_the_service_dies_and_redoes(apps: Apps, backend: str) -> None:
    app = apps(backend, **{"checkpoint.interval_s": 3600})
    app.produce(events(100, 0))
    process = app.serve()
    app.wait(process, 100)
    app.produce(events(10, 100, temp=True))
    app.wait(process, 110)
    reset(app)
    app.produce(events(30, 110, temp=True))
    app.wait(process, 140)
    process.kill()
    process.wait()
    # Had the redo not applied the reset in its place, its outputs would differ; had it applied it again at
    # the end, numbers would not be refused here.
    process = app.serve()
    app.produce(events(10, 140))
    app.wait(process, 150)
    app.stop(process)
    found = outcomes_by_id(app)
    refused = [i for i in range(150) if found[f"e{i}"] == "streamlearn.feature_type"]
    # All 141, or those since a checkpoint that a machine which was held up made in between.
    redone = [line["offsets"] for line in map(orjson.loads, app.log.splitlines()) if "offsets" in line]
    assert len(redone) == 1 and redone[0] >= 31 and "redo.diverged" not in app.log
    assert '"command.guard-reset":1' in app.log
    assert refused[-10:] == list(range(140, 150))
    assert refused[:-10] == list(range(100, 110))


def test_an_app_from_before_there_was_a_control_topic_goes_on_with_one(apps: Apps) -> None:
    """Its journal says nothing of commands or a guard: as the version before wrote it."""
    app = apps("")
    before = Path(app.folder / "sitecustomize.py")
    before.write_text(
        "import streamlearn.engine.era as eras\n"
        "now, start = eras.era_now, eras.with_start\n"
        "import msgspec, hashlib\n"
        "def era_now(config, *rest):\n"
        "    era = now(config, *rest)\n"
        "    inside = {k: v for k, v in era.config.items() if k not in ('guard', 'control')}\n"
        "    topics = {k: v for k, v in era.topics.items() if k != config.topics.control}\n"
        "    return msgspec.structs.replace(era, config=inside, config_hash='before', topics=topics)\n"
        "eras.era_now = era_now\n"
    )
    paths = os.pathsep.join([str(app.folder), os.environ.get("PYTHONPATH", "")])
    stream = events(40, 0) + events(5, 40, temp=True)
    app.produce(stream)
    os.environ["PYTHONPATH"], mine = paths, os.environ.get("PYTHONPATH")
    try:
        process = app.serve()
    finally:
        os.environ.pop("PYTHONPATH") if mine is None else os.environ.update(PYTHONPATH=mine)
    app.wait(process, 45)
    process.kill()
    process.wait()
    assert app.dead_letters() == [], "there was no guard"
    before.unlink()
    reset(app, "rpm")
    process = app.serve()
    app.produce(events(40, 45) + events(5, 85, temp=True))
    app.wait(process, 90)
    app.stop(process)
    assert '"event":"era.began","era":1,"why":"configuration, topics"' in app.log
    assert "redo.diverged" not in app.log and '"command.guard-reset":1' in app.log
    assert [orjson.loads(letter.value or b"")["id"] for letter in app.dead_letters()] == [
        f"e{i}" for i in range(85, 90)
    ]


def test_the_learned_types_of_an_app_are_shown(apps: Apps, command: Run) -> None:
    app = apps("", **{"event.label": "label"})
    app.produce(events(30, 0))
    process = app.serve()
    app.wait(process, 30)
    app.stop(process)
    words = ("-n", app.config.app.name, "--db", app.config.log.path)
    shown = orjson.loads(command.ok("config", "show", "--learned", "--json", *words))
    row = {"kind": "number", "from": "settled", "agreed": 20, "texts": 0, "withheld": False}
    assert shown["types"] == [{"feature": "rpm", **row}, {"feature": "temp", **row}]
    inspected = orjson.loads(command.ok("checkpoints", "inspect", shown["checkpoint"], *words))
    assert inspected["types"] == shown["types"]
    assert inspected["learned"] == 30
    table = command.ok("config", "show", "--learned", *words).splitlines()
    assert table[1].split() == ["rpm", "number", "settled", "20", "0"]
    none = command("config", "show", "--learned", "-n", "nobody", "--db", app.config.log.path)
    assert none.code == 2
    assert "no checkpoint of nobody" in none.err
