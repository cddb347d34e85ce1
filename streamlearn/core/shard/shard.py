"""The pure function at the centre: one record and a state in, facts and the next state out.

Invariants:
- `step` depends on the record and the state alone: no I/O, no clock, no randomness from outside.
- Every record that is stepped has exactly one outcome: a prediction, a dead letter, a skip by a rule of the
  configuration, an applied command or label. It is among the facts, and `Memory.outcomes` counts it.
- `begin` and `work_on` take the same way as `step` in several calls: see `core.shard.work`.
- An event is scored, then learned, once its label is known, with the features and the answers as they were
  when it was predicted.
- A refused record leaves the model untouched. A model that raises has left the state undefined: `step`
  raises `ModelRaised`, and the caller rebuilds the state and hands the record to `skip` instead. So does a
  step whose learning went wrong: see `core.shard.trials`.
"""

from typing import Final

from streamlearn.core.events.clocks import NEVER, UNKNOWN_MS, dated
from streamlearn.core.events.dedup import RecentIds
from streamlearn.core.events.event import Event, NoEvent, Refusal
from streamlearn.core.events.mapping import compile_decoder, has_schema
from streamlearn.core.events.registry import Schema
from streamlearn.core.labels.joiner import DUE_PER_RECORD, LabelJoiner
from streamlearn.core.labels.record import LabelRecord
from streamlearn.core.model.learner import Learner, Prediction
from streamlearn.core.records import CRASH_STAGE, Record
from streamlearn.core.scores.scores import Scores
from streamlearn.core.shard.commands import FREEZE, GUARD_RESET, THAW, command_in
from streamlearn.core.shard.dead_letter_rate import note_dead_letter
from streamlearn.core.shard.encode import Encoder, dead_letter, scores_report
from streamlearn.core.shard.facts import (
    Alerted,
    Commanded,
    Expired,
    Facts,
    Frozen,
    Labelled,
    Learned,
    Refused,
    Reported,
    Skipped,
)
from streamlearn.core.shard.guard import Guard
from streamlearn.core.shard.label_rules import LabelRules
from streamlearn.core.shard.state import BROKEN, COMMAND, PAUSED, Memory, ShardSpec
from streamlearn.core.shard.time_units import note_unit, set_event_time
from streamlearn.core.shard.trials import NOT_FINITE, Lessons, Teacher, is_extreme
from streamlearn.core.shard.work import EventWork, LabelWork

FAILING_LIMIT: Final = 100
"""The number of predict failures in a row that stop the service, so that no topic drains into dead letters.
"""

_AT_ONCE: Final = 1_000
"""The number of waiting events that are unpacked at a time."""


