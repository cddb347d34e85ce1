"""What takes part in a race: each starts a process that answers the same events; all are measured alike.

Invariants:
- Timed is the steady state: from the moment when 20 % of the events have a visible answer to the moment when
  all have; wall time, and CPU of the process over all its threads, both between the same two moments.
- More events are there than are timed, so nobody is measured while it waits for input or for its last commit.
- A visible answer is a committed one. Runners in memory time the same events themselves.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, Protocol

import bench_venvs
import psutil
from bench_app import App, events, stop
from bench_kafka import BenchKafka
from bench_models import MODELS, BenchModel

from streamlearn.config.schema import LogSection
from streamlearn.core.records import Range

HERE = Path(__file__).resolve().parent
PEERS = HERE / "bench_peers"
FIRST_SHARE = 5
"""Timing begins when one in five events is answered."""
STATE_SHARE = 4
"""A model that is unpickled and pickled at each event gets a quarter of the events, the first ones."""
ALL_AT_ONCE = "nearly all answers came in one transaction: take more --events"
START_S = 30.0


class RunnerFailedError(Exception):
    """A runner ended, or stood still."""


class Measured(NamedTuple):
    """One round of a runner: how many events were timed, microseconds of each, and the last one's answer."""

    events: int
    wall_us: float
    cpu_us: float
    answer: bytes = b""
    answer_offset: int = -1


