"""The nouns of the journal: entry, era, checkpoint, note; and the digest that chains entries.

Invariants:
- What an entry says of records and outputs is a pure function of the records: no wall clock, host or process
  id. Which checkpoints it names is a matter of when they were durable, and is no part of the digest.
- `digest(entry n) = BLAKE2b-256(digest(entry n-1), outputs of n)`, so equal digests mean that every
  output since the genesis was equal, byte for byte.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from streamlearn.core.records import Output, Range, Record, RecordPlace, Skip, header_name_bytes
from streamlearn.core.turns import Turns, packed, unpacked
from streamlearn.errors import Stop


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
        warm_start_sha256: The sha256 of the checkpoint that the revision began from; "" for a fresh model.
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
    warm_start_sha256: str = ""
    app: str = ""
    journal: str = ""
    predictions: Predictions | None = None
    ids: dict[str, str] = {}


class Checkpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """A checkpoint that an entry names.

    Attributes:
        seq: The entry after which the state is this one.
        digest: The digest of that entry, 64 hex digits.
        name: The name of its bytes in the store.
        size: The number of its bytes.
        sha256: Their SHA-256, 64 hex digits.
        where: The store's own note of their place; "" in a store that needs none.

    Example:
        >>> Checkpoint(42, GENESIS, "000000000042-QX7a-0-9-1", 3, hashlib.sha256(b"abc").hexdigest()).seq
        42
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
            about them.
        named: The newest entry, up to this one, that names checkpoints.
        turns: In the journal, instead of `ranges`: the same where partitions take turns.

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
    turns: Turns | None = None

    @property
    def steps(self) -> bool:
        """True if the state after this entry is another one than before it."""
        return bool(self.ranges or self.carried or self.change)


ENTRY_FORMAT: Final = 2
TURNS_FORMAT: Final = 3
"""The format of an entry with `turns`, which older versions of streamlearn must not read past."""

_encoder = msgspec.json.Encoder()
_entry_decoder = msgspec.json.Decoder(Entry)
_attempt_decoder = msgspec.json.Decoder(RecordPlace)
_BEGINS: Final = {number: b'{"format":%d,' % number for number in (ENTRY_FORMAT, TURNS_FORMAT)}


def encode_entry(entry: Entry) -> bytes:
    """The entry as it stands in the journal (JSON)."""
    turns = packed(entry.ranges)
    if turns is None:
        return _BEGINS[ENTRY_FORMAT] + _encoder.encode(entry)[1:]
    return _BEGINS[TURNS_FORMAT] + _encoder.encode(msgspec.structs.replace(entry, ranges=[], turns=turns))[1:]


def decode_entry(data: bytes) -> Entry:
    """The inverse of `encode_entry`. Raises `msgspec.MsgspecError` for no entry, `Stop` for another
    format.
    """
    entry = _entry_decoder.decode(data)
    if not data.startswith(_BEGINS[ENTRY_FORMAT]):
        entry_format = msgspec.json.decode(data).get("format", 1)
        if entry_format not in _BEGINS:
            formats = f"formats {ENTRY_FORMAT} and {TURNS_FORMAT}"
            raise Stop(
                f"entry {entry.seq} of the journal has format {entry_format}, and this streamlearn "
                f"reads and writes {formats}. Go on with the version that wrote it; or begin a new journal "
                "where the predictions end: `streamlearn reset --start predictions`."
            )
    if entry.turns is None:
        return entry
    return msgspec.structs.replace(entry, ranges=unpacked(entry.turns), turns=None)


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
