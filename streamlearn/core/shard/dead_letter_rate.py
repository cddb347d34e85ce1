"""Too many dead letters: a stream that no longer fits must stop the service, not be drained into the dlq.

Invariants:
- The state keeps the newest dead letters alone, at most `WINDOW` of them; a good record costs nothing.
- Counted from `since` on, which is where the process began: so a restart is never stopped by what an earlier
  one saw, and takes at most one window more before it stops again.
"""

from typing import Final

from streamlearn.core.events.event import REASONS, Refusal

WINDOW: Final = 1_000
FEW: Final = 100
"""Fewer dead letters than this stop no service, whatever their share: one burst must not."""

_FEATURE_CHARS: Final = 64

Letter = tuple[int, str, str, str]
"""The number of the record that was refused (see `Memory.records`), then stage, reason and feature."""


def note_dead_letter(letters: list[Letter], records: int, refusal: Refusal) -> None:
    """Add the dead letter of record number `records` to the newest ones."""
    letters.append((records, refusal.stage, refusal.reason, refusal.feature[:_FEATURE_CHARS]))
    if len(letters) > WINDOW:
        del letters[0]


def stop_message(letters: list[Letter], records: int, since: int, max_share: float) -> str:
    """The message of a stop when over `max_share` of the last records are dead letters, else ""."""
    if len(letters) < FEW:
        return ""
    first = max(since, records - WINDOW)
    newest = [letter for letter in letters if letter[0] > first]
    if len(newest) < FEW or len(newest) <= max_share * (records - first):
        return ""
    counts: dict[tuple[str, str, str], int] = {}
    for _, *why in newest:
        counts[why[0], why[1], why[2]] = counts.get((why[0], why[1], why[2]), 0) + 1
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:3]
    lines = [
        f"\n  {count} x {stage}.{reason}{f' (feature {feature!r})' if feature else ''}: {REASONS[reason]}"
        for (stage, reason, feature), count in common
    ]
    share = f"{len(newest)} of the last {records - first} records"
    return f"{share} became dead letters, most of them:{''.join(lines)}"
