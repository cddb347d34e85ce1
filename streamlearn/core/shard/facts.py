"""Facts: values that say what happened at a record. `Shard.step` gives them.

Invariants:
- Every record that is stepped to its end has exactly one outcome among its facts: `Predicted`, `Refused`,
  `Skipped`, `Commanded`, or a `Labelled` of its own place. The others say what else that brought about.
- Facts stand in the order in which things happened, and `published` gives the outputs among them, in order.
- Facts follow from records and state alone, so a record that is redone has the same ones again. A listener
  that acts on facts waits until their journal entry is known committed, and takes none from redo.
- A fact refers to what the shard held at that moment and copies nothing; nobody changes what is in it.
  A listener that keeps facts keeps their records too.

Each is a struct outside the garbage collector: it takes 65 ns to make, a NamedTuple 310. So all of them are
made, whether anybody listens or not.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import msgspec

from streamlearn.core.events.event import Event, Label
from streamlearn.core.model.learner import Prediction
from streamlearn.core.records import Output, Record, RecordPlace


class Predicted(msgspec.Struct, gc=False):
    """An event was answered.

    Attributes:
        record: The event's record.
        event: The event; `event.x` holds the features that the model was asked about.
        answer: The answer as it is published.
        reason: The reason for which the answer is withheld, "" when it is not.
        learned: The number of labels that the model had learned by then.
        output: The prediction to publish.
    """

    record: Record
    event: Event
    answer: Prediction
    reason: str
    learned: int
    output: Output


class Refused(msgspec.Struct, gc=False):
    """A record, or the model's answer to it, cannot be used: a dead letter.

    Attributes:
        record: The record that was refused.
        stage: The stage that refused it: `decode`, `guard`, `label`, `control`, `predict`, `learn`, ...
        reason: A reason of `core.events.event.REASONS`.
        feature: The path or feature that the reason is about, "" for the record as a whole.
        output: The dead letter to publish: the record's bytes, the reason in headers.
    """

    record: Record
    stage: str
    reason: str
    feature: str
    output: Output


class Skipped(msgspec.Struct, gc=False):
    """A record is no event, by a rule of the configuration; it has no output and is counted.

    Attributes:
        record: The record.
        reason: `tombstone`, `where`, `duplicate`, `header`, `delete`, `truncate` or `message`.
    """

    output: ClassVar[None] = None
    record: Record
    reason: str


class Commanded(msgspec.Struct, gc=False):
    """A command of the control topic was applied.

    Attributes:
        record: The command's record.
        name: `freeze`, `thaw`, `guard-reset`, `reset-time` or `reset-label`.
    """

    output: ClassVar[None] = None
    record: Record
    name: str


class Labelled(msgspec.Struct, gc=False):
    """The outcome of a label on the labels topic.

    Attributes:
        record: The record at which the outcome was known. An early label turns out to be a duplicate only at
            the record of its event.
        place: The place of the label's own record.
        outcome: `label.joined`, `label.early`, `label.joiner` or `label.duplicate`.
    """

    output: ClassVar[None] = None
    record: Record
    place: RecordPlace
    outcome: str


class Learned(msgspec.Struct, gc=False):
    """A label came to an event: the answer was scored, then the label learned, unless learning stands still.

    Attributes:
        record: The record at which that happened: the event's own, its label's, or the record whose time
            ended the waiting.
        place: The place of the event's record.
        y: The label.
        captured: The captured prediction, for `Scores.answers`; None where the label is not scored.
        label: The place of the label's record; None for a label inside its event, and for `[labels] default`.
    """

    output: ClassVar[None] = None
    record: Record
    place: RecordPlace
    y: Label
    captured: list[Any] | None
    label: RecordPlace | None


class Expired(msgspec.Struct, gc=False):
    """An event waits no longer for its label.

    Attributes:
        record: The record at which the waiting ended.
        place: The place of the event's record.
        dropped: True when too many events wait, or the model raised at the label; False when time is up.
    """

    output: ClassVar[None] = None
    record: Record
    place: RecordPlace
    dropped: bool


class Frozen(msgspec.Struct, gc=False):
    """Learning stands still from now on.

    Attributes:
        record: The record at which it stopped.
        why: `paused`, `broken`, `command` or `static`, as in `Memory.frozen`.
    """

    output: ClassVar[None] = None
    record: Record
    why: str


class Reported(msgspec.Struct, gc=False):
    """The scores are published.

    Attributes:
        record: The record that made them due.
        report: The message as plain values, see docs/scores.md.
        output: The message to publish.
    """

    record: Record
    report: dict[str, Any]
    output: Output


class Alerted(msgspec.Struct, gc=False):
    """The share of labels that find no event has crossed its limit, `[labels] orphans_max_share`.

    Attributes:
        record: The label's record that crossed it.
        alert: The message as plain values.
        output: The message to publish.
    """

    record: Record
    alert: dict[str, Any]
    output: Output


Fact = Predicted | Refused | Skipped | Commanded | Labelled | Learned | Expired | Frozen | Reported | Alerted
Facts = list[Fact]


def published(facts: Iterable[Fact]) -> tuple[Output, ...]:
    """The outputs among facts, in their order.

    Args:
        facts: Facts of one record, or of several records in their order.

    Returns:
        The outputs, ready for `Writer.publish`.

    Example:
        >>> record = Record("events", 0, 7, 0, None, None)
        >>> letter = Refused(record, "decode", "not_json", "", Output("dlq", 0, None, None))
        >>> [output.role for output in published([Skipped(record, "tombstone"), letter])]
        ['dlq']
    """
    return tuple([fact.output for fact in facts if fact.output is not None])
