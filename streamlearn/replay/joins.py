"""What became of an event's label: the service's own shard says it, stepping the journal's entries again.

Its model is not asked, because no join depends on an answer; everything else is the shard of `serve`: which
records are refused, the time unit, `ttl`, defaults, and the one joiner, `core.labels`.

Invariants:
- There is no rule of joining here. What is told is what `core.labels` did with the records of the journal.
- Memory holds what waits, as in the service, and what names the event that is asked about.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from streamlearn.core.clocks import KNOWN_FROM_MS, NEVER
from streamlearn.core.events import Event, Label
from streamlearn.core.label_counts import label_delay_ms
from streamlearn.core.label_records import Told, join_name, spelled_name
from streamlearn.core.labels import DUE_PER_RECORD, Late, Waiting
from streamlearn.core.learner import Answer, Learner
from streamlearn.core.pending import ALL
from streamlearn.core.records import Entry, Era, Positions, Record, Skip, TopicPartition
from streamlearn.core.shard import Shard
from streamlearn.core.snapshot import Header, carried, load_learner, load_memory
from streamlearn.core.state import Memory, ShardSpec
from streamlearn.core.work import load_work
from streamlearn.errors import BadCheckpoint
from streamlearn.log.port import Reader
from streamlearn.replay.reading import between, topic_info
from streamlearn.service.eras import spec_of, stated_spec
from streamlearn.service.models import FreshModel
from streamlearn.service.schemas import Schemas
from streamlearn.service.standing import in_order

_AT_ONCE: Final = 1_000
_UNASKED: Final = Answer(None, "", None, True)
_BACKSLASH: Final = b"\\"


class _Unasked(Learner):
    """A model that is neither asked nor taught."""

    def __init__(self, model: Any, horizon: int) -> None:
        super().__init__(model, horizon)
        self.predict = lambda _x, _y, *_waiting: _UNASKED
        self.learn = lambda _x, _y: None


class _Named:
    """A record of the labels topic that names the event asked about, what became of it and what it joined.
    `older`: how many of these events had waited since before the checkpoint where all this began.
    """

    def __init__(self, record: Record, told: Told) -> None:
        self.record = record
        self.told = told
        self.outcome = ""
        self.events: list[dict[str, Any]] = []
        self.older = 0


class _Notes:
    """What the joiner does with one key, while `record` is stepped. `state`: what the event asked about does:
    `none` (nothing is known of it), `inside` (it brought its label), `unnamed` (no label can name it),
    `waiting`, `joined`, `expired`. A guess is an event's number in `events`.
    """

    def __init__(self, record: Record, name: str, text: str) -> None:
        self.calls(name, text)
        self.record = record
        self.is_asked = False
        """Whether `record` is the event's that is asked about."""
        self.labels: list[_Named] = []
        self.events: list[tuple[dict[str, Any], float, int]] = []
        """Each event of the key, its time and its arrival, in milliseconds."""
        self.state = "none"
        self.number = -1
        """The number of the event asked about."""
        self.joined_by: tuple[Told, _Named | None] | None = None

    def calls(self, name: str, text: str) -> None:
        """What labels call the event by, as it is remembered and in their bytes."""
        self.name = name
        self._text = text.encode()

    def may_name(self, value: bytes) -> bool:
        """Whether a label's record can name the key: JSON may write a name in its bytes, or with escapes."""
        return self._text in value or _BACKSLASH in value

    def arrives(self, event: Event, state: str) -> int:
        """An event of the key was predicted; its number."""
        record = self.record
        place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        self.events.append(({"id": event.id, **place}, event.time_ms, record.timestamp_ms))
        number = len(self.events) - 1
        if self.is_asked:
            self.number, self.state = number, state
        return number

    def joined(self, number: int | None, told: Told) -> None:
        """A label found that event; None: one that is older than all this."""
        label = next(
            (one for one in reversed(self.labels) if one.told == told and one.outcome != "label.duplicate"),
            None,
        )
        if label is not None and number is None:
            label.older += 1
        elif label is not None and number is not None:
            label.events.append(self.events[number][0])
        if number is not None and number == self.number:
            self.state, self.joined_by = "joined", (told, label)


