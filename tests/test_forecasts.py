"""A forecast is about its own event: it looks over the events whose labels are still to come."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from river import feature_extraction, metrics, time_series
from river.time_series.base import Forecaster

from streamlearn.core.labels import joiner
from streamlearn.core.labels.lanes import LABELS_SEEN
from streamlearn.core.labels.record import LabelSpec
from streamlearn.core.model.learner import Learner
from streamlearn.core.model.pickles import dump_model, trusted_by
from streamlearn.core.records import Record
from streamlearn.core.scores.scores import ScoresSpec
from streamlearn.core.shard.facts import published
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.snapshot import dump_state, load_state
from streamlearn.core.shard.state import Memory, ShardSpec
from tests.test_backtest import backtest, lines

Plan = list[int | None]
"""Per event: how many events later its label comes, 0 for inside it, None for never."""


def snarimax() -> Any:
    return time_series.SNARIMAX(p=2, d=0, q=1)


def squares() -> Any:
    return feature_extraction.PolynomialExtender() | time_series.SNARIMAX(p=1, d=0, q=0)


def holt_winters() -> Any:
    return time_series.HoltWinters(0.4, 0.2)


class Remembers(Forecaster):
    """Notes what it was asked; a forecast counts up from the last label."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.last = 0.0

    def learn_one(self, y: float, x: Any = None) -> None:
        self.last = y

    def forecast(self, horizon: int, xs: Any = None) -> Any:
        self.asked.append((horizon, xs))
        return [self.last + k for k in range(1, horizon + 1)]


class Explodes(Forecaster):
    """What a model that is not stable says: each step is much further from zero."""

    def learn_one(self, y: float, x: Any = None) -> None: ...

    def forecast(self, horizon: int, xs: Any = None) -> Any:
        return [10.0 ** (50 * k) for k in range(horizon)]


class Service:
    """A shard with labels on a topic of their own; `restart` takes it through bytes."""

    def __init__(self, model: Any, horizon: int = 1, **label_rules: Any) -> None:
        self.spec = ShardSpec(
            "m", "v", 1, labels=LabelSpec("truth", **label_rules), scores=ScoresSpec(50, 200), horizon=horizon
        )
        self.trusted = trusted_by(dump_model(model)) | {__name__.split(".")[0]}
        self.shard = Shard(self.spec, Learner(model, horizon), Memory())
        self.offsets = 0

    def step(self, topic: str, n: int, partition: int = 0, **doc: Any) -> list[Any]:
        value = orjson.dumps({"id": f"e{n}", "ts": 1_700_000_000 + 60 * n, **doc})
        self.offsets += 1
        outputs = published(
            self.shard.step(Record(topic, partition, self.offsets, 1_900_000_000_000, None, value))
        )
        return [orjson.loads(out.value or b"") for out in outputs if out.role == "predictions"]

    def event(self, n: int, x: dict[str, Any], y: float | None = None, partition: int = 0) -> Any:
        (answer,) = self.step("events", n, partition, features=x, **({} if y is None else {"label": y}))
        return answer

    def label(self, n: int, y: float) -> None:
        self.step("truth", n, label=y)

    def restart(self) -> None:
        sections = {
            name: part if isinstance(part, bytes) else b"".join(part)
            for name, part in dump_state(self.shard).items()
        }
        self.shard = load_state(self.spec, sections, self.trusted)

    def asked(self) -> list[Any]:
        return [len(xs) for _, xs in self.shard.learner.model.asked]


def series(n: int) -> list[tuple[dict[str, float], float]]:
    rng, y, rows = random.Random(5), 0.0, []
    for _ in range(n):
        u = rng.uniform(-1, 1)
        y = 0.5 * y + 3 * u + 7
        rows.append(({"u": u, "v": rng.random()}, y))
    return rows


def plan(kind: Any, n: int) -> Plan:
    rng = random.Random(6)
    if kind == "irregular":
        return [rng.randint(0, 10) for _ in range(n)]
    if kind == "bursts":
        return [10 - at % 10 for at in range(n)]
    if kind == "gaps":  # fewer labels than it takes to tell which are missing
        return [None if rng.random() < 0.3 else 4 for _ in range(n)][:LABELS_SEEN]
    return [kind] * n


