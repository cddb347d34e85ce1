"""Losses: what each label says of each answer, one per forecaster, from the facts of a shard that scores.

Invariant: a label's number is the same for every model that reads the same records, so that the losses of two
models can be matched: it says where its event's record stands.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamlearn.core.records import Record, TopicPartition
from streamlearn.core.scores.scores import Scores
from streamlearn.core.shard.facts import Facts, Learned

FORECASTERS = 3
"""A model and two baselines."""

_OFFSET_BITS: Final = 48

Loss = tuple[int, tuple[float | None, float | None, float | None]]
"""One label: the number of its event, and the losses of the model and of each baseline, in the order of the
scores' report; None for no answer."""


class Losses(NamedTuple):
    """Labels in their order: the numbers of their events, shape (n,), and the losses, shape
    (n, `FORECASTERS`), NaN for no answer.
    """

    numbers: NDArray[np.int64]
    values: NDArray[np.float64]


def as_arrays(losses: list[Loss]) -> Losses:
    """The same losses as arrays."""
    numbers = np.array([number for number, _ in losses], np.int64)
    values = np.array([values for _, values in losses], np.float64)
    return Losses(numbers, values.reshape(-1, FORECASTERS))


class EventNumbers:
    """Numbers for events by the places of their records. Partitions are numbered as they are met."""

    def __init__(self) -> None:
        self._partitions: dict[TopicPartition, int] = {}

    def meet(self, record: Record) -> None:
        """Note the partition of a record that is stepped."""
        source = (record.topic, record.partition)
        if source not in self._partitions:
            self._partitions[source] = len(self._partitions) << _OFFSET_BITS

    def losses(self, facts: Facts, scores: Scores) -> list[Loss]:
        """The losses that the labels among facts bring."""
        labelled: list[Loss] = []
        for fact in facts:
            if isinstance(fact, Learned) and fact.captured is not None:
                losses = _losses(fact.y, scores.answers(fact.captured), scores.task == "regression")
                if losses:
                    labelled.append((self._partitions[fact.place[:2]] + fact.place[2], losses))
        return labelled


def _losses(
    y: Any, answers: tuple[Any, ...], numbers: bool
) -> tuple[float | None, float | None, float | None] | None:
    if not answers:
        return None
    model, last, usual = answers
    if numbers:
        return (
            None if model is None else abs(y - model),
            None if last is None else abs(y - last),
            None if usual is None else abs(y - usual),
        )
    return (
        None if model is None else model != y,
        None if last is None else last != y,
        None if usual is None else usual != y,
    )
