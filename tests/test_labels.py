"""Labels that come later: joined, learned once, in the order and at the time in which they come."""

import random
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import orjson
import pytest
from river import (
    anomaly,
    base,
    compose,
    datasets,
    dummy,
    evaluate,
    linear_model,
    metrics,
    preprocessing,
    stats,
    stream,
    tree,
)

from streamlearn.core.events.event import EventSpec
from streamlearn.core.labels import joiner as labels_module
from streamlearn.core.labels.record import LabelSpec
from streamlearn.core.model.learner import Learner
from streamlearn.core.records import Output, Record
from streamlearn.core.scores.scores import ScoresSpec
from streamlearn.core.shard.facts import published
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.snapshot import dump_state, load_state
from streamlearn.core.shard.state import Memory, ShardSpec
from streamlearn.errors import BadCheckpoint

DAY_MS = 86_400_000


class Feed:
    """A shard, and records for its topics `events` and `labels`. Times in seconds."""

    def __init__(
        self, model: Any = None, event: EventSpec | None = None, every: int = 1000, **spec: Any
    ) -> None:
        self.model = model or (preprocessing.StandardScaler() | linear_model.LogisticRegression())
        rules = LabelSpec(topic="labels", **spec)
        scores = ScoresSpec(every, 1000, after_labels=True)
        self.shard = Shard(
            ShardSpec("m", "v", 1, event or EventSpec(), labels=rules, scores=scores),
            Learner(self.model),
            Memory(),
        )
        self.offsets = {"events": 0, "labels": 0}
        self.arrival_ms = 10 * DAY_MS

    def step(self, topic: str, value: dict[str, Any] | bytes, partition: int = 0) -> list[dict[str, Any]]:
        data = value if isinstance(value, bytes) else orjson.dumps(value)
        self.arrival_ms += 1
        record = Record(topic, partition, self.offsets[topic], self.arrival_ms, None, data)
        self.offsets[topic] += 1
        return [dict(orjson.loads(o.value or b"{}"), role=o.role) for o in self.applied(record)]

    def applied(self, record: Record) -> tuple[Output, ...]:
        return published(self.shard.step(record))

    def event(
        self, ident: str, time_s: float, x: Any = None, partition: int = 0, **more: Any
    ) -> list[dict[str, Any]]:
        body = {"id": ident, "ts": time_s, "features": x or {"a": 1.0}, **more}
        return self.step("events", body, partition)

    def label(self, y: Any = True, **names: Any) -> list[dict[str, Any]]:
        return self.step("labels", {**names, "label": y})

    @property
    def learned(self) -> int:
        return self.shard.memory.learned

    @property
    def counts(self) -> Any:
        assert self.shard.joiner is not None
        return self.shard.joiner.counts

    @property
    def pending(self) -> int:
        assert self.shard.joiner is not None
        return self.shard.joiner.pending.count

    def saved(self) -> dict[str, bytes]:
        return {
            name: part if isinstance(part, bytes) else b"".join(part)
            for name, part in dump_state(self.shard).items()
        }

    def restarted(self, saved: dict[str, bytes] | None = None) -> None:
        """As after a crash: everything from bytes again."""
        sections = saved or self.saved()
        self.shard = load_state(
            self.shard.spec, sections, frozenset({type(self.model).__module__.split(".")[0]})
        )


