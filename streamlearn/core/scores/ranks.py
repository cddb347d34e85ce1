"""A bounded table of scores by label, for measures that depend on their ranks only.

Exact until there are more than `MAX_KEPT` different scores; then scores that agree in all but the last
bits become one, and bits go until there are half as many. What is kept depends on the scores alone.
"""

import struct
from collections.abc import Sequence
from typing import Final

from streamlearn.core.scores.metrics import rank_metrics

MAX_KEPT: Final = 4096

_FLOAT: Final = struct.Struct("<d")
_BITS: Final = struct.Struct("<q")


class Ranks:
    """`shift`: the number of low bits of a score that are not looked at any more."""

    def __init__(self, shift: int = 0, rows: Sequence[Sequence[int]] = ()) -> None:
        self.shift = shift
        self._counts: dict[int, list[int]] = {key: [neg, pos] for key, neg, pos in rows}

    def add(self, score: float, positive: bool) -> None:
        """Count one finite score."""
        (bits,) = _BITS.unpack(_FLOAT.pack(score + 0.0))  # + 0.0: there is one zero only
        key = (bits if bits >= 0 else -1 - (bits & 0x7FFF_FFFF_FFFF_FFFF)) >> self.shift
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = [0, 0]
            count[positive] += 1
            if len(self._counts) > MAX_KEPT:
                self._merge()
        else:
            count[positive] += 1

    def metrics(self) -> dict[str, float | None]:
        """`roc_auc_ranks` and `average_precision` of everything counted."""
        return rank_metrics([(neg, pos) for _, (neg, pos) in sorted(self._counts.items())])

    def rows(self) -> list[list[int]]:
        """Arguments of the constructor."""
        return [[key, *count] for key, count in sorted(self._counts.items())]

    def _merge(self) -> None:
        while len(self._counts) > MAX_KEPT // 2:
            self.shift += 1
            merged: dict[int, list[int]] = {}
            for key, (neg, pos) in self._counts.items():
                into = merged.setdefault(key >> 1, [0, 0])
                into[0] += neg
                into[1] += pos
            self._counts = merged
