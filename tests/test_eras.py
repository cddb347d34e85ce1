"""What an era holds, what counts as a change, and where a partition begins."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from streamlearn.core.events import EventSpec
from streamlearn.core.records import Era
from streamlearn.errors import ConfigError, Stop
from streamlearn.log.port import TopicInfo
from streamlearn.service.eras import check_topics, era_now, spec_of, start_of, what_changed
from streamlearn.service.models import FreshModel
from streamlearn.settings import Config

FRESH = FreshModel("preset:anomaly", "v1", b"", frozenset())
TOPICS = {"a": TopicInfo("id-a", (3, 0), (10, 20)), "b": TopicInfo("id-b", (5,), (5,))}


class Clocked:
    """The one question an era asks a log."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def offsets_at(self, topic: str, timestamp_ms: int) -> tuple[int, ...]:
        self.asked.append((topic, timestamp_ms))
        return tuple(end - 1 for end in TOPICS[topic].end)


def config(**changes: Any) -> Config:
    sections: dict[str, Any] = {
        "app": {"name": "x"},
        "topics": {"input": changes.pop("input", ["a", "b"]), "start": changes.pop("start", "earliest")},
    }
    return Config(**sections, **changes)


def now(topics: Mapping[str, TopicInfo] = TOPICS, fresh: FreshModel = FRESH, **changes: Any) -> Era:
    return era_now(config(**changes), fresh, topics, "")


def start(how: str, known: dict[tuple[str, int], int], log: Any = None) -> list[tuple[str, int, int]]:
    return start_of(log, config(start=how), now(), TOPICS, known).start


def test_an_era_holds_all_that_a_step_depends_on() -> None:
    era = now(event={"time_unit": "ms", "label": "truth"})
    spec = spec_of(msgspec.json.decode(msgspec.json.encode(era), type=Era))
    assert (spec.model_name, spec.model_version, spec.revision) == ("preset:anomaly", "v1", 1)
    assert spec.event == EventSpec(time_unit="ms", label="truth")
    assert era.topics == {"a": ("id-a", 2), "b": ("id-b", 1)}
    assert {"python", "river", "numpy", "streamlearn"} <= era.versions.keys()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, ""),
        ({"fresh": FRESH._replace(version="v2")}, "model"),
        ({"event": {"label": "truth"}}, "configuration"),
        ({"input": ["a"]}, "configuration, topics"),
        ({"input": ["b", "a"]}, ""),
        ({"topics": TOPICS | {"b": TopicInfo("id-b", (5, 0), (5, 0))}}, "topics"),
        ({"transaction": {"max_records": 7}}, ""),
        ({"checkpoint": {"keep": 2}}, ""),
    ],
)
def test_a_change_is_what_changes_a_step(change: dict[str, Any], says: str) -> None:
    assert what_changed(now(), now(**change)) == says


def test_other_versions_or_another_floating_point_are_changes() -> None:
    replaced = msgspec.structs.replace(now(), versions={"river": "9"}, fingerprint="0")
    assert what_changed(now(), replaced) == "versions, floating point"


def test_an_input_topic_that_is_not_there_is_named_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"input topic b does not exist.*topics ensure"):
        now({"a": TOPICS["a"]})


@pytest.mark.parametrize(
    ("info", "says"),
    [
        (TopicInfo("other", (3, 0), (10, 20)), "topic a was deleted and made again.*id-a, now other"),
        (TopicInfo("id-a", (3,), (10,)), "topic a had 2 partitions and now has 1"),
    ],
)
def test_a_topic_that_is_another_one_stops_the_service(info: TopicInfo, says: str) -> None:
    with pytest.raises(Stop, match=says):
        check_topics(now(), now(TOPICS | {"a": info}))


def test_more_partitions_and_new_topics_are_welcome() -> None:
    check_topics(now(), now(TOPICS | {"a": TopicInfo("id-a", (3, 0, 0), (10, 20, 0))}))
    check_topics(now(input=["a"]), now())


def test_the_start_is_resolved_once_for_all_partitions() -> None:
    assert start("earliest", {}) == [("a", 0, 3), ("a", 1, 0), ("b", 0, 5)]
    assert start("latest", {}) == [("a", 0, 10), ("a", 1, 20), ("b", 0, 5)]


@pytest.mark.parametrize("how", ["latest", "-1h"])
def test_what_comes_later_begins_at_its_first_record(how: str) -> None:
    assert start(how, {("a", 0): 7}) == [("a", 1, 0), ("b", 0, 5)]
    assert start(how, {("a", 0): 7, ("a", 1): 9, ("b", 0): 5}) == []


def test_a_start_in_time_asks_the_log() -> None:
    log = Clocked()
    assert start("2026-01-01T00:00:00Z", {}, log) == [("a", 0, 9), ("a", 1, 19), ("b", 0, 4)]
    assert log.asked == [("a", 1_767_225_600_000), ("b", 1_767_225_600_000)]
    assert start("-1h", {}, log)[0] == ("a", 0, 9)
