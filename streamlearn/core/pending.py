"""Events that wait for their label, packed: found by what a label names them by, and forgotten in order.

What it owns: per input partition a *lane* of segments of `SEGMENT` events each. The events of a full segment
are packed (msgpack) into one piece of bytes that never changes, so a snapshot of a million events copies a
megabyte of marks and refers to the rest. Most labels that come soon find their event not yet packed.

Invariants:
- Deadlines within a lane never decrease, so what is due stands at the head of a lane.
- `_found` names every event that waits. Everything is a function of the calls, in their order.
- No call takes longer because more events wait: one that ends is only counted off from its list of places,
  which is swept when half of it has ended.
"""

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, Final

import msgspec

from streamlearn.core.packing import Kept, Packer, named
from streamlearn.core.records import TopicPartition

SEGMENT: Final = 1024
_LANE_BITS: Final = 20
_LANE_MASK: Final = (1 << _LANE_BITS) - 1
_NEVER: Final = float("inf")
_SWEPT_FROM: Final = 4
"""A list of places is not swept for fewer that have ended."""

ALL: Final = 1 << 62
"""A limit that is none."""


class _Segment:
    """`SEGMENT` events of a lane, or fewer at its end. `packed` is None until the segment is full."""

    __slots__ = ("alive", "deadlines", "ends", "live", "packed", "packer", "pieces")

    def __init__(self, packer: Packer) -> None:
        self.packer = packer
        self.pieces: list[Kept | None] = []
        self.deadlines: Any = array("d")
        self.alive = bytearray()
        self.live = 0
        self.packed: bytes | None = None
        self.ends: Any = array("I")

    def seal(self) -> None:
        """Pack what is alive: the segment is full."""
        self._keep(self._each_packed())

    def _each_packed(self) -> list[bytes]:
        pack = self.packer.pack
        return [b"" if event is None else pack(event) for event in self.pieces]

    def _keep(self, packed: list[bytes]) -> None:
        """Make it one piece; dead events take no bytes in it."""
        self._hold(b"".join(packed), _ends_of(packed), self.deadlines.tobytes())
        self.pieces = []

    def _hold(self, packed: bytes, ends: bytes, deadlines: bytes) -> None:
        """Refer to bytes that never change, so that a snapshot can refer to them too."""
        self.packed = packed
        self.ends = memoryview(ends).cast("I")
        self.deadlines = memoryview(deadlines).cast("d")

    def bytes_of(self, place: int) -> bytes:
        """Of a packed segment."""
        assert self.packed is not None
        return self.packed[self.ends[place - 1] if place else 0 : self.ends[place]]

    def look(self, place: int) -> Kept:
        """The event at a place that is alive."""
        if self.packed is not None:
            return self.packer.unpack(self.bytes_of(place))
        young = self.pieces[place]
        assert young is not None, "an event is removed once"
        return young

    def remove(self, place: int) -> Kept:
        event = self.look(place)
        self.alive[place] = 0
        self.live -= 1
        if self.packed is None:
            self.pieces[place] = None
        elif self.live in (512, 256, 64, 16):  # a few stragglers must not keep what all of them took
            self._keep([self.bytes_of(n) if lives else b"" for n, lives in enumerate(self.alive)])
        return event

    def end_by(self, latest_ms: float) -> None:
        """Bring deadlines forward that were given when events were to wait longer."""
        if len(self.deadlines) and self.deadlines[-1] > latest_ms:
            sooner = array("d", (min(one, latest_ms) for one in self.deadlines))
            self.deadlines = sooner if self.packed is None else memoryview(sooner.tobytes()).cast("d")

    def forget_guesses(self) -> None:
        """Go on without what scoring would have needed."""
        if self.packed is None:
            self.pieces = [None if event is None else _unguessed(event) for event in self.pieces]
            return
        pack = self.packer.pack
        self._keep([pack(_unguessed(self.look(n))) if lives else b"" for n, lives in enumerate(self.alive)])

    def parts(self) -> tuple[bytes, bytes, bytes, bytes]:
        """Pieces, ends, deadlines, marks of life; copied unless they never change."""
        if self.packed is not None:
            return self.packed, self.ends.obj, self.deadlines.obj, bytes(self.alive)
        pieces = self._each_packed()
        return b"".join(pieces), _ends_of(pieces), self.deadlines.tobytes(), bytes(self.alive)

    @classmethod
    def of(cls, parts: list[bytes], packer: Packer) -> "_Segment":
        """The inverse of `parts`."""
        segment = cls(packer)
        packed, ends, deadlines, alive = parts
        segment.alive = bytearray(alive)
        segment.live = sum(alive)
        segment._hold(packed, ends, deadlines)
        if len(alive) < SEGMENT:
            segment.pieces = [
                packer.unpack(segment.bytes_of(n)) if lives else None for n, lives in enumerate(alive)
            ]
            segment.packed = None
            segment.deadlines = array("d", segment.deadlines)
        return segment


