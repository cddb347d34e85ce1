"""What happened at a record, as values: one outcome each, whom labels are about, and the bytes of it all."""

from collections import Counter
from typing import Any

import orjson
import pytest
from river import naive_bayes, tree

from streamlearn.core.events.event import EventSpec
from streamlearn.core.labels.record import LabelSpec
from streamlearn.core.model.learner import Learner
from streamlearn.core.records import Output, Record, RecordPlace
from streamlearn.core.scores.scores import ScoresSpec
from streamlearn.core.shard.commands import FREEZE, Command, encode_command
from streamlearn.core.shard.facts import (
    Alerted,
    Commanded,
    Expired,
    Fact,
    Facts,
    Frozen,
    Labelled,
    Learned,
    Predicted,
    Refused,
    Reported,
    Skipped,
    published,
)
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.snapshot import dump_state, load_state
from streamlearn.core.shard.state import Memory, ShardSpec

NOW_MS = 1_700_000_000_000


class Stream:
    """A shard with labels on a topic of their own; records of any topic, each topic numbered from 0."""

    def __init__(self, model: Any = None, **labels: Any) -> None:
        spec = ShardSpec(
            "m",
            "v",
            1,
            EventSpec(carry=("id",)),
            control="control",
            labels=LabelSpec("labels", **labels),
            scores=ScoresSpec(every=3),
        )
        self.shard = Shard(spec, Learner(model or naive_bayes.GaussianNB()), Memory())
        self.offsets: Counter[str] = Counter()

    def step(self, topic: str, value: bytes | None = None, **doc: Any) -> Facts:
        offset = self.offsets[topic]
        self.offsets[topic] += 1
        data = value if value is not None or not doc else orjson.dumps(doc)
        return self.shard.step(Record(topic, 3, offset, NOW_MS, None, data))

    def event(self, ident: str, time_s: float, **more: Any) -> Facts:
        return self.step("events", id=ident, ts=1_600_000_000 + time_s, features={"a": time_s}, **more)

    def restart(self) -> None:
        parts = {
            name: part if isinstance(part, bytes) else b"".join(part)
            for name, part in dump_state(self.shard).items()
        }
        self.shard = load_state(self.shard.spec, parts, frozenset())


def outcomes(facts: Facts, record: RecordPlace) -> list[Fact]:
    """Those of the facts that are the record's outcome."""
    return [
        fact
        for fact in facts
        if isinstance(fact, Predicted | Refused | Skipped | Commanded)
        or (isinstance(fact, Labelled) and fact.place == record)
    ]


def test_every_record_has_one_outcome_and_it_is_among_its_facts() -> None:
    stream = Stream(ttl_ms=60_000, early_ttl_ms=60_000)
    seen: list[Facts] = []
    for topic, value in [
        ("events", b'{"id":"a","ts":1600000000,"features":{"x":1}}'),
        ("labels", b'{"id":"a","label":true}'),
        ("labels", b'{"id":"a","label":true}'),
        ("labels", b'{"id":"b","label":false}'),
        ("events", b'{"id":"b","ts":1600000001,"features":{"x":1}}'),
        ("events", b'{"id":"c","ts":1600000002,"features":{"x":1},"label":true}'),
        ("events", b'{"id":"d","ts":1600000003,"features":{"x":2}}'),
        ("events", b'{"id":"e","ts":1600000900,"features":{"x":3}}'),
        ("events", b'{"id":"f","ts":1600000901,"features":[1'),
        ("events", None),
        ("labels", b"{}"),
        ("control", encode_command(Command(FREEZE))),
        ("control", b"?"),
    ]:
        at = (topic, 3, stream.offsets[topic])
        facts = stream.step(topic, value)
        assert len(outcomes(facts, at)) == 1, (topic, value, facts)
        seen.append(facts)
    kinds = {type(fact) for facts in seen for fact in facts}
    assert kinds == {
        Predicted, Refused, Skipped, Commanded, Labelled, Learned, Expired, Frozen, Reported
    }  # fmt: skip
    counted = sum(stream.shard.memory.outcomes.values())
    assert counted == len(seen)
    roles = [output.role for facts in seen for output in published(facts)]
    assert Counter(roles) == {"predictions": 5, "dlq": 3, "scores": 1}


