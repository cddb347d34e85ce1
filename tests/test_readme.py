"""The README's commands do what it says, its files are those in `examples`, and its outputs are real ones."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from streamlearn.core.events.event import Event, EventSpec
from streamlearn.core.events.json_events import decode
from streamlearn.core.records import Record

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
OWN_MODEL = ROOT / "examples" / "own-model"


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


DEMO, CHECKS, OWN, KAFKA = blocks("sh")
SHOWN = json.loads(blocks("json")[0])


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A working copy with the examples, and an environment that is this one."""
    shutil.copytree(OWN_MODEL, tmp_path / "examples" / "own-model")
    activate = tmp_path / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f'export PATH="{Path(sys.executable).parent}:$PATH"\n')
    return tmp_path


def shell(commands: str, folder: Path) -> str:
    """The standard output of these lines, typed one after another; nothing of them is left running."""
    foreign = ("STREAMLEARN_", "KAFKA_BOOTSTRAP_SERVERS")
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith(foreign)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=300)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, f"{out}\n{err}"
    return out


def prediction(out: str) -> dict[str, Any]:
    """The one line of JSON in an output."""
    (line,) = [line for line in out.splitlines() if line.startswith("{")]
    found: dict[str, Any] = json.loads(line)
    return found


def assert_as_shown(found: dict[str, Any]) -> None:
    """The README's prediction: all of it but the arrival time."""
    assert list(found) == list(SHOWN)
    assert found["probabilities"] == pytest.approx(SHOWN["probabilities"], rel=1e-12)
    assert found["model"] == SHOWN["model"]
    for member in ("id", "key", "prediction", "source"):
        assert found[member] == SHOWN[member]


def test_the_two_commands_are_scripts_that_parse() -> None:
    assert (DEMO, CHECKS) == ("scripts/demo\n", "scripts/test\n")
    for script in (DEMO.strip(), CHECKS.strip()):
        assert os.access(ROOT / script, os.X_OK)
        subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)


def test_the_demo_prints_what_the_readme_shows(copy: Path) -> None:
    # `scripts/demo` without the set-up, which would make an environment inside this one; and shorter.
    out = shell(". .venv/bin/activate\nstreamlearn demo --limit 6000", copy)
    shown = blocks("text")[0]

    def shape(text: str) -> list[str]:
        return [re.sub(r"-?[\d.,]+", "N", line) for line in text.splitlines()]

    assert shape(out) == shape(shown)


def test_the_own_model_is_the_one_in_the_examples_and_has_ten_lines() -> None:
    (model,) = blocks("python")
    assert (OWN_MODEL / "my_models.py").read_text().endswith(model)
    assert len((OWN_MODEL / "my_models.py").read_text().splitlines()) <= 10
    assert blocks("toml") == [(OWN_MODEL / "streamlearn.toml").read_text()]


def test_the_own_model_runs_on_one_file(copy: Path) -> None:
    out = shell(OWN, copy)
    assert_as_shown(prediction(out))
    assert "sent 5000 records to events" in out
    assert out.endswith("checkpoints, all whole\n")


@pytest.mark.kafka
def test_the_own_model_runs_on_kafka(copy: Path, kafka: str, topic_prefix: str) -> None:
    script = copy / "scripts" / "kafka"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\necho {kafka}\n")  # the broker of the tests, started already
    script.chmod(0o755)
    config = copy / "examples" / "own-model" / "streamlearn.toml"
    names = {'name = "own"': f'name = "{topic_prefix}"', 'input = "events"': f'input = "{topic_prefix}"'}
    text = config.read_text()
    for before, after in names.items():
        assert before in text
        text = text.replace(before, after)
    config.write_text(text)
    commands = KAFKA.replace("own.predictions", f"{topic_prefix}.predictions")
    found = prediction(shell(commands.replace("-t events", f"-t {topic_prefix}"), copy))
    assert found["source"].pop("topic") == topic_prefix
    assert_as_shown({**found, "source": {"topic": "events", **found["source"]}})


def test_the_event_of_the_readme_is_accepted() -> None:
    value = blocks("json")[1].encode()
    event = decode(EventSpec(), Record("events", 0, 0, 0, None, value))
    assert event == Event("e1", None, 1700000000.5, {"temp": 21.5, "rpm": 900, "mode": "eco"}, True)


def test_the_readme_fits_in_200_lines_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) < 200
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
