"""Checkpoints in a compacted topic: chunks first, the manifest last.

A shard's checkpoints lie in partition `shard`. One write appends, in this order:
1. the chunks of the new checkpoint, each under a key of its own;
2. tombstones for the chunks of what the manifest before had already dropped;
3. the manifest, always under the same key: the index of every kept checkpoint (offsets of its chunks, size,
   BLAKE2b-256), and what is dropped with it; also chunks that lie behind the manifest before, unnamed.

Invariants:
- A checkpoint exists from the moment its manifest is acknowledged; a writer that dies earlier leaves only
  chunks that nothing names, and the manifest before them still stands.
- No chunk gets its tombstone while any standing manifest names its checkpoint as kept.
- Chunks of a writer that died get theirs: at once when they are older than any write lasts (`DEAD_MS`), else
  with the write after the next manifest, should they still be unnamed then: their writer may live.
- A manifest that cannot be read is passed over for the one before it.
- The store holds no state between calls: it reads the last manifest anew, since another replica may have
  written since. It has its own clients, and one lock, so that a writer thread may use it beside the loop.
"""

import hashlib
import threading
from collections.abc import Mapping, Sequence

import msgspec
import structlog

from streamlearn.core.records import Range, Record
from streamlearn.env import Env
from streamlearn.errors import BadCheckpoint, ConfigError, Gone
from streamlearn.log.kafka import new_client
from streamlearn.log.kafka.admin import append
from streamlearn.log.kafka.client import BATCH_BYTES, ClientError, Producer
from streamlearn.log.kafka.errors import explained
from streamlearn.log.kafka.reader import RecordReader
from streamlearn.log.port import Row

log = structlog.get_logger()

CHUNK_BYTES = 512 * 1024
_CHUNKS_IN_FLIGHT = 16
_MANIFEST_KEY = b"manifest"

DEAD_MS = 600_000
"""A write whose newest chunk is older than this, by the broker's clock, is no longer going on."""


class _Kept(msgspec.Struct, frozen=True):
    """One checkpoint: its chunks are the records keyed `<prefix>.<number>` in offsets `first..next - 1`."""

    name: str
    prefix: str
    chunks: int
    first: int
    next: int
    size: int
    blake2b: str


class _Manifest(msgspec.Struct, frozen=True):
    kept: list[_Kept] = []
    dropped: list[_Kept] = []
    format: int = 1


