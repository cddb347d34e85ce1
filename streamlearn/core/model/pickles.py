"""A model as a pickle that can be opened without running anything that it says.

Python's own pickle is a program: it names functions and calls them. Here it is data. The pickler writes plain
values, and calls of nine tools (`core.model.pickle_load.TOOLS`); the unpickler knows no others.

Invariants:
- Nothing that was read is called while a pickle is being read. Instances are made empty, by `__new__` alone;
  those whose class could act (`__call__`, `append`, `__getattr__`, ...) sleep under another class until the
  last instruction was read. Their states are set after that, in the order in which they were pickled.
- Classes and functions come from a closed list (`core.model.pickle_names`), or from what the user's own fresh
  model holds (`trusted_by`), of the interpreter's own only harmless ones. Other constructors than `__new__`
  are those of `core.model.pickle_parts`, and for a package of the user's own, its own.
- A bound method travels as object and name, and is made of a plain function in the class of that object; no
  `__getattr__`, no property and no attribute of the instance is asked.
- Loading continues exactly where dumping stood: 90 % of a tree's plain pickle is random generators
  inside its Gaussians which nothing draws from, and those alone are left out.
"""

import contextlib
import copyreg
import functools
import gc
import io
import pickle
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from streamlearn.core.model.pickle_load import Loader
from streamlearn.core.model.pickle_names import CLASSES, HARMLESS, look_up
from streamlearn.core.model.pickle_parts import CONSTRUCTORS, taken_apart
from streamlearn.errors import BadCheckpoint

__all__ = ["dump_model", "load_model", "trusted_by"]


class _Ref:
    """Stands for a class of which instances are made. `blank`: its generator is left out."""

    __slots__ = ("blank", "cls")

    def __init__(self, cls: type, blank: bool = False) -> None:
        self.cls = cls
        self.blank = blank


def kind(_module: str, _name: str, _blank: bool) -> Any:
    """Tool that makes instances: in a pickle, `Loader.kind`."""
    raise AssertionError("named in pickles, never called")


def make(_kind: Any, *_arguments: Any) -> Any:
    """An empty instance: in a pickle, `Loader.make`."""
    raise AssertionError("named in pickles, never called")


def made(_kind: Any, _state: Any) -> Any:
    """An instance and its state at once, for one that nothing in its state refers to: `Loader.made`."""
    raise AssertionError("named in pickles, never called")


def fill(_instance: Any, _state: Any) -> Any:
    """The state of an instance: in a pickle, `Loader.fill`."""
    raise AssertionError("named in pickles, never called")


def part(_name: str, *_arguments: Any) -> Any:
    """An object out of a closed table of constructors: in a pickle, `Loader.part`."""
    raise AssertionError("named in pickles, never called")


def value(_module: str, _name: str) -> Any:
    """A class or function as an argument of `part` and `partial`: in a pickle, `Loader.value`."""
    raise AssertionError("named in pickles, never called")


def bind(_owner: Any, _name: str) -> Any:
    """A bound method: in a pickle, `Loader.bind`."""
    raise AssertionError("named in pickles, never called")


def partial(_function: Any, _arguments: Any, _named: Any, _inner: bool) -> Any:
    """A `functools.partial`: in a pickle, `Loader.partial`."""
    raise AssertionError("named in pickles, never called")


def own(_constructor: Any, *_arguments: Any) -> Any:
    """An object that the user's own package makes: in a pickle, `Loader.own`."""
    raise AssertionError("named in pickles, never called")


def _refuse(obj: Any) -> Any:
    raise pickle.PicklingError(f"{obj!r} has no name: hold a function of a module or a class instead")


_BY_NAME: Final = (type, types.FunctionType, types.BuiltinFunctionType)


class _Inner:
    """Stands for a class, a function or a partial where the loader looks for one: an argument, a slot."""

    __slots__ = ("obj",)

    def __init__(self, obj: Any) -> None:
        self.obj = obj


_WRITERS: Final[Mapping[type, Callable[[Any], Any]]] = {
    _Ref: lambda ref: (kind, (ref.cls.__module__, ref.cls.__qualname__, ref.blank)),
    types.MethodType: lambda obj: (bind, (obj.__self__, obj.__func__.__name__)),
    types.MethodDescriptorType: lambda obj: (  # such as `str.lower`
        value, (obj.__objclass__.__module__, f"{obj.__objclass__.__qualname__}.{obj.__name__}"),
    ),
    types.WrapperDescriptorType: _refuse,
}  # fmt: skip