class Loop:
    """What a plain river loop makes of the same events and labels."""

    def __init__(self, model: Any, horizon: int) -> None:
        self.model, self.horizon = model, horizon
        self.waiting: dict[int, dict[str, float]] = {}
        self.forecasts: list[list[float]] = []
        self.lasts: list[float | None] = []
        self.errors = [metrics.MAE() for _ in range(horizon)]
        self.no_change = [metrics.MAE() for _ in range(horizon)]
        self.last: float | None = None

    def event(self, n: int, x: dict[str, float]) -> None:
        d = len(self.waiting)
        early = isinstance(self.model, time_series.HoltWinters) and not self.model._initialized
        xs = {"xs": [*self.waiting.values(), x]} if self.horizon == 1 else {}
        self.forecasts.append([] if early else self.model.forecast(d + self.horizon, **xs)[d:])
        self.lasts.append(self.last)
        self.waiting[n] = x

    def label(self, n: int, y: float) -> None:
        x = self.waiting.pop(n)
        for k in range(min(self.horizon, n + 1)):
            forecast, last = self.forecasts[n - k], self.lasts[n - k]
            if forecast:
                self.errors[k].update(y, forecast[k])
                if last is not None:
                    self.no_change[k].update(y, last)
        self.last = y
        self.model.learn_one(y=y, **({"x": x} if self.horizon == 1 else {}))


@pytest.mark.parametrize("kind", [0, 1, 2, 10, "irregular", "bursts", "gaps"])
@pytest.mark.parametrize(
    ("make", "horizon"), [(snarimax, 1), (squares, 1), (snarimax, 4), (holt_winters, 1), (holt_winters, 3)]
)
@pytest.mark.parametrize("restarts", [False, True])
def test_a_forecast_and_its_score_are_about_the_event_that_it_answers(
    make: Callable[[], Any], horizon: int, kind: Any, restarts: bool
) -> None:
    rows = series(240)
    service, loop = Service(make(), horizon), Loop(make(), horizon)
    delays = plan(kind, len(rows))
    due: list[list[int]] = [[] for _ in range(len(rows) + 20)]
    for n, ((x, y), delay) in enumerate(zip(rows, delays, strict=False)):
        for known in due[n]:
            service.label(known, rows[known][1])
            loop.label(known, rows[known][1])
        answer = service.event(n, x, y if delay == 0 else None)
        loop.event(n, x)
        assert answer["forecast"] == loop.forecasts[-1], n
        assert answer["prediction"] == (loop.forecasts[-1][0] if loop.forecasts[-1] else None)
        if delay == 0:
            loop.label(n, y)
        elif delay is not None:
            due[n + delay].append(n)
        if restarts and n % 37 == 0:
            service.restart()
    scores = service.shard.scores
    assert scores is not None
    report = scores.report()["all"]
    assert report["model"]["mae_by_step"] == [metric.get() for metric in loop.errors]
    assert report["no_change"]["mae_by_step"] == [metric.get() for metric in loop.no_change]


def test_with_features_and_a_delay_it_is_as_good_as_its_own_events_features_let_it_be() -> None:
    def error(delay: int) -> float:
        service, rows = Service(snarimax()), series(900)
        for n, (x, y) in enumerate(rows):
            if n >= delay > 0:
                service.label(n - delay, rows[n - delay][1])
            service.event(n, x, None if delay else y)
        scores = service.shard.scores
        assert scores is not None
        return float(scores.report()["window"]["model"]["mae"])

    at_once = error(0)
    assert at_once < 0.4
    assert all(error(delay) < 1.5 * at_once for delay in (1, 2, 10))


@pytest.mark.parametrize("delay", [0, 10])
def test_a_backtest_scores_as_the_plain_loop_does(delay: int, tmp_path: Path) -> None:
    rows, loop = series(240), Loop(snarimax(), 1)
    for n, (x, y) in enumerate(rows):
        if n >= delay > 0:
            loop.label(n - delay, rows[n - delay][1])
        loop.event(n, x)
        if not delay:
            loop.label(n, y)
    for n in [*loop.waiting]:
        loop.label(n, rows[n][1])
    source = lines(tmp_path / "e.jsonl", rows)
    (found,) = backtest(source, f"{__name__}:snarimax", delay=str(delay) if delay else "")["models"]
    assert found["scores"]["mae"] == loop.errors[0].get()


