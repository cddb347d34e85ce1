"""The bytes that a shard publishes: predictions, dead letters, scores, alerts.

Invariant: the bytes are a function of the records and the state alone, in the order of the contract.
"""

from typing import Any, Final

import orjson

from streamlearn.core.events.event import (
    MAX_HEADER_BYTES,
    MAX_OUTPUT_BYTES,
    REASONS,
    Event,
    Refusal,
)
from streamlearn.core.labels.joiner import LabelJoiner
from streamlearn.core.model.learner import Prediction
from streamlearn.core.records import ORDER_HEADER, Headers, Output, Record, header_bytes, headers_bytes
from streamlearn.core.scores.scores import Scores
from streamlearn.core.shard.facts import Predicted
from streamlearn.core.shard.state import Memory

MAX_NAME_CHARS: Final = 256
"""The most of a feature's name that goes into a dead letter's header."""

_PLAIN: Final = frozenset((bool, float, int, str, type(None)))  # and numpy's scalars, whose shape is ()
_LOST: Final = ("dlq.label.", "label.unused", "label.too_many_classes")
_JSON_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY


_INTS: Final = {"false": "0", "true": "1"}
_BOOL_TEXTS: Final = {"0": "false", "1": "true"}
_BOOLS: Final = frozenset(_INTS)


class Encoder:
    """Encodes one model's outputs; the bytes that its predictions share are made once per partition."""

    def __init__(
        self, name: str, version: str, revision: int, key: bool, limit_bytes: int | None = None
    ) -> None:
        """`key`: whether the event has a key of its own, beside its record's. `limit_bytes`: of a prediction
        with its headers; None: they have room of their own.
        """
        self._model = {"name": name, "version": version, "revision": revision}
        self._model_member = b',"model":' + orjson.dumps(self._model)[:-1] + b',"learned":'
        self._source_members: dict[tuple[str, int], bytes] = {}
        self._own_key = key
        self._limit_bytes = limit_bytes

    def prediction(
        self, event: Event, record: Record, answer: Prediction, learned: int, labels: str, reason: str = ""
    ) -> Predicted | Refusal:
        """The prediction with its bytes. `labels`: their type, "" when it is not known or does not matter.
        True is 1 for a model, so that it may name a class by whichever it saw first; answers are of the
        labels' type. `reason`: why the answer is withheld, "" when it is not.
        """
        answer = named(answer, labels)
        output = self.output(event, record, answer, learned, reason)
        if isinstance(output, Refusal):
            return output
        return Predicted(record, event, answer, reason, learned, output)

    def output(
        self, event: Event, record: Record, answer: Prediction, learned: int, reason: str = ""
    ) -> Output | Refusal:
        """The prediction's bytes; `answer` is as `named` gives it."""
        prediction, member = answer.prediction, answer.member
        if type(prediction) not in _PLAIN and getattr(prediction, "shape", None) != ():
            return Refusal("predict", "output_type")
        body: dict[str, Any] = {
            "id": event.id,
            "key": event.key,
            "ts": (record.timestamp_ms or None) if event.ts is None else event.ts,
            "prediction": prediction,
        }
        if member:
            body[member] = answer.detail
        if reason:
            body["reason"] = reason
        if event.carry is not None:
            body["carry"] = event.carry
        try:
            head = orjson.dumps(body, option=_JSON_OPTIONS)
        except orjson.JSONEncodeError:
            return Refusal("predict", "output_type")
        source = self._source_members.get((record.topic, record.partition)) or self._source_member(record)
        # One copy of the right size. orjson's own buffer is three times as large, and keeping two thousand
        # of them until the publish costs 2 us an event in cache misses.
        value = b"%b%b%d%b%d}}" % (head[:-1], self._model_member, learned, source, record.offset)
        key = record.key if not self._own_key else _key_bytes(event.key)
        size = len(value) + len(key or b"")
        headers = passed_on(record.headers) if record.headers else ()
        if size > MAX_OUTPUT_BYTES or (
            self._limit_bytes is not None and size + headers_bytes(headers) > self._limit_bytes
        ):
            return Refusal("guard", "output_too_large")
        return Output("predictions", record.partition, key, value, headers)

    def scores(self, ts: Any, record: Record, learned: int, report: dict[str, Any]) -> Output:
        """A message of the scores topic; `report` has every member but `ts`, `model` and `source`."""
        body = {"ts": ts, "model": {**self._model, "learned": learned}, **report, "source": _source(record)}
        return Output("scores", record.partition, None, orjson.dumps(body, option=_JSON_OPTIONS))

    def alert(self, record: Record, alert: dict[str, Any]) -> Output:
        """A message of the alerts topic."""
        return Output("alerts", record.partition, None, orjson.dumps({**alert, "source": _source(record)}))

    def _source_member(self, record: Record) -> bytes:
        source = {"topic": record.topic, "partition": record.partition}
        member = b'},"source":' + orjson.dumps(source)[:-1] + b',"offset":'
        self._source_members[record.topic, record.partition] = member
        return member


