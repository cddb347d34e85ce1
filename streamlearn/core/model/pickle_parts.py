"""Objects of the standard library, numpy and river that are no plain instances, taken apart and made again.

Invariants:
- `CONSTRUCTORS` is closed. Each takes its arguments from a checkpoint, so each checks their types and sizes
  before it makes anything, and asks nothing of an object that it was given.
- `put_together(*taken_apart(x))` is `x` again, to the last bit and to the next random draw.
"""

import collections
import datetime
import decimal
import fractions
import random
import re
from collections.abc import Callable
from operator import attrgetter, itemgetter, methodcaller
from typing import Any, Final

import numpy as np
from numpy.random.bit_generator import BitGenerator, SeedSequence

from streamlearn.errors import BadCheckpoint

_DTYPE: Final = re.compile(r"[<>|=][biufcSU][0-9]{1,6}|[<>]?[mM]8(\[[a-zA-Z0-9]+\])?")
_GENERATORS: Final = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
_MAX_POOL: Final = 64
"""Numbers that seed a generator: mixing them takes time in the square of how many there are."""

_MAX_NUMBER: Final = 10**7
_MAX_TEXT: Final = 10_000


def _need(holds: bool, name: str) -> None:
    if not holds:
        raise BadCheckpoint(f"it makes {name} out of something else")


class Asleep:
    """The class of instances that could act, while a pickle is being read."""


def small(value: Any) -> bool:
    """True for a plain number or text that cannot make anything large."""
    if type(value) is int:
        return abs(value) <= _MAX_NUMBER
    return value is None or type(value) in (bool, float) or (type(value) is str and len(value) <= _MAX_TEXT)


# --- the standard library -----------------------------------------------------------------------------


def _random(state: Any) -> random.Random:
    _need(type(state) is tuple and len(state) == 3 and type(state[1]) is tuple, "a generator")
    _need(all(type(word) is int for word in state[1]), "a generator")
    built = random.Random(0)
    built.setstate(state)
    return built


def _deque(items: Any = (), maxlen: Any = None) -> collections.deque[Any]:
    _need(type(items) in (tuple, list) and (maxlen is None or type(maxlen) is int), "a deque")
    return collections.deque(items, maxlen)


def _counter(counts: Any) -> "collections.Counter[Any]":
    _need(type(counts) is dict, "a Counter")
    built: collections.Counter[Any] = collections.Counter()
    dict.update(built, counts)
    return built


def _ordered() -> "collections.OrderedDict[Any, Any]":
    return collections.OrderedDict()


def _default(factory: Any = None) -> "collections.defaultdict[Any, Any]":
    _need(factory is None or callable(factory) or type(factory) is Asleep, "a defaultdict")
    built: collections.defaultdict[Any, Any] = collections.defaultdict()
    built.default_factory = factory  # it may be asleep yet
    return built


def _iterator(items: Any, position: Any = 0) -> Any:
    _need(type(items) in (tuple, list) and type(position) is int, "an iterator")
    built = iter(items)
    built.__setstate__(position)
    return built


def _moment(kind: type) -> Callable[..., Any]:
    def built(*arguments: Any) -> Any:
        allowed = (int, float, bytes, str, datetime.timedelta, datetime.timezone)
        _need(all(type(value) in allowed for value in arguments), kind.__name__)
        return kind(*arguments)

    return built


def _numbers(kind: type) -> Callable[..., Any]:
    def built(*arguments: Any) -> Any:
        _need(
            all(type(value) in (int, float) and abs(value) <= _MAX_NUMBER for value in arguments),
            kind.__name__,
        )
        return kind(*arguments)

    return built


def _decimal(text: Any) -> decimal.Decimal:
    _need(type(text) is str, "a Decimal")
    return decimal.Decimal(text)


def _fraction(text: Any) -> fractions.Fraction:
    _need(type(text) is str and re.fullmatch(r"-?\d{1,4000}(/\d{1,4000})?", text) is not None, "a Fraction")
    return fractions.Fraction(text)


def _pattern(text: Any, flags: Any) -> Any:
    _need(type(text) in (str, bytes) and len(text) <= _MAX_TEXT and type(flags) is int, "a pattern")
    return re.compile(text, flags)


def _integers(kind: type) -> Callable[..., Any]:
    def built(*arguments: Any) -> Any:
        _need(all(value is None or type(value) is int for value in arguments), kind.__name__)
        return kind(*arguments)

    return built


def _getter(kind: Callable[..., Any]) -> Callable[..., Any]:
    def built(*arguments: Any) -> Any:
        _need(all(map(small, arguments)), "what asks for an item, an attribute or a method")
        return kind(*arguments)

    return built


# --- numpy --------------------------------------------------------------------------------------------


def _dtype(text: Any) -> Any:
    _need(type(text) is str and _DTYPE.fullmatch(text) is not None, "a type of numbers")
    return np.dtype(text)


def _array(text: Any, shape: Any, order: Any, data: Any) -> Any:
    _need(type(data) is bytearray and type(shape) is tuple and order in ("C", "F"), "an array")
    _need(all(type(side) is int and side >= 0 for side in shape), "an array")
    return np.frombuffer(data, dtype=_dtype(text)).reshape(shape, order=order)


def _scalar(text: Any, data: Any) -> Any:
    _need(type(data) is bytes, "a number")
    return np.frombuffer(data, dtype=_dtype(text))[0]


def _is_entropy(value: Any) -> bool:
    """True for the entropy of a seed sequence: one number, or a few."""
    numbers = value if type(value) in (list, tuple) else [value]
    return len(numbers) <= _MAX_POOL and all(
        type(value) is int and abs(value) < 1 << 1024 for value in numbers
    )