class Remembers(base.Classifier):
    """Keeps what it was given to learn."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, Any]] = []

    def predict_one(self, x: Any) -> bool:
        return False

    def learn_one(self, x: Any, y: Any) -> None:
        self.seen.append((dict(x), y))


def questions_and_answers(
    rows: Iterable[tuple[dict[str, Any], Any]], delay_s: int
) -> Iterator[tuple[int, dict[str, Any], Any]]:
    """River's own simulation of late labels, one row a second."""
    timed = (({**x, "t": n}, y) for n, (x, y) in enumerate(rows))
    for number, x, y, *_ in stream.simulate_qa(timed, moment="t", delay=delay_s):
        yield number, {name: value for name, value in x.items() if name != "t"}, y


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("kind", ["classification", "trees", "regression", "anomaly"])
def test_predictions_equal_those_of_rivers_own_simulation_of_late_labels(kind: str, restarts: bool) -> None:
    models = {
        "classification": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
        "trees": lambda: tree.HoeffdingAdaptiveTreeClassifier(grace_period=50, seed=3),
        "regression": lambda: preprocessing.StandardScaler() | linear_model.LinearRegression(),
        "anomaly": lambda: anomaly.HalfSpaceTrees(seed=7, n_trees=5, height=4),
    }
    source = datasets.TrumpApproval() if kind == "regression" else datasets.Phishing()
    rows = list(source)
    random.Random(3).shuffle(rows)
    ours, theirs = Feed(models[kind]()), models[kind]()
    for number, x, y in questions_and_answers(rows, 50):
        if y is None:
            answer, *_ = ours.event(str(number), number, x)
            if kind == "anomaly":
                assert answer["score"] == theirs.score_one(x)
            else:
                assert answer["prediction"] == theirs.predict_one(x)
        else:
            ours.label(y if kind != "anomaly" else bool(y), id=str(number), ts=number)
            theirs.learn_one(x) if kind == "anomaly" else theirs.learn_one(x, y)
            if restarts and number % 217 == 0:
                ours.restarted()
    assert ours.learned == len(rows)
    assert ours.counts.joined == len(rows) == ours.counts.events_joined
    assert ours.pending == 0


METRICS = {
    "classification": {
        "accuracy": metrics.Accuracy,
        "f1": metrics.F1,
        "log_loss": metrics.LogLoss,
        "roc_auc": metrics.ROCAUC,
        "cohen_kappa": metrics.CohenKappa,
        "balanced_accuracy": metrics.BalancedAccuracy,
    },
    "regression": {"mae": metrics.MAE, "rmse": metrics.RMSE, "r2": metrics.R2},
    "anomaly": {"roc_auc": metrics.ROCAUC},
}
MODELS = {
    "classification": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    "regression": lambda: preprocessing.StandardScaler() | linear_model.LinearRegression(),
    "anomaly": lambda: anomaly.HalfSpaceTrees(seed=7, n_trees=5, height=4),
}
BASELINES = {
    "classification": {"no_change": dummy.NoChangeClassifier, "prior": dummy.PriorClassifier},
    "regression": {"mean": lambda: dummy.StatisticRegressor(stats.Mean())},
    "anomaly": {},
}


@pytest.mark.parametrize("delay_s", [0, 1, 37])
@pytest.mark.parametrize("kind", ["classification", "regression", "anomaly"])
def test_scores_equal_rivers_progressive_validation_to_the_last_digit(kind: str, delay_s: int) -> None:
    rows = list(datasets.TrumpApproval() if kind == "regression" else datasets.Phishing())
    random.Random(5).shuffle(rows)
    feed = Feed(MODELS[kind](), every=len(rows))
    if delay_s:
        for number, x, y in questions_and_answers(rows, delay_s):
            if y is None:
                feed.event(str(number), number, x)
            else:
                feed.label(y, id=str(number), ts=number)
            if number % 211 == 0:
                feed.restarted()
        assert feed.shard.scores is not None
        found = feed.shard.scores.report()
    else:
        told = [one for n, (x, y) in enumerate(rows) for one in feed.event(str(n), n, x, label=y)]
        (found,) = [one for one in told if one["role"] == "scores"]
    assert found["labels"] == len(rows)
    subjects = {"model": MODELS[kind], **BASELINES[kind]}
    for who, make in subjects.items():
        for name, metric in METRICS[kind].items():
            timed = [({**x, "t": n}, y) for n, (x, y) in enumerate(rows)]
            model = make()
            if who == "model":
                model = compose.Discard("t") | model
            late = {"moment": "t", "delay": delay_s} if delay_s else {}
            theirs = evaluate.progressive_val_score(timed, model, metric(), **late)
            assert found["all"][who][name] == theirs.get(), (who, name)