_LEAVES: Final = ("river.stats.", "river.proba.", "river.tree.splitter.gaussian_splitter")
"""Where instances hold none that holds them. They are most of a tree, and written in one call each."""


class _Pickler(pickle.Pickler):
    def __init__(self, buffer: io.BytesIO) -> None:
        super().__init__(buffer, protocol=5)
        self._writers = {**_WRITERS, _Inner: self._placeholder}
        self._refs: dict[type, _Ref] = {}
        self._inner: dict[int, _Inner] = {}

    def reducer_override(self, obj: Any) -> Any:
        cls = type(obj)
        writer = self._writers.get(cls)
        if writer is None:
            writer = self._writers[cls] = self._writer(cls)
        return writer(obj)

    def _writer(self, cls: Any) -> Callable[[Any], Any]:
        """Choose the writer for instances of `cls`."""
        slots = tuple(copyreg._slotnames(cls))  # type: ignore[attr-defined] # as pickle itself asks
        if not _is_simple(cls) or (slots and cls.__dictoffset__) or not (slots or cls.__dictoffset__):
            return self._reduced
        reference = (self._ref(cls),)
        if slots:
            return functools.partial(self._slotted, reference, slots)
        if cls.__module__ == "river.proba.gaussian":
            return functools.partial(_gaussian, reference[0], _Ref(cls, blank=True))
        if cls.__module__.startswith(_LEAVES):
            return lambda obj: (made, (reference[0], obj.__dict__))
        return lambda obj: (make, reference, obj.__dict__, None, None, fill)

    def _ref(self, cls: type) -> _Ref:
        return self._refs.setdefault(cls, _Ref(cls))

    def _slotted(self, reference: tuple[_Ref], slots: tuple[str, ...], obj: Any) -> Any:
        state = {slot: self._argument(getattr(obj, slot)) for slot in slots if hasattr(obj, slot)}
        return make, reference, (None, state), None, None, fill

    def _reduced(self, obj: Any) -> Any:
        """For an object that is no plain instance."""
        if isinstance(obj, _BY_NAME) and isinstance(getattr(obj, "__self__", None), types.ModuleType | None):
            return NotImplemented  # by its name
        if type(obj) is types.BuiltinMethodType:
            return _refuse(obj)
        if type(obj) is functools.partial and not obj.__dict__:
            return partial, self._parted(obj, False)
        apart = taken_apart(obj)
        if apart is not None:
            return part, apart
        reduced = obj.__reduce_ex__(4)
        return reduced if isinstance(reduced, str) else self._called(obj, *reduced)

    def _called(
        self, obj: Any, function: Any, arguments: Any, state: Any = None, items: Any = None,
        pairs: Any = None, setter: Any = None,
    ) -> Any:  # fmt: skip
        """The tuple of `__reduce_ex__`, with its call as one of ours."""
        if setter is not None:
            raise pickle.PicklingError(f"{type(obj).__qualname__} sets its state by a function of its own")
        name = f"{function.__module__}:{function.__qualname__}"
        if function is copyreg.__newobj__:  # type: ignore[attr-defined] # typeshed does not know it
            cls, *rest = arguments
            call: tuple[Any, ...] = (make, (self._ref(cls), *rest))
        elif name in CONSTRUCTORS:
            if type(state) is int:  # the place of an iterator
                arguments, state = (*arguments, state), None
            call = (part, (name, *map(self._argument, arguments)))
        else:
            call = (own, (function, *arguments))
        if type(state) is tuple and len(state) == 2 and type(state[1]) is dict:  # slots
            state = (state[0], {slot: self._argument(held) for slot, held in state[1].items()})
        return (*call, state, items, pairs, None if state is None else fill)

    def _placeholder(self, inner: _Inner) -> Any:
        if type(inner.obj) is functools.partial:
            return partial, self._parted(inner.obj, True)
        return value, (inner.obj.__module__, inner.obj.__qualname__)

    def _parted(self, obj: "functools.partial[Any]", inner: bool) -> tuple[Any, ...]:
        return self._argument(obj.func), tuple(map(self._argument, obj.args)), obj.keywords, inner

    def _argument(self, obj: Any) -> Any:
        """The placeholder of an argument. Each is kept, so that the same one is written once."""
        if isinstance(obj, _BY_NAME) or (type(obj) is functools.partial and not obj.__dict__):
            return self._inner.setdefault(id(obj), _Inner(obj))
        return obj


