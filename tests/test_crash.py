"""A record that kills the process becomes a dead letter, and kills that hit by chance convict nobody."""

import random
import signal
import time
from typing import Any

import orjson

from tests.service_process import App, Apps, apps, every_backend  # noqa: F401

MOST_DEATHS = 10
"""Those that had written an entry, three that end without one, and three attempts."""
POISONED = 20


def events(count: int, *poisoned: int) -> list[dict[str, Any]]:
    rng = random.Random(5)
    found: list[dict[str, Any]] = []
    for number in range(count):
        features = {"f0": rng.random(), **({"poison": 1.0} if number in poisoned else {})}
        found.append({"id": str(number), "features": features, "label": rng.random() < 0.5})
    return found


def serve_until_all_is_done(app: App, outcomes: int) -> int:
    """Start again whenever the process is killed; how often it was."""
    for deaths in range(MOST_DEATHS + 1):
        process = app.serve()
        while process.poll() is None:
            if app.outcomes() >= outcomes:
                process.kill()
                process.wait()
                return deaths
            time.sleep(0.2)
        assert process.returncode == -signal.SIGKILL, app.log[-2000:]
    raise AssertionError(f"the process is killed again and again: {app.log[-2000:]}")


def test_a_record_that_kills_the_process_becomes_a_dead_letter_also_in_redo(
    apps: Apps,  # noqa: F811
    backend: str,
) -> None:
    app = apps(backend, **{"model.use": "app_models:deadly", "checkpoint.interval_s": 3600})
    app.produce(events(40, POISONED))
    assert serve_until_all_is_done(app, 40) >= 6
    again = app.serve()
    app.produce(events(5))
    app.wait(again, 45)
    app.stop(again)
    (letter,) = app.dead_letters()
    assert dict(letter.headers)["streamlearn.stage"] == b"crash"
    assert orjson.loads(letter.value or b"")["id"] == str(POISONED)
    left = [n for n in range(40) if n != POISONED]
    assert [one["id"] for one in app.predictions()] == [str(n) for n in [*left, *range(5)]]
    assert "record.crashed" in app.log


def test_a_record_that_kills_the_process_at_its_first_look_is_found(apps: Apps) -> None:  # noqa: F811
    app = apps("", **{"model.use": "app_models:deadly"})
    app.produce(events(80, POISONED))  # so many that the model is checked on them before it begins
    assert serve_until_all_is_done(app, 80) >= 6
    assert len(app.dead_letters()) == 1


def test_kills_at_random_convict_nobody(apps: Apps) -> None:  # noqa: F811
    rng = random.Random(3)
    app = apps("", **{"model.use": "app_models:slow", "transaction.max_records": 20})
    app.produce(events(400))
    for _ in range(8):
        process = app.serve()
        time.sleep(rng.uniform(1.0, 2.5))
        process.kill()
        process.wait()
    process = app.serve()
    app.produce([{**events(1)[0], "id": "400"}])  # so that waiting for it waits for a start, too
    app.wait(process, 401)
    app.stop(process)
    assert app.dead_letters() == []
    assert [one["id"] for one in app.predictions()] == [str(n) for n in range(401)]


def test_a_clean_stop_without_an_entry_resets_the_count(apps: Apps, backend: str) -> None:  # noqa: F811
    app = apps(backend)
    app.produce(events(3))
    process = app.serve()
    app.wait(process, 3)
    app.stop(process)
    for _ in range(4):
        process = app.serve()
        deadline = time.monotonic() + 60
        starts = app.log.count("shard.opened")
        while app.log.count("shard.opened") == starts:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        app.stop(process)
    assert "records.one_by_one" not in app.log
