"""The mapping in a service that is killed, and schemas from a registry that answers, lacks, or is away."""

import io
import json
import random
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fastavro
import pytest

from streamlearn.core.events.registry import Schema
from streamlearn.core.model.learner import Learner
from streamlearn.core.records import Record
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.state import Memory, ShardSpec
from streamlearn.engine import registry as schemas_module
from streamlearn.engine.driver import ShardDriver
from streamlearn.engine.registry import Schemas
from streamlearn.errors import NeedSchema, Stop, Unreachable
from tests.fake_env import FakeEnv
from tests.service_process import App, Apps, apps
from tests.test_mapping import Keeps
from tests.test_presets_mapping import REGISTRY
from tests.test_service import answers, logistic, plain_loop

__all__ = ["apps"]

SENSOR = {
    "type": "record",
    "name": "Reading",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "f0", "type": "double"},
        {"name": "f1", "type": "double"},
        {"name": "label", "type": "boolean"},
    ],
}


def rows(n: int, seed: int = 1) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    made = []
    for i in range(n):
        x = {"f0": rng.gauss(0, 1), "f1": rng.gauss(0, 1)}
        made.append({"id": f"e{i}", **x, "label": x["f0"] > x["f1"]})
    return made


def as_events(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"id": row["id"], "features": {"f0": row["f0"], "f1": row["f1"]}, "label": row["label"]}
        for row in found
    ]


def killed_and_served(app: App, parts: list[list[Any]], outcomes: list[int]) -> None:
    """Produce each part, and kill the service somewhere in it; in the last one it is stopped gracefully."""
    rng = random.Random(5)
    done = 0
    for part, expected in zip(parts[:-1], outcomes, strict=False):
        app.produce(part)
        process = app.serve()
        app.wait(process, done + rng.randrange(1, expected - done))
        process.kill()
        process.wait()
        done = expected
    app.produce(parts[-1])
    process = app.serve()
    app.wait(process, outcomes[-1])
    app.stop(process)


# --- where and duplicates -------------------------------------------------------------------------------


def test_after_kills_a_filtered_stream_with_repeats_is_what_an_uninterrupted_run_makes(apps: Apps) -> None:
    rng = random.Random(3)
    wanted = rows(1200)
    stream: list[dict[str, Any]] = []
    for n, row in enumerate(wanted):
        stream.append({"kind": "reading", **row})
        if rng.random() < 0.3:
            stream.append({"kind": "status", **row})
        if rng.random() < 0.3:  # sent again, up to forty events later
            stream.append({"kind": "reading", **wanted[rng.randrange(max(0, n - 40), n + 1)]})
    mapping = {
        "event.features": ["f0", "f1"],
        "event.where": "kind == 'reading'",
        "event.duplicates": 100,
        "event.carry": ["kind"],
    }
    app = apps("", **mapping)
    third = len(stream) // 3
    parts = [stream[:third], stream[third : 2 * third], stream[2 * third :]]
    ends = [len({row["id"] for row in stream[:end]}) for end in (third, 2 * third, len(stream))]
    killed_and_served(app, parts, ends)
    assert answers(app.predictions()) == plain_loop(logistic(), as_events(wanted))
    assert {p["carry"]["kind"] for p in app.predictions()} == {"reading"}
    assert "redo.finished" in app.log and "redo.diverged" not in app.log
    stopped = next(line for line in reversed(app.log.splitlines()) if '"service.stopped"' in line)
    counts = json.loads(stopped)["outcomes"]
    assert counts["skip.where"] == sum(row["kind"] == "status" for row in stream)
    assert sum(counts.values()) == len(stream)


# --- the registry ---------------------------------------------------------------------------------------