class Heat(NamedTuple):
    """All that the runners of one model share: the events are in `values`, on Kafka in `topic`, too."""

    folder: Path
    cache: Path
    name: str
    model: BenchModel
    events: int
    values: Path
    kafka: BenchKafka | None
    topic: str
    limit_s: float

    def marks(self, share: int = 1) -> tuple[int, int]:
        """The numbers of answers between which a runner is timed."""
        last = max(self.events // share, FIRST_SHARE)
        return last // FIRST_SHARE, last


@contextmanager
def heat(
    folder: Path, cache: Path, name: str, count: int, kafka: BenchKafka | None, limit_s: float
) -> Iterator[Heat]:
    """Make the events of a model, half as many again as are timed, and put them where runners find them."""
    model = MODELS[name]
    values = [*events(count + count // 2, seed=1, task=model.task)]
    file = folder / "values"
    file.write_bytes(b"\n".join(values))
    topic = f"bench-{os.getpid()}-events"
    if kafka is not None:
        kafka.create(topic)
        kafka.fill(topic, values)
    try:
        yield Heat(folder, cache, name, model, count, file, kafka, topic, limit_s)
    finally:
        if kafka is not None:
            kafka.delete(topic)


class Runner(Protocol):
    """Something that answers events. `share`: it gets the first part of the events only, one in so many."""

    title: str
    needs_kafka: bool
    share: int

    def missing(self, cache: Path) -> str:
        """Why it cannot run here, "" when it can; makes its environment when that takes one."""

    def run(self, heat: Heat, number: int) -> Measured:
        """One round. Raises `RunnerFailedError`."""


class Memory:
    """A loop in memory, which times itself."""

    needs_kafka = False
    share = 1

    def __init__(self, title: str, mode: str) -> None:
        self.title = title
        self._mode = mode

    def missing(self, cache: Path) -> str:
        return ""

    def run(self, heat: Heat, number: int) -> Measured:
        first, last = heat.marks()
        wanted = [last - 1, heat.marks(STATE_SHARE)[1] - 1] if self._mode == "bare" else []
        asked = [word for offset in wanted for word in ("--answer", str(offset))]
        command = [PEERS / "memory.py", self._mode, heat.values, heat.name, str(first), str(last), *asked]
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, check=False, env=_environment(True)
        )
        if done.returncode:
            raise RunnerFailedError(done.stderr[-2000:])
        found = json.loads(done.stdout)
        for offset, answer in found["answers"].items():
            (heat.folder / f"answer-{offset}").write_text(answer)
        return Measured(last - first, found["wall_us"], found["cpu_us"])


class Service:
    """Our own service. `client`: of Kafka; "" for the embedded log."""

    share = 1

    def __init__(self, title: str, client: str = "") -> None:
        self.title = title
        self._client = client
        self.needs_kafka = bool(client)

    def missing(self, cache: Path) -> str:
        if self._client == "confluent" and (
            "client" not in LogSection.model_fields or find_spec("confluent_kafka") is None
        ):
            return "this version of streamlearn has no [log] client = confluent"
        return ""

    def app(self, heat: Heat, number: int, **options: object) -> App:
        """A new app over the events of the heat. `options`: more settings by their dotted names."""
        extra: dict[str, object] = {"model.use": heat.model.use, **options}
        if "client" in LogSection.model_fields and self._client:
            extra["log.client"] = self._client
        name = str(extra.pop("app.name", f"bench-{os.getpid()}-{self._client or 'embedded'}-{number}"))
        if self._client:
            return App(heat.folder, "kafka", name, heat.model.source, **extra | {"topics.input": heat.topic})
        app = App(heat.folder, "embedded", name, heat.model.source, **extra)
        app.append(iter(heat.values.read_bytes().splitlines()))
        return app

    def run(
        self, heat: Heat, number: int, *entry: str, at_mark: Callable[[int], None] | None = None
    ) -> Measured:
        """One round. `entry`: see `App.serve`; `at_mark` is called with the process at both marks."""
        app = self.app(heat, number)
        process = app.serve(*entry)
        try:
            if heat.kafka is None or not self._client:
                return _timed_by_ends(app, process, heat, at_mark)
            return _timed(
                heat.kafka, app.predictions, process, app.folder / "serve.log", heat.marks(), heat, at_mark
            )
        finally:
            stop(process)
            app.admin.close()
            _clear(heat, app.config.app.name)


class Peer:
    """A peer in an environment of its own, Kafka in and out. `words`: its arguments after the topics."""

    needs_kafka = True

    def __init__(self, title: str, peer: str, script: str, *words: str, share: int = 1) -> None:
        self.title = title
        self.peer = peer
        self.share = share
        self._script = script
        self._words = words

    def missing(self, cache: Path) -> str:
        try:
            bench_venvs.python(self.peer, cache)
        except bench_venvs.NotInstalledError as error:
            return str(error)
        return ""

    def start(self, heat: Heat, name: str, target: str) -> "subprocess.Popen[bytes]":
        """Start it on the events of the heat; its outputs go to the topic `target`."""
        assert heat.kafka is not None
        named = {"GROUP": name, "MODEL": heat.name, "FOLDER": str(heat.folder / name)}
        words = [named.get(word, word) for word in self._words]
        python = bench_venvs.python(self.peer, heat.cache)
        command = [python, PEERS / self._script, heat.kafka.broker, heat.topic, target, *words]
        with (heat.folder / "peer.log").open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=_environment(False), cwd=heat.folder)

    def run(self, heat: Heat, number: int) -> Measured:
        assert heat.kafka is not None
        words = "-".join(word.lower() for word in self._words if not word.isupper())
        name = f"bench-{os.getpid()}-{self.peer}-{words}-{number}"  # a group's offsets outlive its topics
        target = f"{name}.out"
        heat.kafka.create(target)
        process = self.start(heat, name, target)
        try:
            log = heat.folder / "peer.log"
            return _timed(heat.kafka, target, process, log, heat.marks(self.share), heat, None)
        finally:
            process.kill()
            process.wait()
            _clear(heat, name)


RUNNERS: dict[str, Runner] = {
    "bare": Memory("bare river + orjson, in memory", "bare"),
    "model": Memory("the model code alone", "model"),
    "core": Memory("streamlearn's core, in memory", "core"),
    "embedded": Service("streamlearn, embedded"),
    "kafka-python": Service("streamlearn, kafka-python", "kafka-python"),
    "confluent": Service("streamlearn, confluent", "confluent"),
    "naive": Peer("naive kafka-python loop", "naive", "naive.py", "GROUP", "MODEL"),
    "quix-0.1": Peer(
        "Quix, exactly once, 0.1 s, in memory", "quix", "quix.py", "GROUP", "MODEL", "0.1", "memory", "FOLDER"
    ),
    "quix-1": Peer(
        "Quix, exactly once, 1 s, in memory", "quix", "quix.py", "GROUP", "MODEL", "1", "memory", "FOLDER"
    ),
    "quix-state": Peer(
        "Quix, exactly once, 1 s, in State",
        "quix",
        "quix.py",
        "GROUP",
        "MODEL",
        "1",
        "state",
        "FOLDER",
        share=STATE_SHARE,
    ),
    "bytewax": Peer("Bytewax, outputs repeat", "bytewax", "bytewax_flow.py", "MODEL"),
}
OURS = ("core", "embedded", "kafka-python", "confluent")


def _environment(ours: bool) -> dict[str, str]:
    """The environment of a runner: equal hashes, and streamlearn's source for the presets."""
    added = {"PYTHONHASHSEED": "0"} if ours else {"PYTHONHASHSEED": "0", "PYTHONPATH": str(HERE.parent)}
    return {**os.environ, **added}


def _clear(heat: Heat, name: str) -> None:
    """Remove what a round has left behind."""
    if heat.kafka is not None:
        heat.kafka.delete(name)
        heat.kafka.delete(f"changelog__{name}")
    for file in heat.folder.glob(f"{name}.db*"):
        if file.is_file():
            file.unlink()


class _Watch:
    """The clocks of a process at two moments."""

    def __init__(self, process: "subprocess.Popen[bytes]", at_mark: Callable[[int], None] | None) -> None:
        self._process = psutil.Process(process.pid)
        self._at_mark = at_mark
        self._seen: list[tuple[int, float, float]] = []

    def mark(self, count: int) -> None:
        wall_s = time.monotonic()
        cpu = self._process.cpu_times()
        self._seen.append((count, wall_s, cpu.user + cpu.system))
        if self._at_mark is not None:
            self._at_mark(self._process.pid)

    @property
    def is_empty(self) -> bool:
        """True if nothing came between the marks."""
        return self._seen[0][0] == self._seen[1][0]

    def measured(self, answer: bytes, offset: int) -> Measured:
        (first, wall_s, cpu_s), (last, end_wall_s, end_cpu_s) = self._seen
        count = last - first
        return Measured(
            count, (end_wall_s - wall_s) / count * 1e6, (end_cpu_s - cpu_s) / count * 1e6, answer, offset
        )


def _check_alive(process: "subprocess.Popen[bytes]", log: Path, until_s: float) -> None:
    late = time.monotonic() > until_s
    if late or process.poll() is not None:
        why = "is too slow for --limit" if late else f"ended with {process.returncode}"
        raise RunnerFailedError(f"{why}; the end of its log:\n{log.read_text(errors='replace')[-2000:]}")


def _timed(
    kafka: BenchKafka,
    topic: str,
    process: "subprocess.Popen[bytes]",
    log: Path,
    marks: tuple[int, int],
    heat: Heat,
    at_mark: Callable[[int], None] | None,
) -> Measured:
    """Read the committed outputs of a process, and its clocks at the marks."""
    watch = _Watch(process, at_mark)
    outputs = kafka.outputs(topic)
    until_s = time.monotonic() + START_S + heat.limit_s
    first, last = marks
    count, answer = 0, b""
    try:
        while count < last:
            before = count
            for value in outputs.read(0.1):
                count += 1
                if count == last:
                    answer = value
            if before < first <= count:
                watch.mark(count)
            _check_alive(process, log, until_s)
        watch.mark(count)
    finally:
        outputs.close()
    if watch.is_empty:
        raise RunnerFailedError(ALL_AT_ONCE)
    return watch.measured(answer, last - 1)


def _timed_by_ends(
    app: App, process: "subprocess.Popen[bytes]", heat: Heat, at_mark: Callable[[int], None] | None
) -> Measured:
    """The same on the embedded log, whose ends of topics count what is committed."""
    watch = _Watch(process, at_mark)
    until_s = time.monotonic() + START_S + heat.limit_s
    for mark in heat.marks():
        while (count := app.done()) < mark:
            _check_alive(process, app.folder / "serve.log", until_s)
            time.sleep(0.005)
        watch.mark(count)
    if watch.is_empty:
        raise RunnerFailedError(ALL_AT_ONCE)
    last = heat.marks()[1]
    record = next(app.admin.read(Range(app.predictions, 0, last - 1, last)))
    return watch.measured(record.value or b"", last - 1)
