"""Dead letters: listed, shown, sent back after a fix, and the stop when there are too many of them."""

import json
import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from streamlearn.core.events.event import Refusal
from streamlearn.core.records import Headers, Record
from streamlearn.core.shard.dead_letter_rate import FEW, WINDOW, Letter, note_dead_letter, stop_message
from streamlearn.core.shard.encode import dead_letter
from streamlearn.env import RealEnv
from streamlearn.log.embedded.admin import EmbeddedAdmin
from streamlearn.log.port import ProducerRecord
from streamlearn.studies.dead_letters import parse_letter, retry_record
from tests.command import Command as Run
from tests.command import command
from tests.service_process import App, Apps, apps, backend

__all__ = ["apps", "backend", "command"]

NOW_MS = 1_700_000_000_000
TYPE = Refusal("guard", "feature_type", "temp")
JSON = Refusal("decode", "not_json")


def refused(refusal: Refusal, value: bytes = b"v", headers: Headers = (), **where: Any) -> Record:
    """A record of a dlq topic, as a service makes it."""
    record = Record("events", where.get("partition", 0), 7, NOW_MS, b"k", value, headers)
    output = dead_letter(record, refusal)
    return Record(
        "streamlearn.dlq", 0, where.get("offset", 0), NOW_MS, output.key, output.value, output.headers
    )


# --- one letter -----------------------------------------------------------------------------------------


def test_a_letter_is_read_back_as_it_was_written() -> None:
    letter = parse_letter(refused(TYPE, partition=3, offset=12))
    assert letter is not None
    assert (letter.topic, letter.partition, letter.offset) == ("events", 3, 7)
    assert (letter.stage, letter.reason, letter.feature) == ("guard", "feature_type", "temp")
    assert (letter.retries, letter.truncated, letter.place) == (0, False, "0:12")


def test_a_record_that_is_no_letter_is_none() -> None:
    assert parse_letter(Record("d", 0, 0, NOW_MS, None, b"x")) is None
    odd: Headers = tuple((name, b"x") for name, _ in refused(JSON).headers)
    assert parse_letter(Record("d", 0, 0, NOW_MS, None, b"x", odd)) is None


def test_a_retried_record_is_the_refused_one_with_two_marks() -> None:
    own: Headers = (("traceparent", b"00"), ("__connect.errors.topic", b"of another system"), ("n", None))
    letter = parse_letter(refused(TYPE, b"\x00\xff", own, offset=5))
    assert letter is not None
    marks = (("streamlearn.retries", b"1"), ("streamlearn.letter", b"streamlearn.dlq-0-5"))
    assert retry_record(letter, 1) == ProducerRecord(b"k", b"\x00\xff", marks + own, 0)


def test_a_second_retry_counts_on_and_keeps_one_mark_of_each() -> None:
    first = parse_letter(refused(TYPE, headers=(("a", b"1"),)))
    assert first is not None
    again = parse_letter(refused(TYPE, headers=retry_record(first, 1).headers, offset=9))
    assert again is not None and again.retries == 1
    headers = retry_record(again, 1).headers
    assert headers == (
        ("streamlearn.retries", b"2"),
        ("streamlearn.letter", b"streamlearn.dlq-0-9"),
        ("a", b"1"),
    )


FOREIGN: Headers = (
    ("streamlearn.retries", b"many"),
    ("streamlearn.letter", b"\xff"),
    ("streamlearn.stage", b"theirs"),
    ("streamlearn.feature", b"theirs"),
    ("streamlearn.truncated", None),
    ("__connect.errors.topic", b"theirs"),
    ("__connect.errors.partition", b"x"),
)


def test_headers_of_a_producer_that_are_named_like_ours_are_not_ours() -> None:
    letter = parse_letter(refused(JSON, headers=FOREIGN))
    assert letter is not None
    assert (letter.topic, letter.partition, letter.stage, letter.feature) == ("events", 0, "decode", "")
    assert (letter.retries, letter.truncated) == (0, False)
    again = parse_letter(refused(JSON, headers=retry_record(letter, 1).headers))
    assert again is not None and again.retries == 1
    assert retry_record(again, 1).headers[2:] == FOREIGN


