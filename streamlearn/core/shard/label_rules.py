"""The rules of a label's type and value: what a model can learn, and what this stream's labels are.

One label cannot tell the type of a stream's labels for certain, and a classifier keeps a class of another
type for ever. So the type of most of the first labels leads, of equally many the one that led before. A label
of another type is refused, and is evidence. What most are of is settled (`core.events.evidence`).

No model learns both texts and other labels: river's trees raise at such a mixture, at every event from then
on. When texts have led and others lead now, or the other way round, the model begins anew. That takes two
labels that agree, and waits while learning stands still.

Invariants:
- A declared type (`[event] types` of the label's path) decides alone, whatever was settled before.
- `Memory.label_type` is the type that leads, "" before the first label; `Memory.label_votes` is the evidence,
  {} once the type is settled, and where the task leaves no choice.
"""

from typing import Final

from streamlearn.core.events.clocks import KNOWN_TO_MS
from streamlearn.core.events.event import Label, Refusal, beyond_limits
from streamlearn.core.events.evidence import is_settled
from streamlearn.core.events.paths import MISSING
from streamlearn.core.events.values import CONVERSIONS
from streamlearn.core.labels.joiner import LabelJoiner
from streamlearn.core.labels.record import LabelRecord
from streamlearn.core.model.learner import Learner
from streamlearn.core.records import Record
from streamlearn.core.scores.scores import Scores
from streamlearn.core.shard.state import BROKEN, PAUSED, Memory, ShardSpec
from streamlearn.core.shard.time_units import settled_unit

_LABEL_TYPES: Final[dict[type, str]] = {bool: "bool", int: "int", str: "str"}
_LABELS: Final = frozenset((bool, int, float, str))
_EXACT: Final = 2.0**53
"""A float beyond that may stand for several integers."""


def declared_type(spec: ShardSpec) -> str:
    """The type of labels that the configuration declares, for classes; "" when it declares none."""
    declared = spec.event.types.get(spec.event.label, "") if spec.event.label else ""
    return declared if declared in _LABEL_TYPES.values() else ""


class LabelRules:
    """The rules for one shard: its model, the evidence in its memory, and the room in its scores."""

    def __init__(self, spec: ShardSpec, learner: Learner, memory: Memory, scores: Scores | None) -> None:
        self._event = spec.event
        self._declared = declared_type(spec)
        self._learner = learner
        self._memory = memory
        self._scores = scores

    def read(
        self, joiner: LabelJoiner, record: Record, latest_ms: float = KNOWN_TO_MS
    ) -> LabelRecord | Refusal:
        """The label in a record of the labels topic, or why there is none; nothing is applied. No time in it
        may be after `latest_ms`.
        """
        memory = self._memory
        label = joiner.read(record, settled_unit(self._event, memory), memory.time_unit, latest_ms)
        if isinstance(label, Refusal) or type(label.y) is bool:
            return label
        y = self.plain(label.y)
        if y is None:
            return Refusal("label", "label_type")
        label.y = y
        return label

    def accepted(self, y: Label, strict: bool) -> Label | Refusal:
        """A label as it is to be learned, or why it cannot be; either way it is evidence. `strict`: labels
        that a model without labels can only be scored by must be fit for that.
        """
        memory = self._memory
        is_bool = memory.label_type == "bool" and not memory.label_votes
        if type(y) is bool and is_bool and self._declared in ("", "bool"):
            return y  # as most are
        plain = self.plain(y)
        if plain is None:
            return Refusal("label", "label_type")
        note_label(plain, self._learner, self._memory, self._declared)
        return self.refusal(plain, strict) or plain

    def plain(self, y: Label) -> Label | None:
        """A label as the model is to learn it: for a classifier 1.0 is 1, and a declared type holds. None for
        one that is not of that type.
        """
        if self._learner.task != "classification" or type(y) not in _LABELS:
            return y
        if self._declared:
            converted: Label = CONVERSIONS[self._declared](y)
            return None if converted is MISSING else converted
        return int(y) if type(y) is float and -_EXACT <= y <= _EXACT and y.is_integer() else y

    def refusal(self, y: Label, strict: bool) -> Refusal | None:
        """The reason to refuse a label (as `plain` has it), or None; `strict` as in `accepted`."""
        learner, scores = self._learner, self._scores
        if type(y) not in _LABELS:
            return Refusal("label", "label_type")
        if learner.learns_unlabelled and learner.task == "anomaly":
            return Refusal("label", "label_value") if strict and y not in (0, 1) else None
        label_type = _label_type(y, learner)
        leads = self._declared or self._memory.label_type or label_type
        if not learner.learns_unlabelled and (not label_type or label_type != leads):
            return Refusal("label", "label_type")
        if learner.binary and y not in (0, 1):
            return Refusal("label", "label_value")
        if reason := beyond_limits(y):
            return Refusal("label", reason)
        if scores is not None and not scores.can_track_class(y):
            return Refusal("label", "too_many_classes")
        return None

    def default(self, y: Label | None) -> Label | None:
        """`[labels] default` as it is to be learned; None where it is not of the type that this stream's
        labels have.
        """
        plain = None if y is None else self.plain(y)
        return None if plain is None or self.refusal(plain, strict=True) is not None else plain


def note_label(y: Label, learner: Learner, memory: Memory, declared: str) -> None:
    """Take a label (as `LabelRules.plain` has it) for evidence of the type; before it is judged, so that the
    one with which another type leads is learned.
    """
    label_type = _label_type(y, learner)
    if not label_type or learner.learns_unlabelled or (learner.binary and y not in (0, 1)):
        return
    votes = memory.label_votes
    if declared or learner.task != "classification":
        _lead(declared or label_type, learner, memory)
        memory.label_votes = {}
    elif votes or not memory.label_type:
        votes[label_type] = votes.get(label_type, 0) + 1
        if _overtakes(label_type, memory):
            _lead(label_type, learner, memory)
        if is_settled(votes, memory.label_type):
            memory.label_votes = {}


def _overtakes(label_type: str, memory: Memory) -> bool:
    """True if labels of this type lead now: by two votes, and never while the model is kept, where texts and
    others change places.
    """
    votes, leads = memory.label_votes, memory.label_type
    changes = bool(leads) and _is_text(label_type) != _is_text(leads)
    return votes[label_type] > max(votes.get(leads, 0), changes) and not (changes and _is_still(memory))


def _lead(label_type: str, learner: Learner, memory: Memory) -> None:
    """Labels of this type are to be learned from now on."""
    before, memory.label_type = memory.label_type, label_type
    if learner.task != "classification" or learner.binary or before == label_type:
        return
    if not before:
        learner.keep_untaught()
    elif _is_text(before) != _is_text(label_type) and not _is_still(memory) and learner.begin_anew():
        memory.begin_anew()


def _is_still(memory: Memory) -> bool:
    """True if somebody wants the model as it is."""
    return memory.frozen not in ("", PAUSED, BROKEN)


def _is_text(label_type: str) -> bool:
    return label_type == "str"


def _label_type(y: Label, learner: Learner) -> str:
    """The label's type in the vocabulary of `Memory.label_type`; "" when the task has no such label."""
    if learner.task != "classification":
        return "number" if type(y) is float or type(y) is int else ""
    label_type = _LABEL_TYPES.get(type(y), "")
    return "" if learner.binary and label_type == "str" else label_type