def _unguessed(event: Kept) -> Kept:
    join, time_ms, arrived_ms, x, _guess, ts = event
    return join, time_ms, arrived_ms, x, None, ts


def _ends_of(pieces: list[bytes]) -> bytes:
    return array("I", accumulate(map(len, pieces))).tobytes()


class _Lane:
    """The waiting events of one input partition, oldest first. `due`: no event is due before that."""

    __slots__ = ("clock", "due", "head", "next", "number", "segments", "tail")

    def __init__(self, number: int, tail: _Segment) -> None:
        self.number = number
        self.tail = tail
        """The segment that is not full; it stands in `segments` once there is something in it."""
        self.clock = -_NEVER
        self.due = _NEVER
        self.head = 0
        self.next = 0
        self.segments: dict[int, _Segment] = {}

    def oldest(self) -> float:
        """The deadline of the oldest event that waits; moves the head there."""
        while self.head < self.next:
            segment = self.segments.get(self.head // SEGMENT)
            if segment is None:
                self.head = (self.head // SEGMENT + 1) * SEGMENT
                continue
            place = segment.alive.find(1, self.head % SEGMENT)
            if place >= 0:
                self.head += place - self.head % SEGMENT
                self.due = segment.deadlines[place]
                return self.due
            self.head = min((self.head // SEGMENT + 1) * SEGMENT, self.next)
        self.due = _NEVER
        return self.due


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
        self._by_source: dict[TopicPartition, _Lane] = {}
        self._lanes: list[_Lane] = []
        self._found: dict[str, Any] = {}
        """By join: the one place, or `_Places`; by time: always these."""

    def clock(self, source: TopicPartition, time_ms: float) -> bool:
        """Move the clock of a partition to an event's time; whether something in it is due now."""
        lane = self._by_source.get(source)
        if lane is None:
            lane = self._by_source[source] = _Lane(len(self._lanes), _Segment(self._packer))
            self._lanes.append(lane)
        if time_ms > lane.clock:  # noqa: PLR1730 - a call to max would be most of this method's time
            lane.clock = time_ms
        # What was due may have been taken, and `due` is then too early, but not in a state from bytes.
        return lane.clock > lane.due and lane.clock > lane.oldest()

    @property
    def newest_ms(self) -> float:
        """The largest event time of all partitions; -inf before the first event."""
        return max((lane.clock for lane in self._lanes), default=-_NEVER)

    def add(self, source: TopicPartition, event: Kept, ttl_ms: float) -> None:
        """Let an event wait until its partition's clock is `ttl_ms` further. `clock` was called for it."""
        lane = self._by_source[source]
        at = lane.next
        lane.next = at + 1
        segment = lane.tail
        if at % SEGMENT == 0:
            segment = lane.tail = lane.segments[at // SEGMENT] = _Segment(self._packer)
        segment.pieces.append(event)
        segment.deadlines.append(lane.clock + ttl_ms)
        segment.alive.append(1)
        segment.live += 1
        if lane.due == _NEVER:
            lane.due = lane.clock + ttl_ms
        if lane.next % SEGMENT == 0:
            segment.seal()
        place = at << _LANE_BITS | lane.number
        if event[0] in self._found or self._by_time:
            self._note(event[0], event[1], place)
        else:
            self._found[event[0]] = place
        self.count += 1

    def take(self, join: str, limit: int = ALL) -> tuple[list[Kept], bool]:
        """Remove and return the events that a label names by `join`, by their places in their partitions: at
        most `limit`, and whether there are more.
        """
        places = self._found.get(join)
        if places is None:
            return [], False
        if type(places) is int:
            del self._found[join]
            return [self._removed(places)], False
        if not places.falls:
            places.items.sort(reverse=True)
            places.falls = True
        taken: list[Kept] = []
        while places.items and len(taken) < limit:
            place = places.items.pop()
            if self._is_there(place):
                taken.append(self._removed(place))
            else:
                places.ended -= 1
        return taken, self._goes_on(join, places)

    def take_between(
        self, join: str, start_ms: float, end_ms: float, limit: int = ALL
    ) -> tuple[list[Kept], bool]:
        """As `take`, the events of `join` with `start_ms <= time < end_ms`, by time."""
        timed = self._found.get(join)
        if timed is None:
            return [], False
        items = timed.items
        first, last = bisect_left(items, (start_ms, -1)), bisect_left(items, (end_ms, -1))
        taken: list[Kept] = []
        at = first
        while at < last:
            place = items[at][1]
            if not self._is_there(place):
                timed.ended -= 1
            elif len(taken) < limit:
                taken.append(self._removed(place))
            else:
                break
            at += 1
        del items[first:at]
        self._goes_on(join, timed)
        return taken, at < last

    def due(self, source: TopicPartition, limit: int) -> tuple[list[Kept], bool]:
        """Remove and return the events whose time is up in this partition: at most `limit`, and whether there
        are more.
        """
        lane = self._by_source[source]
        found: list[Kept] = []
        while more := lane.clock > lane.oldest():
            if len(found) == limit:
                break
            found.append(self._pop(lane))
        return found, more

    def dropped(self) -> Kept:
        """Remove and return the event nearest to its deadline, as when too many wait."""
        return self._pop(min(self._lanes, key=_Lane.oldest))

    def forget_guesses(self) -> None:
        """The scores begin anew: what was foreseen for the old ones means nothing to them."""
        for lane in self._lanes:
            for segment in lane.segments.values():
                segment.forget_guesses()

    def _pop(self, lane: _Lane) -> Kept:
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

    def _removed(self, place: int) -> Kept:
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
            lanes.append([topic, partition, lane.clock, lane.next, table])
        header = msgspec.msgpack.encode([self._packer.saved(), lanes])
        return [len(header).to_bytes(8, "big"), header, *pieces]

    def load(self, data: memoryview, ttl_ms: float) -> None:
        """Take over what `dump` gave, joined; this store must be empty. From now on nothing waits longer than
        `ttl_ms`. Raises `ValueError` and the like when `data` is not that.
        """
        at = 8 + int.from_bytes(data[:8], "big")
        names, lanes = msgspec.msgpack.decode(data[8:at])
        self._packer.restore(names)
        for number, (topic, partition, clock, behind, table) in enumerate(lanes):
            lane = _Lane(number, _Segment(self._packer))
            lane.clock, lane.next = clock, behind
            for segment_at, sizes in table:
                parts = []
                for size in sizes:
                    parts.append(bytes(data[at : at + size]))
                    at += size
                segment = lane.segments[segment_at] = _Segment.of(parts, self._packer)
                segment.end_by(clock + ttl_ms)
            lane.head = min(lane.segments, default=behind // SEGMENT) * SEGMENT
            lane.tail = lane.segments.get(behind // SEGMENT, lane.tail)
            self._by_source[topic, partition] = lane
            self._lanes.append(lane)
            for place, join, time_ms in _waiting(lane):
                self._note(join, time_ms, place << _LANE_BITS | number)
                self.count += 1
            lane.oldest()


def waiting_in(data: memoryview) -> int:
    """How many events wait in what `Pending.dump` gave, joined."""
    at = 8 + int.from_bytes(data[:8], "big")
    waiting = 0
    for *_, table in msgspec.msgpack.decode(data[8:at])[1]:
        for _, (*sizes, marks) in table:
            at += sum(sizes) + marks
            waiting += sum(data[at - marks : at])
    return waiting


def _waiting(lane: _Lane) -> Iterator[tuple[int, str, float]]:
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
