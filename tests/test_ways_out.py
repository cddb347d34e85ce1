"""`reset` and `adopt`: what a person can do when a service has stopped to keep its promises."""

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from streamlearn.cli.service.reset import with_topics
from streamlearn.env import RealEnv
from streamlearn.log.backends import open_admin
from streamlearn.log.embedded.log import EmbeddedLog
from streamlearn.log.port import ProducerRecord
from tests.command import Command, command
from tests.service_process import App, Apps, apps, backend
from tests.test_service import answers, events, logistic, plain_loop
from tests.test_topic_identity import create, delete

__all__ = ["apps", "backend", "command"]


def settle(app: App, stream: list[dict[str, object]], outcomes: int, *words: str, **flags: object) -> None:
    app.produce(stream)
    process = app.serve(*words, **flags)
    app.wait(process, outcomes)
    app.stop(process)


def until(true: Callable[[], bool], within_s: float = 90) -> None:
    deadline_s = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def toml(app: App) -> Path:
    """The app's configuration as a file, as a person has it."""
    where = f'path = "{app.config.log.path}"' if app.config.log.backend == "embedded" else ""
    servers = f'bootstrap_servers = "{app.config.log.bootstrap_servers}"'
    file = app.folder / "streamlearn.toml"
    file.write_text(
        f'[app]\nname = "{app.config.app.name}"\n\n[log]\nbackend = "{app.config.log.backend}"\n'
        f"{where or servers}\n\n[topics]  # where from\ninput = {app.inputs!r}\nstart = 'earliest'\n\n"
        '[model]\nuse = "app_models:logistic"\n'
    )
    return file


def serve(app: App, *words: str):  # type: ignore[no-untyped-def]
    app.flags = {}
    return app.serve("-c", str(app.folder / "streamlearn.toml"), *words)


def test_reset_begins_a_new_journal_where_the_predictions_end(
    apps: Apps, backend: str, command: Command
) -> None:
    app = apps(backend)
    stream = events(500)
    settle(app, stream[:300], 300)
    file = toml(app)
    name = app.config.app.name
    refused = command("reset", "-c", file)
    assert (refused.code, "say --yes" in refused.err) == (2, True)
    out = command.ok("reset", "-c", file, "--yes")
    assert f"old  journal {name}.journal: ends at entry" in out
    assert f"new  journal {name}.journal-2, checkpoints {name}.checkpoints-2" in out
    assert f"reading starts at: {name}.control-0@0, {name}.events-0@300" in out
    text = file.read_text()
    assert f'journal = "{name}.journal-2"' in text
    assert "[topics]  # where from" in text
    assert "start = 'earliest'" not in text
    old = len(app.records(f"{name}.journal"))
    app.produce(stream[300:])
    process = serve(app)
    app.wait(process, 500)
    app.stop(process)
    opened = app.log.count("shard.opened")
    process = serve(app)
    until(lambda: app.log.count("shard.opened") > opened)
    app.stop(process)
    assert answers(app.predictions())[300:] == plain_loop(logistic(), stream[300:]), "once, by a new model"
    assert len(app.records(f"{name}.journal")) == old, "the old journal is left as it was"


def test_after_a_reset_retention_goes_on_and_a_paused_owner_of_the_old_journal_is_fenced(
    apps: Apps, command: Command
) -> None:
    app = apps("")
    settle(app, events(300), 300)
    names = app.config.names()
    paused = EmbeddedLog(RealEnv(), names, app.config.log.path, 1)
    shard = paused.open(0)
    paused._owner.release(paused._epoch or 0)  # as one that was not heard of for long
    command.ok("reset", "-c", toml(app), "--yes")
    assert shard.newer_owner()
    paused.close()
    with sqlite3.connect(app.config.log.path) as db:
        (floor,) = db.execute("SELECT floor FROM owners WHERE app LIKE '%.journal'").fetchone()
    assert floor == "[]", "nothing is kept for a journal that has ended"


