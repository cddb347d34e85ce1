"""Late labels under odd circumstances: no room left, no end of time, other rules than when the event came."""

from typing import Any

import msgspec
import pytest
from river import anomaly, cluster, linear_model, preprocessing, tree

from streamlearn.core.labels import joiner as labels_module
from streamlearn.core.scores.classes import MAX_CLASSES
from streamlearn.core.shard.snapshot import carried
from streamlearn.core.shard.state import ShardSpec
from tests.test_labels import Feed


def under(feed: Feed, **changes: Any) -> None:
    """Go on under other rules, as after a restart with another configuration."""
    feed.shard = carried(feed.shard, msgspec.structs.replace(feed.shard.spec, **changes))


def with_labels(spec: ShardSpec, **changes: Any) -> dict[str, Any]:
    assert spec.labels is not None
    return {"labels": msgspec.structs.replace(spec.labels, **changes)}


def test_early_labels_of_more_classes_than_there_is_room_for_are_counted_and_end_nothing() -> None:
    """Each found room when it came, because classes are counted when their events have come."""
    feed = Feed(tree.HoeffdingTreeClassifier())
    for n in range(MAX_CLASSES + 5):
        feed.label(f"class {n}", id=f"e{n}")
    for n in range(MAX_CLASSES + 5):
        feed.event(f"e{n}", n)
    assert feed.learned == MAX_CLASSES
    assert feed.shard.memory.outcomes["label.too_many_classes"] == 5


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_events_from_before_there_were_scores_are_learned_and_not_scored(task: str) -> None:
    """Scores off, then on again: what older scores foresaw, or nobody did, means nothing to the new ones."""
    numbers = preprocessing.StandardScaler() | linear_model.LinearRegression()
    feed = Feed(numbers if task == "regression" else tree.HoeffdingTreeClassifier())
    ys: Any = [1.0, 2.0, 3.0] if task == "regression" else ["a", "b", "c"]
    scores = feed.shard.spec.scores
    feed.event("first", 0)
    feed.label(ys[2], id="first")
    for n in range(1500):
        feed.event(f"seen {n}", n)
    under(feed, scores=None)
    for n in range(600):
        feed.event(f"unseen {n}", n)
    under(feed, scores=scores)
    for n in range(1500):
        feed.label(ys[n % 3], id=f"seen {n}")
        feed.label(ys[n % 3], id=f"unseen {n}")
    assert feed.learned == 1 + 1500 + 600
    assert feed.shard.scores is not None
    assert feed.shard.scores.report()["labels"] == 0
    feed.event("later", 2000)
    feed.label(ys[0], id="later")
    assert feed.shard.scores.report()["labels"] == 1


def test_a_label_for_an_event_from_before_the_beginning_of_time_has_a_delay() -> None:
    """Event times are any number a double holds: in milliseconds this one is minus infinity."""
    feed = Feed()
    feed.event("now", 1000)
    feed.event("long ago", -1e308)
    feed.label(id="long ago", ts=1001)
    assert feed.counts.events_joined == 1
    assert feed.shard.joiner is not None
    assert feed.shard.joiner.report()["delay_s"]["max"] == 1e15


def test_a_smaller_limit_of_waiting_events_holds_after_a_restart() -> None:
    feed = Feed()
    for n in range(1500):
        feed.event(f"e{n}", n)
    under(feed, **with_labels(feed.shard.spec, pending_max=10))
    feed.event("one", 2000)
    feed.event("two", 2000)
    assert feed.pending == 10
    assert feed.counts.events_dropped == 1492


def test_events_and_labels_that_were_joined_in_another_way_are_let_go_and_counted() -> None:
    feed = Feed()
    for n in range(1100):
        feed.event(f"e{n}", n)
    feed.label(id="e7")
    feed.label(id="unheard of")
    under(feed, **with_labels(feed.shard.spec, join="group"))
    counts = feed.counts
    assert (counts.events_joined, counts.events_dropped, feed.pending) == (1, 1099, 0)
    assert (counts.records, counts.joined, counts.orphan) == (2, 1, 1)


def test_a_detector_that_learns_at_the_event_is_scored_by_the_label_that_comes_later() -> None:
    feed = Feed(anomaly.HalfSpaceTrees(seed=1, n_trees=2, height=3), learn="event", ttl_ms=10_000.0)
    for n in range(4):
        feed.event(f"e{n}", n)
        feed.label(n == 2, id=f"e{n}")
    feed.event("no label", 5)
    feed.event("far later", 100)
    assert feed.learned == 6
    assert feed.shard.scores is not None
    assert feed.shard.scores.report()["labels"] == 4
    assert (feed.counts.joined, feed.counts.events_expired) == (4, 1)


