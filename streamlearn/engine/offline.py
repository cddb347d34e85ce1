"""A shard that no journal stands behind: history, batches and files are stepped by the very code of `serve`.

Invariants:
- Each record has the outcome it has live: a model that raises is undone from a snapshot, and the record
  becomes a dead letter that never reaches it again.
- Memory is bounded: at most `SNAPSHOT_RECORDS` records are held for an undo.
"""

from collections.abc import Sequence
from functools import partial

import msgspec

from streamlearn.core.records import Record, Skip
from streamlearn.core.shard.facts import Facts
from streamlearn.core.shard.shard import FAILING_LIMIT, Shard
from streamlearn.core.shard.snapshot import Sections, dump_state, load_state, side_parts
from streamlearn.core.shard.state import ShardSpec
from streamlearn.core.shard.work import Failure
from streamlearn.engine.driver import ShardDriver
from streamlearn.engine.registry import Schemas
from streamlearn.errors import Stop

SNAPSHOT_RECORDS = 10_000
"""A snapshot costs milliseconds and is of use only when a model raises; after that there is one at once, so
that the next undo is cheap."""


def _dump_static(model: bytes | Sequence[bytes], shard: Shard) -> Sections:
    """A state whose model is still the one in `model`: a forest's pickle every thousand records would cost as
    much as its answers.
    """
    return {"model": model, "memory": msgspec.json.encode(shard.memory), **side_parts(shard)}


class Offline:
    """One state, from `sections` on. `trusted`: see `core.model.pickles.trusted_by`; `static`: the model
    learns nothing, so that one pickle of it will do. Raises `BadCheckpoint` when the sections cannot be
    loaded.
    """

    def __init__(
        self,
        spec: ShardSpec,
        sections: Sections,
        trusted: frozenset[str],
        schemas: Schemas,
        static: bool = False,
    ) -> None:
        self._since: list[Record] = []
        self._skips: list[Skip] = []
        self.first_failure = ""
        """The first failure of the model, in words; "" while there is none."""
        self.driver = ShardDriver(
            load_state(spec, sections, trusted),
            schemas,
            sections=sections,
            trusted=trusted,
            dump=partial(_dump_static, sections["model"]) if static else dump_state,
        )

    @property
    def shard(self) -> Shard:
        """The state."""
        return self.driver.shard

    def step(self, record: Record) -> Facts:
        """Apply one record. Raises `Stop` when the model fails at every event, or cannot be undone."""
        if len(self._since) >= SNAPSHOT_RECORDS:
            self.take_snapshot()
        facts = self.driver.step(record)
        if not isinstance(facts, Failure):
            self._since.append(record)
            return facts
        if facts.undoes:
            letter = self._without(record, facts)
            self.take_snapshot()
            return letter
        self._skips.append(facts.skip)
        self._since.append(record)
        return self.driver.leave_out(record, facts.skip)

    def take_snapshot(self) -> Sections:
        """The state as a checkpoint holds it; the next undo starts from here. Raises `Stop` when the model
        does not pickle.
        """
        self.driver.advance()
        sections = self.driver.take_snapshot()
        self._since, self._skips = [], []
        return sections

    def _without(self, record: Record, failure: Failure) -> Facts:
        """The state without what the model did at `record`, and its dead letter."""
        cause = failure.cause
        if not self.first_failure:
            words = "gave NaN or infinity" if cause is None else f"raised {type(cause).__name__}: {cause}"
            self.first_failure = f"{failure.skip.stage} {words}"[:300]
        if self.driver.restored(self._since, self._skips) is None:
            raise Stop(
                "undoing a failed step gave another failure: the model is not deterministic. Give every"
                " part a seed, and keep all state in attributes that pickle"
            ) from cause
        facts = self.driver.leave_out(record, failure.skip)
        if self.shard.memory.failing >= FAILING_LIMIT:
            why = "an answer of NaN or infinity" if cause is None else f"{type(cause).__name__}: {cause}"
            raise Stop(
                f"the model failed to predict {FAILING_LIMIT} events in a row, the last one with"
                f" {why}. Are these events of the kind that it is made for?"
            )
        return facts
