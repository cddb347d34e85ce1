"""The benchmarks run end to end with few events, and what they print is whole. No figure is looked at."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import orjson
import pytest

from scripts import rooms
from scripts.bench_models import MODELS, answerer, built, same_answer
from scripts.bench_stage_map import BELOW, CALLER, FOLDERS, FUNCTIONS, HOT, STAGES, stage
from scripts.bench_stage_map import MODULES as HOT_MODULES

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


@pytest.mark.slow
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
        assert raced["left_out"] == {}
    assert table.count("| streamlearn, embedded |") == 2


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


@pytest.mark.slow
@pytest.mark.kafka
def test_a_race_on_kafka_counts_what_is_committed(tmp_path: Path, kafka: str) -> None:
    words = "--models scaler|linear --runners bare,kafka-python --rounds 1 --events 5000"
    result, table = bench(tmp_path, "race", *words.split(), kafka=kafka)
    ours = result["models"]["scaler|linear"]["runners"]["kafka-python"]
    assert set(ours) == FIGURES
    assert 0 < ours["events"] <= 7500
    assert "| streamlearn, kafka-python |" in table


def test_every_module_of_the_hot_path_has_a_stage() -> None:
    modules = {name for name, _ in rooms.modules()}
    hot = {name for name in modules if any(f"{name}.".startswith(f"{room}.") for room in HOT)}
    assert {"core.shard.shard", "log.kafka.reader", "service.stepping", "features.clip"} <= hot
    assert {name for name in hot if stage(name) is None} == set()


def test_a_new_module_of_the_core_or_the_service_has_no_stage_by_itself() -> None:
    assert [stage(f"{room}.new") for room in ("core", "core.shard", "engine", "service")] == [None] * 4


def test_the_stage_map_names_modules_functions_and_stages_that_exist() -> None:
    modules = dict(rooms.modules())
    assert {*HOT_MODULES, *(module for module, _ in FUNCTIONS), *BELOW} <= set(modules)
    given = [*HOT_MODULES.values(), *FUNCTIONS.values(), *BELOW.values(), *FOLDERS.values()]
    assert {*given} <= {*STAGES, CALLER}
    missing = [
        (module, function)
        for module, function in FUNCTIONS
        if f"def {function}(" not in modules[module].read_text()
    ]
    assert missing == []


def test_the_stages_of_a_service_sum_to_its_cpu(tmp_path: Path) -> None:
    result, table = bench(tmp_path, "stages", *["--runners", "embedded", "--rounds", "1", "--events", "6000"])
    run = result["runs"]["embedded"]
    assert list(run["stages"]) == list(STAGES)
    assert sum(run["stages"].values()) == pytest.approx(run["cpu_us"], rel=0.01)
    for worked in ("decode", "guard", "predict", "learn", "scores", "encode", "step"):
        assert run["stages"][worked] > 0, worked
    assert run["stages"]["other"] < 0.1 * run["cpu_us"]
    assert result["calls"]["scaler|logistic"]["per_event"] > 1
    assert result["calls"]["scaler|logistic"]["functions"]["generated:<fused step>"] == 1.0
    assert all(f"| {name} |" in table for name in STAGES)


@pytest.mark.slow
@pytest.mark.kafka
def test_the_latency_of_every_event_is_measured(tmp_path: Path, kafka: str) -> None:
    words = "--runners kafka-python --rounds 1 --events 200 --rate 100"
    result, table = bench(tmp_path, "latency", *words.split(), kafka=kafka)
    found = result["runners"]["kafka-python"]
    assert found["events"] == 200
    assert 0 < found["p50_ms"] <= found["p99_ms"]
    assert "| streamlearn, kafka-python |" in table


def test_a_table_is_written_between_its_marks_and_other_models_stay(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text("before\n<!-- race -->\nold\n<!-- /race -->\nafter\n")
    for model in ("scaler|linear", "scaler|logistic"):
        words = f"--models {model} --runners bare --rounds 1 --events 500 --write {tmp_path}"
        bench(tmp_path, "race", *words.split())
    text = page.read_text()
    assert text.startswith("before\n<!-- race -->\n**scaler|logistic**")
    assert text.endswith("\n<!-- /race -->\nafter\n")
    assert text.count("| bare river + orjson, in memory |") == 2 and "old" not in text
    picture = ElementTree.parse(tmp_path / "performance.svg").getroot()
    assert picture.tag.endswith("svg")


def test_what_a_function_defines_has_its_stage() -> None:
    assert stage("core.model.learner", "Learner.__init__.<locals>.<lambda>") == "learn"
    assert stage("core.model.learner", "_classification.<locals>.predict") == "predict"
    assert stage("core.shard.shard", "Shard._check") == "guard"
    assert stage("core.shard.shard", "Shard._answered") == "step"
