"""From `[model]` in the configuration to a fresh river model, its name and its version.

Invariants:
- A fresh model is built once, made deterministic (`seed=None` replaced), and kept as its own pickle:
  every shard starts from a copy of those bytes, so that "fresh" means the same everywhere.
- The version is a hash of structure, parameters and source; the same model gives the same version in
  every process, and any change to it gives another.
"""

import copy
import hashlib
import inspect
import pickle
import random
import sys
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from streamlearn.config.named import attribute
from streamlearn.core.model.learner import Learner, final_step
from streamlearn.core.shard.snapshot import dump_model, load_model, trusted_by
from streamlearn.engine.presets import preset
from streamlearn.errors import BadCheckpoint, ConfigError

if TYPE_CHECKING:
    from streamlearn.config.schema import Config


class ModelTemplate(NamedTuple):
    """A model as it is before its first event. `trusted`: see `core.shard.snapshot.trusted_by`."""

    name: str
    version: str
    pickled: bytes
    trusted: frozenset[str]

    def learner(self) -> Learner:
        """A learner of its own around a new copy of the model."""
        return Learner(load_model(self.pickled, self.trusted))


def model_template(
    app: str, use: str, args: Mapping[str, Any], steps: list[Any], model: Any = None, horizon: int = 1
) -> ModelTemplate:
    """The model of the configuration, or `model` when the caller has one already, for that `horizon`.

    Raises `ConfigError`, naming the key and what would be right, when it cannot be built or served.
    """
    original = model
    if model is None:
        model = _pipeline(steps) if steps else _used(use, args)
    name = use if original is None and not steps else type(final_step(model)).__name__
    try:
        Learner(model, horizon)
    except TypeError as error:
        raise ConfigError(f"[model] use = {use!r}: {error}.") from error
    fill_seeds(model, app)
    pickled = _pickled(model)
    trusted = trusted_by(pickled) | _package_name(use)
    try:
        restored = load_model(pickled, trusted)
    except BadCheckpoint as error:
        raise ConfigError(f"the model {name} cannot be restored from a checkpoint: {error}.") from error
    version = version_of(restored)
    if original is None:
        twin = _pipeline(steps) if steps else _used(use, args)
        fill_seeds(twin, app)
        if version_of(load_model(_pickled(twin), trusted)) != version:  # which parts are shared changes there
            raise ConfigError(
                f"the model {name} is another one each time it is built, so a restart could not go on with "
                "it. Give every part a seed where it is made, and build it from nothing else that changes."
            )
    return ModelTemplate(name, version, pickled, trusted)


def configured_model(config: "Config", model: Any = None) -> ModelTemplate:
    """The model of `[model]`, or `model` in its place. Raises `ConfigError`."""
    section = config.model
    steps = list(section.steps)
    return model_template(config.app.name, section.use, section.args, steps, model, section.horizon)


# --- building -----------------------------------------------------------------------------------------


def _used(use: str, args: Mapping[str, Any]) -> Any:
    """What `use` names: a preset, or `module:attribute` that is a model, a class or a factory."""
    kind, _, rest = use.partition(":")
    if kind == "preset":
        if args:
            raise ConfigError(f"[model] args: {use} takes no arguments; use steps for a model of your own.")
        return preset(rest)
    maker = _attribute(use)
    if not callable(maker) or (hasattr(maker, "learn_one") and not isinstance(maker, type)):
        if args:
            raise ConfigError(f"[model] args: {use!r} is a model already, so it takes no arguments.")
        return copy.deepcopy(maker)
    return _called(maker, args, f"[model] use = {use!r}")


def _called(factory: Any, args: Mapping[str, Any], where: str) -> Any:
    built = {name: _nested(value, where) for name, value in args.items()}
    try:
        return factory(**built)
    except ConfigError:
        raise
    except Exception as error:  # the factory is the user's code: whatever it raises is a wrong model
        raise ConfigError(f"{where} raised {type(error).__name__}: {error}") from error


def _attribute(use: str) -> Any:
    module, _, name = use.partition(":")
    if not module or not name:
        raise ConfigError(
            f"[model] use = {use!r} is not a model. Give preset:classification, module:attribute "
            "(for example my_models:build), or river.tree:HoeffdingTreeClassifier."
        )
    return attribute(use, f"[model] use = {use!r}")


def _pipeline(steps: list[Any]) -> Any:
    from river import compose

    return compose.Pipeline(*(_nested(step, f"[model] steps[{n}]") for n, step in enumerate(steps)))


def _nested(value: Any, where: str) -> Any:
    """A value in which each table with a `use` has become the object it describes."""
    if isinstance(value, Mapping) and "use" in value:
        use = str(value["use"])
        path = use if ":" in use else "river." + ":".join(use.rsplit(".", 1))
        args = {name: component for name, component in value.items() if name != "use"}
        return _called(_attribute(path), args, f"{where} use = {use!r}")
    if isinstance(value, list):
        return [_nested(component, where) for component in value]
    return value


