"""Measures each preset on the sets it is for, beside baselines: prints the tables of docs/presets.md.

    python scripts/presets.py [FOLDER]      downloads two data sets into FOLDER (default: build/wheels)

Labels come as late as docs/presets.md says. A model predicts from an event's features, and learns with them
when the label is known; scores and baselines are those of `serve`. What was answered before the first label
is not scored, so that the model and the baselines are scored on the same events.
"""

import importlib.util
import math
import random
import sys
import time
from bisect import bisect_left
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from river import datasets  # noqa: E402 # after the path

from streamlearn.core.model.learner import Learner  # noqa: E402
from streamlearn.core.scores.scores import Scores, ScoresSpec  # noqa: E402
from streamlearn.engine.presets import preset  # noqa: E402

Event = tuple[dict[str, Any], Any]
ROWS_LATE = {"Shuttle": 300, "ImageSegments": 100, "Phishing": 100}
WANTED = {
    "classification": ("accuracy", "balanced_accuracy", "cohen_kappa"),
    "regression": ("mae", "rmse"),
    "anomaly": ("average_precision", "roc_auc"),
}


class Case(NamedTuple):
    """A stream, the presets to try on it, and for each event the number of the first one after its label."""

    name: str
    presets: tuple[str, ...]
    events: list[Event]
    known_at: list[int]


class Result(NamedTuple):
    """Each metric of the model and of the baselines, by their names; the model's cost."""

    task: str
    of: dict[str, dict[str, float]]
    us_per_event: float


def measured(case: Case, name: str) -> Result:
    """Predict every event of a case with a preset, learn every label when it is known."""
    learner = Learner(preset(name))
    scores = Scores(ScoresSpec(window=10), learner.task)
    waiting: dict[int, list[tuple[dict[str, Any], Any, list[Any]]]] = {}
    spent_s = 0.0
    last = len(case.events)
    for number, (x, y) in enumerate([*case.events, ({}, None)]):
        for old_x, old_y, captured in waiting.pop(number, ()):
            scores.update(old_y, captured)
            began_s = time.perf_counter()
            learner.learn(old_x, old_y)
            spent_s += time.perf_counter() - began_s
        if number < last:
            began_s = time.perf_counter()
            answer = learner.predict(x, y)
            spent_s += time.perf_counter() - began_s
            at = min(case.known_at[number], last)
            captured = scores.capture(answer, x)
            if learner.task == "regression" and not scores.labels:
                captured = [None] * len(captured)  # model and mean would say 0, no-change nothing
            waiting.setdefault(at, []).append((x, y, captured))
    return Result(learner.task, scores.report()["all"], spent_s / last * 1e6)


# --- the sets -----------------------------------------------------------------------------------------


def example(name: str) -> ModuleType:
    """The module `prepare` of an example."""
    spec = importlib.util.spec_from_file_location(f"{name}_data", ROOT / "examples" / name / "prepare.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by_group(name: str, presets: tuple[str, ...], events: Iterable[dict[str, Any]]) -> Case:
    """Labels that are known when their group has ended."""
    found = list(events)
    end = {event["group"]: number for number, event in enumerate(found)}
    pairs = [(event["features"], event["label"]) for event in found]
    return Case(name, presets, pairs, [end[event["group"]] + 1 for event in found])


def by_rows(name: str, presets: tuple[str, ...]) -> Case:
    """Sets without a time: labels that are known some rows later."""
    boolean = name == "Shuttle"
    pairs = [(x, bool(y) if boolean else y) for x, y in getattr(datasets, name)()]
    return Case(name, presets, pairs, [number + ROWS_LATE[name] for number in range(1, len(pairs) + 1)])


def water() -> Case:
    """Hourly readings of a flow that are fetched a day later."""
    rows = [(x["Time"], flow) for x, flow in datasets.WaterFlow()]
    times = [moment for moment, _ in rows]
    pairs = [({"hour": moment.hour, "weekday": moment.weekday()}, flow) for moment, flow in rows]
    known_at = [bisect_left(times, moment + timedelta(days=1)) for moment in times]
    return Case("WaterFlow", ("regression",), pairs, known_at)


def walks() -> Case:
    """Six sensors that wander slowly and drop a fifth of their values; each label is ten events late."""
    rng = random.Random(7)
    level = [0.0] * 6
    pairs = []
    for _ in range(6000):
        level = [0.98 * value + rng.gauss(0, 0.2) for value in level]
        y = (level[0] + level[1] > 0) != (level[2] > 0.5)
        pairs.append(({f"walk {n}": value for n, value in enumerate(level) if rng.random() > 0.2}, y))
    return Case(
        "random walks with gaps", ("classification", "sensors"), pairs, [n + 11 for n in range(len(pairs))]
    )


def turns() -> Case:
    """A label that means its contrary every 2,000 events; each is a hundred events late."""
    rng = random.Random(5)
    pairs = []
    for number in range(8000):
        x = {f"a{n}": rng.gauss(0, 1) for n in range(4)}
        pairs.append((x, (x["a0"] + x["a1"] / 2 > 0) != (number // 2000 % 2 == 1)))
    both = ("classification", "sensors")
    return Case("labels that turn around", both, pairs, [n + 101 for n in range(len(pairs))])


def raw_watch(prepare: ModuleType, wheel: Path) -> Iterable[dict[str, Any]]:
    """Every 25th reading as it is, two a second, without windows."""
    for name, _subject, exercise, signals, readings in prepare.recordings(wheel):
        for reading in readings[::25].tolist():
            features = dict(zip(signals, reading, strict=True))
            yield {"group": name, "features": features, "label": exercise}


def cases(folder: Path) -> Iterable[Case]:
    """All there are."""
    both = ("classification", "sensors")
    watch, speech = example("sensors"), example("speech")
    wheel = watch.fetched(folder)
    yield by_group("watch", both, watch.events(wheel))
    yield by_group("watch, raw readings", both, raw_watch(watch, wheel))
    yield by_group("JapaneseVowels", both, speech.events(speech.fetched(folder)))
    yield walks()
    yield turns()
    for name in ROWS_LATE:
        yield by_rows(name, both)
    yield water()
    yield by_rows("Shuttle", ("anomaly",))


# --- the tables ---------------------------------------------------------------------------------------


def shown(value: float | None) -> str:
    """A metric as a cell."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"


def main(folder: str = "build/wheels") -> None:
    """Measure and print: a line for each preset, then the baselines, which are the same for all of them."""
    task = ""
    for case in cases(Path(folder)):
        results = {name: measured(case, name) for name in case.presets}
        last = results[case.presets[-1]]
        metrics = WANTED[last.task]
        if last.task != task:
            task = last.task
            print(f"\n| set | events | answer of | {' | '.join(metrics).replace('_', ' ')} | us an event |")
            print("|---|---|---|" + "---|" * (len(metrics) + 1))
        answers = {f"`{name}`": (result.of["model"], result.us_per_event) for name, result in results.items()}
        for who in list(last.of)[1:]:
            answers[who.replace("_", " ")] = (last.of[who], None)
        what = f"{case.name} | {len(case.events):,}"
        for who, (values, cost_us) in answers.items():
            cells = " | ".join(shown(values[metric]) for metric in metrics)
            print(f"| {what} | {who} | {cells} | {'' if cost_us is None else round(cost_us)} |", flush=True)
            what = " | "


if __name__ == "__main__":
    main(*sys.argv[1:])