class Shard:
    """One state. `learner`, `memory`, `scores`, `joiner` and `work` together are everything it knows."""

    def __init__(
        self,
        spec: ShardSpec,
        learner: Learner,
        memory: Memory,
        scores: Scores | None = None,
        joiner: LabelJoiner | None = None,
        work: LabelWork | EventWork | None = None,
    ) -> None:
        """Scores and labels begin anew where `spec` asks for them and none are given."""
        self.spec = spec
        self.learner = learner if learner.horizon == spec.horizon else Learner(learner.model, spec.horizon)
        self.memory = memory
        self.teacher = Teacher(self.learner, memory, spec.event.time_as)
        if scores is None and spec.scores is not None:
            scores = Scores(spec.scores, learner.task)
        self.scores = scores
        if joiner is None and spec.labels is not None:
            joiner = LabelJoiner(spec.labels, spec.event.time_as)
        self.joiner = joiner
        self.work = work
        """The unfinished work of the record that was begun last."""
        self.label_rules = LabelRules(spec, self.learner, memory, scores)
        limits, types, typed = spec.guard, spec.event.types, has_schema(spec.event)
        texts = self.learner.text_fields
        self.guard = None if limits is None else Guard(limits, types, memory.types, typed, texts)
        self.schemas: dict[str, Schema] = {}
        """The registry's schemas by id: a cache, which the answer to `NeedSchema` fills; no state."""
        self.encoder = Encoder(
            spec.model_name, spec.model_version, spec.revision, bool(spec.event.key), spec.prediction_bytes
        )
        self._decode = compile_decoder(spec.event, self.schemas)
        self.recent_ids = RecentIds(memory, spec.event.duplicates) if spec.event.duplicates else None
        self.others = {spec.control: self._apply_command}
        if spec.labels is not None:
            self.others[spec.labels.topic] = self._apply_label
        self.lessons = Lessons(spec, self.learner, memory, self.teacher, scores)

    def step(self, record: Record) -> Facts:
        """Apply one record to its end; its facts. Raises `ModelRaised` when the model did: the state is then
        undefined; and `NeedSchema` when the record's schema is not in `schemas`: nothing was changed.
        """
        facts = self.begin(record, _AT_ONCE)
        while self.work is not None:
            facts += self.work_on(_AT_ONCE)
        return facts

    def begin(self, record: Record, units: int) -> Facts:
        """As `step`, but of the events that the record makes the model learn at most `units`, at least one:
        others are left in `work`, which is to be finished before the next record.
        """
        assert self.work is None, "the record before is not finished"
        if record.topic in self.others and record.value is not None:
            self._count_record()
            return self.others[record.topic](*dated(record, self.memory.arrivals), units)
        event = self._decode(record) if record.value is not None else NoEvent("tombstone")
        self._count_record()
        record, latest_ms = dated(record, self.memory.arrivals)
        if type(event) is Event:
            if self.recent_ids is not None and event.id in self.recent_ids:
                return self._skipped(record, "duplicate")
            guard = self.guard
            if guard is None or guard.knows(event.x):
                guard = refusal = None
            else:
                refusal = guard.refusal(event.x)
            refusal = refusal or self._check(event, record, latest_ms)
            if refusal is None:
                if guard is not None:
                    event.x = guard.passed(event.x)
                return self._apply(event, record, units)
        elif type(event) is NoEvent:
            return self._skipped(record, event.reason)
        else:
            assert isinstance(event, Refusal)
            refusal = event
        return [self._refuse(record, refusal)]

    def work_on(self, units: int) -> Facts:
        """Go on with `work`, at most `units` events; its outcome comes last. Raises as `step` does."""
        work = self.work
        assert work is not None
        if isinstance(work, EventWork):
            return self._end_waiting(work, units)
        joiner, goes_on = self.joiner, False
        facts: Facts = []
        if joiner is not None and joiner.spec.join == work.join:  # else another era joins otherwise
            events, goes_on = joiner.more(work.label, work.record.timestamp_ms, units)
            self.lessons.learn_waiting(work.record, work.label, events, facts)
            work.done += len(events)
        if not goes_on:
            self.work = None
            self.end_label(work.record, "label.joined", facts)
        return facts

    def give_up(self, stage: str, reason: str) -> Facts:
        """Instead of `work_on`: the model raised at the rest of a label; as `skip`; what is learned stays."""
        work = self.work
        assert isinstance(work, LabelWork), "an event is finished in the transaction that began it"
        self.work = None
        facts = self._note_undo(work.record, stage, reason)
        if self.joiner is not None and self.joiner.spec.join == work.join:
            released = self.joiner.let_go(work.label, work.record.timestamp_ms)
            facts += [Expired(work.record, place, True) for place in released]
        return [*facts, self._refuse(work.record, Refusal(stage, reason))]

    def peek(self, record: Record) -> Event | None:
        """The event in a record, if there is one; nothing is applied. Raises `NeedSchema`."""
        if record.value is None or record.topic in self.others:
            return None
        event = self._decode(record)
        return event if isinstance(event, Event) else None

    def skip(self, record: Record, stage: str, reason: str) -> Facts:
        """Apply a record that made the model raise, or whose schema there is not: its dead letter. The model
        never sees it, nor the events that a label was about or whose time was up (stage `expire`)."""
        memory = self.memory
        self._count_record()
        if stage in ("decode", CRASH_STAGE):  # nothing of what kills a process is looked at again
            return [self._refuse(record, Refusal(stage, reason))]
        facts = self._note_undo(record, stage, reason)
        event = self.peek(record)
        record, latest_ms = dated(record, memory.arrivals)
        if self.joiner is not None and event is None:
            facts += self._released(self.joiner, record, latest_ms)
        elif self.joiner is not None and event is not None and stage == "expire":
            if self._check(event, record, latest_ms) is None:
                facts += self._expired(self.joiner, event, record)
            stage = "learn"
        elif self.guard is not None and event is not None and reason == "raised":
            self.guard.raised(event.x)
        return [*facts, self._refuse(record, Refusal(stage, reason))]

    def _released(self, joiner: LabelJoiner, record: Record, latest_ms: float) -> Facts:
        """Take the events of a label that nobody learns."""
        label = self.label_rules.read(joiner, record, latest_ms)
        if not isinstance(label, LabelRecord):
            return []
        _, events, goes_on = joiner.join(label, record.timestamp_ms, 1)
        places = [place for *_, place in events]
        if goes_on:
            places += joiner.let_go(label, record.timestamp_ms)
        return [Expired(record, place, True) for place in places]

    def _expired(self, joiner: LabelJoiner, event: Event, record: Record) -> Facts:
        """Take the events past their deadline at the time of this one, which nobody learns."""
        source = (record.topic, record.partition)
        if not joiner.advance(source, event.time_ms):
            return []
        events, _ = joiner.expire(source)
        return [Expired(record, place, False) for *_, place in events]

    # --- records of other topics ----------------------------------------------------------------------

    def _apply_command(self, record: Record, latest_ms: float, units: int) -> Facts:
        """Apply a record of the control topic."""
        command = command_in(record)
        if isinstance(command, Refusal):
            return [self._refuse(record, command)]
        facts: Facts = [Commanded(record, command.name)]
        if command.name == FREEZE:
            self.memory.freeze(COMMAND)
            facts.append(Frozen(record, COMMAND))
        elif command.name == THAW:
            self.memory.thaw()
        elif command.name != GUARD_RESET:
            self.memory.forget(command.name)
        elif self.guard is not None:
            self.guard.reset(command.feature)
        self.memory.count(f"command.{command.name}")
        return facts

    def _apply_label(self, record: Record, latest_ms: float, units: int) -> Facts:
        """Apply a record of the labels topic: the events it is about are scored and learned."""
        joiner = self.joiner
        assert joiner is not None, "a spec with labels has made it"
        label = self.label_rules.read(joiner, record, latest_ms)
        if isinstance(label, Refusal):
            return [self._refuse(record, label)]
        y = self.label_rules.accepted(label.y, strict=True)
        if isinstance(y, Refusal):
            return [self._refuse(record, y)]
        label.y = y
        outcome, events, goes_on = joiner.join(label, record.timestamp_ms, units)
        facts: Facts = []
        self.lessons.learn_waiting(record, label, events, facts)
        if goes_on:
            self.leave(LabelWork(record, label, joiner.spec.join, len(events)))
        else:
            self.end_label(record, outcome, facts)
        return facts

    def leave(self, work: LabelWork) -> None:
        """Leave the rest of a label's events to `work_on`."""
        self.work = work

    def end_label(self, record: Record, outcome: str, facts: Facts) -> None:
        """The outcome of a label, and what is due after it."""
        self.memory.count(outcome)
        facts.append(Labelled(record, record.place, outcome))
        joiner, scores = self.joiner, self.scores
        if joiner is not None and joiner.has_news:
            self._alert(joiner, record, facts)
        if scores is not None and scores.is_due():
            facts.append(self.report(scores, record))

    def _alert(self, joiner: LabelJoiner, record: Record, facts: Facts) -> None:
        alert = joiner.alert()
        if alert is not None:
            facts.append(Alerted(record, alert, self.encoder.alert(record, alert)))

    # --- events ---------------------------------------------------------------------------------------

    def _check(self, event: Event, record: Record, latest_ms: float) -> Refusal | None:
        """Check by the stream so far, which learns from an event that is accepted."""
        arrived_ms: float = record.timestamp_ms
        if arrived_ms == UNKNOWN_MS:
            arrived_ms = -NEVER if self.joiner is None else self.joiner.pending.newest_ms
        evidence = set_event_time(event, arrived_ms, latest_ms, self.spec.event, self.memory)
        if isinstance(evidence, Refusal):
            return evidence
        if event.y is not None:
            y = self.label_rules.accepted(event.y, strict=False)
            if isinstance(y, Refusal):
                return y
            event.y = y
        if evidence is not None:
            note_unit(evidence, self.spec.event, self.memory)
        return None

    def _apply(self, event: Event, record: Record, units: int) -> Facts:
        """Expire the events whose deadline this event's time passes, then answer."""
        joiner = self.joiner
        if joiner is None or not joiner.advance((record.topic, record.partition), event.time_ms):
            return self._answered(event, record, [])
        return self.end_due(event, record, units)

    def end_due(self, event: Event, record: Record, units: int) -> Facts:
        """Go on with an event whose time has passed deadlines: end what was due first, then answer."""
        joiner = self.joiner
        assert joiner is not None, "only events of labels wait"
        default = self.label_rules.default(joiner.spec.default)
        if default is None and joiner.spec.default is not None:
            self.memory.count("label.default_refused")
        self.work = EventWork(record, event, default)
        return self.work_on(units)

    def _answered(self, event: Event, record: Record, facts: Facts) -> Facts:
        """Predict, then go on as `answered`. The prediction is made before the label is seen."""
        joiner = self.joiner
        if joiner is None or self.learner.task != "forecasting":
            return self.answered(event, record, self.teacher.ask(event.x, event.y), "", facts)
        ahead = joiner.expected(self.spec.horizon == 1)
        reason = "labels_too_late" if ahead is None else ""
        return self.answered(event, record, self.teacher.ask(event.x, event.y, ahead), reason, facts)

    def answered(self, event: Event, record: Record, answer: Prediction, reason: str, facts: Facts) -> Facts:
        """Encode an event's answer, score and learn its label. `reason`: why it is withheld, "" for shown."""
        memory, joiner, scores, x = self.memory, self.joiner, self.scores, event.x
        trial = "learn" if is_extreme(x) else ""
        if not answer.finite:
            answer, reason, trial = answer.withheld(), NOT_FINITE, "predict"
            if memory.frozen in ("", PAUSED) and self.teacher.is_broken():
                memory.freeze(BROKEN)
                facts.append(Frozen(record, BROKEN))
        elif not trial and event.time_ms != -NEVER:
            memory.probe = event
        labels = memory.label_type if self.learner.task == "classification" else ""
        predicted = self.encoder.prediction(event, record, answer, memory.learned, labels, reason)
        if isinstance(predicted, Refusal):
            return [*facts, self.unusable(record, predicted)]
        if not reason:
            memory.failing = 0
        facts.append(predicted)
        ts = (record.timestamp_ms or None) if event.ts is None else event.ts
        captured = [] if scores is None else scores.capture(answer, x, ts)
        if joiner is not None:
            self.lessons.join(joiner, event, record, captured, trial, facts)
        else:
            if event.y is not None:
                self.lessons.learn(x, Learned(record, record.place, event.y, captured, None), trial, facts)
            if self.lessons.learns_at_event:
                self.teacher.learn(x, event.y, trial)
        if self.recent_ids is not None:
            self.recent_ids.add(event.id)
        count = memory.outcomes["prediction"] = memory.outcomes.get("prediction", 0) + 1
        if scores is not None and count % scores.spec.every == 0:
            facts.append(self.report(scores, record))
        return facts

    def _end_waiting(self, work: EventWork, units: int) -> Facts:
        """Expire events whose label did not come in time: learn `default`, or forget them (a model that needs
        no label learns them all the same). Then the event is answered.
        """
        joiner, record = self.joiner, work.record
        assert joiner is not None, "only events of labels wait"
        facts: Facts = []
        events, goes_on = joiner.expire(work.source, min(units, DUE_PER_RECORD - work.done))
        self.lessons.end(record, work.default, events, facts)
        work.done += len(events)
        if goes_on and work.done < DUE_PER_RECORD:
            return facts
        self.work = None
        if joiner.has_news:
            self._alert(joiner, record, facts)
        return self._answered(work.event, record, facts)

    def report(self, scores: Scores, record: Record) -> Reported:
        """The scores, which are due at this record."""
        report = scores_report(self.memory, scores, self.joiner)
        output = self.encoder.scores(scores.mark_reported(), record, self.memory.learned, report)
        return Reported(record, report, output)

    # --- refusals -------------------------------------------------------------------------------------

    def unusable(self, record: Record, refusal: Refusal) -> Refused:
        """The model's answer cannot be published."""
        if refusal.stage == "predict":
            self.memory.failing += 1
        return self._refuse(record, refusal)

    def _refuse(self, record: Record, refusal: Refusal) -> Refused:
        self.memory.count(f"dlq.{refusal.stage}.{refusal.reason}")
        note_dead_letter(self.memory.letters, self.memory.records, refusal)
        return Refused(record, *refusal, dead_letter(record, refusal))

    def _note_undo(self, record: Record, stage: str, reason: str) -> Facts:
        memory = self.memory
        before = memory.frozen
        memory.note_undo(stage, reason)
        return [Frozen(record, memory.frozen)] if memory.frozen != before else []

    def _skipped(self, record: Record, reason: str) -> Facts:
        self.memory.count(f"skip.{reason}")
        return [Skipped(record, reason)]

    def _count_record(self) -> None:
        memory = self.memory
        memory.records += 1
        if memory.frozen or memory.undone:
            memory.begin_record()
