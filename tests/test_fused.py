"""The fused step: the numbers and the state of river's own way, to the last bit, whatever comes between."""

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import river
from hypothesis import HealthCheck, settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from river import compose, linear_model, optim, preprocessing

from streamlearn.core.model import fused, fused_source
from streamlearn.core.model.fused import FusedStep, fused_step
from streamlearn.core.shard.snapshot import dump_model

KINDS: dict[str, Callable[[], Any]] = {
    "logistic": linear_model.LogisticRegression,
    "logistic with l2": lambda: linear_model.LogisticRegression(l2=0.3, intercept_lr=0.5),
    "logistic, clipped": lambda: linear_model.LogisticRegression(optim.SGD(3), clip_gradient=0.25),
    "logistic, saturated": lambda: linear_model.LogisticRegression(optim.SGD(300.0), intercept_init=-1.0),
    "logistic, whole numbers": lambda: linear_model.LogisticRegression(
        optim.SGD(1), l2=1, intercept_init=0, intercept_lr=0, clip_gradient=1
    ),
    "logistic that diverges": lambda: linear_model.LogisticRegression(optim.SGD(1e60), l2=1e60),
    "logistic, another beginning": lambda: linear_model.LogisticRegression(
        initializer=optim.initializers.Constant(0.7)
    ),
    "linear": linear_model.LinearRegression,
    "linear with l2": lambda: linear_model.LinearRegression(l2=0.01, intercept_lr=0.3),
    "linear, clipped": lambda: linear_model.LinearRegression(optim.SGD(0.5), clip_gradient=2),
    "linear that diverges": lambda: linear_model.LinearRegression(optim.SGD(1e80), clip_gradient=1e90),
}
ROWS: list[dict[str, Any]] = [{"a": 1.0, "b": -2.5}, {"a": 0.0, "b": 4}, {"a": 7.5, "b": 0.25}]


def made(kind: str = "logistic") -> Any:
    return preprocessing.StandardScaler() | KINDS[kind]()


def is_logistic(model: Any) -> bool:
    return isinstance(final(model), linear_model.LogisticRegression)


def final(model: Any) -> Any:
    return list(model.steps.values())[-1]


def river_predict(model: Any, x: dict[str, Any]) -> Any:
    return model.predict_proba_one(x)[True] if is_logistic(model) else model.predict_one(x)


def outcome(call: Callable[..., Any], *arguments: Any) -> str:
    """The answer with its type and bits, or the class of the error."""
    try:
        return repr(call(*arguments))
    except Exception as error:  # noqa: BLE001  (river raises many kinds, and both ways must raise the same)
        return type(error).__name__


def taught(kind: str = "logistic", rows: list[dict[str, Any]] | None = None) -> Any:
    model = made(kind)
    for x in rows or ROWS:
        river_predict(model, x)
        model.learn_one(x, True)
    return model


def fused_of(model: Any) -> FusedStep:
    step = fused_step(model)
    assert step is not None
    return step


NAMES = ["a", "b", "c", "d", "e", "é", "", "); raise SystemExit  #"]
FINITE = strategies.floats(allow_nan=False, allow_infinity=False, width=64)
COMMON = strategies.one_of(strategies.floats(-10, 10), strategies.integers(-5, 5))
VALUES = strategies.one_of(COMMON, COMMON, COMMON, FINITE, strategies.booleans(), strategies.just(-0.0))
ODD_VALUES = strategies.sampled_from(
    ["text", None, float("nan"), float("inf"), 10**400, 1e308, -1e308, 5e-324]
)
SHAPES = strategies.one_of(
    strategies.just(NAMES[:4]),
    strategies.just(NAMES[:4]),
    strategies.lists(strategies.sampled_from(NAMES), unique=True, max_size=len(NAMES)),
)
LABELS = strategies.one_of(strategies.booleans(), strategies.sampled_from([0, 1]), strategies.floats(-50, 50))
ODD_LABELS = strategies.sampled_from([None, "yes", 2, -1, 1.0, float("nan"), float("inf"), 10**400, 1e308])


