"""The nouns of the log: record, range, output, skip, entry, era; and the digest that chains entries.

Invariants:
- Everything here is a value. Nothing refers to a client, a clock or a file.
- An entry's bytes are a pure function of the records it covers: no wall clock, host or process id.
- `digest(entry n) = BLAKE2b-256(digest(entry n-1), outputs of n)`, so equal digests mean that every
  output since the genesis was equal, byte for byte.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from streamlearn.errors import Stop

SHARD: Final = 0
"""The one shard of a service, and its partition of the journal."""

TopicPartition = tuple[str, int]
RecordPlace = tuple[str, int, int]
"""Topic, partition and offset of a record."""

Positions = dict[TopicPartition, int]
"""The next offset to step, by topic and partition."""

Headers = tuple[tuple[str, bytes | None], ...]


ORDER_HEADER = "streamlearn.order"
"""In this header `replay` says in what order it sent records to several topics: microseconds since 1970, in
digits, never twice. It is not passed on.
"""

UNREADABLE_HEADER = "streamlearn.unreadable"
"""With this header, which says why, and an empty value the log hands out a record that it cannot read."""


def header_name(data: bytes) -> str:
    """The name of a header that was named by these bytes, which Kafka wants to be UTF-8 and does not check:
    others stand as surrogates, as Python has them in the names of files.

    >>> header_name_bytes(header_name(b"\\xff\\xfe"))
    b'\\xff\\xfe'
    """
    return data.decode("utf-8", "surrogateescape")


def header_name_bytes(name: str) -> bytes:
    """The inverse of `header_name`."""
    return name.encode("utf-8", "surrogateescape")


HEADER_BYTES: Final = 10
"""What a header takes beside its name and value, at most: two lengths as varints."""


def header_bytes(name: str, value: bytes | None) -> int:
    """The most that a header takes in a record."""
    return len(header_name_bytes(name)) + len(value or b"") + HEADER_BYTES


def headers_bytes(headers: Headers) -> int:
    """The most that all headers of a record take in it."""
    return sum(header_bytes(name, value) for name, value in headers)


class Record(msgspec.Struct, gc=False):
    """One Kafka record, as a reader of committed records sees it.

    Attributes:
        topic, partition, offset: The record's place in the log.
        timestamp_ms: Arrival or creation time in milliseconds since 1970, never the event time.
        key, value: The bytes; None for null. A null value is a tombstone.
        headers: Pairs of a name, as `header_name` makes it, and bytes or None.

    Example:
        >>> Record("events", 0, 17, 1_700_000_000_000, None, b"{}").place
        ('events', 0, 17)
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @property
    def place(self) -> RecordPlace:
        """Topic, partition and offset."""
        return self.topic, self.partition, self.offset


class Output(msgspec.Struct, gc=False):
    """One record to publish.

    Attributes:
        role: The topic's name in the configuration: `predictions`, `dlq`, `scores` or `alerts`.
        partition: The partition of the *source*; the adapter places the output on `partition mod n`.
        key, value: The bytes; None for null.
        headers: As in `Record`.

    Example:
        >>> output = Output("predictions", 0, None, b'{"prediction":true}')
        >>> chain(GENESIS, [output]) == chain(GENESIS, [output, output])
        False
    """

    role: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Range(NamedTuple):
    """A contiguous run of records: offsets `first <= offset < next` (Kafka may leave gaps inside).

    Attributes:
        topic, partition: The partition of the run.
        first: The offset of the first record.
        next: The offset after the last record.

    Example:
        >>> run = Range("events", 0, 10, 15)
        >>> run.next - run.first
        5
    """

    topic: str
    partition: int
    first: int
    next: int


CRASH_STAGE: Final = "crash"
"""The stage of a record that killed the process, wherever it did."""


class Skip(NamedTuple):
    """A record that made the model raise, so that it never reaches the model again, live or in redo.

    Attributes:
        topic, partition, offset: The record's place in the log.
        stage: The stage of its dead letter: `predict`, `learn`, `expire`, `decode` or `crash`.
        reason: The reason of its dead letter, one of `core.events.event.REASONS`.

    Example:
        >>> Skip("events", 0, 17, "learn", "raised").place
        ('events', 0, 17)
    """

    topic: str
    partition: int
    offset: int
    stage: str
    reason: str

    @property
    def place(self) -> RecordPlace:
        """Topic, partition and offset of the record."""
        return self.topic, self.partition, self.offset


