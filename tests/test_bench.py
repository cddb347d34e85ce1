"""The benchmarks run end to end with few events, and what they print is whole. No figure is looked at."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from scripts.bench_models import MODELS, answerer, built, same_answer

ROOT = Path(__file__).parent.parent
FIGURES = {
    "wall_us", "cpu_us", "wall_ratio", "cpu_ratio", "over_model_us", "worst_wall_us", "events", "rounds"
}  # fmt: skip


def bench(folder: Path, *words: str, kafka: str = "") -> tuple[dict[str, Any], str]:
    """The result of a benchmark, and its table."""
    file = folder / "result.json"
    environment = {name: value for name, value in os.environ.items() if name != "STREAMLEARN_TEST_KAFKA"}
    if kafka:
        environment["STREAMLEARN_TEST_KAFKA"] = kafka
    command = [sys.executable, str(ROOT / "scripts" / "bench.py"), *words, "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text())[words[0]], done.stdout.partition("\n}\n")[2]


def test_a_race_on_the_embedded_log_has_every_figure_of_every_runner(tmp_path: Path) -> None:
    words = "--models scaler|logistic,preset:anomaly --runners bare,core,embedded --rounds 1 --events 5000"
    result, table = bench(tmp_path, "race", *words.split())
    assert list(result["models"]) == ["scaler|logistic", "preset:anomaly"]
    for model, raced in result["models"].items():
        assert list(raced["runners"]) == ["bare", "model", "core", "embedded"]
        for figures in raced["runners"].values():
            assert set(figures) == FIGURES
            assert figures["rounds"] == 1
            assert figures["wall_us"] > 0 and figures["cpu_us"] > 0 and figures["events"] > 0
        assert raced["runners"]["bare"]["wall_ratio"] == 1.0
        assert f"**{model}**" in table
    assert table.count("| streamlearn, embedded |") == 2
    assert result["left_out"] == {}


def test_a_runner_that_does_not_exist_is_an_error_that_names_those_that_do() -> None:
    words = "--models scaler|linear --runners bare,no-such --rounds 1 --events 500"
    command = [sys.executable, str(ROOT / "scripts" / "bench.py"), "race", *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "there is no 'no-such'; there are bare," in done.stderr


@pytest.mark.parametrize("member", ["prediction", "probabilities", "id", "source"])
def test_a_prediction_that_differs_in_one_member_is_another_answer(member: str) -> None:
    event = {"id": "e0", "ts": 1.0, "features": {"f0": 1.0}, "label": True}
    model = MODELS["scaler|logistic"]
    value = answerer(built(model.source), model.task, "events")(orjson.dumps(event), 0)
    body = orjson.loads(value)
    assert same_answer(value, orjson.dumps(body | {"model": {}}))
    other = {"prediction": True, "probabilities": {}, "id": "e1", "source": {"offset": 1}}[member]
    assert not same_answer(value, orjson.dumps(body | {member: other}))


@pytest.mark.kafka
def test_a_race_on_kafka_counts_what_is_committed(tmp_path: Path, kafka: str) -> None:
    words = "--models scaler|linear --runners bare,kafka-python --rounds 1 --events 5000"
    result, table = bench(tmp_path, "race", *words.split(), kafka=kafka)
    ours = result["models"]["scaler|linear"]["runners"]["kafka-python"]
    assert set(ours) == FIGURES
    assert 0 < ours["events"] <= 7500
    assert "| streamlearn, kafka-python |" in table
