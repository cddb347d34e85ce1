"""Run the command line inside this process: quick, and through the same edge as the console script."""

import sys
from typing import NamedTuple

import pytest

from streamlearn.cli import main


class Result(NamedTuple):
    code: int
    out: str
    err: str


class Command:
    """`command("tail", "events", "--db", file)` runs it and returns exit code and texts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *words: object) -> Result:
        self._monkeypatch.setattr(sys, "argv", ["streamlearn", *map(str, words)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self._capsys.readouterr()
        return Result(ended.value.code or 0, out, err)

    def ok(self, *words: object) -> str:
        result = self(*words)
        assert result.code == 0, result
        return result.out


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Command:
    """In an empty folder of its own, without the caller's Kafka settings."""
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    return Command(monkeypatch, capsys)
