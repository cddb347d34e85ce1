"""Learning on trial: a bad answer is not a bad state.

An answer is bad when a number in it is NaN, infinite or, but in a forecast, beyond 1e150
(`Prediction.finite`). The model may have seen too little (`MinMaxScaler` before its first event), the event
may be wild, or the state is broken. Only the last is beyond help, so asking again finds out which it is:
- What a bad answer was given to, and what holds a number beyond `EXTREME`, is learned on trial: the model is
  asked again afterwards. A good answer, and the learning is kept; a bad one, and it is undone, it alone.
- A state is broken when it has no good answer to the last event that had one (`Memory.probe`).

Invariants:
- A label is scored with what was captured when its event was predicted, before the model learns it.
- A model is asked once per event, but where an answer was bad, a number extreme or a call raised.
- All of this is a function of records and state: redo decides as live did, without a note in the journal.
"""

from collections.abc import Callable, Sequence
from math import hypot
from typing import Any, Final

import msgspec

from streamlearn.core.events.event import Event, Label, as_moment
from streamlearn.core.labels.joiner import LabelJoiner, ReleasedEvent
from streamlearn.core.labels.record import LabelRecord
from streamlearn.core.model.learner import Learner, Prediction
from streamlearn.core.records import Record
from streamlearn.core.scores.scores import Scores
from streamlearn.core.shard.facts import Expired, Facts, Labelled, Learned
from streamlearn.core.shard.state import Memory, ShardSpec
from streamlearn.errors import ModelRaised

NOT_FINITE: Final = "output_not_finite"

EXTREME: Final = 1e30
"""An event or label with a number further from zero is learned on trial. No 64-bit integer, count, clock or
physical quantity reaches it, and its fifth power still fits in `MAX_NUMBER`.
"""

WARM_UP: Final = 100
"""A model that never had a good answer may learn so many events before a bad one is held against it: some
need several before they can say anything.
"""


class Teacher:
    """Asks and teaches one model. `time_as`: the feature that is a moment, made from the event's time."""

    def __init__(self, learner: Learner, memory: Memory, time_as: str) -> None:
        self._learner = learner
        self._memory = memory
        self._time_as = time_as

    def ask(
        self, x: dict[str, Any], y: Label | None, *waiting: Sequence[dict[str, Any]] | None
    ) -> Prediction:
        """The model's answer, which may be bad; `waiting` as in `core.model.learner.Predict`. Raises
        `ModelRaised`.

        A model that raised at the record before, too, was undone to the very state that raises (it may count
        its calls): it is asked again in the state that the raise has left, once for each undo in a row.
        """
        memory = self._memory
        try:
            answer = self._learner.predict(x, y, *waiting) if waiting else self._learner.predict(x, y)
        except MemoryError:
            raise
        except Exception as error:  # the model is the user's code: whatever it raises is its failure
            if "predict" not in memory.undone:
                raise ModelRaised("predict") from error
            answer = self._tried_again(
                "predict", lambda: self._learner.predict(x, y, *waiting), memory.undone["predict"]
            )
        if memory.undone:
            memory.undone.pop("predict", None)
        return answer

    def learn(self, x: dict[str, Any], y: Label | None, on_trial: str = "") -> None:
        """Learn one event, unless learning stands still. `on_trial`: the stage of the dead letter should the
        model have no good answer afterwards, "" for no trial. One that raised at the record before, too,
        goes on in the state that the raise has left, on trial. Raises `ModelRaised`.
        """
        memory = self._memory
        if memory.frozen:
            return
        try:
            self._learner.learn(x, y)
        except MemoryError:
            raise
        except Exception as error:  # as above
            if not (times := memory.undone.get("learn", 0)):
                raise ModelRaised("learn") from error
            self._tried_again("learn", lambda: self._learner.learn(x, y), times)
            on_trial = on_trial or "learn"
        if on_trial or (type(y) is float and not -EXTREME <= y <= EXTREME):
            self._judge(x, y, on_trial or "learn")
        memory.learned += 1

    def is_broken(self) -> bool:
        """True if the model has no good answer to what it had one to. Raises `ModelRaised`."""
        probe = self._memory.probe
        if probe is None:
            return False
        x = dict(probe.x)
        if self._time_as in x:  # a state from bytes has it as a text
            x[self._time_as] = as_moment(probe.ts, probe.time_ms)
        return not self.ask(x, probe.y).finite

    def _judge(self, x: dict[str, Any], y: Label | None, stage: str) -> None:
        """End a trial. Raises `ModelRaised` when what was just learned must be undone."""
        memory = self._memory
        if self.ask(x, y).finite and not self.is_broken():
            return
        extreme = is_extreme(x) or (type(y) is float and not -EXTREME <= y <= EXTREME)
        if memory.probe is None and memory.learned < WARM_UP and not extreme:
            return
        raise ModelRaised(stage, NOT_FINITE)

    def _tried_again(self, stage: str, call: Callable[[], Any], times: int) -> Any:
        """Make a call that raised again, at most so many times. Raises `ModelRaised`."""
        try:
            return call()
        except MemoryError:
            raise
        except Exception as error:  # as above
            if times <= 1:
                raise ModelRaised(stage) from error
            return self._tried_again(stage, call, times - 1)


