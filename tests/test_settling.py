"""The first value decides nothing: time unit, label type, arrival and jumps of time follow from evidence."""

from collections import Counter
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from river import dummy, linear_model, naive_bayes, tree

from streamlearn.core.events.event import EventSpec
from streamlearn.core.events.evidence import SETTLED
from streamlearn.core.labels.lanes import SEGMENT
from streamlearn.core.labels.record import LabelSpec
from streamlearn.core.model.learner import Learner
from streamlearn.core.records import Output, Record
from streamlearn.core.shard.commands import RESET_LABEL
from streamlearn.core.shard.facts import published
from streamlearn.core.shard.label_rules import note_label
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.snapshot import dump_state, load_state
from streamlearn.core.shard.state import COMMAND, Memory, ShardSpec
from streamlearn.core.shard.time_units import note_unit

NOW_MS = 1_785_000_000_000
PER_MS = {"s": 1e-3, "ms": 1, "us": 1000, "ns": 1_000_000}


def shard(model: Any = None, event: EventSpec | None = None, labels: LabelSpec | None = None) -> Shard:
    spec = ShardSpec("m", "v1", 1, event or EventSpec(), None, labels=labels)
    return Shard(spec, Learner(model or naive_bayes.GaussianNB()), Memory())


def record(n: int, arrived_ms: int | None = None, topic: str = "t", **doc: Any) -> Record:
    value = orjson.dumps({"features": {"a": float(n)}} | doc)
    return Record(topic, 0, n, NOW_MS + n if arrived_ms is None else arrived_ms, None, value)


def roles(outputs: list[tuple[Output, ...]]) -> list[str]:
    return [one.role for each in outputs for one in each if one.role != "scores"]


def reloaded(subject: Shard) -> Shard:
    """The state through a checkpoint."""
    sections = {
        name: b"".join(part) if isinstance(part, list) else part for name, part in dump_state(subject).items()
    }
    return load_state(subject.spec, sections, frozenset())


def run(subject: Shard, docs: list[dict[str, Any]]) -> list[str]:
    found = []
    for n, doc in enumerate(docs):
        found.append(published(subject.step(record(n, **doc))))
        subject = reloaded(subject)
    return roles(found)


# --- time units -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", list(PER_MS))
@pytest.mark.parametrize(
    "first", [[0], [-1], [4711], ["1970-01-01T00:00:00Z"], [0, -1, 4711, 7.5, "1970-01-01T00:00:00Z"] * 5]
)
def test_times_that_are_none_settle_no_unit(first: list[Any], unit: str) -> None:
    subject = shard()
    docs = [{"ts": ts} for ts in [*first, *((NOW_MS + n * 1000) * PER_MS[unit] for n in range(59))]]
    assert run(subject, docs) == ["predictions"] * len(docs)


def test_the_unit_of_most_plausible_times_is_settled_after_twenty() -> None:
    subject = shard()
    for n in range(20):
        assert subject.memory.time_votes or n == 0
        ts = NOW_MS / 1000 if n in (0, 5) else NOW_MS * 1000
        assert roles([published(subject.step(record(n, ts=ts)))]) == ["predictions"]
    assert (subject.memory.time_unit, subject.memory.time_votes) == ("us", {})
    assert roles(
        [published(subject.step(record(20, ts=0))), published(subject.step(record(21, ts=NOW_MS * 10**6)))]
    ) == [
        "predictions",
        "dlq",
    ]


def test_small_numbers_are_read_in_seconds_for_ever() -> None:
    labels = LabelSpec("labels", ttl_ms=5_000)
    subject = shard(labels=labels)
    for n in range(60):
        subject.step(record(n, ts=n, id=f"e{n}"))
    assert subject.memory.time_unit == "s"
    assert subject.joiner is not None
    assert subject.joiner.pending.count == 6


