"""One fault, two faults: at any call of the port, nothing is lost, repeated or different, and no checkpoint
says what the journal does not.
"""

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from river import linear_model, preprocessing

from streamlearn.errors import Fenced, NotOwner, StreamlearnError, Unknown, Unreachable
from tests.faulty_log import (
    Fault,
    Faults,
    Harness,
    Killed,
    fails,
    is_fenced,
    is_slow,
    is_taken_over,
    loses_membership,
    stops,
)

Event = dict[str, Any]


def logistic() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def events(n: int, start: int = 0) -> list[Event]:
    rng = random.Random(start)
    made = []
    for i in range(start, start + n):
        x = {"a": rng.gauss(0, 1), "b": rng.gauss(0, 1)}
        made.append({"id": f"e{i}", "ts": 1.7e9 + i, "features": x, "label": x["a"] > x["b"]})
    return made


def expected(stream: list[Event]) -> list[tuple[str, Any, int]]:
    model = logistic()
    answers = []
    for learned, event in enumerate(stream):
        answers.append((event["id"], model.predict_proba_one(event["features"])[True], learned))
        model.learn_one(event["features"], event["label"])
    return answers


def published(app: Harness) -> list[tuple[str, Any, int]]:
    return [(p["id"], p["probabilities"]["true"], p["model"]["learned"]) for p in app.predictions()]


@pytest.fixture
def app(tmp_path: Path) -> Harness:
    return Harness(tmp_path, model=logistic)


def audit(app: Harness, stream: list[Event]) -> None:
    """After a last life without faults, everything is as if nothing had happened."""
    app.run()
    app.check_checkpoints()
    assert published(app) == expected(stream)


def test_a_stop_while_the_shard_is_fenced_checkpoints_nothing_that_was_not_published(app: Harness) -> None:
    stream = events(700)
    app.produce(stream[:300])
    app.run()
    app.produce(stream[300:600])

    def fenced_and_stopped(faults: Faults) -> None:
        is_fenced(faults)
        stops(faults)

    app.run(Fault("publish", 0, fenced_and_stopped))
    app.check_checkpoints()
    app.produce(stream[600:])
    audit(app, stream)


def test_a_stop_in_a_later_recovery_checkpoints_nothing_of_the_ownership_before(app: Harness) -> None:
    stream = events(600)
    app.produce(stream[:300])
    app.run()
    app.produce(stream[300:])

    def membership_lapses(faults: Faults) -> None:
        faults.left.append(Fault("owned", faults.calls["owned"] + 1, loses_membership, "instead"))
        raise Unknown("no answer")

    app.run(Fault("publish", 2, membership_lapses), Fault("open", 1, stops, "after"))
    app.check_checkpoints()
    audit(app, stream)


@pytest.mark.parametrize("method", ["open", "entries", "read", "topics", "store.read", "owned"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_stop_at_any_moment_of_a_start_is_a_success(app: Harness, method: str, when: str) -> None:
    stream = events(400)
    app.produce(stream)
    with pytest.raises(Killed):
        app.run(Fault("publish", 4, fails(Killed()), "after"))  # so that there is something to redo
    for call in range(4):
        app.run(Fault(method, call, stops, when))  # raises nothing
        app.check_checkpoints()
    audit(app, stream)


METHODS = (
    *("open", "owned", "topics", "poll", "publish", "publish", "publish", "read", "entries", "reached"),
    *("trim", "sync", "store.write", "store.names", "store.read"),
)


def one_fault(rng: random.Random) -> Fault:
    """Any method, any of its first calls, anything that its contract lets happen there."""
    method = rng.choice(METHODS)
    general: list[tuple[Callable[[Faults], Any], str]] = [
        *((do, when) for do in (stops, is_slow) for when in ("before", "after")),
        *((fails(Killed()), when) for when in ("before", "after")),
    ]
    if not method.startswith("store."):  # those are called in another thread, which holds no log
        general += [(do, when) for do in (is_fenced, is_taken_over) for when in ("before", "after")]
    particular: dict[str, list[tuple[Callable[[Faults], Any], str]]] = {
        "open": [(fails(Unreachable("away")), "before"), (fails(Fenced("newer")), "after")],
        "owned": [(loses_membership, "instead"), (fails(Unreachable("away")), "before")],
        "topics": [(fails(Unreachable("away")), "before")],
        "poll": [(fails(Unreachable("away")), "before"), (fails(Unreachable("away")), "after")],
        "publish": [
            *((fails(error), when) for error in (Unknown("lost"),) for when in ("before", "after")),
            *((fails(Unknown("lost")), when) for when in ("before", "after")),
            (fails(Fenced("newer")), "before"),
        ],
        "read": [(fails(Unreachable("away")), "before")],
        "entries": [(fails(Unreachable("away")), "before")],
        "store.write": [(fails(Unreachable("away")), when) for when in ("before", "after")],
        "store.read": [(fails(Unreachable("away")), "before")],
        "store.names": [(fails(Unreachable("away")), "before")],
    }
    do, when = rng.choice([*general, *particular.get(method, []), *particular.get(method, [])])
    few = {"publish": 9, "poll": 12, "read": 6, "entries": 6, "owned": 12}
    return Fault(method, rng.randrange(few.get(method, 3)), do, when)


@pytest.mark.parametrize(
    "seed", [*range(20), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(20, 300))]
)
def test_any_two_faults_lose_repeat_and_change_nothing(app: Harness, seed: int) -> None:
    rng = random.Random(seed)
    stream = events(500)
    fed = 0
    for _life in range(3):
        app.produce(stream[fed : fed + 150])
        fed += 150
        faults = [one_fault(rng), one_fault(rng)]
        if rng.random() < 0.5:
            app.model = logistic
        with suppress(Killed, StreamlearnError, NotOwner):  # a process may end; what it leaves must be true
            app.run(*faults)
        app.check_checkpoints()
    app.produce(stream[fed:])
    audit(app, stream)
