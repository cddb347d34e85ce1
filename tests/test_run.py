"""Records in a row: `Runner` comes to the same outputs and state as `Shard.begin`, whatever the stream."""

import inspect
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from river import anomaly, cluster, linear_model, naive_bayes, preprocessing, tree

from streamlearn.core.events import common
from streamlearn.core.events.common import common_reader
from streamlearn.core.events.event import EventSpec
from streamlearn.core.events.mapping import compile_decoder
from streamlearn.core.labels.record import LabelSpec
from streamlearn.core.model.learner import Learner
from streamlearn.core.records import Output, Record, Skip
from streamlearn.core.scores.scores import ScoresSpec
from streamlearn.core.shard import joined, run
from streamlearn.core.shard.commands import FREEZE, GUARD_RESET, RESET_LABEL, THAW, Command, encode_command
from streamlearn.core.shard.facts import published
from streamlearn.core.shard.run import Runner
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.snapshot import dump_state, load_state
from streamlearn.core.shard.state import Memory, ShardSpec
from streamlearn.core.shard.work import Failure, Ran
from streamlearn.errors import ModelRaised

NOW_MS = 1_700_000_000_000
TRUSTED = frozenset({__name__})


class Moody(naive_bayes.GaussianNB):
    """Raises at some events, and answers others with NaN."""

    def predict_proba_one(self, x: dict[Any, Any]) -> dict[Any, float]:  # type: ignore[override]
        if x.get("a", 0.0) > 2.0:
            raise ValueError("a is too large")
        answer = super().predict_proba_one(x)
        return {y: float("nan") for y in answer} if (x.get("b") or 0.0) > 1.8 else answer

    def learn_one(self, x: dict[Any, Any], y: Any) -> None:  # type: ignore[override]
        super().learn_one(x, y)
        if x.get("a", 0.0) < -2.0:
            raise ValueError("a is too small")


MODELS: dict[str, Callable[[], Any]] = {
    "logistic": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    "linear": lambda: preprocessing.StandardScaler() | linear_model.LinearRegression(),
    "bayes": naive_bayes.GaussianNB,
    "tree": lambda: tree.HoeffdingTreeClassifier(grace_period=20),
    "softmax": linear_model.SoftmaxRegression,
    "half space": lambda: preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(seed=1, n_trees=3, height=3),
    "means": lambda: cluster.KMeans(n_clusters=2, seed=1),
    "moody": Moody,
}
SPECS: dict[str, EventSpec] = {
    "envelope": EventSpec(),
    "seconds": EventSpec(time_unit="s", key="key", duplicates=20),
    "flat": EventSpec(features="*", key="key"),
    "listed": EventSpec(features=("a", "b", "t"), time="when", duplicates=50),
    "texts": EventSpec(time_unit="rfc3339", group="team"),
    "mapped": EventSpec(where="a > -3", features="*"),
    "moments": EventSpec(time_as="hour"),
}
FAILING = 1_000
"""Seeds from here on have a model that fails now and then."""

COMMON = [SPECS[name] for name in ("envelope", "seconds", "flat", "listed", "texts")]
LABELS: dict[str, Callable[[random.Random, dict[str, Any]], Any]] = {
    "bool": lambda rng, x: x.get("a", 0.0) > 0,
    "int": lambda rng, x: int(x.get("a", 0.0) > 0),
    "str": lambda rng, x: "walk" if x.get("a", 0.0) > 0 else rng.choice(["sit", "lie"]),
    "number": lambda rng, x: rng.choice([2, 3.5]) * float(x.get("b") or 0.0) + 1,
    "none": lambda rng, x: None,
}


def numbers(rng: random.Random) -> dict[str, Any]:
    return {name: rng.gauss(0, 1) for name in "abc"}


def odd_features(rng: random.Random) -> dict[str, Any]:
    x = numbers(rng)
    how = rng.choice([0, 0, 1, 2, 3, 3, 4, 5, 6, 7])
    if how == 0:
        x["b"] = None
    elif how == 1:
        x["t"] = rng.choice(["red", "green", "N/A", "1.5", "a:b"])
    elif how == 2:
        del x["b"]
    elif how == 3:
        x["c"] = rng.choice([7, True, 2**62, -0.0, 1e149, float(2**70)])
    elif how == 4:
        x = dict(reversed(x.items()))
    elif how == 5:
        x["new"] = 1.0
    elif how == 6:
        x["n"] = {"deep": 1}
    else:
        x["l"] = [1, 2]
    return x


