"""A service says what becomes of the topics it writes; a journal that is another one stops it."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from structlog.testing import capture_logs

from streamlearn.errors import Stop, Unreachable
from streamlearn.log.internal_topics import wanted_topics
from streamlearn.log.port import TopicInfo, TopicNames, TopicSpec
from streamlearn.service.health.topics import LOOK_S, Change, TopicWatch, changes, still_hidden
from tests.fake_env import FakeEnv
from tests.service_process import App, Apps, apps

__all__ = ["apps"]

ROLES = {"predictions": "p", "journal": "j", "checkpoints": "c"}


class Log:
    """Stands where a log is; `open`: offsets at which readers stand."""

    def __init__(self) -> None:
        self.ids: dict[str, str] = {"p": "1", "j": "2", "c": "3", "in": "4"}
        self.open: dict[tuple[str, int], int] = {}
        self.away = False

    def topics(self) -> dict[str, TopicInfo]:
        if self.away:
            raise Unreachable("away")
        return {name: TopicInfo(ident, (0,), (0,)) for name, ident in self.ids.items()}

    def hidden_outputs(self) -> dict[tuple[str, int], int]:
        return dict(self.open)

    def open_transactions(self, place: tuple[str, int]) -> str:
        return "producer id 7"


def watched(log: Any) -> Callable[[], list[Any]]:
    """A function that looks once more, when it is time, and returns what was said."""
    env = FakeEnv()
    watch = TopicWatch(env, TopicNames("a", "", ("in",), ROLES), log)

    def look() -> list[Any]:
        env.sleep(LOOK_S)
        with capture_logs() as said:
            watch.after_commit()
        return [(line["event"], line.get("topic"), line.get("state", line.get("holder"))) for line in said]

    return look


def test_ids_tell_what_became_of_a_topic() -> None:
    before = {"p": "1", "j": "2", "c": "3"}
    assert changes(ROLES, before, before) == set()
    assert changes(ROLES, before, {"p": "1", "j": "9"}) == {
        Change("journal", "j", "made again"),
        Change("checkpoints", "c", "deleted"),
    }
    assert changes(ROLES, {"p": "1"}, before) == set(), "a topic that is new was not ours to lose"


def test_only_what_stays_hidden_is_blocked() -> None:
    assert still_hidden({("p", 0): 5, ("p", 1): 5}, {("p", 0): 5, ("p", 1): 6, ("p", 2): 1}) == {("p", 0)}


def test_outputs_that_are_deleted_or_made_again_are_said_once_for_each_state() -> None:
    log = Log()
    look = watched(log)
    assert look() == []
    del log.ids["p"]
    assert [look(), look()] == [[("topic.changed", "p", "deleted")], []]
    log.ids["p"] = "8"
    assert [look(), look()] == [[("topic.changed", "p", "made again")], []]


def test_a_journal_that_was_made_again_stops() -> None:
    log = Log()
    look = watched(log)
    log.ids["j"] = "9"
    with pytest.raises(Stop, match="the journal j was deleted and made again"):
        look()


def test_a_transaction_that_stays_open_is_said_at_the_second_look_and_again_when_it_comes_back() -> None:
    log = Log()
    look = watched(log)
    log.open = {("p", 0): 5}
    assert [look(), look(), look()] == [[], [("output.blocked", "p", "producer id 7")], []]
    log.open = {}
    assert look() == []
    log.open = {("p", 0): 6}
    assert [look(), look()] == [[], [("output.blocked", "p", "producer id 7")]]


def test_a_log_that_is_away_is_looked_at_again_later() -> None:
    log = Log()
    look = watched(log)
    log.away = True
    assert [event for event, *_ in look()] == ["topics.not_watched"]
    log.away = False
    assert look() == []


def wait_for_line(app: App, text: str, feed: int) -> None:
    """Events come, so that there are commits, until the service has said `text`."""
    until_s = time.monotonic() + 60
    while text not in app.log:
        assert time.monotonic() < until_s, app.log[-2000:]
        app.produce([{"features": {"a": float(feed)}, "label": True}])
        time.sleep(0.5)


@pytest.mark.kafka
@pytest.mark.slow
def test_a_running_service_says_that_its_outputs_are_blocked_and_that_its_journal_is_another(
    apps: Apps, kafka: str
) -> None:
    app = apps(kafka)
    event = {"features": {"a": 1.0}, "label": True}
    app.produce([event])
    process = app.serve()
    app.wait(process, 1)
    stranger = Producer({"bootstrap.servers": kafka, "transactional.id": app.config.app.name + ".stranger"})
    stranger.init_transactions(20)
    stranger.begin_transaction()
    stranger.produce(app.config.topics.predictions, b"theirs", partition=0)
    stranger.flush(20)
    wait_for_line(app, '"output.blocked"', 2)
    assert "producer id" in app.log
    stranger.abort_transaction(20)

    journal = app.config.topics.journal
    client = AdminClient({"bootstrap.servers": kafka})
    client.delete_topics([journal])[journal].result(20)
    spec = next(spec for spec in wanted_topics(app.config.names(), 1) if spec.name == journal)
    until_s = time.monotonic() + 20
    while journal in app.admin.topics([journal]):
        assert time.monotonic() < until_s
        time.sleep(0.1)
    app.admin.create([TopicSpec(journal, 1, spec.settings)])
    until_s = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until_s:
        app.produce([event])
        time.sleep(0.5)
    assert process.poll() == 1, app.log[-2000:]
    assert "journal" in app.log.splitlines()[-1]
