"""The commands in the README of each example do what it says, and print what it shows."""

import csv
import json
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from command import Command, command
from test_readme import shell

from streamlearn.config import load

__all__ = ["command"]

EXAMPLES = Path(__file__).parent.parent / "examples"


def block(example: str, language: str) -> str:
    """The one fenced block of this language in an example's README."""
    text = (EXAMPLES / example / "README.md").read_text()
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return str(found)


def copy_of(example: str, tmp_path: Path) -> Path:
    return shutil.copytree(EXAMPLES / example, tmp_path / example)


def run(commands: str, folder: Path) -> str:
    return shell(f'export PATH="{Path(sys.executable).parent}:$PATH"\n{commands}', folder)


@pytest.mark.parametrize(
    "file", sorted(EXAMPLES.glob("*/streamlearn.toml")), ids=lambda file: file.parent.name
)
def test_the_configuration_of_each_example_is_accepted(file: Path) -> None:
    load(file, {})


def test_a_loggers_csv_becomes_predictions_in_a_csv(tmp_path: Path) -> None:
    folder = copy_of("csv", tmp_path)
    out = run(block("csv", "sh"), folder)
    *head, last = block("csv", "text").splitlines()
    shown = dict(zip(head[0].split(","), last.split(","), strict=True))
    with (folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 600
    assert list(rows[-1]) == list(shown)
    version, share = "model.version", "probabilities.fault"
    assert float(rows[-1][share]) == pytest.approx(float(shown[share]), rel=1e-9)
    given = {version, share, "probabilities.ok"}
    assert {k: v for k, v in rows[-1].items() if k not in given} == {
        k: v for k, v in shown.items() if k not in given
    }
    assert out.splitlines()[-1].startswith("R0600,rig-2,")


def test_look_proposes_the_options_that_the_example_uses(command: Command) -> None:
    found = json.loads(command.ok("look", EXAMPLES / "csv" / "logger.csv", "--json"))
    used = next(line for line in block("csv", "sh").splitlines() if line.startswith("streamlearn replay"))
    assert [option for option in found["replay"] if option not in used] == []
    assert (
        found["model"] == tomllib.loads((EXAMPLES / "csv" / "streamlearn.toml").read_text())["model"]["use"]
    )


@pytest.mark.kafka
def test_a_topic_that_telegraf_fills(tmp_path: Path, kafka: str, topic_prefix: str) -> None:
    folder = copy_of("existing-topic", tmp_path)
    config = folder / "streamlearn.toml"
    text = config.read_text()
    for name in ("fans", "telegraf"):  # the names of the service and of its input
        quoted = f'= "{name}"'
        at = text.rindex(quoted, 0, text.index("[event]"))
        text = text[:at] + f'= "{topic_prefix}-{name}"' + text[at + len(quoted) :]
    config.write_text(text)
    commands = block("existing-topic", "sh").replace("-t telegraf", f"-t {topic_prefix}-telegraf")
    commands = commands.replace("fans.predictions", f"{topic_prefix}-fans.predictions")
    out = run(f"broker={kafka}\n{commands}", folder)
    (line,) = [line for line in out.splitlines() if line.startswith("{")]
    found, shown = json.loads(line), json.loads(block("existing-topic", "json"))
    assert list(found) == list(shown)
    assert found["probabilities"] == pytest.approx(shown["probabilities"], rel=1e-9)
    for member in ("key", "ts", "prediction", "carry"):
        assert found[member] == shown[member]
    assert found["model"]["learned"] == 239
    assert found["source"]["offset"] == 398


def test_a_value_that_is_no_row_is_named_and_no_file_is_made(command: Command) -> None:
    Path("odd.jsonl").write_text('{"a": {"b": [1, null]}, "c": "x, y"}\n{"d": true}\n')
    command.ok("replay", "odd.jsonl", "-t", "odd", "--db", "s.db")
    command.ok("record", "-t", "odd", "--db", "s.db", "-o", "odd.csv")
    assert Path("odd.csv").read_text() == 'a.b.0,a.b.1,c,d\n1,,"x, y",\n,,,true\n'
    Path("more.jsonl").write_text("[1]\n")
    command.ok("replay", "more.jsonl", "-t", "odd", "--db", "s.db")
    result = command("record", "-t", "odd", "--db", "s.db", "-o", "worse.csv")
    assert (result.code, "odd-0 offset 2 is not a JSON object" in result.err) == (3, True)
    assert not Path("worse.csv").exists()