@strategies.composite
def events(draw: strategies.DrawFn) -> dict[str, Any]:
    return {str(name): draw(VALUES) for name in draw(SHAPES)}


class Twins(RuleBasedStateMachine):
    """A model that goes the fused way where it can, and a twin that always goes river's way."""

    waiting: list[dict[str, Any]]

    @initialize(kind=strategies.sampled_from(list(KINDS)))
    def begin(self, kind: str) -> None:
        self.model = made(kind)
        self.twin = copy.deepcopy(self.model)
        self.fused = fused_of(self.model)
        self.waiting = []

    def both(self, given: Any, call: Callable[[Any], Any]) -> None:
        """Compare what the fused way gave with the twin's; None goes river's way in both."""
        expected = outcome(call, self.twin)
        if given is None:
            assert outcome(call, self.model) == expected
        else:
            assert repr(given) == expected

    def stepped(self, x: dict[str, Any], y: Any, reload: bool = True) -> None:
        before = pickle.dumps(self.model)
        given = self.fused.step(x, y)
        if given is None:
            assert pickle.dumps(self.model) == before
        expected = outcome(river_predict, self.twin, x), outcome(self.twin.learn_one, x, y)
        if given is None:
            assert (outcome(river_predict, self.model, x), outcome(self.model.learn_one, x, y)) == expected
            if reload:
                self.fused.reload()
        else:
            assert (repr(given), "None") == expected

    @rule(x=events(), y=LABELS)
    def event(self, x: dict[str, Any], y: Any) -> None:
        self.stepped(x, y)

    @rule(rows=strategies.lists(strategies.tuples(*[COMMON] * 4), max_size=20), y=LABELS)
    def common_events(self, rows: list[tuple[float, ...]], y: Any) -> None:
        for number, row in enumerate(rows):
            self.stepped(dict(zip(NAMES, row, strict=False)), y if number % 2 else not y)

    @rule(x=events(), y=LABELS)
    def event_without_a_reload(self, x: dict[str, Any], y: Any) -> None:
        self.stepped(x, y, reload=False)

    @rule(x=events(), y=LABELS, name=strategies.sampled_from(NAMES), value=ODD_VALUES)
    def odd_feature(self, x: dict[str, Any], y: Any, name: str, value: Any) -> None:
        self.stepped(x | {name: value}, y)

    @rule(x=events(), y=ODD_LABELS)
    def odd_label(self, x: dict[str, Any], y: Any) -> None:
        self.stepped(x, y)

    @rule(x=events())
    def predicted(self, x: dict[str, Any]) -> None:
        before = pickle.dumps(self.model)
        given = self.fused.predict(x)
        assert pickle.dumps(self.model) == before
        self.both(given, lambda model: river_predict(model, x))
        self.waiting.append(x)

    @rule(y=LABELS)
    def labelled(self, y: Any) -> None:
        if self.waiting:
            x = self.waiting.pop(0)
            self.both(self.fused.learn(x, y) or None, lambda model: model.learn_one(x, y) or True)

    @rule(x=events(), y=LABELS)
    def somebody_else_learned(self, x: dict[str, Any], y: Any) -> None:
        for model in (self.model, self.twin):
            outcome(model.learn_one, x, y)

    @rule(x=events())
    def somebody_else_scaled(self, x: dict[str, Any]) -> None:
        for model in (self.model, self.twin):
            outcome(model["StandardScaler"].learn_one, x)

    @rule(rate=strategies.sampled_from([0.001, 0.1, 1]))
    def somebody_changed_a_rate(self, rate: float) -> None:
        for model in (self.model, self.twin):
            final(model).optimizer.lr.learning_rate = rate

    @rule(l2=strategies.sampled_from([0.0, 0.02]), reload=strategies.booleans())
    def somebody_changed_the_penalty(self, l2: float, reload: bool) -> None:
        for model in (self.model, self.twin):
            final(model).l2 = l2
        if reload:
            self.fused.reload()

    @rule(way=strategies.sampled_from([copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]))
    def copied(self, way: Callable[[Any], Any]) -> None:
        kept = self.fused
        self.model, self.twin = way(self.model), way(self.twin)
        self.fused = fused_of(self.model)
        for x in ROWS:
            kept.step(x, True)  # changes the model that was left, and not its copy

    @rule()
    def fused_again(self) -> None:
        self.fused = fused_of(self.model)

    @rule()
    def reloaded(self) -> None:
        self.fused.reload()

    @invariant()
    def same_state(self) -> None:
        if hasattr(self, "twin"):
            assert pickle.dumps(self.model) == pickle.dumps(self.twin)
            assert dump_model(self.model) == dump_model(self.twin)


