"""Common events of a stream whose labels come later, and the labels themselves, stepped in a row.

As `core.shard.run`, with fewer loops: events that wait, and labels that find them, go to the joiner in the
order of the records; then the answers are encoded. The shard does whatever ends a row: events past their
deadline, an odd answer, a label about several events, news of the joiner, a report.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from streamlearn.core.events.event import Event
from streamlearn.core.labels.joiner import LabelJoiner
from streamlearn.core.labels.record import LabelRecord
from streamlearn.core.model.learner import Prediction
from streamlearn.core.records import Output, Record
from streamlearn.core.shard.encode import named
from streamlearn.core.shard.facts import Facts, published
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.state import Memory
from streamlearn.core.shard.work import LabelWork, Ran, failure_at
from streamlearn.errors import ModelRaised

_PLAIN: Final = frozenset((bool, float, int, str, type(None)))
_NUMBERS: Final = frozenset((float, int, np.float64, np.float32))
MOST_CLASSES: Final = 64


def is_odd(answer: Prediction) -> bool:
    """True if an answer is not finite, or not surely written in few bytes."""
    if not answer.finite or type(answer.prediction) not in _PLAIN:
        return True
    detail = answer.detail
    if detail is None or type(detail) is float:
        return False
    if type(detail) is not dict or len(detail) > MOST_CLASSES:
        return True
    return not _NUMBERS.issuperset(map(type, detail.values()))


def count_records(memory: Memory, records: Sequence[Record], first: int, last: int) -> None:
    """Count records that were stepped, and when they arrived."""
    memory.records += last - first
    topic, partition, clock = "", -1, None
    for record in records[first:last]:
        if record.partition != partition or record.topic != topic or clock is None:
            topic, partition = record.topic, record.partition
            clock = memory.arrivals[topic][partition]
        if record.timestamp_ms > clock.now_ms:
            clock.now_ms = float(record.timestamp_ms)


class JoinedRow:
    """One row of common records of a shard with a joiner.

    Args:
        shard: The shard.
        joiner: Its joiner.
        records: Records, of which those from index `first` on are common.
        first: The index of the first of them.
    """

    def __init__(self, shard: Shard, joiner: LabelJoiner, records: Sequence[Record], first: int) -> None:
        self._shard = shard
        self._joiner = joiner
        self._records = records
        self._first = self._next = first
        self._answered: list[tuple[Event, Record, Prediction, int]] = []
        self._rest: Facts = []
        """The facts of the record that ended the row, from there on where the shard has taken over."""

    def step(self, items: Sequence[Event | LabelRecord], outputs: list[Output]) -> Ran:
        """Step the records' events and labels, up to one that ends the row."""
        failure = None
        try:
            for item in items:
                record = self._records[self._next]
                goes_on = (
                    self._label(item, record) if type(item) is LabelRecord else self._event(item, record)
                )
                self._next += 1
                if not goes_on:
                    break
        except ModelRaised as raised:
            failure = failure_at(self._records[self._next], raised)
        self._count(self._next)
        self._encode(outputs)
        if failure is None:
            outputs += published(self._rest)
        return Ran(self._next, failure)

    def _label(self, label: Any, record: Record) -> bool:
        """Learn a label. False when that ends the row."""
        shard, joiner = self._shard, self._joiner
        outcome, events, goes_on = joiner.join(label, record.timestamp_ms, 1)
        shard.lessons.learn_waiting(record, label, events, [])
        if goes_on:
            shard.leave(LabelWork(record, label, joiner.spec.join, len(events)))
            return False
        if joiner.has_news or (shard.scores is not None and shard.scores.is_due()):
            self._count(self._next + 1)
            shard.end_label(record, outcome, self._rest)
            return False
        shard.memory.count(outcome)
        return True

    def _event(self, event: Any, record: Record) -> bool:
        """Answer an event, and let it wait for its label or learn the one that is there. False when that ends
        the row.
        """
        shard, memory, scores = self._shard, self._shard.memory, self._shard.scores
        if self._joiner.advance((record.topic, record.partition), event.time_ms):
            self._count(self._next + 1)
            self._rest = shard.end_due(event, record, 1)
            return False
        answer = shard.teacher.ask(event.x, event.y)
        if is_odd(answer):
            self._count(self._next + 1)
            self._rest = shard.answered(event, record, answer, "", [])
            return False
        memory.probe = event
        memory.failing = 0
        self._answered.append((event, record, answer, memory.learned))
        ts = record.timestamp_ms if event.ts is None else event.ts
        captured = [] if scores is None else scores.capture(answer, event.x, ts)
        shard.lessons.join(self._joiner, event, record, captured, "", [])
        if shard.recent_ids is not None:
            shard.recent_ids.add(event.id)
        count = memory.outcomes["prediction"] = memory.outcomes.get("prediction", 0) + 1
        if scores is not None and count % scores.spec.every == 0:
            self._count(self._next + 1)
            self._rest = [shard.report(scores, record)]
            return False
        return True

    def _count(self, last: int) -> None:
        """Count the records of the row before index `last`, each once."""
        if last > self._first:
            count_records(self._shard.memory, self._records, self._first, last)
            self._first = last

    def _encode(self, outputs: list[Output]) -> None:
        shard = self._shard
        labels_type = shard.memory.label_type if shard.learner.task == "classification" else ""
        for event, record, answer, learned in self._answered:
            output = shard.encoder.output(event, record, named(answer, labels_type), learned)
            assert isinstance(output, Output), "what may have no room, or cannot be written, is not common"
            outputs.append(output)
