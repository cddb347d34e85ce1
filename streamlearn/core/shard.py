"""The pure function at the centre: one record and a state in, outputs and the next state out.

Invariants:
- `step` depends on the record and the state alone: no I/O, no clock, no randomness from outside.
- Every record that is stepped has exactly one outcome: a prediction, a dead letter, or a tombstone's
  skip, and `Memory.outcomes` counts it.
- A refused record leaves the model untouched. A model that raises has left the state undefined: `step`
  raises `ModelRaised`, and the caller rebuilds the state and hands the record to `skip` instead.
"""

from typing import Any, Final

import msgspec
import orjson

from streamlearn.core.codec import dead_letter, decode, passed_on
from streamlearn.core.events import (
    MAX_AHEAD_MS,
    MAX_OUTPUT_BYTES,
    MS_PER_UNIT,
    Event,
    EventSpec,
    Label,
    Refusal,
    event_time_ms,
    unit_of,
)
from streamlearn.core.learner import Answer, Learner
from streamlearn.core.records import Output, Record
from streamlearn.errors import ModelRaised

UNDO_LIMIT: Final = 3
"""A model that raised more often than this within `UNDO_WINDOW` records stops learning."""

UNDO_WINDOW: Final = 100_000

FAILING_LIMIT: Final = 100
"""So many predict failures in a row, and the service stops rather than drain a topic into dead letters."""

Outputs = tuple[Output, ...]

_LABEL_KINDS: Final[dict[type, str]] = {bool: "bool", int: "int", str: "str"}
_ANSWERS: Final = frozenset((bool, float, int, str, type(None)))  # and numpy's scalars, whose shape is ()
_JSON_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY


class ShardSpec(msgspec.Struct, frozen=True):
    """What a step depends on besides its state; part of an era. `model_*` go into each prediction."""

    model_name: str
    model_version: str
    revision: int
    event: EventSpec = EventSpec()


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
    """Records by outcome: `prediction`, `skip.tombstone`, `dlq.<stage>.<reason>`."""


