"""A real app for tests: topics on a real backend, `streamlearn serve` as a process that can be killed."""

import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from streamlearn.config.load import load
from streamlearn.core.records import Record
from streamlearn.env import RealEnv
from streamlearn.log.backends import open_admin
from streamlearn.log.internal_topics import wanted_topics
from streamlearn.log.port import ProducerRecord, TopicSpec
from tests.fork_server import Process, fork_server

MODELS = '''
import os
import time

from river import linear_model, preprocessing, tree


class Touchy(linear_model.LogisticRegression):
    """Raises in the middle of learning, after it has changed."""

    def learn_one(self, x, y):
        super().learn_one(x, y)
        if "poison" in x:
            raise RuntimeError("poisoned")


class Blind(linear_model.LogisticRegression):
    """Cannot predict what it has not seen a feature of."""

    def predict_proba_one(self, x):
        x["f0"]
        return super().predict_proba_one(x)


class Slow(linear_model.LogisticRegression):
    """Takes its time, and raises at one event."""

    def learn_one(self, x, y):
        time.sleep(float(os.environ.get("LEARN_S", "0.001")))
        super().learn_one(x, y)
        if "poison" in x:
            raise RuntimeError("poisoned")


def slow():
    return preprocessing.StandardScaler() | Slow()


def logistic():
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def tree_model():
    return tree.HoeffdingTreeClassifier(grace_period=50)


def touchy():
    return preprocessing.StandardScaler() | Touchy()


def blind():
    return Blind()


class Deadly(linear_model.LogisticRegression):
    """Kills the process where it learns one event."""

    def learn_one(self, x, y):
        if "poison" in x:
            os.kill(os.getpid(), 9)
        super().learn_one(x, y)


def deadly():
    return preprocessing.StandardScaler() | Deadly()
'''
START_S = 60.0