def is_extreme(x: dict[str, Any]) -> bool:
    """True if a feature is beyond `EXTREME`.

    >>> is_extreme({"a": -2e30, "b": "x"}), is_extreme({"a": 2**63, "b": True})
    (True, False)
    """
    try:
        if hypot(*x.values()) <= EXTREME:  # at least as large as the largest, in one pass in C
            return False
    except TypeError:  # a text or a moment is among them
        pass
    return any(type(value) is float and not -EXTREME <= value <= EXTREME for value in x.values())


def marked(captured: list[Any]) -> list[Any]:
    """The captured prediction of an event whose label is to be learned on trial; none is a list alone."""
    return [captured]


def unmarked(captured: list[Any] | None) -> tuple[list[Any] | None, bool]:
    """The captured prediction, and True if it was `marked`.

    >>> unmarked(marked([1, 2])), unmarked([1, 2])
    (([1, 2], True), ([1, 2], False))
    """
    if captured is not None and len(captured) == 1 and type(captured[0]) is list:
        return captured[0], True
    return captured, False


class Lessons:
    """Teaches one shard's model, and adds to `facts` what it did. All methods raise `ModelRaised`."""

    def __init__(
        self, spec: ShardSpec, learner: Learner, memory: Memory, teacher: Teacher, scores: Scores | None
    ) -> None:
        self._memory = memory
        self._teacher = teacher
        self._scores = scores
        self._scores_any = learner.task != "anomaly"
        self._scores_binary = not learner.judges_labels
        self._learns_unlabelled = learner.learns_unlabelled
        self.learns_at_event = learner.learns_unlabelled and (
            spec.labels is None or spec.labels.learn == "event"
        )
        """True if the model learns each event at its prediction, and no label."""

    def learn(self, x: dict[str, Any], learned: Learned, trial: str, facts: Facts) -> None:
        """Score and learn the label of the event with the features `x`; `trial` as in `Teacher.learn`. A
        label of a class for which there is no room is counted and dropped.
        """
        y, scores = learned.y, self._scores
        if scores is not None and not self._scores_any and self._scores_binary and y not in (0, 1):
            # A detector is scored by what is true or false, and learns no label.
            self._memory.count("label.unused")
            learned = msgspec.structs.replace(learned, captured=None)
        elif scores is not None and (self._scores_any or self._scores_binary):
            if not scores.can_track_class(y):  # there was room when the label came, but its event was late
                self._memory.count("label.too_many_classes")
                return
            if learned.captured is not None:
                scores.update(y, learned.captured)
        if not self.learns_at_event:
            self._teacher.learn(x, y, trial)
        facts.append(learned)

    def learn_waiting(
        self, record: Record, label: LabelRecord, events: list[ReleasedEvent], facts: Facts
    ) -> None:
        """Learn the label in `record` for events that waited for it."""
        label_place = record.place
        for x, waiting, place in events:
            captured, on_trial = unmarked(waiting)
            self.learn(
                x, Learned(record, place, label.y, captured, label_place), "learn" if on_trial else "", facts
            )

    def join(
        self,
        joiner: LabelJoiner,
        event: Event,
        record: Record,
        captured: list[Any],
        trial: str,
        facts: Facts,
    ) -> None:
        """Learn the label of an event that was answered, or let the event wait for its label. No output comes
        of that.
        """
        x = event.x
        y, label = joiner.find_label(event, record.timestamp_ms)
        label_place = None
        if label is not None:
            label_place = (joiner.spec.topic, label.partition, label.offset)
            outcome = "label.joined" if event.y is None else "label.duplicate"
            facts.append(Labelled(record, label_place, outcome))
        if y is not None:
            self.learn(x, Learned(record, record.place, y, captured, label_place), trial, facts)
            joiner.pending.labelled_at_once((record.topic, record.partition))
        if self.learns_at_event:
            self._teacher.learn(x, y, trial)
        if y is None:
            dropped = joiner.add(event, record, marked(captured) if trial else captured)
            if dropped is None:
                self.learn_unlabelled(x, trial)
            else:
                facts += [Expired(record, place, True) for place in dropped]

    def learn_unlabelled(self, x: dict[str, Any], trial: str) -> None:
        """Learn an event whose label will not come, where the model needs none."""
        if self._learns_unlabelled and not self.learns_at_event:
            self._teacher.learn(x, None, trial)

    def end(self, record: Record, default: Label | None, events: list[ReleasedEvent], facts: Facts) -> None:
        """Expire events whose label did not come in time; `record` moved the time past their deadline.

        The model learns each event with `default`, or the event is forgotten. A model that needs no label
        learns the event in either case.
        """
        try:
            for x, waiting, place in events:
                facts.append(Expired(record, place, False))
                captured, on_trial = unmarked(waiting)
                trial = "learn" if on_trial else ""
                if default is not None:
                    self.learn(x, Learned(record, place, default, captured, None), trial, facts)
                else:
                    self.learn_unlabelled(x, trial)
        except ModelRaised as raised:
            raise ModelRaised("expire", raised.reason) from raised.__cause__
