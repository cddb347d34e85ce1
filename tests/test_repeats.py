"""What repeats in the log is told once a minute, and nothing that is new is held back."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from streamlearn.observe import logs, repeats
from streamlearn.observe.repeats import CAUSES_MAX, QUIET_S, Repeats, is_away
from tests.fake_env import FakeEnv


@pytest.fixture
def clock() -> FakeEnv:
    return FakeEnv()


@pytest.fixture
def out(clock: FakeEnv) -> Iterator[io.StringIO]:
    stream, root = io.StringIO(), logging.getLogger()
    handlers, level, kafka = root.handlers[:], root.level, logging.getLogger("kafka").level
    logs.setup(clock, stream)
    yield stream
    root.handlers, root.level = handlers, level
    logging.getLogger("kafka").setLevel(kafka)
    structlog.reset_defaults()


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_cause_is_told_at_once_then_once_a_minute_with_what_was_held_back(clock: FakeEnv) -> None:
    seen = Repeats(clock)
    assert [seen.since("a") for _ in range(3)] == [0, None, None]
    assert seen.since("b") == 0
    clock.now_s += QUIET_S - 1
    assert seen.since("a") is None
    clock.now_s += 1
    assert [seen.since("a"), seen.since("a")] == [3, None]


def test_no_more_causes_are_remembered_than_the_bound(clock: FakeEnv) -> None:
    seen = Repeats(clock)
    for number in range(CAUSES_MAX * 2):
        seen.since(number)
    assert len(seen._told) == CAUSES_MAX
    assert seen.since(0) == 0, "it was forgotten, and is told again"


def test_all_that_the_client_says_of_an_outage_is_one_line_of_ours(out: io.StringIO, clock: FakeEnv) -> None:
    for number in range(20):
        logging.getLogger("kafka.cluster").warning("No node available for metadata refresh - backoff/retry")
        logging.getLogger("kafka.net.manager").error("Connection failed: %s", f"111 ECONNREFUSED {number}")
        logging.getLogger("kafka.net.selector").warning("Task <coroutine object f at 0x7f> ran for 0.1s")
    clock.now_s += QUIET_S
    logging.getLogger("kafka.net.manager").error("Connection failed: ECONNREFUSED")
    first, second = lines(out)
    assert (first["event"], first["logger"], first["level"]) == ("kafka.away", "kafka.cluster", "warning")
    assert first["said"] == "No node available for metadata refresh - backoff/retry"
    assert (second["event"], second["held_back"]) == ("kafka.away", 39)


def test_what_the_broker_refuses_is_no_outage_and_each_kind_is_told(out: io.StringIO) -> None:
    kafka = logging.getLogger("kafka.net.connection")
    for attempt in range(3):
        kafka.error("Connection failed: authentication of user %d", attempt)
        kafka.error("Topic %s not found in cluster metadata", "a")
        kafka.error("Topic %s not found in cluster metadata", "b")
    assert [line["event"] for line in lines(out)] == [
        "Connection failed: authentication of user 0",
        "Topic a not found in cluster metadata",
        "Topic b not found in cluster metadata",
    ]
    assert not is_away("SSL handshake failed: certificate expired, disconnecting")


def test_our_own_lines_are_held_back_by_reason_and_a_change_is_told(out: io.StringIO, clock: FakeEnv) -> None:
    log = structlog.get_logger()
    for attempt in range(5):
        log.warning("log.away", reason=f"no answer in {attempt} s", tries=attempt)
    log.warning("log.away", reason="no such topic", tries=6)
    log.warning("publish.unknown", reason="no such topic", seq=1)
    clock.now_s += QUIET_S
    log.warning("log.away", reason="no answer in 9 s", tries=7)
    assert [(line["event"], line.get("tries"), line.get("held_back")) for line in lines(out)] == [
        ("log.away", 0, None),
        ("log.away", 6, None),
        ("publish.unknown", None, None),
        ("log.away", 7, 4),
    ]


def test_facts_are_never_held_back(out: io.StringIO) -> None:
    for offset in range(3):
        structlog.get_logger().warning("model.raised", offset=offset)
        logging.getLogger("some.other").warning("said")
    assert len(lines(out)) == 6


def test_at_debug_the_slow_tasks_are_told(
    clock: FakeEnv, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("STREAMLEARN_LOG_LEVEL", "DEBUG")
    out = request.getfixturevalue("out")
    logging.getLogger("kafka.net.selector").warning("Task %r ran for %.3fs", "x", 0.1)
    assert repeats.is_clients("kafka.net") and len(lines(out)) == 1
