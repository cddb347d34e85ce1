"""One wild reading or label, at any place and of any size, does not spoil a preset."""

import itertools
import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from river import datasets

from streamlearn.core.model.learner import Learner
from streamlearn.core.shard.snapshot import dump_model, load_model
from streamlearn.engine.model import model_template
from streamlearn.engine.presets import preset
from streamlearn.errors import BadCheckpoint
from streamlearn.features.clip import SteadyClip
from streamlearn.features.forest import FIRST, SettledForest
from streamlearn.features.labels import MAX_HELD, ConfirmedLabels
from streamlearn.features.scale import BLOCK, NEW_LEVEL, SteadyScaler
from streamlearn.features.target import SteadyTarget

Events = list[tuple[dict[str, Any], Any]]
SIZES = [sign * size for size in (1e3, 1e6, 1e9, 1e12, 1e100, 1e149) for sign in (1, -1)]
PLACES = (0, 1, 2, 5, 10, 19, 20, 25, 100, 300, 600)
SETTLED = 500
"""So many events after the wild one the score is that of a stream without it."""


# --- streams, whose score hardly depends on a single ordinary reading -----------------------------------


def line() -> Events:
    """A quantity that follows from two readings."""
    rng = random.Random(1)
    readings = [(rng.gauss(10, 3), rng.uniform(-4, 4)) for _ in range(1500)]
    return [({"a": a, "b": b}, 3 * a - 5 * b + rng.gauss(0, 1)) for a, b in readings]


def modes() -> Events:
    """A quantity with a level for each mode of a machine, and a sensor that hardly ever says 1."""
    rng = random.Random(2)
    level = {"eco": 1000.0, "boost": 1400.0}
    found: Events = []
    for _ in range(1500):
        mode, load, rare = rng.choice(["eco", "boost"]), rng.gauss(0, 1), rng.random() < 0.01
        y = level[mode] + 50 * load + rng.gauss(0, 10)
        found.append(({"mode": mode, "load": load, "rare": float(rare)}, y))
    return found


def postures() -> Events:
    """Three labels and three readings, on different scales, with gaps."""
    rng = random.Random(4)
    found: Events = []
    for _ in range(1500):
        y = rng.choice(["lie", "sit", "stand"])
        at = ["lie", "sit", "stand"].index(y)
        x = {"tilt": rng.gauss(3 * at, 1), "pulse": rng.gauss(80 + 20 * (at == 2), 8), "n": rng.randrange(4)}
        found.append(({name: value for name, value in x.items() if rng.random() > 0.1}, y))
    return found


def phishing() -> Events:
    return [(x, y) for x, y in datasets.Phishing()]


def shuttle() -> Events:
    return [(x, bool(y)) for x, y in datasets.Shuttle().take(2500)]


def machine() -> Events:
    """One in twenty readings is odd in one of two sensors; a third one is always 0."""
    rng = random.Random(9)
    found: Events = []
    for _ in range(2500):
        y = rng.random() < 0.05
        x = {"a": rng.gauss(5 if y else 0, 1), "b": rng.gauss(3e6, 1e5) * (1.5 if y else 1), "off": 0}
        found.append((x, y))
    return found


STREAMS: list[tuple[str, Callable[[], Events]]] = [
    *(("regression", line), ("regression", modes)),
    *(("classification", phishing), ("classification", postures)),
    *(("sensors", phishing), ("sensors", postures)),
    *(("anomaly", shuttle), ("anomaly", machine)),
]


def area(pairs: list[tuple[float, bool]]) -> float:
    """The area under the ROC curve; equal scores count half."""
    yes = sorted(score for score, y in pairs if y)
    no = sorted(score for score, y in pairs if not y)
    ranked = sorted(itertools.chain(yes, no))
    first = {score: at for at, score in reversed(list(enumerate(ranked)))}
    last = {score: at for at, score in enumerate(ranked)}
    ranks = sum((first[score] + last[score]) / 2 for score in yes)
    return (ranks - len(yes) * (len(yes) - 1) / 2) / (len(yes) * len(no))


def answers(name: str, stream: Events, model: Any = None) -> list[Any]:
    learner = Learner(preset(name) if model is None else model)
    found = []
    for x, y in stream:
        answer = learner.predict(x, y)
        assert answer.finite
        found.append(answer.detail if name == "anomaly" else answer.prediction)
        learner.learn(x, y)
    return found