def value_of(rng: random.Random, spec: EventSpec, kind: str, n: int, odd: float) -> bytes | None:
    """The value of one record: an event, mostly a common one."""
    x = odd_features(rng) if rng.random() < odd else numbers(rng)
    seconds: Any = 1_690_000_000 + n + rng.choice([0, 0.5])
    if spec.time_unit == "rfc3339":
        seconds = f"2024-01-01T00:{n // 60 % 60:02}:{n % 60:02}Z"
    parts: dict[str, Any] = {"id": f"e{n}", spec.time: seconds}
    y = LABELS[kind](rng, x)
    if y is not None:
        parts["label"] = y
    if rng.random() < odd:
        parts |= rng.choice(
            [
                {"id": rng.randrange(40)},
                {"id": None},
                {"id": True},
                {"id": f"e:{n}"},
                {"id": f"e{n - 1}"},
                {"id": f"e{n - 3}"},
                {"id": f"é{n}"},
                {spec.time: None},
                {spec.time: rng.choice([0, 5, 1e300, 2**40, "2024-01-01T00:00:00Z", "soon", [1]])},
                {spec.time: 4e9},
                {"label": None},
                {"label": rng.choice([True, 1, 0.5, "walk", "x" * 200, 1e40, [1], 2])},
                {"key": rng.choice(["k", 7, None, 1.5, True])},
                {"team": rng.choice(["red", 3, None, 2.5])},
                {"extra": rng.choice([{"deep": 1}, {}, [], [1], "text", "a:b", 2**63, None])},
            ]
        )
    if isinstance(spec.features, str) and spec.features == "features":
        body = {**parts, "features": [*x.values()] if rng.random() < odd / 4 else x}
    else:
        body = {**parts, **x}
    if rng.random() >= odd / 2:
        return orjson.dumps(body, option=orjson.OPT_PASSTHROUGH_SUBCLASS) if _fits(body) else b"{}"
    return rng.choice(
        [
            None,
            b"",
            b"[1]",
            b'{"id": "x", "id": "y", "features": {"a": 1.0, "b": 2.0, "c": 0.0}}',
            b'{"id": "x", "features": {"a": 1.0, "a": 2.0, "b": 2.0, "c": 0.0}}',
            b'{"id": "\\u0041", "features": {"a": 1.0, "b": 2.0, "c": 0.0}}',
            b'{"features": {}}',
            b'{"features": {"a": NaN}}',
            b'{"id": "wide", "features": {"a": 1, "b": 2, "c": 3}, "pad": "' + b"y" * 950_000 + b'"}',
        ]
    )


def _fits(body: Any) -> bool:
    try:
        orjson.dumps(body)
    except orjson.JSONEncodeError:
        return False
    return True


def stream(seed: int, spec: EventSpec, kind: str, labels: LabelSpec | None = None) -> list[Record]:
    """Records of a few partitions, some of them odd, in phases with more and fewer of those."""
    rng = random.Random(seed)
    odd = rng.choice([0.0, 0.05, 0.1, 0.3])
    partitions = rng.choice([1, 1, 3])
    records, waiting, stamp_ms = list[Record](), list[tuple[int, bytes]](), NOW_MS
    for n in range(250):
        partition = rng.randrange(partitions)
        stamp_ms += rng.choice([0, 1, 5, 1000])
        if rng.random() < odd / 2:
            stamp_ms += rng.choice([-3_000, -10_000_000, 2_000_000, 8_000_000])
        at_ms = rng.choice([-1, 0, stamp_ms]) if rng.random() < odd / 4 else stamp_ms
        key = rng.choice([None, b"k", b"\xff\xfe", "ключ".encode()]) if rng.random() < max(odd, 0.2) else None
        headers: tuple[tuple[str, bytes | None], ...] = ()
        if rng.random() < odd:
            headers = (("h", b"1"), ("null", None))
        topic, value = "events", value_of(rng, spec, kind if rng.random() > odd / 4 else "int", n, odd)
        if rng.random() < odd / 8:
            topic, value = "control", encode_command(rng.choice(COMMANDS))
        if labels is not None and topic == "events" and value is not None:
            value, label = apart(rng, labels, value, n)
            waiting.append((n + rng.choice([0, 3, 40, 200]), label))
        records.append(Record(topic, partition, n, at_ms, key, value, headers))
        for due, label in [pair for pair in waiting if pair[0] <= n]:
            waiting.remove((due, label))
            records.append(Record("labels", 0, len(records), at_ms, None, label, ()))
    return records


