"""Checkpoints in a compacted topic: chunks, then the catalog of what lies there.

A shard's checkpoints lie in partition `shard`. A write appends the chunks of the blob, each under a key of
its own, then the catalog: the name, the chunks and the offsets of every blob that is known to lie there. To
forget blobs is to append tombstones for their chunks, then the catalog without them.

Invariants:
- Nothing here says which blobs count: the journal names them, with the offsets at which they lie (`where`).
  So whoever overwrites the catalog, as a writer that was paused may, hides nothing that counts.
- The catalog is for those who list what is there, and for sweeping. A blob that lies behind the last catalog,
  because its writer died or is at work, is listed too; reading one that is not whole is `BadCheckpoint`.
- The store holds no state between calls: it reads the last catalog anew. It has its own clients, and one
  lock, so that a writer's thread may use it beside the loop.
"""

import re
import threading
from collections.abc import Mapping, Sequence

import msgspec
import structlog

from streamlearn.core.records import Range, Record
from streamlearn.env import Env
from streamlearn.errors import BadCheckpoint, ConfigError, Gone
from streamlearn.log.kafka import new_client
from streamlearn.log.kafka.admin import append
from streamlearn.log.kafka.client import BATCH_BYTES, Acknowledged, ClientError, PlainProducer
from streamlearn.log.kafka.errors import explained
from streamlearn.log.kafka.reader import RecordReader
from streamlearn.log.port import ProducerRecord

log = structlog.get_logger()

CHUNK_BYTES = 512 * 1024
_CHUNKS_IN_FLIGHT = 16
_CATALOG_KEY = b"catalog"


class _Blob(msgspec.Struct, frozen=True):
    """A blob: its chunks are the records keyed `<name>.<number>` in offsets `first..next - 1`."""

    name: str
    chunks: int
    first: int
    next: int

    @property
    def where(self) -> str:
        """As the journal notes it."""
        return f"{self.first}-{self.next}/{self.chunks}"


class _Catalog(msgspec.Struct, frozen=True):
    blobs: list[_Blob] = []
    format: int = 2


