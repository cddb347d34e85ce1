"""Labels of intervals that come before their events: found in time that does not grow with their number."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlearn.core.events.event import Event, EventSpec
from streamlearn.core.labels.intervals import Intervals
from streamlearn.core.labels.joiner import LabelJoiner
from streamlearn.core.labels.record import LabelRecord, LabelSpec
from tests.test_labels import Feed, Remembers

SPANS = st.tuples(st.integers(0, 30), st.integers(1, 12)).map(lambda two: (two[0], two[0] + two[1]))
SOURCE = ("events", 0)


@given(st.lists(st.one_of(SPANS, st.just("pop")), max_size=120))
def test_the_first_interval_that_came_wins_wherever_several_overlap(life: list[Any]) -> None:
    ours: Intervals[int] = Intervals()
    plain: list[tuple[float, float, int]] = []
    for number, what in enumerate(life):
        if what == "pop":
            if plain:
                assert ours.pop() == plain.pop(0)[2]
        elif what not in ours:
            ours.add(*what, number)
            plain.append((*what, number))
        assert len(ours) == len(plain)
        for moment in range(-1, 45):
            holds = [item for start, end, item in plain if start <= moment < end]
            assert ours.find(moment) == (holds[0] if holds else None)
    assert all((start, end) in ours for start, end, _ in plain)


class Oracle:
    """What labels of intervals do, by walking through all there are."""

    def __init__(self, early_ttl_s: float, ttl_s: float) -> None:
        self.early_ttl_s, self.ttl_s = early_ttl_s, ttl_s
        self.early: list[dict[str, Any]] = []
        self.waiting: list[tuple[str, float, int]] = []
        self.settled: set[tuple[str, float, float]] = set()
        self.newest_s = float("-inf")
        self.learned: list[tuple[int, int]] = []
        self.outcomes = dict.fromkeys(("joined", "early", "duplicate", "late", "orphan"), 0)

    def label(self, key: str, start: float, end: float, y: int) -> None:
        span = (key, start, end)
        if any(one["span"] == span for one in self.early):
            self.outcomes["duplicate"] += 1
            return
        named = [one for one in self.waiting if one[0] == key and start <= one[1] < end]
        if named:
            self.waiting = [one for one in self.waiting if one not in named]
            self.learned += [(n, y) for _, _, n in sorted(named, key=lambda one: one[1:])]
            self.outcomes["joined"] += 1
        elif span in self.settled:
            self.outcomes["duplicate"] += 1
            return
        elif end + self.ttl_s <= self.newest_s:
            self.outcomes["late"] += 1
            return
        else:
            self.outcomes["early"] += 1
        ends_s = self.newest_s + self.early_ttl_s
        self.early.append({"span": span, "y": y, "used": bool(named), "ends": ends_s})

    def event(self, key: str, time_s: float, number: int) -> None:
        if self.newest_s == float("-inf"):
            for one in self.early:
                one["ends"] = time_s + self.early_ttl_s
        self.newest_s = max(self.newest_s, time_s)
        while self.early and self.newest_s > self.early[0]["ends"]:
            over = self.early.pop(0)
            if over["used"]:
                self.settled.add(over["span"])
            else:
                self.outcomes["orphan"] += 1
        for one in self.early:
            if one["span"][0] == key and one["span"][1] <= time_s < one["span"][2]:
                self.outcomes["joined"] += not one["used"]
                one["used"] = True
                self.learned.append((number, one["y"]))
                return
        self.waiting.append((key, time_s, number))


class Keeps(Remembers):
    """Of many classes, so that each label can be told from the others."""

    _multiclass = True


KEYS = st.sampled_from(["k", "l"])
RECORDS = st.one_of(
    st.tuples(st.just("label"), KEYS, SPANS),
    st.tuples(st.just("event"), KEYS, st.integers(0, 45)),
    st.just(("restart", "", 0)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(RECORDS, max_size=80))
def test_overlapping_labels_before_and_after_their_events_are_learned_as_by_walking_through_all(
    life: list[Any],
) -> None:
    feed = Feed(Keeps(), EventSpec(key="key"), join="interval", ttl_ms=1e9, early_ttl_ms=20_000.0)
    oracle = Oracle(20.0, 1e6)
    for number, (what, key, where) in enumerate(life):
        if what == "restart":
            feed.restarted()
        elif what == "event":
            feed.event(f"e{number}", where, {"n": float(number)}, key=key)
            oracle.event(key, where, number)
        else:
            feed.label(str(number), key=key, **{"from": where[0], "to": where[1]})
            oracle.label(key, *where, number)
    learned = [(int(x["n"]), int(y)) for x, y in feed.shard.learner.model.seen]
    assert learned == oracle.learned
    assert {name: getattr(feed.counts, name) for name in oracle.outcomes} == oracle.outcomes


class Moment(float):
    """A time that counts how often it is looked at."""

    looks = 0

    def _looked(self, other: object, how: str) -> Any:
        Moment.looks += 1
        return getattr(float, how)(self, other)

    def __lt__(self, other: object) -> Any:
        return self._looked(other, "__lt__")

    def __le__(self, other: object) -> Any:
        return self._looked(other, "__le__")

    def __gt__(self, other: object) -> Any:
        return self._looked(other, "__gt__")

    def __ge__(self, other: object) -> Any:
        return self._looked(other, "__ge__")

    def __eq__(self, other: object) -> Any:
        return self._looked(other, "__eq__")

    def __hash__(self) -> int:
        Moment.looks += 1
        return float.__hash__(self)


def looks_per_label(count: int, lengths: list[int], dense: int) -> float:
    """Labels of one key before their events, then an event in each, then the end of them all."""
    late = LabelJoiner(LabelSpec("labels", join="interval"))
    Moment.looks = 0
    late.advance(SOURCE, 0.0)
    for n in range(count):
        start = n * 1000 // dense
        label = LabelRecord("k", True, None, Moment(start), Moment(start + lengths[n % len(lengths)]))
        assert late.join(label, 0)[0] == "label.early"
    for n in range(count):
        event = Event(n, "k", None, {}, None)
        event.time_ms = Moment(n * 1000 // dense)
        late.advance(SOURCE, event.time_ms)
        assert late.find_label(event, 0)[0] is True
    for time_ms in (1e12, 1e12, 1e12 + 4e6):  # one may be a wild clock; after the leap they wait anew
        late.advance(SOURCE, time_ms)
    late.expire(SOURCE)
    assert not late._early
    return Moment.looks / count


@pytest.mark.parametrize(
    ("lengths", "dense"), [([1000], 1), ([1000], 50), ([10_000_000], 1), ([1, 10_000_000, 30_000], 1)]
)
def test_the_work_of_a_label_does_not_grow_with_the_labels_of_its_key(lengths: list[int], dense: int) -> None:
    few, many = looks_per_label(2_000, lengths, dense), looks_per_label(16_000, lengths, dense)
    assert many < 2 * few
