"""One model of a backtest: its own shard over the records, what it costs, and digests of all it said.

Invariants:
- Records are stepped by the very shard of `serve`, with its undo; nothing here reaches an output.
- Digests are those of `core.records.chain` over all outputs of a role from the genesis on, however the
  records were cut into runs.
"""

import hashlib
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from streamlearn.core.records import GENESIS, Output, Record, preimage
from streamlearn.core.shard import Shard
from streamlearn.core.snapshot import Sections
from streamlearn.core.state import Memory, ShardSpec
from streamlearn.replay.losses import Loss, losses_of, tap
from streamlearn.service.models import FreshModel
from streamlearn.service.offline import Offline


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


class Contender(Offline):
    """A model under its name in the tables. `losses`: those of the last run, in the order of the labels."""

    def __init__(self, name: str, use: str, fresh: FreshModel, spec: ShardSpec, registry: str) -> None:
        """Raises `BadCheckpoint` when the fresh model cannot be loaded."""
        self.name = name
        self.use = use
        self.version = fresh.version
        self.seconds = 0.0
        self.losses = losses_of([], 0)
        self._seen: list[Loss] = []
        sections = {"champion": fresh.pickled, "memory": msgspec.json.encode(Memory())}
        super().__init__(spec, sections, fresh.trusted, registry)
        assert self.shard.scores is not None, "a backtest always scores"
        self.born_bytes = len(fresh.pickled)
        """The size of the model before its first event."""
        self.digests = {"predictions": Digest(), "scores": Digest()}
        self.window = self.shard.scores.spec.window
        """How many labels the window holds."""
        self._window = self.losses.values

    def run(self, records: Sequence[Record]) -> None:
        """Step records, against the clock."""
        before = self.shard.memory.records
        step = self.step
        outputs: list[Output] = []
        began_s = time.perf_counter()
        for record in records:
            outputs += step(record)
        self.seconds += time.perf_counter() - began_s
        for role, digest in self.digests.items():
            digest.add([output for output in outputs if output.role == role])
        self.losses = losses_of(self._seen, before)
        del self._seen[:]
        self._window = np.concatenate((self._window, self.losses.values))[-self.window :]

    def report(self) -> dict[str, Any]:
        """The scores, as in a scores message."""
        assert self.shard.scores is not None
        return self.shard.scores.report()

    def window_losses(self) -> list[float | None]:
        """The mean loss of each forecaster over the window, None where it gave no answer there."""
        known = ~np.isnan(self._window)
        counts = known.sum(axis=0)
        totals = np.where(known, self._window, 0.0).sum(axis=0)
        return [float(t / n) if n else None for t, n in zip(totals, counts, strict=True)]

    def _loaded(self) -> Shard:
        shard = super()._loaded()
        # What is stepped again after an undo is noted again.
        self._seen[:] = [loss for loss in self._seen if loss[1] <= shard.memory.records]
        tap(shard, self._seen)
        return shard


def size_of(sections: Sections) -> int:
    """The bytes of a state."""
    return sum(len(part) if isinstance(part, bytes) else sum(map(len, part)) for part in sections.values())