def test_a_label_for_an_event_that_brought_its_own_is_a_second_one_and_no_orphan() -> None:
    feed = Feed(early_ttl_ms=1000.0)
    feed.label(id="b")
    feed.event("a", 1, label=True)
    feed.event("b", 1, label=True)
    feed.label(id="a")
    feed.event("c", 100)
    assert feed.learned == 2
    assert (feed.counts.duplicate, feed.counts.orphan) == (2, 0)


@pytest.mark.parametrize("where", ["on its topic", "inside the event"])
def test_a_class_with_an_endless_name_does_not_make_every_later_prediction_too_large(where: str) -> None:
    """A prediction names every class: one name of nearly a megabyte, and none would be published again."""
    feed = Feed(tree.HoeffdingTreeClassifier())
    name = "x" * 990_000
    if where == "inside the event":
        (letter,) = feed.event("a", 1, label=name)
    else:
        feed.event("a", 1)
        (letter,) = feed.label(name, id="a")
    assert letter["role"] == "dlq"
    feed.event("b", 1)
    feed.label("x" * 128, id="b")
    (answer,) = feed.event("c", 2)
    assert answer["prediction"] == "x" * 128


def test_a_number_whose_square_is_none_is_no_label() -> None:
    """A tree of river raises on it, and the fourth one would have ended learning."""
    feed = Feed(tree.HoeffdingTreeRegressor(grace_period=20))
    for n in range(100):
        feed.event(f"e{n}", n, {"a": n % 7})
        feed.label(float(n % 7), id=f"e{n}")
    for y in (1e151, -1e308):
        (letter,) = feed.label(y, id="e0")
        assert letter["role"] == "dlq"
    feed.event("last", 100)
    feed.label(-1e150, id="last")
    assert feed.learned == 101
    assert feed.shard.memory.outcomes["dlq.label.label_too_large"] == 2


def test_a_cluster_label_of_one_class_too_many_is_a_dead_letter() -> None:
    feed = Feed(cluster.KMeans(n_clusters=2, seed=1))
    for n in range(MAX_CLASSES + 1):
        feed.event(f"e{n}", n)
        letters = feed.label(f"class {n}", id=f"e{n}")
    assert [letter["role"] for letter in letters] == ["dlq"]


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("stale", ["event", "label"])
def test_an_alert_comes_with_the_same_record_whether_or_not_the_state_went_through_bytes(
    monkeypatch: pytest.MonkeyPatch, restarts: bool, stale: str
) -> None:
    """The oldest event, or early label, has left; its deadline must no longer make anybody look."""
    monkeypatch.setattr(labels_module, "ORPHANS_OF", 3)
    feed = Feed(ttl_ms=10_000.0 if stale == "event" else 1e9, early_ttl_ms=10_000.0)
    for name in ("these", "are", "orphans"):
        feed.label(id=name)
    feed.event("first", 0)
    assert feed.event("a", 100)[0]["role"] == "alerts"
    feed.label(id="a")
    feed.event("b", 105)
    for name in ("c", "d"):
        feed.label(id=name)
        feed.event(name, 106)
    if restarts:
        feed.restarted()
    assert [one["role"] for one in feed.event("e", 114 if stale == "event" else 117)] == ["predictions"]
    feed.label(id="e")
    assert feed.counts.joined == 4


@pytest.mark.parametrize("waiting", [3, 1500])
def test_shorter_waiting_times_hold_after_a_restart_for_what_waits_and_for_what_comes(waiting: int) -> None:
    """What was to wait longer stands before what comes now, and must not keep it waiting."""
    feed = Feed(ttl_ms=1e9, early_ttl_ms=1e9)
    for n in range(waiting):
        feed.event(f"e{n}", n)
    feed.label(id="early")
    under(feed, **with_labels(feed.shard.spec, ttl_ms=10_000.0, early_ttl_ms=10_000.0))
    feed.event("new", waiting + 5)
    assert (feed.counts.events_expired, feed.counts.orphan) == (0, 0)
    feed.restarted()
    feed.event("newer", waiting + 20)
    feed.event("newest", waiting + 20)
    assert (feed.pending, feed.counts.events_expired, feed.counts.orphan) == (2, waiting + 1, 1)
