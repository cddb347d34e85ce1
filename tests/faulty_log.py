"""Faults on order: a log and a store around the embedded ones that fail at the n-th call of any port method.

A fault names a method of the port (`publish`, `poll`, `store.write`, ...), which call of it, and what
happens there: before the real call, after it (a lost answer), or instead of it. What happens is any function;
the ones at the end of this module raise, wait, stop the loop, let a rival own the shard, and so on.

`Harness` runs real loops in this process over one file, each under its own faults, and is also the oracle:
after all faults every event has exactly one prediction, equal to a plain river loop, and every checkpoint in
the store is the state at the entry that it names.
"""

import hashlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import orjson

from streamlearn.config.load import Config, load
from streamlearn.core.journal import Entry, decode_entry, encode_entry, journalled
from streamlearn.core.records import Output, Positions, Range, Record
from streamlearn.core.shard.snapshot import load_memory, unseal
from streamlearn.engine.model import ModelTemplate, configured_model
from streamlearn.env import Env, RealEnv
from streamlearn.log.backends import open_blobs
from streamlearn.log.background_store import BackgroundStore
from streamlearn.log.embedded.admin import EmbeddedAdmin
from streamlearn.log.embedded.log import EmbeddedLog
from streamlearn.log.internal_topics import wanted_topics
from streamlearn.log.port import Blobs, FetchResult, Log, ProducerRecord, ShardLog, TopicInfo, TopicSpec
from streamlearn.service.process import Process

QUIET_POLLS = 3
"""So many polls in a row that bring nothing end a run, when nothing else does."""


class Killed(BaseException):
    """The process dies here: nothing of it may run any more but what Python itself insists on."""


class Fault(NamedTuple):
    """At call `call` (from 0) of `method`, `do` happens: `when` is before, after or instead."""

    method: str
    call: int
    do: Callable[["Faults"], Any]
    when: str = "before"


class Faults:
    """The faults of one run, the calls counted so far, and what a fault may reach for."""

    def __init__(self, harness: "Harness", *faults: Fault) -> None:
        self.harness = harness
        self.left = list(faults)
        self.calls: dict[str, int] = {}
        self.process: Process | None = None
        self.quiet = 0
        self.dead = False

    def around(self, method: str, real: Callable[[], Any]) -> Any:
        """Make the call, with what was ordered for it."""
        try:
            if self.dead:
                raise Killed
            return self._around(method, real)
        except Killed:
            self.dead = True
            if threading.current_thread() is not threading.main_thread():
                raise OSError("killed") from None  # ends the thread; the loop dies at its next call
            raise

    def _around(self, method: str, real: Callable[[], Any]) -> Any:
        call = self.calls[method] = self.calls.get(method, -1) + 1
        due = [one for one in self.left if (one.method, one.call) == (method, call)]
        self.left = [one for one in self.left if one not in due]
        for fault in due:
            if fault.when == "before":
                fault.do(self)
        instead = [one for one in due if one.when == "instead"]
        answer = instead[0].do(self) if instead else real()
        for fault in due:
            if fault.when == "after":
                fault.do(self)
        return answer

    def note(self, fetched: FetchResult) -> None:
        """Stop the loop when the stream has fallen silent."""
        self.quiet = 0 if fetched.records else self.quiet + 1
        if self.quiet >= QUIET_POLLS and self.process is not None:
            self.process.stop()


