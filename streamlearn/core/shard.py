"""The pure function at the centre: one record and a state in, outputs and the next state out.

Invariants:
- `step` depends on the record and the state alone: no I/O, no clock, no randomness from outside.
- Every record that is stepped has exactly one outcome: a prediction, a dead letter, a skip by a rule of the
  configuration, an applied command or label, and `Memory.outcomes` counts it.
- `begin` and `work_on` take the same way as `step` in several calls: see `core.work`.
- An event is scored, then learned, once its label is known, with the features and the answers as they were
  when it was predicted.
- A refused record leaves the model untouched. A model that raises has left the state undefined: `step`
  raises `ModelRaised`, and the caller rebuilds the state and hands the record to `skip` instead. So does a
  step whose learning went wrong: see `core.trials`.
"""

from typing import Any, Final

from streamlearn.core.clocks import KNOWN_TO_MS, NEVER, UNKNOWN_MS, dated
from streamlearn.core.commands import FREEZE, GUARD_RESET, THAW, command_in
from streamlearn.core.encode import Encoder, dead_letter
from streamlearn.core.events import Event, Label, Refusal, Skipped
from streamlearn.core.guard import Guard
from streamlearn.core.label_records import Told
from streamlearn.core.label_rules import declared_type, is_usual, label_refusal, note_label, plain_label
from streamlearn.core.labels import DUE_PER_RECORD, Late
from streamlearn.core.learner import Learner
from streamlearn.core.mapping import compile_decoder, has_schema
from streamlearn.core.records import Output, Record
from streamlearn.core.schemas import Schema
from streamlearn.core.scores import Scores
from streamlearn.core.scores_report import scores_report
from streamlearn.core.state import BROKEN, COMMAND, PAUSED, Memory, ShardSpec
from streamlearn.core.storm import noted
from streamlearn.core.time_units import note_unit, set_event_time, settled_unit
from streamlearn.core.trials import NOT_FINITE, Teacher, is_extreme, marked, unmarked
from streamlearn.core.window import Window
from streamlearn.core.work import EventWork, LabelWork
from streamlearn.errors import ModelRaised

FAILING_LIMIT: Final = 100
"""So many predict failures in a row, and the service stops rather than drain a topic into dead letters."""

_AT_ONCE: Final = 1_000
"""So many waiting events are unpacked at a time."""

Outputs = tuple[Output, ...]


