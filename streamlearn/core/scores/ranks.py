"""A bounded table of scores by label, for measures that depend on their ranks only.

Exact until there are more than `MAX_KEPT` different scores; then scores that agree in all but the last
bits become one, and bits go until there are half as many. What is kept depends on the scores alone.
"""

import struct
from typing import Final

import msgspec

from streamlearn.core.scores.metrics import rank_metrics

MAX_KEPT: Final = 4096

_FLOAT: Final = struct.Struct("<d")
_BITS: Final = struct.Struct("<q")


class Ranks(msgspec.Struct):
    """`shift`: the number of low bits of a score that are not looked at any more. `counts`: negative and
    positive labels by the other bits.
    """

    shift: int = 0
    counts: dict[int, list[int]] = {}

    def add(self, score: float, positive: bool) -> None:
        """Count one finite score."""
        (bits,) = _BITS.unpack(_FLOAT.pack(score + 0.0))  # + 0.0: there is one zero only
        key = (bits if bits >= 0 else -1 - (bits & 0x7FFF_FFFF_FFFF_FFFF)) >> self.shift
        count = self.counts.get(key)
        if count is None:
            count = self.counts[key] = [0, 0]
            count[positive] += 1
            if len(self.counts) > MAX_KEPT:
                self._merge()
        else:
            count[positive] += 1

    def metrics(self) -> dict[str, float | None]:
        """`roc_auc_ranks` and `average_precision` of everything counted."""
        return rank_metrics([(neg, pos) for _, (neg, pos) in sorted(self.counts.items())])

    def _merge(self) -> None:
        while len(self.counts) > MAX_KEPT // 2:
            self.shift += 1
            merged: dict[int, list[int]] = {}
            for key, (neg, pos) in self.counts.items():
                into = merged.setdefault(key >> 1, [0, 0])
                into[0] += neg
                into[1] += pos
            self.counts = merged