@pytest.mark.parametrize(("settled", "declared"), [("s", "ms"), ("us", "ms"), ("ms", "rfc3339")])
def test_a_declared_unit_wins_over_a_settled_one(settled: str, declared: str) -> None:
    subject = shard()
    for n in range(30):
        subject.step(record(n, ts=NOW_MS * PER_MS[settled]))
    assert subject.memory.time_unit == settled
    spec = ShardSpec("m", "v1", 1, EventSpec(time_unit=declared), None)
    again = Shard(spec, subject.learner, subject.memory)
    ts = "2026-01-01T00:00:00Z" if declared == "rfc3339" else NOW_MS * PER_MS[declared]
    assert roles([published(again.step(record(40, ts=ts)))]) == ["predictions"]
    assert again.memory.time_unit == declared


def test_times_of_labels_follow_the_evidence_and_the_declaration() -> None:
    interval = LabelSpec("labels", join="interval")
    for unit in ("auto", "us"):
        subject = shard(event=EventSpec(key="key", time_unit=unit), labels=interval)
        subject.memory.time_unit = "s" if unit == "us" else ""
        subject.step(record(0, ts=NOW_MS * 1000, key="k"))
        told = {"key": "k", "from": NOW_MS * 1000 - 5, "to": NOW_MS * 1000 + 5, "label": True}
        subject.step(Record("labels", 0, 0, NOW_MS, None, orjson.dumps(told)))
        assert subject.memory.outcomes == {"prediction": 1, "label.joined": 1}


def test_a_replay_of_history_is_plausible() -> None:
    subject = shard()
    old_s = 1_041_379_200  # 2003-01-01
    assert run(subject, [{"ts": -1}, *({"ts": old_s + n} for n in range(40))]) == ["predictions"] * 41


# --- label types ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("odd", "rest", "lost"),
    [
        ("n/a", [1, 0, 2], 1),
        (True, [1, 0, 3], 1),
        (1, [True, False], 1),
        (7, ["walk", "sit"], 1),
        (False, ["walk", "sit"], 1),
        ("n/a", [1.0, 0.0], 1),
    ],
)
def test_one_odd_first_label_decides_nothing(odd: Any, rest: list[Any], lost: int) -> None:
    subject = shard()
    docs = [{"label": label} for label in [odd, *rest * 15]]
    found = run(subject, docs)
    assert found.count("dlq") == lost
    assert found[2:] == ["predictions"] * (len(docs) - 2)


@pytest.mark.parametrize("model", [tree.HoeffdingTreeClassifier, naive_bayes.GaussianNB])
@pytest.mark.parametrize(("odd", "rest"), [("n/a", [True, False]), ("", [1, 0, 2]), (7, ["walk", "sit"])])
@pytest.mark.parametrize("times", [1, 2, 6])
def test_a_model_knows_nothing_of_odd_first_labels(model: Any, odd: Any, rest: list[Any], times: int) -> None:
    subject = shard(model())
    found = run(subject, [{"label": label} for label in [odd] * times + rest * 30])
    assert found.count("dlq") == times
    assert found[-10:] == ["predictions"] * 10


def after_a_reset(model: Any, before: list[Any], frozen: bool = False) -> Shard:
    """A shard whose labels were of another type, as `control reset label` leaves it."""
    subject = shard(model)
    for n, label in enumerate(before):
        subject.step(record(n, label=label))
    if frozen:
        subject.memory.freeze(COMMAND)
    subject.memory.forget(RESET_LABEL)
    return reloaded(subject)


def test_a_reset_lets_a_model_begin_anew_once_two_labels_agree() -> None:
    subject = after_a_reset(tree.HoeffdingTreeClassifier(), ["n/a"] * 25)
    found = run(subject, [{"label": label} for label in [True, "n/a", *[True, False] * 20]])
    assert found == ["dlq", "predictions", *["predictions"] * 40]
    subject = after_a_reset(tree.HoeffdingTreeClassifier(), [True, False] * 25)
    learned = subject.memory.learned
    found = [published(subject.step(record(n, label=label))) for n, label in enumerate(["n/a", *[1, 0] * 20])]
    assert roles(found) == ["dlq", *["predictions"] * 40]
    assert subject.memory.learned == learned + 40


def test_a_model_that_was_frozen_by_command_is_kept_whatever_labels_come() -> None:
    subject = after_a_reset(tree.HoeffdingTreeClassifier(), [True, False] * 25, frozen=True)
    for n in range(40):
        assert roles([published(subject.step(record(n, label="walk")))]) == ["dlq"]
    assert subject.memory.learned == 50
    subject.memory.thaw()
    found = [published(subject.step(record(n, label="walk"))) for n in range(9)]
    assert roles(found).count("dlq") == 0
    assert subject.memory.learned == 9


