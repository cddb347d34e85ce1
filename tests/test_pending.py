"""Events that wait: what is taken and what ends, however many there are of one name."""

import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlearn.core.labels.packing import Packer, PendingEvent
from streamlearn.core.labels.pending import Pending

TTL_MS = 10.0
WHAT = st.one_of(
    st.tuples(st.just("add"), st.sampled_from("ab"), st.integers(0, 2), st.integers(0, 2)),
    st.tuples(st.just("take"), st.sampled_from("ab"), st.integers(1, 4), st.integers(0, 30)),
    st.tuples(st.just("due"), st.just("a"), st.integers(0, 2), st.integers(1, 4)),
    st.tuples(st.just("drop"), st.just("a"), st.just(0), st.just(0)),
    st.tuples(st.just("restart"), st.just("a"), st.just(0), st.just(0)),
)


class Plain:
    """The same by walking through all that wait: lane, number within it, deadline, event."""

    def __init__(self, by_time: bool) -> None:
        self.by_time = by_time
        self.clocks = [float("-inf")] * 3
        self.counts = [0] * 3
        self.waiting: list[tuple[int, int, float, PendingEvent]] = []

    def add(self, lane: int, event: PendingEvent) -> None:
        self.clocks[lane] = max(self.clocks[lane], event[1])
        self.waiting.append((lane, self.counts[lane], self.clocks[lane] + TTL_MS, event))
        self.counts[lane] += 1

    def _without(self, some: list[tuple[int, int, float, PendingEvent]]) -> list[PendingEvent]:
        self.waiting = [one for one in self.waiting if one not in some]
        return [event for *_, event in some]

    def take(self, join: str, limit: int, start_ms: float) -> tuple[list[PendingEvent], bool]:
        named = [one for one in self.waiting if one[3][0] == join]
        if self.by_time:
            named = [one for one in named if start_ms <= one[3][1] < start_ms + 8]
            named.sort(key=lambda one: (one[3][1], one[1], one[0]))
        else:
            named.sort(key=lambda one: (one[1], one[0]))
        return self._without(named[:limit]), len(named) > limit

    def expire(self, lane: int, limit: int) -> tuple[list[PendingEvent], bool]:
        over = [one for one in self.waiting if one[0] == lane and self.clocks[lane] > one[2]]
        return self._without(over[:limit]), len(over) > limit


def reloaded(pending: Pending, by_time: bool) -> Pending:
    again = Pending(by_time, Packer(""))
    again.load(memoryview(b"".join(pending.dump())), TTL_MS)
    return again


@pytest.mark.parametrize("by_time", [False, True])
@settings(max_examples=300, deadline=None)
@given(life=st.lists(WHAT, max_size=150))
def test_events_are_taken_and_end_as_by_walking_through_all_of_them(by_time: bool, life: list[Any]) -> None:
    ours, plain = Pending(by_time, Packer("")), Plain(by_time)
    now = 0.0
    for lane in range(3):
        ours.advance(("t", lane), now, TTL_MS)
        plain.clocks[lane] = now
    for number, (what, join, one, two) in enumerate(life):
        if what == "add":
            now += two
            event: PendingEvent = (join, now - one, 0, {"n": number}, [], None, ("t", one, number))
            ours.advance(("t", one), event[1], TTL_MS)
            ours.add(("t", one), event, TTL_MS)
            plain.add(one, event)
        elif what == "take":
            found = ours.take_between(join, two, two + 8, one) if by_time else ours.take(join, one)
            assert found == plain.take(join, one, two)
        elif what == "due":
            assert ours.expire(("t", one), two) == plain.expire(one, two)
        elif what == "drop" and plain.waiting:
            nearest = min(plain.waiting, key=lambda one: (one[2], one[0]))
            assert ours.dropped() == plain._without([nearest])[0]
        elif what == "restart":
            ours = reloaded(ours, by_time)
        assert ours.count == len(plain.waiting)
        assert set(ours._addresses) == {one[3][0] for one in plain.waiting}


def comparisons_per_ending(count: int) -> float:
    """Events of one group on two partitions; those of the second, which stand last, end one by one."""
    pending = Pending(False, Packer(""))
    for lane in range(2):
        pending.advance(("t", lane), 0.0, TTL_MS)
        for n in range(count):
            pending.add(("t", lane), ("g", float(n), 0, {}, [], None, ("t", lane, n)), 1.0)
    places = pending._addresses["g"]
    looked = 0

    class Counted(int):
        """A place that counts how often it is compared."""

        def __eq__(self, other: object) -> bool:
            nonlocal looked
            looked += 1
            return int.__eq__(self, other)  # type: ignore[no-any-return]

        __hash__ = int.__hash__

    items = getattr(places, "items", places)
    items[:] = [Counted(place) for place in items]
    steps = 0

    def counts(_frame: FrameType, _event: str, _arg: Any) -> Any:
        nonlocal steps
        steps += 1
        return counts

    pending.advance(("t", 1), 1e6, TTL_MS)
    before = sys.gettrace()
    sys.settrace(counts)
    try:
        found = pending.expire(("t", 1), count)
    finally:
        sys.settrace(before)
    assert len(found[0]) == count
    return (looked + steps) / count


def test_the_end_of_one_event_costs_the_same_in_a_large_group_as_in_a_small_one() -> None:
    assert comparisons_per_ending(4_000) < 2 * comparisons_per_ending(500)
