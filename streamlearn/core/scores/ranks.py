"""A bounded table of scores by label, for measures that depend on their ranks only.

Exact until there are more than `MAX_KEPT` different scores; then scores that agree in all but the last
bits become one, and bits go until there are half as many. What is kept depends on the scores alone.
"""

from itertools import chain
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamlearn.core.scores.metrics import Floats, rank_metrics

MAX_KEPT: Final = 4096


class Ranks(msgspec.Struct):
    """`shift`: the number of low bits of a score that are not looked at any more. `counts`: negative and
    positive labels by the other bits.
    """

    shift: int = 0
    counts: dict[int, list[int]] = {}

    def add(self, scores: Floats, positive: NDArray[np.bool_]) -> None:
        """Count finite scores, in the order of their labels."""
        bits = (scores + 0.0).view(np.int64)  # + 0.0: there is one zero only
        keys = np.where(bits >= 0, bits, -1 - (bits & 0x7FFF_FFFF_FFFF_FFFF))
        shifted, first, places = np.unique(keys >> self.shift, return_index=True, return_inverse=True)
        if len(self.counts.keys() | shifted.tolist()) <= MAX_KEPT:
            pos = np.bincount(places, positive, len(shifted)).astype(np.int64)
            neg = np.bincount(places, minlength=len(shifted)) - pos
            order = np.argsort(first)  # that of their labels, however they are added
            both = np.stack((neg, pos), 1)[order].tolist()
            names = shifted[order].tolist()
            if not self.counts:
                self.counts = dict(zip(names, both, strict=True))
                return
            for key, (n, m) in zip(names, both, strict=True):
                self._count(key, n, m)
            return
        for key, label in zip(keys.tolist(), positive.tolist(), strict=True):
            self._count(key >> self.shift, 1 - label, int(label))
            if len(self.counts) > MAX_KEPT:
                self._merge()

    def _count(self, key: int, neg: int, pos: int) -> None:
        count = self.counts.get(key)
        if count is None:
            self.counts[key] = [neg, pos]
        else:
            count[0] += neg
            count[1] += pos

    def metrics(self) -> dict[str, float | None]:
        """`roc_auc_ranks` and `average_precision` of everything counted."""
        n = len(self.counts)
        groups = np.fromiter(chain.from_iterable(self.counts.values()), np.int64, 2 * n).reshape(n, 2)
        return rank_metrics(groups[np.argsort(np.fromiter(self.counts, np.int64, n))])

    def _merge(self) -> None:
        while len(self.counts) > MAX_KEPT // 2:
            self.shift += 1
            merged: dict[int, list[int]] = {}
            for key, (neg, pos) in self.counts.items():
                into = merged.setdefault(key >> 1, [0, 0])
                into[0] += neg
                into[1] += pos
            self.counts = merged
