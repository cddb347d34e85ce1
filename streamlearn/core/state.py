"""A shard's rules and its memory: all that `Shard.step` depends on besides the model, labels and scores.

Invariant: both are plain values; what is new in them has a default, so that older eras and checkpoints
decode.
"""

from typing import Final

import msgspec

from streamlearn.core.events import EventSpec
from streamlearn.core.guard import GuardSpec, Learned
from streamlearn.core.label_records import LabelSpec
from streamlearn.core.scores import ScoresSpec
from streamlearn.core.storm import Letter

UNDO_LIMIT: Final = 3
"""A model that raised more often than this within `UNDO_WINDOW` records stops learning."""

UNDO_WINDOW: Final = 100_000


class ShardSpec(msgspec.Struct, frozen=True):
    """What a step depends on besides its state; part of an era. `model_*` go into each prediction."""

    model_name: str
    model_version: str
    revision: int
    event: EventSpec = EventSpec()
    guard: GuardSpec | None = GuardSpec()
    """None in eras from before there was a guard: they are redone as they were lived."""
    control: str = ""
    """The control topic: its records are commands."""
    labels: LabelSpec | None = None
    """How labels are joined that come on a topic of their own."""
    scores: ScoresSpec | None = None
    """None: no scores, as in eras from before there were any."""
    horizon: int = 1
    """How many labels a forecaster looks ahead."""
    prediction_bytes: int | None = None
    """The largest prediction that its topic takes, with its headers; None where that is no less than what is
    published anyway.
    """


class Memory(msgspec.Struct):
    """All of the state that is not the model: saved in every checkpoint."""

    records: int = 0
    learned: int = 0
    time_unit: str = ""
    """Fixed by the first event that was accepted; "" until then."""
    label_type: str = ""
    """`bool`, `int`, `str` or `number`, fixed by the first label learned; "" until then."""
    frozen: str = ""
    """Why learning stopped; "" while it goes on."""
    raised_at: list[int] = []
    """Record numbers of the newest undos, at most `UNDO_LIMIT` of them."""
    failing: int = 0
    """Predict failures in a row."""
    outcomes: dict[str, int] = {}
    """Records by outcome: `prediction`, `skip.<reason>`, `dlq.<stage>.<reason>`, `command.<name>`,
    `label.<what became of it>`.
    """
    recent: list[str | int] = []
    """Ids predicted lately, a ring of at most `[event] duplicates`; see `core.window`."""
    recent_next: int = 0
    """Where in `recent` the next id goes: the oldest one stands there once the ring is full."""
    types: dict[str, Learned] = {}
    """What the guard has learned, by feature name."""
    letters: list[Letter] = []
    """The newest dead letters, see `core.storm`."""

    def note_raise(self, stage: str) -> None:
        """The model raised at the newest record: too often, and learning stops."""
        recent = [at for at in self.raised_at if at > self.records - UNDO_WINDOW]
        self.raised_at = [*recent, self.records]
        if len(self.raised_at) > UNDO_LIMIT:
            self.raised_at = self.raised_at[-UNDO_LIMIT:]
            self.frozen = self.frozen or "raised"
        self.failing = self.failing + 1 if stage == "predict" else 0
