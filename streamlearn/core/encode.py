"""What the shard publishes, as bytes: predictions, dead letters, scores, alerts.

Invariant: the bytes are a function of the records and the state alone, in the order of the contract.
"""

from typing import Any, Final

import orjson

from streamlearn.core.events import (
    HEADER_BYTES,
    MAX_HEADER_BYTES,
    MAX_OUTPUT_BYTES,
    REASONS,
    Event,
    Refusal,
)
from streamlearn.core.learner import Answer
from streamlearn.core.records import ORDER_HEADER, Headers, Output, Record, header_name_bytes

MAX_NAME_CHARS: Final = 256
"""So much of a feature's name goes into a dead letter's header."""

_ANSWERS: Final = frozenset((bool, float, int, str, type(None)))  # and numpy's scalars, whose shape is ()
_JSON_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY


_INTS: Final = {"false": "0", "true": "1"}
_BOOLS_OF: Final = {"0": "false", "1": "true"}
_BOOLS: Final = frozenset(_INTS)


class Encoder:
    """Of one model: what every prediction says in the same bytes is made once, per model and partition."""

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
        self, event: Event, record: Record, answer: Answer, learned: int, labels: str, reason: str = ""
    ) -> Output | Refusal:
        """The published prediction. `labels`: their type, "" when it is not known or does not matter. True is
        1 for a model, so that it may name a class by whichever it saw first; answers are of the labels' type.
        `reason`: why the answer is withheld, "" when it is not.
        """
        prediction, detail = answer.prediction, answer.detail
        if labels == "int":
            prediction, detail = _renamed(prediction, detail, int, _INTS)
        elif labels == "bool" and (type(prediction) is int or (detail and not detail.keys() <= _BOOLS)):
            prediction, detail = _renamed(prediction, detail, bool, _BOOLS_OF)
        if type(prediction) not in _ANSWERS and getattr(prediction, "shape", None) != ():
            return Refusal("predict", "output_type")
        body: dict[str, Any] = {
            "id": event.id,
            "key": event.key,
            "ts": (record.timestamp_ms or None) if event.ts is None else event.ts,
            "prediction": prediction,
        }
        if answer.member:
            body[answer.member] = detail
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


def _renamed(prediction: Any, detail: Any, kind: type, names: dict[str, str]) -> tuple[Any, Any]:
    """An answer whose classes true and false, or 1 and 0, are of `kind`; others stay as they are."""
    if type(prediction) in (bool, int) and prediction in (0, 1):
        prediction = kind(prediction)
    if detail and not names.keys().isdisjoint(detail):
        detail = {names.get(name, name): p for name, p in detail.items()}
    return prediction, detail


def _source(record: Record) -> dict[str, Any]:
    return {"topic": record.topic, "partition": record.partition, "offset": record.offset}


def _key_bytes(key: str | int | None) -> bytes | None:
    return None if key is None else str(key).encode()


def passed_on(headers: Headers) -> Headers:
    """The input's headers that travel with the output: in order, up to `MAX_HEADER_BYTES` in all."""
    if not headers:
        return headers
    kept: list[tuple[str, bytes | None]] = []
    room = MAX_HEADER_BYTES
    for name, value in headers:
        if name == ORDER_HEADER:
            continue
        room -= _header_bytes(name, value)
        if room >= 0:
            kept.append((name, value))
    return tuple(kept)


def headers_bytes(headers: Headers) -> int:
    """What headers take in a record, at most."""
    return sum(_header_bytes(name, value) for name, value in headers)


def _header_bytes(name: str, value: bytes | None) -> int:
    return len(header_name_bytes(name)) + len(value or b"") + HEADER_BYTES


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