class FaultyShardLog:
    """`ShardLog` with faults."""

    def __init__(self, inner: ShardLog, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults
        self.end = inner.end
        self.seen = inner.seen

    def _pass(self, method: str, *words: Any) -> Any:
        return self._faults.around(method, lambda: getattr(self._inner, method)(*words))

    def entries(self, after: int) -> Iterator[Entry]:
        for entry in self._inner.entries(after):
            yield self._faults.around("entries", lambda entry=entry: entry)

    def poll(self, positions: Positions, max_records: int, max_bytes: int, timeout_s: float) -> FetchResult:
        fetched: FetchResult = self._pass("poll", positions, max_records, max_bytes, min(timeout_s, 0.02))
        self._faults.note(fetched)
        return fetched

    def reached(self, positions: Positions) -> Positions:
        return self._pass("reached", positions)

    def read(self, run: Range) -> Iterator[Record]:
        self._faults.around("read", lambda: None)
        return self._inner.read(run)

    def publish(self, entry: Entry, outputs: Sequence[Output], positions: Positions) -> None:
        self._pass("publish", entry, outputs, positions)

    def __getattr__(self, name: str) -> Any:
        """Whatever else the port has: the same way, with faults."""
        real = getattr(self._inner, name)
        return (lambda *words: self._faults.around(name, lambda: real(*words))) if callable(real) else real


class FaultyLog:
    """`Log` with faults."""

    def __init__(self, inner: Log, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    def open(self, shard: int) -> FaultyShardLog:
        return FaultyShardLog(self._faults.around("open", lambda: self._inner.open(shard)), self._faults)

    def close(self) -> None:
        self._inner.close()

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._inner, name)
        return lambda *words: self._faults.around(name, lambda: real(*words))


class FaultyStore:
    """`Blobs` with faults, under `store.<method>`."""

    def __init__(self, inner: Blobs, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._inner, name)
        return lambda *words: self._faults.around(f"store.{name}", lambda: real(*words))


class Harness:
    """One app on one file. `run` is one process' life."""

    def __init__(
        self, folder: Path, use: str = "preset:classification", model: Any = None, **flags: Any
    ) -> None:
        self.folder = folder
        self.flags: dict[str, Any] = {
            "app.name": "app",
            "log.backend": "embedded",
            "log.path": str(folder / "log.db"),
            "topics.input": ["events"],
            "model.use": use,
            "checkpoint.interval_s": 3600,
            "transaction.max_records": 50,
            "transaction.max_ms": 60_000,  # so that a loaded machine cuts no other entries
            "scores.every": 0,
            **flags,
        }
        self.config = load(None, self.flags)
        self.model = model
        self.begin = False
        self.env: Env = RealEnv()
        """Of the services; the oracle has the real one."""
        self.admin = EmbeddedAdmin(RealEnv(), self.config.log.path)
        self.admin.create([TopicSpec(topic, 1) for topic in self.config.topics.input])
        self.admin.create(wanted_topics(self.config.names(), 1))

    def fresh(self, config: Config | None = None) -> ModelTemplate:
        return configured_model(config or self.config, None if self.model is None else self.model())

    def produce(self, events: Sequence[dict[str, Any]], topic: str = "events") -> None:
        self.admin.append(topic, [ProducerRecord(None, orjson.dumps(event)) for event in events])

    def run(self, *faults: Fault, model_change: str = "", **flags: Any) -> Faults:
        """Serve until the stream is silent or a fault ends it. Raises as `Process.run`, or `Killed`."""
        config = load(None, {**self.flags, **flags}) if flags else self.config
        ordered = Faults(self, *faults)
        env = self.env
        inner = EmbeddedLog(env, config.names(), config.log.path, 7 * 86400)
        blobs = FaultyStore(open_blobs(env, config, 0), ordered)
        log, store = FaultyLog(inner, ordered), BackgroundStore(env, blobs)  # type: ignore[arg-type]
        ordered.process = Process(env, config, self.fresh(config), log, store, model_change, self.begin)  # type: ignore[arg-type]
        try:
            ordered.process.run()
        finally:
            inner.close()
        return ordered

    # --- the oracle -------------------------------------------------------------------------------------

    def records(self, topic: str) -> list[Record]:
        found: list[Record] = []
        info: TopicInfo = self.topics()[topic]
        for partition, start in enumerate(info.start):
            at = start
            while at < info.end[partition]:
                fetched = self.admin.poll({(topic, partition): at}, 100_000, 0).records[topic, partition]
                found += fetched
                at = fetched[-1].offset + 1
        return found

    def topics(self) -> dict[str, TopicInfo]:
        return self.admin.topics([*self.config.names().sources, *self.config.names().roles.values()])

    def predictions(self) -> list[dict[str, Any]]:
        return [orjson.loads(r.value or b"") for r in self.records(self.config.topics.predictions)]

    def journal(self) -> list[Entry]:
        return [decode_entry(r.value or b"") for r in self.records(self.config.topics.journal)]

    def check_checkpoints(self) -> int:
        """Every checkpoint that the journal names is there, and is the state at its entry; how many."""
        store = open_blobs(RealEnv(), self.config, 0)
        entries = {entry.seq: entry for entry in self.journal()}
        if not entries:
            return 0
        last = entries[max(entries)]
        kept = entries[last.named].checkpoints
        for named in kept:
            name, data = named.name, store.read(named.name)
            assert (len(data), hashlib.sha256(data).hexdigest()) == (named.size, named.sha256), name
            header, sections = unseal(data, self.config.checkpoint.key.encode())
            assert (header.seq, header.digest) == (named.seq, named.digest), name
            assert header.seq <= last.seq
            if header.seq in entries:
                assert header.digest == entries[header.seq].digest, name
            if 0 in entries:
                until = [entry for entry in entries.values() if entry.seq <= header.seq]
                covered = sum(run.next - run.first for entry in until for run in entry.ranges)
                assert load_memory(sections).records == covered, f"checkpoint {name} is another state"
                ends = {(run.topic, run.partition): run.next for entry in until for run in entry.ranges}
                positions = header.next_offsets()
                assert {at: positions[at] for at in ends} == ends, name
        return len(kept)

    def db(self, statement: str, *values: Any) -> None:
        """Change the file behind everybody's back."""
        with sqlite3.connect(self.config.log.path, timeout=30) as db:
            db.execute(statement, values)

    def cut_tail(self, topic: str, end: int) -> None:
        """The partition loses its records from `end` on, as after a power cut."""
        rewrite(self.config.log.path, topic, lambda record: record.value, end)

    def recreate(self, topic: str, ident: str = "another") -> None:
        """Delete the topic and make it again, empty."""
        number = "(SELECT number FROM topics WHERE name = ?)"
        self.db(f"DELETE FROM packs WHERE topic = {number}", topic)
        self.db(f"UPDATE partitions SET next_offset = 0, log_start = 0 WHERE topic = {number}", topic)
        self.db("UPDATE topics SET id = ? WHERE name = ?", ident, topic)


def rewrite(
    path: str, topic: str, value_of: Callable[[Record], bytes | None], end: float = float("inf")
) -> None:
    """Put other values into the records of an embedded topic, and leave out those from offset `end` on."""
    admin = EmbeddedAdmin(RealEnv(), path)
    number = "(SELECT number FROM topics WHERE name = ?)"
    info = admin.topics([topic])[topic]
    records: list[Record] = []
    while (at := records[-1].offset + 1 if records else info.start[0]) < info.end[0]:
        records += admin.poll({(topic, 0): at}, 100_000, 0).records[topic, 0]
    with sqlite3.connect(path, timeout=30) as db:
        db.execute(f"DELETE FROM packs WHERE topic = {number}", (topic,))
        statement = f"UPDATE partitions SET next_offset = ? WHERE topic = {number}"
        db.execute(statement, (records[0].offset, topic))
        rows = [ProducerRecord(r.key, value_of(r), r.headers) for r in records if r.offset < end]
        if not rows:
            db.execute(
                f"UPDATE partitions SET next_offset = 0, log_start = 0 WHERE topic = {number}", (topic,)
            )
    if rows:
        admin.append(topic, rows)
    admin.close()


def name_anew(path: str, journal: str, file: Path) -> None:
    """Let the journal name the bytes that are in this file of a checkpoint now, as only who can write to the
    journal can do.
    """
    data = file.read_bytes()
    print_of = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def value_of(record: Record) -> bytes | None:
        entry = journalled(record)
        if entry is None:
            return record.value
        kept = [
            msgspec.structs.replace(one, **print_of) if one.name == file.stem else one
            for one in entry.checkpoints
        ]
        return encode_entry(msgspec.structs.replace(entry, checkpoints=kept))

    rewrite(path, journal, value_of)


# --- what may happen ------------------------------------------------------------------------------------


def fails(error: BaseException) -> Callable[[Faults], Any]:
    """Raise `error`."""

    def do(_: Faults) -> Any:
        raise error

    return do


def stops(faults: Faults) -> None:
    """SIGTERM comes in this moment."""
    assert faults.process is not None
    faults.process.stop()


def loses_membership(_: Faults) -> frozenset[int]:
    """For `owned`, instead: the election confirms nothing."""
    return frozenset()


def is_slow(_: Faults) -> None:
    time.sleep(0.05)


def is_fenced(faults: Faults) -> None:
    """Another process opens the shard, and dies before it has done anything."""
    config = faults.harness.config
    rival = EmbeddedLog(RealEnv(), config.names(), config.log.path, 7 * 86400)
    rival.open(0)
    rival._file.close()
    faults.harness.db("UPDATE owners SET holder = ''")


def is_taken_over(faults: Faults) -> None:
    """Another process owns the shard for a while, publishes all that waits, and leaves."""
    faults.harness.run()
