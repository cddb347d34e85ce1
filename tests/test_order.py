"""The merge of partitions: in order within each, oldest first across them, and nobody waited for for ever."""

import random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlearn.core.records import Positions, Record, TopicPartition
from streamlearn.log.port import FetchResult
from streamlearn.service.merge import PATIENCE_S, Merge

A: TopicPartition = ("a", 0)
B: TopicPartition = ("b", 0)
START_MS = 1_700_000_000_000
UNKNOWN = -START_MS - 1


def record(place: TopicPartition, offset: int, timestamp_ms: int = 0) -> Record:
    return Record(place[0], place[1], offset, START_MS + timestamp_ms, None, b"")


def fetched(*records: Record, behind: tuple[TopicPartition, ...] = ()) -> FetchResult:
    found: dict[TopicPartition, list[Record]] = {}
    for one in records:
        found.setdefault((one.topic, one.partition), []).append(one)
    return FetchResult(found, frozenset(behind))


def places(records: list[Record]) -> list[tuple[str, int]]:
    return [(one.topic, one.offset) for one in records]


class Log:
    """Partitions that have all arrived, read a few records at a time, some later than others."""

    def __init__(self, partitions: dict[TopicPartition, list[Record]]) -> None:
        self.partitions = partitions

    def poll(self, wanted: Positions, sizes: dict[TopicPartition, int]) -> FetchResult:
        left = {tp: [r for r in self.partitions[tp] if r.offset >= at] for tp, at in wanted.items()}
        records = {tp: rest[: sizes[tp]] for tp, rest in left.items()}
        behind = frozenset(tp for tp, rest in left.items() if len(rest) > sizes[tp])
        return FetchResult({tp: found for tp, found in records.items() if found}, behind)


Steps = list[tuple[int, int]]
STEPS = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3000)), max_size=25)


def partition(place: TopicPartition, steps: list[tuple[int, int]], ordered: bool) -> list[Record]:
    """Records whose offsets have gaps, as Kafka's may; times that only rise, or any."""
    records: list[Record] = []
    offset = time_ms = 0
    for gap, ms in steps:
        offset += gap
        time_ms = time_ms + ms if ordered else ms
        records.append(record(place, offset, time_ms))
    return records


def drained(log: Log, seed: int, ordered: bool) -> list[Record]:
    """Everything the merge gives, while polls bring a little each time and some takes are put back."""
    merge = Merge(dict.fromkeys(log.partitions, 0))
    choose = random.Random(seed).randint
    now_s = 0.0
    taken: list[Record] = []
    for _ in range(2000):
        run = merge.take(choose(1, 30), now_s)
        kept = choose(min(1, len(run)), len(run))
        merge.put_back(run[kept:])
        taken += run[:kept]
        if run:
            continue
        sizes = {tp: choose(1 if ordered else 0, 4) for tp in log.partitions}
        now_s += 0.0 if ordered else 0.3
        merge.add(log.poll(merge.wanted(), sizes), now_s)
        if merge.idle and len(taken) == sum(map(len, log.partitions.values())):
            return taken
    raise AssertionError("it never came to an end")


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=3), st.integers(0, 2**32))
def test_no_record_is_lost_repeated_or_out_of_its_partitions_order(steps: list[Steps], seed: int) -> None:
    log = Log({("t", n): partition(("t", n), part, ordered=False) for n, part in enumerate(steps)})
    taken = drained(log, seed, ordered=False)
    for tp, records in log.partitions.items():
        assert [one for one in taken if (one.topic, one.partition) == tp] == records


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, min_size=2, max_size=3), st.integers(0, 2**32))
def test_a_backlog_is_taken_in_the_order_of_time(steps: list[Steps], seed: int) -> None:
    log = Log({("t", n): partition(("t", n), part, ordered=True) for n, part in enumerate(steps)})
    newest_ms = 0
    for one in drained(log, seed, ordered=True):
        assert one.timestamp_ms >= newest_ms
        newest_ms = one.timestamp_ms


def test_the_oldest_goes_first_until_a_partition_has_no_more() -> None:
    merge = Merge({A: 0, B: 0})
    merge.add(fetched(*(record(A, n, n * 600) for n in range(3)), record(B, 0, 500), record(B, 1, 9000)), 0.0)
    assert places(merge.take(2, 0.0)) == [("a", 0), ("b", 0)]
    assert places(merge.take(9, 0.0)) == [("a", 1), ("a", 2)]
    assert places(merge.take(9, 0.0)) == [("b", 1)]


def test_a_record_whose_time_is_ahead_does_not_hold_its_partition_up() -> None:
    merge = Merge({A: 0, B: 0})
    ahead = [record(A, 0, 10**6), record(A, 1, 10), record(A, 2, 20)]
    merge.add(fetched(*ahead, *(record(B, n, n) for n in range(100))), 0.0)
    taken: list[Record] = []
    while some := merge.take(1000, 0.0):
        taken += some
    order = places(taken)
    assert order.index(("a", 2)) < order.index(("b", 30))
    assert [offset for topic, offset in order if topic == "a"] == [0, 1, 2]


def test_a_label_comes_after_the_events_of_its_millisecond() -> None:
    merge = Merge({A: 0, B: 0}, labels="a")
    merge.add(fetched(record(A, 0, 5), record(B, 0, 5), record(B, 1, 6)), 0.0)
    assert places(merge.take(9, 0.0)) == [("b", 0), ("a", 0)]


