"""Scores: counts of labels and hits for now; the module proper follows."""

from typing import Any

import msgspec


class ScoresSpec(msgspec.Struct, frozen=True):
    """`[scores]`; part of an era."""

    every: int = 1000
    window: int = 1000


class Scores:
    """Counts."""

    def __init__(self, spec: ScoresSpec, task: str) -> None:
        self.spec = spec
        self.task = task
        self._labels = 0
        self._hits = 0

    def foresee(self, answer: Any, _x: dict[str, Any]) -> list[Any]:
        """What scoring needs of an answer."""
        return [answer.prediction]

    def observe(self, y: Any, guess: list[Any]) -> None:
        """Score a guess."""
        self._labels += 1
        self._hits += guess[0] == y

    def has_room_for(self, _y: Any) -> bool:
        """Whether the label may be a new class."""
        return True

    def report(self) -> dict[str, Any]:
        """The counts."""
        return {"labels": self._labels, "all": {"model": {"hits": self._hits}}}

    def dump(self) -> bytes:
        """The state."""
        return msgspec.json.encode([self._labels, self._hits])

    @classmethod
    def load(cls, spec: ScoresSpec, task: str, data: bytes) -> "Scores":
        """The inverse of `dump`."""
        scores = cls(spec, task)
        scores._labels, scores._hits = msgspec.json.decode(data)
        return scores
