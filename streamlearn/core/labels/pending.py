"""Events that wait for their label, packed: found by their join key, and expired in order.

What it owns: a lane of events per input partition (`core.labels.lanes`), and the addresses of the events of
each join key: lane and position in it.

Invariants:
- `_addresses` finds every event that waits. Everything is a function of the calls, in their order.
- No call takes longer because more events wait: one that ends is only counted off from its list of addresses,
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
"""A list of addresses is not swept for fewer that have ended."""

LEAP_MS: Final = 3_600_000.0
"""A partition's time goes on by more than this, and than events wait, only when two events agree."""

ALL: Final = 1 << 62
"""A limit that is none."""


class _Addresses:
    """Addresses of the events of one join key, or (time, address) of those by time, in order. `ended`: the
    number of them that no longer wait. `falls`: True while they stand in falling order, for `take` to pop
    them.
    """

    __slots__ = ("ended", "falls", "items")

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.ended = 0
        self.falls = False


class _LaneState(msgspec.Struct, array_like=True):
    """A lane in the header; `segments`: number and the sizes of the four parts of each."""

    topic: str
    partition: int
    clock: Clock
    next: int
    segments: list[tuple[int, tuple[int, int, int, int]]]
    waits: Waits = msgspec.field(default_factory=Waits)


class _PendingState(msgspec.Struct, array_like=True):
    """The header of a dump: the packer's names, and the lanes."""

    names: list[tuple[str, ...]]
    lanes: list[_LaneState]


_decode_header: Final = msgspec.msgpack.Decoder(_PendingState).decode


