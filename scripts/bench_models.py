"""The models of the benchmarks, and the loop that answers an event with one of them.

Every runner but the service itself answers by `answerer`: it decodes an event, predicts, learns, and encodes
the prediction of the service's form. So all do equal work around the same model. Peers import this file in
environments of their own: it needs river and orjson, and for presets streamlearn's source on the path.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

Answer = Callable[[bytes, int], bytes]
"""The bytes of an event and its offset to the bytes of a prediction."""

_BUILD = """
from river import {modules}


def build():
    return {model}
"""
_PRESET = """
from streamlearn.engine.presets import preset


def build():
    return preset("{name}")
"""


class BenchModel(NamedTuple):
    """A model of the benchmarks.

    Attributes:
        task: `classification`, `regression` or `anomaly`.
        events: The events of a round, so that it takes seconds.
        source: The text of a module with a function `build`.
        use: The service's `[model] use`.
    """

    task: str
    events: int
    source: str
    use: str = "bench_model:build"


def _river(task: str, events: int, modules: str, model: str) -> BenchModel:
    return BenchModel(task, events, _BUILD.format(modules=modules, model=model))


def _preset(name: str, task: str, events: int) -> BenchModel:
    return BenchModel(task, events, _PRESET.format(name=name), f"preset:{name}")


_SCALED = "linear_model, preprocessing"

MODELS: dict[str, BenchModel] = {
    "scaler|logistic": _river(
        "classification",
        40_000,
        _SCALED,
        "preprocessing.StandardScaler() | linear_model.LogisticRegression()",
    ),
    "scaler|linear": _river(
        "regression", 40_000, _SCALED, "preprocessing.StandardScaler() | linear_model.LinearRegression()"
    ),
    "HoeffdingTree": _river("classification", 20_000, "tree", "tree.HoeffdingTreeClassifier()"),
    "GaussianNB": _river("classification", 10_000, "naive_bayes", "naive_bayes.GaussianNB()"),
    "HalfSpaceTrees": _river(
        "anomaly",
        20_000,
        "anomaly, preprocessing",
        "preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(seed=1)",
    ),
    "ARF(10)": _river("classification", 2_000, "forest", "forest.ARFClassifier(n_models=10, seed=1)"),
    "preset:classification": _preset("classification", "classification", 10_000),
    "preset:regression": _preset("regression", "regression", 10_000),
    "preset:sensors": _preset("sensors", "classification", 5_000),
    "preset:anomaly": _preset("anomaly", "anomaly", 15_000),
}


def built(source: str) -> Any:
    """A fresh model of a module's text."""
    names: dict[str, Any] = {}
    exec(compile(source, "bench_model.py", "exec"), names)
    return names["build"]()


def answerer(model: Any, task: str, topic: str) -> Answer:
    """The work on one event, of this task."""
    return {"classification": _classifier, "regression": _regressor, "anomaly": _detector}[task](model, topic)


_CLASSES = {False: "false", True: "true"}


def _answer(event: dict[str, Any], topic: str, offset: int, answered: dict[str, Any]) -> bytes:
    return orjson.dumps(
        {
            "id": event["id"],
            "key": None,
            "ts": event["ts"],
            **answered,
            "model": {
                "name": "bench_model:build",
                "version": "0123456789ab",
                "revision": 1,
                "learned": offset,
            },
            "source": {"topic": topic, "partition": 0, "offset": offset},
        }
    )


def _classifier(model: Any, topic: str) -> Answer:
    def answer(value: bytes, offset: int) -> bytes:
        event = orjson.loads(value)
        x = event["features"]
        proba = model.predict_proba_one(x)
        best = max(proba, key=proba.get) if proba else None
        model.learn_one(x, event["label"])
        named = {_CLASSES[label]: p for label, p in proba.items()}
        return _answer(event, topic, offset, {"prediction": best, "probabilities": named})

    return answer


def _regressor(model: Any, topic: str) -> Answer:
    def answer(value: bytes, offset: int) -> bytes:
        event = orjson.loads(value)
        x = event["features"]
        prediction = model.predict_one(x)
        model.learn_one(x, event["label"])
        return _answer(event, topic, offset, {"prediction": prediction})

    return answer


def _detector(model: Any, topic: str) -> Answer:
    def answer(value: bytes, offset: int) -> bytes:
        event = orjson.loads(value)
        x = event["features"]
        score = model.score_one(x)
        model.learn_one(x)
        return _answer(event, topic, offset, {"prediction": None, "score": score})

    return answer


def model_step(model: Any, task: str) -> Callable[[dict[str, Any], Any], None]:
    """Predict and learn, nothing else: the model code alone."""
    learn = model.learn_one
    if task == "anomaly":
        score = model.score_one

        def detect(x: dict[str, Any], _y: Any) -> None:
            score(x)
            learn(x)

        return detect
    predict = model.predict_proba_one if task == "classification" else model.predict_one

    def step(x: dict[str, Any], y: Any) -> None:
        predict(x)
        learn(x, y)

    return step


def same_answer(one: bytes, other: bytes) -> bool:
    """True if two predictions answer the same event in the same way."""
    return _essence(one) == _essence(other)


def _essence(value: bytes) -> dict[str, Any]:
    body = orjson.loads(value)
    members = ("id", "ts", "prediction", "probabilities", "score")
    return {name: body.get(name) for name in members} | {"offset": body["source"]["offset"]}
