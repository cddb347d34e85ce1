"""A simulated process's log and store: the real calls, with a turn before and after each."""

from collections.abc import Iterator, Mapping
from typing import Any

from streamlearn.errors import BadCheckpoint
from streamlearn.log.background_store import BackgroundStore
from tests.simulator.environment import SimulatedEnv
from tests.simulator.memory_log import Cluster, MemoryLog, MemoryShardLog
from tests.simulator.scheduler import Scheduler


class Ports:
    """A port whose every method is a place where another thread may go on, or a fault may come."""

    def __init__(self, scheduler: Scheduler, inner: Any, name: str) -> None:
        self._scheduler = scheduler
        self._inner = inner
        self._name = name

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._inner, name)
        if not callable(real):
            return real

        def call(*words: Any, **named: Any) -> Any:
            self._scheduler.turn(f"{self._name}.{name}", words=words)
            answer = real(*words, **named)
            if isinstance(answer, Iterator):
                return self._one_by_one(name, answer)
            self._scheduler.turn(f"{self._name}.{name}.answer", words=words)
            return Ports(self._scheduler, answer, "shard") if isinstance(answer, MemoryShardLog) else answer

        return call

    def _one_by_one(self, name: str, answer: Iterator[Any]) -> Iterator[Any]:
        for one in answer:
            self._scheduler.turn(f"{self._name}.{name}.next")
            yield one


class MemoryStore:
    """`Blobs` on a cluster. A blob that was not written to its end is not there, or there in part."""

    def __init__(self, cluster: Cluster, env: SimulatedEnv, scheduler: Scheduler) -> None:
        self._cluster = cluster
        self._env = env
        self._scheduler = scheduler

    def names(self) -> list[str]:
        return sorted(self._cluster.blobs)

    def read(self, name: str, where: str = "") -> bytes:
        if name not in self._cluster.blobs:
            raise BadCheckpoint(f"there is no checkpoint {name}")
        return self._cluster.blobs[name]

    def write(self, name: str, data: bytes | bytearray) -> str:
        if self._scheduler.random.random() < 0.5:  # a store that does not hide what is half done
            self._cluster.blobs[name] = bytes(data[: len(data) // 2])
        self._scheduler.turn("store.half")
        self._cluster.blobs[name] = bytes(data)
        self._scheduler.turn("store.whole")
        return ""

    def forget(self, blobs: Mapping[str, str]) -> None:
        for name in blobs:
            self._cluster.blobs.pop(name, None)
            self._scheduler.turn("store.forgotten")

    def close(self) -> None:
        """Nothing to let go of."""


def open_ports(
    scheduler: Scheduler, cluster: Cluster, names: Any, env: SimulatedEnv
) -> tuple[Ports, BackgroundStore]:
    """The log and the store of one process."""
    log = MemoryLog(cluster, names, env, lambda: scheduler.turn("shard.publish.between"))
    blobs: Any = Ports(scheduler, MemoryStore(cluster, env, scheduler), "store")
    return Ports(scheduler, log, "log"), BackgroundStore(env, blobs)
