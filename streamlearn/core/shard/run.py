"""Records in a row: common events in one straight line, everything else by `Shard.begin`.

Most records of a stream are alike: a flat event whose features, time unit and label type are settled. For
such a record `Runner` does what `Shard.begin` does, in the same order, without the values between (an event,
facts, a captured prediction). Whatever is not plainly common goes to `Shard.begin` before anything of it has
changed the state, or to the later half of a step once the model was asked.

Invariants:
- Outputs, state and saved bytes are those of `Shard.begin` for the same records, bit for bit.
- A record is tested first and counted afterwards: until the model is asked, nothing of the state has changed
  that `Shard.begin` would change again.
- It stops after a record that leaves work, or after which the model's owner must look at the state.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

from streamlearn.core.events.clocks import KNOWN_FROM_MS
from streamlearn.core.events.common import common_reader
from streamlearn.core.events.event import (
    MAX_AHEAD_MS,
    MAX_OUTPUT_BYTES,
    MS_PER_UNIT,
    Event,
    event_time_ms,
)
from streamlearn.core.labels.record import LabelRecord
from streamlearn.core.model.learner import Prediction
from streamlearn.core.records import Output, Record, headers_bytes
from streamlearn.core.shard.encode import named
from streamlearn.core.shard.facts import published
from streamlearn.core.shard.joined import JoinedRow, count_records, is_odd
from streamlearn.core.shard.label_rules import declared_type
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.state import PAUSED
from streamlearn.core.shard.trials import EXTREME
from streamlearn.core.shard.work import Ran, failure_at
from streamlearn.errors import ModelRaised, NeedSchema

_LABEL_TYPES: Final[dict[str, type]] = {"bool": bool, "int": int, "str": str}
_LABELS_REMEMBERED: Final = 1_000
_ROOM_BYTES: Final = 8_000
_ROOM_TEXTS_BYTES: Final = 80_000
"""A prediction takes no more than its record's value and this, with at most `MOST_CLASSES` classes. The
second is for names that are texts.
"""

_AT_ONCE: Final = 64
_TRIED: Final = 16
_CYCLE: Final = 64
"""After `_TRIED` records in a row that were not common, only so many of each `_CYCLE` are tried."""


class _Settled(NamedTuple):
    """The rules that common records meet. Only a record that is not common changes them.

    Attributes:
        scale: The factor that makes milliseconds of times that are numbers; None where none is settled.
        as_text: True if times are texts.
        label_types: The Python types of labels.
        remembers: True if a label must be one that was accepted before.
        low, high: Where it need not, the bounds of labels.
    """

    scale: float | None
    as_text: bool
    label_types: frozenset[type]
    remembers: bool
    low: float
    high: float


class Runner:
    """Steps records of one shard in a row.

    Args:
        shard: The shard. One runner belongs to it for as long as it lives.

    Example:
        >>> from river.linear_model import LogisticRegression
        >>> from streamlearn.core.model.learner import Learner
        >>> from streamlearn.core.shard.state import Memory, ShardSpec
        >>> shard = Shard(ShardSpec("logistic", "v1", 1), Learner(LogisticRegression()), Memory())
        >>> record = Record("events", 0, 0, 0, None, b'{"features": {"x": 1.0}}')
        >>> outputs = []
        >>> Runner(shard).run([record], 0, 1, outputs), len(outputs)
        (Ran(next=1, failure=None), 1)
    """

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        event_spec, learner = shard.spec.event, shard.learner
        has_own_way = learner.judges_labels or learner.task == "forecasting"
        is_open = shard.guard is None or event_spec.time_as != "" or has_own_way
        self._read = None if is_open else common_reader(event_spec)
        self._declared = declared_type(shard.spec)
        limit_bytes = shard.spec.prediction_bytes
        self._limit_bytes = MAX_OUTPUT_BYTES if limit_bytes is None else min(limit_bytes, MAX_OUTPUT_BYTES)
        self._labels: set[Any] = set()
        """Labels that `LabelRules.accepted` has let pass unchanged while labels were of `_labels_type`."""
        self._labels_type = ""
        self._misses = 0
        """Records in a row that were not common; after many of them some are not tried."""
        self._size = 1
        """How many records are read before the first of them is stepped."""

    def run(self, records: Sequence[Record], first: int, last: int, outputs: list[Output]) -> Ran:
        """Step the records from index `first` up to `last`, and append what they publish to `outputs`.

        It ends early after a record that left work, at which predicting failed, or at which learning was
        frozen; and before one that cannot be stepped.
        """
        shard, memory, tries = self._shard, self._shard.memory, self._read is not None
        assert shard.work is None, "the record before is not finished"
        index = first
        while index < last:
            if tries and self._misses % _CYCLE < _TRIED and not memory.undone and memory.frozen != PAUSED:
                end = min(last, index + self._size)
                before, (index, failure) = index, self._step_common(records, index, end, outputs)
                if failure is not None or (index > before and self._needs_a_look()):
                    return Ran(index, failure)
                self._size = (
                    min(2 * self._size, _AT_ONCE) if index == end or 2 * (index - before) >= self._size else 1
                )
                if index > before:
                    self._misses = 0
                    continue
            self._misses += 1
            try:
                outputs += published(shard.begin(records[index], 1))
            except (ModelRaised, NeedSchema) as raised:
                return Ran(index, failure_at(records[index], raised))
            index += 1
            if self._needs_a_look():
                break
        return Ran(index)

    def _needs_a_look(self) -> bool:
        """True if the last record left work, failed, or froze learning."""
        memory = self._shard.memory
        frozen_now = memory.frozen != "" and memory.frozen_at == memory.records
        return self._shard.work is not None or memory.failing > 0 or frozen_now

    def _settled(self) -> _Settled:
        """The rules as they are now. Only a record that is not common can change them."""
        memory, spec, learner = self._shard.memory, self._shard.spec, self._shard.learner
        unit = spec.event.time_unit
        if unit == "auto":
            unit = "" if memory.time_votes else memory.time_unit
        if memory.time_unit != unit:
            unit = ""
        scale, as_text = MS_PER_UNIT.get(unit), unit == "rfc3339"
        if learner.learns_unlabelled:
            label_types = frozenset((bool, int) if learner.task == "anomaly" else ())
            return _Settled(scale, as_text, label_types, False, 0.0, 1.0)
        label_type = "" if memory.label_votes else memory.label_type
        if label_type == "number" and not self._declared:
            return _Settled(scale, as_text, frozenset((float, int)), False, -EXTREME, EXTREME)
        if self._labels_type != label_type:
            self._labels_type = label_type
            self._labels.clear()
        label_types = frozenset(filter(None, (_LABEL_TYPES.get(label_type),)))
        remembers = label_type != "bool" or self._declared not in ("", "bool")
        return _Settled(scale, as_text, label_types, remembers, 0.0, 1.0)

    def _is_accepted(self, y: Any) -> bool:
        """True if a label of the settled type is learned as it is. Nothing changes by asking."""
        accepted = self._shard.label_rules.accepted(y, strict=False)
        if type(accepted) is not type(y) or accepted != y:
            return False
        # A class whose label found no event has no room for certain.
        if self._shard.joiner is None and len(self._labels) < _LABELS_REMEMBERED:
            self._labels.add(y)
        return True

    # --- common records: read, then step, then encode, then score ---------------------------------------
    # Each loop is short and repeats, so code and data stay in the processor's caches: one loop over all of it
    # takes a third longer.

    def _step_common(self, records: Sequence[Record], first: int, last: int, outputs: list[Output]) -> Ran:
        """Step records as long as they are common."""
        shard, memory, scores = self._shard, self._shard.memory, self._shard.scores
        predicted = memory.outcomes.get("prediction", 0)
        if scores is not None:
            last = min(last, first + scores.spec.every - predicted % scores.spec.every)
        items = self._read_common(records, first, last)
        if shard.joiner is not None:
            return JoinedRow(shard, shard.joiner, records, first).step(items, outputs)
        events = cast(list[Event], items)  # labels of their own have a joiner
        learned = memory.learned
        answers: list[Prediction] = []
        odd, raised = None, None
        try:
            odd = self._ask_and_teach(events, answers)
        except ModelRaised as error:
            raised = error
        index = first + len(answers)
        failure = None if raised is None else failure_at(records[index], raised)
        if answers:
            count_records(memory, records, first, index)
            self._publish(records, first, events, answers, learned, outputs)
            predicted = memory.outcomes["prediction"] = predicted + len(answers)
            if scores is not None and predicted % scores.spec.every == 0:
                outputs.append(shard.report(scores, records[index - 1]).output)
        if odd is None:
            return Ran(index, failure)
        count_records(memory, records, index, index + 1)
        try:
            outputs += published(shard.answered(events[len(answers)], records[index], odd, "", []))
        except ModelRaised as error:
            return Ran(index, failure_at(records[index], error))
        return Ran(index + 1)

    def _read_common(self, records: Sequence[Record], first: int, last: int) -> list[Event | LabelRecord]:
        """The events and labels of records that are common, up to the first that is not. Changes nothing."""
        shard, read = self._shard, self._read
        memory, others, recent = shard.memory, shard.others, shard.recent_ids
        assert read is not None and shard.guard is not None, "else nothing is common"
        knows = shard.guard.knows
        scale, as_text, label_types, remembers, low, high = self._settled()
        topic, partition, clock, now_ms, is_label = "", -1, None, 0.0, False
        items: list[Event | LabelRecord] = []
        names: set[str | int] = set()
        for record in records[first:last]:
            if record.partition != partition or record.topic != topic:
                topic, partition = record.topic, record.partition
                clock = memory.arrivals.get(topic, {}).get(partition)
                if clock is None or not clock.sure or clock.ahead or topic == shard.spec.control:
                    break
                now_ms, is_label = clock.now_ms, topic in others
            stamp_ms = record.timestamp_ms
            if not KNOWN_FROM_MS <= stamp_ms <= now_ms + MAX_AHEAD_MS:
                break
            now_ms = max(now_ms, stamp_ms)
            if is_label:
                label = self._label_in(record, now_ms + MAX_AHEAD_MS)
                if label is None or not self._is_learned(label.y, label_types, remembers, low, high):
                    break
                items.append(label)
                continue
            event = read(record)
            if event is None:
                break
            ts, y = event.ts, event.y
            if ts is None:
                time_ms: float | None = stamp_ms
            elif type(ts) is str:
                time_ms = event_time_ms(ts, "rfc3339") if as_text else None
            else:
                time_ms = None if scale is None else ts * scale  # type: ignore[operator] # no text
            if time_ms is None or time_ms > now_ms + MAX_AHEAD_MS:
                break
            event.time_ms = time_ms
            if y is not None and not self._is_learned(y, label_types, remembers, low, high):
                break
            if recent is not None:
                if event.id in recent or event.id in names:
                    break
                names.add(event.id)
            if not knows(event.x) or self._is_large(record):
                break
            items.append(event)
        return items

    def _label_in(self, record: Record, latest_ms: float) -> LabelRecord | None:
        """The label in a record of the labels topic; None where there is none that surely counts."""
        joiner = self._shard.joiner
        if joiner is None or record.value is None:
            return None
        label = self._shard.label_rules.read(joiner, record, latest_ms)
        return label if isinstance(label, LabelRecord) else None

    def _is_learned(
        self, y: Any, label_types: frozenset[type], remembers: bool, low: float, high: float
    ) -> bool:
        """True if a label is learned as it is, by the rules of `_settled`."""
        if type(y) not in label_types:
            return False
        if remembers:
            return y in self._labels or self._is_accepted(y)
        return bool(low <= y <= high)

    def _is_large(self, record: Record) -> bool:
        """True if a prediction might have no room in its topic: it must be refused before learning."""
        size = len(record.value or b"")
        if record.key:
            size += 8 * len(record.key)  # as JSON spells out bytes that are no text
        if record.headers:
            size += headers_bytes(record.headers)
        small = self._shard.learner.task != "classification" or self._shard.memory.label_type in (
            "bool",
            "int",
        )
        return size + (_ROOM_BYTES if small else _ROOM_TEXTS_BYTES) > self._limit_bytes

    def _ask_and_teach(self, events: list[Event], answers: list[Prediction]) -> Prediction | None:
        """Ask the model about each event, then teach it. Ends early before an event whose answer is odd: that
        answer. Raises `ModelRaised` at the event after those that have answers.
        """
        learner, memory = self._shard.learner, self._shard.memory
        is_learning = not memory.frozen
        predict, learn = learner.predict, learner.learn
        learns_events = self._shard.lessons.learns_at_event
        fused = learner.fused if is_learning else None
        answer_from = learner.answer_from
        learned = 0
        try:
            for event in events:
                x, y = event.x, event.y
                if fused is not None and y is not None and (number := fused.step(x, y)) is not None:
                    answers.append(answer_from(number))
                    learned += 1
                    continue
                try:
                    answer = predict(x, y)
                except MemoryError:
                    raise
                except Exception as error:  # the model is the user's code: whatever it raises is its failure
                    raise ModelRaised("predict") from error
                if is_odd(answer):
                    return answer
                if is_learning and (learns_events or y is not None):
                    try:
                        learn(x, y)
                    except MemoryError:
                        raise
                    except Exception as error:  # as above
                        raise ModelRaised("learn") from error
                    learned += 1
                answers.append(answer)
        finally:
            memory.learned += learned
        return None

    def _publish(
        self,
        records: Sequence[Record],
        first: int,
        events: list[Event],
        answers: list[Prediction],
        learned: int,
        outputs: list[Output],
    ) -> None:
        """Encode the answers, of which the first was given with `learned` labels, and score them."""
        shard, memory, scores, recent = (
            self._shard,
            self._shard.memory,
            self._shard.scores,
            self._shard.recent_ids,
        )
        labels_type = memory.label_type if shard.learner.task == "classification" else ""
        encode, learns_events = shard.encoder.output, shard.lessons.learns_at_event
        is_learning, is_renamed = not memory.frozen, labels_type in ("bool", "int")
        record = records[first]
        for event, record, answer in zip(
            events, records[first : first + len(answers)], answers, strict=False
        ):
            output = encode(event, record, named(answer, labels_type) if is_renamed else answer, learned)
            assert isinstance(output, Output), "what may have no room, or cannot be written, is not common"
            outputs.append(output)
            if is_learning and (learns_events or event.y is not None):
                learned += 1
        memory.failing = 0
        memory.probe = event
        if recent is not None:
            for event in events[: len(answers)]:
                recent.add(event.id)
        if scores is not None:
            scores.score(
                events[: len(answers)], answers, record.timestamp_ms if event.ts is None else event.ts
            )
