"""Every model of river that can be served, each with a stream; and what a plain river loop makes of it.

A module of its own, because three sides import it: the tests, `streamlearn serve` (`zoo:MODELS.<name>`), and
the process that runs the plain loops (`python zoo.py APP OUT NAME...`).
"""

import inspect
import math
import random
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
from river import (
    anomaly,
    api,
    base,
    cluster,
    compose,
    datasets,
    feature_extraction,
    imblearn,
    linear_model,
    model_selection,
    multiclass,
    naive_bayes,
    optim,
    preprocessing,
    time_series,
)
from river.time_series.base import Forecaster

from streamlearn.core.model.learner import final_step, model_task
from streamlearn.engine.model import fill_seeds
from streamlearn.engine.presets import preset

EVENTS = 900
TEXTS = 40
COUNTS = (
    *(naive_bayes.ComplementNB, naive_bayes.MultinomialNB, cluster.TextClust),
    *(model_selection.SuccessiveHalvingClassifier,),  # says it takes many classes, and its models do not
)
"""Those that take no negative numbers, or no classes but two, without saying so."""

WITH_ARGUMENTS: dict[str, Callable[[], Any]] = {
    # Those that river's own test parameters do not build, or build so that they say little.
    "anomaly_LocalOutlierFactor": lambda: anomaly.LocalOutlierFactor(n_neighbors=5),
    "anomaly_PredictiveAnomalyDetection": lambda: anomaly.PredictiveAnomalyDetection(
        scaled(), warmup_period=10
    ),
    "compose_TargetTransformRegressor": lambda: compose.TargetTransformRegressor(
        scaled(), math.log, math.exp
    ),
    "cluster_STREAMKMeans": lambda: cluster.STREAMKMeans(chunk_size=20, n_clusters=4, seed=1),
    "cluster_KMeans": lambda: cluster.KMeans(n_clusters=5, halflife=0.05),
    "cluster_CluStream": lambda: cluster.CluStream(max_micro_clusters=20, time_gap=50, seed=1),
    "cluster_DenStream": lambda: cluster.DenStream(n_samples_init=50, epsilon=0.5, stream_speed=10),
    "cluster_TextClust": lambda: cluster.TextClust(real_time_fading=False),
    "imblearn_RandomOverSampler": lambda: imblearn.RandomOverSampler(
        linear_model.LogisticRegression(), {False: 0.5, True: 0.5}
    ),
    "imblearn_RandomSampler": lambda: imblearn.RandomSampler(
        linear_model.LogisticRegression(), {False: 0.5, True: 0.5}
    ),
    "imblearn_RandomUnderSampler": lambda: imblearn.RandomUnderSampler(
        linear_model.LogisticRegression(), {False: 0.5, True: 0.5}
    ),
    "model_selection_SuccessiveHalvingClassifier": lambda: model_selection.SuccessiveHalvingClassifier(
        [linear_model.LogisticRegression(optim.SGD(lr)) for lr in (0.1, 0.01, 0.001)],
        next(iter(model_selection.BanditClassifier._unit_test_params()))["metric"],
        budget=300,
    ),
    "multiclass_OutputCodeClassifier": lambda: multiclass.OutputCodeClassifier(
        linear_model.LogisticRegression(), code_size=10, seed=1
    ),
    "preprocessing_TargetMinMaxScaler": lambda: preprocessing.TargetMinMaxScaler(scaled()),
    "preprocessing_TargetStandardScaler": lambda: preprocessing.TargetStandardScaler(scaled()),
    "time_series_HoltWinters": lambda: time_series.HoltWinters(0.3, 0.1, 0.6, seasonality=24),
    # Pipelines, filters, presets.
    "scaler_logistic": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    "scaler_linear": lambda: preprocessing.StandardScaler() | linear_model.LinearRegression(),
    "scaler_halfspace_quantile": lambda: (
        preprocessing.MinMaxScaler() | anomaly.QuantileFilter(anomaly.HalfSpaceTrees(), q=0.95)
    ),
    "scaler_halfspace_threshold": lambda: (
        preprocessing.MinMaxScaler() | anomaly.ThresholdFilter(anomaly.HalfSpaceTrees(), threshold=0.9)
    ),
    "filter_before_naive_bayes": lambda: compose.Pipeline(
        preprocessing.MinMaxScaler(),
        anomaly.QuantileFilter(anomaly.HalfSpaceTrees(), q=0.95),
        naive_bayes.GaussianNB(),
    ),
    "scaler_dbstream": lambda: (
        preprocessing.StandardScaler() | cluster.DBSTREAM(clustering_threshold=1.5, cleanup_interval=10)
    ),
    "squares_snarimax": lambda: feature_extraction.PolynomialExtender() | time_series.SNARIMAX(p=3, d=1, q=2),
    "words_multinomial": lambda: feature_extraction.BagOfWords(on="text") | naive_bayes.MultinomialNB(),
    "tfidf_complement": lambda: (
        feature_extraction.TFIDF(on="text", stop_words={"the"}, ngram_range=(1, 2))
        | naive_bayes.ComplementNB()
    ),
    "snarimax_24_ahead": lambda: time_series.SNARIMAX(p=12, d=0, q=3, m=24, sp=1),
    **{
        f"preset_{name}": lambda name=name: preset(name)
        for name in ("classification", "regression", "anomaly", "sensors")
    },
}
HORIZONS = {"time_series_HoltWinters": 24, "snarimax_24_ahead": 24}


def scaled() -> Any:
    return preprocessing.StandardScaler() | linear_model.LinearRegression()


