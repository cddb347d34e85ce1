"""Events that wait for their label, packed: found by what a label names them by, and forgotten in order.

What it owns: per input partition a *lane* of segments of `SEGMENT` events each. An event is one short piece
of bytes; a full segment is sealed into a single piece that never changes, so a snapshot of a million events
copies a few hundred kilobytes of marks and refers to the rest.

Invariants:
- Deadlines within a lane never decrease, so what is due stands at the head of a lane.
- `_found` names exactly the events that wait. Everything is a function of the calls, in their order.
- At most `most` events wait; to add one more, the event nearest to its deadline is dropped.
"""

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from streamlearn.core.records import TopicPartition

SEGMENT: Final = 1024
_LANE_BITS: Final = 20
_LANE_MASK: Final = (1 << _LANE_BITS) - 1
_NEVER: Final = float("inf")

decode_piece: Final = msgspec.msgpack.Decoder().decode
"""An event's bytes to the list that was packed. Its first two members: what labels name it by, its time."""


class _Segment:
    """`SEGMENT` events of a lane, or fewer at its end. `packed` is None until the segment is full."""

    __slots__ = ("alive", "deadlines", "ends", "live", "packed", "pieces")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.deadlines: Any = array("d")
        self.alive = bytearray()
        self.live = 0
        self.packed: bytes | None = None
        self.ends: Any = array("I")

    def add(self, piece: bytes, deadline: float) -> None:
        self.pieces.append(piece)
        self.deadlines.append(deadline)
        self.alive.append(1)
        self.live += 1
        if len(self.pieces) == SEGMENT:
            self._seal()

    def _seal(self) -> None:
        """Make it one piece that refers to nothing: dead events take no bytes in it."""
        self.packed, self.ends = _joined(self.pieces)
        self.pieces = []

    def __getitem__(self, place: int) -> bytes:
        if self.packed is None:
            return self.pieces[place]
        return self.packed[self.ends[place - 1] if place else 0 : self.ends[place]]

    def remove(self, place: int) -> None:
        self.alive[place] = 0
        self.live -= 1
        if self.packed is None:
            self.pieces[place] = b""
        elif self.live in (512, 256, 64, 16):  # a few stragglers must not keep what all of them took
            self.pieces = [self[n] if lives else b"" for n, lives in enumerate(self.alive)]
            self._seal()

    def parts(self) -> tuple[bytes, bytes, bytes, bytes]:
        """Pieces, ends, deadlines, marks of life; copied unless they never change."""
        packed, ends = (self.packed, self.ends) if self.packed is not None else _joined(self.pieces)
        return packed, ends.tobytes(), self.deadlines.tobytes(), bytes(self.alive)

    @classmethod
    def of(cls, parts: list[bytes]) -> "_Segment":
        """The inverse of `parts`."""
        segment = cls()
        packed, ends, deadlines, alive = parts
        segment.alive = bytearray(alive)
        segment.live = sum(alive)
        segment.deadlines.frombytes(deadlines)
        segment.ends.frombytes(ends)
        segment.packed = packed
        if len(alive) < SEGMENT:
            segment.pieces = [segment[n] for n in range(len(alive))]
            segment.packed, segment.ends = None, array("I")
        return segment


def _joined(pieces: list[bytes]) -> tuple[bytes, "array[int]"]:
    ends = array("I")
    end = 0
    for piece in pieces:
        end += len(piece)
        ends.append(end)
    return b"".join(pieces), ends


class _Lane:
    """The waiting events of one input partition, oldest first. `due`: no event is due before that."""

    __slots__ = ("clock", "due", "head", "next", "segments")

    def __init__(self) -> None:
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


