"""Labels that come later than their events, on a topic of their own: read, joined, counted.

An event that was predicted without a label waits in `core.labels.pending`, with the features as its model saw
them and the captured prediction. A label finds it by id, by group, or by key and interval. A label that comes
first (early) waits for its event; the outcome of a join key is remembered for a while, so that a second label
for the same event is known to be one.

Invariants:
- Event time decides, and no other clock: the running maximum of event time per input partition expires its
  events, the largest of these expires early labels. On an idle stream nothing expires.
- Bounded: events by `pending_max`, early labels and remembered join keys by the constants below; whatever
  falls out is counted, and at most `DUE_PER_RECORD` events end with one record.
- A label is learned for each event once.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from streamlearn.core.events.clocks import NEVER
from streamlearn.core.events.event import Event, Label, Refusal
from streamlearn.core.labels.intervals import Intervals
from streamlearn.core.labels.lanes import UNDATED
from streamlearn.core.labels.packing import Packer, PendingEvent
from streamlearn.core.labels.pending import ALL, LEAP_MS, Pending, count_waiting
from streamlearn.core.labels.record import EarlyLabel, LabelRecord, LabelSpec, join_name, label_reader, short
from streamlearn.core.labels.stats import (
    ENDED,
    JOINED,
    ORPHANS_OF,
    Counts,
    Durations,
    Orphans,
    SettledNames,
    count_delay,
    delay_report,
)
from streamlearn.core.records import Record, RecordPlace, TopicPartition

EARLY_MAX: Final = 100_000
"""The most labels that wait for their events; beyond it the oldest counts as an orphan."""

AHEAD_MAX: Final = 1_000
"""The most events whose labels are still to come while something is forecast."""

DUE_PER_RECORD: Final = 1_000

_FORMAT: Final = 2
"""Since 2 events keep the places of their records."""


ReleasedEvent = tuple[dict[str, Any], list[Any] | None, RecordPlace]
"""An event that no longer waits: its features, its captured prediction, and the place of its record."""


class _JoinerState(msgspec.Struct):
    """All of the state but the pending events. `format`: that of those, too."""

    join: str
    counts: Counts
    early: list[EarlyLabel]
    settled: SettledNames
    delays: Durations
    orphans: Orphans
    format: int = 1


_BROKEN: Final = (msgspec.MsgspecError, ValueError, TypeError, IndexError, KeyError, OverflowError)


class LabelJoiner:
    """The labels side of a shard. `time_as`: the feature that is a moment, made from the event's time."""

    def __init__(self, spec: LabelSpec, time_as: str = "") -> None:
        self.spec = spec
        self.counts = Counts()
        self.pending = Pending(spec.join == "interval", Packer(time_as))
        self._early: dict[str, EarlyLabel | Intervals[EarlyLabel]] = {}
        """By join key: the one label, or those of several intervals. All that wait stand in `_early_order`,
        the oldest first, and those of intervals leave in that order alone.
        """
        self._early_order: deque[EarlyLabel] = deque()
        self._early_count = 0
        self._settled = SettledNames()
        self._delays = Durations()
        self._orphans = Orphans()
        self.has_news = False
        """True if `alert` is to be asked."""
        self._read = label_reader(spec)

    # --- labels ---------------------------------------------------------------------------------------

    def read(self, record: Record, unit: str, leading: str, latest_ms: float) -> LabelRecord | Refusal:
        """Read a record whose value is not None, see `core.labels.record.Reader`."""
        return self._read(record, unit, leading, latest_ms)

    def join(
        self, label: LabelRecord, arrived_ms: int, limit: int = ALL
    ) -> tuple[str, list[ReleasedEvent], bool]:
        """Join a label: its outcome (`label.joined`, `.early`, `.duplicate`, `.late`), at most `limit` of the
        events to learn it, and True if `more` has others.
        """
        counts = self.counts
        counts.records += 1
        interval = self.spec.join == "interval"
        if self._early and self.is_early(label):
            counts.duplicate += 1
            return "label.duplicate", [], False
        events, goes_on = self.more(label, arrived_ms, limit)
        if events:
            counts.joined += 1
            self._ended(1, 0)
            if self.spec.join == "id":
                self._settled.note(label.join, JOINED)
            else:
                self._add_early(label, arrived_ms, used=True)
            return "label.joined", events, goes_on
        state = self._settled.get(_settled_name(label, interval))
        if state == JOINED:
            counts.duplicate += 1
            return "label.duplicate", [], False
        if state == ENDED or (interval and label.end_ms + self.spec.ttl_ms <= self.pending.newest_ms):
            counts.late += 1
            return "label.late", [], False
        counts.early += 1
        self._add_early(label, arrived_ms, used=False)
        return "label.early", [], False

    def more(self, label: LabelRecord, arrived_ms: int, limit: int) -> tuple[list[ReleasedEvent], bool]:
        """Take the next events that a label is about, at most `limit`; True if there are more."""
        if self.spec.join == "interval":
            events, goes_on = self.pending.take_between(label.join, label.start_ms, label.end_ms, limit)
        else:
            events, goes_on = self.pending.take(label.join, limit)
        return [self._learnt(event, label, arrived_ms) for event in events], goes_on

    def knows(self, join: str) -> bool:
        """Tell if an event or a label with this join key waits."""
        return join in self._early or join in self.pending

    def let_go(self, label: LabelRecord, arrived_ms: int) -> list[RecordPlace]:
        """Drop the events that a label is still about: nobody learns them. Their places."""
        places, goes_on = list[RecordPlace](), True
        while goes_on:
            events, goes_on = self.more(label, arrived_ms, DUE_PER_RECORD)
            places += [place for *_, place in events]
        return places

    def is_early(self, label: LabelRecord) -> bool:
        """True if a label with the same join key (and interval) waits for events, or for more of them."""
        early = self._early.get(label.join)
        if early is None:
            return False
        span = (label.start_ms, label.end_ms)
        return span in early if isinstance(early, Intervals) else span == _span(early)

    def _learnt(self, event: PendingEvent, label: LabelRecord, arrived_ms: int) -> ReleasedEvent:
        _join, time_ms, event_arrived_ms, x, captured, _ts, place = event
        self.counts.events_joined += 1
        count_delay(self._delays, label.time_ms, time_ms, event_arrived_ms, arrived_ms)
        return x, captured, place

    # --- events ---------------------------------------------------------------------------------------

    def advance(self, source: TopicPartition, time_ms: float) -> bool:
        """Move the clock to an event's time. True if events or early labels are due: then call `expire`."""
        early = self._early_order
        while early and early[0].gone:  # a state from bytes never had them, and must answer the same
            early.popleft()
        before_ms = self.pending.newest_ms if early else 0.0
        expire = self.pending.advance(source, time_ms, self.spec.ttl_ms)
        if not early:
            return expire
        newest_ms = self.pending.newest_ms
        if newest_ms < before_ms or newest_ms > before_ms + max(self.spec.ttl_ms, LEAP_MS):
            # Nothing tells whether labels came before a gap in time, or after it: they wait from now on.
            for waiting in early:
                waiting.deadline_ms = newest_ms + self.spec.early_ttl_ms
        return expire or newest_ms > early[0].deadline_ms

    def expire(self, source: TopicPartition, limit: int = DUE_PER_RECORD) -> tuple[list[ReleasedEvent], bool]:
        """Expire pending events and early labels past their deadline; return at most `limit` expired events,
        and True if there are more.
        """
        while self._early_order and (
            self._early_order[0].gone or self.pending.newest_ms > self._early_order[0].deadline_ms
        ):
            self._forget(self._early_order.popleft())
        events, goes_on = self.pending.expire(source, limit)
        self.counts.events_expired += len(events)
        return [self._end(event) for event in events], goes_on

    def _end(self, event: PendingEvent) -> ReleasedEvent:
        join, _time_ms, _arrived_ms, x, captured, _ts, place = event
        if self.spec.join != "interval":
            self._settled.note(join, ENDED)
        return x, captured, place

    def find_label(self, event: Event, arrived_ms: int) -> tuple[Label | None, LabelRecord | None]:
        """Find an event's label: the one inside it, or an early one, which is joined by that; None without
        either. And the early label: it is a duplicate where the event brings its own.
        """
        if event.y is not None:
            return event.y, self._brings_its_own(event)
        if not self._early:
            return None, None
        early = self.early_for(event)
        if early is None:
            return None, None
        label = early.label
        if not early.used:
            early.used = True
            self.counts.joined += 1
            self._ended(1, 0)
        self.counts.events_joined += 1
        count_delay(self._delays, label.time_ms, event.time_ms, arrived_ms, early.arrived_ms)
        if self.spec.join == "id":
            self._forget(early)
        return label.y, label

    def early_for(self, event: Event) -> EarlyLabel | None:
        """Find the early label of this event; of several intervals the one that came first."""
        join = join_name(self.spec.join, event)
        early = self._early.get(join) if join is not None else None
        if isinstance(early, Intervals):
            return early.find(event.time_ms)
        if early is None or self.spec.join != "interval":
            return early
        return early if early.label.holds_at(event.time_ms) else None

    def _brings_its_own(self, event: Event) -> LabelRecord | None:
        """Note that an event came with its label inside: another label for its id is a duplicate. The early
        one, if there is one.
        """
        if self.spec.join != "id":
            return None
        join = short(event.id)
        early = self._early.get(join)
        if early is not None:
            assert isinstance(early, EarlyLabel), "an id has one label"
            early.used = True
            self.counts.duplicate += 1
            self._forget(early)
        self._settled.note(join, JOINED)
        return None if early is None else early.label

    def expected(self, features: bool) -> list[dict[str, Any]] | None:
        """The events whose labels are to be learned before that of the next event; see `Pending.expected`."""
        return self.pending.expected(AHEAD_MAX, features)

    def add(self, event: Event, record: Record, captured: list[Any]) -> Sequence[RecordPlace] | None:
        """Let a predicted event wait for its label; the places of events that are dropped for it, since too
        many wait. None for an event without a join key.
        """
        join = join_name(self.spec.join, event)
        if join is None:
            self.counts.events_unnamed += 1
            return None
        waiting = (join, event.time_ms, record.timestamp_ms, event.x, captured, event.ts, record.place)
        self.pending.add((record.topic, record.partition), waiting, self.spec.ttl_ms)
        excess = self.pending.count - self.spec.pending_max
        if excess <= 0:
            return ()
        dropped = min(excess, DUE_PER_RECORD)  # one, but after a restart with a smaller limit
        self.counts.events_dropped += dropped
        return [self._end(self.pending.dropped())[2] for _ in range(dropped)]

    # --- early labels and remembered join keys ------------------------------------------------------------

    def _add_early(self, label: LabelRecord, arrived_ms: int, used: bool) -> None:
        newest_ms = self.pending.newest_ms
        deadline_ms = UNDATED if newest_ms == -NEVER else newest_ms + self.spec.early_ttl_ms
        early = EarlyLabel(label, arrived_ms, deadline_ms, used)
        self._note(early)
        self._early_order.append(early)
        self._early_count += 1
        while self._early_count > EARLY_MAX:
            self._forget(self._early_order.popleft())
        if len(self._early_order) > 2 * EARLY_MAX:
            self._early_order = deque(early for early in self._early_order if not early.gone)

    def _note(self, early: EarlyLabel) -> None:
        """Let a label be found by its join key."""
        join = early.label.join
        others = self._early.get(join)
        if others is None:
            self._early[join] = early
            return
        assert self.spec.join == "interval", "a second label for an id or a group is a duplicate"
        if isinstance(others, EarlyLabel):
            self._early[join] = several = Intervals[EarlyLabel]()
            several.add(*_span(others), others)
            others = several
        others.add(*_span(early), early)

    def _forget(self, early: EarlyLabel) -> None:
        if early.gone:
            return
        early.gone = True
        self._early_count -= 1
        label = early.label
        waiting = self._early[label.join]
        if isinstance(waiting, Intervals):
            oldest = waiting.pop()
            assert oldest is early, "labels of intervals leave in the order in which they came"
        if not isinstance(waiting, Intervals) or not waiting:
            del self._early[label.join]
        if not early.used:
            self.counts.orphan += 1
            self._ended(0, 1)
            return
        self._settled.note(_settled_name(label, self.spec.join == "interval"), JOINED)

    def _ended(self, joined: int, orphans: int) -> None:
        counts = self._orphans
        counts.joined += joined
        counts.orphans += orphans
        if counts.joined + counts.orphans >= ORPHANS_OF:
            self.has_news = True

    # --- reports --------------------------------------------------------------------------------------

    def alert(self) -> dict[str, Any] | None:
        """The alert about the share of orphans, when that has changed; see `Orphans.alert`."""
        self.has_news = False
        return self._orphans.alert(self.spec.orphans_max_share, self.spec.topic, self.spec.join)

    def report(self) -> dict[str, Any]:
        """The member `join` of the scores message. Delays in seconds, None before the first."""
        counts = self.counts
        return {
            "pending": self.pending.count,
            "early_waiting": sum(not (early.gone or early.used) for early in self._early_order),
            **msgspec.to_builtins(counts),
            "delay_s": delay_report(self._delays),
        }

    # --- as bytes -------------------------------------------------------------------------------------

    def dump(self) -> list[bytes]:
        """The state as pieces, most of which are referred to and not copied."""
        state = _JoinerState(
            join=self.spec.join,
            counts=self.counts,
            early=[early for early in self._early_order if not early.gone],
            settled=self._settled,
            delays=self._delays,
            orphans=self._orphans,
            format=_FORMAT,
        )
        head = msgspec.msgpack.encode(state)
        return [len(head).to_bytes(8, "big"), head, *self.pending.dump()]

    def load(self, data: bytes, scored: bool = True) -> None:
        """Take over a `dump`, joined; this object must be new. `scored`: the scores go on, too; else the
        captured predictions are dropped. Raises `ValueError`. Events and labels that were joined in another
        way than now are dropped and counted.
        """
        view = memoryview(data)
        end = 8 + int.from_bytes(view[:8], "big")
        try:
            written = msgspec.msgpack.decode(view[8:end], type=dict[str, Any]).get("format", 1)
            if written != _FORMAT:
                raise ValueError(
                    f"waiting events of format {written}, where this version has {_FORMAT}: made again from "
                    "the journal where that is whole, else begin a new one: `streamlearn reset`"
                )
            state = msgspec.msgpack.decode(view[8:end], type=_JoinerState)
            self.counts, self._delays = state.counts, state.delays
            if state.join != self.spec.join:
                self.counts.events_dropped += count_waiting(view[end:])
                self.counts.orphan += sum(not early.used for early in state.early)
                return
            self.pending.load(view[end:], self.spec.ttl_ms)
            if not scored:
                self.pending.forget_captured()
        except _BROKEN as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        self._orphans = state.orphans
        self._ended(0, 0)
        self._settled = state.settled
        self._early_order = deque(state.early)
        self._early_count = len(state.early)
        newest_ms = self.pending.newest_ms
        for early in state.early:
            if newest_ms != -NEVER:
                early.deadline_ms = min(early.deadline_ms, newest_ms + self.spec.early_ttl_ms)
            self._note(early)


def _span(early: EarlyLabel) -> tuple[float, float]:
    return early.label.start_ms, early.label.end_ms


def _settled_name(label: LabelRecord, interval: bool) -> str:
    return f"{label.join} {label.start_ms!r} {label.end_ms!r}" if interval else label.join
