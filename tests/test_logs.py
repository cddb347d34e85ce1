"""Logs: one JSON object a line, the clients' in the same form, and no secret in any of them."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from streamlearn.env import RealEnv
from streamlearn.errors import ConfigError
from streamlearn.observe import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logging.getLogger("kafka").level)
    yield io.StringIO()
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    logging.getLogger("kafka").setLevel(before[2])
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_object(stream: io.StringIO) -> None:
    logs.setup(RealEnv(), stream)
    structlog.get_logger().info("checkpoint.written", size_bytes=3)
    (line,) = lines(stream)
    assert list(line) == ["timestamp", "level", "event", "size_bytes"]
    assert line["timestamp"].endswith("Z")
    assert (line["level"], line["event"], line["size_bytes"]) == ("info", "checkpoint.written", 3)


def test_the_clients_logs_have_the_same_form_and_are_quiet(stream: io.StringIO) -> None:
    logs.setup(RealEnv(), stream)
    client = logging.getLogger("kafka.net")
    client.warning("no route to %s", "host")
    client.info("connected")
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["logger"]) == ("no route to host", "warning", "kafka.net")


def test_the_kafka_client_never_logs_at_debug(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMLEARN_LOG_LEVEL", "debug")
    logs.setup(RealEnv(), stream)
    client = logging.getLogger("kafka.net")
    client.debug("sending the password")
    client.info("connected")
    structlog.get_logger().debug("loop.turned")
    assert [line["event"] for line in lines(stream)] == ["connected", "loop.turned"]


def test_no_secret_is_written(stream: io.StringIO) -> None:
    logs.setup(RealEnv(), stream)
    log = structlog.get_logger()
    log.info(
        "a.b", password="hunter2", api_key="hunter2", options={"sasl.password": "hunter2"}, key=b"hunter2"
    )
    log.info("login with sasl_plain_password='hunter2', token=hunter2")
    logging.getLogger("kafka").warning("config {'ssl_password': 'hunter2'}", extra={"secret": "hunter2"})
    try:
        raise ValueError("password=hunter2")
    except ValueError:
        log.exception("loop.failed")
    assert "hunter2" not in stream.getvalue()
    assert len(lines(stream)) == 4
    assert "ValueError" in lines(stream)[3]["exception"]


def test_a_terminal_gets_readable_lines_without_local_variables(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    logs.setup(RealEnv(), stream)
    hidden = "hunter" + "2"
    try:
        raise ValueError(f"not shown: {len(hidden)}")
    except ValueError:
        structlog.get_logger().exception("loop.failed", commit_ms=5)
    text = stream.getvalue()
    assert "loop.failed" in text
    assert "commit_ms=5" in text
    assert "hunter2" not in text
    assert "\x1b" not in text


def test_a_level_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMLEARN_LOG_LEVEL", "loud")
    with pytest.raises(ConfigError, match="STREAMLEARN_LOG_LEVEL is 'LOUD': set it to one of DEBUG"):
        logs.setup(RealEnv())
