"""A shard's state as bytes, and back: the checkpoint format.

    magic (8) | header length (4, big endian) | header (JSON) | seal (32) | payload (zstd)

The header says where the state stands (`seq`, `digest`, positions), under which era and versions, and
lists the sections of the payload, each with its length and hash. The seal covers everything before and
after it: SHA-256, or HMAC-SHA-256 when a key is set.

Invariants:
- Nothing is decompressed before the seal, and nothing unpickled before the sections' hashes, are found
  right; a checkpoint that is off in any way is refused with its reason (`BadCheckpoint`).
- The unpickler makes only what river's models are made of, and the classes of the user's own model.
- Loading continues exactly where dumping stood: 90 % of a tree's plain pickle is random generators
  inside its Gaussians which nothing draws from, and those alone are left out.
"""

import hashlib
import hmac
import io
import pickle
import random
import types
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import zstandard

from streamlearn.core.learner import Learner
from streamlearn.core.records import Era, Positions
from streamlearn.core.scores import Scores
from streamlearn.core.shard import Shard
from streamlearn.core.state import Memory, ShardSpec
from streamlearn.core.work import load_work, work_part
from streamlearn.errors import BadCheckpoint

MAGIC: Final = b"STRMLRN1"
MAX_STATE_BYTES: Final = 4 << 30


class Section(msgspec.Struct, frozen=True):
    """One part of the state inside the payload."""

    name: str
    size: int
    hash: str


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
    sections: list[Section] = []
    sealed: str = "sha256"
    format: int = 1
    ids: dict[str, str] = {}

    def next_offsets(self) -> Positions:
        """The positions as the loop holds them."""
        return {(topic, partition): offset for topic, partition, offset in self.positions}

    def topic_ids(self) -> dict[str, str]:
        """The ids of the topics that the positions are in, as far as they are known."""
        return {**{name: ident for name, (ident, _) in self.under.topics.items()}, **self.ids}


Sections = Mapping[str, bytes | Sequence[bytes]]
"""The parts of a state by name. A large one comes in pieces that the state goes on referring to."""


def dump_state(shard: Shard) -> dict[str, bytes | Sequence[bytes]]:
    """The sections of a state. Raises whatever pickling the model raises."""
    sections = {"champion": dump_model(shard.learner.model), "memory": msgspec.json.encode(shard.memory)}
    return {**sections, **side_parts(shard)}


def load_state(spec: ShardSpec, sections: Sections, trusted: frozenset[str]) -> Shard:
    """A shard by the rules of `spec` where `dump_state` stood. `trusted`: see `trusted_by`. A section that is
    not there, as in older checkpoints, begins fresh; one that `spec` has no use for is dropped.

    Raises `BadCheckpoint`.
    """
    learner = Learner(load_model(_whole(sections, "champion"), trusted))
    return _with_side_parts(spec, learner, load_memory(sections), sections)


def carried(shard: Shard, spec: ShardSpec) -> Shard:
    """The state of `shard` under other rules; the model and the memory are the same objects."""
    return _with_side_parts(spec, shard.learner, shard.memory, side_parts(shard))


def side_parts(shard: Shard) -> dict[str, bytes | Sequence[bytes]]:
    """The sections that are neither the model nor the memory."""
    parts: dict[str, bytes | Sequence[bytes]] = {}
    if shard.scores is not None:
        parts["scores"] = shard.scores.dump()
    if shard.late is not None:
        parts["pending"] = shard.late.dump()
    parts |= work_part(shard.work)
    return parts


def _with_side_parts(spec: ShardSpec, learner: Learner, memory: Memory, sections: Sections) -> Shard:
    shard = Shard(spec, learner, memory)
    try:
        if spec.scores is not None and "scores" in sections:
            shard.scores = Scores.load(spec.scores, learner.task, _whole(sections, "scores"))
        if shard.late is not None and "pending" in sections:
            shard.late.load(_whole(sections, "pending"), spec.scores is None or "scores" in sections)
        if "work" in sections:
            shard.work = load_work(_whole(sections, "work"))
    except (ValueError, TypeError, msgspec.MsgspecError) as error:
        raise BadCheckpoint(f"its scores or pending events cannot be read: {error}") from error
    return shard


def _whole(sections: Sections, name: str) -> bytes:
    section = sections.get(name)
    if section is None:
        raise BadCheckpoint(f"the section {name!r} is missing")
    return section if isinstance(section, bytes) else b"".join(section)


def load_memory(sections: Sections) -> Memory:
    """The part of a state that is not the model. Raises `BadCheckpoint`."""
    try:
        return msgspec.json.decode(_whole(sections, "memory"), type=Memory)
    except msgspec.MsgspecError as error:
        raise BadCheckpoint(f"its memory section cannot be read: {error}") from error