def _package_name(use: str) -> frozenset[str]:
    package = use.partition(":")[0].split(".")[0]
    is_known = package in sys.stdlib_module_names or package in ("preset", "river", "")
    return frozenset() if is_known else frozenset({package})


def _pickled(model: Any) -> bytes:
    try:
        return dump_model(model)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"the model cannot be saved in a checkpoint: {error}. Replace lambdas and functions defined "
            "inside functions by functions at the top of a module; keep open files, locks and clients "
            "out of the model."
        ) from error


# --- determinism --------------------------------------------------------------------------------------


def fill_seeds(model: Any, app: str) -> None:
    """Give every part of `model` whose `seed` is None one that follows from the app and the part's path.

    Generators made from that None are seeded again too. Must run before the model has learned.
    """
    from river import base

    seen: set[int] = set()
    pending: list[tuple[str, Any]] = [("model", model)]
    while pending:
        path, component = pending.pop()
        if id(component) in seen:
            continue
        seen.add(id(component))
        if isinstance(component, Mapping):
            pending.extend((f"{path}.{name}", value) for name, value in component.items())
        elif isinstance(component, list | tuple):
            pending.extend((f"{path}[{n}]", value) for n, value in enumerate(component))
        elif isinstance(component, base.Base):
            attributes = getattr(component, "__dict__", {})  # none with slots
            if attributes.get("seed", 0) is None:
                _seed(component, f"{app}/{path}")
            pending.extend((f"{path}.{name}", value) for name, value in attributes.items())


def _seed(component: Any, path: str) -> None:
    import numpy as np

    seed = int.from_bytes(hashlib.blake2b(path.encode(), digest_size=4).digest(), "big")
    component.seed = seed
    for name, value in vars(component).items():
        if isinstance(value, random.Random):
            value.seed(seed)  # in place: `cluster.KMeans` has given a method of its generator away
        elif isinstance(value, np.random.RandomState):
            setattr(component, name, np.random.RandomState(seed))
        elif isinstance(value, np.random.Generator):
            setattr(component, name, np.random.default_rng(seed))


# --- version ------------------------------------------------------------------------------------------


def version_of(model: Any) -> str:
    """12 hex digits over the structure and parameters of a fresh model, and the source of every module
    outside river that defines a part of it.
    """
    form = _CanonicalForm()
    text = repr(form.value(model))
    digest = hashlib.blake2b(text.encode(), digest_size=6)
    for name in sorted(form.sources):
        digest.update(_source(name))
    return digest.hexdigest()


_NOT_HASHED: Final = {"river", "numpy", "scipy"} | (sys.stdlib_module_names - {"__main__"})
"""Packages whose source is no part of a model's version."""


class _CanonicalForm:
    """Makes values whose `repr` is equal for equal parts, in every process. `sources`: the modules that
    define a part, but those of `_NOT_HASHED`.
    """

    def __init__(self) -> None:
        self.sources: set[str] = set()
        self._seen: dict[int, tuple[int, Any]] = {}
        """Each part with its number, by id; the part too, so that no other one gets its id."""

    def value(self, component: Any) -> Any:
        """The form of one part."""
        if component is None or isinstance(component, bool | int | float | str | bytes):
            return component
        if id(component) in self._seen:
            return f"again {self._seen[id(component)][0]}"
        self._seen[id(component)] = (len(self._seen), component)
        if isinstance(component, type | types.FunctionType | types.BuiltinFunctionType):
            return self._name(component)
        if isinstance(component, random.Random):
            return ["Random", *self.value(component.getstate())]
        if isinstance(component, Mapping):
            factory = self.value(getattr(component, "default_factory", None))
            return ["dict", factory, *(tuple(map(self.value, item)) for item in component.items())]
        if isinstance(component, list | tuple):
            return [type(component).__name__, *map(self.value, component)]
        if isinstance(component, set | frozenset):
            return ["set", *sorted(map(repr, map(self.value, component)))]
        return self._instance(component)

    def _instance(self, component: Any) -> Any:
        """The form of what pickling takes an instance apart into, its state first."""
        name = self._name(type(component))
        reduced = component.__reduce_ex__(4)
        if isinstance(reduced, str):
            return reduced
        _, arguments, state, *iterators = reduced if len(reduced) > 2 else (*reduced, None)
        items = [iterator if iterator is None else list(iterator) for iterator in iterators[:2]]
        return [name, *map(self.value, (state, arguments, *items))]

    def _name(self, definition: Any) -> str:
        """The full name of a class or function, whose module is noted."""
        module = definition.__module__
        package = str(module).split(".", maxsplit=1)[0]
        if package not in _NOT_HASHED:
            self.sources.add(module)
        return f"{module}.{definition.__qualname__}"


def _source(module: str) -> bytes:
    try:
        return inspect.getsource(sys.modules[module]).encode()
    except (OSError, TypeError, KeyError):  # a notebook cell or an extension module has no source file
        return module.encode()
