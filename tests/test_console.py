"""Every block of the documents is true: commands print what is shown, files are accepted, options exist."""

import json
import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main

from streamlearn.cli.app import app
from streamlearn.config.load import load
from tests import markdown
from tests.markdown import FILES, ROOT, Block, alike, blocks, steps

NOT_RUN: dict[str, str] = {}
"""Console blocks that cannot run here, by file, with the reason that stands above them. Keep it short."""

CHECKED_ELSEWHERE = {
    "README.md": "test_readme.py",
    "examples/csv/README.md": "test_examples.py",
    "examples/existing-topic/README.md": "test_examples.py",
    "examples/sensors/README.md": "test_examples.py",
    "examples/speech/README.md": "test_examples.py",
}
"""Files whose `sh` blocks are run, and their `text` and `json` blocks compared, by tests of their own."""


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def of(language: str) -> list[Any]:
    """Files that have a block of a language."""
    found = [file for file in FILES if any(block.language == language for block in blocks(file))]
    return [pytest.param(file, id=name(file)) for file in found]


def runnable(file: Path) -> list[Block]:
    """The blocks of a file that run in its folder, in order."""
    kept = [block for block in blocks(file) if block.language in ("console", "python")]
    return [block for block in kept if not block.note.startswith("not run: ")]


def commands(block: Block) -> list[str]:
    if block.language == "python":
        return [f"python - <<'EOF'\n{block.text}EOF"]
    return [step.command for step in steps(block.text)]


@pytest.mark.parametrize("file", of("console"))
def test_the_commands_print_what_is_shown(file: Path, tmp_path: Path) -> None:
    found = runnable(file)
    notes = [block.note.removeprefix("run in: ") for block in found if block.note.startswith("run in: ")]
    assert len(notes) == 1, f"{name(file)}: say once where its blocks run: <!-- run in: FOLDER -->"
    folder = shutil.copytree(ROOT / notes[0], tmp_path / "copy")
    printed = markdown.run([command for block in found for command in commands(block)], folder)
    wrong = []
    for block in reversed(found):  # from the end, so that places stay right when they are written anew
        mine = [printed.pop() for _ in commands(block)][::-1]
        if block.language == "python":
            assert mine == [""], f"{name(file)}: the Python block says\n{mine[0]}"
            continue
        pairs = list(zip(steps(block.text), mine, strict=True))
        differ = [(step, out) for step, out in pairs if not alike(step.shown, out)]
        if differ and markdown.updating():
            texts = [f"$ {step.command}{_anew(step.shown, out)}" for step, out in pairs]
            markdown.replace(file, block, "".join(texts))
        else:
            wrong += [f"$ {step.command}{out}" for step, out in differ]
    assert not wrong, f"{name(file)} shows something else ({markdown.UPDATE}=1 writes this):\n" + "\n".join(
        wrong
    )


def _anew(shown: str, printed: str) -> str:
    """What to show from now on: what was printed, but lines that left something open stay where they fit."""
    if alike(shown, printed):
        return shown
    left_open = [line for line in shown.splitlines() if "..." in line and line.strip() != "..."]
    lines = [line.rstrip() for line in printed.rstrip().splitlines()]
    kept = [next((one for one in left_open if alike(one, line)), line) for line in lines]
    return "".join(f"{line}\n" for line in kept)


def test_few_blocks_are_not_run_and_each_has_its_reason() -> None:
    found = {
        name(file): block.note.removeprefix("not run: ")
        for file in FILES
        for block in blocks(file)
        if block.note.startswith("not run: ")
    }
    assert found == NOT_RUN
    assert len(NOT_RUN) < 5


@pytest.mark.parametrize("file", of("toml"))
def test_the_configurations_are_accepted(file: Path, tmp_path: Path) -> None:
    for block in blocks(file):
        if block.language == "toml":
            tomllib.loads(block.text)
            (tmp_path / "streamlearn.toml").write_text(block.text, "utf-8")
            load(tmp_path / "streamlearn.toml", {}, need_input=False)


@pytest.mark.parametrize("file", of("json"))
def test_the_json_is_json(file: Path) -> None:
    for block in blocks(file):
        if block.language == "json":
            for line in block.text.splitlines():
                json.loads(line)


@pytest.mark.parametrize("file", of("python"))
def test_the_python_compiles(file: Path) -> None:
    for block in blocks(file):
        if block.language == "python":
            compile(block.text, name(file), "exec")


def test_blocks_of_other_kinds_are_known() -> None:
    """`text` and `json` show outputs: somebody compares them. `sh` is run, or at least parsed below."""
    for file in FILES:
        languages = {block.language for block in blocks(file)}
        assert languages <= {"", "console", "toml", "json", "python", "sh", "text"}, name(file)
        if "text" in languages:
            assert name(file) in CHECKED_ELSEWHERE, f"{name(file)}: who compares its text blocks?"


# --- every command and option that is named anywhere ------------------------------------------------------