class Shard:
    """One state. `learner`, `memory`, `scores`, `late` and `work` together are everything it knows."""

    def __init__(self, spec: ShardSpec, learner: Learner, memory: Memory) -> None:
        """Scores and labels begin anew where `spec` asks for them; `core.snapshot` puts saved ones there."""
        self.spec = spec
        self.learner = learner if learner.horizon == spec.horizon else Learner(learner.model, spec.horizon)
        self.memory = memory
        self.teacher = Teacher(self.learner, memory, spec.event.time_as)
        self.scores = None if spec.scores is None else Scores(spec.scores, learner.task)
        self.late: Late | None = None
        self.work: LabelWork | EventWork | None = None
        """What is left of the record that was begun last."""
        limits, types, typed = spec.guard, spec.event.types, has_schema(spec.event)
        texts = self.learner.text_fields
        self.guard = None if limits is None else Guard(limits, types, memory.types, typed, texts)
        self.schemas: dict[str, Schema] = {}
        """The registry's schemas by id: a cache that whoever answers `NeedSchema` fills; no state."""
        self._encoder = Encoder(
            spec.model_name, spec.model_version, spec.revision, bool(spec.event.key), spec.prediction_bytes
        )
        self._decode = compile_decoder(spec.event, self.schemas)
        self._window = Window(memory, spec.event.duplicates) if spec.event.duplicates else None
        self._others = {spec.control: self._obey}
        if spec.labels is not None:
            self.late = Late(spec.labels, spec.event.time_as)
            self._others[spec.labels.topic] = self._tell
        self._label_type = declared_type(spec)
        self._scores_any = self.learner.task != "anomaly"
        self._scores_binary = not self.learner.judges_labels
        self._learns_at_event = learner.learns_unlabelled and (
            spec.labels is None or spec.labels.learn == "event"
        )

    def step(self, record: Record) -> Outputs:
        """Apply one record. Raises `ModelRaised` when the model did; the state is then undefined; and
        `NeedSchema`, with the state untouched.
        """
        outputs = self.begin(record, _AT_ONCE)
        while self.work is not None:
            outputs = self.work_on(_AT_ONCE)
        return outputs

    def begin(self, record: Record, units: int) -> Outputs:
        """As `step`, but of the events that the record makes the model learn at most `units`, at least one:
        others are left in `work`, which is to be finished before the next record.
        """
        assert self.work is None, "the record before is not finished"
        if record.topic in self._others and record.value is not None:
            self._count_record()
            return self._others[record.topic](*dated(record, self.memory.arrivals), units)
        event = self._decode(record) if record.value is not None else Skipped("tombstone")
        self._count_record()
        record, latest_ms = dated(record, self.memory.arrivals)
        if type(event) is Event:
            if self._window is not None and event.id in self._window:
                self._count("skip.duplicate")
                return ()
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
        elif type(event) is Skipped:
            self._count(f"skip.{event.reason}")
            return ()
        else:
            assert isinstance(event, Refusal)
            refusal = event
        return (self._refuse(record, refusal),)

    def work_on(self, units: int) -> Outputs:
        """Go on with `work`, at most `units` events; outputs come with the last. Raises as `step` does."""
        work = self.work
        assert work is not None
        if isinstance(work, EventWork):
            return self._end_waiting(work, units)
        late, goes_on = self.late, False
        if late is not None and late.spec.join == work.join:  # else an era has begun whose labels are others
            events, goes_on = late.more(work.told, work.record.timestamp_ms, units)
            for x, guess in events:
                self._learn_waiting(x, work.told.y, guess)
            work.done += len(events)
        if goes_on:
            return ()
        self.work = None
        return self._told(work.record, "label.joined")

    def give_up(self, stage: str, reason: str) -> Outputs:
        """Instead of `work_on`: the model raised at the rest of a label; as `skip`; what is learned stays."""
        work = self.work
        assert isinstance(work, LabelWork), "an event is finished in the transaction that began it"
        self.work = None
        self.memory.note_undo(stage, reason)
        if self.late is not None and self.late.spec.join == work.join:
            self.late.let_go(work.told, work.record.timestamp_ms)
        return (self._refuse(work.record, Refusal(stage, reason)),)

    def peek(self, record: Record) -> Event | None:
        """The event in a record, if there is one; nothing is applied. Raises `NeedSchema`."""
        if record.value is None or record.topic in self._others:
            return None
        event = self._decode(record)
        return event if isinstance(event, Event) else None

    def skip(self, record: Record, stage: str, reason: str) -> Outputs:
        """Apply a record that made the model raise, or whose schema there is not: its dead letter, and the
        model never sees it, nor the events that a label was about or whose time was up (stage `expire`).
        """
        memory = self.memory
        self._count_record()
        if stage == "decode":
            return (self._refuse(record, Refusal(stage, reason)),)
        memory.note_undo(stage, reason)
        event = self.peek(record)
        record, latest_ms = dated(record, memory.arrivals)
        if self.late is not None and event is None:
            told = self.label_in(record, latest_ms)
            if isinstance(told, Told):
                _, _, goes_on = self.late.join(told, record.timestamp_ms, 1)
                if goes_on:
                    self.late.let_go(told, record.timestamp_ms)
        elif self.late is not None and event is not None and stage == "expire":
            source = (record.topic, record.partition)
            refusal = self._check(event, record, latest_ms)
            if refusal is None and self.late.passes(source, event.time_ms):
                self.late.due(source)
            stage = "learn"
        elif self.guard is not None and event is not None and reason == "raised":
            self.guard.raised(event.x)
        return (self._refuse(record, Refusal(stage, reason)),)

    # --- records of other topics ----------------------------------------------------------------------

    def _obey(self, record: Record, latest_ms: float, units: int) -> Outputs:
        """Apply a record of the control topic."""
        command = command_in(record)
        if isinstance(command, Refusal):
            return (self._refuse(record, command),)
        if command.name == FREEZE:
            self.memory.freeze(COMMAND)
        elif command.name == THAW:
            self.memory.thaw()
        elif command.name != GUARD_RESET:
            self.memory.forget(command.name)
        elif self.guard is not None:
            self.guard.reset(command.feature)
        self._count(f"command.{command.name}")
        return ()

    def _tell(self, record: Record, latest_ms: float, units: int) -> Outputs:
        """Apply a record of the labels topic: the events it is about are scored and learned."""
        late = self.late
        assert late is not None, "a spec with labels has made it"
        told = self.label_in(record, latest_ms)
        if isinstance(told, Refusal):
            return (self._refuse(record, told),)
        if not is_usual(told.y, self.memory, self._label_type):
            y = self._taken(told.y, strict=True)
            if isinstance(y, Refusal):
                return (self._refuse(record, y),)
            told.y = y
        outcome, events, goes_on = late.join(told, record.timestamp_ms, units)
        for x, guess in events:
            self._learn_waiting(x, told.y, guess)
        if goes_on:
            self.work = LabelWork(record, told, late.spec.join, len(events))
            return ()
        return self._told(record, outcome)

    def label_in(self, record: Record, latest_ms: float = KNOWN_TO_MS) -> Told | Refusal:
        """The label in a record of the labels topic, or why there is none; nothing is applied."""
        assert self.late is not None, "a spec without labels has no such topic"
        unit = settled_unit(self.spec.event, self.memory)
        told = self.late.read(record, unit, self.memory.time_unit, latest_ms)
        if isinstance(told, Refusal) or type(told.y) is bool:
            return told
        y = plain_label(told.y, self.learner, self._label_type)
        if y is None:
            return Refusal("label", "label_type")
        told.y = y
        return told

    def _told(self, record: Record, outcome: str) -> Outputs:
        """The end of a label."""
        self._count(outcome)
        late, scores = self.late, self.scores
        alerts = self._alerts(late, record) if late is not None and late.has_news else ()
        return (*alerts, self._scored(scores, record)) if scores is not None and scores.is_due() else alerts

    def _alerts(self, late: Late, record: Record) -> Outputs:
        alert = late.alert()
        return () if alert is None else (self._encoder.alert(record, alert),)

    # --- events ---------------------------------------------------------------------------------------

    def _check(self, event: Event, record: Record, latest_ms: float) -> Refusal | None:
        """What depends on the stream so far, which learns from an event that is accepted."""
        arrived_ms: float = record.timestamp_ms
        if arrived_ms == UNKNOWN_MS:
            arrived_ms = -NEVER if self.late is None else self.late.pending.newest_ms
        evidence = set_event_time(event, arrived_ms, latest_ms, self.spec.event, self.memory)
        if isinstance(evidence, Refusal):
            return evidence
        if event.y is not None and not is_usual(event.y, self.memory, self._label_type):
            y = self._taken(event.y, strict=False)
            if isinstance(y, Refusal):
                return y
            event.y = y
        if evidence is not None:
            note_unit(evidence, self.spec.event, self.memory)
        return None

    def _taken(self, y: Label, strict: bool) -> Label | Refusal:
        """A label as it is to be learned, or why it cannot be; either way it is evidence."""
        plain = plain_label(y, self.learner, self._label_type)
        if plain is None:
            return Refusal("label", "label_type")
        note_label(plain, self.learner, self.memory, self._label_type)
        return self.label_refusal(plain, strict) or plain

    def label_refusal(self, y: Label, strict: bool) -> Refusal | None:
        """Why a label cannot be learned; see `core.label_rules`."""
        return label_refusal(y, self.learner, self.memory, self.scores, self._label_type, strict)

    def _apply(self, event: Event, record: Record, units: int) -> Outputs:
        """End the waiting of other events that its time passes, then answer."""
        late = self.late
        if late is None or not late.passes((record.topic, record.partition), event.time_ms):
            return self._answered(event, record, ())
        default = late.spec.default
        if default is not None:
            default = plain_label(default, self.learner, self._label_type)
            if default is None or self.label_refusal(default, strict=True) is not None:
                self._count("label.default_refused")  # it is not of the type that this stream's labels have
                default = None
        self.work = EventWork(record, event, default)
        return self.work_on(units)

    def _answered(self, event: Event, record: Record, alerts: Outputs) -> Outputs:
        """Predict, then learn, then encode. The prediction is made before the label is seen."""
        memory, late, scores, x = self.memory, self.late, self.scores, event.x
        ahead: tuple[list[dict[str, Any]] | None, ...] = ()
        if late is not None and self.learner.task == "forecasting":
            ahead = (late.expected(self.spec.horizon == 1),)
        answer = self.teacher.ask(x, event.y, *ahead)
        reason, trial = "labels_too_late" if None in ahead else "", "learn" if is_extreme(x) else ""
        if not answer.finite:
            answer, reason, trial = answer.withheld(), NOT_FINITE, "predict"
            if memory.frozen in ("", PAUSED) and self.teacher.is_broken():
                memory.freeze(BROKEN)
        elif not trial and event.time_ms != -NEVER:
            memory.probe = event
        labels = memory.label_type if self.learner.task == "classification" else ""
        output = self._encoder.prediction(event, record, answer, memory.learned, labels, reason)
        if isinstance(output, Refusal):
            return (*alerts, self._unusable(record, output))
        if not reason:
            memory.failing = 0
        guess = [] if scores is None else scores.foresee(answer, x)
        y = event.y if late is None else late.label_of(event, record.timestamp_ms)
        source = (record.topic, record.partition)
        if y is not None:
            self._learn_label(x, y, guess, trial)
            if late is not None:
                late.pending.labelled_at_once(source)
        if self._learns_at_event:
            self.teacher.learn(x, y, trial)
        if y is None and late is not None:
            waits = late.waits(event, source, record.timestamp_ms, marked(guess) if trial else guess)
            if not waits and self.learner.learns_unlabelled and not self._learns_at_event:
                self.teacher.learn(x, None, trial)
        if scores is not None:
            scores.newest_ts = (record.timestamp_ms or None) if event.ts is None else event.ts
        if self._window is not None:
            self._window.add(event.id)
        count = memory.outcomes["prediction"] = memory.outcomes.get("prediction", 0) + 1
        if scores is not None and count % scores.spec.every == 0:
            return (*alerts, output, self._scored(scores, record))
        return (*alerts, output) if alerts else (output,)

    def _end_waiting(self, work: EventWork, units: int) -> Outputs:
        """Events whose label did not come in time: learn `default`, or forget them. A model that needs no
        label learns them all the same. After the last of them the event is answered.
        """
        late = self.late
        assert late is not None, "only events of labels wait"
        events, goes_on = late.due(work.source, min(units, DUE_PER_RECORD - work.done))
        try:
            for x, guess in events:
                if work.default is not None:
                    self._learn_waiting(x, work.default, guess)
                elif self.learner.learns_unlabelled and not self._learns_at_event:
                    self.teacher.learn(x, None, "learn" if unmarked(guess)[1] else "")
        except ModelRaised as raised:
            raise ModelRaised("expire", raised.reason) from raised.__cause__
        work.done += len(events)
        if goes_on and work.done < DUE_PER_RECORD:
            return ()
        self.work = None
        alerts = self._alerts(late, work.record) if late.has_news else ()
        return self._answered(work.event, work.record, alerts)

    def _learn_waiting(self, x: dict[str, Any], y: Label, guess: list[Any] | None) -> None:
        """Learn the label of an event that waited."""
        guess, on_trial = unmarked(guess)
        self._learn_label(x, y, guess, "learn" if on_trial else "")

    def _learn_label(self, x: dict[str, Any], y: Label, guess: list[Any] | None, trial: str) -> None:
        """Score what was answered for `x`, then learn its label; `trial` as in `Teacher.learn`."""
        scores = self.scores
        if scores is not None and not self._scores_any and self._scores_binary and y not in (0, 1):
            self._count("label.unused")  # a detector is scored by what is true or false, and learns no label
        elif scores is not None and (self._scores_any or self._scores_binary):
            if not scores.knows_room_for(y):  # there was room when the label came, but its event was late
                self._count("label.too_many_classes")
                return
            if guess is not None:
                scores.observe(y, guess)
        if not self._learns_at_event:
            self.teacher.learn(x, y, trial)

    def _scored(self, scores: Scores, record: Record) -> Output:
        report = scores_report(self.memory, scores, self.late)
        return self._encoder.scores(scores.told(), record, self.memory.learned, report)

    # --- refusals -------------------------------------------------------------------------------------

    def _unusable(self, record: Record, refusal: Refusal) -> Output:
        """The model's answer cannot be published."""
        if refusal.stage == "predict":
            self.memory.failing += 1
        return self._refuse(record, refusal)

    def _refuse(self, record: Record, refusal: Refusal) -> Output:
        self._count(f"dlq.{refusal.stage}.{refusal.reason}")
        noted(self.memory.letters, self.memory.records, refusal)
        return dead_letter(record, refusal)

    def _count_record(self) -> None:
        memory = self.memory
        memory.records += 1
        if memory.frozen or memory.undone:
            memory.begin_record()

    def _count(self, outcome: str) -> None:
        self.memory.outcomes[outcome] = self.memory.outcomes.get(outcome, 0) + 1