class _Joiner(Late):
    """The joiner of the service, which also notes what it does with one key."""

    notes: _Notes

    def more(self, told: Told, arrived_ms: int, limit: int = ALL) -> tuple[list[Waiting], bool]:
        """As `Late`."""
        events, goes_on = super().more(told, arrived_ms, limit)
        if told.join == self.notes.name:
            for _, guess in events:
                self.notes.joined(guess[0] if guess else None, told)
        return events, goes_on

    def due(self, source: TopicPartition, limit: int = DUE_PER_RECORD) -> tuple[list[Waiting], bool]:
        """As `Late`."""
        events, goes_on = super().due(source, limit)
        notes = self.notes
        if any(guess and guess[0] == notes.number for _, guess in events):
            notes.state = "expired"
        return events, goes_on

    def label_of(self, event: Event, arrived_ms: int) -> Label | None:
        """As `Late`."""
        notes = self.notes
        if join_name(self.spec.join, event) != notes.name:
            return super().label_of(event, arrived_ms)
        early = self.early_for(event)
        y = super().label_of(event, arrived_ms)
        if event.y is not None:
            notes.arrives(event, "inside")
            for label in notes.labels:
                if early is not None and self.spec.join == "id" and label.told == early.told:
                    label.outcome = "label.duplicate"
        elif early is not None:
            notes.joined(notes.arrives(event, "joined"), early.told)
        return y

    def waits(self, event: Event, source: TopicPartition, arrived_ms: int, guess: list[Any]) -> bool:
        """As `Late`."""
        notes = self.notes
        if join_name(self.spec.join, event) == notes.name:
            guess = [notes.arrives(event, "waiting")]
        elif notes.is_asked:
            notes.arrives(event, "unnamed")
        return super().waits(event, source, arrived_ms, guess)