def _gaussian(reference: _Ref, blank: _Ref, obj: Any) -> Any:
    """Without its generator, when nothing draws from it."""
    if getattr(obj, "seed", 0) is not None:
        return made, (reference, obj.__dict__)
    return made, (blank, {name: held for name, held in obj.__dict__.items() if name != "_rng"})


def _is_simple(cls: Any) -> bool:
    """True when instances of `cls` are made and pickled as `object` does it."""
    return (
        cls.__reduce_ex__ is object.__reduce_ex__
        and cls.__reduce__ is object.__reduce__
        and cls.__new__ is object.__new__
        and getattr(cls, "__getstate__", None) is object.__getstate__
        and not hasattr(cls, "__getnewargs__")
        and not hasattr(cls, "__getnewargs_ex__")
        and cls not in copyreg.dispatch_table
    )


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    """Nothing becomes garbage here, and Python's collector would walk over all that is being made, again and
    again: a third of the time of a forest.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def dump_model(model: Any) -> bytes:
    """The model's slim pickle. Raises what pickling raises, for example on a lambda."""
    buffer = io.BytesIO()
    with _no_collector():
        _Pickler(buffer).dump(model)
    return buffer.getvalue()


def load_model(data: bytes, trusted: frozenset[str] = frozenset()) -> Any:
    """The inverse of `dump_model`. Raises `BadCheckpoint` for anything a model is not made of.

    `trusted` is what `trusted_by` found in the user's own, freshly built model.
    """
    try:
        with _no_collector():
            return Loader(data, trusted).load()
    except (BadCheckpoint, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # it can fail in any way, river's Rust parts panic beside Exception
        raise BadCheckpoint(f"the model in it cannot be restored: {type(error).__name__}: {error}") from error


class _Collector(Loader):
    """Notes what a pickle asks for. Only for bytes that this process has just made itself."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data, frozenset())
        self.requested: dict[tuple[str, str], Any] = {}
        self.called: set[str] = set()

    def resolve(self, module: str, name: str, _listed: frozenset[str] = CLASSES) -> Any:
        """Whatever has that name."""
        target = self.requested[module, name] = look_up(module, name)
        return target

    def is_mine(self, module: str) -> bool:
        """Yes: whatever made these bytes was here a moment ago."""
        return True

    def may_call(self, module: str, name: str) -> bool:
        """Note it."""
        self.called.add(f"()::{module}:{name}")
        return True


_NO_PARTS_OF_MODELS: Final = frozenset(("checks", "datasets", "evaluate", "stream"))
"""Parts of river that no model holds; some of them read files, unpickle what they read, or download."""


def trusted_by(fresh: bytes) -> frozenset[str]:
    """Names that a checkpoint of this model may ask for besides the closed list: those in its fresh pickle.

    A package that defines an estimator of the model is the user's own and trusted whole (its name stands
    in the set), because a model that has learned may hold classes that a fresh one does not. From all
    others, river, the standard library and numpy among them, only the very objects the fresh model holds
    (`module:name`), and those constructors that its own pickle calls (`()::module:name`, of `operator` with
    the very arguments). What the interpreter itself defines only as far as it is `HARMLESS`.
    """
    from river.base import Base

    collector = _Collector(fresh)
    collector.load()
    trusted: set[str] = set(collector.called)
    for (module, name), target in collector.requested.items():
        package, *rooms = module.split(".")
        if package == "streamlearn" or not _NO_PARTS_OF_MODELS.isdisjoint(rooms):
            continue
        if package == "builtins" and f"{module}:{name}" not in HARMLESS:
            continue
        mine = package != "river" and isinstance(target, type) and issubclass(target, Base)
        trusted.add(package if mine else f"{module}:{name}")
    return frozenset(trusted)