def score(name: str, stream: Events, found: list[Any], start: int) -> float:
    """MAE, accuracy, or area, of the answers from `start` on."""
    pairs = [(answer, y) for answer, (_, y) in zip(found, stream, strict=True)][start:]
    if name == "anomaly":
        return area(pairs)
    if name == "regression":
        return sum(abs(answer - y) for answer, y in pairs) / len(pairs)
    return sum(answer == y for answer, y in pairs) / len(pairs)


def wild_events(name: str, x: dict[str, Any], y: Any) -> Iterable[tuple[str, dict[str, Any], Any]]:
    """The variants of an event in which one thing, or all readings, are wild, with a word for each."""
    numbers = [part for part, value in x.items() if not isinstance(value, str)]
    for size in SIZES:
        for part in numbers:
            yield f"{part} = {size}", x | {part: size}, y
        yield f"all = {size}", x | dict.fromkeys(numbers, size), y
        yield f"extra = {size}", x | {"extra": size}, y
        if name == "regression":
            yield f"label = {size}", x, size
    for part in x:
        yield f"{part} is absent", {other: value for other, value in x.items() if other != part}, y
        if part in numbers:
            yield f"{part} = 0", x | {part: 0}, y
    yield "nothing but an odd one", {"odd": 1.0}, y
    if name in ("classification", "sensors"):
        yield "label is another", x, not y if isinstance(y, bool) else "sit" if y != "sit" else "lie"
        yield "label is odd", x, 7 if isinstance(y, bool) else "?"
    elif name == "regression":
        yield "label = 0", x, 0.0


def check_grid(name: str, stream: Events, every: int) -> None:
    plain = answers(name, stream)
    cases = [(at, *event) for at in PLACES for event in wild_events(name, *stream[at])]
    early = [case for case in cases if case[0] in (0, 10) and case[1] == "all = 1000000000000.0"]
    for at, word, x, y in [*early, *cases[random.Random(name).randrange(every) :: every]]:
        changed = [*stream[:at], (x, y), *stream[at + 1 :]]
        found, start = answers(name, changed), at + SETTLED
        usual, now = score(name, stream, plain, start), score(name, changed, found, start)
        change = abs(now - usual) / usual
        assert change < 0.05, f"{name}, event {at}, {word}: {usual} becomes {now}"


@pytest.mark.parametrize(("name", "stream"), STREAMS)
def test_one_wild_value_does_not_spoil_a_preset(name: str, stream: Callable[[], Events]) -> None:
    check_grid(name, stream(), every=999 if name == "sensors" else 299)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stream"), STREAMS)
def test_no_single_wild_value_spoils_a_preset(name: str, stream: Callable[[], Events]) -> None:
    check_grid(name, stream(), every=29)


# --- the same of some wild values, and what a preset goes on with ---------------------------------------


def test_a_sensor_that_is_off_then_wild_then_well_is_learned() -> None:
    """300 readings of 0, one of 1e12, then readings: as good as without the one."""
    stream = [(x | {"a": 0.0} if n < 300 else x, y) for n, (x, y) in enumerate(line())]
    wild = [(x | {"a": 1e12} if n == 300 else x, y) for n, (x, y) in enumerate(stream)]
    errors = [score("regression", events, answers("regression", events), 800) for events in (stream, wild)]
    assert errors[1] == pytest.approx(errors[0], rel=0.05)
    assert errors[1] < 1.5  # the noise alone is 0.8, the mean as the answer 12.7


def test_a_new_level_of_the_labels_is_learned_within_a_thousand_events() -> None:
    stream = [(x, y if n < 500 else 1e6 + 1000 * y) for n, (x, y) in enumerate(line() + line())]
    assert score("regression", stream, answers("regression", stream), 1500) < 1500


@pytest.mark.parametrize("name", ["regression", "anomaly", "classification", "sensors"])
def test_a_preset_that_met_wild_values_comes_back_from_a_checkpoint_as_it_was(name: str) -> None:
    stream = (line() if name == "regression" else postures())[:500]
    rng = random.Random(8)
    for n in (3, 12, 100, 101, 290, 299, 320):
        x, y = stream[n]
        stream[n] = dict.fromkeys(x, rng.choice(SIZES)), 1e12 if name == "regression" else y
    for cut in (4, 13, 300):
        fresh = model_template("app", f"preset:{name}", {}, [])
        model = fresh.learner().model
        answers(name, stream[:cut], model)
        restored = load_model(dump_model(model), fresh.trusted)
        assert answers(name, stream[cut:], restored) == answers(name, stream[cut:], model)