def test_letters_with_such_headers_are_all_listed_and_sent_again(command: Run) -> None:
    command.ok("topics", "ensure", "-i", "events", "--db", "s.db")
    odd: list[Headers] = [FOREIGN, FOREIGN[2:], (("streamlearn.retries", None),), ()]
    admin = EmbeddedAdmin(RealEnv(), "s.db")
    for headers in odd:
        letter = refused(JSON, headers=headers)
        admin.append("streamlearn.dlq", [ProducerRecord(letter.key, letter.value, letter.headers)])
        admin.append("events", [ProducerRecord(None, b"x", headers)])
    admin.close()
    assert [row[0] for row in listed(command)] == [4]
    for place in range(4):
        command.ok("dlq", "show", f"0:{place}", "--db", "s.db")
    command.ok("dlq", "retry", "--db", "s.db")
    back = [line["headers"] for line in in_events(command) if line["value"] == "v"]
    assert [len(headers) - 2 for headers in back] == [len(headers) for headers in odd]
    again = json.loads(command.ok("dlq", "retry", "--json", "--db", "s.db"))
    assert (again["sent"], again["already"]) == ({}, 4)


def test_a_partition_that_is_gone_is_chosen_anew() -> None:
    letter = parse_letter(refused(TYPE, partition=3))
    assert letter is not None
    assert [retry_record(letter, n).partition for n in (4, 3)] == [3, None]


# --- the command line, on letters made by hand ----------------------------------------------------------


@pytest.fixture
def letters(command: Run) -> Run:
    """Two features of the wrong type, one text that is not JSON, one that was too large; and a stranger."""
    command.ok("topics", "ensure", "-i", "events", "--db", "s.db")
    command.ok("topics", "ensure", "-i", "other", "--db", "s.db", "-n", "another")
    large = refused(JSON, b"x" * 1_000_001)
    records = [refused(TYPE, b'{"n":1}'), refused(JSON, b"\xff"), refused(TYPE, b'{"n":2}'), large]
    admin = EmbeddedAdmin(RealEnv(), "s.db")
    admin.append("streamlearn.dlq", [ProducerRecord(one.key, one.value, one.headers) for one in records])
    admin.append("streamlearn.dlq", [ProducerRecord(None, b"not ours")])
    admin.close()
    return command


def listed(command: Run, *words: object) -> list[tuple[Any, ...]]:
    rows = [
        json.loads(line) for line in command.ok("dlq", "list", "--json", "--db", "s.db", *words).splitlines()
    ]
    return [(row["count"], row["stage"], row["reason"], row["feature"], row["example"]) for row in rows]


def in_events(command: Run) -> list[dict[str, Any]]:
    words = ("tail", "events", "-o", "beginning", "--json", "--db", "s.db")
    return [json.loads(line) for line in command.ok(*words).splitlines()]


def test_letters_are_listed_by_what_is_wrong_with_them(letters: Run) -> None:
    types = (2, "guard", "feature_type", "temp", "0:0")
    texts = (2, "decode", "not_json", "", "0:1")
    assert listed(letters) == [texts, types]
    assert listed(letters, "--reason", "feature_type") == [types]
    assert listed(letters, "--reason", "guard.feature_type") == [types]
    assert listed(letters, "--reason", "decode.feature_type") == []
    assert listed(letters, "--stage", "decode") == [texts]
    assert listed(letters, "--feature", "temp") == [types]
    assert listed(letters, "--feature", "rpm") == []
    assert listed(letters, "--from", "2", "--to", "3") == [(1, *types[1:4], "0:2")]
    assert listed(letters, "--from", "2099-01-01T00:00:00Z") == []
    plain = letters.ok("dlq", "list", "--db", "s.db")
    assert "2  guard.feature_type feature 'temp' from events: a feature has another type" in plain
    assert "dlq show 0:0" in plain
    assert letters("dlq", "list", "--from", "soon", "--db", "s.db").code == 2


def test_one_letter_is_shown_whole(letters: Run) -> None:
    shown = letters.ok("dlq", "show", "0:0", "--db", "s.db")
    assert "guard.feature_type feature 'temp'" in shown
    assert "events partition 0 offset 7" in shown
    assert 'value    {"n":1}' in shown
    binary = json.loads(letters.ok("dlq", "show", "0:1", "--db", "s.db", "--json"))
    assert (binary["value_base64"], binary["key"], binary["retries"]) == ("/w==", "k", 0)
    for place in ("0", "1:0", "x:y"):
        assert letters("dlq", "show", place, "--db", "s.db").code == 2
    for place in ("0:99", "0:4"):
        result = letters("dlq", "show", place, "--db", "s.db")
        assert (result.code, "offsets 0 to 4 are retained" in result.err) == (2, True)