def seal(header: Header, sections: Sections, key: bytes = b"") -> bytearray:
    """A whole checkpoint. Hashing and compressing free the interpreter, so a writer thread can do this; what
    is copied is copied piece by piece, because one copy of a hundred megabytes holds up all threads.
    """
    pieces = {name: [part] if isinstance(part, bytes) else part for name, part in sections.items()}
    table = [_entry(name, parts) for name, parts in pieces.items()]
    header = msgspec.structs.replace(header, sections=table, sealed="hmac-sha256" if key else "sha256")
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


def _entry(name: str, parts: Sequence[bytes]) -> Section:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return Section(name, sum(map(len, parts)), digest.hexdigest())


def open_header(data: bytes | bytearray, key: bytes = b"") -> Header:
    """The header of a checkpoint whose seal holds. Raises `BadCheckpoint`."""
    return _unseal(data, key)[0]


def unseal(data: bytes | bytearray, key: bytes = b"") -> tuple[Header, dict[str, bytes]]:
    """Header and sections of a checkpoint that is whole. Raises `BadCheckpoint` with the reason."""
    header, payload = _unseal(data, key)
    total = sum(section.size for section in header.sections)
    if total > MAX_STATE_BYTES:
        raise BadCheckpoint(f"it claims a state of {total:,} bytes, over the limit of {MAX_STATE_BYTES:,}")
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
        return msgspec.json.decode(prefix[len(MAGIC) + 4 :], type=Header), payload
    except msgspec.MsgspecError as error:
        raise BadCheckpoint(f"its header cannot be read: {error}") from error


# --- the model's pickle -------------------------------------------------------------------------------

_UNUSED_RNG: Final = random.Random(0)
_BUILTINS: Final = frozenset(
    (
        *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "iter"),
        *("list", "object", "range", "set", "slice", "str", "tuple"),
    )
)
_ALLOWED: Final = frozenset(
    {
        ("collections", "Counter"),
        ("collections", "OrderedDict"),
        ("collections", "defaultdict"),
        ("collections", "deque"),
        ("copy", "deepcopy"),
        ("copyreg", "_reconstructor"),
        ("copyreg", "__newobj__"),
        ("datetime", "date"),
        ("datetime", "datetime"),
        ("datetime", "timedelta"),
        ("datetime", "timezone"),
        ("decimal", "Decimal"),
        ("fractions", "Fraction"),
        ("functools", "partial"),
        ("random", "Random"),
        ("re", "_compile"),
        ("sortedcontainers.sortedlist", "SortedList"),
        ("sortedcontainers.sorteddict", "SortedDict"),
        ("statistics", "NormalDist"),
        ("streamlearn.features.gaps", "LastKnown"),
        ("streamlearn.features.labels", "SortedLabels"),
        ("streamlearn.features.rehearse", "Rehearsal"),
        ("streamlearn.features.scale", "SteadyScaler"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"),
        ("numpy.random._generator", "Generator"),
        ("numpy.random._mt19937", "MT19937"),
        ("numpy.random._pcg64", "PCG64"),
        ("numpy.random._pickle", "__bit_generator_ctor"),
        ("numpy.random._pickle", "__generator_ctor"),
        ("numpy.random._pickle", "__randomstate_ctor"),
        ("numpy.random.bit_generator", "SeedSequence"),
        ("numpy.random.mtrand", "RandomState"),
    }
)
_NO_PARTS_OF_MODELS: Final = frozenset(("checks", "datasets", "evaluate", "stream"))
"""Parts of river that no model holds; some of them read files, unpickle what they read, or download."""


def blank_distribution(cls: Any) -> Any:
    """A `river.proba` distribution without its state, whose generator nothing draws from."""
    blank = cls.__new__(cls)
    blank._rng = _UNUSED_RNG
    return blank


def set_attributes(obj: Any, state: Mapping[str, Any]) -> None:
    """Restore a state attribute by attribute, as `__init__` would have set it.

    CPython keeps attributes set so inside the object; those that unpickling puts into `__dict__` are
    slower to reach, and a restored scaler with a linear model is 11 % slower than a fresh one.
    """
    if not type(obj).__module__.startswith(_SET_SINGLY):
        raise BadCheckpoint(f"it sets attributes of a {type(obj).__qualname__}, which is not allowed")
    for name, value in state.items():
        object.__setattr__(obj, name, value)


_SET_SINGLY: Final = (
    *("river.anomaly.", "river.compose.", "river.facto.", "river.feature_extraction.", "river.linear_model."),
    *("river.multiclass.", "river.naive_bayes.", "river.optim.", "river.preprocessing."),
)
"""Where a model has few objects that are reached at every event. Trees have many, and dump and load count."""


class _SlimPickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        module = type(obj).__module__
        if module == "river.proba.gaussian" and getattr(obj, "seed", 0) is None:
            state = {name: value for name, value in vars(obj).items() if name != "_rng"}
            return blank_distribution, (type(obj),), state
        if module.startswith(_SET_SINGLY) and not isinstance(obj, type) and not hasattr(obj, "__setstate__"):
            reduced = obj.__reduce_ex__(4)
            if isinstance(reduced, tuple) and len(reduced) > 2 and type(reduced[2]) is dict:
                return (*reduced, *[None] * (5 - len(reduced)), set_attributes)
        return NotImplemented


def dump_model(model: Any) -> bytes:
    """The model's slim pickle. Raises what pickling raises, for example on a lambda."""
    buffer = io.BytesIO()
    _SlimPickler(buffer, protocol=5).dump(model)
    return buffer.getvalue()


class _Collector(pickle.Unpickler):
    """Notes what a pickle asks for. Only for bytes that this process has just made itself."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.asked: dict[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        found = self.asked[module, name] = super().find_class(module, name)
        return found


def trusted_by(fresh: bytes) -> frozenset[str]:
    """What a checkpoint of this model may ask for besides river, from the model's own fresh pickle.

    A package that defines an estimator of the model is the user's own and trusted whole (its name stands
    in the set), because a model that has learned may hold classes that a fresh one does not. From all
    others, the standard library and numpy among them, only the very objects the fresh model holds
    (`module:name`).
    """
    from river.base import Base

    collector = _Collector(fresh)
    collector.load()
    trusted: set[str] = set()
    for (module, name), found in collector.asked.items():
        package = module.split(".", maxsplit=1)[0]
        if package in ("river", "streamlearn", "builtins"):
            continue
        own = isinstance(found, type) and issubclass(found, Base)
        trusted.add(package if own else f"{module}:{name}")
    return frozenset(trusted)


def _safe_getattr(owner: Any, name: str) -> Any:
    """What a pickled bound method needs: for river's classes alone, and the draw that `KMeans` keeps."""
    cls = owner if isinstance(owner, type) else type(owner)
    if type(owner) is random.Random and name == "gauss":
        return owner.gauss
    if name.startswith("__") or cls.__module__.split(".")[0] != "river":
        raise BadCheckpoint(f"it asks for {cls.__module__}.{cls.__qualname__}.{name}, which is not allowed")
    return getattr(owner, name)