class Predictions(NamedTuple):
    """The predictions topic at one moment: its name, its id, and the end offset of each partition."""

    topic: str
    id: str
    ends: list[int]


class Era(msgspec.Struct, frozen=True, omit_defaults=True):
    """A configuration epoch: everything that `step` depends on besides records, until the next era.

    Attributes:
        why: `genesis`, or what changed.
        config, config_hash: The part of the configuration that changes what a step does, and its hash.
        model_version: The hash of the model's structure, parameters and source.
        revision: The number of the model's revision; it grows when a model begins anew.
        versions: Versions of python, river, numpy, orjson and streamlearn, by name.
        topics: Id and number of partitions, by input topic.
        start: Topic, partition and first offset of each input partition that is new in this era.
        fingerprint: Known answers of this machine's floating point, see `core.model.fingerprint`.
        kinds: In older eras of `why` "types": feature types inferred from the first records.
        resets: The number of `reset-time` and `reset-label` commands that the state had applied.
        began_from: The sha256 of the checkpoint that the revision began from; "" for a fresh model.
        app, journal: The app whose journal this is, and the id of the journal's topic.
        predictions: The predictions topic when the inputs became those of `topics`; only later predictions
            are about them.
        ids: Ids of other topics that `start` has places in.

    Example:
        >>> genesis = Era("genesis", {}, "", "9f86d081", 1, {}, {"events": ("id", 1)}, [("events", 0, 0)], "")
        >>> entry = Entry(0, 0, GENESIS, change=genesis)
        >>> decode_entry(encode_entry(entry)) == entry
        True
    """

    why: str
    config: dict[str, object]
    config_hash: str
    model_version: str
    revision: int
    versions: dict[str, str]
    topics: dict[str, tuple[str, int]]
    start: list[tuple[str, int, int]]
    fingerprint: str
    kinds: dict[str, str] = {}
    resets: int = 0
    began_from: str = ""
    app: str = ""
    journal: str = ""
    predictions: Predictions | None = None
    ids: dict[str, str] = {}


class Checkpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """A checkpoint that an entry names: the state at entry `seq`, whose digest is `digest`, in `size` bytes
    with this SHA-256 (hex). `name` and `where` are the store's.
    """

    seq: int
    digest: str
    name: str
    size: int
    sha256: str
    where: str = ""


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """The record of one transaction in the journal, written inside that transaction.

    A label can be about more events than one transaction learns; `begun` and `carried` say how many.

    Attributes:
        seq: The number of the entry, from 0.
        era: The number of the era in force: how many eras began before it.
        digest: `chain` over the digest of the entry before and the outputs of this one, 64 hex digits.
        ranges: The records that were stepped, in the order in which they were applied.
        outputs: The number of outputs.
        skips: Records that were left out, each with its reason.
        change: The era that begins here; only in entry 0 (the genesis) and in each later era entry.
        carried: Events learned here, before `ranges`, for the last record of an earlier entry.
        begun: Events learned here for the last record of `ranges`, which was not finished.
        checkpoints: Every checkpoint that is kept from here on, oldest first; none where nothing changes
        about
            them.
        named: The newest entry, up to this one, that names checkpoints.

    Example:
        >>> entry = Entry(1, 0, chain(GENESIS, []), [Range("events", 0, 0, 200)], outputs=200)
        >>> encode_entry(entry)[:31]
        b'{"format":2,"seq":1,"era":0,"di'
    """

    seq: int
    era: int
    digest: str
    ranges: list[Range] = []
    outputs: int = 0
    skips: list[Skip] = []
    change: Era | None = None
    carried: int = 0
    begun: int = 0
    checkpoints: list[Checkpoint] = []
    named: int = 0

    @property
    def steps(self) -> bool:
        """True if the state after this entry is another one than before it."""
        return bool(self.ranges or self.carried or self.change)


ENTRY_FORMAT: Final = 2

_encoder = msgspec.json.Encoder()
_entry_decoder = msgspec.json.Decoder(Entry)
_attempt_decoder = msgspec.json.Decoder(RecordPlace)
_ENTRY_BEGINS: Final = b'{"format":%d,' % ENTRY_FORMAT


def encode_entry(entry: Entry) -> bytes:
    """The entry as it stands in the journal (JSON)."""
    return _ENTRY_BEGINS + _encoder.encode(entry)[1:]