class TopicStore:
    """`Store` in partition `shard` of `topic`. Connects when first used."""

    def __init__(self, env: Env, bootstrap: str, options: Mapping[str, str], topic: str, shard: int) -> None:
        self._env = env
        self._bootstrap = bootstrap
        self._client = new_client(bootstrap, options)
        self._place = (topic, shard)
        self._name = f"{topic}-{shard}"
        self._lock = threading.Lock()
        self._reader = RecordReader(env, self._client, wait_ms=20)
        self._producer: Producer | None = None

    def names(self) -> list[str]:
        """As `Store.names`."""
        return sorted(kept.name for kept in self._manifest().kept)

    def read(self, name: str) -> bytes:
        """As `Store.read`."""
        kept = next((kept for kept in self._manifest().kept if kept.name == name), None)
        if kept is None:
            raise BadCheckpoint(f"{self._name} has no checkpoint {name}")
        wanted = {_key(kept, number): number for number in range(kept.chunks)}
        chunks: list[bytes] = [b""] * kept.chunks
        try:
            with self._lock:
                for record in self._reader.read(Range(*self._place, kept.first, kept.next)):
                    number = wanted.get(record.key or b"")
                    if number is not None:
                        chunks[number] = record.value or b""
        except Gone as error:
            raise BadCheckpoint(f"{name} in {self._name}: {error}") from error
        data = b"".join(chunks)
        if len(data) != kept.size or _hash(data) != kept.blake2b:
            raise BadCheckpoint(f"{name} in {self._name}: {len(data)} bytes, not the {kept.size} written")
        return data

    def write(self, name: str, data: bytes | bytearray, drop: Sequence[str]) -> None:
        """As `Store.write`. Raises `Unreachable`; then the checkpoint may or may not be there."""
        before, behind = self._newest()
        unnamed, dead = self._unnamed(before, behind, name)
        blake2b = _hash(data)
        chunks = max(1, -(-len(data) // CHUNK_BYTES))
        new = _Kept(name, f"{name}.{blake2b[:16]}", chunks, 0, 0, len(data), blake2b)
        try:
            first, last = self._write_chunks(new, data)
            named = {new.prefix, *(kept.prefix for kept in before.kept)}
            self._bury([old for old in (*before.dropped, *dead) if old.prefix not in named])
            gone = {*drop, name}
            manifest = _Manifest(
                kept=[
                    *(kept for kept in before.kept if kept.name not in gone),
                    msgspec.structs.replace(new, first=first, next=last + 1),
                ],
                dropped=[
                    *(kept for kept in before.kept if kept.name in gone),
                    *(old for old in unnamed if old.prefix != new.prefix),
                ],
            )
            self._append([(_MANIFEST_KEY, msgspec.json.encode(manifest))])
        except ClientError as error:
            self._destroy()
            raise explained(self._bootstrap, f"writing checkpoint {name} to {self._name}", error) from error

    def close(self) -> None:
        """Close every client."""
        self._destroy()
        with self._lock:
            self._reader.close()

    def _manifest(self) -> _Manifest:
        return self._newest()[0]

    def _newest(self) -> tuple[_Manifest, Range]:
        """The last manifest that can be read, and what lies behind it: nothing, unless a writer died in the
        middle, or is at work.
        """
        tp = self._place
        with self._lock:
            if self._reader.partitions(tp[0]) <= tp[1]:
                raise ConfigError(
                    f"Kafka at {self._bootstrap} has no partition {self._name} for checkpoints. Was the "
                    "topic deleted? Make it with `streamlearn topics ensure`: what was saved in it is made "
                    "again from the journal."
                )
            start, end = self._reader.bounds(tp)
            record = self._reader.last(tp, start, end, lambda record: _manifest_in(record) is not None)
        manifest = None if record is None else _manifest_in(record)
        if record is None or manifest is None:
            return _Manifest(), Range(*tp, start, end)
        return manifest, Range(*tp, record.offset + 1, end)

    def _unnamed(self, before: _Manifest, behind: Range, name: str) -> tuple[list[_Kept], list[_Kept]]:
        """The chunks behind the last manifest, by checkpoint: those whose writer may live, and the others."""
        if behind.first >= behind.next:
            return [], []
        newest_ms: dict[str, int] = {}
        chunks: dict[str, int] = {}
        with self._lock:
            for record in self._reader.read(behind):
                prefix, _, number = (record.key or b"").decode(errors="replace").rpartition(".")
                if record.value is not None and number.isdigit() and len(number) < 6:
                    newest_ms[prefix] = max(newest_ms.get(prefix, 0), record.timestamp_ms)
                    chunks[prefix] = max(chunks.get(prefix, 0), int(number) + 1)
        now_ms = self._env.now() * 1e3
        found = [_Kept(name, prefix, count, 0, 0, 0, "") for prefix, count in chunks.items()]
        known = {kept.prefix for kept in (*before.kept, *before.dropped)}
        found = [old for old in found if old.prefix not in known]
        dead = [old for old in found if newest_ms[old.prefix] < now_ms - DEAD_MS]
        return [old for old in found if old not in dead], dead

    def _write_chunks(self, new: _Kept, data: bytes | bytearray) -> tuple[int, int]:
        """Append the chunks, a few at a time; returns the offsets of the first and the last."""
        offsets: list[int] = []
        for begin in range(0, new.chunks, _CHUNKS_IN_FLIGHT):
            numbers = range(begin, min(begin + _CHUNKS_IN_FLIGHT, new.chunks))
            offsets += self._append(
                [(_key(new, n), bytes(data[n * CHUNK_BYTES : (n + 1) * CHUNK_BYTES])) for n in numbers]
            )
        return offsets[0], offsets[-1]

    def _bury(self, dropped: Sequence[_Kept]) -> None:
        for old in dropped:
            self._append([(_key(old, number), None) for number in range(old.chunks)])

    def _append(self, rows: Sequence[tuple[bytes, bytes | None]]) -> list[int]:
        """Append and wait until every row is acknowledged; returns their offsets."""
        if self._producer is None:
            self._producer = self._client.producer(linger_ms=1000, batch_bytes=BATCH_BYTES)
        topic, partition = self._place
        return append(self._producer, topic, [Row(key, value, (), partition) for key, value in rows])

    def _destroy(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.destroy()


def _manifest_in(record: Record) -> _Manifest | None:
    """The manifest in a record; None in one that is something else, or junk under its key."""
    if record.key != _MANIFEST_KEY or record.value is None:
        return None
    try:
        return msgspec.json.decode(record.value, type=_Manifest)
    except (msgspec.MsgspecError, RecursionError) as error:
        log.warning("manifest.refused", offset=record.offset, reason=str(error), action="the one before it")
        return None


def _key(kept: _Kept, number: int) -> bytes:
    return f"{kept.prefix}.{number}".encode()


def _hash(data: bytes | bytearray) -> str:
    return hashlib.blake2b(data, digest_size=32).hexdigest()
