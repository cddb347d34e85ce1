"""What an era holds, what counts as a change, and where a partition begins."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamlearn.config.schema import Config
from streamlearn.core.events.event import EventSpec
from streamlearn.core.journal import Era
from streamlearn.core.shard.guard import GuardSpec
from streamlearn.engine import era
from streamlearn.engine.era import check_topics, era_now, spec_of, what_changed, with_start
from streamlearn.engine.model import ModelTemplate, model_template
from streamlearn.env import RealEnv
from streamlearn.errors import ConfigError, Stop
from streamlearn.log.port import TopicInfo

FRESH = ModelTemplate("preset:anomaly", "v1", b"", frozenset())
TOPICS = {
    "a": TopicInfo("id-a", (3, 0), (10, 20)),
    "b": TopicInfo("id-b", (5,), (5,)),
    "x.control": TopicInfo("id-x", (1,), (2,)),
}


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


def now(topics: Mapping[str, TopicInfo] = TOPICS, template: ModelTemplate = FRESH, **changes: Any) -> Era:
    return era_now(config(**changes), template, topics, "")


def start(how: str, known: dict[tuple[str, int], int], log: Any = None) -> list[tuple[str, int, int]]:
    """Of the inputs; for commands see the last test."""
    found = with_start(RealEnv(), log, config(start=how), now(), TOPICS, known).start
    return [one for one in found if one[0] != "x.control"]


def test_an_era_holds_all_that_a_step_depends_on() -> None:
    era = now(event={"time_unit": "ms", "label": "truth"}, model={"horizon": 24})
    spec = spec_of(msgspec.json.decode(msgspec.json.encode(era), type=Era))
    assert (spec.model_name, spec.model_version, spec.revision) == ("preset:anomaly", "v1", 1)
    assert spec.horizon == 24
    assert spec.event == EventSpec(time_unit="ms", label="truth")
    assert era.topics == {"a": ("id-a", 2), "b": ("id-b", 1), "x.control": ("id-x", 1)}
    assert (spec.control, spec.guard) == ("x.control", GuardSpec())
    assert {"python", "river", "numpy", "streamlearn"} <= era.versions.keys()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, ""),
        ({"template": FRESH._replace(version="v2")}, "model"),
        ({"event": {"label": "truth"}}, "configuration"),
        ({"input": ["a"]}, "configuration, topics"),
        ({"input": ["b", "a"]}, ""),
        ({"topics": TOPICS | {"b": TopicInfo("id-b", (5, 0), (5, 0))}}, "topics"),
        ({"transaction": {"max_records": 7}}, ""),
        ({"checkpoint": {"keep": 2}}, ""),
        ({"model": {"accelerate": False}}, ""),
        ({"dlq": {"max_share": 0.1}}, ""),
        ({"guard": {"names": 5}}, "configuration"),
    ],
)
def test_a_change_is_what_changes_a_step(change: dict[str, Any], says: str) -> None:
    assert what_changed(now(), now(**change)) == says


def test_an_era_does_not_know_which_way_its_events_go() -> None:
    assert now(model={"accelerate": False}) == now()


def test_other_versions_or_another_floating_point_are_changes() -> None:
    replaced = msgspec.structs.replace(now(), versions={"river": "9"}, fingerprint="0")
    assert what_changed(now(), replaced) == "versions, floating point"


def test_an_input_topic_that_is_not_there_is_named_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"input topic b does not exist.*topics ensure"):
        now({name: info for name, info in TOPICS.items() if name != "b"})


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


def test_an_era_holds_the_schemas_text_and_old_eras_have_no_mapping(tmp_path: Path) -> None:
    file = tmp_path / "a.avsc"
    file.write_text('{"type": "record", "name": "A", "fields": []}')
    assert spec_of(now(event={"schema_file": str(file)})).event.schema == file.read_text()
    old = {"id": "id", "key": "", "time": "ts", "time_unit": "auto", "features": "features", "label": "label"}
    assert msgspec.convert(old, EventSpec) == EventSpec()
    mapped = {"features": ["a", "b.c"], "types": {"a": "int"}, "carry": ["d"], "duplicates": 5}
    spec = spec_of(msgspec.json.decode(msgspec.json.encode(now(event=mapped)), type=Era)).event
    assert spec == EventSpec(features=("a", "b.c"), types={"a": "int"}, carry=("d",), duplicates=5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read as text: .*No such file"),
        ("{", "the schema is not JSON"),
        ('{"type": "record", "name": "A", "fields": [{"name": "b", "type": "A"}]}', "A contains itself"),
    ],
)
def test_a_schema_file_that_cannot_be_used_is_named(tmp_path: Path, text: str | None, says: str) -> None:
    file = tmp_path / "a.avsc"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=rf"schema_file = .*a\.avsc.*{says}"):
        now(event={"schema_file": str(file)})


def test_without_the_extra_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(era, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"pip install fastavro"):
        now(event={"schema_registry": "http://r:1"})


@pytest.mark.parametrize("how", ["latest", "earliest"])
def test_commands_begin_at_their_first_record_wherever_events_begin(how: str) -> None:
    for known in ({}, {("a", 0): 7, ("a", 1): 9, ("b", 0): 5}):
        assert ("x.control", 0, 1) in with_start(
            RealEnv(), Clocked(), config(start=how), now(), TOPICS, known
        ).start


def test_an_era_from_before_there_was_a_guard_is_redone_without_one() -> None:
    era = now()
    old = {name: value for name, value in era.config.items() if name not in ("guard", "control")}
    spec = spec_of(msgspec.structs.replace(era, config=old))
    assert (spec.guard, spec.control) == (None, "")


@pytest.mark.parametrize(
    ("use", "default"),
    [
        ("river.linear_model:LinearRegression", float("nan")),
        ("river.linear_model:LinearRegression", "false"),
        ("river.linear_model:LogisticRegression", "nope"),
        ("river.anomaly:HalfSpaceTrees", 3),
        ("river.tree:HoeffdingTreeClassifier", "x" * 200),
    ],
)
def test_a_default_label_that_the_model_could_never_learn_is_refused_at_the_start(
    use: str, default: Any
) -> None:
    settings = config(labels={"default": default})
    settings = settings.model_copy(update={"topics": settings.topics.model_copy(update={"labels": "b"})})
    with pytest.raises(ConfigError, match=r"\[labels\] default = .* could learn"):
        era_now(settings, model_template("x", use, {}, []), TOPICS, "")
