"""An output over what its topic takes is one dead letter, the others go on, and a redo decides alike."""

from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from streamlearn.core.events.event import MAX_HEADER_BYTES, MAX_OUTPUT_BYTES, Event, Refusal
from streamlearn.core.model.learner import Prediction
from streamlearn.core.records import Headers, Output, Record
from streamlearn.core.shard.encode import Encoder, headers_bytes
from streamlearn.engine.era import era_now, spec_of
from tests.service_process import Apps, apps
from tests.test_eras import FRESH, TOPICS, config

__all__ = ["apps"]

HEADERS: Headers = (("trace", b"1234"),)


def predicted(limit: int | None, headers: Headers = HEADERS) -> Output | Refusal:
    record = Record("t", 0, 1, 2, None, b"{}", headers)
    answer = Prediction(True, "", None, True)
    found = Encoder("m", "v", 1, False, limit).prediction(
        Event("e", None, None, {}, None), record, answer, 0, ""
    )
    return found if isinstance(found, Refusal) else found.output


def test_the_limit_counts_the_value_and_the_headers_and_is_inclusive() -> None:
    whole = predicted(None)
    assert isinstance(whole, Output)
    size = len(whole.value or b"") + headers_bytes(HEADERS)
    assert predicted(size) == whole
    assert predicted(size - 1) == Refusal("guard", "output_too_large")


def test_only_a_limit_that_is_lower_than_ours_is_part_of_the_era() -> None:
    enough = MAX_OUTPUT_BYTES + MAX_HEADER_BYTES

    def era(limit: int | None) -> Any:
        return era_now(config(), FRESH, TOPICS, "", limit)

    assert era(None) == era(enough) == era(enough + 1)
    assert era(enough - 1).config_hash != era(None).config_hash
    assert spec_of(era(2000)).prediction_bytes == 2000
    assert spec_of(era(None)).prediction_bytes is None


def set_limit(kafka: str, topic: str, limit: int) -> None:
    entry = ConfigEntry("max.message.bytes", str(limit), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    client = AdminClient({"bootstrap.servers": kafka})
    for done in client.incremental_alter_configs([resource]).values():
        done.result(20)


@pytest.mark.kafka
def test_ten_events_of_which_one_answers_too_long(apps: Apps, kafka: str) -> None:
    app = apps(kafka, **{"checkpoint.interval_s": 3600, "transaction.max_records": 4})
    set_limit(kafka, app.config.topics.predictions, 2000)
    event = {"features": {"a": 1.0}, "label": True}
    app.produce([{**event, "id": "x" * 2500 if n == 4 else f"e{n}"} for n in range(10)])
    process = app.serve()
    app.wait(process, 10)
    process.kill()
    process.wait()
    process = app.serve()
    app.produce([{**event, "id": "last"}])
    app.wait(process, 11)
    app.stop(process)
    assert len(app.predictions()) == 10
    (letter,) = app.dead_letters()
    assert dict(letter.headers)["__connect.errors.exception.class.name"] == b"streamlearn.output_too_large"

    set_limit(kafka, app.config.topics.predictions, 1_048_588)  # the long answer of a later event passes
    app.produce([{**event, "id": "y" * 2500}])
    process = app.serve()
    app.wait(process, 12)
    app.stop(process)
    assert len(app.predictions()) == 11
    assert "redo.diverged" not in app.log


@pytest.mark.kafka
def test_a_dead_letter_over_the_limit_of_its_topic_stops_and_names_topic_and_setting(
    apps: Apps, kafka: str
) -> None:
    app = apps(kafka)
    set_limit(kafka, app.config.topics.dlq, 2000)
    app.produce([b"x" * 5000])
    process = app.serve()
    assert process.wait(60) == 1
    assert f"for {app.config.topics.dlq} is over its max.message.bytes (2000)" in app.log