@pytest.mark.parametrize("name", ["classification", "sensors"])
def test_a_burst_of_wild_readings_does_not_spoil_a_classifier(name: str) -> None:
    stream = phishing()
    wild = [(dict.fromkeys(x, 1e12) if 200 <= n < 230 else x, y) for n, (x, y) in enumerate(stream)]
    usual, now = (score(name, events, answers(name, events), 700) for events in (stream, wild))
    assert now > usual - 0.05


@pytest.mark.parametrize("name", ["regression", "anomaly"])
def test_the_state_of_an_earlier_version_is_refused_by_name(name: str) -> None:
    fresh = model_template("app", f"preset:{name}", {}, [])
    model = fresh.learner().model
    pickled = dump_model(model).replace(b"whole", b"while")
    with pytest.raises(BadCheckpoint, match="SteadyScaler is one of an earlier version: train the model"):
        load_model(pickled, fresh.trusted)


# --- the scaler -----------------------------------------------------------------------------------------


def scaler_after(values: Iterable[float], **options: Any) -> SteadyScaler:
    scaler = SteadyScaler(**options)
    for value in values:
        scaler.learn_one({"a": value})
    return scaler


def scaled(scaler: SteadyScaler, value: float) -> float:
    return scaler.transform_one({"a": value})["a"]


@pytest.mark.parametrize("place", [0, 4, 5, 10, 19, 20, 25, 600])
@pytest.mark.parametrize("size", [1e3, -1e12, 1e149])
def test_a_wild_reading_leaves_the_scale_as_it_was(place: int, size: float) -> None:
    rng = random.Random(3)
    values = [rng.gauss(20, 5) for _ in range(place + 200)]
    usual = scaler_after(values)
    scaler = scaler_after([*values[:place], size, *values[place + 1 :]])
    assert scaled(scaler, 20) == pytest.approx(scaled(usual, 20), abs=0.1)
    assert scaled(scaler, 25) - scaled(scaler, 20) == pytest.approx(1, rel=0.25)


def test_a_burst_of_wild_readings_is_a_step_aside() -> None:
    """An error code for half a minute."""
    rng = random.Random(3)
    scaler = scaler_after([*(rng.gauss(20, 5) for _ in range(300)), *[-9999.0] * 30])
    assert 0.5 < scaled(scaler, 25) - scaled(scaler, 20) < 1.2


def test_a_new_level_or_spread_is_learned_from_a_block() -> None:
    rng = random.Random(5)
    idle = [rng.gauss(0, 1e-3) for _ in range(10_000)]
    scaler = scaler_after(idle)
    for n in range(1000):
        value = rng.uniform(0, 100)
        scaler.learn_one({"a": value})
        if n > NEW_LEVEL + BLOCK:
            assert abs(scaled(scaler, value)) < 5
    assert scaled(scaler, 79) - scaled(scaler, 50) == pytest.approx(1, rel=0.2)


def test_values_that_are_always_far_off_are_no_new_level() -> None:
    """A hundredth of the readings is an error code, for as long as it likes."""
    rng = random.Random(6)
    values = [-9999.0 if rng.random() < 0.01 else rng.gauss(20, 5) for _ in range(20_000)]
    scaler = scaler_after(values)
    assert 0.6 < scaled(scaler, 25) - scaled(scaler, 20) < 1.2


def test_heavy_tails_keep_their_order() -> None:
    rng = random.Random(7)
    scaler = scaler_after(rng.gauss(0, 1) for _ in range(1000))
    passed = [scaled(scaler, value) for value in (1, 4, 6, 19, 25, 100, 1e4, 1e6)]
    assert passed == sorted(set(passed))
    assert passed[3] == pytest.approx(19 * passed[0], rel=0.1)
    assert scaled(scaler, 1e149) == 40


def test_the_other_values_of_a_constant_wait_until_some_agree() -> None:
    scaler = scaler_after([0.0] * 300 + [1e12] + [0.0] * 50)
    assert scaled(scaler, 1e12) == scaled(scaler, 1.0) == 0
    scaler = scaler_after([7.0] * 100 + [9.0, 7, 7, 7, 1e12, 7, 7, 7, 7, 9, 7, 7, 7, 7, 9, 7, 7, 7, 9, 7])
    assert (scaled(scaler, 7.0), scaled(scaler, 9.0), scaled(scaler, 5.0)) == (0, 1, -1)


def test_what_a_constant_never_was_stands_out_from_zero_to_one() -> None:
    scaler = scaler_after([7.0] * 100, unit=True)
    assert [scaled(scaler, value) for value in (6, 7, 1e9)] == [0, 0.5, 1]


# --- the other parts ------------------------------------------------------------------------------------


