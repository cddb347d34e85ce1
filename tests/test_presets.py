"""Presets take what sensors send: gaps, strings, booleans, new and lost features, wild readings, drift."""

import doctest
import importlib.util
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from river import base, datasets, metrics
from test_selfcheck import era  # the era of a default configuration

from streamlearn.core.model.learner import Learner
from streamlearn.core.records import Record
from streamlearn.core.shard.snapshot import dump_model, load_model
from streamlearn.engine.model import model_template
from streamlearn.engine.presets import PRESETS, preset
from streamlearn.engine.self_check import check_model
from streamlearn.env import RealEnv
from streamlearn.features import clip, forest, gaps, labels, rehearse, scale, target
from streamlearn.features.gaps import LastKnown
from streamlearn.features.rehearse import MAX_LABELS, Rehearsal
from streamlearn.features.scale import SteadyScaler

Events = list[tuple[dict[str, Any], Any]]
ALL = list(PRESETS)
ROOT = Path(__file__).parent.parent


def events(name: str, seed: int = 3, count: int = 2000) -> Iterator[tuple[dict[str, Any], Any]]:
    """A machine whose sensors drop a fifth of their values, over 18 orders of magnitude. Half-way a sensor
    and a mode appear and the label turns around; at three quarters a sensor disappears.
    """
    rng = random.Random(seed)
    for n in range(count):
        x: dict[str, Any] = {
            "temp": rng.gauss(20, 5),
            "pressure": rng.gauss(1e9, 1e8),
            "tiny": rng.gauss(0, 1e-9),
            "mode": rng.choice(["eco", "boost", "off"]),
            "on": rng.random() < 0.5,
            "count": rng.randrange(5),
        }
        y: Any = (x["temp"] > 20) != (n > count // 2)
        if name == "regression":
            y = 1e4 + 100 * x["temp"] + 50 * (x["mode"] == "boost")
        if n > count // 2:
            x |= {"late": rng.random() * 1e4, "late_mode": rng.choice("ab")}
        if n > 3 * count // 4:
            del x["pressure"]
        yield {part: value for part, value in x.items() if rng.random() > 0.2}, y


def answers(learner: Learner, stream: Events) -> list[Any]:
    found = []
    for x, y in stream:
        answer = learner.predict(x, y)
        assert answer.finite
        found.append((answer.prediction, answer.detail))
        learner.learn(x, y)
    return found


def learner_of(name: str) -> Learner:
    return model_template("app", f"preset:{name}", {}, []).learner()


@pytest.mark.parametrize("name", ALL)
def test_a_preset_takes_gaps_strings_booleans_late_and_lost_features(name: str) -> None:
    stream = list(events(name, count=1200))
    found = answers(learner_of(name), stream)
    assert found == answers(learner_of(name), stream)
    plain = Learner(preset(name))
    assert found == answers(plain, stream), "a plain river loop gives the same bits"


@pytest.mark.parametrize("name", ALL)
def test_a_preset_comes_back_from_a_checkpoint_as_it_was(name: str) -> None:
    stream = list(events(name, count=900))
    fresh = model_template("app", f"preset:{name}", {}, [])
    learner = fresh.learner()
    answers(learner, stream[:600])
    restored = Learner(load_model(dump_model(learner.model), fresh.trusted))
    assert answers(restored, stream[600:]) == answers(learner, stream[600:])


@pytest.mark.parametrize("name", ["classification", "sensors"])
def test_many_labels_that_are_texts_come_back_in_their_order(name: str) -> None:
    """River's tree goes through a set of them, and pickled sets change their order."""
    rng = random.Random(2)
    fresh = model_template("app", f"preset:{name}", {}, [])
    straight, reloaded = fresh.learner(), fresh.learner()
    for n in range(600):
        speaker = rng.randrange(9)
        x, y = {f"c{k}": rng.gauss(speaker * k % 5, 1) for k in range(4)}, f"speaker-{speaker}"
        assert straight.predict(x, y) == reloaded.predict(x, y), n
        straight.learn(x, y)
        reloaded.learn(x, y)
        if n % 50 == 49:
            reloaded = Learner(load_model(dump_model(reloaded.model), fresh.trusted))


@pytest.mark.parametrize("name", ALL)
def test_a_preset_passes_the_self_check(name: str) -> None:
    fresh = model_template("app", f"preset:{name}", {}, [])
    values = [orjson.dumps({"features": x, "label": y}) for x, y in events(name, count=400)]
    check_model(
        RealEnv(),
        fresh,
        era(),
        [Record("events", 0, n, 1 << 50, None, value) for n, value in enumerate(values)],
    )
    check_model(RealEnv(), fresh, era(), [])


@pytest.mark.parametrize("name", ALL)
def test_events_without_any_feature_are_taken_too(name: str) -> None:
    stream: Events = [({}, True if name != "regression" else 1.5)] * 30 + list(events(name, count=100))
    answers(learner_of(name), stream)


@pytest.mark.parametrize(("name", "least"), [("classification", 0.7), ("sensors", 0.7)])
def test_a_classifier_follows_a_label_that_turned_around(name: str, least: float) -> None:
    stream = [({"temp": x["temp"]}, y) for x, y in events(name, count=4000) if "temp" in x]
    found = answers(learner_of(name), stream)
    tail = [(answer, y) for (answer, _), (_, y) in zip(found, stream, strict=True)][-600:]
    assert sum(answer == y for answer, y in tail) / len(tail) > least


def test_regression_is_of_the_scale_of_its_labels_whatever_the_scale_of_its_features() -> None:
    stream = list(events("regression"))
    found = answers(learner_of("regression"), stream)
    error, naive = metrics.MAE(), metrics.MAE()
    for (prediction, _), (_, y) in list(zip(found, stream, strict=True))[1000:]:
        error.update(y, prediction)
        naive.update(y, 1e4 + 2000)
    assert error.get() < 0.8 * naive.get()


def scored(wild: bool) -> float:
    """The area under the ROC curve of `preset:anomaly` on Shuttle, by ranks."""
    model, pairs = preset("anomaly"), []
    for n, (x, y) in enumerate(datasets.Shuttle().take(6000)):
        readings = dict.fromkeys(x, 1e12) if wild and n == 600 else x
        pairs.append((model.score_one(readings), y))
        model.learn_one(readings)
    pairs.sort(key=lambda pair: pair[0])
    yes = sum(y for _, y in pairs)
    ranks = sum(rank for rank, (_, y) in enumerate(pairs) if y)
    return (ranks - yes * (yes - 1) / 2) / (yes * (len(pairs) - yes))


def test_anomalies_are_found_also_after_one_wild_reading() -> None:
    assert scored(wild=False) > 0.95
    assert scored(wild=True) > 0.95


# --- what they reach, as docs/presets.md says ------------------------------------------------------------


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("presets_script", ROOT / "scripts" / "presets.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_presets_beat_the_baselines_with_late_labels(script: Any) -> None:
    for name in ("classification", "sensors"):
        of = script.measured(script.by_rows("Phishing", (name,)), name).of
        kappa = {who: values["cohen_kappa"] for who, values in of.items()}
        assert kappa["model"] > max(kappa["no_change"], kappa["prior"]) + 0.5
    of = script.measured(script.water(), "regression").of
    for metric in ("mae", "rmse"):
        assert of["model"][metric] < min(of["no_change"][metric], of["mean"][metric])
    assert of["model"]["answered"] == of["no_change"]["answered"] == of["mean"]["answered"]


@pytest.mark.slow
def test_the_table_in_the_docs_is_what_the_script_prints(
    script: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    script.main(str(tmp_path))

    def rows(text: str) -> list[list[str]]:
        """The cells of each line with a metric, without the last, which is a time."""
        return [line.split("|")[1:-2] for line in text.splitlines() if re.search(r"\| -?\d\.\d{3} \|", line)]

    printed, written = rows(capsys.readouterr().out), rows((ROOT / "docs" / "presets.md").read_text())
    assert [cells[:3] for cells in printed] == [cells[:3] for cells in written]
    for one, other in zip(printed, written, strict=True):
        assert [*map(float, one[3:])] == pytest.approx([*map(float, other[3:])], abs=0.02)


# --- the parts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [clip, forest, gaps, labels, rehearse, scale, target])
def test_the_examples_in_the_parts_are_right(module: Any) -> None:
    assert doctest.testmod(module) == (0, doctest.testmod(module).attempted)
    assert doctest.testmod(module).attempted > 0


def test_a_gap_is_filled_for_a_while_and_what_is_kept_is_bounded() -> None:
    filled = LastKnown(max_gap=3)
    for n in range(50):
        filled.learn_one({f"once {n}": n, "steady": n})
    assert filled.transform_one({}) == {
        "once 46": 46,
        "once 47": 47,
        "once 48": 48,
        "once 49": 49,
        "steady": 49,
    }
    x = {"steady": 7, "once 49": 0, "once 48": 0, "once 47": 0, "once 46": 0}
    assert filled.transform_one(x) is x
    assert list(filled.transform_one({"steady": 7})) == ["steady", "once 46", "once 47", "once 48", "once 49"]


class Listener(base.Classifier):
    """Remembers what it was taught."""

    def __init__(self) -> None:
        self.taught: Events = []

    def learn_one(self, x: dict[str, Any], y: Any) -> None:
        self.taught.append((x, y))

    def predict_proba_one(self, x: dict[str, Any]) -> dict[Any, float]:
        return {}


def test_each_label_is_learned_at_once_and_the_newest_of_each_come_again() -> None:
    model = Rehearsal(Listener(), per_label=10, times=3)
    blocks = [({"n": n}, "first" if n < 500 else "second") for n in range(1000)]
    for x, y in blocks:
        model.learn_one(x, y)
    taught = model.model.taught
    assert taught[::4] == blocks
    again = [pair for at, pair in enumerate(taught[-1600:]) if at % 4]
    assert {x["n"] for x, y in again if y == "first"} == set(range(490, 500))
    assert sum(y == "first" for _, y in again) == pytest.approx(600, abs=60)


def test_examples_are_kept_of_the_labels_seen_last_only() -> None:
    model = Rehearsal(Listener(), per_label=2, times=1)
    for n in range(1000):
        model.learn_one({"n": n}, f"label {n}")
    assert all(int(y[6:]) > n - MAX_LABELS - 1 for n, (_, y) in enumerate(model.model.taught[1::2]))


def test_labels_in_blocks_do_not_make_a_model_forget() -> None:
    """Four postures, each held for 100 events, whose label is known when the next begins."""
    hits = dict.fromkeys(("classification", "sensors"), 0)
    for name in hits:
        rng, model, held = random.Random(1), preset(name), []
        for block in range(60):
            y = "abcd"[rng.randrange(4)]
            for _ in range(100):
                x = {f"angle {n}": rng.gauss("abcd".index(y) * (n + 1) % 4, 1) for n in range(3)}
                hits[name] += block >= 20 and model.predict_one(x) == y
                held.append((x, y))
            while held:
                model.learn_one(*held.pop(0))
    assert hits["sensors"] > 0.75 * 4000
    assert hits["sensors"] > 1.1 * hits["classification"]


def test_a_new_level_is_learned_and_a_spike_is_not() -> None:
    rng = random.Random(1)
    scaler = SteadyScaler()
    for _ in range(1000):
        scaler.learn_one({"a": rng.gauss(0, 1)})
    before = scaler.transform_one({"a": 2.0})["a"]
    scaler.learn_one({"a": 1e300})
    assert scaler.transform_one({"a": 2.0})["a"] == pytest.approx(before, rel=0.03)
    for _ in range(5000):
        scaler.learn_one({"a": 1e6 + rng.gauss(0, 1)})
    assert abs(scaler.transform_one({"a": 1e6})["a"]) < 2


@pytest.mark.parametrize("value", [1e308, -1e308, 2**63 - 1, 0, True])
def test_scaled_numbers_are_always_within_the_limit(value: float) -> None:
    scaler = SteadyScaler(unit=True)
    for n in range(30):
        scaler.learn_one({"a": value if n % 2 else 1.0})
        assert 0 <= scaler.transform_one({"a": value})["a"] <= 1
