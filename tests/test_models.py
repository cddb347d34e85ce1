"""From `[model]` to a fresh model: built, seeded, versioned, or refused with what would be right."""

import inspect
import json
import linecache
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from random import Random
from typing import Any

import pytest
import river.api
from river import (
    anomaly,
    base,
    cluster,
    ensemble,
    forest,
    linear_model,
    multiclass,
    naive_bayes,
    neighbors,
    optim,
    preprocessing,
    tree,
)

from streamlearn.core.shard.snapshot import dump_model, load_model
from streamlearn.engine.model import ModelTemplate, model_template, version_of
from streamlearn.engine.presets import preset
from streamlearn.errors import ConfigError

USER_MODULE = """
import random
from river import base, model_selection, tree, preprocessing
THRESHOLD = 0.5
class Mine(base.Classifier):
    def __init__(self, size=1): self.size = size
    def learn_one(self, x, y): pass
    def predict_one(self, x): return True
def build(depth=3): return preprocessing.StandardScaler() | tree.HoeffdingTreeClassifier(max_depth=depth)
def broken(): raise OSError("no disk")
def unseeded():
    model = Mine()
    model.rng = random.Random()
    return model
def with_lambda():
    model = Mine()
    model.rule = lambda x: x
    return model
ready = Mine(7)
class Inner:
    model = Mine(8)
def bandit():
    kind = model_selection.BanditClassifier
    return kind(**next(iter(kind._unit_test_params())))
"""


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the user's module, `user_models`, that can be imported."""
    (tmp_path / "user_models.py").write_text(USER_MODULE)
    (tmp_path / "broken_module.py").write_text("1/0")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "user_models", raising=False)
    return tmp_path


def fresh(use: str = "", *steps: Any, **args: Any) -> ModelTemplate:
    return model_template("app", use, args, list(steps))


def built(*arguments: Any, **args: Any) -> Any:
    return fresh(*arguments, **args).learner().model


# --- building -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "args", "expected"),
    [
        ("river.tree:HoeffdingTreeClassifier", {"grace_period": 77}, ("grace_period", 77)),
        ("user_models:Mine", {"size": 3}, ("size", 3)),
        ("user_models:Mine", {}, ("size", 1)),
        ("user_models:ready", {}, ("size", 7)),
        ("user_models:Inner.model", {}, ("size", 8)),
    ],
)
@pytest.mark.usefixtures("user")
def test_use_names_a_class_a_factory_or_a_model(use: str, args: dict[str, Any], expected: Any) -> None:
    found = fresh(use, **args)
    name, value = expected
    assert (found.name, getattr(found.learner().model, name)) == (use, value)


@pytest.mark.usefixtures("user")
def test_a_factory_takes_arguments_and_each_learner_is_a_copy_of_its_own() -> None:
    found = fresh("user_models:build", depth=9)
    one, two = found.learner().model, found.learner().model
    assert one["HoeffdingTreeClassifier"].max_depth == 9
    one.learn_one({"a": 1.0}, True)
    assert two.predict_proba_one({"a": 1.0}) == {}


@pytest.mark.usefixtures("user")
def test_a_model_whose_parts_change_a_little_in_a_pickle_is_the_same_when_it_is_built_again() -> None:
    assert fresh("user_models:bandit").version == fresh("user_models:bandit").version


def test_steps_and_arguments_may_nest() -> None:
    model = built(
        "",
        {"use": "preprocessing.StandardScaler"},
        {"use": "linear_model.LogisticRegression", "optimizer": {"use": "optim.SGD", "lr": 0.25}},
    )
    assert model["LogisticRegression"].optimizer.learning_rate == 0.25
    bagged = built(
        "river.ensemble:BaggingClassifier", model={"use": "river.naive_bayes:GaussianNB"}, n_models=2
    )
    assert [type(one) for one in bagged] == [naive_bayes.GaussianNB] * 2
    voting = built("river.ensemble:VotingClassifier", models=[{"use": "naive_bayes.GaussianNB"}] * 2)
    assert [type(one) for one in voting] == [naive_bayes.GaussianNB] * 2


