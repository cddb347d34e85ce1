"""Backtest: the numbers of river's own evaluation, the bytes of the live service, models side by side."""

import json
import math
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from river import compose, datasets, evaluate, linear_model, metrics, preprocessing, tree

from streamlearn.config.load import load
from streamlearn.core.journal import GENESIS, chain
from streamlearn.core.records import Output
from streamlearn.env import RealEnv
from streamlearn.history.label_delay import parse_delay
from streamlearn.history.sources import ReadOptions
from streamlearn.log.embedded.admin import EmbeddedAdmin
from streamlearn.log.port import TopicSpec
from streamlearn.studies.backtest.backtest import Backtest
from streamlearn.studies.backtest.candidate import Digest
from streamlearn.studies.backtest.setup import BacktestSetup
from tests.command import Command, command
from tests.service_process import MODELS, App, Apps, apps, backend
from tests.test_late_service import drifting, produced, settled, told

__all__ = ["apps", "backend", "command"]

LOGISTIC, TREE, TOUCHY = "app_models:logistic", "app_models:tree_model", "app_models:touchy"
MORE_MODELS = """

def regressor():
    return preprocessing.StandardScaler() | linear_model.LinearRegression()


def detector():
    from river import anomaly

    return preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(seed=1)
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `app_models`, which can be imported."""
    (tmp_path / "app_models.py").write_text(MODELS + MORE_MODELS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "app_models", raising=False)  # of another test in this process
    monkeypatch.setenv("PYTHONHASHSEED", "0")  # else the command starts this process again
    return tmp_path


def lines(path: Path, rows: list[tuple[dict[str, Any], Any]], step_s: int = 1) -> Path:
    events = [{"id": f"e{n}", "ts": n * step_s, "features": x, "label": y} for n, (x, y) in enumerate(rows)]
    path.write_bytes(b"\n".join(map(orjson.dumps, events)))
    return path


def backtest(source: Path | str, *uses: str, delay: str = "", **flags: Any) -> dict[str, Any]:
    how = ReadOptions()
    late = (delay, parse_delay(delay) if delay else None)
    trial = BacktestSetup(RealEnv(), load(None, flags, need_input=False), str(source), how, late, None, None)
    return result_of(trial, list(uses))


def result_of(trial: BacktestSetup, uses: list[str]) -> dict[str, Any]:
    run = Backtest(RealEnv(), trial.candidates(uses))
    run.run(trial.records, trial.stream.labels_topic, RealEnv().flag(), lambda _count: None)
    return run.result(trial.stream)


def phishing() -> list[tuple[dict[str, Any], Any]]:
    return list(datasets.Phishing())


def test_scores_are_those_of_rivers_own_evaluation_with_labels_that_come_late(models: Path) -> None:
    rows = phishing()
    found = backtest(lines(models / "e.jsonl", rows), LOGISTIC, TREE, delay="50s")
    for one, model in zip(
        found["models"],
        (
            preprocessing.StandardScaler() | linear_model.LogisticRegression(),
            tree.HoeffdingTreeClassifier(grace_period=50),
        ),
        strict=True,
    ):
        timed = (({**x, "t": n}, y) for n, (x, y) in enumerate(rows))
        metric = metrics.Accuracy() + metrics.LogLoss()
        evaluate.progressive_val_score(timed, compose.Discard("t") | model, metric, moment="t", delay=50)
        assert one["scores"]["accuracy"] == metric[0].get()
        assert one["scores"]["log_loss"] == pytest.approx(metric[1].get(), rel=1e-12)


def test_models_side_by_side_are_the_same_as_each_alone(models: Path) -> None:
    source = lines(models / "e.jsonl", phishing())
    both = backtest(source, LOGISTIC, TREE)
    for use, one in zip((LOGISTIC, TREE), both["models"], strict=True):
        (alone,) = backtest(source, use)["models"]
        assert alone["digests"] == one["digests"]
        assert alone["scores"] == one["scores"]
    assert both["models"][0]["digests"] != both["models"][1]["digests"]


