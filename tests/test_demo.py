"""The demo: what it prints, what it notices, and that nothing of it is left behind."""

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from streamlearn.cli import main
from streamlearn.core.events.json_events import label_text
from streamlearn.core.records import Record
from streamlearn.demo import run, screen
from streamlearn.demo import worker as worker_module
from streamlearn.demo.score import Referee, Score
from streamlearn.demo.worker import Worker
from streamlearn.engine.presets import preset
from streamlearn.env import RealEnv
from streamlearn.errors import Stop

EVENTS = [({"a": n % 7, "b": float(n % 3)}, n % 2) for n in range(60)]
NAMES = {"events", "predictions", "lost", "repeated", "different", "recovery_s", "killed_in_transaction",
         "model", "no_change", "prior", "seconds"}  # fmt: skip


def start(folder: Path, *words: str) -> "subprocess.Popen[str]":
    """A demo whose temporary files are in `folder`, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "streamlearn", "demo", *words],
        env={**os.environ, "TMPDIR": str(folder), "STREAMLEARN_MODEL__USE": "river.dummy:NoChangeClassifier"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_it_kills_its_worker_inside_a_transaction_and_finds_every_prediction_as_it_must_be(
    tmp_path: Path,
) -> None:
    demo = start(tmp_path, "--json", "--limit", "6000")
    out, err = demo.communicate()
    assert demo.returncode == 0, err
    report = json.loads(out.splitlines()[-1])
    assert report.keys() >= NAMES
    assert (report["events"], report["predictions"]) == (6000, 6000)
    assert (report["lost"], report["repeated"], report["different"]) == (0, 0, 0)
    assert report["killed_in_transaction"] is True
    assert 0 < report["killed_at"] < 6000
    assert report["model"]["kappa"] > 0.8 > 0.2 > abs(report["no_change"]["kappa"])
    assert "inside its open transaction" in err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_demo_leaves_no_worker_and_no_folder(tmp_path: Path) -> None:
    demo = start(tmp_path)
    assert demo.stderr is not None
    assert "worker" in demo.stderr.readline()
    workers = psutil.Process(demo.pid).children()
    os.killpg(demo.pid, signal.SIGINT)
    _, err = demo.communicate()
    assert (demo.returncode, "interrupted" in err) == (130, True), err
    assert len(workers) == 1
    assert not any(worker.is_running() for worker in workers)
    assert list(tmp_path.iterdir()) == []


def answers() -> list[bytes]:
    """What a service that keeps its word publishes for `EVENTS`."""
    model = preset("classification")
    published = []
    for n, (x, label) in enumerate(EVENTS):
        shares = model.predict_proba_one(x)
        model.learn_one(x, label)
        best = max(shares, key=lambda one: shares[one]) if shares else None
        named = {label_text(one): share for one, share in sorted(shares.items())}
        published.append(orjson.dumps({"id": str(n), "prediction": best, "probabilities": named}))
    return published


def account(published: list[bytes]) -> tuple[int, int, int]:
    """`lost`, `repeated` and `different` of these predictions."""
    referee = Referee(EVENTS)
    for offset, value in enumerate(published):
        referee.take(Record("p", 0, offset, 0, None, value))
    assert referee.taken == len(published)
    return referee.lost, referee.repeated, referee.different


def test_the_referee_has_nothing_to_say_about_the_right_predictions() -> None:
    assert account(answers()) == (0, 0, 0)


def test_the_referee_counts_what_is_lost_repeated_or_was_never_asked_for() -> None:
    right = answers()
    assert account(right[:20] + right[21:]) == (1, 0, 0)
    assert account(right[:20] + right[10:]) == (0, 10, 0)
    assert account([*right, b'{"id":"60"}', b"{}"]) == (0, 0, 2)


def test_the_referee_sees_a_single_bit() -> None:
    right = answers()
    changed = orjson.loads(right[-1])
    share = changed["probabilities"]["0"]
    changed["probabilities"]["0"] = share * (1 + 2**-52)
    assert changed["probabilities"]["0"] != share
    assert account([*right[:-1], orjson.dumps(changed)]) == (0, 0, 1)


def test_a_worker_that_ends_by_itself_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    worker = Worker(RealEnv(), tmp_path, tmp_path / "demo.db", tmp_path / "there-is-none.toml")
    worker.start()
    with pytest.raises(Stop, match=r"code 2; the end of its log:\n  error: .*there-is-none.toml"):
        while True:
            worker.check()
            time.sleep(0.01)
    worker.close()


class Idle(Worker):
    """A process that never touches the log, in the place of a worker."""

    def start(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


def killed_inside(folder: Path, hold: bool) -> bool:
    """What `kill_inside` says when the lock is held, or never."""
    db = folder / "some.db"
    holder = sqlite3.connect(db, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE" if hold else "SELECT 1")
    worker = Idle(RealEnv(), folder, db, folder)
    worker.start()
    process = worker._process
    assert process is not None
    looks = iter([True, True, False])
    inside = worker.kill_inside(db, lambda: next(looks))
    assert process.returncode == -signal.SIGKILL
    holder.close()
    return inside


def test_it_says_inside_only_when_the_lock_was_held_by_a_frozen_worker(tmp_path: Path) -> None:
    assert killed_inside(tmp_path, hold=True)
    assert not killed_inside(tmp_path, hold=False)


def test_a_worker_that_was_just_finishing_goes_on_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([True, False, False, True, True])
    monkeypatch.setattr(worker_module._Lock, "is_taken", lambda _: next(answers))
    assert killed_inside(tmp_path, hold=False)
    assert list(answers) == []


SCORES = {"model": Score(0.99, 0.95), "no_change": Score(0.86, -0.0001), "prior": Score(0.93, 0.0)}


@pytest.mark.parametrize(("lost", "repeated", "different", "code"),
                         [(0, 0, 0, 0), (1, 0, 0, 3), (0, 1, 0, 3), (0, 0, 1, 3)])  # fmt: skip
def test_the_exit_code_says_whether_the_guarantee_holds(
    lost: int,
    repeated: int,
    different: int,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = run.Report(10, 10, lost, repeated, different, 1.5, False, 4, SCORES, 9.0)
    monkeypatch.setattr(run, "run", lambda *_: report)
    monkeypatch.setattr(sys, "argv", ["streamlearn", "demo", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    found: dict[str, Any] = json.loads(out)
    assert (ended.value.code or 0) == code
    assert (found["lost"], found["repeated"], found["different"]) == (lost, repeated, different)
    assert found["no_change"] == {"accuracy": 0.86, "kappa": -0.0001}
    assert "between two transactions" in err


def test_a_terminal_shows_model_and_baselines_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with screen.Screen(RealEnv()) as shown:
        assert shown.due()
        shown.show(screen.Progress(3000, 6000, 2000, 1234.5, 1500, SCORES))
        shown.note("killed it")
    text = terminal.getvalue()
    for part in ("3,000 of 6,000", "1,234 events/s", "first 1,500 events", "no-change", "0.950", "killed it"):
        assert part in text
    assert "-0.000" not in text
