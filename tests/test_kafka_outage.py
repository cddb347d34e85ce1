"""A broker that is away, or hangs: the service waits, goes on by itself, says so, and loses nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from streamlearn.env import RealEnv
from streamlearn.log.backends import open_admin
from tests.fork_server import Process
from tests.service_process import App, Apps, apps
from tests.test_service import answers, events, logistic, plain_loop

__all__ = ["apps"]

SCRIPT = Path(__file__).parent.parent / "scripts" / "kafka"
AWAY_S = 40
FEW = 20
"""Without limits there are more than a thousand."""


def broker(word: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), word, "--data", str(folder)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.kafka
@pytest.mark.slow
def test_an_outage_is_told_in_a_few_lines_of_ours(apps: Apps, tmp_path: Path) -> None:
    folder = tmp_path / "broker"
    try:
        app = apps(broker("start", folder))
        sent = [{"id": f"e{n}", "features": {"a": n % 7}, "label": n % 2} for n in range(100)]
        app.produce(sent[:50])
        process = app.serve()
        app.wait(process, 50)
        broker("stop", folder)
        time.sleep(AWAY_S)
        broker("start", folder)
        app.admin.close()
        app.admin = open_admin(RealEnv(), app.config)
        app.produce(sent[50:])
        app.wait(process, 100)
        app.stop(process)
    finally:
        subprocess.run([sys.executable, str(SCRIPT), "stop", "--wipe", "--data", str(folder)], check=False)
    lines = [json.loads(line) for line in app.log.splitlines()]
    loud = Counter(line["event"] for line in lines if line["level"] in ("warning", "error"))
    assert 1 <= loud["kafka.away"] <= 3, loud
    assert sum(loud.values()) <= FEW, loud
    assert not [line for line in lines if "ran for" in line["event"]]


def pid_of(folder: Path) -> int:
    return int(json.loads((folder / "broker.json").read_text())["pid"])


def until_told(app: App, process: Process, what: str, times: int) -> None:
    deadline_s = time.monotonic() + 120
    while app.log.count(what) < times:
        assert process.poll() is None, app.log[-3000:]
        assert time.monotonic() < deadline_s, app.log[-3000:]
        time.sleep(0.02)


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.5])
def test_a_stop_after_a_broker_has_hung_learns_nothing_twice(
    apps: Apps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after_s: float
) -> None:
    """A commit without an answer, then a lost membership, then a stop in the recovery that follows."""
    monkeypatch.setenv("LEARN_S", "0.003")
    folder = tmp_path / "broker"
    stream = events(3000)
    try:
        app = apps(broker("start", folder), **{"model.use": "app_models:slow", "checkpoint.interval_s": 3600})
        app.produce(stream)
        process = app.serve()
        app.wait(process, 500)
        os.kill(pid_of(folder), signal.SIGSTOP)
        until_told(app, process, "shard.not_owned", 1)
        os.kill(pid_of(folder), signal.SIGCONT)
        until_told(app, process, "checkpoint.loaded", 1)
        time.sleep(after_s)
        app.stop(process)
        app.admin.close()
        app.admin = open_admin(RealEnv(), app.config)
        process = app.serve()
        app.wait(process, len(stream), 120)
        app.stop(process)
        assert answers(app.predictions()) == plain_loop(logistic(), stream)
    finally:
        subprocess.run([sys.executable, str(SCRIPT), "stop", "--wipe", "--data", str(folder)], check=False)
