"""The reading side of `core.model.pickles`, whose invariants these are.

Reading has two halves. While the instructions are carried out, all that exists is plain values, empty
instances, and placeholders for what could act (`Named`, `Bound`, `Partial`); then states are set, and each
placeholder in them gives way to what it stands for.
"""

import collections
import functools
import io
import itertools
import pickle
import random
import sys
import types
from typing import Any, Final, NamedTuple

from streamlearn.core.model.pickle_names import CLASSES, NAMED, in_class, look_up
from streamlearn.core.model.pickle_parts import VECTOR_DICT, Asleep, put_together, small
from streamlearn.core.model.pickle_scan import check
from streamlearn.errors import BadCheckpoint

TOOLS: Final = frozenset(("kind", "make", "made", "fill", "part", "value", "bind", "partial", "own"))
"""The tools that a pickle may call: names in `core.model.pickles`, methods of `Loader`."""

_UNUSED_RNG: Final = random.Random(0)
_ACTS: Final = ("__call__", "__getattr__", "__setitem__", "append", "extend", "add")
"""Methods that an unpickler could be made to call."""

_SET_SINGLY: Final = (
    *("river.anomaly.", "river.compose.", "river.facto.", "river.feature_extraction.", "river.linear_model."),
    *("river.multiclass.", "river.naive_bayes.", "river.optim.", "river.preprocessing."),
)
"""Where a model has few objects that are reached at every event. Their attributes are set one by one, as
`__init__` would have: CPython then keeps them inside the object, and a restored scaler with a linear model is
11 % faster. Trees have many objects, and dump and load count.
"""


class Named(NamedTuple):
    """Stands for a class or a function, as a value."""

    module: str
    name: str
    target: Any


class Bound(NamedTuple):
    """Stands for a method of `owner`."""

    owner: Any
    name: str


class Partial(NamedTuple):
    """Stands for a `functools.partial`."""

    function: Any
    arguments: Any
    named: Any


class _Kind:
    """A class of which instances are made. `names`: of attributes, those that were checked."""

    __slots__ = ("blank", "cls", "empty", "has_setstate", "mine", "names", "plain", "singly", "sleeps")

    def __init__(self, cls: Any, blank: bool, mine: bool) -> None:
        self.cls = cls
        self.blank = blank
        self.mine = mine
        self.empty = cls.__new__ is object.__new__
        self.has_setstate = hasattr(cls, "__setstate__")
        self.singly = not self.has_setstate and cls.__module__.startswith(_SET_SINGLY)
        self.sleeps = self.empty and not mine and _can_sleep(cls)
        self.names: dict[str, str] = {}
        self.plain = self.empty and not (self.has_setstate or self.singly or mine)


def _can_sleep(cls: type) -> bool:
    if not any(hasattr(cls, name) for name in _ACTS):
        return False
    try:
        Asleep().__class__ = cls
    except TypeError:  # another layout (slots); such instances are empty until they are filled
        return False
    return True


@functools.lru_cache(maxsize=2048)
def _listed(module: str, name: str, blank: bool) -> _Kind:
    """The kind of a class in the closed list, whose attributes need to be checked once."""
    return _Kind(look_up(module, name), blank, False)


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, loader: "Loader") -> None:
        super().__init__(io.BytesIO(data))
        self._loader = loader

    def find_class(self, module: str, name: str) -> Any:
        if module == "streamlearn.core.model.pickles" and name in TOOLS:
            return getattr(self._loader, name)
        return self._loader.named(module, name)