def apart(rng: random.Random, labels: LabelSpec, value: bytes, n: int) -> tuple[bytes, bytes]:
    """An event mostly without its label, and the label that comes later."""
    try:
        body = orjson.loads(value)
        y = body["label"] if rng.random() < 0.1 else body.pop("label")
    except (ValueError, KeyError, TypeError):
        return value, rng.choice([b"?", b'{"id": "nobody", "label": true}'])
    seconds = 1_690_000_000 + n
    label = {"id": body.get("id"), "label": y, "ts": seconds}
    if labels.join == "group":
        body["team"] = label["group"] = n // 5
    elif labels.join == "interval":
        body["key"] = label["key"] = "k"
        label |= {"from": seconds - rng.choice([0, 3]), "to": seconds + 1}
    if rng.random() < 0.05:
        label |= rng.choice([{"id": None}, {"label": None}, {"label": "odd"}, {"ts": 4e9}, {"id": "nobody"}])
    return orjson.dumps(body), orjson.dumps(label)


COMMANDS = [
    Command(FREEZE),
    Command(THAW),
    Command(THAW),
    Command(RESET_LABEL),
    Command(GUARD_RESET, "a"),
]


def several(*seeds: range) -> list[Any]:
    """More seeds, for the long run."""
    return [pytest.param(seed, marks=pytest.mark.slow) for some in seeds for seed in some]


class Play:
    """A shard that goes through a stream as a service does: what fails is undone and left out."""

    def __init__(self, spec: ShardSpec, model: Any, size: int, runs: bool) -> None:
        self.spec = spec
        self.shard = Shard(spec, Learner(model), Memory())
        self.size = size
        self.runs = runs
        self.outputs: list[Output] = []
        self.failures: list[Skip] = []

    def states(self, records: list[Record]) -> Iterator[dict[str, bytes]]:
        for first in range(0, len(records), self.size):
            chunk, skips = records[first : first + self.size], dict[int, Skip]()
            before = self._saved()
            while (failed := self._stepped(chunk, skips)) is not None:
                index, failure = failed
                assert index not in skips, "what is left out does not fail again"
                skips[index] = failure.skip
                self.failures.append(failure.skip)
                self.shard = load_state(self.spec, before, TRUSTED)
            yield self._saved()

    def _saved(self) -> dict[str, bytes]:
        parts = dump_state(self.shard).items()
        return {name: part if isinstance(part, bytes) else b"".join(part) for name, part in parts}

    def _stepped(self, chunk: list[Record], skips: dict[int, Skip]) -> tuple[int, Failure] | None:
        outputs, index = list[Output](), 0
        runner = Runner(self.shard)
        while index < len(chunk):
            if index in skips:
                outputs += published(self.shard.skip(chunk[index], skips[index].stage, skips[index].reason))
                index += 1
                continue
            end = min([n for n in skips if n > index], default=len(chunk))
            ran = (
                runner.run(chunk, index, end, outputs)
                if self.runs
                else self._begun(chunk[index], index, outputs)
            )
            if ran.failure is not None:
                return ran.next, ran.failure
            assert ran.next > index, "it goes on"
            index = ran.next
            while (work := self.shard.work) is not None:
                try:
                    outputs += published(self.shard.work_on(3))
                except ModelRaised as raised:
                    return index - 1, Failure(Skip(*work.record.place, raised.stage, raised.reason))
        self.outputs += outputs
        return None

    def _begun(self, record: Record, index: int, outputs: list[Output]) -> Ran:
        try:
            outputs += published(self.shard.begin(record, 1))
        except ModelRaised as raised:
            return Ran(index, Failure(Skip(*record.place, raised.stage, raised.reason), raised.__cause__))
        return Ran(index + 1)


def model_for(kind: str, rng: random.Random) -> str:
    if kind == "number":
        return "linear"
    if kind == "none":
        return rng.choice(["half space", "means", "logistic"])
    if kind in ("bool", "int"):
        return rng.choice(["logistic", "bayes", "tree", "half space", "moody", "moody", "softmax", "means"])
    return rng.choice(["bayes", "tree", "moody", "softmax"])