class Registry:
    """A schema registry as far as a reader needs one. `answers`: status and body by path."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, object]] = {}
        self.asked: list[tuple[str, str]] = []
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.asked.append((self.path, self.headers.get("Authorization", "")))
                missing = (404, {"error_code": 40403, "message": "Schema not found"})
                status, body = registry.answers.get(self.path, missing)
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_words: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def registry() -> Iterator[Registry]:
    made = Registry()
    yield made
    made.close()


def framed(ident: int, row: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(SENSOR), row)
    return b"\x00" + ident.to_bytes(4, "big") + out.getvalue()


def shard() -> Shard:
    return Shard(ShardSpec("m", "v", 1, REGISTRY), Learner(Keeps()), Memory())


def schemas(url: str) -> Schemas:
    return Schemas(FakeEnv(), url)


def test_records_of_an_unknown_schema_are_dead_letters_also_when_the_registry_learns_it_later(
    apps: Apps, registry: Registry
) -> None:
    registry.answers["/schemas/ids/1"] = (200, {"schema": json.dumps(SENSOR)})
    app = apps("", **{"event.schema_registry": registry.url, "event.features": ["f0", "f1"]})
    stream = rows(600)
    values = [framed(2 if n % 50 == 7 else 1, row) for n, row in enumerate(stream)]
    good = [row for n, row in enumerate(stream) if n % 50 != 7]
    app.produce(values[:300])
    process = app.serve()
    app.wait(process, 300)
    process.kill()
    process.wait()
    registry.answers["/schemas/ids/2"] = (200, {"schema": json.dumps(SENSOR)})
    app.produce(values[300:])
    process = app.serve()
    app.wait(process, 600)
    app.stop(process)
    assert "redo.diverged" not in app.log
    letters = app.dead_letters()
    reasons = {dict(letter.headers)["__connect.errors.exception.class.name"] for letter in letters}
    assert reasons == {b"streamlearn.schema_unknown"}
    assert [letter.value for letter in letters] == values[7:300:50]
    later = [row for n, row in enumerate(stream) if n % 50 != 7 or n >= 300]
    assert len(later) == 600 - 6 and len(good) < len(later)
    assert answers(app.predictions()) == plain_loop(logistic(), as_events(later))


def test_a_stop_while_the_registry_does_not_answer_is_a_success(apps: Apps, registry: Registry) -> None:
    app = apps("", **{"event.format": "avro", "event.schema_registry": registry.url})
    registry.answers["/schemas/ids/7"] = (503, "busy")
    app.produce([framed(7, {"id": "a", "f0": 1.0, "f1": 1.0, "label": True})])
    process = app.serve()
    deadline_s = time.monotonic() + 60
    while "schema.waiting" not in app.log:
        assert process.poll() is None, app.log
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    began_s = time.monotonic()
    app.stop(process)
    assert time.monotonic() - began_s < 30, "it waits a minute for a registry, but not when it is to stop"


def test_an_undo_within_a_batch_keeps_its_unknown_schemas_dead(apps: Apps, registry: Registry) -> None:
    registry.answers["/schemas/ids/1"] = (200, {"schema": "{}", "schemaType": "JSON"})
    app = apps(
        "",
        **{"event.schema_registry": registry.url, "event.features": "*", "model.use": "app_models:touchy"},
    )
    stream = rows(300)
    values = [json.dumps(row | ({"poison": 1} if n == 150 else {})).encode() for n, row in enumerate(stream)]
    app.produce(
        [b"\x00\x00\x00\x00" + (b"\x02" if n in (20, 140) else b"\x01") + v for n, v in enumerate(values)]
    )
    process = app.serve()
    app.wait(process, 300)
    app.stop(process)
    assert len(app.dead_letters()) == 3
    kept = [row for n, row in enumerate(stream) if n not in (20, 140, 150)]
    assert answers(app.predictions()) == plain_loop(logistic(), as_events(kept))


def test_a_schema_is_fetched_once_with_those_it_refers_to(registry: Registry) -> None:
    registry.answers = {
        "/schemas/ids/1": (
            200,
            {"schema": "outer", "references": [{"name": "b", "subject": "b/v", "version": 3}]},
        ),
        "/subjects/b%2Fv/versions/3": (
            200,
            {"schema": "b", "references": [{"name": "c", "subject": "c", "version": 1}]},
        ),
        "/subjects/c/versions/1": (200, {"schema": "c"}),
    }
    subject, fetched = schemas(registry.url.replace("//", "//me:p%40ss@")), [shard(), shard()]
    for one in fetched:
        assert subject.supply(one, "1")
        assert one.schemas == {"1": Schema("AVRO", "outer", ("c", "b"))}
    assert [path for path, _ in registry.asked] == list(registry.answers)
    assert {word for _, word in registry.asked} == {"Basic bWU6cEBzcw=="}


def test_a_guid_is_asked_for_as_one(registry: Registry) -> None:
    guid = "89791762-2336-4049-9f3b-f9d0cc9b6f5a"
    registry.answers[f"/schemas/guids/{guid}"] = (200, {"schema": "{}", "schemaType": "JSON"})
    subject = shard()
    assert schemas(registry.url).supply(subject, guid)
    assert subject.schemas[guid].kind == "JSON"


def test_an_unknown_id_is_asked_for_once_in_a_while(registry: Registry) -> None:
    subject = schemas(registry.url)
    assert [subject.supply(shard(), "5") for _ in range(3)] == [False] * 3
    assert len(registry.asked) == 1


def test_a_step_that_needs_a_schema_leaves_the_state_as_it_was() -> None:
    subject = shard()
    with pytest.raises(NeedSchema):
        subject.step(Record("t", 0, 0, 0, None, framed(1, rows(1)[0])))
    assert subject.memory == Memory()


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_registry_that_refuses_stops_the_service_with_what_to_check(
    registry: Registry, status: int
) -> None:
    registry.answers["/schemas/ids/1"] = (status, b"<html>no</html>")
    with pytest.raises(Stop, match=f"answered {status}.*check its address and credentials"):
        schemas(registry.url).supply(shard(), "1")


@pytest.mark.parametrize("answer", [(500, {}), (200, b"<html>"), (200, [1]), (429, {})])
def test_a_registry_that_does_not_answer_is_waited_for_and_then_named(
    registry: Registry, answer: tuple[int, object]
) -> None:
    env = FakeEnv()
    registry.answers["/schemas/ids/1"] = answer
    with pytest.raises(Unreachable, match=r"cannot be asked for /schemas/ids/1.*Nothing is lost"):
        Schemas(env, registry.url).supply(shard(), "1")
    assert len(registry.asked) > 1
    assert schemas_module.PATIENCE_S - 2.0 <= env.slept_s <= schemas_module.PATIENCE_S


def test_a_schema_that_was_there_before_must_be_there_in_redo(registry: Registry) -> None:
    with pytest.raises(Stop, match=r"no longer has the schema 1.*record 4 of t-0"):
        ShardDriver(shard(), schemas(registry.url)).again(
            Record("t", 0, 4, 0, None, framed(1, rows(1)[0])), None
        )
    with pytest.raises(Stop, match=r"set \[event\] schema_registry again"):
        ShardDriver(shard(), schemas("")).again(Record("t", 0, 4, 0, None, framed(1, rows(1)[0])), None)
