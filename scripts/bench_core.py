"""Benchmarks of the pure function: reading (`decode`), scores, and late labels (`join`). No log, no process.

Times are CPU time, in turns with what is compared; see scripts/bench.py.
"""

import gc
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import psutil
from river import linear_model, preprocessing

from streamlearn.core.events.event import EventSpec
from streamlearn.core.events.mapping import compile_decoder
from streamlearn.core.journal import Era
from streamlearn.core.labels.record import LabelSpec
from streamlearn.core.model.learner import Learner
from streamlearn.core.records import Record
from streamlearn.core.scores.scores import Scores, ScoresSpec
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.snapshot import Header, dump_state, seal
from streamlearn.core.shard.state import Memory, ShardSpec

LATE = 200
WAITING = 1_000_000


def flat(values: list[bytes]) -> Iterator[bytes]:
    """The same events without the envelope: every feature a member beside id, time and label."""
    for value in values:
        event = orjson.loads(value)
        yield orjson.dumps(event | event.pop("features"))


def cpu_us(call: Callable[[Any], object], args: list[Any]) -> float:
    """CPU time per call."""
    began_s = time.process_time()
    for arg in args:
        call(arg)
    return (time.process_time() - began_s) / len(args) * 1e6


def decoding(plain: list[bytes], pairs: int) -> dict[str, object]:
    """Median differences to `orjson.loads` in microseconds per event."""
    specs = {
        "plain": (EventSpec(), plain),
        "all_others": (EventSpec(features="*"), list(flat(plain))),
        "list": (EventSpec(features=tuple(f"f{k}" for k in range(8))), list(flat(plain))),
        "everything": (
            EventSpec(features="*", where="f0 < 9 and ts > 0", types={"f1": "float"}, carry=("id",)),
            list(flat(plain)),
        ),
    }
    over: dict[str, object] = {}
    for name, (spec, values) in specs.items():
        records = [Record("events", 0, i, 1 << 50, None, value) for i, value in enumerate(values)]
        decode = compile_decoder(spec)
        turns = [cpu_us(decode, records) - cpu_us(orjson.loads, values) for _ in range(pairs)]
        over[f"{name}_over_loads_us"] = round(statistics.median(turns), 2)
    return over


def scoring(values: list[bytes], pairs: int) -> dict[str, object]:
    """Median differences in microseconds per event, for labels true and false, and 0 and 1."""
    found = [orjson.loads(value) for value in values]
    gc.collect()
    gc.freeze()  # the events of the whole run must not cost the loop any collections
    result: dict[str, object] = {}
    for kind in (bool, int):
        stream = [(event["features"], kind(event["label"])) for event in found]
        bare_us, scored_us = [], []
        for _ in range(pairs):
            for us, scores in ((bare_us, None), (scored_us, Scores(ScoresSpec(), "classification"))):
                learner = Learner(preprocessing.StandardScaler() | linear_model.LogisticRegression())
                us.append(cpu_us(_scored_step(learner, scores), stream))
        over = statistics.median(a - b for a, b in zip(scored_us, bare_us, strict=True))
        result[f"{kind.__name__}_over_us"] = round(over, 2)
        result[f"{kind.__name__}_bare_us"] = round(statistics.median(bare_us), 2)
    return result


def _scored_step(learner: Learner, scores: Scores | None) -> Callable[[Any], None]:
    predict, learn = learner.predict, learner.learn

    def bare(row: Any) -> None:
        x, y = row
        predict(x, y)
        learn(x, y)

    if scores is None:
        return bare
    capture, update, report = scores.capture, scores.update, scores.report

    def scored(row: Any) -> None:
        x, y = row
        update(y, capture(predict(x, y), x))
        learn(x, y)
        if not scores.events % 1000:
            report()

    return scored


def joining(values: list[bytes], pairs: int) -> dict[str, object]:
    """Median difference in microseconds per event, scores off; then what a million waiting events cost."""
    inline = [_record("events", n, value) for n, value in enumerate(values)]
    apart = list(_apart([orjson.loads(value) for value in values]))
    gc.collect()
    gc.freeze()
    over, bare = [], []
    for _ in range(pairs):
        bare.append(cpu_us(_shard(None).step, inline))
        late = _shard(LabelSpec(topic="labels"))
        over.append(cpu_us(late.step, apart) * len(apart) / len(inline) - bare[-1])
    return {
        "over_us": round(statistics.median(over), 2),
        "inline_us": round(statistics.median(bare), 2),
        **_waiting(values),
    }


def _waiting(values: list[bytes]) -> dict[str, object]:
    """A checkpoint of `WAITING` events: the loop's own part, and the longest that its writer holds it up."""
    shard = _shard(LabelSpec(topic="labels", ttl_ms=1e15), ScoresSpec())
    bodies = [orjson.loads(value) for value in values]
    process = psutil.Process(os.getpid())
    before = process.memory_info().rss
    for n in range(WAITING):
        features = bodies[n % len(bodies)]["features"]
        body = {"id": f"event-{n:08d}", "ts": n, "features": features}
        shard.step(_record("events", n, orjson.dumps(body)))
    bytes_each = (process.memory_info().rss - before) / WAITING
    began_s = time.perf_counter()
    sections = dump_state(shard)
    dump_ms = (time.perf_counter() - began_s) * 1e3
    era = Era("genesis", {}, "", "v", 1, {}, {}, [], "")
    writer = threading.Thread(target=seal, args=(Header(1, "00" * 32, 0, era, [], 0), sections))
    longest_s, last_s = 0.0, time.perf_counter()
    writer.start()
    while writer.is_alive():
        now_s = time.perf_counter()
        longest_s, last_s = max(longest_s, now_s - last_s), now_s
    return {
        "waiting": WAITING,
        "bytes_each": round(bytes_each),
        "dump_ms": round(dump_ms, 1),
        "longest_hold_of_the_writer_ms": round(longest_s * 1e3, 1),
    }


def _apart(bodies: list[dict[str, Any]]) -> Iterator[Record]:
    """The events without labels, and each label `LATE` events later."""
    for n, body in enumerate(bodies):
        if n >= LATE:
            label = {"id": bodies[n - LATE]["id"], "label": bodies[n - LATE]["label"], "ts": body["ts"]}
            yield _record("labels", n - LATE, orjson.dumps(label))
        event = {name: part for name, part in body.items() if name != "label"}
        yield _record("events", n, orjson.dumps(event))


def _record(topic: str, offset: int, value: bytes) -> Record:
    return Record(topic, 0, offset, 1 << 50, None, value)


def _shard(labels: LabelSpec | None, scores: ScoresSpec | None = None) -> Shard:
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    return Shard(ShardSpec("m", "v", 1, labels=labels, scores=scores), Learner(model), Memory())
