"""Predict and learn in one go: `StandardScaler | LogisticRegression` or `| LinearRegression`, bit for bit.

river takes such a step in some forty calls and six passes over the features; a fused step is one function
of straight-line code for each tuple of feature names (`fused_source`).

Invariants:
- The state lives in river's own objects, and nowhere else. A fused step reads it at each event and writes
  it back within the event, so that river's own methods, a pickle and a copy are right at any moment, and a
  fused step is right whoever changed the model in between.
- A step gives the number that river's way would have given, and leaves the state that river's way would
  have left: bits, types, order of insertion, pickle. Else it gives None (or False), and nothing was done.
- An event goes river's way whenever it is no common one: names that are new or not all known, more shapes
  or features than the bounds, a value that is no number, a label of another kind, a number near infinity.
"""

from collections.abc import Callable
from functools import cache
from math import exp, sin
from typing import Any, Final

from streamlearn.core.model.fused_source import Action, fused_maker

RIVER: Final = "0.26.1"
"""The version of river whose operations are copied; no other is fused."""
MAX_SHAPES: Final = 32
"""Tuples of feature names with a step of their own; later ones go river's way."""
MAX_FEATURES: Final = 256
_LARGEST_PARAMETER: Final = 1e100


class FusedStep:
    """The fused step of one model, which `fused_step` makes. It is no part of the model's pickle or copy.

    The caller goes river's way where it is given None (or False), with the same event.
    """

    def __init__(self, model: Any) -> None:
        from river import linear_model

        self.disabled = ""
        """The reason why each event goes river's way, "" while the model can be fused."""
        self.model = model
        self._scaler, self._regression = model.steps.values()
        self._logistic = type(self._regression) is linear_model.LogisticRegression
        self._weights: dict[str, float] = {}
        self._bound: tuple[Any, ...] = ()
        self._functions: dict[Action, dict[tuple[str, ...], Callable[..., Any]]] = {}
        self._names: tuple[str, ...] = ()
        self._step: Callable[..., Any] = _river_only
        """The step for events with `_names`, those of the last event."""
        self._bind()

    def step(self, x: dict[str, Any], y: Any) -> float | None:
        """Predict, then learn: `predict(x)` and `learn(x, y)` in one go. None: nothing was done."""
        names = tuple(x)
        if names != self._names:
            self._step, self._names = self.function("step", names), names
        answer: float | None = self._step(x.values(), y)
        if answer is None:
            self._names, self._step = (), _river_only  # such an event may be fused when it comes again
        return answer

    def predict(self, x: dict[str, Any]) -> float | None:
        """Predict the probability of true (a logistic regression; False has `1.0 - p`), or the number.

        The probability is the integer 0 or 1 where river's is. None: go river's way.
        """
        answer: float | None = self.function("predict", tuple(x))(x.values())
        return answer

    def learn(self, x: dict[str, Any], y: Any) -> bool:
        """Learn one label. False: nothing was done."""
        return self.function("learn", tuple(x))(x.values(), y) is not None

    def function(self, action: Action, names: tuple[str, ...]) -> Callable[..., Any]:
        """The function for events whose features have these names, in this order: `step(x.values(), y)`,
        `predict(x.values())` or `learn(x.values(), y)`, each of which gives None where nothing was done.

        It may be kept until it gives None; then ask again, because the model may have become another.
        """
        functions = self._functions[action]
        function = functions.get(names)
        if function is not None:
            return function
        if self.disabled or len(functions) >= MAX_SHAPES or not 0 < len(names) <= MAX_FEATURES:
            return _river_only
        if self._is_stale() or not self._knows(names):
            return _river_only
        make = fused_maker(action, len(names), self._logistic, bool(self._regression.l2))
        functions[names] = function = make(self._scaler, self._regression, self._weights, names, exp)
        return function

    def reload(self) -> None:
        """Look at the model again after river's own code, or anybody's, has changed it.

        Values are never stale. But a function that meets another vector of weights, penalty or schedule
        than it was made with does nothing; this makes room for new ones.
        """
        if self._is_stale():
            self.disabled = unfit(self.model)
            self._bind()

    def state(self) -> str:
        """All that the model has learned, as a text with each bit and type."""
        return self.state_in(self.model)

    @staticmethod
    def state_in(model: Any) -> str:
        """`state` of a model without a fused step."""
        scaler, regression = model.steps.values()
        dicts = (scaler.counts, scaler.means, scaler.vars, regression._weights.to_dict())
        return repr(
            ([list(held.items()) for held in dicts], regression.intercept, regression.optimizer.n_iterations)
        )

    def _is_stale(self) -> bool:
        return any(held is not bound for held, bound in zip(self._parts(), self._bound, strict=True))

    def _parts(self) -> tuple[Any, ...]:
        regression = self._regression
        return regression._weights, regression.l2, regression.optimizer.lr, regression.intercept_lr

    def _bind(self) -> None:
        """Forget all functions, and give the regression a vector of its weights over a dict that is ours.

        river's vector lets nobody at the dict inside it but who has made that dict, and answers slowly.
        """
        from river.utils import VectorDict

        self._functions = {"step": {}, "predict": {}, "learn": {}}
        self._names = ()
        if not self.disabled:
            self._weights = self._regression._weights.to_dict()
            self._regression._weights = VectorDict(self._weights)
        self._bound = self._parts()

    def _knows(self, names: tuple[Any, ...]) -> bool:
        """True if the model has learned each of these features, and holds plain numbers for them."""
        if self.model._plan is None:
            return False  # river notes its plan at the first call, and pickles it
        scaler = self._scaler
        numbers = ((scaler.counts, int), (scaler.means, float), (scaler.vars, float), (self._weights, float))
        return all(
            type(name) is str and all(type(held.get(name)) is kind for held, kind in numbers)
            for name in names
        )


