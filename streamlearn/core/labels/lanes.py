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
"""The number of labels before which any event may still get one."""

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
        self._refer_to(b"".join(packed), _cumulative_ends(packed), self.deadlines.tobytes())
        self.pieces = []

    def _refer_to(self, packed: bytes, ends: bytes, deadlines: bytes) -> None:
        """Refer to bytes that never change, so that a snapshot can refer to them too."""
        self.packed = packed
        self.ends = memoryview(ends).cast("I")
        self.deadlines = memoryview(deadlines).cast("d")

    def packed_event(self, slot: int) -> bytes:
        """The bytes of an event in a packed segment."""
        assert self.packed is not None
        return self.packed[self.ends[slot - 1] if slot else 0 : self.ends[slot]]

    def look(self, slot: int) -> PendingEvent:
        """The event in a slot that is alive."""
        if self.packed is not None:
            return self.packer.unpack(self.packed_event(slot), self.source)
        young = self.pieces[slot]
        assert young is not None, "an event is removed once"
        return young

    def remove(self, slot: int) -> PendingEvent:
        """Remove and return the event in a slot."""
        event = self.look(slot)
        self.alive[slot] = 0
        self.live -= 1
        if self.packed is None:
            self.pieces[slot] = None
        elif self.live in (512, 256, 64, 16):  # compact, so that few live events do not pin the memory of all
            self._keep([self.packed_event(n) if lives else b"" for n, lives in enumerate(self.alive)])
        return event

    def end_by(self, latest_ms: float) -> None:
        """Bring deadlines forward that were given when events were to wait longer."""
        if len(self.deadlines) and self.deadlines[-1] > latest_ms:
            sooner = array("d", (min(deadline_ms, latest_ms) for deadline_ms in self.deadlines))
            self.deadlines = sooner if self.packed is None else memoryview(sooner.tobytes()).cast("d")

    def put_off(self, slot: int, deadline_ms: float) -> None:
        """Give an event another deadline."""
        if self.packed is not None:
            deadlines = array("d", self.deadlines)
            deadlines[slot] = deadline_ms
            self.deadlines = memoryview(deadlines.tobytes()).cast("d")
        else:
            self.deadlines[slot] = deadline_ms

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
        return b"".join(pieces), _cumulative_ends(pieces), self.deadlines.tobytes(), bytes(self.alive)

    @classmethod
    def from_parts(cls, parts: list[bytes], packer: Packer, source: TopicPartition) -> "Segment":
        """The inverse of `parts`."""
        segment = cls(packer, source)
        packed, ends, deadlines, alive = parts
        segment.alive = bytearray(alive)
        segment.live = sum(alive)
        segment._refer_to(packed, ends, deadlines)
        if len(alive) < SEGMENT:
            segment.pieces = [
                segment.packer.unpack(segment.packed_event(n), source) if lives else None
                for n, lives in enumerate(alive)
            ]
            segment.packed = None
            segment.deadlines = array("d", segment.deadlines)
        return segment


def _uncaptured(event: PendingEvent) -> PendingEvent:
    join, time_ms, arrived_ms, x, _guess, ts, slot = event
    return join, time_ms, arrived_ms, x, None, ts, slot


def _cumulative_ends(pieces: list[bytes]) -> bytes:
    return array("I", accumulate(map(len, pieces))).tobytes()


class Waits(msgspec.Struct, array_like=True):
    """Statistics of how long events of a lane wait for labels, counted in events that came after them."""

    labels: int = 0
    """Labels since `longest` began anew."""
    longest: int = 0
    longest_before: int = 0
    warm: bool = False
    """True once `LABELS_SEEN` labels have come."""
    newest: int = 0
    """The position of the newest event that has its label."""

    def note(self, position: int, next_position: int) -> None:
        """Count the label of the event at `position`; the next event that waits will stand at
        `next_position`.
        """
        self.newest = max(self.newest, position)
        self.longest = max(self.longest, next_position - position)
        self.labels += 1
        if self.labels >= LABELS_SEEN:
            self.warm = True
        if self.labels >= LABELS_KEPT:
            self.labels, self.longest, self.longest_before = 0, 0, self.longest

    def expected_from(self, next_position: int) -> int:
        """The first position that may still get a label: a later event has its own, and no label has come so
        late for the ones before.
        """
        if not self.warm:
            return 0
        return min(self.newest, next_position - max(self.longest, self.longest_before))


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
        by_segment: list[list[tuple[Segment, int]]] = []
        for number in reversed(self.segments):
            if (number + 1) * SEGMENT <= first or sum(map(len, by_segment)) > limit:
                break
            segment, events = self.segments[number], []
            slot = segment.alive.find(1, max(first - number * SEGMENT, 0))
            while slot >= 0:
                events.append((segment, slot))
                slot = segment.alive.find(1, slot + 1)
            by_segment.append(events)
        return [event for events in reversed(by_segment) for event in events]

    def deadline(self, ttl_ms: float) -> float:
        """The deadline of an event that comes now."""
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
        for position in range(self.next - 1, max(self.head, self.next - AHEAD_MAX) - 1, -1):
            segment, slot = self.segments.get(position // SEGMENT), position % SEGMENT
            if segment is None or (segment.alive[slot] and segment.look(slot)[1] <= after_ms):
                return
            segment.put_off(slot, deadline_ms)

    def oldest(self) -> float:
        """The deadline of the oldest event that waits; moves the head there."""
        while self.head < self.next:
            segment = self.segments.get(self.head // SEGMENT)
            if segment is None:
                self.head = (self.head // SEGMENT + 1) * SEGMENT
                continue
            slot = segment.alive.find(1, self.head % SEGMENT)
            if slot >= 0:
                self.head += slot - self.head % SEGMENT
                self.due_ms = segment.deadlines[slot]
                return self.due_ms
            self.head = min((self.head // SEGMENT + 1) * SEGMENT, self.next)
        self.due_ms = NEVER
        return self.due_ms