def test_the_model_learns_the_features_as_they_were() -> None:
    feed = Feed(Remembers())
    x = {"a": 1.5, "b": True, "c": "warm", "d": 7}
    feed.event("e", 1, x)
    feed.event("f", 2, {"a": 9.0})
    feed.restarted()
    feed.label(True, id="e")
    assert feed.shard.learner.model.seen == [(x, True)]
    assert [type(v) for v in feed.shard.learner.model.seen[0][0].values()] == [float, bool, str, int]


def test_a_moment_among_the_features_comes_back_with_its_offset() -> None:
    feed = Feed(Remembers(), EventSpec(time_as="moment"))
    feed.arrival_ms = 2_000_000_000_000
    feed.event("e", "2026-01-31T08:00:00+05:00")  # type: ignore[arg-type]
    feed.restarted()
    feed.label(True, id="e")
    (x, _), *_ = feed.shard.learner.model.seen
    assert x["moment"].isoformat() == "2026-01-31T08:00:00+05:00"


def test_a_moment_among_the_features_is_no_concern_of_the_scores() -> None:
    feed = Feed(Remembers(), EventSpec(time_as="moment"), every=1100)
    told = [feed.event(str(n), n, {"a": float(n)}) for n in range(1100)]
    proxies = told[-1][-1]["proxies"]
    assert list(proxies["feature_psi"]) == ["a"]


def test_a_group_has_one_label_for_all_its_events_also_for_those_that_come_after_it() -> None:
    feed = Feed(join="group", event=EventSpec(group="group"))
    for n in range(3):
        feed.event(f"a{n}", n, group="walk")
        feed.event(f"b{n}", n, group="run")
    feed.label(group="walk")
    assert (feed.learned, feed.pending) == (3, 3)
    feed.restarted()
    feed.event("a3", 4, group="walk")
    assert (feed.learned, feed.pending) == (4, 3)
    feed.label(group="walk")
    assert feed.counts.duplicate == 1
    assert feed.learned == 4


def test_an_event_that_no_label_can_name_is_counted_and_does_not_wait() -> None:
    feed = Feed(join="group", event=EventSpec(group="group"))
    feed.event("a", 0)
    assert (feed.pending, feed.counts.events_unnamed) == (0, 1)


def test_an_interval_labels_the_events_of_its_key_from_its_start_up_to_its_end() -> None:
    feed = Feed(Remembers(), EventSpec(key="key"), join="interval")
    for n in range(10):
        feed.event(f"p{n}", n, {"a": float(n)}, key="press", partition=n % 2)
        feed.event(f"l{n}", n, {"a": -1.0}, key="lathe")
    feed.restarted()
    feed.step("labels", {"key": "press", "from": 2, "to": 5, "label": True})
    assert [x["a"] for x, _ in feed.shard.learner.model.seen] == [2.0, 3.0, 4.0]
    feed.step("labels", {"key": "press", "from": 2, "to": 5, "label": True})
    assert feed.counts.duplicate == 1
    feed.event("late", 4, {"a": 4.5}, key="press")
    assert feed.shard.learner.model.seen[-1][0] == {"a": 4.5}
    assert feed.pending == 17


def test_events_are_forgotten_by_the_first_record_whose_time_passes_and_not_before() -> None:
    feed = Feed(ttl_ms=10_000.0)
    feed.event("a", 0)
    feed.event("b", 10)
    assert feed.pending == 2
    feed.event("c", 10.5)
    assert (feed.pending, feed.counts.events_expired, feed.learned) == (2, 1, 0)
    feed.label(id="a")
    assert feed.counts.late == 1


def test_each_input_partition_has_its_own_clock() -> None:
    feed = Feed(ttl_ms=10_000.0)
    feed.event("a", 0, partition=0)
    feed.event("b", 100, partition=1)
    assert feed.pending == 2
    feed.event("c", 11, partition=0)
    assert (feed.pending, feed.counts.events_expired) == (2, 1)


def test_an_event_without_a_label_in_time_learns_the_default() -> None:
    feed = Feed(Remembers(), ttl_ms=10_000.0, default=False)
    feed.event("a", 0, {"a": 1.0})
    feed.event("b", 1, {"a": 2.0})
    feed.restarted()
    feed.event("c", 10.5)
    assert feed.shard.learner.model.seen == [({"a": 1.0}, False)]
    feed.event("d", 1000)
    assert len(feed.shard.learner.model.seen) == 3