def _river_only(values: Any, y: Any = None) -> None:
    """Do nothing: events of this shape go river's way."""


def fused_step(model: Any) -> FusedStep | None:
    """The fused step of `model`; None where river's own way is the only one.

    Example:
        >>> from math import exp
        >>> from river import linear_model, preprocessing
        >>> model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
        >>> fused = fused_step(model)
        >>> fused.step({"a": 1.0}, True) is None  # "a" is new
        True
        >>> model.learn_one({"a": 1.0}, True)
        >>> fused.step({"a": 3.0}, False) == 1 / (1 + exp(-0.005))
        True
    """
    return None if unfit(model) or battery() else FusedStep(model)


# --- which models -------------------------------------------------------------------------------------


def unfit(model: Any) -> str:
    """The reason why `model` has no fused step, in words; "" for none."""
    import river
    from river import compose

    if type(model) is not compose.Pipeline or len(model.steps) != 2:
        return "only a pipeline of a StandardScaler and a linear or logistic regression is fused"
    if river.__version__ != RIVER:
        return f"river is {river.__version__}, and the fused step is that of {RIVER}"
    scaler, regression = model.steps.values()
    return (
        _unfit_classes(scaler, regression)
        or _unfit_parameters(scaler, regression)
        or _unfit_state(scaler, regression)
        or _patched(model, scaler, regression)
    )


def _unfit_classes(scaler: Any, regression: Any) -> str:
    from river import linear_model, optim, preprocessing

    losses = {
        linear_model.LogisticRegression: optim.losses.Log,
        linear_model.LinearRegression: optim.losses.Squared,
    }
    if type(scaler) is not preprocessing.StandardScaler or type(regression) not in losses:
        return "only a pipeline of a StandardScaler and a linear or logistic regression is fused"
    if type(regression.loss) is not losses[type(regression)]:
        return f"the loss {type(regression.loss).__name__} is not fused"
    if type(regression.optimizer) is not optim.SGD:
        return f"the optimizer {type(regression.optimizer).__name__} is not fused"
    constant = optim.schedulers.Constant
    if type(regression.optimizer.lr) is not constant or type(regression.intercept_lr) is not constant:
        return "a learning rate that changes is not fused"
    if type(regression.initializer) not in (optim.initializers.Zeros, optim.initializers.Constant):
        return f"the initializer {type(regression.initializer).__name__} is not fused"
    return ""


def _unfit_parameters(scaler: Any, regression: Any) -> str:
    if scaler.with_std is not True or scaler.window_size is not None:
        return "a scaler without deviations, or with a window, is not fused"
    if regression.l1:
        return "an l1 penalty is not fused"
    if {getattr(regression.loss, name, 1.0) for name in ("weight_pos", "weight_neg")} != {1.0}:
        return "a loss with weights is not fused"
    numbers = (
        regression.l2,
        regression.clip_gradient,
        regression.optimizer.lr.learning_rate,
        regression.intercept_lr.learning_rate,
    )
    if any(type(number) not in (int, float) or not abs(number) < _LARGEST_PARAMETER for number in numbers):
        return "a parameter that is no number, or a huge one, is not fused"
    return "" if regression.clip_gradient > 0 else "a gradient that is clipped to nothing is not fused"


def _unfit_state(scaler: Any, regression: Any) -> str:
    from collections import Counter, defaultdict

    from river.utils import VectorDict

    kinds = (type(scaler.counts), type(scaler.means), type(scaler.vars), type(regression._weights))
    if kinds != (Counter, defaultdict, defaultdict, VectorDict):
        return "the state is not that of river's own classes"
    _, factory, mask, _ = regression._weights.__reduce__()[1]
    is_plain = factory is None and mask is None and type(regression.optimizer.n_iterations) is int
    return "" if is_plain else "the state is not that of river's own classes"


