"""What outlives the ownership of a shard, and when facts leave it."""

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest

from streamlearn.core.shard.facts import Facts, Predicted
from streamlearn.engine import checkpoints
from streamlearn.env import RealEnv
from streamlearn.errors import Fenced, Unknown, Unreachable
from streamlearn.log.backends import open_store
from streamlearn.log.embedded.log import EmbeddedLog
from streamlearn.service.process import Process
from tests.faulty_log import Fault, Faults, FaultyLog, FaultyStore, Harness, Killed, fails
from tests.test_faults import audit, events, logistic
from tests.test_memory import Touchy

KEPT = {"_failures", "_last"}
"""The tally of failures, and the newest snapshot of the task that ended."""


def listened(app: Harness, *faults: Fault) -> list[Facts]:
    """The facts of a life, entry by entry."""
    ordered = Faults(app, *faults)
    heard: list[Facts] = []
    env = RealEnv()
    inner = EmbeddedLog(env, app.config.names(), app.config.log.path, 7 * 86400)
    log, store = FaultyLog(inner, ordered), FaultyStore(open_store(env, app.config, 0), ordered)
    ordered.process = Process(env, app.config, app.fresh(), log, store, "", outlet=heard.append)  # type: ignore[arg-type]
    try:
        ordered.process.run()
    finally:
        inner.close()
    return heard


def predicted(heard: list[Facts]) -> list[str]:
    return [str(fact.event.id) for facts in heard for fact in facts if isinstance(fact, Predicted)]


def test_a_process_keeps_two_things_across_its_tasks() -> None:
    tree = ast.parse(inspect.getsource(Process))
    methods = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assigned = {
        (method.name, node.attr)
        for method in methods
        for node in ast.walk(method)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    assert {name for method, name in assigned if method != "__init__"} == {"_last"}
    at_hand = {"_model_change", "_begin", "_outlet", "_stop", "_heartbeat", "_resources"}
    assert {name for method, name in assigned if method == "__init__"} == KEPT | at_hand | {"_tasks"}


@pytest.mark.parametrize("error", [Unknown("no answer"), Fenced("a newer owner")])
def test_facts_of_an_entry_leave_once_and_only_when_it_is_known_committed(
    tmp_path: Path, error: Exception
) -> None:
    app = Harness(tmp_path, model=logistic)
    stream = events(500)
    app.produce(stream)
    heard = listened(app, Fault("publish", 4, fails(error), "before"))
    assert predicted(heard) == [event["id"] for event in stream]
    assert [len(facts) for facts in heard if facts].count(100) == 10, "a prediction and what was learned"
    audit(app, stream)


def test_an_entry_without_an_answer_and_what_is_redone_give_no_facts(tmp_path: Path) -> None:
    app = Harness(tmp_path, model=logistic)
    stream = events(500)
    app.produce(stream)
    heard = listened(app, Fault("publish", 4, fails(Unknown("no answer")), "after"))
    gone = [event["id"] for event in stream[150:200]]
    assert predicted(heard) == [event["id"] for event in stream if event["id"] not in gone]
    app.produce(events(100, 500))
    with pytest.raises(Killed):
        listened(app, Fault("publish", 0, fails(Killed()), "after"))
    assert predicted(listened(app)) == [f"e{n}" for n in range(550, 600)]
    audit(app, stream + events(100, 500))


def test_facts_of_what_was_undone_are_those_of_the_dead_letter(tmp_path: Path) -> None:
    app = Harness(tmp_path, model=Touchy)
    stream: list[Any] = events(60)
    stream[30]["features"]["poison"] = 1.0
    app.produce(stream)
    heard = listened(app)
    assert predicted(heard) == [event["id"] for event in stream if "poison" not in event["features"]]
    letters = [fact for facts in heard for fact in facts if type(fact).__name__ == "Refused"]
    assert [letter.record.offset for letter in letters] == [30]


def test_a_journal_that_cannot_be_trimmed_keeps_no_facts_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "REDO_S", 0.0)
    monkeypatch.setattr(checkpoints, "WORK_PER_COST", 0)
    app = Harness(tmp_path, model=logistic)
    stream = events(500)
    app.produce(stream)
    heard = listened(app, *(Fault("trim", n, fails(Unreachable("the broker went away"))) for n in range(3)))
    assert predicted(heard) == [event["id"] for event in stream]
    audit(app, stream)
