"""The commands in the README of each example do what it says, and print what it shows."""

import csv
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from command import Command, command
from test_readme import shell

from streamlearn.config.load import load
from tests import markdown

__all__ = ["command"]

EXAMPLES = Path(__file__).parent.parent / "examples"


def block(example: str, language: str) -> str:
    """The one fenced block of this language in an example's README."""
    text = (EXAMPLES / example / "README.md").read_text()
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return str(found)


def compare(example: str, language: str, printed: str) -> None:
    """The block must show what was printed; it is written anew when that is asked for."""
    file = EXAMPLES / example / "README.md"
    (found,) = [block for block in markdown.blocks(file) if block.language == language]
    if not markdown.alike(found.text, printed) and markdown.updating():
        markdown.replace(file, found, printed)
        return
    assert markdown.alike(found.text, printed), f"{file} shows\n{found.text}, printed was\n{printed}"


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
    compare("csv", "text", "".join(f"{line}\n" for line in out.splitlines()[-2:]))
    with (folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 600
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
    compare("existing-topic", "json", line.replace(f"{topic_prefix}-telegraf", "telegraf") + "\n")
    found = json.loads(line)
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


# --- labels that come at the end of a group -------------------------------------------------------------


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `prepare.py` finds what another test has downloaded before."""
    return tmp_path_factory.mktemp("wheels")


def numbers(text: str) -> dict[str, list[float]]:
    """Each line of a printed table by the words that it begins with."""
    found = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"([a-z_ ]*[a-z_])((?: +-?[\d.]+)+)", line.strip()):
            found[match[1]] = [float(number) for number in match[2].split()]
    return found


def prepared(example: str, tmp_path: Path, wheels: Path) -> tuple[Path, str]:
    """A copy of the example that finds its wheel, and its commands."""
    folder = copy_of(example, tmp_path)
    (folder / "wheels").symlink_to(wheels)
    return folder, block(example, "sh")


def assert_better(table: dict[str, list[float]], who: str, *baselines: str) -> None:
    assert table[who][0] > max(table[name][0] for name in baselines) + 0.3


def test_a_watchs_exercises_are_learned_at_their_end(tmp_path: Path, wheels: Path) -> None:
    folder, commands = prepared("sensors", tmp_path, wheels)
    found, shown = numbers(run(commands, folder)), numbers(block("sensors", "text"))
    assert list(found) == list(shown)
    for name, values in shown.items():
        assert found[name] == pytest.approx(values, abs=0.011), name
    assert_better(found, "model", "no_change", "prior")
    last = json.loads((folder / "scores.jsonl").read_text().splitlines()[-1])
    assert (last["join"]["early"], last["join"]["orphan"]) == (0, 0)
    assert sum(found["accuracy"][5:]) > sum(found["accuracy"][:5]) + 0.5


def test_a_speaker_is_told_by_frame_and_by_utterance(tmp_path: Path, wheels: Path) -> None:
    """The first 2,000 of 9,961 frames; all of them in the slow test."""
    folder, commands = prepared("speech", tmp_path, wheels)
    commands = commands.replace("-t frames", "-t frames --limit 2000").replace("9961", "2000")
    found = numbers(run(commands, folder))
    assert_better(found, "an utterance", "no change", "prior")
    assert_better(found, "a frame", "no change", "prior")


@pytest.mark.slow
def test_the_numbers_of_the_speech_example(tmp_path: Path, wheels: Path) -> None:
    folder, commands = prepared("speech", tmp_path, wheels)
    found, shown = numbers(run(commands, folder)), numbers(block("speech", "text"))
    assert list(found) == list(shown)
    for name, values in shown.items():
        assert found[name] == pytest.approx(values, abs=0.011)


def test_a_wheel_that_is_another_is_refused(tmp_path: Path) -> None:
    for example, name in (("sensors", "seglearn-1.2.5"), ("speech", "aeon-1.6.0")):
        folder = copy_of(example, tmp_path)
        (folder / "wheels").mkdir()
        (folder / "wheels" / f"{name}-py3-none-any.whl").write_bytes(b"not a wheel")
        result = subprocess.run(
            [sys.executable, "prepare.py"], cwd=folder, capture_output=True, text=True, check=False
        )
        assert result.returncode == 1
        assert re.search(
            r"is not the \w+==[\d.]+ that this reads \(SHA-256 \w+, not \w+\): delete it", result.stderr
        )
        assert list(folder.glob("*.jsonl")) == []
