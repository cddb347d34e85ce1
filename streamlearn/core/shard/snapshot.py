"""A shard's state as bytes, and back: the checkpoint format.

    magic (8) | header length (4, big endian) | header (JSON) | seal (32) | payload (zstd)

The header says where the state stands (`seq`, `digest`, positions), under which era and versions, and
lists the sections of the payload, each with its length and hash. The seal covers everything before and
after it: SHA-256, or HMAC-SHA-256 when a key is set.

Invariants:
- Nothing is decompressed before the seal, and nothing unpickled before the sections' hashes, are found
  right; a checkpoint that is off in any way is refused with its reason (`BadCheckpoint`).
- A model's pickle is opened by `core.model.pickles`, which runs nothing that it reads.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
import zstandard

from streamlearn.core.journal import Era
from streamlearn.core.labels.joiner import LabelJoiner
from streamlearn.core.model.learner import Learner
from streamlearn.core.model.pickles import dump_model, load_model, trusted_by
from streamlearn.core.records import Positions
from streamlearn.core.scores.scores import Scores
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.state import Memory, ShardSpec
from streamlearn.core.shard.work import dump_work, load_work
from streamlearn.errors import BadCheckpoint

__all__ = ["dump_model", "load_model", "trusted_by"]  # and all that is below

MAGIC: Final = b"STRMLRN1"
MAX_STATE_BYTES: Final = 4 << 30
FREE_STATE_BYTES: Final = 64 << 20
MAX_RATIO: Final = 200
"""A state may take `FREE_STATE_BYTES`, or so many times the size of its file. Models take 3 to 20 times."""

MAX_COUNT: Final = 1 << 63

FORMAT: Final = 2
"""The one format that is written and read."""


class StateSection(msgspec.Struct, frozen=True):
    """One part of the state inside the payload. `format`: see `StatePart`."""

    name: str
    size: int
    hash: str
    format: int = 0


class Header(msgspec.Struct, frozen=True):
    """Where a checkpoint stands, and the era that holds there. `positions`: (topic, partition, next); `ids`:
    of the topics that positions are in, by name.
    """

    seq: int
    digest: str
    era: int
    under: Era
    positions: list[tuple[str, int, int]]
    learned: int
    app: str = ""
    sections: list[StateSection] = []
    sealed: str = "sha256"
    format: int = 0
    ids: dict[str, str] = {}

    def next_offsets(self) -> Positions:
        """The positions as the loop holds them."""
        return {(topic, partition): offset for topic, partition, offset in self.positions}

    def topic_ids(self) -> dict[str, str]:
        """The ids of the topics that the positions are in, as far as they are known."""
        return {**{name: ident for name, (ident, _) in self.under.topics.items()}, **self.ids}


Sections = Mapping[str, bytes | Sequence[bytes]]
"""The parts of a state by name. A large one comes in pieces that the state goes on referring to."""


class StatePart(NamedTuple):
    """A part of a state. `format` grows when its bytes change their meaning: a checkpoint with another one is
    refused by name. `dump`: its bytes in a state; None where the state has no such part. `is_side`: it is
    neither the model nor the memory.
    """

    name: str
    format: int
    dump: Callable[[Shard], bytes | Sequence[bytes] | None]
    is_side: bool = True


def _dump_untaught(shard: Shard) -> bytes | None:
    return None if shard.learner.untaught is None else dump_model(shard.learner.untaught)


PARTS: Final = (
    StatePart("model", 1, lambda shard: dump_model(shard.learner.model), is_side=False),
    StatePart("memory", 1, lambda shard: msgspec.json.encode(shard.memory), is_side=False),
    StatePart("untaught", 1, _dump_untaught, is_side=False),
    StatePart("scores", 1, lambda shard: None if shard.scores is None else shard.scores.dump()),
    StatePart("labels", 1, lambda shard: None if shard.joiner is None else shard.joiner.dump()),
    StatePart("work", 1, lambda shard: dump_work(shard.work)),
)
"""Every part that a state can have. What is new registers here, and says in `assembled` how it is loaded."""
_FORMATS: Final = {part.name: part.format for part in PARTS}


def dump_state(shard: Shard) -> dict[str, bytes | Sequence[bytes]]:
    """The sections of a state. Raises whatever pickling the model raises."""
    return {part.name: data for part in PARTS if (data := part.dump(shard)) is not None}


def fresh_state(model: bytes, memory: Memory | None = None) -> dict[str, bytes]:
    """The sections of a state that has nothing but a pickled model and a memory, by default an empty one."""
    return {"model": model, "memory": msgspec.json.encode(memory or Memory())}


def load_state(spec: ShardSpec, sections: Sections, trusted: frozenset[str]) -> Shard:
    """A shard by the rules of `spec` where `dump_state` stood. `trusted`: see `trusted_by`. A section that is
    not there, as in older checkpoints, begins fresh; one that `spec` has no use for is dropped.

    Raises `BadCheckpoint`.
    """
    memory = load_memory(sections)
    return assembled(spec, load_learner(sections, trusted, spec.horizon), memory, sections)


def load_learner(sections: Sections, trusted: frozenset[str], horizon: int = 1) -> Learner:
    """The model of a checkpoint, as a learner. Raises `BadCheckpoint`."""
    model = load_model(_whole(sections, "model"), trusted)
    try:
        learner = Learner(model, horizon)
        if "untaught" in sections:
            learner.untaught = load_model(_whole(sections, "untaught"), trusted)
            if Learner(learner.untaught, horizon).task != learner.task:
                raise ValueError("it was another one before its first label")
        return learner
    except BadCheckpoint:
        raise
    except Exception as error:  # it may be no model at all, and is asked for whatever a model has
        raise BadCheckpoint(f"its model is none: {type(error).__name__}: {error}") from error


def carried(shard: Shard, spec: ShardSpec) -> Shard:
    """The state of `shard` under other rules; the model and the memory are the same objects."""
    return assembled(spec, shard.learner, shard.memory, side_parts(shard))


def side_parts(shard: Shard) -> dict[str, bytes | Sequence[bytes]]:
    """The sections that are neither the model nor the memory."""
    return {part.name: data for part in PARTS if part.is_side and (data := part.dump(shard)) is not None}


def assembled(spec: ShardSpec, learner: Learner, memory: Memory, sections: Sections) -> Shard:
    """A shard of these parts; `sections` are the others, as `side_parts` has them. Raises `BadCheckpoint`."""
    try:
        scores = joiner = work = None
        if spec.scores is not None and "scores" in sections:
            scores = Scores.load(spec.scores, learner.task, _whole(sections, "scores"))
        if spec.labels is not None and "labels" in sections:
            joiner = LabelJoiner(spec.labels, spec.event.time_as)
            joiner.load(_whole(sections, "labels"), spec.scores is None or "scores" in sections)
        if "work" in sections:
            work = load_work(_whole(sections, "work"))
        return Shard(spec, learner, memory, scores, joiner, work)
    except Exception as error:  # they may say anything at all, and are taken at their word
        raise BadCheckpoint(f"its scores or pending events cannot be read: {error}") from error


def _whole(sections: Sections, name: str) -> bytes:
    section = sections.get(name)
    if section is None:
        raise BadCheckpoint(f"the section {name!r} is missing")
    return section if isinstance(section, bytes) else b"".join(section)


def load_memory(sections: Sections) -> Memory:
    """The part of a state that is not the model. Raises `BadCheckpoint`."""
    try:
        memory = msgspec.json.decode(_whole(sections, "memory"), type=Memory)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadCheckpoint(f"its memory section cannot be read: {error}") from error
    counts = [
        memory.records,
        memory.learned,
        memory.failing,
        memory.resets,
        memory.recent_next,
        *memory.outcomes.values(),
    ]
    counts += [*memory.label_votes.values(), *(one for votes in memory.time_votes.values() for one in votes)]
    if not all(0 <= count < MAX_COUNT for count in counts):
        raise BadCheckpoint("its memory section counts less than nothing, or more than can be")
    for leads, votes in ((memory.time_unit, memory.time_votes), (memory.label_type, memory.label_votes)):
        if votes and leads not in votes:
            raise BadCheckpoint("its memory section has evidence that does not agree with itself")
    return memory


def seal(header: Header, sections: Sections, key: bytes = b"") -> bytearray:
    """A whole checkpoint. Hashing and compressing free the interpreter, so a writer thread can do this; what
    is copied is copied piece by piece, because one copy of a hundred megabytes holds up all threads.
    """
    pieces = {name: [part] if isinstance(part, bytes) else part for name, part in sections.items()}
    table = [_entry(name, parts) for name, parts in pieces.items()]
    kind = "hmac-sha256" if key else "sha256"
    header = msgspec.structs.replace(header, sections=table, sealed=kind, format=FORMAT)
    head = msgspec.json.encode(header)
    prefix = MAGIC + len(head).to_bytes(4, "big") + head
    compressor = zstandard.ZstdCompressor(level=1).compressobj(size=sum(one.size for one in table))
    payload = [compressor.compress(part) for parts in pieces.values() for part in parts]
    payload.append(compressor.flush())
    parts = [prefix, _seal([prefix, *payload], key), *payload]
    whole = bytearray()
    for part in parts:
        whole += part
    return whole


def _entry(name: str, parts: Sequence[bytes]) -> StateSection:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return StateSection(name, sum(map(len, parts)), digest.hexdigest(), _FORMATS[name])


def open_header(data: bytes | bytearray, key: bytes = b"") -> Header:
    """The header of a checkpoint whose seal holds. Raises `BadCheckpoint`."""
    return _unseal(data, key)[0]


def unseal(data: bytes | bytearray, key: bytes = b"") -> tuple[Header, dict[str, bytes]]:
    """Header and sections of a checkpoint that is whole. Raises `BadCheckpoint` with the reason."""
    header, payload = _unseal(data, key)
    total = sum(section.size for section in header.sections)
    limit = min(MAX_STATE_BYTES, max(FREE_STATE_BYTES, MAX_RATIO * len(payload)))
    if total > limit:
        raise BadCheckpoint(f"it claims a state of {total:,} bytes, over its limit of {limit:,}")
    try:
        size = zstandard.frame_content_size(payload)
        if size != total:  # asked before decompressing: a few bytes can become a great many
            raise BadCheckpoint(f"its payload has {size:,} bytes and its sections claim {total:,}")
        plain = zstandard.ZstdDecompressor().decompress(payload)
    except zstandard.ZstdError as error:
        raise BadCheckpoint("its payload does not decompress") from error
    sections: dict[str, bytes] = {}
    at = 0
    for section in header.sections:
        part = plain[at : at + section.size]
        at += section.size
        if hashlib.blake2b(part, digest_size=16).hexdigest() != section.hash:
            raise BadCheckpoint(f"its section {section.name!r} does not have the hash of its header")
        sections[section.name] = part
    return header, sections


def _seal(pieces: Sequence[bytes], key: bytes) -> bytes:
    digest = hmac.new(key, digestmod="sha256") if key else hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.digest()


def _unseal(data: bytes | bytearray, key: bytes) -> tuple[Header, bytes]:
    if not data.startswith(MAGIC):
        raise BadCheckpoint("it does not begin as a streamlearn checkpoint does")
    end = len(MAGIC) + 4 + int.from_bytes(data[len(MAGIC) : len(MAGIC) + 4], "big")
    prefix, found, payload = bytes(data[:end]), data[end : end + 32], bytes(data[end + 32 :])
    if len(found) != 32:
        raise BadCheckpoint("it is cut short")
    if not hmac.compare_digest(_seal([prefix, payload], key), found):
        raise BadCheckpoint(
            "its seal does not hold: it was damaged, changed, or written with another [checkpoint] key"
        )
    try:
        header = msgspec.json.decode(prefix[len(MAGIC) + 4 :], type=Header)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadCheckpoint(f"its header cannot be read: {error}") from error
    if fault := _fault(header):
        raise BadCheckpoint(f"its header says {fault}")
    return header, payload


def _fault(header: Header) -> str:
    """Why a header that is well formed cannot be true, or is none of this format; "" when it can."""
    if header.format != FORMAT:
        return (
            f"format {header.format}, and this version of streamlearn reads format {FORMAT}: use the version "
            "that wrote it, or begin with a model that is trained anew"
        )
    numbers = {"seq": header.seq, "era": header.era, "learned": header.learned}
    for name, number in numbers.items():
        if not 0 <= number < MAX_COUNT:
            return f"{name} {number:.3g}"
    if not re.fullmatch(r"[0-9a-f]{64}", header.digest):
        return f"a digest of {header.digest[:80]!r}"
    for topic, partition, offset in header.positions:
        if not (0 <= partition < MAX_COUNT and 0 <= offset < MAX_COUNT):
            return f"position {offset} of {topic}-{partition}"
    if len(header.next_offsets()) != len(header.positions):
        return "two positions of one partition"
    if any(not 0 <= section.size < MAX_COUNT for section in header.sections):
        return "a section of less than nothing"
    for section in header.sections:
        if section.format != (known := _FORMATS.get(section.name, -1)):
            reads = f"it reads format {known}" if known >= 0 else "it knows no such part"
            return f"a part {section.name!r} of format {section.format}, and of this version that {reads}"
    if len({section.name for section in header.sections}) != len(header.sections):
        return "one section twice"
    return ""
