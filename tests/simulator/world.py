"""One simulated history: two processes that serve one app, an operator, and the faults of one seed.

The oracle is the uninterrupted run: after all faults each event has exactly one prediction, and it is the one
that a plain river loop gives over the records in their order; every checkpoint that is left is the state at
the entry that it names.

The check of a new model has no place in it where anything could come between, and takes most of a history's
time: histories without an event that kills leave it out.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from hashlib import sha256
from typing import Any, Final
from unittest import mock

import orjson
from river import linear_model, preprocessing

from streamlearn.config.load import load
from streamlearn.core.journal import Entry
from streamlearn.core.records import SHARD, Record
from streamlearn.core.shard.snapshot import load_memory, open_header, unseal
from streamlearn.engine.model import ModelTemplate, configured_model
from streamlearn.errors import BadCheckpoint, StreamlearnError, Unreachable
from streamlearn.log.internal_topics import wanted_topics
from streamlearn.log.port import ProducerRecord, TopicSpec
from streamlearn.service import recovery
from streamlearn.service.health import checks
from streamlearn.service.process import Process as ServiceProcess
from tests.simulator.environment import SimulatedEnv
from tests.simulator.faults import HEALING, Fault, Raises
from tests.simulator.memory_log import Cluster, MemoryReader
from tests.simulator.ports import open_ports
from tests.simulator.scheduler import Killed, Process, Scheduler

EVENTS: Final = 120
INPUT: Final = "events"
FAULTS: Final = 4
FAULT_TURNS: Final = 1_200
"""Faults happen within so many turns: about as many as a history without faults takes."""
HISTORY_S: Final = 3_600.0
"""A history that is not complete after so much simulated time never will be."""

FLAGS: Final[dict[str, Any]] = {
    "app.name": "app",
    "log.backend": "embedded",  # for the configuration only: the log is in memory
    "log.path": "nowhere.db",
    "topics.input": [INPUT],
    "model.use": "preset:classification",
    "checkpoint.interval_s": 2,
    "transaction.max_records": 8,
    "transaction.max_ms": 100,
    "transaction.min_interval_ms": 1,
    "scores.every": 0,
}


class Server(Process):
    """One life of a serving process. `is_odd`: on a machine that computes other last digits."""

    def __init__(self, name: str, is_odd: bool) -> None:
        super().__init__(name)
        self.is_odd = is_odd
        self.is_bound = False
        """It has stepped again what a machine of the other kind had published."""
        self.process: ServiceProcess | None = None
        self.ended = False


class Regression(linear_model.LogisticRegression):
    """river's, on the machine of the process that runs it."""

    computes_oddly: Callable[[], bool] = staticmethod(lambda: False)
    kill: Callable[[], None] = staticmethod(lambda: None)

    def predict_proba_one(self, x: dict[Any, float], **_: Any) -> dict[bool, float]:
        odd = 1e-9 if Regression.computes_oddly() else 0.0
        p = super().predict_proba_one(x)
        return {False: p[False] + odd, True: p[True] - odd}

    def learn_one(self, x: dict[Any, float], y: bool, w: float = 1.0) -> None:
        if "deadly" in x:
            Regression.kill()
        super().learn_one(x, y, w)


def model() -> Any:
    return preprocessing.StandardScaler() | Regression()


def event(number: int) -> dict[str, Any]:
    features = {"x": number % 7, "y": number * 37 % 11}
    return {"id": str(number), "features": features, "label": (number * number) % 5 < 2}