def clip_after(values: Iterable[float], memory: int = 10_000) -> SteadyClip:
    clip = SteadyClip(memory)
    for value in values:
        clip.learn_one({"a": value})
    return clip


def test_numbers_within_a_range_pass_as_they_are_and_one_alone_does_not_widen_it() -> None:
    values = [n % 10 for n in range(100)]
    for at in (0, 3, 9, 10, 50):
        clip = clip_after([*values[:at], -1e12, *values[at:]])
        assert clip.transform_one({"a": 4}) == {"a": 4}
        assert clip.transform_one({"a": 13, "b": True, "c": "text"}) == {"a": 13, "b": True, "c": "text"}
        assert clip.transform_one({"a": 1e9}) == {"a": 9}
        assert clip.transform_one({"a": -1e9}) == {"a": 0}
    clip = clip_after([*values, 1e3, 1.1e3, 1.2e3])
    assert clip.transform_one({"a": 1.2e3}) == {"a": 1.2e3}, "three are a new range"


def test_an_error_code_is_no_range_unless_it_prevails() -> None:
    rng = random.Random(4)
    values = [rng.gauss(20, 5) for _ in range(2000)]
    clip = clip_after([*values[:500], *[1e12] * 60, *values[500:1000]])
    assert 30 < clip.transform_one({"a": 1e12})["a"] < 40
    clip = clip_after(1e12 if n % 50 == 49 else value for n, value in enumerate(values))
    assert 30 < clip.transform_one({"a": 1e12})["a"] < 40
    clip = clip_after([*values, *(1e6 * value for value in values[:150])])
    assert clip.transform_one({"a": 2e7}) == {"a": 2e7}, "a new level is a new range"


def test_a_range_is_forgotten_after_a_while() -> None:
    clip = clip_after([1e9, 1e9, 1e9, *(n % 10 for n in range(97))], memory=100)
    assert clip.transform_one({"a": 1e8}) == {"a": 1e8}
    for n in range(200):
        clip.learn_one({"a": n % 10})
    assert clip.transform_one({"a": 1e8}) == {"a": 9}


def test_a_label_is_learned_from_its_third_example_on() -> None:
    class Listener(SettledForest):
        _multiclass = True

    taught: list[tuple[dict[str, Any], Any]] = []
    model = ConfirmedLabels(Listener())
    model.model.learn_one = lambda x, y: taught.append((x, y))
    for n, y in enumerate(["up", "down", "up", "odd", "up", "up", "down", "down"]):
        model.learn_one({"n": n}, y)
    assert [(x["n"], y) for x, y in taught] == [
        *((0, "up"), (2, "up"), (4, "up"), (5, "up")),
        *((1, "down"), (6, "down"), (7, "down")),
    ]
    for n in range(1000):
        model.learn_one({"n": n}, f"label {n}")
    assert len(model._held) == MAX_HELD


def test_a_steady_target_answers_with_the_median_before_it_knows_a_spread() -> None:
    from river import linear_model

    model = SteadyTarget(linear_model.LinearRegression())
    assert model.predict_one({"a": 1}) == 0
    for y in (10, 1e9, 12):
        model.learn_one({"a": 1}, y)
    assert model.predict_one({"a": 1}) == 12


@pytest.mark.parametrize("first", [{}, {"odd": 0.5}, {"a": 0.5}, {"a": 0.1, "b": 0.9, "odd": 0.3}])
def test_the_first_event_does_not_decide_what_a_forest_looks_at(first: dict[str, float]) -> None:
    rng = random.Random(1)
    forest = SettledForest()
    forest.learn_one(first)
    for _ in range(600):
        forest.learn_one({"a": rng.gauss(0.5, 0.05), "b": rng.gauss(0.5, 0.05)})
    assert forest._features == {"a", "b"}
    for name in ("a", "b"):
        assert forest.score_one({"a": 0.5, "b": 0.5} | {name: 0.95}) > forest.score_one({"a": 0.5, "b": 0.5})


def test_a_forest_looks_at_features_that_come_to_stay_and_drops_those_that_are_gone() -> None:
    rng = random.Random(1)
    forest = SettledForest(window=100)
    for n in range(1000):
        x = {"a": rng.gauss(0.5, 0.05)}
        if n > 300:
            x = {"b": rng.gauss(0.5, 0.05)}
        if n % 150 == 7:
            x["odd"] = 0.5
        forest.learn_one(x)
        if n >= FIRST + 100:
            assert 0 < forest.score_one(x) <= 1, "there is always a forest with a window behind it"
    assert forest._features == {"b"}
    assert forest._next_forest is None