def test_a_declared_type_lets_a_model_of_texts_begin_anew() -> None:
    subject = shard(tree.HoeffdingTreeClassifier())
    for n in range(30):
        subject.step(record(n, label="n/a"))
    subject.spec = ShardSpec("m", "v1", 1, EventSpec(types={"label": "bool"}), None)
    subject = reloaded(subject)
    assert run(subject, [{"label": n % 2 > 0} for n in range(40)]) == ["predictions"] * 40


@pytest.mark.parametrize(("odd", "rest"), [(True, [1, 0]), (1, [True, False]), (1.0, [False, True])])
@pytest.mark.parametrize("model", [linear_model.LogisticRegression, tree.HoeffdingTreeClassifier])
def test_answers_are_of_the_settled_type_whatever_the_model_saw_first(
    model: Any, odd: Any, rest: list[Any]
) -> None:
    subject = shard(model())
    for n, label in enumerate([odd, *rest * 15]):
        subject.step(record(n, label=label))
    (output,) = published(subject.step(record(99)))
    found = orjson.loads(output.value or b"")
    texts = {orjson.dumps(label).decode() for label in rest}
    assert type(found["prediction"]) is type(rest[0])
    assert set(found["probabilities"]) == texts
    assert not subject.memory.label_votes


def test_twenty_labels_settle_the_type() -> None:
    subject = shard()
    for n in range(20):
        subject.step(record(n, label=["x", 1][n > 0]))
    assert (subject.memory.label_type, subject.memory.label_votes) == ("int", {})
    for n in range(30):
        assert roles([published(subject.step(record(20 + n, label="x")))]) == ["dlq"]


def test_a_declared_label_type_wins_over_a_settled_one() -> None:
    subject = shard()
    for n in range(30):
        subject.step(record(n, label=f"{n % 2}"))
    spec = ShardSpec("m", "v1", 1, EventSpec(types={"label": "int"}), None, labels=LabelSpec("labels"))
    again = Shard(spec, subject.learner, subject.memory)
    assert roles([published(again.step(record(40, label=1)))]) == ["predictions"]
    assert again.memory.label_type == "int"
    again.step(record(41, id="e"))
    again.step(Record("labels", 0, 0, NOW_MS, None, b'{"id":"e","label":"1"}'))
    assert again.memory.outcomes["label.joined"] == 1


@pytest.mark.parametrize("late", [False, True])
def test_integral_floats_are_classes_and_the_same_as_integers(late: bool) -> None:
    subject = shard(dummy.PriorClassifier(), labels=LabelSpec("labels") if late else None)
    for n, label in enumerate([1.0, 0.0, 1, 1.0] * 6):
        if late:
            subject.step(record(n, id=f"e{n}"))
            doc = {"id": f"e{n}", "label": label}
            subject.step(Record("labels", 0, n, NOW_MS + n, None, orjson.dumps(doc)))
        else:
            subject.step(record(n, label=label))
    assert subject.memory.learned == 24
    (output,) = published(subject.step(record(99)))
    found = orjson.loads(output.value or b"")
    assert (found["prediction"], found["probabilities"]) == (1, {"0": 0.25, "1": 0.75})
    (output,) = published(subject.step(record(100, label=0.5)))
    assert output.role == "dlq"


# --- arrival --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["in turns", "in blocks"])
def test_an_arrival_that_is_not_known_refuses_nothing(order: str) -> None:
    subject = shard()
    stamps = [-1] * 30 + [1] * 30 + [NOW_MS] * 30
    if order == "in turns":
        stamps = stamps[::30] * 30
    found = [published(subject.step(record(n, stamp, ts=NOW_MS / 1000))) for n, stamp in enumerate(stamps)]
    assert roles(found) == ["predictions"] * 90


