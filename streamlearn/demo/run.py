"""The story of the demo: produce, serve, kill, recover, and compare everything with a plain river loop.

Invariants:
- All of it is in one temporary folder, removed at the end, and no worker outlives it.
- This process only appends events and reads predictions; whatever it says about the worker it has read
  from the log, as any other reader could.
- One thread: while the write lock of the log is tried, nothing of ours is being written.
"""

import itertools
import tempfile
import tomllib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from streamlearn.config.schema import Config
from streamlearn.core.records import Record
from streamlearn.demo.screen import Progress, Screen
from streamlearn.demo.worker import Worker
from streamlearn.env import Env, Flag
from streamlearn.errors import Stop
from streamlearn.log.embedded.admin import EmbeddedAdmin
from streamlearn.log.internal_topics import wanted_topics
from streamlearn.log.port import ProducerRecord, TopicSpec

if TYPE_CHECKING:
    from streamlearn.demo.score import Score

CONFIG: Final = """\
[app]
name = "demo"
[topics]
input = "events"
[model]
use = "preset:classification"
"""
FIRST_SHARE: Final = 0.6
"""This share of the events is there before the kill; the rest arrives while the worker is dead."""
MOST_BEFORE_KILL: Final = 0.9
KILL_BETWEEN: Final = (0.3, 0.5)
HUNT_S: Final = 10.0
PATIENCE_S: Final = 30.0
APPEND_RECORDS: Final = 2000
_SLICE_S: Final = 0.01
_POLL_RECORDS: Final = 500


class Report(NamedTuple):
    """Results of the checks. `recovery_s`: from the kill to the first new prediction anybody could read."""

    events: int
    predictions: int
    lost: int
    repeated: int
    different: int
    recovery_s: float
    killed_in_transaction: bool
    killed_at: int
    scores: "dict[str, Score]"
    seconds: float

    @property
    def holds(self) -> bool:
        """True when nothing was lost, repeated or changed."""
        return self.lost == self.repeated == self.different == 0

    def as_json(self) -> dict[str, Any]:
        """One flat object; a score is `{"accuracy", "kappa"}`."""
        report = self._asdict()
        scores = report.pop("scores")
        seconds = report.pop("seconds")
        return {**report, **{name: score._asdict() for name, score in scores.items()}, "seconds": seconds}


class Interrupted(Exception):
    """The user ended the demo before its end."""


def run(env: Env, limit: int | None, stop: Flag) -> Report:
    """Run the demo on the first `limit` events, or on all of them.

    Raises `Stop` when the worker fails, and `Interrupted` soon after `stop` is set.
    """
    with tempfile.TemporaryDirectory(prefix="streamlearn-demo-") as name, Screen(env) as screen:
        stage = _Stage(env, Path(name), screen, stop)
        try:
            return stage.play(limit)
        except Stop:
            if stop.is_set():  # Ctrl-C reaches the worker too, and it may be the first to end
                raise Interrupted from None
            raise
        finally:
            stage.close()