class Pending:
    """All lanes of a shard. `by_time`: events are also looked for by their time (labels of intervals)."""

    def __init__(self, by_time: bool, packer: Packer) -> None:
        self._packer = packer
        self.count = 0
        self._by_time = by_time
        self._by_source: dict[TopicPartition, Lane] = {}
        self._lanes: list[Lane] = []
        self._addresses: dict[str, Any] = {}
        """By join key: the one address, or `_Addresses`; by time: always these."""

    def advance(self, source: TopicPartition, time_ms: float, ttl_ms: float) -> bool:
        """Move the clock of a partition to an event's time, as `Clock.advance` does: a leap of more than
        `ttl_ms` and an hour needs a second event. True if something in the partition is due now.
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
        position = lane.next
        lane.next = position + 1
        segment = lane.tail
        if position % SEGMENT == 0:
            segment = lane.tail = lane.segments[position // SEGMENT] = Segment(self._packer, source)
        segment.pieces.append(event)
        deadline_ms = lane.deadline(ttl_ms)
        segment.deadlines.append(deadline_ms)
        segment.alive.append(1)
        segment.live += 1
        if lane.due_ms == NEVER:
            lane.due_ms = deadline_ms
        if lane.next % SEGMENT == 0:
            segment.seal()
        address = position << _LANE_BITS | lane.number
        if event[0] in self._addresses or self._by_time:
            self._note(event[0], event[1], address)
        else:
            self._addresses[event[0]] = address
        self.count += 1

    def __contains__(self, join: str) -> bool:
        """Tell if an event with this join key waits."""
        return join in self._addresses

    def take(self, join: str, limit: int = ALL) -> tuple[list[PendingEvent], bool]:
        """Remove and return the events with this join key, in the order of their positions: at most `limit`;
        True if there are more.
        """
        addresses = self._addresses.get(join)
        if addresses is None:
            return [], False
        if type(addresses) is int:
            del self._addresses[join]
            return [self._labelled(addresses)], False
        if not addresses.falls:
            addresses.items.sort(reverse=True)
            addresses.falls = True
        events: list[PendingEvent] = []
        while addresses.items and len(events) < limit:
            address = addresses.items.pop()
            if self._is_alive(address):
                events.append(self._labelled(address))
            else:
                addresses.ended -= 1
        return events, self._has_events(join, addresses)

    def take_between(
        self, join: str, start_ms: float, end_ms: float, limit: int = ALL
    ) -> tuple[list[PendingEvent], bool]:
        """As `take`, the events of `join` with `start_ms <= time < end_ms`, by time."""
        timed = self._addresses.get(join)
        if timed is None:
            return [], False
        items = timed.items
        first, last = bisect_left(items, (start_ms, -1)), bisect_left(items, (end_ms, -1))
        events: list[PendingEvent] = []
        index = first
        while index < last:
            address = items[index][1]
            if not self._is_alive(address):
                timed.ended -= 1
            elif len(events) < limit:
                events.append(self._labelled(address))
            else:
                break
            index += 1
        del items[first:index]
        self._has_events(join, timed)
        return events, index < last

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
        events = [[segment.look(slot) for segment, slot in lane] for lane in lanes if lane]
        return [{**event[3]} for event in merge(*events, key=_time_ms)]

    def expire(self, source: TopicPartition, limit: int) -> tuple[list[PendingEvent], bool]:
        """Remove and return the events of this partition past their deadline: at most `limit`; True if there
        are more.
        """
        lane = self._by_source[source]
        expired: list[PendingEvent] = []
        while more := lane.clock.now_ms > lane.oldest():
            if len(expired) == limit:
                break
            expired.append(self._pop(lane))
        return expired, more

    def dropped(self) -> PendingEvent:
        """Remove and return the event nearest to its deadline, as when too many wait."""
        return self._pop(min(self._lanes, key=Lane.oldest))

    def forget_captured(self) -> None:
        """Drop the captured predictions: they mean nothing to scores that begin anew."""
        for lane in self._lanes:
            for segment in lane.segments.values():
                segment.forget_captured()

    def _pop(self, lane: Lane) -> PendingEvent:
        """Remove the event at the head of `lane`."""
        address = lane.head << _LANE_BITS | lane.number
        event = self._removed(address)
        join = event[0]
        addresses = self._addresses[join]
        if type(addresses) is int:
            del self._addresses[join]
            return event
        addresses.ended += 1
        if self._has_events(join, addresses) and addresses.ended > max(
            _SWEPT_FROM, len(addresses.items) // 2
        ):
            timed = self._by_time
            addresses.items = [item for item in addresses.items if self._is_alive(item[1] if timed else item)]
            addresses.ended = 0
        return event

    def _has_events(self, join: str, addresses: _Addresses) -> bool:
        """True if any of these events waits; else their join key is forgotten."""
        if addresses.ended < len(addresses.items):
            return True
        del self._addresses[join]
        return False

    def _is_alive(self, address: int) -> bool:
        """True if the event of an address still waits; no address is ever given again."""
        position = address >> _LANE_BITS
        segment = self._lanes[address & _LANE_MASK].segments.get(position // SEGMENT)
        return segment is not None and bool(segment.alive[position % SEGMENT])

    def _note(self, join: str, time_ms: float, address: int) -> None:
        addresses = self._addresses.get(join)
        if self._by_time:
            if addresses is None:
                self._addresses[join] = _Addresses([(time_ms, address)])
            else:
                insort(addresses.items, (time_ms, address))
        elif addresses is None:
            self._addresses[join] = address
        elif type(addresses) is int:
            self._addresses[join] = _Addresses([addresses, address])
        else:
            addresses.items.append(address)
            addresses.falls = False

    def _labelled(self, address: int) -> PendingEvent:
        lane = self._lanes[address & _LANE_MASK]
        lane.waits.note(address >> _LANE_BITS, lane.next)
        return self._removed(address)

    def _removed(self, address: int) -> PendingEvent:
        lane = self._lanes[address & _LANE_MASK]
        number, slot = divmod(address >> _LANE_BITS, SEGMENT)
        segment = lane.segments[number]
        event = segment.remove(slot)
        self.count -= 1
        if not segment.live and len(segment.alive) == SEGMENT:
            del lane.segments[number]
        return event

    # --- as bytes -------------------------------------------------------------------------------------

    def dump(self) -> list[bytes]:
        """The whole store as a header and pieces; most of them are referred to, not copied."""
        pieces: list[bytes] = []
        lanes = []
        for (topic, partition), lane in self._by_source.items():
            table = []
            for number, segment in lane.segments.items():
                packed, ends, deadlines, alive = parts = segment.parts()
                table.append((number, (len(packed), len(ends), len(deadlines), len(alive))))
                pieces += parts
            lanes.append(_LaneState(topic, partition, lane.clock, lane.next, table, lane.waits))
        header = msgspec.msgpack.encode(_PendingState(self._packer.names, lanes))
        return [len(header).to_bytes(8, "big"), header, *pieces]

    def load(self, data: memoryview, ttl_ms: float) -> None:
        """Take over a `dump`, joined; this store must be empty. From now on nothing waits longer than
        `ttl_ms`. Raises `ValueError` and the like when `data` is not that.
        """
        end = 8 + int.from_bytes(data[:8], "big")
        state = _decode_header(data[8:end])
        self._packer.load(state.names)
        for number, dumped in enumerate(state.lanes):
            source = (dumped.topic, dumped.partition)
            lane = Lane(number, Segment(self._packer, source))
            lane.clock, lane.next, lane.waits = dumped.clock, dumped.next, dumped.waits
            for segment_number, sizes in dumped.segments:
                parts = []
                for size in sizes:
                    parts.append(bytes(data[end : end + size]))
                    end += size
                segment = lane.segments[segment_number] = Segment.from_parts(parts, self._packer, source)
                segment.end_by(lane.deadline(ttl_ms))
            lane.head = min(lane.segments, default=dumped.next // SEGMENT) * SEGMENT
            lane.tail = lane.segments.get(dumped.next // SEGMENT, lane.tail)
            self._by_source[source] = lane
            self._lanes.append(lane)
            for position, join, time_ms in _alive_events(lane):
                self._note(join, time_ms, position << _LANE_BITS | number)
                self.count += 1
            lane.oldest()


def _time_ms(event: PendingEvent) -> float:
    return event[1]


def count_waiting(data: memoryview) -> int:
    """Count the events that wait in a `Pending.dump`, joined."""
    end = 8 + int.from_bytes(data[:8], "big")
    waiting = 0
    for lane in _decode_header(data[8:end]).lanes:
        for _, (*sizes, marks) in lane.segments:
            end += sum(sizes) + marks
            waiting += sum(data[end - marks : end])
    return waiting


def _alive_events(lane: Lane) -> Iterator[tuple[int, str, float]]:
    """Position, join key and time of all that wait; of packed events nothing else is read."""
    for number, segment in lane.segments.items():
        for slot, lives in enumerate(segment.alive):
            if not lives:
                continue
            if segment.packed is None:
                join, time_ms = segment.look(slot)[:2]
            else:
                join, time_ms = named(segment.packed_event(slot))
            yield number * SEGMENT + slot, join, time_ms