class World:
    """A history with faults of the given kinds, placed by `seed`."""

    def __init__(
        self,
        seed: int,
        kinds: Mapping[str, Fault] = HEALING,
        faults: int = FAULTS,
        odd: bool = False,
        deadly: int = 0,
    ) -> None:
        """`odd`: one of the two machines computes other last digits. `deadly`: so many events kill the
        process that learns them.
        """
        self.scheduler = Scheduler(seed)
        self.deadly = set(self.scheduler.random.sample(range(EVENTS), deadly))
        self.odd = odd
        self.may_stop = odd or deadly > 2 or "recreate" in kinds
        self.written_by: dict[str, bool] = {}
        self.wrong: list[str] = []
        self.cluster = Cluster()
        self.config = load(None, FLAGS)
        self.names = self.config.names()
        self.kinds = kinds
        chance = self.scheduler.random
        self.due = sorted((chance.randrange(FAULT_TURNS), chance.choice(list(kinds))) for _ in range(faults))
        self.happened: list[str] = []
        self.servers: dict[int, Server] = {}
        self.stops: list[StreamlearnError] = []
        self.finished = False
        self.produced = 0
        self.env = SimulatedEnv(self.scheduler, Process("operator"))
        self.reader = MemoryReader(self.cluster, self.env)
        self.reader.create([TopicSpec(INPUT, 1), *wanted_topics(self.names, 1)])

    def run(self) -> None:
        """Let the history happen."""
        self.scheduler.on_turn = self._turn
        Regression.computes_oddly = staticmethod(self._computes_oddly)
        Regression.kill = staticmethod(self._kill)
        operator = Process("operator")
        self.scheduler.spawn(operator, "producer", self._produce)
        for number in range(2):
            self.scheduler.spawn(
                operator, f"supervisor-{number}", lambda number=number: self._supervise(number)
            )
        with ExitStack() as unchecked:
            if not self.deadly:  # else an event may kill the process at the model's check, its first look
                for room in (recovery, checks):
                    unchecked.enter_context(mock.patch.object(room, "check_model"))
            self.scheduler.run()

    # --- who acts ---------------------------------------------------------------------------------------

    def _produce(self) -> None:
        """Events in bursts; when all are covered, the end."""
        chance = self.scheduler.random
        while self.produced < EVENTS and not self.stops:
            burst = range(self.produced, min(EVENTS, self.produced + chance.randint(1, 15)))
            self.reader.append(
                INPUT, [ProducerRecord(None, orjson.dumps(self.event(number))) for number in burst]
            )
            self.produced = burst.stop
            self.env.sleep(chance.uniform(0, 1.5))
        began_s = self.scheduler.now
        while not self.stops and self.covered() < EVENTS:
            assert self.scheduler.now - began_s < HISTORY_S, "the history is never complete"
            self.env.sleep(1.0)
        self.finished = True
        while any(not server.ended for server in self.servers.values()):
            for server in self.servers.values():
                if server.process is not None:
                    server.process.stop()
            self.env.sleep(1.0)

    def _supervise(self, number: int) -> None:
        """Start a process, and another one some time after it has ended."""
        life = 0
        while True:
            self.env.sleep(self.scheduler.random.uniform(0, 3))
            if self.finished or self.stops:
                return
            server = Server(f"server-{number}.{life}", self.odd and number == 1)
            self.servers[number] = server
            self.scheduler.spawn(server, "main", partial(self._serve, server))
            while not server.ended and not server.killed:
                self.env.sleep(0.5)
            server.ended = True
            life += 1

    def _serve(self, server: Server) -> None:
        env = SimulatedEnv(self.scheduler, server)
        log, store = open_ports(self.scheduler, self.cluster, self.names, env)
        try:
            try:
                server.process = ServiceProcess(env, self.config, self.fresh(), log, store, "")  # type: ignore[arg-type]
                server.process.run()
            finally:
                log.close()
        except StreamlearnError as error:
            # A broker that was never there, and a checkpoint with no place, are an operator's to mend.
            if not isinstance(error, Unreachable) and "be written" not in str(error):
                self.stops.append(error)
            self.happened.append(f"{server.name} ended: {error}")
        server.ended = True

    def fresh(self) -> ModelTemplate:
        return configured_model(self.config, model())

    def event(self, number: int) -> dict[str, Any]:
        """The event with this number as it is sent."""
        plain = event(number)
        return {**plain, "features": {**plain["features"], "deadly": 1.0}} if number in self.deadly else plain

    def recreate_input(self) -> None:
        """The topic again, under another id, with as many other events."""
        self.cluster.delete(INPUT)
        self.reader.create([TopicSpec(INPUT, 1)])
        others = [{**event(number), "id": f"another {number}"} for number in range(EVENTS)]
        self.reader.append(INPUT, [ProducerRecord(None, orjson.dumps(other)) for other in others])

    def _kill(self) -> None:
        assert self.scheduler.running is not None
        self.scheduler.running.killed = True
        raise Killed

    def _computes_oddly(self) -> bool:
        process = self.scheduler.running
        return isinstance(process, Server) and process.is_odd

    def _turn(self, process: Process, call: str, words: tuple[Any, ...]) -> None:
        """Let the first fault happen that is due and can."""
        if not isinstance(process, Server):
            return
        if self.odd:
            self._watch_machines(process, call, words)
        for turn, kind in self.due:
            if turn > self.scheduler.turns:
                return
            told = f"{self.scheduler.turns}: {kind} at {call} of {process.name}"
            try:
                happened = self.kinds[kind](self, process, call)
            except Raises as fault:
                self._note((turn, kind), told)
                raise fault.error from None
            if happened:
                self._note((turn, kind), told)
                return

    def _watch_machines(self, server: Server, call: str, words: tuple[Any, ...]) -> None:
        """Who has stepped again what another kind of machine had published publishes nothing as its owner."""
        if call == "log.open.answer":
            server.is_bound = False
        elif call == "shard.read":
            covering = [entry for entry in self.journal() if words[0] in entry.ranges and entry.outputs]
            others = [self.written_by[entry.digest] != server.is_odd for entry in covering]
            server.is_bound = server.is_bound or any(others)
        elif call == "shard.publish" and words[0].outputs:
            self.written_by[words[0].digest] = server.is_odd
            if server.is_bound:
                self.wrong.append(
                    f"{server.name} publishes entry {words[0].seq} after one that came out otherwise"
                )

    def _note(self, due: tuple[int, str], told: str) -> None:
        self.due.remove(due)
        self.happened.append(told)

    # --- what there is, and whether it is right -------------------------------------------------------------

    def records(self, topic: str) -> list[Record]:
        partition = self.cluster.topics[topic].partitions[0]
        return partition.between(0, partition.end)

    def journal(self) -> list[Entry]:
        place = (self.names.roles["journal"], SHARD)
        return self.cluster.entries(place, self.cluster.partition(place).end)

    def covered(self) -> int:
        """So many events the journal covers, by its last range."""
        return max((run.next for entry in self.journal() for run in entry.ranges), default=0)

    def check(self) -> None:
        """Raise where the outcome is another one than without faults."""
        if not self.may_stop:
            assert not self.stops, f"the service stopped: {self.stops[0]}"
        assert self.wrong == []
        self.check_predictions()
        self.check_dead_letters()
        self.check_checkpoints()

    def check_predictions(self) -> None:
        """Each event has one prediction, in order, as a plain loop gives it."""
        plain = model()
        said = [orjson.loads(record.value or b"") for record in self.records(self.names.roles["predictions"])]
        survivors = [number for number in range(EVENTS) if number not in self.deadly]
        assert [one["id"] for one in said] == [str(number) for number in survivors[: len(said)]]
        for number, one in zip(survivors, said, strict=False):
            x = event(number)["features"]
            assert one["prediction"] == plain.predict_one(x), f"event {number}"
            digits = one["probabilities"]["true"]
            assert digits == plain.predict_proba_one(x)[True] or self.odd, f"event {number}"
            plain.learn_one(x, event(number)["label"])

    def check_dead_letters(self) -> None:
        """None but those of events that kill."""
        letters = [
            orjson.loads(letter.value or b"")["id"] for letter in self.records(self.names.roles["dlq"])
        ]
        assert letters == [str(number) for number in sorted(self.deadly)][: len(letters)]
        assert self.stops or self.covered() < EVENTS or len(letters) == len(self.deadly)

    def check_checkpoints(self) -> None:
        """Each checkpoint that the journal names is there, and is the state at its entry. No other that is
        whole stands beyond the journal's end.
        """
        entries = {entry.seq: entry for entry in self.journal()}
        if not entries:
            return
        last = entries[max(entries)]
        for named in entries[last.named].checkpoints:
            blob, name = self.cluster.blobs[named.name], named.name
            assert (len(blob), sha256(blob).hexdigest()) == (named.size, named.sha256), name
            header, sections = unseal(blob, b"")
            assert (header.seq, header.digest) == (named.seq, named.digest), name
            if header.seq in entries:
                assert header.digest == entries[header.seq].digest, name
                until = [run for entry in entries.values() if entry.seq <= header.seq for run in entry.ranges]
                assert load_memory(sections).records == max((run.next for run in until), default=0), name
        for name, blob in self.cluster.blobs.items():
            with suppress(BadCheckpoint):
                assert open_header(blob).seq <= last.seq, f"checkpoint {name} is ahead of the journal"