class Loader:
    """Reads one pickle. `trusted`: see `core.model.pickles.trusted_by`."""

    def __init__(self, data: bytes, trusted: frozenset[str]) -> None:
        self._data = data
        self._trusted = trusted
        self._kinds: dict[type, _Kind] = {}
        self._keyed: set[type] = set()  # those of the user's own that are found by their value
        self._sleeping: list[tuple[Any, type]] = []
        self._states: list[tuple[Any, Any]] = []
        self._held = False  # True once a placeholder is anywhere but in an argument of `part`
        self._real: dict[int, tuple[Any, Any]] = {}

    def load(self) -> Any:
        """The object. Raises `BadCheckpoint`, and whatever broken bytes raise."""
        check(self._data)
        root = _Unpickler(self._data, self).load()
        self._fill_all()
        return self._inside(root)

    # --- what a pickle calls --------------------------------------------------------------------------

    def named(self, module: str, name: str) -> Named:
        """A class or a function as a value."""
        self._held = True
        return Named(module, name, self.resolve(module, name, NAMED))

    def kind(self, module: str, name: str, blank: bool) -> _Kind:
        """A class to make instances of."""
        if f"{module}:{name}" in CLASSES:
            kind = _listed(module, name, blank)
            self._kinds[kind.cls] = kind
            return kind
        cls: Any = self.resolve(module, name)
        if not issubclass(type(cls), type):
            raise BadCheckpoint(f"it makes instances of {module}.{name}, which is no class")
        mine = self.is_mine(module)
        kind = self._kinds[cls] = self._kinds.get(cls) or _Kind(cls, False, mine)
        if mine and cls.__hash__ is not object.__hash__:
            self._keyed.add(cls)
        return _Kind(cls, True, mine) if blank else kind

    def make(self, kind: _Kind, *arguments: Any) -> Any:
        """An instance without its state."""
        if kind.sleeps and not arguments:
            instance = Asleep()
            self._sleeping.append((instance, kind.cls))
            return instance
        unchecked = arguments and not kind.mine and not issubclass(kind.cls, tuple)
        if unchecked and (kind.empty or not all(map(small, arguments))):
            raise BadCheckpoint(f"it makes a {kind.cls.__qualname__} out of something else")
        return kind.cls.__new__(kind.cls, *map(self._inside, arguments))

    def made(self, kind: _Kind, state: Any) -> Any:
        """An instance, whose state is kept for later."""
        if kind.blank:
            state["_rng"] = _UNUSED_RNG
        if kind.sleeps:
            instance: Any = Asleep()
            self._sleeping.append((instance, kind.cls))
        else:
            instance = self.make(kind)
        self._states.append((instance, state))
        return instance

    def fill(self, instance: Any, state: Any) -> None:
        """Keep a state for later. An object of the user's own that is found by its value needs it now."""
        self._states.append((instance, state))
        if type(instance) in self._keyed:
            self._fill_all()

    def part(self, name: str, *arguments: Any) -> Any:
        """An object by one of `pickle_parts.CONSTRUCTORS`."""
        if any(type(argument) is types.MethodType for argument in arguments):
            raise BadCheckpoint(f"it makes {name!r} out of a tool of the loader")
        if type(name) is str and name.startswith("operator:"):  # what they ask for is what they do
            request = f"{name}{arguments!r}" if all(map(small, arguments)) else "more"
            if not self.may_call("operator", request.removeprefix("operator:")):
                raise BadCheckpoint(f"it makes an {name} that the fresh model does not hold")
        if name == VECTOR_DICT and len(arguments) > 1 and type(arguments[1]) is Asleep:
            self._wake(arguments[1])
        return put_together(name, *map(self._argument, arguments))

    def _wake(self, factory: Asleep) -> None:
        """Vectors and partials take nothing that cannot be called yet: river's initializers, still empty."""
        for instance, cls in self._sleeping:
            if instance is factory and cls.__module__ == "river.optim.initializers":
                instance.__class__ = cls

    def value(self, module: str, name: str) -> Named:
        """A class or a function as an argument of `part` or `partial`; an unbound method anywhere."""
        target = self.resolve(module, name, NAMED)
        self._held = self._held or type(target) is types.MethodDescriptorType
        return Named(module, name, target)

    def bind(self, owner: Any, name: str) -> Bound:
        """A method, later."""
        self._held = True
        return Bound(owner, name)

    def partial(self, function: Any, arguments: Any, named: Any, inner: bool) -> Partial:
        """A `functools.partial`, later. `inner`: it is an argument of `part`."""
        self._held = self._held or inner is not True
        if type(arguments) is not tuple or type(named) is not dict or type(function) is types.MethodType:
            raise BadCheckpoint("it makes a partial out of something else")
        return Partial(function, arguments, named)

    def own(self, constructor: Any, *arguments: Any) -> Any:
        """An object of the user's own package, by its own constructor."""
        if type(constructor) is not Named or not self.may_call(*constructor[:2]):
            raise BadCheckpoint(f"it calls {_shown(constructor)}, which is not allowed")
        self._fill_all()
        instance = constructor.target(*map(self._inside, arguments))
        self._kinds.setdefault(type(instance), _Kind(type(instance), False, True))
        return instance

    # --- what may be named ----------------------------------------------------------------------------

    def is_mine(self, module: str) -> bool:
        """True for a module of the user's own package."""
        return module.split(".", maxsplit=1)[0] in self._trusted

    def may_call(self, module: str, name: str) -> bool:
        """True for a constructor of the user's own package, or one in the fresh model's own pickle."""
        return self.is_mine(module) or f"()::{module}:{name}" in self._trusted

    def resolve(self, module: str, name: str, listed: frozenset[str] = CLASSES) -> Any:
        """The class or function of that exact name. Raises `BadCheckpoint`."""
        key, package = f"{module}:{name}", module.split(".", maxsplit=1)[0]
        if key in listed or key in self._trusted:
            return look_up(module, name)
        if package not in self._trusted:
            raise BadCheckpoint(f"it asks for {module}.{name}, which is not allowed: no model is made of it")
        target = look_up(module, name)
        home = str(getattr(target, "__module__", "")).split(".", maxsplit=1)[0]
        if home != package or not isinstance(target, type | types.FunctionType | types.BuiltinFunctionType):
            raise BadCheckpoint(f"it asks for {module}.{name}, which is not defined in {package}")
        return target

    # --- after the last instruction -------------------------------------------------------------------

    def _fill_all(self) -> None:
        sleeping, self._sleeping = self._sleeping, []
        for instance, cls in sleeping:
            instance.__class__ = cls
        states, self._states = self._states, []
        for instance, state in states:
            kind = self._kinds.get(type(instance))
            if kind is None:
                raise BadCheckpoint(
                    f"it sets attributes of a {type(instance).__qualname__}, which is not allowed"
                )
            if kind.plain and not self._held and type(state) is dict:  # most of a tree
                try:
                    names = kind.names
                    instance.__dict__ = {names[name]: value for name, value in state.items()}
                except KeyError:
                    instance.__dict__ = self._attributes(kind, state)
            else:
                self._set_state(kind, instance, state)

    def _set_state(self, kind: _Kind, instance: Any, state: Any) -> None:
        """Set a state in the way of its kind, with every attribute checked."""
        if kind.has_setstate:
            if type(state) is dict:
                state = self._attributes(kind, state)
            kind.cls.__setstate__(instance, self._inside(state))
        elif type(state) is tuple and len(state) == 2:
            if state[0] is not None:
                instance.__dict__.update(self._attributes(kind, state[0]))
            self._set_singly(kind, instance, state[1])
        elif kind.singly:
            self._set_singly(kind, instance, state)
        elif kind.mine:
            instance.__dict__.update(self._attributes(kind, state))
        else:
            instance.__dict__ = self._attributes(kind, state)

    def _set_singly(self, kind: _Kind, instance: Any, state: Any) -> None:
        for name, value in self._attributes(kind, state).items():
            object.__setattr__(
                instance, name, self._argument(value) if type(value) in _PLACEHOLDERS else value
            )

    def _attributes(self, kind: _Kind, state: Any) -> dict[str, Any]:
        """Attributes, under names that were checked and that the interpreter compares by identity."""
        if type(state) is not dict:
            raise BadCheckpoint(f"the state of a {kind.cls.__qualname__} is something else")
        names = kind.names
        try:
            attributes = {names[name]: value for name, value in state.items()}
        except KeyError:
            names.update({name: _attribute(kind, name) for name in state if name not in names})
            attributes = {names[name]: value for name, value in state.items()}
        if self._held and not _SIMPLE.issuperset(map(type, attributes.values())):
            return {name: self._inside(value) for name, value in attributes.items()}
        return attributes

    # --- placeholders ---------------------------------------------------------------------------------

    def _inside(self, value: Any) -> Any:
        """`value` with no placeholder left in it: itself, changed in place, where that can be done."""
        cls = type(value)
        if cls in _PLACEHOLDERS:
            return self._argument(value)
        if not self._held or cls in _SIMPLE or not isinstance(value, _CONTAINERS):
            return value
        real = self._real.get(id(value))
        if real is not None:
            return real[1]
        if cls is tuple or cls is frozenset:
            return self._keep(value, cls(map(self._inside, value)))
        self._keep(value, value)
        self._change(value)
        return value

    def _argument(self, value: Any) -> Any:
        """Resolve a placeholder, once and the same for all who hold it; else `value`."""
        cls = type(value)
        if cls is Named:
            return value.target
        if cls is Bound:
            return self._real.get(id(value), (0, None))[1] or self._keep(value, self._method(value))
        if cls is not Partial:
            return self._inside(value)
        real = self._real.get(id(value))
        if real is not None:
            return real[1]
        if type(value.function) is Asleep:
            self._wake(value.function)
        function, arguments = self._argument(value.function), map(self._argument, value.arguments)
        named = {name: self._argument(argument) for name, argument in value.named.items()}
        return self._keep(value, functools.partial(function, *arguments, **named))

    def _keep(self, value: Any, real: Any) -> Any:
        self._real[id(value)] = (value, real)  # the value too, so that its id stays its own
        return real

    def _change(self, value: Any) -> None:
        """Resolve the placeholders in a container, in place; one without any stays untouched."""
        values = itertools.chain(value.values(), value) if isinstance(value, dict) else value
        if _SIMPLE.issuperset(map(type, values)):
            return
        if isinstance(value, dict):
            pairs = [(self._inside(key), self._inside(old)) for key, old in value.items()]
            dict.clear(value)
            dict.update(value, pairs)
        elif isinstance(value, set):
            items = list(map(self._inside, value))
            set.clear(value)
            set.update(value, items)
        else:
            for index, old in enumerate(value):
                if (new := self._inside(old)) is not old:
                    value[index] = new

    def _method(self, bound: Bound) -> Any:
        owner, name = self._inside(bound.owner), bound.name
        cls = next((cls for instance, cls in self._sleeping if instance is owner), type(owner))
        function = in_class(cls, name) if type(name) is str else None
        is_model_part = cls in self._kinds or (cls is random.Random and name == "gauss")
        if not is_model_part or not isinstance(function, types.FunctionType) or name.startswith("__"):
            raise BadCheckpoint(f"it asks for {_shown(cls)}.{name}, which is not allowed")
        return types.MethodType(function, owner)


_PLACEHOLDERS: Final = frozenset((Named, Bound, Partial))
_CONTAINERS: Final = (dict, list, tuple, set, frozenset, collections.deque)
_SIMPLE: Final = frozenset((int, float, str, bool, bytes, type(None)))


def _attribute(kind: _Kind, name: Any) -> str:
    """The name of an attribute that a state may set, interned."""
    if type(name) is str and kind.mine:
        return sys.intern(name)
    if type(name) is not str or name.startswith("__"):
        raise BadCheckpoint(f"it sets {name!r} of a {kind.cls.__qualname__}, which is not allowed")
    attribute = in_class(kind.cls, name)
    if hasattr(type(attribute), "__set__") and type(attribute) is not types.MemberDescriptorType:
        raise BadCheckpoint(f"it sets the property {name!r} of a {kind.cls.__qualname__}")
    return sys.intern(name)


def _shown(target: Any) -> str:
    module, name = getattr(target, "__module__", "?"), getattr(target, "__qualname__", type(target).__name__)
    return f"{target.module}.{target.name}" if type(target) is Named else f"{module}.{name}"
