"""Models that cannot be recovered are refused before they are trusted, with the message that helps."""

import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from river import anomaly, base, forest, linear_model, preprocessing, tree

from streamlearn.core.journal import Era
from streamlearn.core.records import Record
from streamlearn.engine.model import model_template
from streamlearn.engine.self_check import check_model
from streamlearn.env import RealEnv
from streamlearn.errors import ConfigError

NOT_TWICE = "does not give the same answers twice"
NOT_BACK = "does not come back the same from a checkpoint"


class Mean(base.Regressor):
    """Deterministic, and all of its state pickles."""

    def __init__(self) -> None:
        self.total = 0.0

    def learn_one(self, x: dict[str, Any], y: Any) -> None:
        self.total += y

    def predict_one(self, x: dict[str, Any]) -> float:
        return self.total


class GlobalRandom(Mean):
    def predict_one(self, x: dict[str, Any]) -> float:
        return random.random()


class NumpyRandom(Mean):
    def learn_one(self, x: dict[str, Any], y: Any) -> None:
        self.total += float(np.random.normal())


class ClassCounter(Mean):
    count = 0

    def learn_one(self, x: dict[str, Any], y: Any) -> None:
        ClassCounter.count += 1
        self.total = ClassCounter.count


class Forgets(Mean):
    def __getstate__(self) -> dict[str, Any]:
        return {"total": 0.0}


class Resets(Mean):
    def __reduce__(self) -> Any:
        return Resets, ()


class GrowsLock(Mean):
    def learn_one(self, x: dict[str, Any], y: Any) -> None:
        self.lock = threading.Lock()


class GrowsLambda(Mean):
    def learn_one(self, x: dict[str, Any], y: Any) -> None:
        self.rule = lambda: y


class LoadsForbidden(Mean):
    def learn_one(self, x: dict[str, Any], y: Any) -> None:
        self.how = orjson.loads


class Raises(Mean):
    def learn_one(self, x: dict[str, Any], y: Any) -> None:
        self.total += y
        if self.total > 20:
            raise ValueError("a pity")


def era() -> Era:
    config = {"event": {"features": "f", "label": "l"}, "model_name": "m"}
    return Era("genesis", config, "h", "v", 1, {}, {}, [], "f")


def values(count: int) -> list[bytes]:
    return [orjson.dumps({"f": {"a": n % 10}, "l": n % 7}) for n in range(count)]


def check(model: Any, given: list[bytes]) -> None:
    records = [Record("t", 0, n, 0, None, value) for n, value in enumerate(given)]
    check_model(RealEnv(), model_template("app", "", {}, [], model), era(), records)


@pytest.mark.parametrize("given", [[], values(49), values(200)], ids=["none", "few", "enough"])
@pytest.mark.parametrize(
    ("model", "says"),
    [
        (GlobalRandom, NOT_TWICE + ".*draw from no global generator"),
        (NumpyRandom, NOT_TWICE),
        (ClassCounter, NOT_TWICE),
        (Forgets, NOT_BACK + ".*__getstate__"),
        (Resets, NOT_BACK),
        (GrowsLock, "cannot be saved once it has learned.*locks"),
        (GrowsLambda, "cannot be saved once it has learned.*lambdas"),
        (LoadsForbidden, "cannot be restored from a checkpoint.*orjson.*loads"),
    ],
)
def test_a_model_that_cannot_be_recovered_is_refused(
    model: Callable[[], Any], says: str, given: list[bytes]
) -> None:
    with pytest.raises(ConfigError, match=says):
        check(model(), given)


@pytest.mark.parametrize(
    "model",
    [
        Mean,
        Raises,
        linear_model.LogisticRegression,
        tree.HoeffdingTreeRegressor,
        lambda: forest.ARFClassifier(n_models=3),
        lambda: preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(n_trees=3),
        anomaly.GaussianScorer,
    ],
)
def test_a_model_that_comes_back_the_same_passes(model: Callable[[], Any]) -> None:
    check(model(), [])
    check(model(), values(100))


def test_records_that_are_no_events_prove_nothing_and_harm_nothing() -> None:
    check(Mean(), [b"\xff"] * 60)