def test_an_event_that_gets_no_label_counts_only_as_long_as_its_label_could_still_come() -> None:
    delay, missing = 6, {*range(150, 400, 9), 301, 302}
    service = Service(Remembers())
    for n in range(400):
        if n >= delay and n - delay not in missing:
            service.label(n - delay, 1.0)
        service.event(n, {"n": n})
        if n % 50 == 0:
            service.restart()
    asked = [[x["n"] for x in xs] for _, xs in service.shard.learner.model.asked]
    for n in range(130, 400):
        labelled = [at for at in range(n - delay + 1) if at not in missing]
        waits = {*range(n)} - {*labelled}
        assert asked[n] == [at for at in sorted(waits) if at > labelled[-1] or at >= n - delay] + [n]


def test_beside_labels_inside_their_events_one_without_is_passed_over() -> None:
    service = Service(Remembers())
    for n in range(2 * LABELS_SEEN):
        service.event(n, {"n": n}, None if n % 3 == 2 else float(n))
    asked = service.asked()
    assert max(asked[: LABELS_SEEN // 2]) > 10, "at first any label may still come"
    assert asked[-9:] == [1, 2, 1, 1, 2, 1, 1, 2, 1], "one waits, until the next has its label"


def test_when_labels_stop_for_a_while_all_that_wait_count() -> None:
    service = Service(Remembers())
    for n in range(300):
        if n >= 2 and n < 200:
            service.label(n - 2, 1.0)
        service.event(n, {"n": n})
    assert service.asked()[-1] == 300 - 198
    for n in range(198, 300):
        service.label(n, 1.0)
    service.event(300, {"n": 300})
    assert service.asked()[-1] == 1


@pytest.mark.parametrize(
    "rules", [{"ttl_ms": 300_000}, {"ttl_ms": 300_000, "default": 0.0}, {"pending_max": 5}]
)
def test_what_waits_no_longer_is_not_looked_over(rules: dict[str, Any]) -> None:
    service = Service(Remembers(), **rules)
    for n in range(30):
        service.event(n, {"n": n})
    assert service.asked()[-1] == 6
    assert [x["n"] for x in service.shard.learner.model.asked[-1][1]] == [*range(24, 30)]


def test_events_of_several_partitions_are_looked_over_by_their_time() -> None:
    service = Service(Remembers())
    for n, partition in enumerate([1, 0, 0, 1, 1, 0]):
        service.event(n, {"n": n}, partition=partition)
    assert [x["n"] for x in service.shard.learner.model.asked[-1][1]] == [*range(6)]
    service.restart()
    service.event(6, {"n": 6})
    assert [x["n"] for x in service.shard.learner.model.asked[-1][1]] == [*range(7)]


@pytest.mark.parametrize("horizon", [1, 3])
def test_behind_too_many_labels_nothing_is_forecast_until_some_have_come(
    horizon: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joiner, "AHEAD_MAX", 20)
    service = Service(Remembers(), horizon)
    answers = [service.event(n, {}) for n in range(30)]
    assert [answer["prediction"] for answer in answers] == [*range(1, 22), *[None] * 9]
    assert [answer["forecast"] for answer in answers[21:]] == [[]] * 9
    assert [answer.get("reason") for answer in answers] == [None] * 21 + ["labels_too_late"] * 9
    for n in range(15):
        service.label(n, 100.0)
    assert service.event(30, {})["forecast"] == [116.0 + k for k in range(horizon)]


def test_a_forecast_may_be_as_large_as_a_double_and_its_event_is_learned() -> None:
    service = Service(Explodes(), horizon=6)
    answers = [service.event(n, {}, y=float(n)) for n in range(120)]
    assert all(answer["forecast"][-1] == 1e250 and "reason" not in answer for answer in answers)
    assert service.shard.memory.learned == 120
    assert not service.shard.memory.frozen
    assert not any(name.startswith("dlq") for name in service.shard.memory.outcomes)


def test_waits_from_before_there_were_any_begin_anew() -> None:
    service = Service(Remembers())
    for n in range(3):
        service.event(n, {"n": n})
    late = service.shard.joiner
    assert late is not None
    _, header, *pieces = late.pending.dump()
    names, lanes = msgspec.msgpack.decode(header)
    old = msgspec.msgpack.encode([names, [lane[:5] for lane in lanes]])
    late.pending = type(late.pending)(False, late.pending._packer)
    late.pending.load(memoryview(b"".join([len(old).to_bytes(8, "big"), old, *pieces])), 1e12)
    service.event(3, {"n": 3})
    assert service.asked()[-1] == 4