def test_a_label_before_its_event_waits_and_is_learned_after_the_prediction() -> None:
    feed = Feed(Remembers())
    feed.event("z", 0)
    feed.label(id="a")
    assert feed.counts.early == 1
    feed.restarted()
    (answer,) = feed.event("a", 1)
    assert answer["model"]["learned"] == 0
    assert feed.learned == 1
    feed.label(id="a")
    assert feed.counts.duplicate == 1


@pytest.mark.parametrize("before_any_event", [True, False])
def test_a_label_whose_event_never_comes_is_an_orphan_after_its_time(before_any_event: bool) -> None:
    feed = Feed(early_ttl_ms=60_000.0)
    if not before_any_event:
        feed.event("y", 0)
    feed.label(id="nobody")
    feed.event("a", 0)
    feed.event("b", 60)
    assert feed.counts.orphan == 0
    feed.event("c", 61)
    assert feed.counts.orphan == 1


def test_a_second_label_is_ignored_and_counted() -> None:
    feed = Feed()
    feed.event("a", 0)
    feed.label(True, id="a")
    feed.label(False, id="a")
    feed.restarted()
    feed.label(True, id="a")
    assert (feed.learned, feed.counts.duplicate) == (1, 2)


def test_a_label_inside_an_event_is_learned_at_once_beside_those_that_wait() -> None:
    feed = Feed()
    feed.event("a", 0, label=True)
    assert (feed.learned, feed.pending) == (1, 0)
    feed.label(id="a")
    assert feed.learned == 1


def test_too_many_waiting_events_drop_the_one_nearest_to_its_end() -> None:
    feed = Feed(pending_max=3)
    for n in range(5):
        feed.event(str(n), n, partition=n % 2)
    assert (feed.pending, feed.counts.events_dropped) == (3, 2)
    feed.label(id="0")
    assert feed.counts.late == 1
    feed.label(id="4")
    assert feed.learned == 1


def test_a_bulk_of_labels_for_unknown_ids_is_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels_module, "EARLY_MAX", 100)
    feed = Feed()
    for n in range(5000):
        feed.label(id=f"unknown-{n}")
    late = feed.shard.joiner
    assert late is not None
    assert feed.counts.orphan == 4900
    assert len(late._early) == 100
    assert len(late._early_order) <= 200


def test_a_share_of_orphans_raises_one_alert_and_its_end_another() -> None:
    feed = Feed(early_ttl_ms=1000.0)
    alerts = []
    for n in range(6000):
        told = feed.event(f"e{n}", n)
        told += feed.label(id=f"e{n}" if n > 2500 else f"x{n}", ts=n)
        alerts += [one for one in told if one["role"] == "alerts"]
    assert [(one["alert"], one["state"]) for one in alerts] == [
        ("labels.orphans", "raised"),
        ("labels.orphans", "cleared"),
    ]
    assert alerts[0]["share"] == 1.0
    assert "Compare the ids" in alerts[0]["message"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "empty"),
        (b"[1]", "not_object"),
        (b'{"id":"a","label":NaN}', "not_finite"),
        ({"label": True}, "no_join"),
        ({"id": None, "label": True}, "no_join"),
        ({"id": [1], "label": True}, "no_join"),
        ({"id": "a"}, "no_label"),
        ({"id": "a", "label": None}, "no_label"),
        ({"id": "a", "label": {"y": 1}}, "label_type"),
        ({"id": "a", "label": "yes"}, "label_type"),
        ({"id": "a", "label": 2}, "label_type"),
        ({"id": "a", "label": True, "ts": "noon"}, "bad_time"),
        ({"id": "a", "label": True, "ts": 9e13}, "future"),
    ],
)
def test_what_is_no_label_is_a_dead_letter_and_the_event_goes_on_waiting(value: Any, reason: str) -> None:
    feed = Feed()
    feed.event("z", 0, label=True)
    feed.event("a", 0)
    record = Record(
        "labels", 0, 0, feed.arrival_ms, None, value if isinstance(value, bytes) else orjson.dumps(value)
    )
    (letter,) = published(feed.shard.step(record))
    headers = dict(letter.headers)
    assert headers["__connect.errors.exception.class.name"] == f"streamlearn.{reason}".encode()
    assert headers["streamlearn.stage"] == b"label"
    assert feed.pending == 1


