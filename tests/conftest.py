"""What all tests share: the real Kafka broker they may use, and names of their own on it.

Invariants:
- A test that needs Kafka is marked `kafka` and gets the address from the fixture `kafka`; it is skipped,
  and counted in one loud line, when `STREAMLEARN_TEST_KAFKA` names no broker.
- With `CI=true` a skipped Kafka test makes the run fail: a green run there means they all ran.
"""

import os
import uuid

import pytest

BROKER_VARIABLE = "STREAMLEARN_TEST_KAFKA"
NO_BROKER = f"{BROKER_VARIABLE} names no broker"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "kafka" in getattr(item, "fixturenames", ()) and item.get_closest_marker("kafka") is None:
            raise pytest.UsageError(f"{item.nodeid} uses the broker: mark it with @pytest.mark.kafka")
        if item.get_closest_marker("kafka") is not None and not os.environ.get(BROKER_VARIABLE):
            item.add_marker(pytest.mark.skip(reason=NO_BROKER))


@pytest.fixture(scope="session")
def kafka() -> str:
    """The bootstrap address, `host:port`, of a broker that these tests may fill with topics."""
    return os.environ[BROKER_VARIABLE]


@pytest.fixture
def topic_prefix() -> str:
    """An app name that no other test uses, `t-<random>`: the prefix of topics, group and transactions."""
    return f"t-{uuid.uuid4().hex[:12]}"


def skipped_kafka_tests(reporter: pytest.TerminalReporter) -> int:
    return sum(NO_BROKER in str(report.longrepr) for report in reporter.stats.get("skipped", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    count = skipped_kafka_tests(terminalreporter)
    if count:
        line = f"{count} KAFKA TESTS SKIPPED: {NO_BROKER}; scripts/test starts one, or scripts/kafka start"
        terminalreporter.write_line(line, red=True, bold=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    assert isinstance(reporter, pytest.TerminalReporter)
    if os.environ.get("CI") == "true" and skipped_kafka_tests(reporter) and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