class Shard:
    """One state. `learner` and `memory` together are everything it knows."""

    def __init__(self, spec: ShardSpec, learner: Learner, memory: Memory) -> None:
        self.spec = spec
        self.learner = learner
        self.memory = memory
        # What every prediction says in the same bytes, made once: per shard, and per input partition.
        model = {"name": spec.model_name, "version": spec.model_version, "revision": spec.revision}
        self._model_member = b',"model":' + orjson.dumps(model)[:-1] + b',"learned":'
        self._source_members: dict[tuple[str, int], bytes] = {}

    def step(self, record: Record) -> Outputs:
        """Apply one record. Raises `ModelRaised` when the model did; the state is then undefined."""
        self.memory.records += 1
        if record.value is None:
            self._count("skip.tombstone")
            return ()
        event = decode(self.spec.event, record)
        if type(event) is Event:
            refusal = self._check(event, record.timestamp_ms)
            if refusal is None:
                return (self._apply(event, record),)
        else:
            assert isinstance(event, Refusal)
            refusal = event
        return (self._refuse(record, refusal),)

    def skip(self, record: Record, stage: str, reason: str) -> Outputs:
        """Apply a record that made the model raise: its dead letter, and the model never sees it."""
        memory = self.memory
        memory.records += 1
        memory.raised_at = [
            *(at for at in memory.raised_at if at > memory.records - UNDO_WINDOW),
            memory.records,
        ]
        if len(memory.raised_at) > UNDO_LIMIT:
            memory.raised_at = memory.raised_at[-UNDO_LIMIT:]
            memory.frozen = memory.frozen or "raised"
        memory.failing = memory.failing + 1 if stage == "predict" else 0
        return (self._refuse(record, Refusal(stage, reason)),)

    def _check(self, event: Event, arrived_ms: int) -> Refusal | None:
        """What depends on the stream so far. Fixes time unit and label type by the first good event."""
        memory = self.memory
        ts, y = event.ts, event.y
        if ts is not None:
            unit = memory.time_unit or self._first_unit(ts)
            scale = MS_PER_UNIT.get(unit)
            time_ms = event_time_ms(ts, unit) if scale is None or isinstance(ts, str) else ts * scale
            if time_ms is None:
                return Refusal("guard", "bad_time")
            if time_ms > arrived_ms + MAX_AHEAD_MS:
                return Refusal("guard", "future")
        else:
            unit = memory.time_unit
        if y is not None and not self.learner.learns_unlabelled:
            known = memory.label_type
            if known != "bool" or type(y) is not bool:  # most labels that are true or false pass here
                kind = self._label_kind(y)
                if not kind or kind != (known or kind):
                    return Refusal("label", "label_type")
                if self.learner.binary and y not in (0, 1):
                    return Refusal("label", "label_value")
                memory.label_type = kind
        memory.time_unit = unit
        return None

    def _first_unit(self, ts: str | int | float) -> str:
        declared = self.spec.event.time_unit
        return unit_of(ts) if declared == "auto" else declared

    def _label_kind(self, y: Label) -> str:
        """The label's type in the vocabulary of `Memory.label_type`; "" when the task has no such label."""
        if self.learner.task != "classification":
            return "number" if type(y) is float or type(y) is int else ""
        kind = _LABEL_KINDS.get(type(y), "")
        return "" if self.learner.binary and kind == "str" else kind

    def _apply(self, event: Event, record: Record) -> Output:
        """Predict, then learn, then encode. The prediction is made before the label is seen."""
        memory = self.memory
        learner = self.learner
        learned = memory.learned
        try:
            answer = learner.predict(event.x, event.y)
        except MemoryError:
            raise
        except Exception as error:  # the model is the user's code: whatever it raises is its failure
            raise ModelRaised("predict") from error
        output = self._prediction(event, record, answer, learned)
        if isinstance(output, Refusal):
            return self._unusable(record, output)
        memory.failing = 0
        if (event.y is not None or learner.learns_unlabelled) and not memory.frozen:
            try:
                learner.learn(event.x, event.y)
            except MemoryError:
                raise
            except Exception as error:  # as above
                raise ModelRaised("learn") from error
            memory.learned += 1
        memory.outcomes["prediction"] = memory.outcomes.get("prediction", 0) + 1
        return output

    def _unusable(self, record: Record, refusal: Refusal) -> Output:
        """The model's answer cannot be published; one that is no number also ends its learning."""
        if refusal.stage == "predict":
            self.memory.failing += 1
            self.memory.frozen = self.memory.frozen or refusal.reason
        return self._refuse(record, refusal)

    def _prediction(self, event: Event, record: Record, answer: Answer, learned: int) -> Output | Refusal:
        """The published prediction; members in the order of the contract."""
        if not answer.finite:
            return Refusal("predict", "output_not_finite")
        prediction, detail = answer.prediction, answer.detail
        if self.memory.label_type == "int" and self.learner.binary and type(prediction) is bool:
            prediction = int(prediction)
            detail = detail and {str(int(name == "true")): p for name, p in detail.items()}
        if type(prediction) not in _ANSWERS and getattr(prediction, "shape", None) != ():
            return Refusal("predict", "output_type")
        body: dict[str, Any] = {
            "id": event.id,
            "key": event.key,
            "ts": record.timestamp_ms if event.ts is None else event.ts,
            "prediction": prediction,
        }
        if answer.member:
            body[answer.member] = detail
        try:
            head = orjson.dumps(body, option=_JSON_OPTIONS)
        except orjson.JSONEncodeError:
            return Refusal("predict", "output_type")
        source = self._source_members.get((record.topic, record.partition)) or self._source_member(record)
        # One copy of the right size. orjson's own buffer is three times as large, and keeping two thousand
        # of them until the publish costs 2 us an event in cache misses.
        value = b"%b%b%d%b%d}}" % (head[:-1], self._model_member, learned, source, record.offset)
        key = record.key if not self.spec.event.key else _key_bytes(event.key)
        if len(value) + len(key or b"") > MAX_OUTPUT_BYTES:
            return Refusal("guard", "output_too_large")
        headers = passed_on(record.headers) if record.headers else ()
        return Output("predictions", record.partition, key, value, headers)

    def _source_member(self, record: Record) -> bytes:
        source = {"topic": record.topic, "partition": record.partition}
        member = b'},"source":' + orjson.dumps(source)[:-1] + b',"offset":'
        self._source_members[record.topic, record.partition] = member
        return member

    def _refuse(self, record: Record, refusal: Refusal) -> Output:
        self._count(f"dlq.{refusal.stage}.{refusal.reason}")
        return dead_letter(record, refusal)

    def _count(self, outcome: str) -> None:
        outcomes = self.memory.outcomes
        outcomes[outcome] = outcomes.get(outcome, 0) + 1


def _key_bytes(key: str | int | None) -> bytes | None:
    return None if key is None else str(key).encode()