def plays(seed: int, labels: LabelSpec | None = None) -> tuple[Play, Play, list[Record]]:
    rng = random.Random(seed)
    event = rng.choice([*SPECS.values()] if seed % 4 == 0 else COMMON)
    kind = rng.choice([*LABELS])
    scores = rng.choice([None, ScoresSpec(every=7, window=20), ScoresSpec(every=50, window=30)])
    limit = rng.choice([None, None, None, None, None, 90_000, 12_000, 300])
    model, size = model_for(kind, rng), rng.choice([40, 133])
    if seed >= FAILING:
        event, kind, model, limit = SPECS["envelope"], "bool", "moody", rng.choice([None, 300])
    spec = ShardSpec(
        "m", "v", 1, event, control="control", scores=scores, labels=labels, prediction_bytes=limit
    )
    both = [Play(spec, MODELS[model](), size, runs) for runs in (False, True)]
    return both[0], both[1], stream(seed, event, kind, labels)


def difference(seed: int, labels: LabelSpec | None = None) -> str:
    """Where the two ways part, in words; "" where they do not."""
    single, row, records = plays(seed, labels)
    for before, after in zip(single.states(records), row.states(records), strict=True):
        if row.failures != single.failures:
            return f"failures: {row.failures[-3:]}, {single.failures[-3:]}"
        for one_output, row_output in zip(single.outputs, row.outputs, strict=True):
            if one_output != row_output:
                return f"outputs: {one_output}, {row_output}"
        for name, section in before.items():
            if after[name] != section:
                return f"{name}: {section!r}, {after[name]!r}"
    return ""


@pytest.mark.parametrize(
    "seed", [*range(1, 25), FAILING, *several(range(25, 100), range(FAILING + 1, FAILING + 20))]
)
def test_records_in_a_row_come_to_the_same_as_one_by_one(seed: int) -> None:
    assert difference(seed) == ""


LATE = {
    "id": LabelSpec("labels", ttl_ms=60_000.0, early_ttl_ms=20_000.0),
    "default": LabelSpec("labels", ttl_ms=30_000.0, default=True, pending_max=30),
    "group": LabelSpec("labels", join="group", ttl_ms=60_000.0),
    "interval": LabelSpec("labels", join="interval", ttl_ms=60_000.0),
    "at the event": LabelSpec("labels", learn="event", orphans_max_share=0.1),
}


@pytest.mark.parametrize("seed", [*range(1, 4), *several(range(4, 14), range(FAILING, FAILING + 2))])
@pytest.mark.parametrize("late", LATE)
def test_labels_that_come_later_come_to_the_same_in_a_row(late: str, seed: int) -> None:
    assert difference(seed, LATE[late]) == ""
    assert sum(record.topic == "labels" for record in plays(seed, LATE[late])[2]) > 50


@pytest.mark.parametrize("seed", range(12))
def test_a_common_event_is_the_one_that_the_decoder_reads(seed: int) -> None:
    rng = random.Random(seed)
    for spec in SPECS.values():
        read, decode = common_reader(spec), compile_decoder(spec)
        if read is None:
            continue
        records = [record for record in stream(seed, spec, rng.choice([*LABELS])) if record.topic == "events"]
        common = [event for record in records if (event := read(record)) is not None]
        assert len(common) > 100
        for record in records:
            event = read(record)
            assert event is None or event == decode(record)
            assert event is None or [*map(type, event.x.values())] == [*map(type, decode(record).x.values())]


def test_most_records_of_a_common_stream_do_not_go_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, model in (("bool", "logistic"), ("int", "tree"), ("str", "bayes"), ("number", "linear")):
        shard = Shard(
            ShardSpec("m", "v", 1, EventSpec(), scores=ScoresSpec()), Learner(MODELS[model]()), Memory()
        )
        begun = list[Record]()

        def begin(record: Record, units: int, shard: Shard = shard, begun: list[Record] = begun) -> Any:
            begun.append(record)
            return Shard.begin(shard, record, units)

        monkeypatch.setattr(shard, "begin", begin)
        records = [
            Record(
                "events", 0, n, NOW_MS + n, b"key", value_of(random.Random(n), shard.spec.event, kind, n, 0.0)
            )
            for n in range(1_000)
        ]
        assert Runner(shard).run(records, 0, len(records), []) == Ran(len(records))
        assert len(begun) < 100