class _Stage:
    """The log, the worker and the referee of one demo. `_end` is the number of predictions in the log."""

    def __init__(self, env: Env, folder: Path, screen: Screen, stop: Flag) -> None:
        self._env = env
        self._began_s = env.monotonic()
        self._screen = screen
        self._stop = stop
        self._db = folder / "demo.db"
        config = folder / "demo.toml"
        config.write_text(CONFIG, "utf-8")
        names = Config.model_validate(tomllib.loads(CONFIG)).names()
        self._input, self._output = names.inputs[0], names.roles["predictions"]
        self._admin = EmbeddedAdmin(env, self._db)
        self._admin.create([TopicSpec(self._input, 1), *wanted_topics(names, 1)])
        self._worker = Worker(env, folder, self._db, config)
        self._worker.start()
        # Importing river takes a second or two: the worker does it at the same time.
        from streamlearn.demo import score

        self._score = score
        self._appended = 0
        self._end = 0
        self._waiting: deque[Record] = deque()
        self._read = 0
        self._pace: deque[tuple[float, int]] = deque(maxlen=200)

    def close(self) -> None:
        """End what is still there."""
        self._worker.close()
        self._admin.close()

    def play(self, limit: int | None) -> Report:
        """The whole story."""
        from river import datasets

        self._events = list(itertools.islice(datasets.Shuttle(), limit))
        self._referee = self._score.Referee(self._events)
        total = len(self._events)
        self._screen.note(f"a worker learns from {total:,} readings of nine sensors of a space shuttle")
        self._append(int(total * FIRST_SHARE))
        first, last = KILL_BETWEEN
        kill_at = int(total * (first + self._env.jitter(last - first)))
        self._must(lambda: self._end >= kill_at, "made too few predictions")
        in_transaction = self._killed()
        killed_s, killed_at = self._env.monotonic(), self._predictions()
        where = "inside its open transaction" if in_transaction else "between two transactions"
        self._screen.note(f"killed it with SIGKILL after {killed_at:,} predictions, {where}")
        self._worker.start()
        self._append(total)
        self._must(lambda: self._end > killed_at, "made no prediction after the kill")
        recovery_s = self._env.monotonic() - killed_s
        self._screen.note(f"a new worker went on after {recovery_s:.1f} s")
        self._pump(lambda: self._end >= total)
        self._worker.stop()
        self._drain()
        return Report(
            events=total,
            predictions=self._referee.taken,
            lost=self._referee.lost,
            repeated=self._referee.repeated,
            different=self._referee.different,
            recovery_s=round(recovery_s, 3),
            killed_in_transaction=in_transaction,
            killed_at=killed_at,
            scores=self._referee.scores(),
            seconds=round(self._env.monotonic() - self._began_s, 3),
        )

    def _append(self, upto: int) -> None:
        """Produce the events before `upto`."""
        for first in range(self._appended, upto, APPEND_RECORDS):
            records = [
                ProducerRecord(None, orjson.dumps({"id": str(n), "features": x, "label": label}))
                for n, (x, label) in enumerate(
                    self._events[first : min(first + APPEND_RECORDS, upto)], start=first
                )
            ]
            self._admin.append(self._input, records)
            self._appended = first + len(records)

    def _killed(self) -> bool:
        """Kill the worker; true if its transaction was open."""
        total = len(self._events)
        few = max(1, total // 20)
        deadline_s = self._env.monotonic() + HUNT_S

        def feed() -> bool:
            """Keep the worker busy; False when it has nothing left to do or the time is up."""
            self._look()
            if self._end >= self._appended:
                self._append(min(self._appended + few, int(total * MOST_BEFORE_KILL)))
            return self._end < self._appended and self._env.monotonic() < deadline_s

        return self._worker.kill_inside(self._db, feed)

    def _must(self, is_done: Callable[[], bool], failure: str) -> None:
        if not self._pump(is_done):
            raise Stop(f"the demo's worker {failure} for {PATIENCE_S:.0f} s; {self._worker.last_words()}")

    def _pump(self, is_done: Callable[[], bool]) -> bool:
        """Watch and check until `is_done`; False when no prediction has come for too long."""
        moved_s, before = self._env.monotonic(), self._end
        while not is_done():
            self._worker.check()
            self._look()
            self._check_some()
            if self._end > before:
                moved_s, before = self._env.monotonic(), self._end
            elif self._env.monotonic() - moved_s > PATIENCE_S:
                return False
        return True

    def _look(self) -> None:
        """See how far the worker is, and show it."""
        if self._stop.is_set():
            raise Interrupted
        self._end = self._predictions()
        now_s = self._env.monotonic()
        self._pace.append((now_s, self._end))
        if self._screen.due():
            self._screen.show(self._progress(now_s))

    def _progress(self, now_s: float) -> Progress:
        first_s, first = self._pace[0]
        return Progress(
            events=self._appended,
            total=len(self._events),
            predictions=self._end,
            per_s=(self._end - first) / max(now_s - first_s, 0.1),
            scored=self._referee.taken,
            scores=self._referee.scores(),
        )

    def _predictions(self) -> int:
        return self._admin.topics([self._output])[self._output].end[0]

    def _check_some(self) -> None:
        """Check predictions for a short while; rest when there are none."""
        until_s = self._env.monotonic() + _SLICE_S
        while self._env.monotonic() < until_s:
            if not self._waiting and not self._fetch():
                self._env.sleep(_SLICE_S / 2)
                return
            self._referee.take(self._waiting.popleft())

    def _fetch(self) -> bool:
        fetched = self._admin.poll({(self._output, 0): self._read}, _POLL_RECORDS, 0)
        for records in fetched.records.values():
            self._waiting.extend(records)
            self._read = records[-1].offset + 1
        return bool(self._waiting)

    def _drain(self) -> None:
        """Check all that is left."""
        while self._waiting or self._fetch():
            self._look()
            self._check_some()
