"""Names of headers that are no text: Kafka takes any bytes, so one odd producer must not stop a reader."""

import json
from pathlib import Path

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import CorruptRecordError

from streamlearn.core.journal import GENESIS, chain
from streamlearn.core.records import Headers, Output, Record, header_name
from streamlearn.history.formats.record_json import line, parse
from streamlearn.log.port import ProducerRecord
from tests.command import Command as Run
from tests.command import command
from tests.service_process import App, Apps, apps, every_backend

__all__ = ["apps", "command", "every_backend"]

ODD = header_name(b"\xff\xfe")
HEADERS: Headers = ((ODD, b"1"), ("trace", b"2"), ("m\u00fcll", None))


def event(number: int, **more: object) -> bytes:
    return json.dumps({"id": f"e{number}", "features": {"a": number}, "label": number % 2, **more}).encode()


def test_a_name_goes_into_a_line_of_json_and_comes_back() -> None:
    record = Record("t", 0, 1, 2, None, b"v", HEADERS)
    written = json.loads(line(record))["headers"]
    assert written[0] == {"name": "\\xff\\xfe", "name_base64": "//4=", "value": "1"}
    assert written[2] == {"name": "m\u00fcll", "value": None}
    assert parse(line(record)) == record


def test_a_text_that_looks_like_a_spelled_name_is_another_name() -> None:
    record = Record("t", 0, 1, 2, None, b"v", (("\\xff\\xfe", b""),))
    assert parse(line(record)) == record


def test_digests_tell_odd_names_apart() -> None:
    def digest(name: str) -> str:
        return chain(GENESIS, [Output("dlq", 0, None, b"v", ((name, b"1"),))])

    assert digest(ODD) != digest(header_name(b"\xff\xfd"))
    assert digest("trace") == ("1f8617766cd95dd2bbb2637007200222d49d2ac3deb56a1401ec3a30e0fa45d7")


def test_an_event_with_such_a_name_is_predicted_passed_on_and_redone(apps: Apps, backend: str) -> None:
    app = apps(backend, **{"checkpoint.interval_s": 3600})
    bad = [ProducerRecord(None, b"not JSON", HEADERS)]
    app.admin.append(
        app.inputs[0],
        [
            ProducerRecord(None, event(0)),
            ProducerRecord(None, event(1), HEADERS),
            ProducerRecord(None, event(2)),
            *bad,
        ],
    )
    process = app.serve()
    app.wait(process, 4)
    process.kill()
    process.wait()
    app.produce([event(3)])
    process = app.serve()
    app.wait(process, 5)
    app.stop(process)
    predictions = app.records(app.config.topics.predictions)
    assert [record.headers for record in predictions] == [(), HEADERS, (), ()]
    (letter,) = app.dead_letters()
    assert letter.headers[:3] == HEADERS


def test_every_command_reads_a_topic_with_such_names(
    apps: Apps, backend: str, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")  # explain need not start the process again
    app = apps(backend)
    where = ["-b", backend] if backend else ["--db", app.folder / "log.db"]
    topic, name = app.inputs[0], app.config.app.name
    app.admin.append(topic, [ProducerRecord(None, event(n), HEADERS) for n in range(30)])
    app.admin.append(topic, [ProducerRecord(None, b"not JSON", HEADERS)])
    process = app.serve()
    app.wait(process, 31)
    app.stop(process)
    tailed = command.ok("tail", topic, "-o", "beginning", "--json", *where).splitlines()
    assert json.loads(tailed[0])["headers"][0]["name"] == "\\xff\\xfe"
    command.ok("tail", topic, "-o", "beginning", *where)
    command.ok("look", topic, *where)
    command.ok("record", "-t", topic, "-o", "all.jsonl", *where)
    assert parse(Path("all.jsonl").read_bytes().splitlines()[0]) is not None
    assert "decode.not_json" in command.ok("dlq", "list", "-n", name, *where)
    assert "\\xff\\xfe" in command.ok("dlq", "show", "0:0", "-n", name, *where)
    model = ["-m", "app_models:logistic", "--app-dir", app.folder]
    assert "e3" in command.ok("explain", "e3", "-n", name, *model, *where)
    command.ok("dlq", "retry", "-n", name, *where)


@pytest.mark.kafka
def test_the_name_really_goes_out_as_those_bytes(apps: Apps, kafka: str) -> None:
    app: App = apps(kafka)
    app.admin.append(app.inputs[0], [ProducerRecord(None, b"x", HEADERS)])
    consumer = KafkaConsumer(bootstrap_servers=kafka, group_id=None)
    consumer.assign([place := TopicPartition(app.inputs[0], 0)])
    consumer.seek(place, 0)
    with pytest.raises(CorruptRecordError, match="UnicodeDecodeError"):
        consumer.poll(10_000)
    consumer.close()
