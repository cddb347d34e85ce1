"""Evidence in a real service: arrivals that are not known, units declared later, `control reset`."""

import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from streamlearn.core.journal import journalled
from tests.command import Command, command
from tests.service_process import START_S, App, Apps, apps, backend

__all__ = ["apps", "backend", "command"]

NOW_S = 1_785_000_000


def events(n: int, start: int = 0, unit: int = 1, **doc: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"e{i}", "ts": (NOW_S + i) * unit, "features": {"a": i % 7 - 3.0}, "label": i % 7 > 3} | doc
        for i in range(start, start + n)
    ]


def ids(records: list[dict[str, Any]]) -> list[str]:
    return [one["id"] for one in records]


@pytest.mark.kafka
def test_records_without_a_usable_timestamp_are_predicted(apps: Apps, kafka: str) -> None:
    from kafka import KafkaProducer

    app = apps(kafka, labels=1)
    now_ms = int(time.time() * 1000)
    producer = KafkaProducer(bootstrap_servers=kafka)
    for n, stamp in enumerate([-1] * 30 + [1] * 30 + [now_ms] * 30):
        doc = {"id": f"e{n}", "ts": now_ms / 1000, "features": {"a": n % 3}}
        producer.send(app.inputs[0], orjson.dumps(doc), partition=0, timestamp_ms=stamp)
        producer.send(app.labels, orjson.dumps({"id": f"e{n}", "label": n % 2 > 0}), timestamp_ms=stamp)
    producer.flush()
    producer.close()
    assert [r.timestamp_ms for r in app.records(app.inputs[0])][:31:30] == [-1, 1]
    process = app.serve()
    app.wait(process, 90)
    app.stop(process)
    assert len(app.predictions()) == 90
    assert '"label.joined":90' in app.log


def test_a_unit_that_is_declared_after_the_stop_wins(apps: Apps) -> None:
    app = apps("")
    app.produce(events(25) + events(150, 25, unit=1000))
    process = app.serve()
    assert process.wait(START_S) == 1
    assert "150 x guard.future" in app.log or "guard.future" in app.log
    app.produce(events(2, 200, unit=1000))
    process = app.serve(**{"event.time_unit": "ms"})
    app.wait(process, len(app.predictions()) + len(app.dead_letters()) + 1)
    deadline_s = time.monotonic() + START_S
    while "e201" not in ids(app.predictions()):
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    app.stop(process)


def entries(app: App) -> list[Any]:
    found = [journalled(record) for record in app.records(app.config.topics.journal)]
    return [entry for entry in found if entry is not None]


def test_a_reset_begins_an_era_and_what_follows_decides_anew(
    apps: Apps, backend: str, command: Command
) -> None:
    app = apps(backend, **{"checkpoint.interval_s": 3600})
    app.produce(events(25))
    process = app.serve()
    app.wait(process, 25)
    app.produce(events(5, 25, unit=1000))
    app.wait(process, 30)
    assert len(app.dead_letters()) == 5
    where = ["--db", str(app.folder / "log.db")] if not backend else ["-b", backend]
    for what in ("time", "label"):
        assert "sent reset-" in command.ok("control", "reset", what, "-n", app.config.app.name, *where)
    deadline_s = time.monotonic() + START_S
    while [one.change.why for one in entries(app) if one.change].count("reset") < 1:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    relabelled = [one | {"label": int(one["label"])} for one in events(40, 30, unit=1000)]
    app.produce(relabelled)
    app.wait(process, 70)
    process.kill()
    process.wait()
    process = app.serve()
    app.produce(events(5, 70, unit=1000, label=1))
    app.wait(process, 75)
    app.stop(process)
    assert ids(app.predictions()) == [f"e{i}" for i in [*range(25), *range(30, 75)]]
    assert "redo.diverged" not in app.log and "shard.fenced" not in app.log
    resets = [one.change.resets for one in entries(app) if one.change and one.change.why == "reset"]
    assert resets[-1] == 2


def test_a_reset_of_something_else_exits_2(command: Command) -> None:
    command.ok("topics", "ensure", "-i", "events", "--db", "s.db", "-n", "app")
    assert command("control", "reset", "temp", "-n", "app", "--db", "s.db").code == 2
    assert command.ok("control", "reset", "time", "-n", "app", "--db", "s.db").startswith(
        "sent reset-time to"
    )
    assert command.ok("tail", "app.control", "--db", "s.db") == '{"command":"reset-time"}\n'


def test_floats_that_are_integers_are_classes_in_files_and_topics(
    apps: Apps, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")  # so that `train` need not start the process again
    rows = [f"{i},{i % 7 - 3},{float(i % 7 > 3)}" for i in range(60)]
    Path("log.csv").write_text("\n".join(["id,a,repaid", *rows]) + "\n")
    words = ("log.csv", "--label", "repaid", "-m", "preset:classification")
    assert "60 labels" in command.ok("backtest", *words)
    assert "learned 60 of 60" in command.ok("train", *words, "-o", "file:trained")
    app = apps("", **{"event.format": "csv", "event.columns": ["id", "a", "label"], "event.features": ["a"]})
    app.produce([row.encode() for row in rows])
    process = app.serve()
    app.wait(process, 60)
    app.stop(process)
    assert {one["prediction"] for one in app.predictions()[1:]} == {0, 1}
    assert app.predictions()[-1]["model"]["learned"] == 59
