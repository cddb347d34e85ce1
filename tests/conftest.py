"""What all tests share: the real Kafka broker and the real browser they may use, and names of their own.

Invariants:
- A test that needs Kafka is marked `kafka` and gets the address from the fixture `kafka`; it is skipped,
  and counted in one loud line, when `STREAMLEARN_TEST_KAFKA` names no broker.
- A test that needs a browser is marked `browser`, and is skipped so when there is no Chromium on PATH.
- With `CI=true` such a skipped test makes the run fail: a green run there means they all ran.
"""

import os
import uuid
from typing import cast

import pytest

from streamlearn.log.kafka import ClientName
from tests.browser import BROWSERS, browser_path

BROKER_VARIABLE = "STREAMLEARN_TEST_KAFKA"
NO_BROKER = f"{BROKER_VARIABLE} names no broker"
NO_BROWSER = f"none of {', '.join(BROWSERS)} is on PATH"
NEEDS = (
    ("KAFKA", NO_BROKER, "scripts/test starts one, or scripts/kafka start"),
    ("BROWSER", NO_BROWSER, "scripts/test installs one, or scripts/browser"),
)


SLOW_S = 7200.0
"""What a test that is marked `slow` may take; `timeout` in pyproject.toml holds for all others."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") is not None:
            item.add_marker(pytest.mark.timeout(SLOW_S))
        if "kafka" in getattr(item, "fixturenames", ()) and item.get_closest_marker("kafka") is None:
            raise pytest.UsageError(f"{item.nodeid} uses the broker: mark it with @pytest.mark.kafka")
        if item.get_closest_marker("kafka") is not None and not os.environ.get(BROKER_VARIABLE):
            item.add_marker(pytest.mark.skip(reason=NO_BROKER))
        if item.get_closest_marker("browser") is not None and browser_path() is None:
            item.add_marker(pytest.mark.skip(reason=NO_BROWSER))


@pytest.fixture(scope="session")
def kafka() -> str:
    """The bootstrap address, `host:port`, of a broker that these tests may fill with topics."""
    return os.environ[BROKER_VARIABLE]


@pytest.fixture(params=["kafka-python", pytest.param("confluent", marks=pytest.mark.slow)])
def kafka_client(request: pytest.FixtureRequest) -> ClientName:
    """Each of the clients, as `[log] client` names them."""
    return cast(ClientName, request.param)


@pytest.fixture
def topic_prefix() -> str:
    """An app name that no other test uses, `t-<random>`: the prefix of topics, group and transactions."""
    return f"t-{uuid.uuid4().hex[:12]}"


def skipped_for(reporter: pytest.TerminalReporter, reason: str) -> int:
    return sum(reason in str(report.longrepr) for report in reporter.stats.get("skipped", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for what, reason, remedy in NEEDS:
        count = skipped_for(terminalreporter, reason)
        if count:
            terminalreporter.write_line(
                f"{count} {what} TESTS SKIPPED: {reason}; {remedy}", red=True, bold=True
            )


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return  # one of several processes: the one that hears of all tests decides
    assert isinstance(reporter, pytest.TerminalReporter)
    skipped = sum(skipped_for(reporter, reason) for _, reason, _ in NEEDS)
    if os.environ.get("CI") == "true" and skipped and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
