"""The rules of a label's type and value: what a model can learn, and what this stream's labels are.

Invariant: all labels that a model learns are of one type, `Memory.label_type`.
"""

from typing import Final

from streamlearn.core.events import Label, Refusal, beyond_limits
from streamlearn.core.learner import Learner
from streamlearn.core.scores import Scores
from streamlearn.core.state import Memory

_KINDS: Final[dict[type, str]] = {bool: "bool", int: "int", str: "str"}
_LABELS: Final = frozenset((bool, int, float, str))


def label_refusal(
    y: Label, learner: Learner, memory: Memory, scores: Scores | None, strict: bool
) -> Refusal | None:
    """Why a label cannot be learned. Fixes the label type by the first good one. `strict`: labels that a
    model without labels can only be scored by must be fit for that.
    """
    if type(y) not in _LABELS:
        return Refusal("label", "label_type")
    if learner.learns_unlabelled and learner.task == "anomaly":
        return Refusal("label", "label_value") if strict and y not in (0, 1) else None
    kind = "" if learner.learns_unlabelled else _kind(y, learner)
    if kind != (memory.label_type or kind) or not (kind or learner.learns_unlabelled):
        return Refusal("label", "label_type")
    if learner.binary and y not in (0, 1):
        return Refusal("label", "label_value")
    if reason := beyond_limits(y):
        return Refusal("label", reason)
    if scores is not None and not scores.knows_room_for(y):
        return Refusal("label", "too_many_classes")
    memory.label_type = kind
    return None


def _kind(y: Label, learner: Learner) -> str:
    """The label's type in the vocabulary of `Memory.label_type`; "" when the task has no such label."""
    if learner.task != "classification":
        return "number" if type(y) is float or type(y) is int else ""
    kind = _KINDS.get(type(y), "")
    return "" if learner.binary and kind == "str" else kind