_OURS: Final = {"blank_distribution": blank_distribution, "set_attributes": set_attributes}


class _AllowListUnpickler(pickle.Unpickler):
    def __init__(self, data: bytes, trusted: frozenset[str]) -> None:
        super().__init__(io.BytesIO(data))
        self._trusted = trusted

    def find_class(self, module: str, name: str) -> Any:
        package = module.split(".", maxsplit=1)[0]
        if module == __name__ and name in _OURS:
            return _OURS[name]
        if module == "builtins":
            if name == "getattr":
                return _safe_getattr
            if name in _BUILTINS:
                return super().find_class(module, name)
        elif (module, name) in _ALLOWED or f"{module}:{name}" in self._trusted:
            return super().find_class(module, name)
        elif package == "river" or package in self._trusted:
            return self._own(package, module, name)
        raise BadCheckpoint(f"it asks for {module}.{name}, which a model is not made of")

    def _own(self, package: str, module: str, name: str) -> Any:
        """A class or function that is really defined in `package`, not merely imported there."""
        if not any(part.startswith("__") for part in name.split(".")):
            found = super().find_class(module, name)
            home, *rooms = str(getattr(found, "__module__", "")).split(".")
            if home == "river" and not _NO_PARTS_OF_MODELS.isdisjoint(rooms):
                raise BadCheckpoint(f"it asks for {module}.{name}, which a model is not made of")
            if home == package and isinstance(found, type | types.FunctionType | types.BuiltinFunctionType):
                return found
        raise BadCheckpoint(f"it asks for {module}.{name}, which is not defined in {package}")


def load_model(data: bytes, trusted: frozenset[str] = frozenset()) -> Any:
    """The inverse of `dump_model`. Raises `BadCheckpoint` for anything a model is not made of.

    `trusted` is what `trusted_by` found in the user's own, freshly built model.
    """
    try:
        return _AllowListUnpickler(data, trusted).load()
    except BadCheckpoint:
        raise
    except Exception as error:  # a pickle can fail in any way at all; each means the same here
        raise BadCheckpoint(f"the model in it cannot be restored: {type(error).__name__}: {error}") from error