def test_a_comparison_is_that_of_the_accuracies_on_the_same_labels(models: Path) -> None:
    found = backtest(lines(models / "e.jsonl", phishing()), LOGISTIC, TREE, delay="3s")
    scores = {one["name"]: one["scores"]["accuracy"] for one in found["models"] + found["baselines"]}
    assert [(pair["a"], pair["b"]) for pair in found["pairs"]] == [
        ("logistic", "tree_model"),
        ("logistic", "no_change"),
        ("logistic", "prior"),
        ("tree_model", "no_change"),
        ("tree_model", "prior"),
    ]
    for pair in found["pairs"]:
        # Each forecaster has no answer to the very first event, or that and those until the first label.
        assert found["labels"] - pair["labels"] <= 4
        assert pair["difference"] == pytest.approx(scores[pair["a"]] - scores[pair["b"]], abs=0.004)
        assert pair["low"] < pair["difference"] < pair["high"]
    assert "tree_model is better than prior by 0." in found["pairs"][4]["words"]
    assert found["pairs"][4]["better"] == "tree_model"
    assert "cannot be told apart yet" in found["pairs"][0]["words"]
    assert found["pairs"][0]["better"] is None


def test_a_regressor_is_compared_by_its_errors_and_says_that_this_is_asymptotic(models: Path) -> None:
    rng = np.random.default_rng(1)
    rows = [({"a": (a := float(rng.normal()))}, 3 * a + float(rng.normal(0, 0.1))) for _ in range(600)]
    found = backtest(lines(models / "e.jsonl", rows), "app_models:regressor")
    mean = next(pair for pair in found["pairs"] if pair["b"] == "mean")
    assert mean["metric"] == found["metric"] == "mae"
    assert "asymptotic" in mean["method"]
    assert mean["low"] > 0
    assert "regressor is better than mean by" in mean["words"]
    scores = [found["baselines"][1]["scores"]["mae"], found["models"][0]["scores"]["mae"]]
    assert mean["difference"] == pytest.approx(scores[0] - scores[1])


def test_a_detector_has_curves_too_though_single_answers_cannot_be_compared(models: Path) -> None:
    rng = np.random.default_rng(1)
    rows = [({"a": float(rng.normal(4 * (n % 40 == 0)))}, n % 40 == 0) for n in range(600)]
    found = backtest(lines(models / "e.jsonl", rows), "app_models:detector")
    assert found["metric"] == "average_precision"
    assert found["curves"]["models"]["detector"][-1] == pytest.approx(
        found["models"][0]["window"]["average_precision"]
    )


def test_a_model_that_raises_is_undone_and_compared_on_the_labels_it_has(models: Path) -> None:
    rows = phishing()[:800]
    for n in (400, 401, 650):
        rows[n] = ({**rows[n][0], "poison": 1.0}, rows[n][1])
    source = lines(models / "e.jsonl", rows)
    found = backtest(source, LOGISTIC, TOUCHY)
    touchy = found["models"][1]
    assert touchy["outcomes"]["dlq.learn.raised"] == 3
    assert touchy["labels"] == 797
    assert found["models"][0]["labels"] == 800
    assert found["pairs"][0]["labels"] == 797
    assert found["pairs"][3]["labels"] == 796, "no_change has no answer to the first"
    assert any("had 3 records refused: 3 learn.raised" in text for text in found["warnings"])
    without = [row for n, row in enumerate(rows) if n not in (400, 401, 650)]
    (clean,) = backtest(lines(models / "clean.jsonl", without), LOGISTIC)["models"]
    assert touchy["scores"]["accuracy"] == clean["scores"]["accuracy"]


def test_nothing_asks_the_clock_so_that_digests_repeat(models: Path) -> None:
    found = [backtest("river:Phishing", LOGISTIC)["models"][0]["digests"] for _ in range(2)]
    assert found[0] == found[1]


def test_a_table_with_times_is_read_as_live_events_are(models: Path) -> None:
    rows = [f"2026-01-31T10:00:{n % 60:02}Z,{n % 7},{'ok' if n % 7 > 3 else 'fault'}" for n in range(300)]
    (models / "e.csv").write_text("\n".join(["ts,a,label", *rows]))
    found = backtest(models / "e.csv", TREE)
    assert found["warnings"] == []
    assert found["labels"] == 300


def test_digests_do_not_depend_on_how_outputs_are_cut_up() -> None:
    outputs = [Output("predictions", 0, None, b"%d" % n, (("h", None),) if n % 3 else ()) for n in range(10)]
    digest = Digest()
    digest.add(outputs[:4])
    digest.add([])
    digest.add(outputs[4:])
    assert digest.hexdigest() == chain(GENESIS, outputs)