class Pending:
    """All lanes of a shard. `by_time`: events are also looked for by their time (labels of intervals)."""

    def __init__(self, most: int, by_time: bool) -> None:
        self.most = most
        self.count = 0
        self._by_time = by_time
        self._numbers: dict[TopicPartition, int] = {}
        self._lanes: list[_Lane] = []
        self._found: dict[str, Any] = {}
        """By join: the one place, or the list of places; by time: the list of (time, place)."""

    def clock(self, source: TopicPartition, time_ms: float) -> bool:
        """Move the clock of a partition to an event's time; whether something in it is due now."""
        number = self._numbers.get(source)
        if number is None:
            number = self._numbers[source] = len(self._lanes)
            self._lanes.append(_Lane())
        lane = self._lanes[number]
        lane.clock = max(lane.clock, time_ms)
        return lane.clock > lane.due

    @property
    def newest_ms(self) -> float:
        """The largest event time of all partitions; -inf before the first event."""
        return max((lane.clock for lane in self._lanes), default=-_NEVER)

    def add(self, source: TopicPartition, join: str, time_ms: float, piece: bytes, ttl_ms: float) -> None:
        """Let an event wait until its partition's clock is `ttl_ms` further. `clock` was called for it."""
        number = self._numbers[source]
        lane = self._lanes[number]
        at = lane.next
        lane.next = at + 1
        segment = lane.segments.get(at // SEGMENT)
        if segment is None:
            segment = lane.segments[at // SEGMENT] = _Segment()
        deadline = lane.clock + ttl_ms
        segment.add(piece, deadline)
        lane.due = min(lane.due, deadline)
        self._note(join, time_ms, at << _LANE_BITS | number)
        self.count += 1

    def take(self, join: str) -> list[bytes]:
        """Remove and return every event that a label names by `join`, by their places in their partitions."""
        places = self._found.pop(join, None)
        if places is None:
            return []
        if type(places) is int:
            return [self._removed(places)]
        return [self._removed(place) for place in sorted(places)]

    def take_between(self, join: str, start_ms: float, end_ms: float) -> list[bytes]:
        """The events of `join` with `start_ms <= time < end_ms`, by time."""
        timed = self._found.get(join)
        if timed is None:
            return []
        first, last = bisect_left(timed, (start_ms, -1)), bisect_left(timed, (end_ms, -1))
        taken = [self._removed(place) for _, place in timed[first:last]]
        del timed[first:last]
        if not timed:
            del self._found[join]
        return taken

    def due(self, source: TopicPartition, limit: int) -> list[list[Any]]:
        """Remove and return, unpacked, up to `limit` events whose time is up in this partition."""
        lane = self._lanes[self._numbers[source]]
        found: list[list[Any]] = []
        while len(found) < limit and lane.clock > lane.oldest():
            found.append(self._pop(lane))
        return found

    def dropped(self) -> list[Any] | None:
        """When too many wait: remove and return, unpacked, the one nearest to its deadline."""
        if self.count <= self.most:
            return None
        return self._pop(min(self._lanes, key=_Lane.oldest))

    def _pop(self, lane: _Lane) -> list[Any]:
        """Remove the event at the head of `lane`."""
        place = lane.head << _LANE_BITS | self._lanes.index(lane)
        event: list[Any] = decode_piece(self._removed(place))
        join, time_ms = event[0], event[1]
        places = self._found[join]
        if self._by_time:
            del places[bisect_left(places, (time_ms, place))]
        elif type(places) is int:
            places = None
        else:
            places.remove(place)
        if not places:
            del self._found[join]
        return event

    def _note(self, join: str, time_ms: float, place: int) -> None:
        known = self._found.get(join)
        if self._by_time:
            if known is None:
                self._found[join] = [(time_ms, place)]
            else:
                insort(known, (time_ms, place))
        elif known is None:
            self._found[join] = place
        elif type(known) is int:
            self._found[join] = [known, place]
        else:
            known.append(place)

    def _removed(self, place: int) -> bytes:
        lane = self._lanes[place & _LANE_MASK]
        at = place >> _LANE_BITS
        segment = lane.segments[at // SEGMENT]
        piece = segment[at % SEGMENT]
        segment.remove(at % SEGMENT)
        self.count -= 1
        if not segment.live and len(segment.alive) == SEGMENT:
            del lane.segments[at // SEGMENT]
        return piece

    # --- as bytes -------------------------------------------------------------------------------------

    def dump(self) -> list[bytes]:
        """The whole store as a header and pieces; most of them are referred to, not copied."""
        pieces: list[bytes] = []
        lanes = []
        for (topic, partition), number in self._numbers.items():
            lane = self._lanes[number]
            table = []
            for at, segment in lane.segments.items():
                parts = segment.parts()
                table.append([at, [len(part) for part in parts]])
                pieces += parts
            lanes.append([topic, partition, lane.clock, lane.next, table])
        header = msgspec.msgpack.encode(lanes)
        return [len(header).to_bytes(8, "big"), header, *pieces]

    def load(self, data: memoryview) -> None:
        """Take over what `dump` gave, joined; this store must be empty. Raises `ValueError` and the like
        when `data` is not that.
        """
        at = 8 + int.from_bytes(data[:8], "big")
        for number, (topic, partition, clock, behind, table) in enumerate(decode_piece(data[8:at])):
            lane = _Lane()
            lane.clock, lane.next = clock, behind
            for segment_at, sizes in table:
                parts = []
                for size in sizes:
                    parts.append(bytes(data[at : at + size]))
                    at += size
                lane.segments[segment_at] = _Segment.of(parts)
            lane.head = min(lane.segments, default=behind // SEGMENT) * SEGMENT
            self._numbers[topic, partition] = number
            self._lanes.append(lane)
            for place, piece in _waiting(lane):
                join, time_ms = decode_piece(piece)[:2]
                self._note(join, time_ms, place << _LANE_BITS | number)
                self.count += 1
            lane.oldest()


def _waiting(lane: _Lane) -> Iterator[tuple[int, bytes]]:
    for at, segment in lane.segments.items():
        for place, lives in enumerate(segment.alive):
            if lives:
                yield at * SEGMENT + place, segment[place]