@pytest.mark.parametrize("ends", [{"from": 1}, {"from": 5, "to": 2}, {"from": "a", "to": "b"}, {}])
def test_an_interval_without_two_times_in_order_is_a_dead_letter(ends: dict[str, Any]) -> None:
    feed = Feed(event=EventSpec(key="key"), join="interval")
    feed.event("a", 0, key="k")
    (letter,) = published(
        feed.shard.step(
            Record("labels", 0, 0, feed.arrival_ms, None, orjson.dumps({"key": "k", "label": True, **ends}))
        )
    )
    assert dict(letter.headers)["__connect.errors.exception.class.name"] == b"streamlearn.bad_interval"


def test_the_distribution_of_delays_is_kept() -> None:
    feed = Feed()
    for n in range(1000):
        feed.event(str(n), n)
        feed.label(id=str(n), ts=n + (1 if n % 10 else 3600))
    assert feed.shard.joiner is not None
    delays = feed.shard.joiner.report()["delay_s"]
    assert delays["p50"] == pytest.approx(1.0, rel=0.1)
    assert delays["p99"] == pytest.approx(3600, rel=0.1)
    assert delays["max"] == 3600


def test_a_model_that_raises_on_a_late_label_loses_that_label_and_nothing_else() -> None:
    feed = Feed(Remembers())
    feed.event("a", 0)
    feed.event("b", 0)
    record = Record("labels", 0, 0, feed.arrival_ms, None, b'{"id":"a","label":true}')
    (letter,) = published(feed.shard.skip(record, "learn", "raised"))
    assert letter.role == "dlq"
    assert letter.value == record.value
    assert feed.pending == 1
    feed.label(id="b")
    assert feed.learned == 1


@pytest.mark.parametrize("learn", ["label", "event"])
def test_a_model_that_needs_no_labels_learns_when_it_is_told_to(learn: str) -> None:
    feed = Feed(anomaly.HalfSpaceTrees(seed=1, n_trees=2, height=3), learn=learn, ttl_ms=10_000.0)
    feed.event("a", 0)
    assert feed.learned == (1 if learn == "event" else 0)
    feed.label(id="a")
    assert feed.learned == 1
    feed.event("b", 1)
    feed.event("c", 12)
    assert feed.learned == (3 if learn == "event" else 2)


def test_a_random_life_goes_on_the_same_through_bytes_at_any_moment() -> None:
    def life(restart_at: frozenset[int]) -> tuple[Any, ...]:
        rng = random.Random(11)
        feed = Feed(pending_max=250, ttl_ms=200_000.0, default=False, early_ttl_ms=50_000.0)
        outputs = []
        for step in range(4000):
            n = step if step < 2000 else 2000 + (step - 2000) / 10
            if step in restart_at:
                feed.restarted()
            x = {name: rng.random() for name in ("a", "b", "c")[: rng.randint(1, 3)]}
            outputs += feed.event(f"e{step}", n - rng.randint(0, 20), x, partition=rng.randint(0, 2))
            if rng.random() < 0.8:
                outputs += feed.label(rng.random() < 0.5, id=f"e{step - rng.randint(-5, 400)}", ts=n)
        return outputs, feed.counts, feed.learned

    straight = life(frozenset())
    assert straight == life(frozenset({1, 700, 1023, 1024, 1025, 2048, 3000, 3999}))
    counts = straight[1]
    assert min(counts.joined, counts.early, counts.duplicate, counts.late, counts.orphan) > 10
    assert min(counts.events_expired, counts.events_dropped) > 10