TestTwins = Twins.TestCase
TestTwins.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("features", [1, 2, 8, 100])
def test_a_long_stream_ends_in_the_same_bits(kind: str, features: int) -> None:
    model, twin = made(kind), made(kind)
    step, taken = fused_of(model), 0
    for number in range(300 if features < 100 else 60):
        x = {f"f{i}": ((number * 7919 + i * 104729) % 1009) / 97 - i for i in range(features)}
        y: Any = (number * 31) % 7 < 3 if is_logistic(model) else (number * 31) % 97 / 7
        given = step.step(x, y)
        expected = river_predict(twin, x)
        twin.learn_one(x, y)
        if given is None:
            given = river_predict(model, x)
            model.learn_one(x, y)
        else:
            taken += 1
        assert repr(given) == repr(expected)
        assert pickle.dumps(model) == pickle.dumps(twin)
    assert taken > 30 or "diverges" in kind


def test_a_probability_beyond_thirty_is_river_s_integer() -> None:
    model = taught()
    final(model).intercept = 99.0
    assert repr(fused_of(model).predict(ROWS[0])) == "1"
    final(model).intercept = -99.0
    assert repr(fused_of(model).predict(ROWS[0])) == "0"


@pytest.mark.parametrize("y", [None, "yes", 2, -1, 1.0, float("nan")])
def test_a_classifier_s_odd_label_goes_river_s_way(y: Any) -> None:
    refused(taught(), ROWS[0], y)


@pytest.mark.parametrize("y", [None, "3", True, float("nan"), float("inf"), 10**400, 1e308])
def test_a_regression_s_odd_label_goes_river_s_way(y: Any) -> None:
    refused(taught("linear"), ROWS[0], y)


@pytest.mark.parametrize("value", ["text", None, float("nan"), float("inf"), 10**400])
@pytest.mark.parametrize(("kind", "y"), [("linear", 1.5), ("logistic", True)])
def test_an_odd_value_goes_river_s_way(value: Any, kind: str, y: Any) -> None:
    refused(taught(kind), ROWS[0] | {"b": value}, y)


@pytest.mark.parametrize("x", [{}, {"a": 1.0, "c": 2.0}, {1: 2.0, "a": 1.0}])
def test_features_that_were_not_learned_go_river_s_way(x: dict[Any, Any]) -> None:
    refused(taught(), x, True)


def test_features_that_were_only_predicted_go_river_s_way() -> None:
    model = taught()
    model.predict_one({"a": 1.0, "c": 2.0})
    refused(model, {"a": 1.0, "c": 2.0}, True)


def refused(model: Any, x: dict[Any, Any], y: Any) -> None:
    step, state = fused_of(model), pickle.dumps(model)
    assert step.step(x, y) is None
    assert step.learn(x, y) is False
    assert pickle.dumps(model) == state
    step.reload()
    expected: Any = True if is_logistic(model) else 2.5
    assert step.step(ROWS[1], expected) is not None