def test_letters_are_sent_back_once_however_often_retry_is_called(letters: Run) -> None:
    dry = letters.ok("dlq", "retry", "--dry-run", "--db", "s.db")
    assert "3 would be sent back to events" in dry
    assert in_events(letters) == []
    first = letters.ok("dlq", "retry", "--feature", "temp", "--db", "s.db")
    assert first == "2 sent back to events\n"
    report = json.loads(letters.ok("dlq", "retry", "--json", "--db", "s.db"))
    assert report == {
        "sent": {"events": 1}, "already": 2, "retries_exhausted": 0, "truncated": 1, "topic_missing": 0,
        "dry_run": False,
    }  # fmt: skip
    again = letters.ok("dlq", "retry", "--db", "s.db")
    assert "nothing sent" in again
    assert "3 not sent: they were sent back by an earlier call" in again
    assert "1 not sent: they were too large to be kept whole" in again
    found = in_events(letters)
    assert [one.get("value", one.get("value_base64")) for one in found] == ['{"n":1}', '{"n":2}', "/w=="]
    assert [one["headers"][0] for one in found] == [{"name": "streamlearn.retries", "value": "1"}] * 3


def test_a_letter_is_retried_as_often_as_allowed(letters: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMLEARN_DLQ__RETRIES_MAX", "2")
    admin = EmbeddedAdmin(RealEnv(), "s.db")
    for n in (1, 2):
        marks = (("streamlearn.retries", b"%d" % n), ("streamlearn.letter", b"streamlearn.dlq-0-99"))
        record = refused(TYPE, b"%d" % n, marks)
        admin.append("streamlearn.dlq", [ProducerRecord(None, record.value, record.headers)])
    admin.close()
    sent = letters.ok("dlq", "retry", "--from", "5", "--db", "s.db")
    assert "1 sent back to events" in sent
    assert "1 not sent: they have been retried 2 times already ([dlq] retries_max)" in sent
    assert [one["value"] for one in in_events(letters)] == ["1"]


def test_letters_of_a_topic_that_is_gone_are_counted(letters: Run) -> None:
    record = dead_letter(Record("gone", 0, 0, NOW_MS, None, b"x"), JSON)
    admin = EmbeddedAdmin(RealEnv(), "s.db")
    admin.append("streamlearn.dlq", [ProducerRecord(None, record.value, record.headers)])
    admin.close()
    assert "1 not sent: they come from a topic that is gone" in letters.ok(
        "dlq", "retry", "--from", "5", "--db", "s.db"
    )


def test_an_app_without_a_dlq_is_named(command: Run) -> None:
    command.ok("topics", "ensure", "-i", "events", "--db", "s.db")
    result = command("dlq", "list", "-n", "other", "--db", "s.db")
    assert (result.code, "no topic 'other.dlq'" in result.err) == (2, True)


# --- storms ---------------------------------------------------------------------------------------------


def window(*outcomes: tuple[int, Refusal | None]) -> tuple[list[Letter], int]:
    """Dead letters and the number of records after runs of `(how many, refusal or None)`."""
    letters: list[Letter] = []
    records = 0
    for count, refusal in outcomes:
        for _ in range(count):
            records += 1
            if refusal is not None:
                note_dead_letter(letters, records, refusal)
    return letters, records


def test_a_burst_of_fewer_than_a_hundred_is_no_storm() -> None:
    assert stop_message(*window((FEW - 1, JSON)), 0, 0.5) == ""
    assert stop_message(*window((FEW, JSON)), 0, 0.5)


@pytest.mark.parametrize(("good", "bad", "fires"), [(500, 500, False), (499, 501, True), (900, 100, False)])
def test_a_storm_is_more_than_the_share_of_the_last_thousand(good: int, bad: int, fires: bool) -> None:
    for before in (0, 5000):
        letters, records = window((before, None), (good, None), (bad, JSON))
        assert bool(stop_message(letters, records, 0, 0.5)) == fires


def test_what_lies_further_back_than_the_window_is_forgotten() -> None:
    letters, records = window((3000, JSON), (WINDOW // 2, None))
    assert len(letters) == WINDOW
    assert stop_message(letters, records, 0, 0.5) == ""


def test_a_share_of_one_never_stops() -> None:
    assert stop_message(*window((5000, JSON)), 0, 1) == ""


def test_a_new_start_counts_anew() -> None:
    letters, records = window((900, JSON), (FEW - 1, JSON))
    assert stop_message(letters, records, 900, 0.5) == ""
    letters, records = window((900, JSON), (FEW, JSON))
    assert stop_message(letters, records, 900, 0.5).startswith("100 of the last 100 records")


def test_the_message_names_the_three_commonest_reasons() -> None:
    rare = Refusal("guard", "bad_id")
    message = stop_message(
        *window((300, TYPE), (200, JSON), (100, Refusal("guard", "bad_time")), (50, rare)), 0, 0.5
    )
    lines = message.splitlines()
    assert lines[0] == "650 of the last 650 records became dead letters, most of them:"
    assert lines[1].startswith("  300 x guard.feature_type (feature 'temp'): a feature has another type")
    assert [line.split()[2] for line in lines[2:]] == ["decode.not_json:", "guard.bad_time:"]


# --- in a service ---------------------------------------------------------------------------------------


def events(n: int, start: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(start)
    return [
        {"id": f"e{i}", "features": {"temp": rng.gauss(0, 1)}, "label": rng.random() > 0.5}
        for i in range(start, start + n)
    ]


def test_a_storm_stops_the_service_and_each_start_takes_little(apps: Apps) -> None:
    app = apps("", **{"transaction.max_records": 2000})
    app.produce(events(200))
    app.produce([b"this is not JSON"] * 6000)
    ends = []
    for _ in range(2):
        process = app.serve()
        assert process.wait(60) == 1
        ends.append(len(app.dead_letters()))
    assert 100 <= ends[0] <= WINDOW
    assert ends[0] + 100 <= ends[1] <= ends[0] + WINDOW
    assert "records became dead letters" in app.log and "decode.not_json: the value is not JSON" in app.log
    assert "streamlearn dlq list" in app.log
    assert len(app.predictions()) == 200
    process = app.serve(**{"dlq.max_share": 1.0})
    app.wait(process, 6200)
    app.stop(process)


def test_after_a_storm_and_a_mended_source_the_service_goes_on(apps: Apps) -> None:
    app = apps("")
    app.produce([b"{"] * 200)
    assert app.serve().wait(60) == 1
    app.produce(events(100))
    process = app.serve()
    app.wait(process, 300)
    app.stop(process)


def test_ninety_nine_bad_events_in_a_row_stop_nothing(apps: Apps) -> None:
    app = apps("")
    app.produce([b"{"] * 99)
    process = app.serve()
    app.wait(process, 99)
    app.produce(events(200))
    app.wait(process, 299)
    app.stop(process)


def test_what_was_refused_is_predicted_after_the_fix_and_the_retry(
    apps: Apps, backend: str, command: Run
) -> None:
    app = apps(backend)
    app.produce(events(50))
    app.produce([{"id": f"w{i}", "features": {"temp": True}, "label": True} for i in range(5)])
    process = app.serve()
    app.wait(process, 55)
    name = app.config.app.name
    where = ("-n", name, *(("-b", backend) if backend else ("--db", app.config.log.path)))
    command.ok("control", "guard-reset", "temp", *where)
    assert "5 sent back" in command.ok("dlq", "retry", "--reason", "feature_type", *where)
    app.wait(process, 60)
    assert "5 not sent: they were sent back by an earlier call" in command.ok("dlq", "retry", *where)
    app.stop(process)
    assert [p["id"] for p in app.predictions()[50:]] == [f"w{i}" for i in range(5)]
    (*_, last) = app.records(app.config.topics.predictions)
    assert dict(last.headers)["streamlearn.retries"] == b"1"


def test_a_retried_record_that_fails_again_carries_its_count_on(apps: Apps, command: Run) -> None:
    app: App = apps("")
    app.produce([b"{bad"])
    process = app.serve()
    app.wait(process, 1)
    where = ("-n", app.config.app.name, "--db", app.config.log.path)
    for expected in (1, 2, 3, 3):
        command.ok("dlq", "retry", *where)
        app.wait(process, expected + 1)
    app.stop(process)
    found = [dict(letter.headers).get("streamlearn.retries") for letter in app.dead_letters()]
    assert found == [None, b"1", b"2", b"3"]
    assert orjson.loads(command.ok("dlq", "list", "--json", *where))["count"] == 4
    assert Path(app.config.log.path).exists()