def options() -> dict[tuple[str, ...], set[str]]:
    """The options of each command, by its words."""
    found: dict[tuple[str, ...], set[str]] = {}

    def walk(command: Any, words: tuple[str, ...]) -> None:
        found[words] = {text for param in command.params for text in (*param.opts, *param.secondary_opts)}
        for sub, inner in getattr(command, "commands", {}).items():
            walk(inner, (*words, sub))

    walk(typer.main.get_command(app), ())
    return found


OPTIONS = options()


def named_commands(text: str) -> list[str]:
    """What begins with `streamlearn ` in code: in blocks by line, and in spans."""
    text = text.replace("\\\n", " ")
    fenced = "".join(re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)).splitlines()
    spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    said = [re.split(r" & | \| | > |[;#]| 2>", line.removeprefix("$ "))[0] for line in (*fenced, *spans)]
    return [line for line in said if line.startswith("streamlearn ")]


def wrong_words(line: str) -> list[str]:
    """The words of a command line that the program does not know."""
    words = shlex.split(line.replace("[", "").replace("]", ""))[1:]
    known: tuple[str, ...] = ()
    while words and (*known, words[0].partition("|")[0]) in OPTIONS:
        known = (*known, words.pop(0).partition("|")[0])
    if not known and words and not words[0].startswith("-"):
        return words[:1]
    given = [word.partition("=")[0] for word in words if re.match(r"--?[A-Za-z]", word)]
    return [word for word in given if word not in OPTIONS[known] and word not in ("-h", "--help")]


@pytest.mark.parametrize("file", FILES, ids=name)
def test_commands_and_options_that_are_named_exist(file: Path) -> None:
    wrong = {line: bad for line in named_commands(file.read_text("utf-8")) if (bad := wrong_words(line))}
    assert wrong == {}


def test_a_misspelt_option_would_be_found() -> None:
    assert wrong_words("streamlearn replay x.csv --delimeter , -t events") == ["--delimeter"]
    assert wrong_words("streamlearn relpay x.csv") == ["relpay"]
    assert wrong_words("streamlearn dlq retry --dry-run") == []


# --- the rules of comparing, by example -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("in 1.7 s (24,188 a second)", "in 12.0 s (9 a second)", True),
        ("time per event  243.2 us", "time per event    8.1 ms", True),
        ('{"id":"0","ts":1795377985003}', '{"id":"0","ts":1795999999999}', True),
        ('{"id":"0","ts":1795377985003}', '{"id":"1","ts":1795377985003}', False),
        ("published 2026-11-22T20:06:32.078+00:00", "published 2027-01-01T00:00:00Z", True),
        ("probability 0.94374478110184", "probability 0.94374478110185", True),
        ("accuracy 0.9911", "accuracy 0.9839", False),
        ("looked at ... of own.journal", "looked at 7 of own.journal", True),
        ("a\n...\nd", "a\nb\nc\nd", True),
        ("a\n...\nd", "a\nb\nc", False),
        ("a", "a\nb", False),
        ("74eb710bf416", "b481e0e40fd4", False),
    ],
)
def test_what_counts_as_the_same(shown: str, printed: str, same: bool) -> None:
    assert alike(shown, printed) is same


def test_a_block_is_taken_apart_into_commands() -> None:
    text = "$ one --a \\\n    --b\nout\n$ two\n$ three\nmore\nand more\n"
    assert [(step.command, step.shown) for step in steps(text)] == [
        ("one --a \\\n    --b\n", "out\n"),
        ("two\n", ""),
        ("three\n", "more\nand more\n"),
    ]


@pytest.mark.parametrize("file", [pytest.param(file, id=name(file)) for file in FILES])
def test_links_lead_to_files(file: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", file.read_text())
    assert [target for target in targets if not (file.parent / target).exists()] == []


DESIGN = sorted((ROOT / "docs" / "design").glob("*.md"))


@pytest.mark.parametrize("file", [pytest.param(file, id=name(file)) for file in DESIGN])
def test_the_design_names_modules_that_exist(file: Path) -> None:
    modules = re.findall(r"`((?:\w+/)*\w+\.py)`", file.read_text())
    roots = (ROOT, ROOT / "streamlearn")
    assert [module for module in modules if not any((root / module).exists() for root in roots)] == []


def test_the_table_of_modules_names_each_module_once() -> None:
    text = (ROOT / "docs" / "design" / "modules.md").read_text()
    rows = re.findall(r"^\| `([\w/.]+?)/?` \|.*\| ([\w, ]+) \|$", text, re.M)
    named = [f"{folder}/{module}" for folder, row in rows for module in row.split(", ")]
    package = ROOT / "streamlearn"
    files = [path.relative_to(package).with_suffix("") for path in package.rglob("*.py")]
    found = [str(file) for file in files if not file.name.startswith("__")]
    assert sorted(name.removeprefix("./") for name in named) == sorted(found)