def test_the_number_of_shapes_has_a_bound() -> None:
    names = [f"f{i}" for i in range(fused.MAX_SHAPES + 5)]
    model = taught(rows=[dict.fromkeys(names, 1.0)])
    step = fused_of(model)
    fitted = [step.step({name: 2.0}, True) is not None for name in names]
    assert fitted == [True] * fused.MAX_SHAPES + [False] * 5
    assert step.step({names[0]: 2.0}, True) is not None


def test_the_number_of_features_has_a_bound() -> None:
    widest = {f"f{i}": float(i) for i in range(fused.MAX_FEATURES)}
    model = taught(rows=[widest | {"one more": 1.0}])
    assert fused_of(model).step(widest, True) is not None
    assert fused_of(model).step(widest | {"one more": 1.0}, True) is None


def test_a_function_that_was_kept_does_nothing_once_the_weights_are_another_s() -> None:
    model = taught()
    kept = fused_of(model).function("step", ("a", "b"))
    final(model)._weights = copy.deepcopy(final(model)._weights)
    assert kept(ROWS[0].values(), True) is None


def test_a_model_that_can_no_longer_be_fused_goes_river_s_way_from_the_reload_on() -> None:
    model = taught()
    step = fused_of(model)
    final(model).optimizer = optim.Adam()
    assert step.step(ROWS[0], True) is None
    step.reload()
    assert "Adam" in step.disabled
    assert step.step(ROWS[0], True) is None
    final(model).optimizer = optim.SGD()
    step.reload()
    assert step.disabled == ""
    assert step.step(ROWS[0], True) is not None


SCALER = preprocessing.StandardScaler


class Mine(linear_model.LogisticRegression):
    """A class of a user's own."""


UNFIT: dict[str, Callable[[], Any]] = {
    "no pipeline": linear_model.LogisticRegression,
    "one step more": lambda: SCALER() | SCALER() | linear_model.LogisticRegression(),
    "another scaler": lambda: preprocessing.MinMaxScaler() | linear_model.LogisticRegression(),
    "another model": lambda: SCALER() | linear_model.PAClassifier(),
    "a user's class": lambda: SCALER() | Mine(),
    "a window": lambda: SCALER(window_size=5) | linear_model.LogisticRegression(),
    "no deviations": lambda: SCALER(with_std=False) | linear_model.LogisticRegression(),
    "l1": lambda: SCALER() | linear_model.LogisticRegression(l1=0.1),
    "Adam": lambda: SCALER() | linear_model.LogisticRegression(optim.Adam()),
    "a schedule": lambda: (
        SCALER() | linear_model.LogisticRegression(optim.SGD(optim.schedulers.InverseScaling(0.1)))
    ),
    "a schedule of the intercept": lambda: (
        SCALER() | linear_model.LinearRegression(intercept_lr=optim.schedulers.InverseScaling(0.1))
    ),
    "another loss": lambda: SCALER() | linear_model.LinearRegression(loss=optim.losses.Huber()),
    "weights of classes": lambda: SCALER() | linear_model.LogisticRegression(loss=optim.losses.Log(2.0)),
    "random weights": lambda: (
        SCALER() | linear_model.LinearRegression(initializer=optim.initializers.Normal(seed=1))
    ),
    "a huge rate": lambda: SCALER() | linear_model.LogisticRegression(optim.SGD(1e200)),
    "a rate that is no number": lambda: SCALER() | linear_model.LogisticRegression(optim.SGD(float("nan"))),
    "nothing to clip to": lambda: SCALER() | linear_model.LogisticRegression(clip_gradient=0),
}


@pytest.mark.parametrize("name", UNFIT)
def test_other_models_have_no_fused_step(name: str) -> None:
    model = UNFIT[name]()
    assert fused_step(model) is None
    assert fused.unfit(model)


def components(model: Any) -> Iterator[Any]:
    yield model
    yield model["StandardScaler"]
    yield final(model)
    yield final(model).optimizer
    yield final(model).optimizer.lr
    yield final(model).loss