def scored(outputs: Iterable[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """The scores messages: the topic that caused each, events and labels."""
    return [(o["source"]["topic"], o["events"], o["labels"]) for o in outputs if o["role"] == "scores"]


def test_labels_that_come_after_all_events_cause_messages_as_predictions_do() -> None:
    feed = Feed(every=100)
    outputs = [o for n in range(150) for o in feed.event(f"e{n}", n)]
    labels = [o for n in range(150) for o in feed.label(n % 2 == 0, id=f"e{n}", ts=200)]
    assert scored(outputs) == [("events", 100, 0)]
    assert scored(labels) == [("labels", 150, 100)]
    message = next(o for o in labels if o["role"] == "scores")
    assert (message["ts"], message["source"]["offset"]) == (149, 99)
    assert message["all"]["model"]["answered"] == 100
    # A label that is about many events is one record, and causes one message, with its last event.
    feed = Feed(every=100, event=EventSpec(group="group"), join="group")
    for n in range(350):
        feed.event(f"e{n}", n, group="g")
    assert scored(feed.label(True, group="g", ts=400)) == [("labels", 350, 350)]


def test_where_predictions_keep_pace_with_labels_messages_come_with_them_alone() -> None:
    for delay in (0, 1, 40):
        feed, found = Feed(every=100), []
        for n in range(1000):
            found += scored(feed.event(f"e{n}", n))
            if n >= delay:
                found += scored(feed.label(n % 2 == 0, id=f"e{n - delay}", ts=n))
        assert found == [("events", n, n - 1 - delay) for n in range(100, 1001, 100)]
    inside = Feed(every=100)
    found = [one for n in range(300) for one in scored(inside.event(f"e{n}", n, label=True))]
    assert found == [("events", n, n) for n in (100, 200, 300)]


def test_eras_from_before_have_no_messages_after_labels() -> None:
    feed = Feed(every=10)
    spec = feed.shard.spec
    feed.shard.spec = msgspec.structs.replace(spec, scores=ScoresSpec(10, 1000))
    feed.restarted()
    for n in range(9):
        feed.event(f"e{n}", n)
    assert not [one for n in range(9) for one in scored(feed.label(True, id=f"e{n}", ts=20))]


def test_a_label_of_no_use_for_the_task_is_counted_and_said() -> None:
    model = preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(seed=1)
    shard = Shard(ShardSpec("m", "v", 1, scores=ScoresSpec(10)), Learner(model), Memory())
    labels = ["rain", "sun", 0.5, -1, "1", True, 0, 1.0]
    found = []
    for n, y in enumerate(labels * 5):
        data = orjson.dumps({"id": n, "features": {"a": float(n)}, "label": y})
        outputs = published(shard.step(Record("events", 0, n, DAY_MS + n, None, data)))
        found += [orjson.loads(o.value or b"") for o in outputs if o.role == "scores"]
    assert shard.memory.outcomes == {"prediction": 40, "label.unused": 25}
    assert [(one["labels"], one["labels_lost"]) for one in found[-1:]] == [(15, {"label.unused": 25})]


def test_what_is_refused_or_frozen_stands_beside_the_numbers_and_else_nothing_does() -> None:
    feed = Feed(every=5)
    outputs = [o for n in range(5) for o in feed.event(f"e{n}", n)]
    assert not {"frozen", "labels_lost"} & outputs[-1].keys()
    feed.label(True, id="e0", ts=6)
    feed.label("x", id="e1", ts=6)
    feed.shard.memory.frozen = "raised"
    outputs = [o for n in range(5, 10) for o in feed.event(f"e{n}", n)]
    assert (outputs[-1]["frozen"], outputs[-1]["labels_lost"]) == ("raised", {"dlq.label.label_type": 1})


def test_a_state_of_another_format_is_refused_by_name_with_a_way_out() -> None:
    feed = Feed()
    feed.event("e1", 1.0)
    feed.label(id="soon")
    saved = feed.saved()
    size = int.from_bytes(saved["labels"][:8], "big")
    head = msgspec.msgpack.decode(saved["labels"][8 : 8 + size])
    head |= {"format": 1, "early": [one[:-1] for one in head["early"]]}
    older = msgspec.msgpack.encode(head)
    saved["labels"] = len(older).to_bytes(8, "big") + older + saved["labels"][8 + size :]
    with pytest.raises(BadCheckpoint, match=r"waiting events of format 1, .* has 2.*`streamlearn reset`"):
        feed.restarted(saved)