def test_curves_are_bounded_evenly_spaced_and_end_with_the_last_event(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamlearn.studies.backtest.curves.POINTS", 20)
    rows = [({"a": float(n % 7)}, n % 7 > 3) for n in range(6_020)]
    curves = backtest(lines(models / "e.jsonl", rows), LOGISTIC)["curves"]
    assert 10 <= len(curves["events"]) <= 20
    assert curves["events"][-1] == 6_020
    spaces = np.diff(curves["events"][:-1])
    assert spaces.max() == spaces.min()
    assert {len(line) for line in curves["pairs"][0].values()} == {len(curves["events"])}
    assert curves["models"]["logistic"][-1] > 0.99
    assert all(math.isfinite(us) for us in curves["us"]["logistic"])


def recorded(app: App, role: str) -> str:
    """The digest of what is in a topic of outputs."""
    outputs = [
        Output(role, r.partition, r.key, r.value, r.headers)
        for r in app.records(getattr(app.config.topics, role))
    ]
    assert outputs
    return chain(GENESIS, outputs)


def test_backtest_over_the_recorded_stream_is_the_live_service_byte_for_byte(
    apps: Apps,
    backend: str,
    models: Path,
) -> None:
    """Half of the events and labels wait when it starts, half come while it serves."""
    rows = drifting(1_000)
    extra = {"scores.every": 200, "scores.window": 300, "transaction.max_records": 77}
    app = apps(backend, labels=1, **{"model.use": TREE, **extra})
    stream_of = list(told(rows, 100))
    produced(app, stream_of[: len(stream_of) // 2])
    process = app.serve()
    produced(app, stream_of[len(stream_of) // 2 :], at_once=300)
    app.wait(process, len(rows))
    settled(app)
    app.stop(process)

    source = f"topic:{app.inputs[0]}"
    trial = BacktestSetup(RealEnv(), app.config, source, ReadOptions(), ("", None), None, app.admin)
    found = result_of(trial, [TREE, LOGISTIC])
    assert found["order"] == "journal"
    assert found["events"] == len(rows)
    live = {role: recorded(app, role) for role in ("predictions", "scores")}
    assert found["models"][0]["digests"] == live
    assert found["models"][1]["digests"] != live


CONFIG = """
[app]
name = "b"
[log]
backend = "embedded"
path = "log.db"
[topics]
input = "events"
labels = "truth"
"""


def test_without_a_journal_labels_of_the_configured_topic_come_by_time_of_arrival(
    models: Path, command: Command
) -> None:
    Path("streamlearn.toml").write_text(CONFIG)
    (Path("app_models.py")).write_text(MODELS)
    admin = EmbeddedAdmin(RealEnv(), "log.db")
    admin.create([TopicSpec("events", 1), TopicSpec("truth", 1)])
    rows = list(enumerate(phishing()))
    for start in range(0, len(rows), 50):
        some = rows[start : start + 50]
        admin.append(
            "events", App.producer_records({"id": f"e{n}", "ts": n, "features": x} for n, (x, _) in some)
        )
        time.sleep(0.002)  # their arrivals differ
        admin.append(
            "truth", App.producer_records({"id": f"e{n}", "ts": n, "label": y} for n, (_, y) in some)
        )
        time.sleep(0.002)
    admin.close()
    from_topics = orjson.loads(command.ok("backtest", "topic:events", "-m", LOGISTIC, "--json"))
    assert from_topics["order"] == "arrival"
    assert from_topics["labels"] == 1250
    assert from_topics["models"][0]["scores"]["accuracy"] > 0.8, "learned as it went, not at the end"
    some = orjson.loads(command.ok("backtest", "topic:events@100..250", "-m", LOGISTIC, "--json"))
    assert some["events"] == 150
    assert some["labels"] == 150


def test_the_table_says_who_is_better_and_warns_when_a_baseline_is(models: Path, command: Command) -> None:
    rows = [({"a": float(n % 5)}, n // 50 % 2 == 0) for n in range(1_000)]
    source = lines(models / "e.jsonl", rows)
    done = command("backtest", source, "-m", LOGISTIC, "--html", models / "page.html", "--app-dir", models)
    assert done.code == 0, done.err
    assert "accuracy ↑" in done.out
    assert "no_change is better than logistic by 0." in done.out
    assert "warning: No model beats every baseline (accuracy)" in done.err
    assert "no_change (0.9" in done.err
    assert "logistic against no_change" in (models / "page.html").read_text()


def test_fail_under_says_which_model_which_value_and_which_bar(models: Path, command: Command) -> None:
    source = lines(models / "e.jsonl", phishing()[:300])
    words = ("backtest", source, "-m", LOGISTIC, "--app-dir", models)
    assert command(*words, "--fail-under", "accuracy=0.5", "--fail-under", "log_loss=5").code == 0
    done = command(*words, "--fail-under", "accuracy=0.99")
    assert done.code == 3
    assert "logistic has accuracy 0.8" in done.err
    assert "which is worse than 0.99" in done.err
    assert command(*words, "--fail-under", "log_loss=0.01").code == 3, "lower is better"
    done = command(*words, "--fail-under", "acuracy=0.9")
    assert done.code == 2
    assert "balanced_accuracy" in done.err
    assert command(*words, "--fail-under", "accuracy").code == 2


def test_the_scores_of_several_classes_are_those_of_several_classes(
    models: Path, tmp_path: Path, command: Command
) -> None:
    rows = [({"a": n % 3 + 0.01 * (n % 7)}, "xyz"[n % 3]) for n in range(300)]
    file = lines(tmp_path / "e.jsonl", rows)
    told = ("backtest", file, "-m", "river.naive_bayes:GaussianNB", "--json")
    scores = json.loads(command.ok(*told, "--fail-under", "macro_f1=0.5"))["models"][0]["scores"]
    assert scores["macro_f1"] > 0.9
    assert "f1" not in scores
    assert command(*told, "--fail-under", "macro_f1=1.1").code == 3


def test_a_forecaster_that_cannot_look_so_far_ahead_is_refused_as_serve_refuses_it(
    models: Path, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "app_models.py").write_text(
        "from river import preprocessing, time_series\n\n\n"
        "def ahead():\n    return preprocessing.StandardScaler() | time_series.SNARIMAX(2, 0, 0)\n"
    )
    Path("streamlearn.toml").write_text('[topics]\ninput = "e"\n[model]\nhorizon = 3\n')
    file = lines(tmp_path / "e.jsonl", [({}, float(n % 7)) for n in range(20)])
    result = command("backtest", file, "-m", "app_models:ahead", "--app-dir", tmp_path)
    assert result.code == 2
    assert "set horizon = 1" in result.err


def test_models_of_two_tasks_are_not_compared(models: Path, command: Command) -> None:
    source = lines(models / "e.jsonl", phishing()[:10])
    both = ("-m", LOGISTIC, "-m", "app_models:regressor")
    done = command("backtest", source, *both, "--app-dir", models)
    assert done.code == 2
    assert "regressor (regression)" in done.err


CAUTIOUS_MODELS = """

class Stubborn(linear_model.LogisticRegression):
    def learn_one(self, x, y):
        raise ValueError("no number: 'warm'")


class Timid(linear_model.LogisticRegression):
    def predict_proba_one(self, x):
        found = super().predict_proba_one(x)
        return found if max(found.values()) > 0.95 else {}


def stubborn():
    return preprocessing.StandardScaler() | Stubborn()


def timid():
    return preprocessing.StandardScaler() | Timid()


def filtered():
    from river import anomaly

    return anomaly.QuantileFilter(anomaly.HalfSpaceTrees(seed=1), q=0.95)
"""


@pytest.fixture
def cautious(models: Path) -> Path:
    """As `models`, with some whose numbers need a caution."""
    (models / "app_models.py").write_text(MODELS + MORE_MODELS + CAUTIOUS_MODELS)
    return models


def test_a_model_that_stopped_learning_is_said_first_and_gets_no_verdict(
    cautious: Path, command: Command
) -> None:
    source = lines(cautious / "e.jsonl", phishing())
    words = ("backtest", source, "-m", "app_models:stubborn", "-m", LOGISTIC, "--app-dir", cautious)
    done = command(*words, "--html", cautious / "page.html")
    assert done.code == 0, done.err
    first = done.err.splitlines()[0]
    assert first.startswith("warning: stubborn ")
    assert "learn raised ValueError: no number: 'warm'" in first
    assert "no verdict about stubborn: it " in done.out
    assert "stubborn is better" not in done.out
    assert "is better than stubborn" not in done.out
    assert "logistic is better than no_change" in done.out
    assert "no verdict about stubborn" in (cautious / "page.html").read_text()
    found = orjson.loads(command.ok(*words, "--json"))
    stubborn, logistic = found["models"]
    assert 0 < stubborn["frozen_at"] <= 25
    assert stubborn["learned"] == 0
    assert (logistic["frozen"], logistic["frozen_at"], logistic["failure"]) == ("", None, "")
    assert len(found["pairs"]) == len(found["curves"]["pairs"]) == 2
    done = command(*words, "--fail-under", "accuracy=0")
    assert done.code == 3
    assert "stubborn " in done.err.splitlines()[-1]
    assert "logistic has" not in done.err


def test_a_model_that_leaves_hard_events_out_is_not_the_best(cautious: Path, command: Command) -> None:
    source = lines(cautious / "e.jsonl", phishing())
    words = ("backtest", source, "-m", LOGISTIC, "-m", "app_models:timid", "--app-dir", cautious)
    found = orjson.loads(command.ok(*words, "--json"))
    logistic, timid = found["models"]
    assert timid["scores"]["accuracy"] > logistic["scores"]["accuracy"]
    assert logistic["answered"] == 1.0
    assert 0.05 < timid["answered"] < 0.95
    assert not [pair for pair in found["pairs"] if "timid" in (pair["a"], pair["b"])]
    done = command(*words, "--html", cautious / "page.html")
    assert "best by accuracy: logistic\n" in done.out
    share = f"answered {timid['answered'] * 100:.3g} % of the labels"
    assert f"warning: timid {share}: its scores are about those alone." in done.err
    assert re.search(r"answered +100 % +\d", done.out)
    text = (cautious / "page.html").read_text()
    assert f"<small>{share}</small>" in text
    assert text.count('best">') > 3


def test_before_the_first_label_no_answer_is_expected(models: Path) -> None:
    found = backtest(lines(models / "e.jsonl", phishing()), TREE, delay="300")
    assert found["models"][0]["answered"] == 1.0
    assert not found["no_verdict"]


@pytest.mark.parametrize("delay", ["end-of:group", ""])
def test_labels_of_groups_give_no_verdict_between_models(models: Path, delay: str) -> None:
    rows = phishing()
    events = [
        {"id": f"e{n}", "ts": n, "group": n // 50, "features": x, "label": n // 50 % 2 == 0}
        for n, (x, _) in enumerate(rows)
    ]
    source = models / "e.jsonl"
    source.write_bytes(b"\n".join(map(orjson.dumps, events)))
    found = backtest(source, LOGISTIC, TREE, delay=delay)
    assert bool(found["pairs"]) == (not delay)
    assert found["labels"] == 1250
    said = [line for line in found["no_verdict"] if "whose errors hang together" in line]
    assert len(said) == bool(delay)


def test_only_detectors_that_give_verdicts_are_compared(cautious: Path) -> None:
    rng = np.random.default_rng(1)
    rows = [({"a": float(rng.normal(4 * (n % 40 == 0)))}, n % 40 == 0) for n in range(600)]
    source = lines(cautious / "e.jsonl", rows)
    found = backtest(source, "app_models:detector", "app_models:filtered")
    assert {(pair["a"], pair["b"]) for pair in found["pairs"]} == {
        ("filtered", "no_change"),
        ("filtered", "prior"),
    }
    assert backtest(source, "app_models:detector")["pairs"] == []


@pytest.mark.parametrize(
    ("use", "labels", "said"),
    [
        (
            LOGISTIC,
            [0.5, 1.5],
            "the labels are numbers such as 0.5, and logistic takes true/false or 0/1. What",
        ),
        ("river.tree:HoeffdingTreeClassifier", [0.5, 1.5], "takes classes: true/false, integers or texts"),
        (
            "app_models:regressor",
            ["warm", "cold"],
            "the labels are texts such as 'warm', and regressor takes numbers",
        ),
        (
            "app_models:detector",
            ["rain", "sun"],
            "texts such as 'rain', and detector takes true/false or 0/1",
        ),
        (LOGISTIC, [None], "none came: name the labels' column (--label)"),
    ],
)
def test_a_backtest_in_which_nothing_was_scored_fails_and_says_why(
    models: Path, command: Command, use: str, labels: list[Any], said: str
) -> None:
    rows = [({"a": float(n % 7)}, labels[n % len(labels)]) for n in range(200)]
    done = command("backtest", lines(models / "e.jsonl", rows), "-m", use, "--app-dir", models)
    assert done.code == 3
    assert "confidence sequence" not in done.out
    assert done.err.count("No label was scored") == 1
    assert said in done.err


def test_labels_that_counted_are_told_of_each_model(models: Path, command: Command) -> None:
    rows = phishing()[:400]
    rows[100] = ({**rows[100][0], "poison": 1.0}, rows[100][1])
    source = lines(models / "e.jsonl", rows)
    done = command(
        "backtest", source, "-m", TOUCHY, "-m", LOGISTIC, "--html", models / "p.html", "--app-dir", models
    )
    assert "400 events, 399 (touchy), 400 (logistic) labels" in done.out
    assert "399 (touchy), 400 (logistic)" in (models / "p.html").read_text()
    assert "The first one: learn raised RuntimeError: poisoned" in done.err