class TopicStore:
    """`Blobs` in partition `shard` of `topic`. Connects when first used."""

    def __init__(self, env: Env, bootstrap: str, options: Mapping[str, str], topic: str, shard: int) -> None:
        self._bootstrap = bootstrap
        self._client = new_client(env, bootstrap, options)
        self._place = (topic, shard)
        self._name = f"{topic}-{shard}"
        self._lock = threading.Lock()
        self._reader = RecordReader(env, self._client, wait_ms=20)
        self._producer: PlainProducer | None = None

    def names(self) -> list[str]:
        """As `Blobs.names`."""
        return sorted(self._listed())

    def read(self, name: str, where: str = "") -> bytes:
        """As `Blobs.read`."""
        blob = _placed(name, where) or self._listed().get(name)
        if blob is None:
            raise BadCheckpoint(f"{self._name} has no checkpoint {name}")
        try:
            chunks = self._chunks(blob)
        except Gone as error:
            raise BadCheckpoint(f"{name} in {self._name}: {error}") from error
        if len(chunks) < blob.chunks:
            missing = blob.chunks - len(chunks)
            raise BadCheckpoint(
                f"{name} in {self._name}: {missing} of its {blob.chunks} chunks are not there"
            )
        return b"".join(chunks[number] for number in range(blob.chunks))

    def _chunks(self, blob: _Blob) -> dict[int, bytes]:
        """The chunks of a blob that are there, by number. Raises `Gone`."""
        numbers = {_key(blob.name, number): number for number in range(blob.chunks)}
        chunks: dict[int, bytes] = {}
        with self._lock:
            self._check_exists()
            for record in self._reader.read(Range(*self._place, blob.first, blob.next)):
                number = numbers.get(record.key or b"")
                if number is not None and record.value is not None:
                    chunks[number] = record.value
        return chunks

    def write(self, name: str, data: bytes | bytearray) -> str:
        """As `Blobs.write`. Raises `Unreachable`; then the blob may or may not be there."""
        before = self._listed()
        chunks = max(1, -(-len(data) // CHUNK_BYTES))
        try:
            first, last = self._write_chunks(name, chunks, data)
            blob = _Blob(name, chunks, first, last + 1)
            self._append_catalog({**before, name: blob})
        except ClientError as error:
            self._destroy()
            raise explained(self._bootstrap, f"writing checkpoint {name} to {self._name}", error) from error
        return blob.where

    def forget(self, blobs: Mapping[str, str]) -> None:
        """As `Blobs.forget`."""
        before = self._listed()
        targets = [before.get(name) or _placed(name, where) for name, where in blobs.items()]
        try:
            for blob in filter(None, targets):
                self._append([(_key(blob.name, number), None) for number in range(blob.chunks)])
            if not blobs.keys().isdisjoint(before):
                self._append_catalog({name: blob for name, blob in before.items() if name not in blobs})
        except ClientError as error:
            self._destroy()
            raise explained(self._bootstrap, f"deleting checkpoints of {self._name}", error) from error

    def close(self) -> None:
        """Close every client."""
        self._destroy()
        with self._lock:
            self._reader.close()

    def _check_exists(self) -> None:
        if self._reader.partitions(self._place[0]) <= self._place[1]:
            raise ConfigError(
                f"Kafka at {self._bootstrap} has no partition {self._name} for checkpoints. Was the "
                "topic deleted? Make it with `streamlearn topics ensure`: what was saved in it is made "
                "again from the journal."
            )

    def _listed(self) -> dict[str, _Blob]:
        """The blobs of the last catalog that can be read, and those behind it, which may be there in part."""
        tp = self._place
        with self._lock:
            self._check_exists()
            start, end = self._reader.bounds(tp)
            record = self._reader.last(tp, start, end, lambda record: _catalog_in(record) is not None)
            catalog = None if record is None else _catalog_in(record)
            listing = {} if catalog is None else {blob.name: blob for blob in catalog.blobs}
            behind = start if record is None else record.offset + 1
            return {**self._behind(Range(*tp, behind, end)), **listing}

    def _behind(self, run: Range) -> dict[str, _Blob]:
        listing: dict[str, _Blob] = {}
        if run.first < run.next:
            for record in self._reader.read(run):
                name, _, number = (record.key or b"").decode(errors="replace").rpartition(".")
                if name and record.value is not None and number.isdigit() and len(number) < 6:
                    before = listing.get(name, _Blob(name, 0, record.offset, 0))
                    chunks = max(before.chunks, int(number) + 1)
                    listing[name] = _Blob(name, chunks, before.first, record.offset + 1)
        return listing

    def _write_chunks(self, name: str, chunks: int, data: bytes | bytearray) -> tuple[int, int]:
        """Append the chunks, a few at a time; returns the offsets of the first and the last."""
        flushes = []
        for begin in range(0, chunks, _CHUNKS_IN_FLIGHT):
            numbers = range(begin, min(begin + _CHUNKS_IN_FLIGHT, chunks))
            flushes.append(
                self._append(
                    [(_key(name, n), bytes(data[n * CHUNK_BYTES : (n + 1) * CHUNK_BYTES])) for n in numbers]
                )
            )
        return flushes[0].first, flushes[-1].last

    def _append_catalog(self, blobs: Mapping[str, _Blob]) -> None:
        self._append([(_CATALOG_KEY, msgspec.json.encode(_Catalog([*blobs.values()])))])

    def _append(self, contents: Sequence[tuple[bytes, bytes | None]]) -> Acknowledged:
        """Append and wait until each is acknowledged."""
        if self._producer is None:
            self._producer = self._client.producer(linger_ms=1000, batch_bytes=BATCH_BYTES)
        topic, partition = self._place
        rows = [ProducerRecord(key, value, (), partition) for key, value in contents]
        return append(self._producer, topic, rows)[self._place]

    def _destroy(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.destroy()


def _catalog_in(record: Record) -> _Catalog | None:
    """The catalog in a record; None in one that is something else, or junk under its key."""
    if record.key != _CATALOG_KEY or record.value is None:
        return None
    try:
        return msgspec.json.decode(record.value, type=_Catalog)
    except (msgspec.MsgspecError, RecursionError) as error:
        log.warning("catalog.refused", offset=record.offset, reason=str(error), action="the one before it")
        return None


def _placed(name: str, where: str) -> _Blob | None:
    """The blob that lies at `where`, in the words of `_Blob.where`; None for other words."""
    match = re.fullmatch(r"(\d{1,18})-(\d{1,18})/(\d{1,5})", where)
    return _Blob(name, int(match[3]), int(match[1]), int(match[2])) if match else None


def _key(name: str, number: int) -> bytes:
    return f"{name}.{number}".encode()