@pytest.mark.parametrize("name", ["classification", "regression", "anomaly"])
def test_each_preset_serves_its_task_as_a_plain_river_loop_would(name: str) -> None:
    learner, plain = fresh(f"preset:{name}").learner(), preset(name)
    assert learner.task == name
    predict = "score_one" if name == "anomaly" else "predict_one"
    for n in range(300):
        x, y = {"a": n % 7 / 7, "b": n % 5 / 5}, n % 3 == 0
        answer = learner.predict(x, y)
        assert (answer.detail if name == "anomaly" else answer.prediction) == getattr(plain, predict)(x)
        learner.learn(x, y)
        plain.learn_one(*((x,) if name == "anomaly" else (x, y)))


# --- refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "args", "says"),
    [
        ("preset:nope", {}, r"presets classification, regression, anomaly, sensors"),
        ("preset:anomaly", {"a": 1}, r"takes no arguments; use steps"),
        ("nonsense", {}, r"'nonsense' is not a model. Give preset:classification"),
        (":x", {}, r"is not a model"),
        ("no_such_module:x", {}, r"importing no_such_module raised ModuleNotFoundError.*--app-dir"),
        ("broken_module:x", {}, r"importing broken_module raised ZeroDivisionError"),
        ("river.tree:Nope", {}, r"river.tree has no 'Nope'"),
        ("river.tree:HoeffdingTreeClassifier", {"dept": 1}, r"raised TypeError: .*'dept'"),
        ("user_models:broken", {}, r"user_models:broken' raised OSError: no disk"),
        ("user_models:ready", {"size": 1}, r"is a model already, so it takes no arguments"),
        ("user_models:with_lambda", {}, r"cannot be saved.*lambda.*functions at the top of a module"),
        ("user_models:unseeded", {}, r"unseeded is another one each time it is built.*seed"),
        (
            "river.multiclass:OutputCodeClassifier",
            {"classifier": {"use": "dummy.PriorClassifier"}, "code_size": 6, "coding_method": "exact"},
            r"another one each time it is built",
        ),
        ("user_models:THRESHOLD", {}, r"float is neither a river classifier"),
        ("river.cluster:ODAC", {}, r"ODAC builds a hierarchy"),
        (
            "river.preprocessing:StandardScaler",
            {},
            r"StandardScaler is neither.*give one of these",
        ),
    ],
)
@pytest.mark.usefixtures("user")
def test_what_cannot_be_a_model_is_refused_with_what_would_be_right(
    use: str, args: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        fresh(use, **args)


def test_a_wrong_step_is_named_by_its_place() -> None:
    with pytest.raises(
        ConfigError, match=r"\[model\] steps\[1\] use = 'tree.HoeffdingTreeClassifier' raised"
    ):
        fresh("", {"use": "preprocessing.StandardScaler"}, {"use": "tree.HoeffdingTreeClassifier", "x": 1})
    with pytest.raises(ConfigError, match=r"river.trees"):
        fresh("", {"use": "trees.HoeffdingTreeClassifier"})


# --- seeds and versions ---------------------------------------------------------------------------------

UNSEEDED: dict[str, Any] = {
    "forest": forest.ARFClassifier,
    "mondrian": forest.AMFClassifier,
    "patches": ensemble.SRPClassifier,
    "half space": lambda: preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(),
    "neighbours": neighbors.KNNClassifier,
    "bagging": lambda: ensemble.BaggingClassifier(tree.HoeffdingAdaptiveTreeClassifier(seed=None)),
    "k-means": cluster.KMeans,
    "initializer": lambda: linear_model.LogisticRegression(initializer=optim.initializers.Normal()),
}


@pytest.mark.parametrize("name", UNSEEDED)
def test_a_model_without_a_seed_is_the_same_every_time_it_is_built(name: str) -> None:
    one, two = (model_template("app", "", {}, [], UNSEEDED[name]()) for _ in range(2))
    other = model_template("other", "", {}, [], UNSEEDED[name]())
    assert (one.version, one.pickled) == (two.version, two.pickled)
    assert other.pickled != one.pickled


def test_a_given_seed_stays() -> None:
    found = model_template("app", "", {}, [], forest.ARFClassifier(seed=5))
    assert load_model(found.pickled).seed == 5


PROBE = """
import json, sys
if len(sys.argv) > 1: import decimal, xml.dom.minidom; kept = [object() for _ in range(int(sys.argv[1]))]
from itertools import islice
from river import datasets
from streamlearn.engine.model import model_template
found = []
for use in ("river.forest:ARFClassifier", "user_models:build", "user_models:Mine"):
    fresh = model_template("app", use, {}, [])
    learner = fresh.learner()
    answers = []
    for x, y in islice(datasets.Phishing(), 100):
        answers.append(repr(learner.predict(x, y).detail))
        learner.learn(x, y)
    found.append((fresh.version, answers))
print(json.dumps(found))
"""


def test_other_processes_build_the_same_version_and_get_the_same_answers(user: Path) -> None:
    found = []
    for hash_seed, clutter in (("0", []), ("1", ["1000"]), ("random", ["12345"])):
        path = os.pathsep.join([str(user), str(Path(__file__).parent.parent)])
        done = subprocess.run(
            [sys.executable, "-c", PROBE, *clutter],
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
            capture_output=True,
            check=True,
        )
        found.append(json.loads(done.stdout))
    assert found[0] == found[1] == found[2]


def holding(part: Any) -> Any:
    model = naive_bayes.GaussianNB()
    model.part = part
    return model


@pytest.mark.parametrize(
    "variants",
    [
        [holding(part) for part in (1, True, 1.0, "1", (1,), [1], {1}, {1: 1}, None, int, float)],
        [holding(part) for part in (defaultdict(int), defaultdict(float), Random(1), Random(2))],
        [
            tree.HoeffdingTreeClassifier(),
            tree.HoeffdingTreeClassifier(delta=1e-6),
            tree.HoeffdingTreeClassifier(splitter=tree.splitter.GaussianSplitter(5)),
            tree.HoeffdingTreeClassifier(nominal_attributes=["a"]),
            tree.ExtremelyFastDecisionTreeClassifier(),
        ],
        [
            linear_model.LogisticRegression(),
            linear_model.LogisticRegression(optim.SGD(0.1)),
            linear_model.LogisticRegression(optim.SGD(0.2)),
            linear_model.LogisticRegression(optim.Adam(0.1)),
            linear_model.LogisticRegression(l2=0.1),
            linear_model.LogisticRegression(loss=optim.losses.Hinge()),
            preprocessing.StandardScaler() | linear_model.LogisticRegression(),
            preprocessing.MinMaxScaler() | linear_model.LogisticRegression(),
        ],
        [forest.ARFClassifier(seed=1), forest.ARFClassifier(seed=2), forest.ARFClassifier(3, seed=1)],
    ],
)
def test_every_change_of_structure_or_parameter_is_another_version(variants: list[Any]) -> None:
    versions = [version_of(model) for model in variants]
    assert len(set(versions)) == len(variants)
    assert versions == [version_of(load_model(dump_model(model))) for model in variants]


def test_a_changed_source_of_the_users_module_is_another_version(
    user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = set()
    for change in ("", "# a comment", "LIMIT = 22"):
        monkeypatch.delitem(sys.modules, "user_models", raising=False)
        (user / "user_models.py").write_text(USER_MODULE + change)
        linecache.clearcache()
        versions.add(fresh("user_models:Mine").version)
    assert len(versions) == 3


@pytest.mark.slow
def test_every_model_of_river_is_the_same_every_time_it_is_built() -> None:
    """Every estimator of river that builds from its own test parameters and can be served."""
    served = 0
    for module in vars(river.api).values():
        for kind in vars(module).values() if inspect.ismodule(module) else ():
            if not (isinstance(kind, type) and issubclass(kind, base.Base)) or inspect.isabstract(kind):
                continue
            try:
                one, two = (
                    model_template("app", "", {}, [], kind(**next(iter(kind._unit_test_params()))))
                    for _ in range(2)
                )
            except (ConfigError, TypeError, ValueError, IndexError, RuntimeError):
                continue  # not a model of ours, or one that needs arguments
            if kind is not multiclass.OutputCodeClassifier:  # draws its codes when it is made: needs a seed
                assert (one.version, one.pickled) == (two.version, two.pickled), kind
            served += 1
    assert served > 70
