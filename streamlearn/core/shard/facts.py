"""Facts: values that say what happened at a record. `Shard.step` gives them.

Invariants:
- Every record that is stepped to its end has exactly one outcome among its facts: `Predicted`, `Refused`,
  `Skipped`, `Commanded`, or a `Labelled` of its own place. The others say what else that brought about.
- Facts stand in the order in which things happened, and `published` gives the outputs among them, in order.
- Facts follow from records and state alone, so a record that is redone has the same ones again. Whoever acts
  on facts waits until their journal entry is known committed, and takes none from redo.
- A fact refers to what the shard held at that moment and copies nothing; nobody changes what is in it.
  Whoever keeps facts keeps their records too.

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
    """An event was answered. `event.x`: the features that the model was asked about; `answer`: as it is
    published; `reason`: why it is withheld, "" when it is not; `learned`: what the model had learned by then.
    """

    record: Record
    event: Event
    answer: Prediction
    reason: str
    learned: int
    output: Output


class Refused(msgspec.Struct, gc=False):
    """A record, or what the model answered to it, cannot be used: a dead letter."""

    record: Record
    stage: str
    reason: str
    feature: str
    output: Output


class Skipped(msgspec.Struct, gc=False):
    """A record is no event, by a rule of the configuration: `reason`."""

    output: ClassVar[None] = None
    record: Record
    reason: str


class Commanded(msgspec.Struct, gc=False):
    """A command was applied."""

    output: ClassVar[None] = None
    record: Record
    name: str


class Labelled(msgspec.Struct, gc=False):
    """The outcome of a label: `label.joined`, `label.early`, `label.joiner`, `label.duplicate`. `place`: its
    record's; an early one turns out to be a duplicate at the record of its event.
    """

    output: ClassVar[None] = None
    record: Record
    place: RecordPlace
    outcome: str


class Learned(msgspec.Struct, gc=False):
    """A label came to an event: the answer was scored, then the label learned, unless learning stands still.

    `record`: where that happened, the event's own, its label's, or the one whose time ended the waiting.
    `place`: the event's. `label`: the place of the label's record; None for one
    inside its event, and for `[labels] default`. `captured`: what the scores had captured of the answers when
    they were given, for `Scores.answers`; None where the label is not scored.
    """

    output: ClassVar[None] = None
    record: Record
    place: RecordPlace
    y: Label
    captured: list[Any] | None
    label: RecordPlace | None


class Expired(msgspec.Struct, gc=False):
    """An event waits no longer for its label. `dropped`: because too many wait, or the model
    raised at its label; not because time is up.
    """

    output: ClassVar[None] = None
    record: Record
    place: RecordPlace
    dropped: bool


class Frozen(msgspec.Struct, gc=False):
    """Learning stands still from now on; `why` as in `Memory.frozen`."""

    output: ClassVar[None] = None
    record: Record
    why: str


class Reported(msgspec.Struct, gc=False):
    """The scores are published: `scores_report`."""

    record: Record
    report: dict[str, Any]
    output: Output


class Alerted(msgspec.Struct, gc=False):
    """The share of labels that find no event has crossed its limit: `Orphans.alert`."""

    record: Record
    alert: dict[str, Any]
    output: Output


Fact = Predicted | Refused | Skipped | Commanded | Labelled | Learned | Expired | Frozen | Reported | Alerted
Facts = list[Fact]


def published(facts: Iterable[Fact]) -> tuple[Output, ...]:
    """The outputs among facts, in their order."""
    return tuple([fact.output for fact in facts if fact.output is not None])
