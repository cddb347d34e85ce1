"""What benchmarks of a service share: the events, and one app on one backend: its topics and its process."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson

from streamlearn.config.load import load
from streamlearn.config.schema import Config
from streamlearn.env import RealEnv
from streamlearn.log.backends import open_admin
from streamlearn.log.internal_topics import wanted_topics
from streamlearn.log.port import ProducerRecord, TopicSpec

MODEL = """
from river import linear_model, preprocessing


def build():
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()
"""


def events(n: int, seed: int, dead_share: float = 0.0, task: str = "classification") -> Iterator[bytes]:
    """Events with 8 numbers and a label, of a regression a number; a share of them is not JSON."""
    rng = random.Random(seed)
    for i in range(n):
        if rng.random() < dead_share:
            yield b'{"id": "e%d", "features": {' % i
            continue
        x = {f"f{k}": rng.gauss(0, 1) for k in range(8)}
        total = x["f0"] + x["f1"]
        label = total if task == "regression" else total > 0
        yield orjson.dumps({"id": f"e{i}", "ts": 1.7e9 + i, "features": x, "label": label})


class App:
    """One app on one backend: its topics, and its service process."""

    def __init__(self, folder: Path, backend: str, name: str, source: str = MODEL, **extra: object) -> None:
        """`source`: the text of the module `bench_model`; `extra`: settings by their dotted names."""
        (folder / "bench_model.py").write_text(source)
        self.folder = folder
        flags: dict[str, object] = {
            "app.name": name,
            "app.replica": "bench",
            "log.backend": backend,
            "topics.input": f"{name}.events",
            "model.use": "bench_model:build",
            **extra,
        }
        if backend == "kafka":
            flags["log.bootstrap_servers"] = os.environ["STREAMLEARN_TEST_KAFKA"]
        else:
            flags["log.path"] = str(folder / f"{name}.db")
        self.config: Config = load(None, flags)
        self._flags = flags
        self.admin = open_admin(RealEnv(), self.config)
        self.input = str(flags["topics.input"])
        self.predictions = self.config.names().roles["predictions"]
        self.topics = [spec.name for spec in wanted_topics(self.config.names(), 1)]
        self.admin.create([TopicSpec(self.input, 1), *wanted_topics(self.config.names(), 1)])

    def append(self, values: Iterator[bytes]) -> None:
        records = [ProducerRecord(None, value) for value in values]
        for at in range(0, len(records), 5000):
            self.admin.append(self.input, records[at : at + 5000])

    def serve(self, *entry: str) -> "subprocess.Popen[bytes]":
        """Start the service. `entry`: a script, with its arguments, that runs the command line."""
        env = {**os.environ, "PYTHONHASHSEED": "0"}
        for key, value in self._flags.items():
            env["STREAMLEARN_" + key.replace(".", "__").upper()] = str(value)
        words: Sequence[str] = entry or ("-m", "streamlearn")
        with (self.folder / "serve.log").open("ab") as log:
            return subprocess.Popen([sys.executable, *words, "serve"], env=env, stderr=log, cwd=self.folder)

    def done(self) -> int:
        """Predictions and dead letters so far (an upper bound on Kafka, whose offsets count markers)."""
        roles = self.config.names().roles
        topics = self.admin.topics([roles["predictions"], roles["dlq"]])
        return sum(sum(info.end) for info in topics.values())

    def wait(self, process: "subprocess.Popen[bytes]", count: int, pause_s: float = 0.02) -> float:
        """Seconds until `count` outcomes are there."""
        began_s = time.monotonic()
        while self.done() < count:
            if process.poll() is not None:
                sys.exit((self.folder / "serve.log").read_text()[-3000:])
            time.sleep(pause_s)
        return time.monotonic() - began_s


def stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    process.wait()
