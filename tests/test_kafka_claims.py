"""Claims on the journal of a real service: every command that reads a journal passes over them."""

from typing import Any

import orjson
import pytest
from confluent_kafka.admin import AdminClient

from streamlearn.core.journal import CLAIM_KEY, journalled
from streamlearn.env import RealEnv
from streamlearn.errors import Stop
from streamlearn.log.backends import open_admin, open_log
from tests.command import Command, command
from tests.service_process import App, Apps, apps
from tests.test_explain import plain_weights, words
from tests.test_kafka_log import transactional
from tests.test_service import answers, events, logistic, plain_loop
from tests.test_topic_identity import create, delete
from tests.test_ways_out import serve, settle, toml

__all__ = ["apps", "command"]


@pytest.fixture(autouse=True)
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the service already, so that a command need not start the process again."""
    monkeypatch.setenv("PYTHONHASHSEED", "0")


def claim(app: App, times: int) -> None:
    """As owners that come and go without a record to step."""
    log = open_log(RealEnv(), app.config)
    for _ in range(times):
        log.open(0).close()
    log.close()


def lived(app: App, stream: list[dict[str, Any]]) -> None:
    """Two lives, with claims before, between and after them."""
    claim(app, 2)
    settle(app, stream[:200], 200)
    claim(app, 9)
    settle(app, stream[200:], len(stream))
    claim(app, 9)


@pytest.mark.kafka
def test_a_journal_with_claims_everywhere_is_read_by_every_command(
    apps: Apps, kafka: str, command: Command
) -> None:
    app = apps(kafka, **{"transaction.max_records": 40})
    stream = events(400)
    lived(app, stream)
    records = app.records(app.config.topics.journal)
    claims = [record for record in records if record.key == CLAIM_KEY]
    assert len(claims) == 2 + 1 + 9 + 1 + 9
    entries = [entry for record in records if (entry := journalled(record)) is not None]
    assert [entry.seq for entry in entries] == list(range(len(entries)))
    for ident, at in (("e100", 100), ("e390", 390)):
        found = orjson.loads(command.ok("explain", ident, "--json", *words(app)))
        assert found["model"]["exact"], found["model"]
        weights, _ = plain_weights(stream, at)
        assert {part["feature"]: part["weight"] for part in found["contributions"]["parts"]} == weights
    command.ok("topics", "check", "-c", toml(app))
    out = command.ok("reset", "-c", toml(app), "--yes")
    assert f"ends at entry {entries[-1].seq}" in out
    assert f"{app.inputs[0]}-0@400" in out
    process = serve(app)
    app.produce(events(50, start=400))
    app.wait(process, 450)
    app.stop(process)
    assert len(app.predictions()) == 450


@pytest.mark.kafka
def test_adopt_takes_over_a_journal_with_claims(apps: Apps, kafka: str, command: Command) -> None:
    app = apps(kafka)
    stream = events(400)
    lived(app, stream[:300])
    admin = AdminClient({"bootstrap.servers": kafka})
    delete(admin, app.inputs[0])
    create(admin, app.inputs[0])
    fresh = open_admin(RealEnv(), app.config)
    fresh.append(app.inputs[0], app.producer_records(stream[:300]))
    fresh.close()
    process = app.serve()
    assert process.wait(60) == Stop.exit_code
    out = command.ok("adopt", "-c", toml(app), "--app-dir", app.folder, "--yes")
    assert "the app stands at 300" in out
    app.admin.close()
    app.admin = open_admin(RealEnv(), app.config)
    settle(app, stream[300:], 400)
    assert answers(app.predictions()) == plain_loop(logistic(), stream)


@pytest.mark.kafka
def test_a_transaction_that_a_stranger_leaves_open_on_the_journal_stops_a_start_and_no_running_service(
    apps: Apps, kafka: str
) -> None:
    app = apps(kafka)
    app.produce(events(100))
    process = app.serve()
    app.wait(process, 100)
    stranger = transactional(kafka, f"stranger.{app.config.app.name}")
    stranger.begin_transaction()
    stranger.send(app.config.topics.journal, b"hides what follows", partition=0)
    stranger.flush()
    app.produce(events(50, start=100))
    app.wait(process, 150)
    app.stop(process)
    process = app.serve()
    assert process.wait(60) == Stop.exit_code
    assert "open transaction that is not ours" in app.log
    assert "producer id" in app.log
    stranger.abort_transaction()
    settle(app, events(50, start=150), 200)
    assert [prediction["id"] for prediction in app.predictions()] == [f"e{n}" for n in range(200)]