def test_an_event_without_any_time_takes_the_arrival_that_is_known() -> None:
    subject = shard()
    found = [published(subject.step(record(n, stamp)))[0] for n, stamp in enumerate([-1, NOW_MS, 0])]
    assert [orjson.loads(one.value or b"")["ts"] for one in found] == [None, NOW_MS, NOW_MS]


def test_a_time_that_is_known_nowhere_ends_no_waiting() -> None:
    subject = shard(labels=LabelSpec("labels", ttl_ms=60_000, early_ttl_ms=60_000))
    for n in range(50):
        subject.step(record(n, -1, id=f"e{n}"))
    for n in range(50, 60):
        subject.step(record(n, ts=NOW_MS / 1000, id=f"e{n}"))
        subject = reloaded(subject)
    for n in range(60):
        subject.step(Record("labels", 0, n, -1, None, orjson.dumps({"id": f"e{n}", "label": n % 2})))
    assert subject.memory.outcomes == {"prediction": 60, "label.joined": 60}


def test_the_future_is_what_no_arrival_in_the_partition_has_reached() -> None:
    subject = shard()
    ts = NOW_MS / 1000 + 7000
    assert roles([published(subject.step(record(0, NOW_MS, ts=ts)))]) == ["dlq"]
    subject.step(record(1, NOW_MS + 3_600_000, ts=NOW_MS / 1000))
    assert roles([published(subject.step(record(2, NOW_MS, ts=ts)))]) == ["predictions"]


@given(st.lists(st.sampled_from(("ms", "s", "us")), max_size=60))
@example(["ms"] * 9 + ["s"] * 6 + ["us"] * 6)
def test_units_of_time_and_types_of_labels_are_settled_by_the_same_votes(votes: list[str]) -> None:
    """Units were settled by the most votes of one, types by more than half of them."""
    kinds: dict[str, Any] = {"ms": 1, "s": True, "us": "a"}
    learner = Learner(tree.HoeffdingTreeClassifier())
    times, labels = Memory(), Memory()
    for n, vote in enumerate(votes, 1):
        note_unit((vote, True), EventSpec(), times)
        note_label(kinds[vote], learner, labels, "")
        counts = Counter(votes[:n])
        settled = n >= SETTLED and counts.most_common(1)[0][1] > n / 2
        assert (not times.time_votes, not labels.label_votes) == (settled, settled)
        if settled:
            return


# --- leaps of time --------------------------------------------------------------------------------------

DAY_MS = 86_400_000
TTL_MS = 3 * DAY_MS


def waiting(count: int = 50, join: str = "id") -> Shard:
    subject = shard(
        event=EventSpec(key="key"), labels=LabelSpec("labels", join=join, ttl_ms=TTL_MS, early_ttl_ms=TTL_MS)
    )
    for n in range(count):
        subject.step(record(n, NOW_MS, ts=NOW_MS + n, id=f"e{n}", key="k"))
    return subject


def leap(subject: Shard, n: int, days: float, arrives: bool = True) -> Shard:
    at_ms = int(NOW_MS + days * DAY_MS)
    subject.step(record(n, at_ms if arrives else -1, ts=at_ms, id=f"leap{n}"))
    return reloaded(subject)


def joined(subject: Shard, count: int = 50) -> int:
    for n in range(count):
        subject.step(Record("labels", 0, n, NOW_MS, None, orjson.dumps({"id": f"e{n}", "label": n % 2})))
    return subject.memory.outcomes.get("label.joined", 0)


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize("days", [[400], [400, 0, 400, 0], [400, 900], [400, 0.1, 1, 900, 0, 401]])
def test_times_that_nothing_confirms_end_no_waiting(days: list[float], arrives: bool) -> None:
    subject = waiting()
    for n, day in enumerate(days):
        subject = leap(subject, 100 + n, day, arrives)
    assert joined(subject) == 50


@pytest.mark.parametrize("days", [[400, 400], [400, 401], [4, 8, 12], [400, 0, 400, 400]])
def test_time_that_other_records_confirm_goes_on(days: list[float]) -> None:
    subject = waiting()
    for n, day in enumerate(days):
        subject = leap(subject, 100 + n, day)
    assert joined(subject) == 0