class App:
    """One app. `serve` starts a service; `produce` and `consume` use a client of their own. `labels`: how
    many partitions the topic of labels has, 0 for no such topic.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        bootstrap: str,
        inputs: Sequence[tuple[str, int]] = (("events", 1),),
        labels: int = 0,
        **extra: object,
    ) -> None:
        (folder / "app_models.py").write_text(MODELS)
        sys.modules.pop("app_models", None)  # of another test in this process
        self.folder = folder
        self.inputs = [f"{name}.{topic}" for topic, _ in inputs]
        self.labels = f"{name}.labels" if labels else ""
        where = (
            {
                "log.backend": "kafka",
                "log.bootstrap_servers": str(bootstrap),
                "log.client": getattr(bootstrap, "client", "auto"),
            }
            if bootstrap
            else {"log.backend": "embedded", "log.path": str(folder / "log.db")}
        )
        self.flags: dict[str, object] = {
            "app.name": name,
            "app.replica": "one",
            "topics.input": self.inputs,
            "topics.labels": self.labels,
            "model.use": "app_models:logistic",
            "checkpoint.interval_s": 0.3,
            "transaction.max_records": 500,
            **where,
            **extra,
        }
        self.config = load(None, self.flags)
        self.admin = open_admin(RealEnv(), self.config)
        most = max(partitions for _, partitions in inputs)
        specs = [TopicSpec(f"{name}.{topic}", partitions) for topic, partitions in inputs]
        specs += [TopicSpec(self.labels, labels)] if labels else []
        self.admin.create([*specs, *wanted_topics(self.config.names(), most)])
        self._running: list[Process] = []

    @property
    def log(self) -> str:
        return (self.folder / "serve.log").read_text()

    def serve(self, *words: str, **flags: object) -> Process:
        env = {name: value for name, value in os.environ.items() if not name.startswith("STREAMLEARN_")}
        for key, value in {**self.flags, **flags}.items():
            text = orjson.dumps(value).decode() if isinstance(value, list) else str(value)
            env["STREAMLEARN_" + key.replace(".", "__").upper()] = text
        env["PYTHONHASHSEED"] = "0"  # else the service starts itself again, and cold
        with (self.folder / "serve.log").open("ab") as log:
            process = fork_server().start(["serve", *words], env, self.folder, log)
        self._running.append(process)
        return process

    def produce(
        self, values: Iterable[bytes | dict[str, Any] | None], topic: int = 0, partition: int | None = None
    ) -> None:
        self.admin.append(self.inputs[topic], self.producer_records(values, partition))

    @staticmethod
    def producer_records(
        values: Iterable[bytes | dict[str, Any] | None], partition: int | None = None
    ) -> list[ProducerRecord]:
        return [
            ProducerRecord(None, orjson.dumps(value) if isinstance(value, dict) else value, (), partition)
            for value in values
        ]

    def records(self, topic: str) -> list[Record]:
        """Everything committed in a topic now, by partition and offset."""
        ends = self.admin.topics([topic])[topic]
        found: list[Record] = []
        for partition, (start, end) in enumerate(zip(ends.start, ends.end, strict=True)):
            position, idle = start, 0
            while position < end and idle < 3:
                fetched = self.admin.poll({(topic, partition): position}, 10_000, 0.5).records
                records = fetched.get((topic, partition), [])
                idle = 0 if records else idle + 1  # transaction markers at the end are no records
                found += records
                position = records[-1].offset + 1 if records else position
        return found

    def predictions(self) -> list[dict[str, Any]]:
        return [orjson.loads(r.value or b"") for r in self.records(self.config.topics.predictions)]

    def scores(self) -> list[dict[str, Any]]:
        return [orjson.loads(r.value or b"") for r in self.records(self.config.topics.scores)]

    def dead_letters(self) -> list[Record]:
        return self.records(self.config.topics.dlq)

    def outcomes(self) -> int:
        return len(self.records(self.config.topics.predictions)) + len(self.dead_letters())

    def wait(self, process: Process, outcomes: int, within_s: float = START_S) -> None:
        """Until so many predictions and dead letters are committed."""
        deadline_s = time.monotonic() + within_s
        while (there := self.outcomes()) < outcomes:
            assert process.poll() is None, self.log[-3000:]
            assert time.monotonic() < deadline_s, f"{there} of {outcomes} outcomes; {self.log[-3000:]}"
            time.sleep(0.05)

    def stop(self, process: Process) -> None:
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_S) == 0, self.log[-3000:]

    def close(self) -> None:
        for process in self._running:
            if process.poll() is None:
                process.kill()
                process.wait()
        self.admin.close()


class Broker(str):
    """The bootstrap address of a real broker, and the client that services use there."""

    __slots__ = ("client",)

    def __new__(cls, address: str, client: str) -> "Broker":
        made = super().__new__(cls, address)
        made.client = client
        return made


KAFKA = pytest.param("kafka-python", id="kafka", marks=pytest.mark.kafka)
CONFLUENT = pytest.param("confluent", marks=[pytest.mark.kafka, pytest.mark.slow])


def address(request: pytest.FixtureRequest) -> str:
    if request.param == "embedded":
        return ""
    return Broker(os.environ["STREAMLEARN_TEST_KAFKA"], request.param)


@pytest.fixture(params=["embedded", KAFKA])
def backend(request: pytest.FixtureRequest) -> str:
    """The bootstrap address of the real broker, or "" for the embedded log."""
    return address(request)


@pytest.fixture(name="backend", params=["embedded", KAFKA, CONFLUENT])
def every_backend(request: pytest.FixtureRequest) -> str:
    """`backend`, with every client of Kafka: for the suites that kill, pause and refuse."""
    return address(request)


class Apps:
    """Makes apps, and ends their processes after the test."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._made: list[App] = []

    def __call__(self, bootstrap: str, **extra: Any) -> App:
        app = App(self._folder, self._name, bootstrap, **extra)
        self._made.append(app)
        return app

    def close(self) -> None:
        for app in self._made:
            app.close()


@pytest.fixture
def apps(tmp_path: Path, topic_prefix: str) -> Iterator[Apps]:
    made = Apps(tmp_path, topic_prefix)
    yield made
    made.close()