def test_before_a_label_goes_it_is_asked_whether_events_have_come_meanwhile() -> None:
    """Those of one poll are not read at one moment: the labels may have been read later."""
    merge = Merge({A: 0, B: 0}, labels="b")
    merge.add(fetched(record(A, 0, 10), record(A, 1, 20), record(B, 0, 90)), 0.0)
    assert places(merge.take(10, 0.0)) == [("a", 0), ("a", 1)]
    assert merge.take(10, 0.0) == []
    assert merge.wanted() == {A: 2}
    merge.add(fetched(record(A, 2, 80)), 0.0)
    assert [places(merge.take(10, 0.0)) for _ in range(2)] == [[("a", 2)], [("b", 0)]]


def test_the_order_that_replay_has_written_wins_over_times_of_arrival() -> None:
    def at(place: TopicPartition, offset: int, order: bytes) -> Record:
        return msgspec.structs.replace(record(place, offset, 7), headers=(("streamlearn.order", order),))

    merge = Merge({A: 0, B: 0})
    merge.add(fetched(at(A, 0, b"7001"), at(A, 1, b"7004"), at(B, 0, b"7002"), at(B, 1, b"7003")), 0.0)
    assert places(merge.take(9, 0.0)) == [("a", 0), ("b", 0), ("b", 1)]
    merge = Merge({A: 0, B: 0})
    merge.add(fetched(at(A, 0, b"9" * 40), at(B, 0, b"-3"), record(B, 1, 6)), 0.0)
    assert places(merge.take(9, 0.0)) == [("a", 0)]  # nonsense is no order: the times count


def test_what_goes_back_goes_to_the_partitions_it_came_from() -> None:
    merge = Merge({A: 0, B: 0})
    merge.add(
        fetched(*(record(A, n, 2 * n) for n in range(3)), *(record(B, n, 2 * n + 1) for n in range(3))), 0.0
    )
    run = merge.take(4, 0.0)
    merge.put_back(run[1:])
    assert places(merge.take(9, 0.0)) == [("b", 0), ("a", 1), ("b", 1), ("a", 2)]


def test_equal_times_go_by_topic_and_partition() -> None:
    merge = Merge({B: 0, A: 0})
    merge.add(fetched(record(B, 0, 5), record(A, 0, 5)), 0.0)
    assert places(merge.take(1, 0.0)) == [("a", 0)]


def test_a_partition_that_is_behind_is_waited_for_but_not_for_ever() -> None:
    merge = Merge({A: 0, B: 0})
    merge.add(fetched(record(A, 0, 9000), behind=(B,)), 5.0)
    assert merge.take(10, 5.0) == []
    merge.add(fetched(behind=(B,)), 5.0 + PATIENCE_S / 2)
    assert merge.take(10, 5.0 + PATIENCE_S * 0.9) == []
    assert places(merge.take(10, 5.0 + PATIENCE_S)) == [("a", 0)]


def test_a_partition_that_gave_all_it_had_but_holds_more_is_waited_for_at_once() -> None:
    merge = Merge({A: 0, B: 0})
    merge.add(fetched(record(A, 0, 0), record(B, 0, 100), record(B, 1, 10**6), behind=(A,)), 0.0)
    assert places(merge.take(10, 0.0)) == [("a", 0)]
    assert merge.take(10, 0.0) == []
    assert merge.wanted() == {A: 1}
    merge.add(fetched(record(A, 1, 200)), 0.0)
    assert places(merge.take(10, 0.0)) == [("b", 0), ("a", 1)]


def test_a_partition_at_its_end_is_idle_and_not_waited_for() -> None:
    merge = Merge({A: 0, B: 0})
    merge.add(fetched(record(A, 0, 9000)), 0.0)
    assert places(merge.take(10, 0.0)) == [("a", 0)]
    assert merge.idle


def test_what_was_not_stepped_goes_back_to_the_front() -> None:
    merge = Merge({A: 7})
    assert merge.wanted() == {A: 7}
    merge.add(fetched(*(record(A, n) for n in (7, 8, 11))), 0.0)
    run = merge.take(3, 0.0)
    merge.put_back(run[1:])
    merge.put_back([])
    assert merge.wanted() == {}
    assert places(merge.take(1, 0.0)) == [("a", 8)]
    assert places(merge.take(5, 0.0)) == [("a", 11)]
    assert merge.wanted() == {A: 12}


def test_a_record_whose_arrival_is_not_known_goes_after_what_was_there_when_it_was_read() -> None:
    merge = Merge({A: 0, B: 0}, labels="a")
    merge.add(fetched(record(A, 0, UNKNOWN), record(B, 0, 5), record(B, 1, 6)), 0.0)
    assert places(merge.take(9, 0.0)) == [("b", 0), ("b", 1)]
    merge.add(fetched(record(B, 2, 7), record(B, 3, 8)), 0.0)
    assert [places(merge.take(9, 0.0)) for _ in range(2)] == [[("a", 0)], [("b", 2), ("b", 3)]]


def test_a_record_whose_arrival_is_not_known_holds_nothing_up_and_goes_before_its_followers() -> None:
    merge = Merge({A: 0, B: 0})
    mixed = [record(A, n, UNKNOWN if n % 2 else 10 * n) for n in range(6)]
    merge.add(fetched(*mixed, *(record(B, n, 10 * n + 1) for n in range(6))), 0.0)
    assert [offset for topic, offset in places(merge.take(99, 0.0)) if topic == "a"] == list(range(6))


def test_without_any_arrival_events_go_before_labels() -> None:
    merge = Merge({A: 0, B: 0}, labels="a")
    merge.add(fetched(*(record(tp, n, UNKNOWN) for tp in (A, B) for n in range(3))), 0.0)
    taken = places(merge.take(9, 0.0))
    merge.add(fetched(), 0.0)
    assert taken + places(merge.take(9, 0.0)) == [(topic, n) for topic in "ba" for n in range(3)]