def test_a_leap_within_ttl_or_an_hour_needs_nobody() -> None:
    subject = waiting()
    for n in range(3):
        subject = leap(subject, 100 + n, 1.01 * (n + 1))
    assert joined(subject) == 0


def test_a_first_record_that_is_far_ahead_is_taken_back() -> None:
    subject = shard(labels=LabelSpec("labels", ttl_ms=TTL_MS, early_ttl_ms=TTL_MS))
    subject.step(Record("labels", 0, 0, NOW_MS, None, b'{"id":"none","label":1}'))
    subject = leap(subject, 0, 400)
    for n in range(1, 50):
        subject = leap(subject, n, n / 10)
    assert subject.joiner is not None
    report = subject.joiner.report()
    assert (report["pending"], report["events_expired"], report["orphan"]) == (31, 19, 1)


def test_one_arrival_that_is_far_ahead_lets_no_future_in() -> None:
    subject = shard()
    subject.step(record(0, NOW_MS))
    subject.step(record(1, NOW_MS + 400 * DAY_MS))
    subject = reloaded(subject)
    assert roles([published(subject.step(record(2, NOW_MS, ts=NOW_MS + 399 * DAY_MS)))]) == ["dlq"]


@pytest.mark.parametrize("days", [[5, 5.01], [5, 9, 13], [400, 0, 5, 5.01], [5, 5.01, 5.02, 9.5, 9.51]])
def test_events_after_a_gap_wait_as_long_as_others(days: list[float]) -> None:
    subject = waiting()
    for n, day in enumerate(days):
        subject = leap(subject, n, day)
    last = len(days) - 1
    for n in (last, last - 1):
        doc = {"id": f"leap{n}", "label": 1}
        subject.step(Record("labels", 0, n, NOW_MS, None, orjson.dumps(doc)))
    assert subject.memory.outcomes["label.joined"] == 2


def test_events_after_a_gap_wait_also_across_a_segments_end() -> None:
    subject = waiting(SEGMENT - 1)
    for n, day in enumerate([5, 5.01, 5.02]):  # no more than a thousand events end with one record
        subject = leap(subject, n, day)
    subject.step(Record("labels", 0, 0, NOW_MS, None, b'{"id":"leap0","label":1}'))
    assert subject.memory.outcomes["label.joined"] == 1
    assert subject.joiner is not None
    assert subject.joiner.counts.events_expired == SEGMENT - 1


def early_labels(first: list[Record], events: list[Record]) -> dict[str, Any]:
    """What became of labels that came after the `first` events and before those that they are about."""
    subject = shard(labels=LabelSpec("labels"))
    told = [
        Record("labels", 0, n, NOW_MS, None, orjson.dumps({"id": f"e{n}", "label": True}))
        for n in range(len(events))
    ]
    for one in [*first, *told, *events]:
        subject.step(one)
        subject = reloaded(subject)
    assert subject.joiner is not None
    return subject.joiner.report()


@pytest.mark.parametrize("leap_ms", [-NOW_MS, -3 * 86_400_000, -60_000, 400 * 86_400_000])
@pytest.mark.parametrize("times", [1, 2, 5])
def test_labels_that_came_before_a_leap_in_time_wait_for_their_events(leap_ms: int, times: int) -> None:
    first = [record(90 + n, id=f"f{n}", ts=NOW_MS + leap_ms + n) for n in range(times)]
    found = early_labels(first, [record(n, id=f"e{n}", ts=NOW_MS + n) for n in range(20)])
    assert (found["joined"], found["orphan"]) == (20, 0)


def test_one_wild_event_of_another_partition_ends_no_waiting_of_labels() -> None:
    ahead_ms = NOW_MS + 400 * 86_400_000
    value = orjson.dumps({"id": "w", "ts": ahead_ms, "features": {}})
    wild = Record("t", 1, 0, ahead_ms, None, value)
    first = [record(90, id="f", ts=NOW_MS)]
    events = [record(n, id=f"e{n}", ts=NOW_MS + n) for n in range(20)]
    for before, after in (
        ([wild, *first], events),
        ([*first, wild], events),
        (first, [*events[:1], wild, *events[1:]]),
    ):
        found = early_labels(before, after)
        assert (found["joined"], found["orphan"]) == (20, 0)