@pytest.mark.parametrize("number", range(6))
def test_an_object_with_a_method_of_its_own_is_not_fused(number: int) -> None:
    model = made()
    list(components(model))[number].step = lambda w, g: w
    assert "attributes" in fused.unfit(model)


def test_a_class_with_a_foreign_method_is_not_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing.StandardScaler, "learn_one", lambda self, x: None)
    assert "not river's own" in fused.unfit(made())


def test_another_river_is_not_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(river, "__version__", "0.27.0")
    assert "0.27.0" in fused.unfit(made())


def test_a_scaler_that_learns_while_it_predicts_is_not_fused() -> None:
    with compose.learn_during_predict():
        assert fused.unfit(made())
    assert fused.unfit(made()) == ""


def test_the_source_is_blind_to_names_and_values() -> None:
    source = fused_source.fused_source("step", 2, True, True)
    assert source == fused_source.fused_source("step", 2, True, True)
    assert not {"'", '"'} & set(source)


MUTANTS = {
    "another root": ("t1 = t = e / v1 ** 0.5", "t1 = t = e / ((v1 * 0.5) ** 0.5 * 2 ** 0.5)"),
    "one division less": ("m0 = m0 + d / c", "m0 = m0 + d * (1 / c)"),
    "another order of the factors": ("rate * (t0 * g", "g * (rate * t0"),
    "the wrong way down": ("w1 = w1 - rate", "w1 = w1 + rate"),
    "no clipping above": ("if g > clip", "if g > clip * 9"),
    "no clipping below": ("elif g < -clip", "elif g < -clip * 9"),
    "another threshold": ("18.0", "17.0"),
    "no threshold of the probability": ("0 if z < -30 else 1 if z > 30 else ", ""),
    "the intercept at the rate of the weights": ("intercept_schedule.learning_rate * g", "rate * g"),
    "another variance": ("(d * e - v0) / c", "(d * d - v0) / c"),
    "learning from the old scale": ("t1 = t = e / v1", "t1 = t = d / v1"),
    "another order of the sum": ("z = z + w1 * ", "z = -z - w1 * "),
    "the intercept before the features": ("b = regression.intercept", "b = regression.intercept + 0.1 - 0.1"),
    "no counting of events": ("optimizer.n_iterations + 1", "optimizer.n_iterations + 0"),
    "no counting of features": ("merge(counts, counted)", "counts[k0] = counted[k0]"),
    "floats for counts": ("counts[k1] + 1", "counts[k1] + 1.0"),
    "a weight that is not written": ("w[k1] = w1", "pass"),
    "a variance that is not written": ("variances[k1] = v1", "pass"),
    "a mean that is not written": ("means[k0] = m0", "pass"),
    "the score after learning": ("return z", "return h"),
    "no penalty": ("penalty * w1", "0.0 * w1"),
    "the penalty on the intercept": ("learning_rate * g", "learning_rate * (g + penalty * b)"),
    "labels the other way": ("if y: g", "if not y: g"),
    "a gradient half as steep": ("g = 2 * (h - y)", "g = 1 * (h - y)"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_battery_finds_a_mutant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = MUTANTS[name]
    right, applied = fused_source.fused_source, []

    def mutated(*arguments: Any) -> str:
        source = right(*arguments)
        applied.append(old in source)
        return source.replace(old, new)

    fused_source.fused_maker.cache_clear()
    monkeypatch.setattr(fused_source, "fused_source", mutated)
    try:
        assert fused.battery.__wrapped__() != ""
        assert any(applied)
    finally:
        fused_source.fused_maker.cache_clear()


def test_the_battery_finds_nothing_in_the_step_as_it_is() -> None:
    assert fused.battery.__wrapped__() == ""


def test_a_battery_that_finds_a_difference_turns_the_fused_way_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "battery", lambda: "the machine is odd")
    assert fused_step(made()) is None