class Joins:
    """One service's labels from the checkpoint `header` on, asked about the event in `record`."""

    def __init__(
        self,
        fresh: FreshModel,
        header: Header,
        sections: Mapping[str, bytes],
        schemas: Schemas,
        reader: Reader,
        record: Record,
    ) -> None:
        """Raises `BadCheckpoint`."""
        self._asked = record
        self._schemas = schemas
        self._reader = reader
        spec = _unscored(stated_spec(header.under))
        self._model = load_learner(sections, fresh.trusted, spec.horizon).model
        shard = Shard(spec, _Unasked(self._model, spec.horizon), load_memory(sections))
        self._notes = _Notes(record, *self._names(shard))
        self._shard = self._watched(shard, sections.get("pending"))
        try:
            if "work" in sections:
                self._shard.work = load_work(sections["work"])
        except ValueError as error:
            raise BadCheckpoint(f"its work cannot be read: {error}") from error
        while self._shard.work is not None:
            self._shard.work_on(_AT_ONCE)
        late = self._shard.late
        self.labelled = late is not None
        """Whether labels come on a topic of their own."""
        self.tells_all = late is None or not late.knows(self._notes.name)
        """Whether no label and no other event of the key waits: an older checkpoint tells of those."""

    def first_labels(self, reader: Reader) -> Positions:
        """Where the first record lies, in each partition of the labels topic, that names the event and came
        at most `early_ttl` and `ttl` before it. A key of intervals is named all the time: then nowhere.
        """
        late = self._shard.late
        if late is None or late.spec.join == "interval" or not self._notes.name:
            return {}
        topic, spec = late.spec.topic, late.spec
        if topic not in reader.topics([topic]):
            return {}
        since_ms = self._asked.timestamp_ms - spec.early_ttl_ms - spec.ttl_ms
        first = reader.offsets_at(topic, int(max(0.0, since_ms)))
        found: Positions = {}
        for record in between(reader, topic, first, topic_info(reader, topic).end):
            if self._label_in(record) is not None:
                found.setdefault((topic, record.partition), record.offset)
        return found

    def follow(self, entries: Sequence[Entry]) -> None:
        """Step the journal's next entries."""
        for entry in entries:
            if entry.change is not None:
                self._begin_era(entry.change)
                continue
            skips = {skip[:3]: skip for skip in entry.skips}
            for label in self._notes.labels:
                if (skip := skips.get(_place(label.record))) is not None:  # given up in a later transaction
                    label.outcome = f"dlq.{skip.stage}.{skip.reason}"
            for record in in_order(entry, self._reader):
                self._step(record, skips.get(_place(record)))

    def result(self) -> dict[str, Any]:
        """`state` (see `_Notes`, and `dropped`), `label` as `explain` shows it, and `records` of the labels
        topic that name the event.
        """
        notes, shard = self._notes, self._shard
        late = shard.late
        if notes.state == "waiting" and (late is None or not self._still_waits(late)):
            notes.state = "dropped"
        label: dict[str, Any] | None = None
        default = None if late is None else late.spec.default
        if notes.joined_by is not None:
            told, named = notes.joined_by
            label = {"label": told.y, "where": "a label from before the oldest checkpoint", "delay_s": None}
            if named is not None:
                label |= {"where": where(named.record), "delay_s": self._delay_s(named)}
        elif notes.state == "expired" and default is not None and not shard.label_refusal(default, True):
            label = {"label": default, "where": "[labels] default, as none came within ttl", "delay_s": None}
        return {"state": notes.state, "label": label, "records": [self._told(one) for one in self._about()]}

    def _about(self) -> list[_Named]:
        """The labels that are about the event itself, not about another moment of its key."""
        notes, late = self._notes, self._shard.late
        if late is None or late.spec.join != "interval" or notes.number < 0:
            return notes.labels
        _, time_ms, _ = notes.events[notes.number]
        return [one for one in notes.labels if one.told.holds_at(time_ms)]

    def _told(self, label: _Named) -> dict[str, Any]:
        outcome = label.outcome
        if outcome == "label.early" and (label.events or label.older):
            outcome = "label.joined"
        elif outcome == "label.early" and (
            self._shard.late is None or not self._shard.late.is_early(label.told)
        ):
            outcome = "label.orphan"
        told = {"label": label.told.y, "where": where(label.record), "outcome": outcome}
        return {**told, "events": label.events, "older_events": label.older}

    def _delay_s(self, label: _Named) -> float | None:
        """How long the label took; None where neither times nor arrivals tell."""
        _, time_ms, arrived_ms = self._notes.events[self._notes.number]
        told_ms, came_ms = label.told.time_ms, label.record.timestamp_ms
        if time_ms == -NEVER if told_ms is not None else min(arrived_ms, came_ms) < KNOWN_FROM_MS:
            return None
        return label_delay_ms(told_ms, time_ms, came_ms - arrived_ms) / 1e3

    def _still_waits(self, late: Late) -> bool:
        """Whether the event asked about is still there: nobody needs this state any more."""
        pending, name = late.pending, self._notes.name
        if late.spec.join == "interval":
            events, _ = pending.take_between(name, float("-inf"), float("inf"))
        else:
            events, _ = pending.take(name)
        return any(guess and guess[0] == self._notes.number for *_, guess, _ in events)

    def _step(self, record: Record, skip: Skip | None) -> None:
        notes, shard = self._notes, self._shard
        notes.record = record
        notes.is_asked = _place(record) == _place(self._asked)
        label = self._label_in(record)
        if label is not None:
            notes.labels.append(label)
        before = dict(shard.memory.outcomes) if label is not None else {}
        if skip is not None:
            shard.skip(record, skip.stage, skip.reason)
        else:
            self._schemas.step(shard, record, _AT_ONCE)
        while shard.work is not None:
            shard.work_on(_AT_ONCE)
        if label is not None:
            new = [name for name, n in shard.memory.outcomes.items() if n != before.get(name, 0)]
            label.outcome = next((one for one in new if one.startswith("dlq.")), new[-1])

    def _label_in(self, record: Record) -> _Named | None:
        """The label that names the key in a record, if it is one."""
        late, value = self._shard.late, record.value
        if (
            late is None
            or record.topic != late.spec.topic
            or value is None
            or not self._notes.may_name(value)
        ):
            return None
        told = self._shard.label_in(record)
        return _Named(record, told) if isinstance(told, Told) and told.join == self._notes.name else None

    def _begin_era(self, era: Era) -> None:
        spec = _unscored(spec_of(era))
        before = self._shard
        learner = _Unasked(self._model, spec.horizon)
        if spec.revision != before.spec.revision:  # a model of its own, for which nothing waits
            shard, pending = Shard(spec, learner, Memory()), None
        else:
            before.learner = learner
            shard = carried(before, spec)
            pending = None if shard.late is None else b"".join(shard.late.dump())
        if shard.guard is not None:
            shard.guard.settle(era.kinds)
        if self._notes.number < 0:
            self._notes.calls(*self._names(shard))
        self._shard = self._watched(shard, pending, scored=True)

    def _watched(self, shard: Shard, pending: bytes | None, scored: bool = False) -> Shard:
        """The shard with a joiner that takes notes, and what waits. `scored`: its guesses are ours."""
        spec = shard.spec
        if spec.labels is None:
            return shard
        joiner = shard.late = _Joiner(spec.labels, spec.event.time_as)
        joiner.notes = self._notes
        try:
            if pending is not None:
                joiner.load(pending, scored)
        except ValueError as error:
            raise BadCheckpoint(f"its pending events cannot be read: {error}") from error
        return shard

    def _names(self, shard: Shard) -> tuple[str, str]:
        """What labels call the event by: as it is remembered, and in their bytes; "" where none can."""
        spec = shard.spec
        event = self._schemas.peek(shard, self._asked)
        if spec.labels is None or event is None:
            return "", ""
        kind = spec.labels.join
        name = join_name(kind, event)
        return ("", "") if name is None else (name, str(spelled_name(kind, event)))


def where(record: Record) -> str:
    """A record's place, for people."""
    return f"{record.topic} partition {record.partition} offset {record.offset}"


def _place(record: Record) -> tuple[str, int, int]:
    return record.topic, record.partition, record.offset


def _unscored(spec: ShardSpec) -> ShardSpec:
    return msgspec.structs.replace(spec, scores=None)
