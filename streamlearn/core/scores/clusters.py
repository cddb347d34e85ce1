"""Scores of clusterings where labels come: how well clusters and labels agree, whatever their names.

Beside the model stand the label before (no-change) and the commonest label (prior), taken as clusters.
"""

from typing import Any, Final

from streamlearn.core.model.learner import Prediction
from streamlearn.core.scores.classes import MAX_CLASSES
from streamlearn.core.scores.metrics import cluster_metrics

MAX_CELLS: Final = 20_000
"""Pairs of label and cluster that are told apart; a further pair is not counted, but told in the report."""

FORECASTERS: Final = ("model", "no_change", "prior")
Cells = dict[tuple[int, Any], int]


class ClusterScores:
    """Captured: `[cluster, last label, commonest label]`, labels by their place, the order in which they
    came first, and -1 for none.
    """

    def __init__(self, window: int) -> None:
        self.labels = 0
        self._places: dict[Any, int] = {}
        self._counts: list[int] = []
        self._best = self._last = -1
        self._cells: list[Cells] = [{} for _ in FORECASTERS]
        self._uncounted = 0
        self._size = window
        self._window: list[list[Any]] = []

    def can_track_class(self, y: Any) -> bool:
        """True when a label of this class can be counted."""
        return y in self._places or len(self._places) < MAX_CLASSES

    def capture(self, answer: Prediction) -> list[Any]:
        """Capture all of the answers that scoring will need."""
        cluster = answer.prediction
        return [None if cluster is None else int(cluster), self._last, self._best]

    def update(self, y: Any, captured: list[Any]) -> None:
        """Count the pair; the baselines learn `y`, for which there must be room."""
        place = self._places.get(y)
        if place is None:
            place = self._places[y] = len(self._counts)
            assert place < MAX_CLASSES, "labels are checked by knows_room_for"
            self._counts.append(0)
        self._uncounted += _count(self._cells, place, captured, MAX_CELLS)
        self._window.append([place, *captured])
        del self._window[: -self._size]
        counts = self._counts
        counts[place] += 1
        if self._best < 0 or (counts[place], -place) > (counts[self._best], -self._best):
            self._best = place
        self._last = place
        self.labels += 1

    def answers(self, captured: list[Any]) -> tuple[Any, ...]:
        """A cluster is no label."""
        return ()

    def flush(self) -> None:
        """Nothing is put off."""

    def report(self) -> dict[str, dict[str, Any]]:
        """`all` and `window`."""
        recent: list[Cells] = [{} for _ in FORECASTERS]
        for place, *captured in self._window:
            _count(recent, place, captured, MAX_CELLS)
        return {
            "all": {**_named(self._cells), "uncounted": self._uncounted},
            "window": {"labels": len(self._window), **_named(recent)},
        }

    def saved(self) -> list[Any]:
        """Serializable state."""
        cells = [[[*cell, count] for cell, count in table.items()] for table in self._cells]
        return [
            list(self._places),
            self._counts,
            self._best,
            self._last,
            cells,
            self._uncounted,
            self._window,
        ]

    def restore(self, saved: list[Any]) -> None:
        """Restore from `saved`."""
        places, self._counts, self._best, self._last, cells, self._uncounted, window = saved
        self.labels = sum(self._counts)
        self._places = {label: place for place, label in enumerate(places)}
        self._cells = [{(place, cluster): count for place, cluster, count in table} for table in cells]
        self._window = window[-self._size :]


def _count(tables: list[Cells], place: int, captured: list[Any], limit: int) -> int:
    """Count a label with each forecaster's cluster; how many pairs found no room."""
    missed = 0
    for cells, cluster in zip(tables, captured, strict=True):
        if cluster is None or (cells is not tables[0] and cluster < 0):
            continue
        cell = (place, cluster)
        if cell in cells or len(cells) < limit:
            cells[cell] = cells.get(cell, 0) + 1
        else:
            missed += 1
    return missed


def _named(tables: list[Cells]) -> dict[str, dict[str, Any]]:
    return {name: cluster_metrics(cells) for name, cells in zip(FORECASTERS, tables, strict=True)}
