"""`scripts/bench backtest`: how fast a backtest is beside `river.evaluate.progressive_val_score`."""

import importlib
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import orjson
from river import dummy, evaluate, metrics

from streamlearn.config.load import load
from streamlearn.env import RealEnv
from streamlearn.history.label_delay import parse_delay
from streamlearn.history.sources import ReadOptions
from streamlearn.studies.backtest.backtest import Backtest
from streamlearn.studies.backtest.setup import BacktestSetup


def ours_us(file: Path, delay: str) -> float:
    """CPU time per event of a backtest, from the opening of the file to the last score."""
    began_s = time.process_time()
    when = (delay, parse_delay(delay) if delay else None)
    trial = BacktestSetup(
        RealEnv(), load(None, {}, need_input=False), str(file), ReadOptions(), when, None, None
    )
    run = Backtest(RealEnv(), trial.candidates(["bench_model:build"]))
    run.run(trial.records, trial.stream.labels_topic, RealEnv().flag(), lambda _count: None)
    run.result(trial.stream)
    return (time.process_time() - began_s) / run.events * 1e6


def river_us(rows: list[tuple[dict[str, Any], Any]], model: Any, metric: Any, delay: int | None) -> float:
    """CPU time per event of river's own evaluation."""
    began_s = time.process_time()
    evaluate.progressive_val_score(iter(rows), model, metric, delay=delay)
    return (time.process_time() - began_s) / len(rows) * 1e6


def same_metrics() -> Any:
    """Those of a backtest that river has."""
    labels = metrics.Accuracy() + metrics.BalancedAccuracy() + metrics.F1() + metrics.CohenKappa()
    return labels + metrics.ROCAUC() + metrics.LogLoss()


def backtesting(folder: Path, values: list[bytes], pairs: int) -> dict[str, object]:
    """Medians of river's time over ours, in turns. `folder` has `bench_model`."""
    sys.path.insert(0, str(folder))
    build = importlib.import_module("bench_model").build
    file = folder / "events.jsonl"
    file.write_bytes(b"\n".join(values))
    rows = [(event["features"], event["label"]) for event in map(orjson.loads, values)]
    found: dict[str, object] = {}
    for name, late_s, late in (("", "", None), ("_late", "200s", 200)):
        turns: dict[str, list[float]] = {"ours_us": [], "plain": [], "model": [], "all": []}
        for _ in range(pairs):
            ours = ours_us(file, late_s)
            model = river_us(rows, build(), same_metrics(), late)
            dummies = (dummy.NoChangeClassifier(), dummy.PriorClassifier())
            baselines = sum(river_us(rows, one, same_metrics(), late) for one in dummies)
            plain = river_us(rows, build(), metrics.Accuracy(), late)
            turn = (ours, plain / ours, model / ours, (model + baselines) / ours)
            for some, value in zip(turns.values(), turn, strict=True):
                some.append(value)
        found |= {key + name: round(statistics.median(some), 2) for key, some in turns.items()}
    return found
