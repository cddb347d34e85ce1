"""The fate of an event's label: the service's own shard says it, stepping the journal's entries again.

Its model is not asked, because no join depends on an answer; everything else is the shard of `serve`: which
records are refused, the time unit, `ttl`, defaults, and the one joiner, `core.labels.joiner`.

Invariants:
- There is no rule of joining here. What is told is what `core.labels.joiner` did with the records of the
  journal.
- Memory holds what waits, as in the service, and what names the event that is asked about.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from streamlearn.core.events.clocks import KNOWN_FROM_MS, NEVER
from streamlearn.core.events.event import Label
from streamlearn.core.journal import Entry, Era
from streamlearn.core.labels.joiner import LabelJoiner
from streamlearn.core.labels.record import LabelRecord, join_name, spelled_name
from streamlearn.core.labels.stats import label_delay_ms
from streamlearn.core.model.learner import Learner, Prediction
from streamlearn.core.records import Positions, Record, RecordPlace, Skip
from streamlearn.core.shard.facts import Expired, Fact, Facts, Labelled, Learned, Predicted, Refused
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.snapshot import Header, assembled, load_learner, load_memory, side_parts
from streamlearn.core.shard.state import Memory, ShardSpec
from streamlearn.core.shard.work import Failure
from streamlearn.engine.cursor import in_order, skips_by_place
from streamlearn.engine.driver import ShardDriver
from streamlearn.engine.era import spec_of, stated_spec
from streamlearn.engine.model import ModelTemplate
from streamlearn.engine.registry import Schemas
from streamlearn.history.topic_reader import between, topic_info
from streamlearn.log.port import Reader

_UNASKED: Final = Prediction(None, "", None, True)
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

    def __init__(self, record: Record, label: LabelRecord) -> None:
        self.record = record
        self.label = label
        self.outcome = ""
        self.events: list[dict[str, Any]] = []
        self.older = 0


class _Notes:
    """Notes on what the facts say of one key, and of the event asked about, whose record is at `event`.

    `state`: what that event does: `none` (nothing is known of it), `inside` (it brought its label), `unnamed`
    (no label can name it), `waiting`, `joined`, `expired`, `dropped`.
    """

    def __init__(self, event: RecordPlace, name: str, text: str) -> None:
        self.calls(name, text)
        self.event = event
        self.labels: dict[RecordPlace, _Named] = {}
        """The labels that name the key, by the places of their records."""
        self.events: dict[RecordPlace, tuple[dict[str, Any], float, int]] = {}
        """Each event of the key: its name and place, its time and its arrival, in milliseconds."""
        self.state = "none"
        self.joined_by: tuple[Label, _Named | None] | None = None

    def calls(self, name: str, text: str) -> None:
        """Take the name by which labels call the event, as it is remembered and as it is in their bytes."""
        self.name = name
        self._text = text.encode()

    def may_name(self, value: bytes) -> bool:
        """True if a label's record can name the key: JSON may write a name in its bytes, or with escapes."""
        return self._text in value or _BACKSLASH in value

    def take(self, fact: Fact, join: str) -> None:
        """Note one fact of a shard whose labels are joined by `join`."""
        if isinstance(fact, Predicted):
            self._arrives(fact, join)
        elif isinstance(fact, Learned) and fact.label is not None:
            self._joins(fact.place, fact.label, fact.y)
        elif isinstance(fact, Labelled):
            self._ends(fact.place, fact.outcome)
        elif isinstance(fact, Refused):
            self._ends(fact.record.place, f"dlq.{fact.stage}.{fact.reason}")
        elif isinstance(fact, Expired):
            self._expires(fact)

    def _ends(self, label: RecordPlace, outcome: str) -> None:
        if (named := self.labels.get(label)) is not None:
            named.outcome = outcome

    def _expires(self, fact: Expired) -> None:
        if (label := self.labels.get(fact.record.place)) is not None:
            self._joins(fact.place, fact.record.place, label.label.y)
        elif fact.place == self.event:
            self.state = "dropped" if fact.dropped else "expired"

    def _arrives(self, fact: Predicted, join: str) -> None:
        """An event was predicted."""
        event, source = fact.event, fact.record.place
        named = join_name(join, event) == self.name
        if source == self.event and (named or event.y is None):
            self.state = ("waiting" if event.y is None else "inside") if named else "unnamed"
        elif not named:
            return
        topic, partition, offset = source
        name = {"id": event.id, "topic": topic, "partition": partition, "offset": offset}
        self.events[source] = (name, event.time_ms, fact.record.timestamp_ms)

    def _joins(self, event: RecordPlace, label: RecordPlace, y: Label) -> None:
        """The label of one place found the event of the other; either may be older than all this."""
        named = self.labels.get(label)
        if named is not None:
            if event in self.events:
                named.events.append(self.events[event][0])
            else:
                named.older += 1
        if event == self.event:
            self.state, self.joined_by = "joined", (y, named)