def decode_entry(data: bytes) -> Entry:
    """The inverse of `encode_entry`. Raises `msgspec.MsgspecError` for no entry, `Stop` for another
    format.
    """
    entry = _entry_decoder.decode(data)
    found = ENTRY_FORMAT if data.startswith(_ENTRY_BEGINS) else msgspec.json.decode(data).get("format", 1)
    if found != ENTRY_FORMAT:
        raise Stop(
            f"entry {entry.seq} of the journal has format {found}, and this version of streamlearn reads and "
            f"writes format {ENTRY_FORMAT}. Go on with the version that wrote it; or begin a new journal "
            "where the predictions end: `streamlearn reset --start predictions`."
        )
    return entry


CLAIM_KEY: Final = b"claim"
"""The key of an owner's claim, written right after the fence: the end is the last entry before one's own."""
ATTEMPT_KEY: Final = b"attempt"
"""The key of an attempt: one record, by itself, is stepped next."""
RELEASE_KEY: Final = b"release"
"""The key of a release: an owner that wrote no entry has closed the shard in order."""

NOTE_KEYS: Final = frozenset((CLAIM_KEY, ATTEMPT_KEY, RELEASE_KEY))
"""The keys of what stands in a journal and is no entry. An entry has no key."""


def encode_claim(lock: str, epoch: int) -> bytes:
    """A claim's value, for people: which lock was taken, and its epoch."""
    return _encoder.encode({"claim": lock, "epoch": epoch})


def encode_attempt(place: RecordPlace) -> bytes:
    """An attempt's value: the record that is stepped next."""
    return _encoder.encode(place)


def journalled(record: Record) -> Entry | None:
    """The entry in a record of the journal; None for a note. Raises `msgspec.MsgspecError` for what is
    neither, `Stop` for an entry of another format.
    """
    return None if record.key in NOTE_KEYS else decode_entry(record.value or b"")


class Unfinished(NamedTuple):
    """What stands in a journal after its last entry: so many `claims` of owners that wrote no entry and did
    not close the shard in order, and how often they tried each record alone.
    """

    claims: int = 0
    attempts: Mapping[RecordPlace, int] = {}


def unfinished(notes: Iterable[tuple[bytes | None, bytes | None]]) -> Unfinished:
    """Fold the notes after the last entry, each its key and value, in their order."""
    claims = 0
    attempts: dict[RecordPlace, int] = {}
    for key, value in notes:
        if key == CLAIM_KEY:
            claims += 1
        elif key == RELEASE_KEY:
            claims = 0
            attempts.clear()
        elif key == ATTEMPT_KEY:
            place = _attempt_decoder.decode(value or b"")
            attempts[place] = attempts.get(place, 0) + 1
    return Unfinished(claims, attempts)


def _prefixed(field: bytes | None) -> bytes:
    return b"-" if field is None else b"%d:%b" % (len(field), field)


def chain(previous: str, outputs: Iterable[Output]) -> str:
    """The next digest of the journal after `previous`: BLAKE2b-256 over it and `outputs` in their order.

    Every field is length-prefixed and null is distinct from empty, so that no two different lists of
    outputs have the same preimage. Partition and timestamp are left out: they are placement, not content.

    Args:
        previous: The digest before, 64 hex digits; `GENESIS` before entry 0.
        outputs: The outputs of one entry.

    Returns:
        64 hex digits.

    Example:
        >>> output = Output("predictions", 3, None, b"{}")
        >>> chain(GENESIS, [output]) == chain(GENESIS, [Output("predictions", 4, None, b"{}")])
        True
    """
    return hashlib.blake2b(bytes.fromhex(previous) + preimage(outputs), digest_size=32).hexdigest()


def preimage(outputs: Iterable[Output]) -> bytes:
    """The bytes of outputs that `chain` hashes. Two lists joined have their preimages joined."""
    parts: list[bytes] = []
    for output in outputs:
        key, value, headers = output.key, output.value, output.headers
        if key is None and value is not None and not headers:  # most of them, in one go
            role = output.role
            parts.append(b"%d:%b-%d:%b0;" % (len(role), role.encode(), len(value), value))
            continue
        parts += (_prefixed(output.role.encode()), _prefixed(key), _prefixed(value), b"%d;" % len(headers))
        for name, content in headers:
            parts += (_prefixed(header_name_bytes(name)), _prefixed(content))
    return b"".join(parts)


GENESIS = hashlib.blake2b(b"streamlearn journal 1", digest_size=32).hexdigest()
"""The digest before entry 0."""
