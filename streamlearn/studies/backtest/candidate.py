"""One model of a backtest: its own shard over the records, what it costs, and digests of all it said.

Invariants:
- Records are stepped by the very shard of `serve`, with its undo; nothing here reaches an output.
- Digests are those of `core.journal.chain` over all outputs of a role from the genesis on, however the
  records were cut into runs.
"""

import hashlib
from collections.abc import Sequence
from math import inf
from typing import Any

import numpy as np

from streamlearn.core.events.event import Label
from streamlearn.core.journal import GENESIS, preimage
from streamlearn.core.labels.record import LabelRecord
from streamlearn.core.model.learner import final_step
from streamlearn.core.records import Output, Record
from streamlearn.core.scores.metrics import judges
from streamlearn.core.scores.scores import Scores
from streamlearn.core.shard.facts import Facts, Frozen, published
from streamlearn.core.shard.snapshot import Sections, fresh_state
from streamlearn.core.shard.state import ShardSpec
from streamlearn.engine.model import ModelTemplate
from streamlearn.engine.offline import Offline
from streamlearn.engine.registry import Schemas
from streamlearn.env import Env
from streamlearn.studies.backtest.losses import EventNumbers, Loss, as_arrays


class Digest:
    """BLAKE2b-256 over outputs as they come."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(bytes.fromhex(GENESIS), digest_size=32)

    def add(self, outputs: Sequence[Output]) -> None:
        """The next outputs."""
        self._hash.update(preimage(outputs))

    def hexdigest(self) -> str:
        """64 hex digits: `chain(GENESIS, all outputs so far)`."""
        return self._hash.hexdigest()


class Candidate(Offline):
    """A model under its name in the tables. `losses`: those of the last run, in the order of the labels."""

    def __init__(
        self, env: Env, name: str, use: str, template: ModelTemplate, spec: ShardSpec, registry: str
    ) -> None:
        """Raises `BadCheckpoint` when the fresh model cannot be loaded."""
        self._env = env
        self.name = name
        self.use = use
        self.version = template.version
        self.seconds = 0.0
        self.stopped_at: int | None = None
        """The number of the event at which it stopped learning first."""
        self._events = 0
        self._answerable = self._answered = 0
        self.losses = as_arrays([])
        self._numbers = EventNumbers()
        sections = fresh_state(template.pickled)
        super().__init__(spec, sections, template.trusted, Schemas(env, registry))
        self.born_bytes = len(template.pickled)
        """The size of the model before its first event."""
        self.digests = {"predictions": Digest(), "scores": Digest()}
        self.window = self._scores.spec.window
        """How many labels the window holds."""
        self._window = self.losses.values

    def run(self, records: Sequence[Record]) -> None:
        """Step records, against the clock."""
        step = self.step
        results: list[Facts] = []
        began_s = self._env.monotonic()
        for record in records:
            results.append(step(record))
        self.seconds += self._env.monotonic() - began_s
        outputs: list[Output] = []
        losses: list[Loss] = []
        for number, (record, facts) in enumerate(zip(records, results, strict=True), 1):
            self._numbers.meet(record)
            outputs += published(facts)
            losses += self._numbers.losses(facts, self._scores)
            if self.stopped_at is None and any(isinstance(fact, Frozen) for fact in facts):
                self.stopped_at = self._events + self._count_events(records[:number])
        self._events += self._count_events(records)
        for role, digest in self.digests.items():
            digest.add([output for output in outputs if output.role == role])
        self.losses = as_arrays(losses)
        answerable = ~np.isnan(self.losses.values[:, 1])
        self._answerable += int(answerable.sum())
        self._answered += int((answerable & ~np.isnan(self.losses.values[:, 0])).sum())
        self._window = np.concatenate((self._window, self.losses.values))[-self.window :]

    def report(self) -> dict[str, Any]:
        """The scores, as in a scores message."""
        return self._scores.report()

    def answered(self) -> float | None:
        """The share of labels whose event got an answer, of those whose event came when a label was known:
        before that nobody can know anything. None where there is no such label, or an answer is not for one.
        """
        return self._answered / self._answerable if self._answerable and self.gives_verdicts() else None

    def gives_verdicts(self) -> bool:
        """True if a single answer is right or wrong, or has an error. A detector needs a filter for that."""
        learner = self.shard.learner
        if learner.task == "anomaly":
            return hasattr(final_step(learner.model), "classify")
        return bool(judges(learner.task).loss)

    def label_in(self, record: Record) -> Label | None:
        """The label that a record says, None for none."""
        joiner = self.shard.joiner
        if joiner is not None and record.topic == joiner.spec.topic:
            unit = self.shard.memory.time_unit
            label = None if record.value is None else joiner.read(record, unit, unit, inf)
            return label.y if isinstance(label, LabelRecord) else None
        event = self.driver.peek(record)
        return None if event is None else event.y

    def _count_events(self, records: Sequence[Record]) -> int:
        spec = self.shard.spec
        others = (spec.control, "" if spec.labels is None else spec.labels.topic)
        return sum(record.topic not in others for record in records)

    def window_losses(self) -> list[float | None]:
        """The mean loss of each forecaster over the window, None where it gave no answer there."""
        answered = ~np.isnan(self._window)
        counts = answered.sum(axis=0)
        totals = np.where(answered, self._window, 0.0).sum(axis=0)
        return [float(t / n) if n else None for t, n in zip(totals, counts, strict=True)]

    @property
    def _scores(self) -> Scores:
        scores = self.shard.scores
        assert scores is not None, "a backtest always scores"
        return scores


def state_bytes(sections: Sections) -> int:
    """The size of a state."""
    pieces = ([data] if isinstance(data, bytes) else data for data in sections.values())
    return sum(len(piece) for data in pieces for piece in data)
