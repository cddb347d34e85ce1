"""A broker that is away for forty seconds: the service waits, goes on by itself, and says so in few lines."""

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from streamlearn.log.connect import open_admin
from tests.service_process import Apps, apps

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
        events = [{"id": f"e{n}", "features": {"a": n % 7}, "label": n % 2} for n in range(100)]
        app.produce(events[:50])
        process = app.serve()
        app.wait(process, 50)
        broker("stop", folder)
        time.sleep(AWAY_S)
        broker("start", folder)
        app.admin.close()
        app.admin = open_admin(app.config)
        app.produce(events[50:])
        app.wait(process, 100)
        app.stop(process)
    finally:
        subprocess.run([sys.executable, str(SCRIPT), "stop", "--wipe", "--data", str(folder)], check=False)
    lines = [json.loads(line) for line in app.log.splitlines()]
    loud = Counter(line["event"] for line in lines if line["level"] in ("warning", "error"))
    assert 1 <= loud["kafka.away"] <= 3, loud
    assert sum(loud.values()) <= FEW, loud
    assert not [line for line in lines if "ran for" in line["event"]]