def named(answer: Prediction, labels: str) -> Prediction:
    """The answer by the names of the labels' type, "" when that is not known or does not matter."""
    prediction, detail = answer.prediction, answer.detail
    if labels == "int":
        return _renamed(answer, int, _INTS)
    if labels == "bool" and (type(prediction) is int or (detail and not detail.keys() <= _BOOLS)):
        return _renamed(answer, bool, _BOOL_TEXTS)
    return answer


def _renamed(answer: Prediction, kind: type, names: dict[str, str]) -> Prediction:
    """An answer whose classes true and false, or 1 and 0, are of `kind`; others stay as they are."""
    prediction, detail = answer.prediction, answer.detail
    if type(prediction) in (bool, int) and prediction in (0, 1):
        prediction = kind(prediction)
    if detail and not names.keys().isdisjoint(detail):
        detail = {names.get(name, name): p for name, p in detail.items()}
    return Prediction(prediction, answer.member, detail, answer.finite)


def _source(record: Record) -> dict[str, Any]:
    return {"topic": record.topic, "partition": record.partition, "offset": record.offset}


def _key_bytes(key: str | int | None) -> bytes | None:
    return None if key is None else str(key).encode()


def passed_on(headers: Headers) -> Headers:
    """The input's headers that travel with the output: in order, up to `MAX_HEADER_BYTES` in all."""
    if not headers:
        return headers
    passed: list[tuple[str, bytes | None]] = []
    room = MAX_HEADER_BYTES
    for name, value in headers:
        if name == ORDER_HEADER:
            continue
        room -= header_bytes(name, value)
        if room >= 0:
            passed.append((name, value))
    return tuple(passed)


def dead_letter(record: Record, refusal: Refusal) -> Output:
    """The refused record with its bytes untouched and the reason in headers.

    Header names are Kafka Connect's (KIP-298), which existing tools show. A record too large to publish
    loses its value (and its key, when that alone is too large) and says so in `streamlearn.truncated`.
    """
    reasons: list[tuple[str, bytes | None]] = [
        ("__connect.errors.topic", record.topic.encode()),
        ("__connect.errors.partition", b"%d" % record.partition),
        ("__connect.errors.offset", b"%d" % record.offset),
        ("__connect.errors.exception.class.name", f"streamlearn.{refusal.reason}".encode()),
        ("__connect.errors.exception.message", REASONS[refusal.reason].encode()),
        ("streamlearn.stage", refusal.stage.encode()),
    ]
    if refusal.feature:
        reasons.append(("streamlearn.feature", refusal.feature[:MAX_NAME_CHARS].encode()))
    key, value = record.key, record.value
    size = len(key or b"") + len(value or b"")
    if size > MAX_OUTPUT_BYTES:
        reasons.append(("streamlearn.truncated", b"%d" % size))
        value = None
        if key is not None and len(key) > MAX_OUTPUT_BYTES:
            key = None
    return Output("dlq", record.partition, key, value, passed_on(record.headers) + tuple(reasons))


def scores_report(memory: Memory, scores: Scores, joiner: LabelJoiner | None) -> dict[str, Any]:
    """`Scores.report`, and as members `join` (labels on a topic of their own), `labels_lost` (of labels that
    were refused or of no use: counts by outcome) and `frozen` and `frozen_at` (why learning stands
    still, and since which record), where there is any.
    """
    report = scores.report()
    if joiner is not None:
        report["join"] = joiner.report()
    lost = {outcome: count for outcome, count in memory.outcomes.items() if outcome.startswith(_LOST)}
    if lost:
        report["labels_lost"] = lost
    if memory.frozen:
        report |= {"frozen": memory.frozen, "frozen_at": memory.frozen_at}
    return report