class Joins:
    """One service's labels from the checkpoint `header` on, asked about the event in `record`."""

    def __init__(
        self,
        template: ModelTemplate,
        header: Header,
        sections: Mapping[str, bytes],
        schemas: Schemas,
        reader: Reader,
        record: Record,
    ) -> None:
        """Raises `BadCheckpoint`."""
        self._record = record
        self._reader = reader
        spec = _unscored(stated_spec(header.under))
        self._model = load_learner(sections, template.trusted, spec.horizon).model
        learner = _Unasked(self._model, spec.horizon)
        self._driver = ShardDriver(assembled(spec, learner, load_memory(sections), sections), schemas)
        self._notes = _Notes(record.place, *self._names())
        self._take(self._driver.finish())
        joiner = self._shard.joiner
        self.labelled = joiner is not None
        """True if labels come on a topic of their own."""
        self.tells_all = joiner is None or not joiner.knows(self._notes.name)
        """True if no label and no other event of the key waits: an older checkpoint tells of those."""

    def first_labels(self, reader: Reader) -> Positions:
        """The offset of the first record, in each partition of the labels topic, that names the event and
        came at most `early_ttl` and `ttl` before it. A key of intervals is named all the time: then nowhere.
        """
        joiner = self._shard.joiner
        if joiner is None or joiner.spec.join == "interval" or not self._notes.name:
            return {}
        topic, spec = joiner.spec.topic, joiner.spec
        if topic not in reader.topics([topic]):
            return {}
        since_ms = self._record.timestamp_ms - spec.early_ttl_ms - spec.ttl_ms
        first = reader.offsets_at(topic, int(max(0.0, since_ms)))
        offsets: Positions = {}
        for record in between(reader, topic, first, topic_info(reader, topic).end):
            if self._label_in(record) is not None:
                offsets.setdefault((topic, record.partition), record.offset)
        return offsets

    def follow(self, entries: Sequence[Entry]) -> None:
        """Step the journal's next entries."""
        for entry in entries:
            if entry.change is not None:
                self._begin_era(entry.change)
                continue
            skips = skips_by_place(entry.skips)
            for source, label in self._notes.labels.items():
                if (skip := skips.get(source)) is not None:  # given up in a later transaction
                    label.outcome = f"dlq.{skip.stage}.{skip.reason}"
            for record in in_order(entry, self._reader):
                self._step(record, skips.get(record.place))

    def result(self) -> dict[str, Any]:
        """`state` (see `_Notes`, and `dropped`), `label` as `explain` shows it, and `records` of the labels
        topic that name the event.
        """
        notes, shard = self._notes, self._shard
        joiner = shard.joiner
        if notes.state == "waiting" and (joiner is None or not self._still_waits(joiner)):
            notes.state = "dropped"
        records = [self._shown(label) for label in self._about()]
        return {"state": notes.state, "label": self._label(joiner), "records": records}

    def _label(self, joiner: LabelJoiner | None) -> dict[str, Any] | None:
        """The label that joined, or the default one, as `explain` shows it."""
        notes = self._notes
        if notes.joined_by is not None:
            y, named = notes.joined_by
            if named is None:
                return {"label": y, "where": "a label from before the oldest checkpoint", "delay_s": None}
            return {"label": y, "where": where(named.record), "delay_s": self._delay_s(named)}
        default = None if joiner is None else joiner.spec.default
        if notes.state != "expired" or default is None or self._shard.label_rules.refusal(default, True):
            return None
        return {"label": default, "where": "[labels] default, as none came within ttl", "delay_s": None}

    def _about(self) -> list[_Named]:
        """The labels that are about the event itself, not about another moment of its key."""
        notes, joiner = self._notes, self._shard.joiner
        labels = list(notes.labels.values())
        if joiner is None or joiner.spec.join != "interval" or notes.event not in notes.events:
            return labels
        _, time_ms, _ = notes.events[notes.event]
        return [label for label in labels if label.label.holds_at(time_ms)]

    def _shown(self, label: _Named) -> dict[str, Any]:
        outcome = label.outcome
        if outcome == "label.early" and (label.events or label.older):
            outcome = "label.joined"
        elif outcome == "label.early" and (
            self._shard.joiner is None or not self._shard.joiner.is_early(label.label)
        ):
            outcome = "label.orphan"
        return {
            "label": label.label.y,
            "where": where(label.record),
            "outcome": outcome,
            "events": label.events,
            "older_events": label.older,
        }

    def _delay_s(self, label: _Named) -> float | None:
        """The delay of the label; None where neither times nor arrivals tell."""
        _, time_ms, arrived_ms = self._notes.events[self._notes.event]
        known_ms, came_ms = label.label.time_ms, label.record.timestamp_ms
        if time_ms == -NEVER if known_ms is not None else min(arrived_ms, came_ms) < KNOWN_FROM_MS:
            return None
        return label_delay_ms(known_ms, time_ms, came_ms - arrived_ms) / 1e3

    def _still_waits(self, joiner: LabelJoiner) -> bool:
        """True if the event asked about still waits; takes it out of a state that nobody needs any more."""
        pending, name = joiner.pending, self._notes.name
        if joiner.spec.join == "interval":
            events, _ = pending.take_between(name, float("-inf"), float("inf"))
        else:
            events, _ = pending.take(name)
        return any(source == self._notes.event for *_, source in events)

    def _step(self, record: Record, skip: Skip | None) -> None:
        label = self._label_in(record)
        if label is not None:
            self._notes.labels[record.place] = label
        self._take(self._driver.again(record, skip))

    def _take(self, facts: Facts | Failure) -> None:
        assert not isinstance(facts, Failure), "a model that is neither asked nor taught raises nothing"
        labels = self._shard.spec.labels
        if labels is not None:
            for fact in facts:
                self._notes.take(fact, labels.join)

    def _label_in(self, record: Record) -> _Named | None:
        """The label that names the key in a record, if it is one."""
        joiner, value = self._shard.joiner, record.value
        if (
            joiner is None
            or record.topic != joiner.spec.topic
            or value is None
            or not self._notes.may_name(value)
        ):
            return None
        label = self._shard.label_rules.read(joiner, record)
        return (
            _Named(record, label)
            if isinstance(label, LabelRecord) and label.join == self._notes.name
            else None
        )

    def _begin_era(self, era: Era) -> None:
        spec = _unscored(spec_of(era))
        before, learner = self._shard, _Unasked(self._model, spec.horizon)
        if spec.revision != before.spec.revision:  # a model of its own, for which nothing waits
            shard = Shard(spec, learner, Memory())
        else:
            shard = assembled(spec, learner, before.memory, side_parts(before))
        if shard.guard is not None:
            shard.guard.settle(era.kinds)
        self._driver.load(shard)
        if self._notes.event not in self._notes.events:
            self._notes.calls(*self._names())

    @property
    def _shard(self) -> Shard:
        return self._driver.shard

    def _names(self) -> tuple[str, str]:
        """The name by which labels call the event: as remembered, and in their bytes; "" where none can."""
        spec = self._shard.spec
        event = self._driver.peek(self._record)
        if spec.labels is None or event is None:
            return "", ""
        kind = spec.labels.join
        name = join_name(kind, event)
        return ("", "") if name is None else (name, str(spelled_name(kind, event)))


def where(record: Record) -> str:
    """A record's place, for people."""
    return f"{record.topic} partition {record.partition} offset {record.offset}"


def _unscored(spec: ShardSpec) -> ShardSpec:
    return msgspec.structs.replace(spec, scores=None)
