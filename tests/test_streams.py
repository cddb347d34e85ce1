"""Streams that are closed, terminals of other letters, a folder that is gone: what a shell may hand us."""

import json
import os
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from terminal import FUNCTION, bash

ROW = '{"id":"1","features":{"stra\u00dfe":1.5,"text":"\u00e4\u2191"},"label":true}\n'
SERVE = 'exec "$PYTHON" -m streamlearn serve -i events --db s.db -m preset:classification'
UNREADY_S = 60


def counted(file: Path) -> int:
    """The predictions in a log file, by its own arithmetic: no second process of ours."""
    if not file.exists():
        return 0
    query = "SELECT next_offset FROM partitions JOIN topics ON number = topic WHERE name = ?"
    with sqlite3.connect(file, timeout=10) as db:
        try:
            row = db.execute(query, ("streamlearn.predictions",)).fetchone()
        except sqlite3.OperationalError:
            return 0
    return int(row[0]) if row else 0


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_serve_works_with_closed_streams_and_writes_no_log_into_other_files(
    tmp_path: Path, closed: str
) -> None:
    bash("streamlearn replay river:Phishing -t events --limit 50 --db s.db", tmp_path)
    python = FUNCTION.split('"')[1]
    service = subprocess.Popen(
        ["bash", "-c", f"{SERVE} {closed}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": python},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        until = time.monotonic() + UNREADY_S
        while counted(tmp_path / "s.db") < 50 and time.monotonic() < until:
            assert service.poll() is None
            time.sleep(0.1)
        descriptors = [str(Path(f"/proc/{service.pid}/fd/{number}").readlink()) for number in range(3)]
    finally:
        service.send_signal(signal.SIGTERM)
        service.communicate(timeout=60)
    assert (service.returncode, counted(tmp_path / "s.db")) == (0, 50)
    assert not [name for name in descriptors if "s.db" in name]
    assert bash("streamlearn checkpoints verify --db s.db", tmp_path).code == 0


@pytest.mark.parametrize("closed", ["2>&-", "<&- 2>&-"])
def test_a_short_command_works_with_closed_streams(tmp_path: Path, closed: str) -> None:
    done = bash(f"streamlearn version {closed}", tmp_path)
    assert (done.code, done.out[:12], done.err) == (0, b"streamlearn ", "")
    assert bash("streamlearn version >&-", tmp_path).code == 0
    assert bash("streamlearn replay - -t e --db s.db <&-", tmp_path).code in (0, 2)


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONUTF8": "0", "LC_ALL": "C"},
        {"PYTHONUTF8": "0", "LC_ALL": "POSIX"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1:strict"},
    ],
)
def test_letters_that_the_terminal_lacks_are_spelled(tmp_path: Path, variables: dict[str, str]) -> None:
    (tmp_path / "x.jsonl").write_text(ROW, "utf-8")
    done = bash("streamlearn look x.jsonl --table && streamlearn look x.jsonl", tmp_path, **variables)
    assert (done.code, done.err) == (0, "")
    assert b"\\u2191" in done.out


def test_no_home_no_terminal_and_a_narrow_one(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(ROW, "utf-8")
    done = bash("unset HOME TERM; COLUMNS=5 streamlearn look x.jsonl --table", tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "features.text" in done.out.decode()


@pytest.mark.parametrize("variables", [{}, {"PYTHONUTF8": "0", "LC_ALL": "C"}])
def test_names_of_files_that_are_no_utf8(tmp_path: Path, variables: dict[str, str]) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xffx.jsonl")).write_text(ROW, "utf-8")
    line = (
        "streamlearn look $'\\xffx.jsonl' --json && streamlearn replay $'\\xffx.jsonl' -t e --db s.db --json"
        " && streamlearn record -t e --db s.db -o $'\\xffy.jsonl'"
    )
    done = bash(line, tmp_path, **variables)
    assert done.code == 0, done.err
    found, sent = (json.loads(text) for text in done.out.splitlines())
    assert ("toml" in found, sent["sent"]) == (True, 1)
    assert "\\udcffy.jsonl" in done.err
    missing = bash("streamlearn look $'\\xffz.jsonl'", tmp_path, **variables)
    assert (missing.code, "\\udcffz.jsonl cannot be read" in missing.err) == (2, True)
    refused = bash("streamlearn tail e --db $'\\xff.db'", tmp_path, **variables)
    assert (refused.code, "Traceback" in refused.err, "\\udcff.db" in refused.err) == (2, False, True)


def test_a_log_line_takes_such_a_name() -> None:
    from streamlearn.observe.logs import _json

    assert json.loads(_json({"event": "file.read", "path": "\udcff"}))["path"] == "\udcff"


@pytest.mark.parametrize(
    "words",
    ["serve -i e --db s.db", "look x.jsonl", "config init -o x.toml", "train river:Phishing -o file:t"],
)
def test_a_working_folder_that_is_gone_is_one_sentence(tmp_path: Path, words: str) -> None:
    (tmp_path / "gone").mkdir()
    done = bash(f"cd gone; rmdir ../gone; streamlearn {words}", tmp_path)
    assert done.code in (2, 4)
    (line,) = [text for text in done.err.splitlines() if "getcwd" not in text]
    assert "the working folder was deleted: change into one that is there" in line
