"""Waiting events of one input partition, packed: a *lane* of segments of `SEGMENT` events each.

The events of a full segment are packed (msgpack) into one piece of bytes that never changes, so a snapshot of
a million events copies a megabyte of marks and refers to the rest. Most labels that come soon find their
event not yet packed.

Invariant: deadlines within a lane never decrease, so what is due stands at its head.
"""

from array import array
from itertools import accumulate
from typing import Any, Final

import msgspec

from streamlearn.core.events.clocks import AHEAD_MAX, NEVER, Clock
from streamlearn.core.labels.packing import Packer, PendingEvent
from streamlearn.core.records import TopicPartition

SEGMENT: Final = 1024
UNDATED: Final = 1e300
"""The deadline of an event that came before any time was known; it has a real one as soon as one is."""

LABELS_SEEN: Final = 100
"""Before so many labels have come, any event may still get one."""

LABELS_KEPT: Final = 1_000
"""The longest wait for a label is that of the last so many to twice as many labels."""


class Segment:
    """`SEGMENT` events of a lane, or fewer at its end. `packed` is None until the segment is full."""

    __slots__ = ("alive", "deadlines", "ends", "live", "packed", "packer", "pieces", "source")

    def __init__(self, packer: Packer, source: TopicPartition) -> None:
        self.packer = packer
        self.source = source
        self.pieces: list[PendingEvent | None] = []
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

    def look(self, place: int) -> PendingEvent:
        """The event at a place that is alive."""
        if self.packed is not None:
            return self.packer.unpack(self.bytes_of(place), self.source)
        young = self.pieces[place]
        assert young is not None, "an event is removed once"
        return young

    def remove(self, place: int) -> PendingEvent:
        """The event at a place, which is no longer alive then."""
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

    def put_off(self, place: int, deadline_ms: float) -> None:
        """Give an event another deadline."""
        if self.packed is not None:
            deadlines = array("d", self.deadlines)
            deadlines[place] = deadline_ms
            self.deadlines = memoryview(deadlines.tobytes()).cast("d")
        else:
            self.deadlines[place] = deadline_ms

    def forget_captured(self) -> None:
        """Go on without what scoring would have needed."""
        if self.packed is None:
            self.pieces = [None if event is None else _uncaptured(event) for event in self.pieces]
            return
        pack = self.packer.pack
        self._keep([pack(_uncaptured(self.look(n))) if lives else b"" for n, lives in enumerate(self.alive)])

    def parts(self) -> tuple[bytes, bytes, bytes, bytes]:
        """Pieces, ends, deadlines, marks of life; copied unless they never change."""
        if self.packed is not None:
            return self.packed, self.ends.obj, self.deadlines.obj, bytes(self.alive)
        pieces = self._each_packed()
        return b"".join(pieces), _ends_of(pieces), self.deadlines.tobytes(), bytes(self.alive)

    @classmethod
    def of(cls, parts: list[bytes], packer: Packer, source: TopicPartition) -> "Segment":
        """The inverse of `parts`."""
        segment = cls(packer, source)
        packed, ends, deadlines, alive = parts
        segment.alive = bytearray(alive)
        segment.live = sum(alive)
        segment._hold(packed, ends, deadlines)
        if len(alive) < SEGMENT:
            segment.pieces = [
                segment.packer.unpack(segment.bytes_of(n), source) if lives else None
                for n, lives in enumerate(alive)
            ]
            segment.packed = None
            segment.deadlines = array("d", segment.deadlines)
        return segment


def _uncaptured(event: PendingEvent) -> PendingEvent:
    join, time_ms, arrived_ms, x, _guess, ts, place = event
    return join, time_ms, arrived_ms, x, None, ts, place


def _ends_of(pieces: list[bytes]) -> bytes:
    return array("I", accumulate(map(len, pieces))).tobytes()


class Waits(msgspec.Struct, array_like=True):
    """How long labels let events of a lane wait, counted in places of events that came after them."""

    labels: int = 0
    """Labels since `longest` began anew."""
    longest: int = 0
    longest_before: int = 0
    settled: bool = False
    """Whether `LABELS_SEEN` labels have come."""
    newest: int = 0
    """The place of the newest event that has its label."""

    def note(self, place: int, behind: int) -> None:
        """A label has come for the event at `place`; the next event to wait will stand at `behind`."""
        self.newest = max(self.newest, place)
        self.longest = max(self.longest, behind - place)
        self.labels += 1
        if self.labels >= LABELS_SEEN:
            self.settled = True
        if self.labels >= LABELS_KEPT:
            self.labels, self.longest, self.longest_before = 0, 0, self.longest

    def expected_from(self, behind: int) -> int:
        """Events before this place get no label any more, as far as can be seen: a later one has its own, and
        no label has come so late.
        """
        if not self.settled:
            return 0
        return min(self.newest, behind - max(self.longest, self.longest_before))


class Lane:
    """The waiting events of one input partition, oldest first. `due_ms`: none of them is due before that."""

    __slots__ = ("clock", "due_ms", "head", "next", "number", "segments", "tail", "waits")

    def __init__(self, number: int, tail: Segment) -> None:
        self.number = number
        self.tail = tail
        """The segment that is not full; it stands in `segments` once there is something in it."""
        self.clock = Clock()
        self.due_ms = NEVER
        self.head = 0
        self.next = 0
        self.segments: dict[int, Segment] = {}
        self.waits = Waits()

    def expected(self, limit: int) -> list[tuple[Segment, int]]:
        """The events whose labels are still to come, oldest first; of more than `limit` some of the newest,
        but more than `limit`.
        """
        first = max(self.head, self.waits.expected_from(self.next))
        found: list[list[tuple[Segment, int]]] = []
        for at in reversed(self.segments):
            if (at + 1) * SEGMENT <= first or sum(map(len, found)) > limit:
                break
            segment, places = self.segments[at], []
            place = segment.alive.find(1, max(first - at * SEGMENT, 0))
            while place >= 0:
                places.append((segment, place))
                place = segment.alive.find(1, place + 1)
            found.append(places)
        return [event for places in reversed(found) for event in places]

    def deadline(self, ttl_ms: float) -> float:
        """That of an event which comes now."""
        return UNDATED if self.clock.now_ms == -NEVER else self.clock.now_ms + ttl_ms

    def end_by(self, latest_ms: float) -> None:
        """Let no event wait longer."""
        for segment in self.segments.values():
            segment.end_by(latest_ms)
        self.oldest()

    def put_off(self, after_ms: float, deadline_ms: float) -> None:
        """Let the newest events, which were later than `after_ms` and so ahead of the clock, wait until
        `deadline_ms`: the clock has followed them.
        """
        for at in range(self.next - 1, max(self.head, self.next - AHEAD_MAX) - 1, -1):
            segment, place = self.segments.get(at // SEGMENT), at % SEGMENT
            if segment is None or (segment.alive[place] and segment.look(place)[1] <= after_ms):
                return
            segment.put_off(place, deadline_ms)

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
                self.due_ms = segment.deadlines[place]
                return self.due_ms
            self.head = min((self.head // SEGMENT + 1) * SEGMENT, self.next)
        self.due_ms = NEVER
        return self.due_ms