def test_most_labels_that_come_later_do_not_go_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ShardSpec("m", "v", 1, EventSpec(), labels=LabelSpec("labels"), scores=ScoresSpec())
    shard = Shard(spec, Learner(MODELS["logistic"]()), Memory())
    begun = list[Record]()

    def begin(record: Record, units: int) -> Any:
        begun.append(record)
        return Shard.begin(shard, record, units)

    monkeypatch.setattr(shard, "begin", begin)
    records = list[Record]()
    for n in range(1_000):
        body = orjson.loads(value_of(random.Random(n), spec.event, "bool", n, 0.0) or b"")
        label = orjson.dumps({"id": body["id"], "ts": body["ts"], "label": body.pop("label")})
        records.append(Record("events", 0, n, NOW_MS + n, None, orjson.dumps(body)))
        records.append(Record("labels", 0, n, NOW_MS + n, None, label))
    index = 0
    while index < len(records):
        index = Runner(shard).run(records, index, len(records), []).next
    assert len(begun) < 200


SEEDS = [*range(FAILING, FAILING + 8), *range(40)]
MUTANTS = {
    "a time may be ahead": ("if time_ms is None or time_ms > now_ms + MAX_AHEAD_MS:", "if time_ms is None:"),
    "an id may come twice": ("if event.id in recent or event.id in names:", "if event.id in recent:"),
    "ids are forgotten": ("recent.add(event.id)", "pass"),
    "a label may be of any type": ("if type(y) not in label_types:", "if False:"),
    "a label may be any": ("return y in self._labels or self._is_accepted(y)", "return True"),
    "an answer may be NaN": ("if not answer.finite or type", "if type"),
    "a model that raised goes on": ('raise ModelRaised("learn") from error', "pass"),
    "labels are not counted in answers": (
        "learned += 1\n        memory.failing",
        "pass\n        memory.failing",
    ),
    "arrivals are forgotten": ("clock.now_ms = float(record.timestamp_ms)", "pass"),
    "records are not counted": ("memory.records += last - first", "pass"),
    "a class is not renamed": ("named(answer, labels_type) if is_renamed else answer", "answer"),
    "the last good event is forgotten": ("memory.probe = event", "pass"),
    "answers are not scored": (
        "        if scores is not None:\n            scores.score",
        "        if 0:\n            scores.score",
    ),
    "a frozen model learns": ("is_learning = not memory.frozen", "is_learning = True"),
    "an arrival may be ahead": ("stamp_ms <= now_ms + MAX_AHEAD_MS", "stamp_ms"),
    "reports come late": ("- predicted % scores.spec.every", "+ 1"),
    "a feature may be of any type": ("if not knows(event.x)", "if (knows(event.x), False)[1]"),
    "members may come twice": (
        "if not names_once(value, members, (doc, x) if nested else (doc,)):",
        "if False:",
    ),
    "labels are not counted in reports": ("shard.memory.count(outcome)", "pass"),
    "answers are not captured": ("[] if scores is None else scores.capture(", "[] if 1 else scores.capture("),
    "deadlines are missed": ("if self._joiner.advance(", "if 0 and self._joiner.advance("),
    "the rest of a row is lost": ("outputs += published(self._rest)", "pass"),
    "keys are not spelled": ('.decode("utf-8", "backslashreplace")', '.decode("utf-8", "ignore")'),
}


def test_every_mutant_has_its_place() -> None:
    sources = [inspect.getsource(module) for module in (run, common, joined)]
    counts = {name: [source.count(before) for source in sources] for name, (before, _) in MUTANTS.items()}
    assert [name for name, count in counts.items() if {*count} != {0, 1}] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_of_it_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = MUTANTS[name]
    for module in (run, common, joined):
        source = inspect.getsource(module)
        if before in source:
            assert source.count(before) == 1
            mutant: dict[str, Any] = {"__name__": module.__name__}
            exec(compile(source.replace(before, after), name, "exec"), mutant)
            if module is run:
                monkeypatch.setattr(sys.modules[__name__], "Runner", mutant["Runner"])
            elif module is joined:
                monkeypatch.setattr(run, "JoinedRow", mutant["JoinedRow"])
            else:
                monkeypatch.setattr(run, "common_reader", mutant["common_reader"])
            break
    else:
        raise AssertionError("the code has changed")
    assert any(is_found(seed) for seed in SEEDS)


def is_found(seed: int) -> bool:
    """True if a mutant shows in this stream: by another outcome, or by a failure of its own."""
    try:
        return difference(seed) != "" or any(difference(seed, labels) for labels in LATE.values())
    except (AssertionError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return True
