"""What each label says of each answer: a loss per forecaster, tapped from the scores as they observe it.

Invariants:
- The tap changes no score and no output. It adds one number to each guess on its way through the pending
  events: the number of the event's record, which is the same for every model that reads the same records.
- A label that a rebuilt state observes again (after an undo) is noted again, with the same numbers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamlearn.core.learner import Answer
from streamlearn.core.scores import Scores
from streamlearn.core.shard import Shard
from streamlearn.core.state import Memory

LOSS = {"classification": "accuracy", "anomaly": "accuracy", "regression": "mae"}
"""The metric that the mean loss stands for, by task: 0 for a right label and 1 for a wrong one, or the error.
A task that is missing has no loss for a single answer."""


FORECASTERS = 3
"""A model and two baselines."""

Loss = tuple[int, int, tuple[float | None, float | None, float | None]]
"""One label: the number of its event's record, the number of the record it came with, and the losses of the
model and of each baseline, in the order of the scores' report; None for no answer."""


class Losses(NamedTuple):
    """Of labels in their order: the numbers of their events' records, shape (n,), and the losses, shape
    (n, `FORECASTERS`), NaN for no answer.
    """

    numbers: NDArray[np.int64]
    values: NDArray[np.float64]


def losses_of(seen: list[Loss], after: int) -> Losses:
    """Those of the labels that came with records after number `after`: an undo notes older ones again."""
    found = [loss for loss in seen if loss[1] > after]
    numbers = np.array([loss[0] for loss in found], np.int64)
    values = np.array([loss[2] for loss in found], np.float64)
    return Losses(numbers, values.reshape(-1, FORECASTERS))


class Tapped(Scores):
    """Scores whose guesses say which event they are of. Made by `tap`."""

    memory: Memory

    def foresee(self, answer: Answer, x: dict[str, Any]) -> list[Any]:
        """As `Scores` does it, and which event it is."""
        guess = super().foresee(answer, x)
        guess.append(self.memory.records)
        return guess


def tap(shard: Shard, seen: list[Loss]) -> None:
    """Put a tap on a shard whose spec asks for scores; it fills `seen`."""
    assert shard.scores is not None
    tapped = Tapped.load(shard.scores.spec, shard.learner.task, shard.scores.dump())
    assert isinstance(tapped, Tapped)
    tapped.memory = shard.memory
    tapped.observe = _noting(tapped, seen)
    shard.scores = tapped


def _noting(tapped: Tapped, seen: list[Loss]) -> Callable[..., None]:
    """`observe` that also notes the losses."""
    observe, answers, memory, note = tapped.observe, tapped.answers, tapped.memory, seen.append
    numbers = tapped.task == "regression"

    def noted(y: Any, guess: list[Any]) -> None:
        number = guess.pop()
        found = answers(guess)
        if found:
            model, last, usual = found
            if numbers:
                losses = (
                    None if model is None else abs(y - model),
                    None if last is None else abs(y - last),
                    None if usual is None else abs(y - usual),
                )
            else:
                losses = (
                    None if model is None else model != y,
                    None if last is None else last != y,
                    None if usual is None else usual != y,
                )
            note((number, memory.records, losses))
        observe(y, guess)

    return noted
