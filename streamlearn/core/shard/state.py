"""A shard's rules and its memory: all that `Shard.step` depends on besides the model, labels and scores.

Invariant: both are plain values; what is new in them has a default, so that older eras and checkpoints
decode.
"""

from typing import Final

import msgspec

from streamlearn.core.events.clocks import Arrivals
from streamlearn.core.events.event import Event, EventSpec
from streamlearn.core.labels.record import LabelSpec
from streamlearn.core.scores.scores import ScoresSpec
from streamlearn.core.shard.commands import RESET_TIME
from streamlearn.core.shard.dead_letter_rate import Letter
from streamlearn.core.shard.guard import GuardSpec, LearnedFeature

UNDO_LIMIT: Final = 20
"""A model that had to be undone more often than this in `UNDO_WINDOW` records pauses learning."""

UNDO_WINDOW: Final = 1_000
PAUSE_RECORDS: Final = 1_000

PAUSED: Final = "paused"
"""Too many undos: learning goes on by itself after `PAUSE_RECORDS` records."""

BROKEN: Final = "broken"
"""The state gives no good answer to what it answered before; only `thaw` or another state changes that."""

COMMAND: Final = "command"
"""`streamlearn control freeze`."""


class ShardSpec(msgspec.Struct, frozen=True):
    """All that a step depends on besides the record and the state; part of an era.

    Attributes:
        model_name, model_version, revision: The model's name, version and revision; in each prediction.
        event: The field mapping.
        guard: Bounds of features; None in eras from before there was a guard.
        control: The control topic, "" for none: its records are commands.
        labels: The join of labels on a topic of their own; None for labels inside events.
        scores: The rules of scoring; None for no scores, as in eras from before there were any.
        horizon: The number of labels that a forecaster looks ahead.
        prediction_bytes: The largest prediction that its topic takes, with its headers; None where that is no
            less than any prediction's own limit.

    Example:
        >>> ShardSpec("logistic", "9f86d081", 1, EventSpec(label="y")).horizon
        1
    """

    model_name: str
    model_version: str
    revision: int
    event: EventSpec = EventSpec()
    guard: GuardSpec | None = GuardSpec()
    control: str = ""
    labels: LabelSpec | None = None
    scores: ScoresSpec | None = None
    horizon: int = 1
    prediction_bytes: int | None = None


class Memory(msgspec.Struct):
    """All of the state that is not the model: saved in every checkpoint."""

    records: int = 0
    learned: int = 0
    time_unit: str = ""
    """The unit of event times that leads or is settled, "" before the first; see `core.shard.time_units`."""
    time_votes: dict[str, tuple[int, int]] = {}
    """By unit how many times were plausible in it, and how many others were of its size; {} once settled."""
    label_type: str = ""
    """`bool`, `int`, `str` or `number`: the type that leads or is settled, "" before the first label; see
    `core.shard.label_rules`.
    """
    label_votes: dict[str, int] = {}
    """Labels by type; {} once the type is settled."""
    resets: int = 0
    """The number of commands that forgot one of these: each begins an era."""
    arrivals: Arrivals = {}
    """The newest arrival in each partition."""
    frozen: str = ""
    """The reason for which learning stands still: `PAUSED`, `BROKEN`, `COMMAND`, in `score` `static`; ""
    while it goes on.
    """
    frozen_at: int = 0
    """The record number since when."""
    raised_at: list[int] = []
    """Record numbers of the newest undos, at most `UNDO_LIMIT` of them."""
    undone: dict[str, int] = {}
    """The number of raises of `predict` and `learn` in a row that were undone, while no record has got past
    that; see `core.shard.trials`.
    """
    undone_learned: int = 0
    """The value of `learned` after the last undo of `learn`."""
    probe: Event | None = None
    """The last ordinary event that had a good answer: a state that has none to it is broken."""
    failing: int = 0
    """Predict failures in a row."""
    outcomes: dict[str, int] = {}
    """Records by outcome: `prediction`, `skip.<reason>`, `dlq.<stage>.<reason>`, `command.<name>`,
    `label.<what became of it>`.
    """
    recent: list[str | int] = []
    """Ids predicted lately, a ring of at most `[event] duplicates`; see `core.events.dedup`."""
    recent_next: int = 0
    """The index in `recent` of the next id: the oldest one stands there once the ring is full."""
    types: dict[str, LearnedFeature] = {}
    """The features that the guard has learned, by name."""
    letters: list[Letter] = []
    """The newest dead letters, see `core.shard.dead_letter_rate`."""

    def count(self, outcome: str) -> None:
        """One more record had this outcome."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def note_undo(self, stage: str, reason: str) -> None:
        """Note that the model was undone at the newest record; too often, and learning pauses."""
        recent = [number for number in self.raised_at if number > self.records - UNDO_WINDOW]
        self.raised_at = [*recent, self.records][-UNDO_LIMIT:]
        if len(recent) >= UNDO_LIMIT:
            self.freeze(PAUSED)
        self.failing = self.failing + 1 if stage == "predict" else 0
        if reason == "raised":
            call = "predict" if stage == "predict" else "learn"
            self.undone = {**self.undone, call: min(UNDO_LIMIT, self.undone.get(call, 0) + 1)}
            if call == "learn":
                self.undone_learned = self.learned

    def freeze(self, why: str) -> None:
        """Let learning stand still from the newest record on. A pause gives way to what lasts."""
        if self.frozen in ("", PAUSED) and self.frozen != why:
            self.frozen, self.frozen_at = why, self.records

    def thaw(self) -> None:
        """Let learning go on, whatever stopped it, with all of its budget."""
        self.frozen, self.frozen_at, self.raised_at = "", 0, []

    def forget(self, command: str) -> None:
        """Take no time unit (`RESET_TIME`), or no type of labels (`RESET_LABEL`), for settled any more."""
        if command == RESET_TIME:
            self.time_unit, self.time_votes = "", {}
        else:
            # What led goes on leading, by no votes at all.
            self.label_votes = {self.label_type: 0} if self.label_type else {}
        self.resets += 1

    def begin_anew(self) -> None:
        """The model knows no label any more."""
        self.learned, self.probe, self.undone, self.undone_learned = 0, None, {}, 0
        if self.frozen:
            self.thaw()

    def begin_record(self) -> None:
        """End a pause that has lasted long enough; forget an undo that the record before has got past."""
        if self.learned > self.undone_learned:
            self.undone.pop("learn", None)
        if self.frozen == PAUSED and self.records > self.frozen_at + PAUSE_RECORDS:
            self.thaw()