def test_reset_works_on_a_journal_that_something_else_wrote_to(apps: Apps, command: Command) -> None:
    app = apps("")
    settle(app, events(100), 100)
    app.admin.append(app.config.topics.journal, [ProducerRecord(None, b"not an entry")])
    out = command.ok("reset", "-c", toml(app), "--yes")
    assert f"reading starts at: {app.config.app.name}.control-0@0, {app.inputs[0]}-0@100" in out


def test_reset_waits_until_nobody_serves_the_app(apps: Apps, backend: str, command: Command) -> None:
    app = apps(backend)
    app.produce(events(100))
    process = app.serve()
    app.wait(process, 100)
    refused = command("reset", "-c", toml(app), "--yes")
    assert refused.code == 2
    assert "1 process serves" in refused.err
    app.stop(process)


def test_reset_from_the_start_needs_a_word_for_what_is_answered_already(apps: Apps, command: Command) -> None:
    app = apps("")
    stream = events(200)
    settle(app, stream, 200)
    assert "serve --begin" in command.ok("reset", "-c", toml(app), "--yes", "--start", "earliest")
    process = serve(app)
    assert process.wait(60) == 1
    assert "holds predictions for this input already" in app.log
    process = serve(app, "--begin")
    app.wait(process, 400)
    app.stop(process)
    assert answers(app.predictions()) == plain_loop(logistic(), stream) * 2


def test_reset_without_a_file_says_which_lines_to_write(apps: Apps, command: Command) -> None:
    app = apps("")
    settle(app, events(100), 100)
    name = app.config.app.name
    out = command.ok("reset", "-n", name, "-i", app.inputs[0], "--db", app.config.log.path, "-y")
    assert f'[topics]\njournal = "{name}.journal-2"\ncheckpoints = "{name}.checkpoints-2"\nstart = "' in out


def test_reset_refuses_a_place_that_is_none(apps: Apps, command: Command) -> None:
    app = apps("")
    settle(app, events(100), 100)
    refused = command("reset", "-c", toml(app), "-y", "--start", "events@12")
    assert refused.code == 2
    assert "TOPIC-PARTITION@OFFSET" in refused.err
    refused = command("reset", "-c", toml(app), "-y", "--start", f"{app.inputs[0]}-0@101")
    assert refused.code == 2
    assert "holds the offsets 0 to 100" in refused.err


@pytest.mark.kafka
def test_after_its_input_was_made_again_an_app_goes_on_by_reset(
    apps: Apps, kafka: str, command: Command
) -> None:
    app = apps(kafka)
    stream = events(300)
    settle(app, stream[:100], 100)
    admin = AdminClient({"bootstrap.servers": kafka})
    delete(admin, app.inputs[0])
    create(admin, app.inputs[0])
    fresh = open_admin(RealEnv(), app.config)
    fresh.append(app.inputs[0], app.producer_records(stream[100:]))
    fresh.close()
    process = app.serve()
    assert process.wait(60) == 1
    assert "streamlearn reset" in app.log
    out = command.ok("reset", "-c", toml(app), "--yes")
    assert f"{app.inputs[0]} was deleted and made again: it is read from its first record on" in out
    assert "serve --begin" in out
    process = serve(app, "--begin")
    app.wait(process, 300)
    app.stop(process)
    assert answers(app.predictions())[100:] == plain_loop(logistic(), stream[100:])


# --- adopt ----------------------------------------------------------------------------------------------


def moved(app: App) -> None:
    """The file as after a move to another cluster: the same records, other ids."""
    with sqlite3.connect(app.config.log.path) as db:
        db.execute("UPDATE topics SET id = 'moved-' || number")


