"""Labels that come later than their events, on a topic of their own: read, joined, counted.

An event that was predicted without a label waits in `core.labels.pending`, with the features as its model saw
them and with what the scores need of the answers that were given then. A label finds it by id, by group, or
by key and interval. A label that comes first waits for its event; what it found is remembered for a while, so
that a second label for the same event is known to be one.

Invariants:
- No clock but event time decides: the running maximum of event time per input partition ends the waiting of
  its events, the largest of these that of early labels. On an idle stream nothing ends.
- Bounded: events by `pending_max`, early labels and remembered names by the constants below; whatever falls
  out is counted, and at most `DUE_PER_RECORD` events end with one record.
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
from streamlearn.core.labels.pending import ALL, LEAP_MS, Pending, waiting_in
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
"""So many labels wait for their events; the oldest then counts as an orphan."""

AHEAD_MAX: Final = 1_000
"""Beyond so many events whose labels are still to come nothing is forecast."""

DUE_PER_RECORD: Final = 1_000

_FORMAT: Final = 2
"""Since 2 events keep the places of their records."""


ReleasedEvent = tuple[dict[str, Any], list[Any] | None, RecordPlace]
"""An event that no longer waits: its features, its captured prediction, and the place of its record."""


class _Saved(msgspec.Struct):
    """All of the state but the events that wait. `format`: that of those, too."""

    join: str
    counts: Counts
    early: list[EarlyLabel]
    settled: list[dict[str, int]]
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
        """By join: the one label, or those of several intervals. All that wait stand in `_early_order`, the
        oldest first, and those of intervals leave in that order alone.
        """
        self._early_order: deque[EarlyLabel] = deque()
        self._early_count = 0
        self._settled = SettledNames()
        self._delays = Durations()
        self._orphans = Orphans()
        self.has_news = False
        """Whether `alert` is to be asked."""
        self._read = label_reader(spec)

    # --- labels ---------------------------------------------------------------------------------------

    def read(self, record: Record, unit: str, leading: str, latest_ms: float) -> LabelRecord | Refusal:
        """Read a record whose value is not None, see `core.labels.record.Reader`."""
        return self._read(record, unit, leading, latest_ms)

    def join(
        self, label: LabelRecord, arrived_ms: int, limit: int = ALL
    ) -> tuple[str, list[ReleasedEvent], bool]:
        """What a label is (`label.joined`, `.early`, `.duplicate`, `.late`), at most `limit` of the events to
        learn it, and whether `more` has others.
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
        state = self._settled.get(_remembered_name(label, interval))
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
        """Whether an event or a label of this name waits."""
        return join in self._early or join in self.pending

    def let_go(self, label: LabelRecord, arrived_ms: int) -> list[RecordPlace]:
        """Take whatever events a label is still about, to be learned by nobody: their places."""
        places, goes_on = list[RecordPlace](), True
        while goes_on:
            events, goes_on = self.more(label, arrived_ms, DUE_PER_RECORD)
            places += [place for *_, place in events]
        return places

    def is_early(self, label: LabelRecord) -> bool:
        """Whether a label for the same name (and interval) waits for events, or for more of them."""
        known = self._early.get(label.join)
        if known is None:
            return False
        span = (label.start_ms, label.end_ms)
        return span in known if isinstance(known, Intervals) else span == _span(known)

    def _learnt(self, event: PendingEvent, label: LabelRecord, arrived_ms: int) -> ReleasedEvent:
        _join, time_ms, event_arrived_ms, x, captured, _ts, place = event
        self.counts.events_joined += 1
        count_delay(self._delays, label.time_ms, time_ms, event_arrived_ms, arrived_ms)
        return x, captured, place

    # --- events ---------------------------------------------------------------------------------------

    def advance(self, source: TopicPartition, time_ms: float) -> bool:
        """Move the clock to an event's time. Whether events or early labels are due: then call `expire`."""
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
            for one in early:
                one.deadline_ms = newest_ms + self.spec.early_ttl_ms
        return expire or newest_ms > early[0].deadline_ms

    def expire(self, source: TopicPartition, limit: int = DUE_PER_RECORD) -> tuple[list[ReleasedEvent], bool]:
        """End the waiting of events and labels whose time is up: at most `limit` events, and whether there
        are more.
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
        """The label inside `event`, or one that waits for it and is joined by that; None without either. And
        the label that waited: it is a duplicate where the event brings its own.
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
        """The label that waits for this event; of several intervals the one that came first."""
        join = join_name(self.spec.join, event)
        known = self._early.get(join) if join is not None else None
        if isinstance(known, Intervals):
            return known.at(event.time_ms)
        if known is None or self.spec.join != "interval":
            return known
        return known if known.label.holds_at(event.time_ms) else None

    def _brings_its_own(self, event: Event) -> LabelRecord | None:
        """An event came with its label inside: another label that names it by its id is a second one. The
        one that waited, if there is one.
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
        """Keep a predicted event until its label comes: whose waiting ends, since too many wait. None for one
        that no label can name.
        """
        join = join_name(self.spec.join, event)
        if join is None:
            self.counts.events_unnamed += 1
            return None
        place = record.place
        kept = (join, event.time_ms, record.timestamp_ms, event.x, captured, event.ts, place)
        self.pending.add(place[:2], kept, self.spec.ttl_ms)
        over = self.pending.count - self.spec.pending_max
        if over <= 0:
            return ()
        dropped = min(over, DUE_PER_RECORD)  # one, but after a restart with a smaller limit
        self.counts.events_dropped += dropped
        return [self._end(self.pending.dropped())[2] for _ in range(dropped)]

    # --- early labels and remembered names ------------------------------------------------------------

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
            self._early_order = deque(one for one in self._early_order if not one.gone)

    def _note(self, early: EarlyLabel) -> None:
        """Let a label be found by its name."""
        join = early.label.join
        known = self._early.get(join)
        if known is None:
            self._early[join] = early
            return
        assert self.spec.join == "interval", "a second label for an id or a group is a duplicate"
        if isinstance(known, EarlyLabel):
            self._early[join] = several = Intervals[EarlyLabel]()
            several.add(*_span(known), known)
            known = several
        known.add(*_span(early), early)

    def _forget(self, early: EarlyLabel) -> None:
        if early.gone:
            return
        early.gone = True
        self._early_count -= 1
        label = early.label
        known = self._early[label.join]
        if isinstance(known, Intervals):
            oldest = known.pop()
            assert oldest is early, "labels of intervals leave in the order in which they came"
        if not isinstance(known, Intervals) or not known:
            del self._early[label.join]
        if not early.used:
            self.counts.orphan += 1
            self._ended(0, 1)
            return
        self._settled.note(_remembered_name(label, self.spec.join == "interval"), JOINED)

    def _ended(self, joined: int, orphans: int) -> None:
        counts = self._orphans
        counts.joined += joined
        counts.orphans += orphans
        if counts.joined + counts.orphans >= ORPHANS_OF:
            self.has_news = True

    # --- what is told ---------------------------------------------------------------------------------

    def alert(self) -> dict[str, Any] | None:
        """What is to be told about the share of orphans, when that has changed; see `Orphans.alert`."""
        self.has_news = False
        return self._orphans.alert(self.spec.orphans_max_share, self.spec.topic, self.spec.join)

    def report(self) -> dict[str, Any]:
        """The member `join` of the scores message. Delays in seconds, None before the first."""
        counts = self.counts
        return {
            "pending": self.pending.count,
            "early_waiting": sum(1 for one in self._early_order if not one.gone and not one.used),
            **msgspec.to_builtins(counts),
            "delay_s": delay_report(self._delays),
        }

    # --- as bytes -------------------------------------------------------------------------------------

    def dump(self) -> list[bytes]:
        """The state as pieces, most of which are referred to and not copied."""
        early = [one for one in self._early_order if not one.gone]
        saved = _Saved(
            join=self.spec.join,
            counts=self.counts,
            early=early,
            settled=self._settled.generations,
            delays=self._delays,
            orphans=self._orphans,
            format=_FORMAT,
        )
        head = msgspec.msgpack.encode(saved)
        return [len(head).to_bytes(8, "big"), head, *self.pending.dump()]

    def load(self, data: bytes, scored: bool = True) -> None:
        """Take over what `dump` gave, joined; this object must be new. `scored`: the scores go on, too; else
        what was foreseen for older ones is let go. Raises `ValueError`. Events and labels that were joined
        in another way than now are let go and counted.
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
            saved = msgspec.msgpack.decode(view[8:end], type=_Saved)
            self.counts, self._delays = saved.counts, saved.delays
            if saved.join != self.spec.join:
                self.counts.events_dropped += waiting_in(view[end:])
                self.counts.orphan += sum(1 for one in saved.early if not one.used)
                return
            self.pending.load(view[end:], self.spec.ttl_ms)
            if not scored:
                self.pending.forget_captured()
        except _BROKEN as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        self._orphans = saved.orphans
        self._ended(0, 0)
        self._settled = SettledNames(saved.settled)
        self._early_order = deque(saved.early)
        self._early_count = len(saved.early)
        newest_ms = self.pending.newest_ms
        for one in saved.early:
            if newest_ms != -NEVER:
                one.deadline_ms = min(one.deadline_ms, newest_ms + self.spec.early_ttl_ms)
            self._note(one)


def _span(early: EarlyLabel) -> tuple[float, float]:
    return early.label.start_ms, early.label.end_ms


def _remembered_name(label: LabelRecord, interval: bool) -> str:
    return f"{label.join} {label.start_ms!r} {label.end_ms!r}" if interval else label.join