@pytest.mark.parametrize("restarts", [False, True])
def test_a_label_and_the_end_of_a_wait_say_whose_they_are(restarts: bool) -> None:
    stream = Stream(ttl_ms=60_000)
    for n in range(2_000):  # more than a segment: most of them are packed
        stream.event(f"e{n}", n / 1000)
    if restarts:
        stream.restart()
    (learned, labelled) = stream.step("labels", id="e7", label=True)[:2]
    assert isinstance(learned, Learned) and isinstance(labelled, Labelled)
    assert (learned.place, learned.label, learned.y) == (("events", 3, 7), ("labels", 3, 0), True)
    assert labelled.place == ("labels", 3, 0)
    assert stream.step("labels", id="later", label=False)[0].record.offset == 1
    if restarts:
        stream.restart()
    facts = stream.event("later", 3.0)
    early = [fact for fact in facts if isinstance(fact, Learned)]
    assert [(fact.place, fact.label, fact.y) for fact in early] == [
        (("events", 3, 2000), ("labels", 3, 1), False)
    ]
    facts = (*stream.event("end", 61.0005), *stream.event("end2", 61.5))  # at most 1,000 end at a record
    over = [fact for fact in facts if isinstance(fact, Expired)]
    assert not any(fact.dropped for fact in over)
    assert [fact.place for fact in over] == [("events", 3, n) for n in range(1_500) if n != 7]


def test_too_many_that_wait_say_who_is_dropped() -> None:
    stream = Stream(pending_max=2)
    found = [stream.event(f"e{n}", float(n)) for n in range(4)]
    dropped = [fact for facts in found for fact in facts if isinstance(fact, Expired)]
    assert [(fact.place, fact.dropped) for fact in dropped] == [
        (("events", 3, 0), True),
        (("events", 3, 1), True),
    ]


def test_a_default_is_learned_of_the_event_that_ended() -> None:
    stream = Stream(ttl_ms=1_000, default=True)
    stream.event("a", 0.0)
    facts = stream.event("b", 5.0)
    ended, learned = (fact for fact in facts if isinstance(fact, Expired | Learned))
    assert isinstance(ended, Expired) and isinstance(learned, Learned)
    assert ended.place == learned.place == ("events", 3, 0)
    assert (learned.y, learned.label, learned.record.offset) == (True, None, 1)


def test_a_redone_record_has_the_same_facts() -> None:
    lives = []
    for restarts in (False, True):
        stream = Stream(tree.HoeffdingTreeClassifier(grace_period=20))
        facts: list[Fact] = []
        for n in range(300):
            facts += stream.event(f"e{n}", float(n), **({} if n % 3 else {"label": n % 2 == 0}))
            if n % 3 == 1:
                facts += stream.step("labels", id=f"e{n - 1 + n % 2}", label=True)
            if restarts and n % 50 == 49:
                stream.restart()
        lives.append(facts)
    assert len(lives[0]) > 500
    assert lives[0] == lives[1]


def test_the_scores_and_alerts_are_facts_with_what_they_say() -> None:
    stream = Stream(orphans_max_share=0.1)
    facts: list[Fact] = []
    for n in range(2_000):
        facts += stream.step("labels", id=f"nobody{n}", label=True)
        facts += stream.event(f"e{n}", n * 10.0, label=n % 2 == 0)
    reports = [fact for fact in facts if isinstance(fact, Reported)]
    alerts = [fact for fact in facts if isinstance(fact, Alerted)]
    assert reports and alerts
    for fact in [*reports, *alerts]:
        said = orjson.loads(fact.output.value or b"")
        plain = orjson.loads(orjson.dumps(fact.report if isinstance(fact, Reported) else fact.alert))
        assert {name: said[name] for name in plain} == plain
    assert all(isinstance(output, Output) for output in published(facts))