def test_adopt_takes_moved_topics_over_once_their_records_have_given_the_same_outputs(
    apps: Apps, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    app = apps("")
    stream = events(600)
    settle(app, stream[:200], 200)
    settle(app, stream[200:400], 400)
    moved(app)
    process = app.serve()
    assert process.wait(60) == 1
    assert "streamlearn adopt" in app.log
    words = ("adopt", "-c", toml(app), "--app-dir", app.folder)
    assert command(*words).code == 2, "nobody can be asked"
    out = command.ok(*words, "--yes")
    assert f"{app.inputs[0]}: id " in out
    assert "-> moved-" in out
    assert "the app stands at 400" in out
    assert "entries were redone on the records that are here: each output is, byte for byte" in out
    settle(app, stream[400:], 600)
    (app.folder / "log.db.checkpoints").rename(app.folder / "none")  # a redo from birth, across the move
    opened = app.log.count("shard.opened")
    process = app.serve()
    until(lambda: app.log.count("shard.opened") > opened)
    app.stop(process)
    assert answers(app.predictions()) == plain_loop(logistic(), stream)
    again = command(*words, "--yes")
    assert again.code == 2
    assert "there is nothing to take over" in again.err


def test_adopt_reads_partitions_that_are_new_on_the_other_cluster(
    apps: Apps, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    app = apps("")
    settle(app, events(200), 200)
    moved(app)
    with sqlite3.connect(app.config.log.path) as db:
        number = f"(SELECT number FROM topics WHERE name = '{app.inputs[0]}')"
        db.execute(f"INSERT INTO partitions(topic, partition) VALUES({number}, 1)")
    command.ok("adopt", "-c", toml(app), "--app-dir", app.folder, "--yes")
    app.admin.close()
    app.admin = open_admin(RealEnv(), app.config)
    app.produce(events(50, seed=2, start=200), partition=1)
    process = app.serve()
    app.wait(process, 250)
    app.stop(process)


def test_adopt_refuses_a_topic_with_fewer_partitions(
    apps: Apps, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    app = apps("", inputs=(("events", 2),))
    settle(app, events(200), 200)
    moved(app)
    with sqlite3.connect(app.config.log.path) as db:
        number = f"(SELECT number FROM topics WHERE name = '{app.inputs[0]}')"
        db.execute(f"DELETE FROM partitions WHERE topic = {number} AND partition = 1")
    refused = command("adopt", "-c", toml(app), "--app-dir", app.folder, "--yes")
    assert refused.code == 1
    assert "has 1 partitions here and had 2" in refused.err


def test_adopt_refuses_records_that_give_other_outputs(
    apps: Apps, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    app = apps("")
    settle(app, events(200), 200)
    moved(app)
    with sqlite3.connect(app.config.log.path) as db:
        number = f"(SELECT number FROM topics WHERE name = '{app.inputs[0]}')"
        db.execute(f"DELETE FROM packs WHERE topic = {number}")
        db.execute(f"UPDATE partitions SET next_offset = 0 WHERE topic = {number}")
    app.produce(events(200, seed=5))
    refused = command("adopt", "-c", toml(app), "--app-dir", app.folder, "--yes")
    assert refused.code == 1
    assert "could not be proven to be what the journal speaks of" in refused.err
    process = app.serve()
    assert process.wait(60) == 1


def test_adopt_refuses_a_topic_that_is_shorter_than_what_was_read(
    apps: Apps, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    app = apps("")
    settle(app, events(200), 200)
    moved(app)
    with sqlite3.connect(app.config.log.path) as db:
        db.execute(
            "UPDATE partitions SET next_offset = 150 WHERE topic ="
            f" (SELECT number FROM topics WHERE name = '{app.inputs[0]}')"
        )
    refused = command("adopt", "-c", toml(app), "--app-dir", app.folder, "--yes")
    assert refused.code == 1
    assert "ends at offset 150, and the app has read up to 200" in refused.err


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '[topics]\njournal = "j"\n'),
        ('[app]\nname = "a"\n', '[app]\nname = "a"\n\n[topics]\njournal = "j"\n'),
        ('[topics]\njournal = "x"\n\n[log]\n', '[topics]\njournal = "j"\n\n[log]\n'),
        ('[topics]\n# mine\ninput = "i"', '[topics]\njournal = "j"\n# mine\ninput = "i"'),
    ],
)
def test_a_configuration_gets_its_lines_and_keeps_the_others(before: str, after: str) -> None:
    assert with_topics(before, {"journal": "j"}) == after
