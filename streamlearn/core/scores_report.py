"""The content of a scores message, but for its time and its model.

Invariant: whatever changes what the numbers mean stands beside them, and nothing else does.
"""

from typing import Any, Final

from streamlearn.core.labels import Late
from streamlearn.core.scores import Scores
from streamlearn.core.state import Memory

_LOST: Final = ("dlq.label.", "label.unused", "label.too_many_classes")


def scores_report(memory: Memory, scores: Scores, late: Late | None) -> dict[str, Any]:
    """`Scores.report`, and as members `join` (labels on a topic of their own), `labels_lost` (of labels that
    were refused or of no use: counts by outcome) and `frozen` and `frozen_at` (why learning stands
    still, and since which record), where there is any.
    """
    report = scores.report()
    if late is not None:
        report["join"] = late.report()
    lost = {outcome: count for outcome, count in memory.outcomes.items() if outcome.startswith(_LOST)}
    if lost:
        report["labels_lost"] = lost
    if memory.frozen:
        report |= {"frozen": memory.frozen, "frozen_at": memory.frozen_at}
    return report
