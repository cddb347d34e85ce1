"""A record that makes the model learn many events, a few at a time: nothing differs but when it is done."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlearn.core.events.event import EventSpec
from streamlearn.core.labels.joiner import DUE_PER_RECORD
from streamlearn.core.labels.record import LabelRecord
from streamlearn.core.records import Output, Record, header_name
from streamlearn.core.shard.facts import published
from streamlearn.core.shard.work import EventWork, LabelWork, dump_work, load_work
from streamlearn.errors import ModelRaised
from tests.test_labels import Feed, Remembers

EVENT = EventSpec(group="group", key="key")


class InParts(Feed):
    """Does work a few units at a time, and comes back from bytes wherever a transaction may end."""

    parts: Iterator[tuple[int, bool]]
    halves = 0

    def applied(self, record: Record) -> tuple[Output, ...]:
        outputs = published(self.shard.begin(record, next(self.parts)[0]))
        while self.shard.work is not None:
            assert outputs == (), "the outputs come with the last unit"
            self.halves += 1
            units, restarts = next(self.parts)
            if restarts and isinstance(self.shard.work, LabelWork):
                self.restarted()
            outputs = published(self.shard.work_on(units))
        return outputs


def parts_of(sizes: list[tuple[int, bool]]) -> Iterator[tuple[int, bool]]:
    while True:
        yield from sizes


def state_of(feed: Feed) -> dict[str, Any]:
    """All of the state, once it has been through bytes: a pickle of one model may refer in several orders. Of
    the events that wait what they are: their table of names grows when they are packed, and not before.
    """
    feed.restarted()
    late = feed.shard.joiner
    assert late is not None
    waits = [
        (source, lane.clock, at, place, segment.look(place), segment.deadlines[place])
        for source, lane in late.pending._by_source.items()
        for at, segment in lane.segments.items()
        for place, lives in enumerate(segment.alive)
        if lives
    ]
    return {**feed.saved(), "labels": (late.dump()[1], waits)}


NAMES = st.sampled_from(["g1", "g2"])
LIFE = st.lists(
    st.one_of(
        st.tuples(st.just("event"), NAMES, st.integers(0, 30), st.integers(0, 1)),
        st.tuples(st.just("event"), NAMES, st.integers(0, 30), st.integers(0, 1)),
        st.tuples(st.just("label"), NAMES, st.integers(0, 20), st.integers(1, 30)),
    ),
    max_size=60,
)


@pytest.mark.parametrize("join", ["group", "id", "interval"])
@settings(max_examples=60, deadline=None)
@given(
    life=LIFE,
    sizes=st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=20),
    default=st.sampled_from([None, False]),
)
def test_work_in_parts_and_through_bytes_ends_where_a_single_step_does(
    join: str, life: list[Any], sizes: list[tuple[int, bool]], default: bool | None
) -> None:
    rules: dict[str, Any] = {"join": join, "ttl_ms": 8000.0, "early_ttl_ms": 5000.0, "default": default}
    whole, parted = Feed(None, EVENT, 7, **rules), InParts(None, EVENT, 7, **rules)
    parted.parts = parts_of(sizes)
    for number, (what, name, one, two) in enumerate(life):
        answers = []
        for feed in (whole, parted):
            if what == "event":
                x = {"a": float(number), "b": float(one)}
                answers.append(feed.event(name, one, x, two, group=name, key=name))
            else:
                span = {"from": one, "to": one + two}
                answers.append(feed.label(number % 2 == 0, id=name, group=name, key=name, **span))
        assert answers[0] == answers[1]
    assert parted.shard.work is None
    assert state_of(whole) == state_of(parted)


def waiting(feed: Feed, count: int) -> None:
    for n in range(count):
        feed.event(f"e{n}", n / 1000, {"n": float(n)}, group="g")


def test_a_label_of_a_large_group_is_learned_a_few_events_at_a_time() -> None:
    feed = Feed(Remembers(), EVENT, join="group")
    waiting(feed, 2500)
    record = Record("labels", 0, 0, feed.arrival_ms, None, b'{"group":"g","label":true}')
    assert published(feed.shard.begin(record, 100)) == ()
    assert (feed.learned, feed.pending) == (100, 2400)
    assert "label.joined" not in feed.shard.memory.outcomes
    feed.restarted()
    feed.shard.work_on(1)
    assert (feed.learned, feed.pending) == (101, 2399)
    feed.shard.work_on(10_000)
    assert feed.shard.work is None
    assert feed.shard.memory.outcomes["label.joined"] == 1
    assert [x["n"] for x, _ in feed.shard.learner.model.seen] == list(range(2500))


def test_events_that_end_with_one_record_are_learned_a_few_at_a_time_before_its_prediction() -> None:
    feed = Feed(Remembers(), EVENT, join="group", ttl_ms=10_000.0, default=False)
    waiting(feed, 2500)
    value = b'{"id":"next","ts":100,"features":{"n":-1}}'
    assert published(feed.shard.begin(Record("events", 0, 2500, feed.arrival_ms, None, value), 100)) == ()
    assert isinstance(feed.shard.work, EventWork)
    assert feed.learned == 100
    feed.shard.work_on(400)
    (prediction,) = published(feed.shard.work_on(10_000))
    assert prediction.role == "predictions"
    assert feed.learned == DUE_PER_RECORD
    assert feed.shard.work is None


class Poisoned(Remembers):
    """Raises at one event."""

    def learn_one(self, x: Any, y: Any) -> None:
        super().learn_one(x, y)
        if x["n"] == 120.0:
            raise RuntimeError("poisoned")


def test_a_model_that_raises_inside_what_was_left_loses_the_rest_and_keeps_what_it_had_learned() -> None:
    feed = Feed(Poisoned(), EVENT, join="group")
    waiting(feed, 300)
    record = Record("labels", 0, 0, feed.arrival_ms, None, b'{"group":"g","label":true}')
    feed.shard.begin(record, 100)
    saved = feed.saved()
    with pytest.raises(ModelRaised):
        feed.shard.work_on(100)
    restored = Feed(Poisoned(), EVENT, join="group")
    restored.restarted(saved)
    (letter,) = published(restored.shard.give_up("learn", "raised"))
    assert (letter.role, letter.value) == ("dlq", record.value)
    assert (restored.learned, restored.pending) == (100, 0)
    assert restored.counts.events_joined == 300
    assert restored.shard.memory.outcomes["dlq.learn.raised"] == 1
    assert "label.joined" not in restored.shard.memory.outcomes
    assert restored.shard.work is None
    restored.event("after", 1.0, {"n": 500.0}, group="g")
    assert restored.learned == 101, "a label of a group is for later events, too"


def test_no_other_record_is_stepped_while_there_is_work() -> None:
    feed = Feed(Remembers(), EVENT, join="group")
    waiting(feed, 10)
    feed.shard.begin(Record("labels", 0, 0, feed.arrival_ms, None, b'{"group":"g","label":true}'), 1)
    with pytest.raises(AssertionError, match="not finished"):
        feed.event("next", 1)


def test_the_work_of_a_label_with_any_header_names_can_be_saved() -> None:
    headers = ((header_name(b"\xff\xfe"), b"x"), ("plain", None))
    record = Record("labels", 0, 7, 1, None, b"{}", headers)
    work = LabelWork(record, LabelRecord("g", True, None), "g", 3)
    assert load_work(dump_work(work) or b"") == work