_ATTRIBUTES: Final = {
    "Pipeline": "steps _plan _inference_transformers _last_step_cached _last_step_params",
    "StandardScaler": "with_std window_size counts means vars",
    "LogisticRegression": "optimizer loss l2 l1 intercept_init intercept intercept_lr clip_gradient "
    "initializer _weights _y_name",
    "SGD": "lr n_iterations",
    "Constant": "learning_rate value",
    "Log": "weight_pos weight_neg",
    "Zeros": "value",
}
_ATTRIBUTES["LinearRegression"] = _ATTRIBUTES["LogisticRegression"]


def _patched(model: Any, scaler: Any, regression: Any) -> str:
    """The reason why river's methods would not be those that are copied: an object, or a class, that
    somebody has given a method of their own.
    """
    components = (
        model,
        scaler,
        regression,
        regression.optimizer,
        regression.optimizer.lr,
        regression.intercept_lr,
        regression.loss,
        regression.initializer,
    )
    for component in components:
        kind = type(component)
        if not vars(component).keys() <= set(_ATTRIBUTES.get(kind.__name__, "").split()):
            return f"this {kind.__name__} has attributes that river does not give it"
    classes = {above for component in components for above in type(component).__mro__}
    for kind in classes:
        if kind.__module__.startswith("river."):
            for name, attribute in vars(kind).items():
                owner = getattr(attribute, "__globals__", {}).get("__name__", "river.")
                if not owner.startswith("river."):
                    return f"{kind.__name__}.{name} is not river's own"
    if model._LEARN_UNSUPERVISED_DURING_PREDICT:
        return "the scaler learns while it predicts"
    return ""


# --- proof at the start -------------------------------------------------------------------------------


@cache
def battery() -> str:
    """The reason why fused steps are off in this process, "" for none: each kind of them is compared with
    river's own way, on awkward events, in the bits of each prediction and of the state that is left.
    """
    from river import linear_model, optim, preprocessing

    settings: tuple[tuple[type, dict[str, Any]], ...] = (
        (linear_model.LogisticRegression, {}),
        (linear_model.LogisticRegression, {"l2": 0.1, "clip_gradient": 0.3, "intercept_lr": 0.2}),
        (linear_model.LogisticRegression, {"optimizer": optim.SGD(20), "intercept_init": -2.0}),
        (linear_model.LinearRegression, {}),
        (linear_model.LinearRegression, {"l2": 0.01, "clip_gradient": 5, "optimizer": optim.SGD(0.003)}),
    )
    for kind, arguments in settings:
        difference = _compared(preprocessing.StandardScaler() | kind(**arguments))
        if difference:
            return f"the fused {kind.__name__} differs from river's: {difference}"
    return ""


def _compared(model: Any, events: int = 150) -> str:
    """The first difference between the ways, on made-up events; "" for none."""
    from copy import deepcopy
    from pickle import dumps

    twin = deepcopy(model)
    fused = FusedStep(model)
    logistic = hasattr(model.steps[next(reversed(model.steps))], "predict_proba_one")
    fused_events = 0
    for number in range(events):
        x, y = awkward_event(number, logistic)
        expected = twin.predict_proba_one(x)[True] if logistic else twin.predict_one(x)
        twin.learn_one(x, y)
        late = number % 3 == 0
        answer = fused.predict(x) if late else fused.step(x, y)
        if answer is None:
            answer = model.predict_proba_one(x)[True] if logistic else model.predict_one(x)
            model.learn_one(x, y)
            fused.reload()
        else:
            fused_events += 1
            if late and not fused.learn(x, y):
                return f"event {number} was predicted, and not learned"
        if repr(answer) != repr(expected):
            return f"event {number} was predicted as {answer!r} for {expected!r}"
    if dumps(model) != dumps(twin):
        return f"another state after {events} events"
    return "" if fused_events > events // 2 else f"only {fused_events} of {events} events were fused"


def awkward_event(number: int, logistic: bool) -> tuple[dict[str, Any], Any]:
    """The features and the label of a made-up event: shapes that change, and values that are far apart."""
    chance = [sin(12.9898 * (number + 1) * (column + 1)) * 43758.5453 % 1.0 for column in range(4)]
    x: dict[str, Any] = {
        "a": 2 * chance[0] - 1,
        "b": 1e3 * chance[1] + 50,
        "c": 7,
        "d": (0, 1, True, 2.5, -0.0)[number % 5],
        "e": 1e-9 * chance[2],
    }
    if number % 25 == 13:
        del x["abcde"[number % 5]]
    if number % 25 == 19:
        x = dict(reversed(x.items()))
    if number % 50 == 27:
        x["b"] = 1e9
    if number % 40 == 7:
        x["f"] = 3.0
    score = x.get("a", 0) + 1e-3 * x.get("b", 0) - 0.5
    if not logistic:
        return x, 40 * score if number % 4 else int(40 * score)
    return x, score > 0 if chance[3] < 0.8 else int(chance[0] > 0.5)
