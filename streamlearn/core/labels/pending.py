"""Events that wait for their label, packed: found by what a label names them by, and forgotten in order.

What it owns: a lane of events per input partition (`core.labels.lanes`), and where in them those of a name
stand.

Invariants:
- `_found` names every event that waits. Everything is a function of the calls, in their order.
- No call takes longer because more events wait: one that ends is only counted off from its list of places,
  which is swept when half of it has ended.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from heapq import merge
from typing import Any, Final

import msgspec

from streamlearn.core.events.clocks import NEVER, Clock
from streamlearn.core.labels.lanes import SEGMENT, Lane, Segment, Waits
from streamlearn.core.labels.packing import Packer, PendingEvent, named
from streamlearn.core.records import TopicPartition

_LANE_BITS: Final = 20
_LANE_MASK: Final = (1 << _LANE_BITS) - 1
_SWEPT_FROM: Final = 4
"""A list of places is not swept for fewer that have ended."""

LEAP_MS: Final = 3_600_000.0
"""By more than that, and than events wait, a partition's time goes on only when two events agree."""

ALL: Final = 1 << 62
"""A limit that is none."""


class _Places:
    """Places of the events that one name finds, or (time, place) of those by time, in order. `ended`: so many
    of them are no longer there. `falls`: whether they stand the other way round, for `take` to pop them.
    """

    __slots__ = ("ended", "falls", "items")

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.ended = 0
        self.falls = False


