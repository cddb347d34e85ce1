"""Scores of clusterings where labels come: how well clusters and labels agree, whatever their names.

Beside the model stand the label before (no-change) and the commonest label (prior), taken as clusters.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from streamlearn.core.model.learner import Prediction
from streamlearn.core.scores.classes import MAX_CLASSES
from streamlearn.core.scores.metrics import cluster_metrics

MAX_CELLS: Final = 20_000
"""The most pairs of label and cluster that are counted; further pairs are reported as `uncounted`."""

FORECASTERS: Final = ("model", "no_change", "prior")
Cells = dict[tuple[int, Any], int]


class ClusterScores(msgspec.Struct, tag=True):
    """Captured: `[cluster, last label, commonest label]`, labels by their index, the order in which they
    came first, and -1 for none.
    """

    size: int
    labels: int = 0
    indices: dict[Any, int] = {}
    counts: list[int] = []
    """Labels by index."""
    best: int = -1
    last: int = -1
    cells: list[Cells] = msgspec.field(default_factory=lambda: [{} for _ in FORECASTERS])
    uncounted: int = 0
    window: list[list[Any]] = []
    """Per label of the last `size`: its index, and what was captured."""

    def can_track_class(self, y: Any) -> bool:
        """True when a label of this class can be counted."""
        return y in self.indices or len(self.indices) < MAX_CLASSES

    def capture(self, answer: Prediction) -> list[Any]:
        """Capture all of the answers that scoring will need."""
        cluster = answer.prediction
        return [None if cluster is None else int(cluster), self.last, self.best]

    def update(self, y: Any, captured: list[Any]) -> None:
        """Count the pair; the baselines learn `y`, for which there must be room."""
        index = self.indices.get(y)
        if index is None:
            index = self.indices[y] = len(self.counts)
            assert index < MAX_CLASSES, "labels are checked by can_track_class"
            self.counts.append(0)
        self.uncounted += _count(self.cells, index, captured, MAX_CELLS)
        self.window.append([index, *captured])
        del self.window[: -self.size]
        counts = self.counts
        counts[index] += 1
        if self.best < 0 or (counts[index], -index) > (counts[self.best], -self.best):
            self.best = index
        self.last = index
        self.labels += 1

    def score(self, ys: Sequence[Any], answers: Sequence[Prediction]) -> None:
        """As `update(y, capture(answer))` for each label and answer; a label of None is none."""
        for y, answer in zip(ys, answers, strict=True):
            if y is not None:
                self.update(y, self.capture(answer))

    def answers(self, captured: list[Any]) -> tuple[Any, ...]:
        """A cluster is no label."""
        return ()

    def flush(self) -> None:
        """Do nothing: pairs are counted at once."""

    def resize(self, window: int) -> None:
        """Hold at most the newest `window` labels for the report's `window`."""
        self.size = window
        del self.window[:-window]

    def report(self) -> dict[str, dict[str, Any]]:
        """`all` and `window`."""
        recent: list[Cells] = [{} for _ in FORECASTERS]
        for index, *captured in self.window:
            _count(recent, index, captured, MAX_CELLS)
        return {
            "all": {**_named(self.cells), "uncounted": self.uncounted},
            "window": {"labels": len(self.window), **_named(recent)},
        }


def _count(tables: list[Cells], index: int, captured: list[Any], limit: int) -> int:
    """Count a label with each forecaster's cluster; return the number of pairs that found no room."""
    missed = 0
    for cells, cluster in zip(tables, captured, strict=True):
        if cluster is None or (cells is not tables[0] and cluster < 0):
            continue
        cell = (index, cluster)
        if cell in cells or len(cells) < limit:
            cells[cell] = cells.get(cell, 0) + 1
        else:
            missed += 1
    return missed


def _named(tables: list[Cells]) -> dict[str, dict[str, Any]]:
    return {name: cluster_metrics(cells) for name, cells in zip(FORECASTERS, tables, strict=True)}