def _bits(name: Any, state: Any, seeds: Any) -> Any:
    """A bit generator of numpy. `seeds`: of its seed sequence, None when it has none."""
    _need(name in _GENERATORS and type(state) is dict, "a generator")
    sequence = None
    if seeds is not None:
        _need(type(seeds) is tuple and len(seeds) == 4, "a generator")
        entropy, spawn_key, pool_size, spawned = seeds
        _need(_is_entropy(entropy) and type(spawn_key) is tuple and _is_entropy(spawn_key), "a generator")
        _need(type(pool_size) is type(spawned) is int and 4 <= pool_size <= _MAX_POOL, "a generator")
        sequence = SeedSequence(seeds[0], spawn_key=seeds[1], pool_size=seeds[2], n_children_spawned=seeds[3])
    built = getattr(np.random, name)(0 if sequence is None else sequence)
    if sequence is None and name == "MT19937":
        built._legacy_seeding(0)  # as `RandomState(seed)` leaves it: without a seed sequence
    built.state = state
    return built


def _generator(*bits: Any) -> Any:
    return np.random.Generator(_bits(*bits))


def _random_state(bits: Any, state: Any) -> Any:
    _need(type(bits) is tuple and len(bits) == 3 and type(state) is dict, "a generator")
    built = np.random.RandomState(_bits(*bits))
    built.set_state(state)
    return built


def _bits_apart(bits: Any) -> tuple[Any, ...]:
    seeds = getattr(bits, "seed_seq", None)
    sequence_state = None
    if seeds is not None:
        sequence_state = (seeds.entropy, seeds.spawn_key, seeds.pool_size, seeds.n_children_spawned)
    return type(bits).__name__, bits.state, sequence_state


def _array_apart(array: Any) -> tuple[Any, ...]:
    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    if not _DTYPE.fullmatch(array.dtype.str):
        raise TypeError(f"an array of {array.dtype} cannot be saved: use one of numbers, or a list")
    return "numpy.array", array.dtype.str, array.shape, order, bytearray(array.tobytes(order))


# --- river --------------------------------------------------------------------------------------------


def _vector(data: Any, factory: Any = None, mask: Any = None, copy: Any = True) -> Any:
    from river.utils import VectorDict

    _need(type(data) is dict and type(copy) is bool, "a VectorDict")
    _need(mask is None or type(mask) in (set, frozenset), "a VectorDict")
    _need(factory is None or callable(factory), "a VectorDict")
    return VectorDict(data, factory, mask, copy)


def _component(name: str) -> Callable[..., Any]:
    def built(*arguments: Any) -> Any:
        from river.time_series import holt_winters

        _need(all(type(value) in (int, float) and abs(value) <= _MAX_NUMBER for value in arguments), name)
        return getattr(holt_winters, name)(*arguments)

    return built


_HOLT_WINTERS: Final = (
    *("AdditiveLevel", "AdditiveSeason", "MultiplicativeLevel", "MultiplicativeSeason", "Trend"),
)

VECTOR_DICT: Final = "river._river_rust.vectordict:VectorDict"

CONSTRUCTORS: Final[dict[str, Callable[..., Any]]] = {
    "random:Random": _random,
    "collections:deque": _deque,
    "collections:Counter": _counter,
    "collections:OrderedDict": _ordered,
    "collections:defaultdict": _default,
    "builtins:iter": _iterator,
    "builtins:complex": _numbers(complex),
    "builtins:range": _integers(range),
    "builtins:slice": _integers(slice),
    "datetime:date": _moment(datetime.date),
    "datetime:time": _moment(datetime.time),
    "datetime:datetime": _moment(datetime.datetime),
    "datetime:timedelta": _moment(datetime.timedelta),
    "datetime:timezone": _moment(datetime.timezone),
    "decimal:Decimal": _decimal,
    "fractions:Fraction": _fraction,
    "re:_compile": _pattern,
    **{f"operator:{kind.__name__}": _getter(kind) for kind in (itemgetter, attrgetter, methodcaller)},
    "numpy.dtype": _dtype,
    "numpy.array": _array,
    "numpy.scalar": _scalar,
    "numpy.bits": _bits,
    "numpy.Generator": _generator,
    "numpy.RandomState": _random_state,
    VECTOR_DICT: _vector,
    **{f"river.time_series.holt_winters:{name}": _component(name) for name in _HOLT_WINTERS},
}
"""By the name of what is called when such an object is pickled plainly, or a name of ours."""


def taken_apart(obj: Any) -> tuple[Any, ...] | None:
    """The constructor's name and its arguments, for an object whose plain pickle would call into its library.
    None: it has none, or its plain pickle names its constructor.
    """
    kind = type(obj)
    if kind is random.Random:
        return "random:Random", obj.getstate()
    if kind is np.ndarray:
        return _array_apart(obj)
    if isinstance(obj, np.generic):
        return "numpy.scalar", obj.dtype.str, obj.tobytes()
    if isinstance(obj, np.dtype):
        return "numpy.dtype", obj.str
    if kind is np.random.Generator:
        return "numpy.Generator", *_bits_apart(obj.bit_generator)
    if kind is np.random.RandomState:
        return "numpy.RandomState", _bits_apart(obj._bit_generator), obj.get_state(legacy=False)
    if isinstance(obj, BitGenerator):
        return "numpy.bits", *_bits_apart(obj)
    return None


def put_together(name: Any, *arguments: Any) -> Any:
    """The inverse of `taken_apart`. Raises `BadCheckpoint`."""
    constructor = CONSTRUCTORS.get(name) if type(name) is str else None
    if constructor is None:
        raise BadCheckpoint(f"it asks to make {name!r}, which is not allowed")
    return constructor(*arguments)