def kinds() -> dict[str, type]:
    """Every concrete model class in river's public modules that predicts, scores or forecasts."""
    found = {}
    for module in vars(api).values():
        for name, kind in vars(module).items() if inspect.ismodule(module) else ():
            if not (isinstance(kind, type) and issubclass(kind, base.Base)) or inspect.isabstract(kind):
                continue
            predicts = any(hasattr(kind, call) for call in ("predict_one", "score_one", "forecast"))
            if predicts and hasattr(kind, "learn_one") and kind is not compose.Pipeline:
                found[f"{module.__name__.split('.')[1]}_{name}"] = kind
    return found


def _maker(kind: Any) -> Callable[[], Any]:
    return lambda: kind(**next(iter(kind._unit_test_params())))


def _served() -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """Makers of the models that can be served, and why the others cannot."""
    makers: dict[str, Callable[[], Any]] = {}
    refused: dict[str, str] = {}
    for name, make in {**{name: _maker(kind) for name, kind in kinds().items()}, **WITH_ARGUMENTS}.items():
        try:
            model_task(make())
            makers[name] = make
        except (TypeError, RuntimeError, StopIteration) as error:
            refused[name] = str(error)
    return makers, refused


MAKERS, REFUSED = _served()
MODELS = SimpleNamespace(**MAKERS)


def made(name: str, app: str) -> Any:
    """The model as the service makes it: with a seed for every part that has none."""
    model = MAKERS[name]()
    fill_seeds(model, app)
    return model


def _labelled(model: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """Features and labels for the model's task."""
    task = model_task(model)
    if any(isinstance(step, feature_extraction.BagOfWords) for step in getattr(model, "steps", {}).values()):
        yield from _texts()
    elif isinstance(final_step(model), COUNTS):
        yield from datasets.Phishing()
    elif task == "classification" and model._multiclass:
        yield from datasets.ImageSegments()
    elif task == "classification":
        yield from datasets.Phishing()
    elif task == "clustering":
        yield from ((x, None) for x, _ in datasets.ImageSegments())
    elif task == "forecasting":
        yield from (({"hour": x["Time"].hour / 24}, y) for x, y in datasets.WaterFlow())
    elif task == "anomaly" and not model._supervised:
        yield from ((x, bool(y)) for x, y in datasets.Shuttle())
    else:
        for x, y in datasets.TrumpApproval():
            row = {name: value / 100 for name, value in x.items()}
            yield {**row, "ordinal_date": (x["ordinal_date"] - 736_389) / 850}, y / 100


def _texts() -> Iterator[tuple[dict[str, Any], Any]]:
    """Short messages about a machine, and whether it is well."""
    words = random.Random(1)
    for n in range(TEXTS):
        well = words.random() < 0.5
        said = words.sample(
            ("Fine", "smooth", "quiet", "cool") if well else ("Noise", "heat", "Über", "stop"), 2
        )
        yield {"text": f"the PUMP is {said[0]}, {said[1]}; 12{n % 3}"}, well


def events(model: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """The stream for a model, at most `EVENTS` long, as it comes out of JSON."""
    few = isinstance(model, anomaly.LocalOutlierFactor)  # 16 ms an event
    for x, y in islice(_labelled(model), 200 if few else EVENTS):
        yield orjson.loads(orjson.dumps((x, y)))


def plain_loop(model: Any, horizon: int) -> Iterator[dict[str, Any]]:
    """What river itself answers, event by event, in the words of a prediction message."""
    final = final_step(model)
    for x, y in events(model):
        if isinstance(model, base.Classifier):
            answer = _classes(model, x)
            model.learn_one(x, y)
        elif isinstance(model, base.Regressor):
            answer = {"prediction": model.predict_one(x)}
            model.learn_one(x, y)
        elif isinstance(model, base.Clusterer):
            early = isinstance(final, cluster.STREAMKMeans) and not final.centers
            answer = {"prediction": None if early else model.predict_one(x)}
            model.learn_one(x)
        elif isinstance(model, Forecaster):
            ahead = {"xs": [x]} if horizon == 1 else {}
            early = isinstance(final, time_series.HoltWinters) and not final._initialized
            forecast = [] if early else model.forecast(horizon, **ahead)
            answer = {"prediction": forecast[0] if forecast else None, "forecast": forecast}
            model.learn_one(y=y, **({"x": x} if horizon == 1 else {}))
        else:
            label = (y,) if final._supervised else ()
            score = model.score_one(x, *label)
            answer = {"prediction": None, "score": score}
            if isinstance(final, base.AnomalyFilter):
                answer["prediction"] = final.classify(score)
            model.learn_one(x, *label)
        yield answer


def _classes(model: Any, x: dict[str, Any]) -> dict[str, Any]:
    try:
        found = model.predict_proba_one(x)
    except NotImplementedError:
        return {"prediction": model.predict_one(x)}
    names = {label: str(label).lower() if isinstance(label, bool) else str(label) for label in found}
    return {
        "prediction": max(found, key=found.get) if found else None,
        "probabilities": {names[label]: share for label, share in found.items()},
    }


if __name__ == "__main__":
    app, out, *names = sys.argv[1:]
    for name in names:
        answers = list(plain_loop(made(name, app), HORIZONS.get(name, 1)))
        written = Path(out) / f"{name}.part"
        written.write_bytes(orjson.dumps(answers, option=orjson.OPT_SERIALIZE_NUMPY))
        written.rename(written.with_suffix(".json"))