class Pending:
    """All lanes of a shard. `by_time`: events are also looked for by their time (labels of intervals)."""

    def __init__(self, by_time: bool, packer: Packer) -> None:
        self._packer = packer
        self.count = 0
        self._by_time = by_time
        self._by_source: dict[TopicPartition, Lane] = {}
        self._lanes: list[Lane] = []
        self._found: dict[str, Any] = {}
        """By join: the one place, or `_Places`; by time: always these."""

    def advance(self, source: TopicPartition, time_ms: float, ttl_ms: float) -> bool:
        """Move the clock of a partition to an event's time, as `Clock.advance` does: a leap of more than
        `ttl_ms` and an hour needs a second event. Whether something in the partition is due now.
        """
        lane = self._by_source.get(source)
        if lane is None:
            lane = self._by_source[source] = Lane(len(self._lanes), Segment(self._packer, source))
            self._lanes.append(lane)
        clock = lane.clock
        before_ms = clock.now_ms
        if clock.sure and not clock.ahead and 0 <= time_ms - before_ms <= LEAP_MS:
            clock.now_ms = time_ms  # as most events
        elif time_ms != -NEVER:
            limit_ms = max(ttl_ms, LEAP_MS)
            clock.advance(time_ms, limit_ms)
            if before_ms == -NEVER or clock.now_ms < before_ms:
                lane.end_by(clock.now_ms + ttl_ms)
            elif clock.now_ms > before_ms + limit_ms:
                lane.put_off(before_ms + limit_ms, clock.now_ms + ttl_ms)
        # What was due may have been taken, and `expire` is then too early, but not in a state from bytes.
        return clock.now_ms > lane.due_ms and clock.now_ms > lane.oldest()

    @property
    def newest_ms(self) -> float:
        """The largest event time of all partitions; -inf before the first event. A partition of which one
        event alone has told a time counts only while no other does, and then the smallest of these.
        """
        sure = [lane.clock.now_ms for lane in self._lanes if lane.clock.sure]
        if sure:
            return max(sure)
        known = (lane.clock.now_ms for lane in self._lanes if lane.clock.now_ms != -NEVER)
        return min(known, default=-NEVER)

    def add(self, source: TopicPartition, event: PendingEvent, ttl_ms: float) -> None:
        """Let an event wait until its partition's clock is `ttl_ms` further. `advance` was called for it."""
        lane = self._by_source[source]
        at = lane.next
        lane.next = at + 1
        segment = lane.tail
        if at % SEGMENT == 0:
            segment = lane.tail = lane.segments[at // SEGMENT] = Segment(self._packer, source)
        segment.pieces.append(event)
        deadline_ms = lane.deadline(ttl_ms)
        segment.deadlines.append(deadline_ms)
        segment.alive.append(1)
        segment.live += 1
        if lane.due_ms == NEVER:
            lane.due_ms = deadline_ms
        if lane.next % SEGMENT == 0:
            segment.seal()
        place = at << _LANE_BITS | lane.number
        if event[0] in self._found or self._by_time:
            self._note(event[0], event[1], place)
        else:
            self._found[event[0]] = place
        self.count += 1

    def __contains__(self, join: str) -> bool:
        """Whether an event waits that labels name by `join`."""
        return join in self._found

    def take(self, join: str, limit: int = ALL) -> tuple[list[PendingEvent], bool]:
        """Remove and return the events that a label names by `join`, by their places in their partitions: at
        most `limit`, and whether there are more.
        """
        places = self._found.get(join)
        if places is None:
            return [], False
        if type(places) is int:
            del self._found[join]
            return [self._labelled(places)], False
        if not places.falls:
            places.items.sort(reverse=True)
            places.falls = True
        taken: list[PendingEvent] = []
        while places.items and len(taken) < limit:
            place = places.items.pop()
            if self._is_there(place):
                taken.append(self._labelled(place))
            else:
                places.ended -= 1
        return taken, self._goes_on(join, places)

    def take_between(
        self, join: str, start_ms: float, end_ms: float, limit: int = ALL
    ) -> tuple[list[PendingEvent], bool]:
        """As `take`, the events of `join` with `start_ms <= time < end_ms`, by time."""
        timed = self._found.get(join)
        if timed is None:
            return [], False
        items = timed.items
        first, last = bisect_left(items, (start_ms, -1)), bisect_left(items, (end_ms, -1))
        taken: list[PendingEvent] = []
        at = first
        while at < last:
            place = items[at][1]
            if not self._is_there(place):
                timed.ended -= 1
            elif len(taken) < limit:
                taken.append(self._labelled(place))
            else:
                break
            at += 1
        del items[first:at]
        self._goes_on(join, timed)
        return taken, at < last

    def labelled_at_once(self, source: TopicPartition) -> None:
        """Note that an event of this partition came with its label. `advance` was called for it."""
        lane = self._by_source[source]
        lane.waits.note(lane.next, lane.next)

    def expected(self, limit: int, features: bool) -> list[dict[str, Any]] | None:
        """The features of the events whose labels are still to come, in order, partitions merged by event
        time; None for more than `limit`. Without `features`: empty ones, which costs less.
        """
        lanes = [lane.expected(limit) for lane in self._lanes]
        waiting = sum(map(len, lanes))
        if waiting > limit:
            return None
        if not features:
            return [{}] * waiting
        events = [[segment.look(place) for segment, place in lane] for lane in lanes if lane]
        return [{**event[3]} for event in merge(*events, key=_time_ms)]

    def expire(self, source: TopicPartition, limit: int) -> tuple[list[PendingEvent], bool]:
        """Remove and return the events whose time is up in this partition: at most `limit`, and whether there
        are more.
        """
        lane = self._by_source[source]
        found: list[PendingEvent] = []
        while more := lane.clock.now_ms > lane.oldest():
            if len(found) == limit:
                break
            found.append(self._pop(lane))
        return found, more

    def dropped(self) -> PendingEvent:
        """Remove and return the event nearest to its deadline, as when too many wait."""
        return self._pop(min(self._lanes, key=Lane.oldest))

    def forget_captured(self) -> None:
        """The scores begin anew: what was foreseen for the old ones means nothing to them."""
        for lane in self._lanes:
            for segment in lane.segments.values():
                segment.forget_captured()

    def _pop(self, lane: Lane) -> PendingEvent:
        """Remove the event at the head of `lane`."""
        place = lane.head << _LANE_BITS | lane.number
        event = self._removed(place)
        join = event[0]
        places = self._found[join]
        if type(places) is int:
            del self._found[join]
            return event
        places.ended += 1
        if self._goes_on(join, places) and places.ended > max(_SWEPT_FROM, len(places.items) // 2):
            timed = self._by_time
            places.items = [one for one in places.items if self._is_there(one[1] if timed else one)]
            places.ended = 0
        return event

    def _goes_on(self, join: str, places: _Places) -> bool:
        """Whether any of these events waits; else their name is forgotten."""
        if places.ended < len(places.items):
            return True
        del self._found[join]
        return False

    def _is_there(self, place: int) -> bool:
        """Whether the event of a place still waits; no place is ever given again."""
        at = place >> _LANE_BITS
        segment = self._lanes[place & _LANE_MASK].segments.get(at // SEGMENT)
        return segment is not None and bool(segment.alive[at % SEGMENT])

    def _note(self, join: str, time_ms: float, place: int) -> None:
        known = self._found.get(join)
        if self._by_time:
            if known is None:
                self._found[join] = _Places([(time_ms, place)])
            else:
                insort(known.items, (time_ms, place))
        elif known is None:
            self._found[join] = place
        elif type(known) is int:
            self._found[join] = _Places([known, place])
        else:
            known.items.append(place)
            known.falls = False

    def _labelled(self, place: int) -> PendingEvent:
        lane = self._lanes[place & _LANE_MASK]
        lane.waits.note(place >> _LANE_BITS, lane.next)
        return self._removed(place)

    def _removed(self, place: int) -> PendingEvent:
        lane = self._lanes[place & _LANE_MASK]
        at = place >> _LANE_BITS
        segment = lane.segments[at // SEGMENT]
        event = segment.remove(at % SEGMENT)
        self.count -= 1
        if not segment.live and len(segment.alive) == SEGMENT:
            del lane.segments[at // SEGMENT]
        return event

    # --- as bytes -------------------------------------------------------------------------------------

    def dump(self) -> list[bytes]:
        """The whole store as a header and pieces; most of them are referred to, not copied."""
        pieces: list[bytes] = []
        lanes = []
        for (topic, partition), lane in self._by_source.items():
            table = []
            for at, segment in lane.segments.items():
                parts = segment.parts()
                table.append([at, [len(part) for part in parts]])
                pieces += parts
            clock = msgspec.structs.astuple(lane.clock)
            lanes.append([topic, partition, clock, lane.next, lane.waits, table])
        header = msgspec.msgpack.encode([self._packer.saved(), lanes])
        return [len(header).to_bytes(8, "big"), header, *pieces]

    def load(self, data: memoryview, ttl_ms: float) -> None:
        """Take over what `dump` gave, joined; this store must be empty. From now on nothing waits longer than
        `ttl_ms`. Raises `ValueError` and the like when `data` is not that.
        """
        at = 8 + int.from_bytes(data[:8], "big")
        names, lanes = msgspec.msgpack.decode(data[8:at])
        self._packer.restore(names)
        for number, (topic, partition, clock, behind, *waits, table) in enumerate(lanes):
            source = (topic, partition)
            lane = Lane(number, Segment(self._packer, source))
            # Before a leap needed a second event, the clock was one number.
            lane.clock = (
                Clock(clock, sure=True) if isinstance(clock, float) else msgspec.convert(clock, Clock)
            )
            lane.next = behind
            if waits:  # else it was saved before there were any
                lane.waits = msgspec.convert(waits[0], Waits)
            for segment_at, sizes in table:
                parts = []
                for size in sizes:
                    parts.append(bytes(data[at : at + size]))
                    at += size
                segment = lane.segments[segment_at] = Segment.of(parts, self._packer, source)
                segment.end_by(lane.deadline(ttl_ms))
            lane.head = min(lane.segments, default=behind // SEGMENT) * SEGMENT
            lane.tail = lane.segments.get(behind // SEGMENT, lane.tail)
            self._by_source[source] = lane
            self._lanes.append(lane)
            for place, join, time_ms in _waiting(lane):
                self._note(join, time_ms, place << _LANE_BITS | number)
                self.count += 1
            lane.oldest()


def _time_ms(event: PendingEvent) -> float:
    return event[1]


def waiting_in(data: memoryview) -> int:
    """How many events wait in what `Pending.dump` gave, joined."""
    at = 8 + int.from_bytes(data[:8], "big")
    waiting = 0
    for *_, table in msgspec.msgpack.decode(data[8:at])[1]:
        for _, (*sizes, marks) in table:
            at += sum(sizes) + marks
            waiting += sum(data[at - marks : at])
    return waiting


def _waiting(lane: Lane) -> Iterator[tuple[int, str, float]]:
    """Place, join and time of all that wait; of packed events nothing else is read."""
    for at, segment in lane.segments.items():
        for place, lives in enumerate(segment.alive):
            if not lives:
                continue
            if segment.packed is None:
                join, time_ms = segment.look(place)[:2]
            else:
                join, time_ms = named(segment.bytes_of(place))
            yield at * SEGMENT + place, join, time_ms
