"""`look`: what is proposed for data as they come fits them, and `serve` accepts it."""

import base64
import datetime
import json
import random
import shlex
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from command import Command, command
from river import datasets

from streamlearn.config.load import load
from streamlearn.env import RealEnv
from streamlearn.log.embedded.admin import EmbeddedAdmin
from streamlearn.log.port import ProducerRecord, TopicSpec
from streamlearn.studies.look.profile import profile_fields

__all__ = ["command"]


def fill(topic: str, values: Iterable[bytes | None], *headers: tuple[str, bytes]) -> None:
    """A topic in `s.db` that holds these values."""
    admin = EmbeddedAdmin(RealEnv(), "s.db")
    admin.create([TopicSpec(topic, 1)])
    admin.append(topic, [ProducerRecord(None, value, headers, None) for value in values])
    admin.close()


def dumped(*documents: Any) -> list[bytes | None]:
    return [json.dumps(document).encode() for document in documents]


def lines(name: str, documents: Iterable[Any]) -> str:
    Path(name).write_text("".join(json.dumps(document) + "\n" for document in documents))
    return name


def proposed(command: Command, *words: object) -> dict[str, Any]:
    """The proposed file, which the configuration accepts."""
    text = command.ok("look", *words)
    Path("proposed.toml").write_text(text)
    load(Path("proposed.toml"), {})
    return tomllib.loads(text)


def readings(count: int = 200, seed: int = 1) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {
            "reading_id": f"r-{n}",
            "ts": 1_700_000_000_000 + 250 * n,
            "device": f"m{n % 4}",
            "temp": round(rng.gauss(20, 3), 2),
            "rpm": rng.randrange(800, 1200),
            "mode": rng.choice(["eco", "boost"]),
            "failure": rng.random() < 0.1,
        }
        for n in range(count)
    ]


# --- tables ---------------------------------------------------------------------------------------------


def test_shuttle_as_csv_is_replayed_and_accepted_as_proposed(command: Command) -> None:
    with Path("shuttle.csv").open("w") as file:
        for n, (x, y) in enumerate(datasets.Shuttle().take(300)):
            if not n:
                print(*x, "anomaly", sep=",", file=file)
            print(*x.values(), y, sep=",", file=file)
    found = json.loads(command.ok("look", "shuttle.csv", "--json"))
    assert found["replay"] == ["--label anomaly"]
    assert proposed(command, "shuttle.csv")["model"] == {"use": "preset:classification"}
    command.ok("replay", "shuttle.csv", "-t", "events", "--db", "s.db", "--label", "anomaly")
    (last,) = command.ok("tail", "events", "--db", "s.db", "-n", 1).splitlines()
    assert set(json.loads(last)["features"]) == set(next(iter(datasets.Shuttle()))[0])


def test_a_loggers_csv_is_understood_as_it_comes(command: Command) -> None:
    rows = ["reading;zeit;device;temp;rpm;ok;note;state"]
    for n in range(60):
        rpm = "n/a" if n % 7 == 0 else 900 + n
        rows.append(
            f"r{n};{n % 28 + 1:02}.01.2026 08:{n:02};m{n % 3};21,{n};{rpm};True;x {n * n};{n % 9 > 0}"
        )
    Path("log.csv").write_text("\n".join(rows).replace(";True;x", ";true;x"))
    found = json.loads(command.ok("look", "log.csv", "--json"))
    assert found["replay"] == [
        "--decimal ,",
        "--id reading",
        "--time zeit",
        "--key device",
        "--label state",
        "--missing n/a",
        "--types 'zeit=datetime:%d.%m.%Y %H:%M,ok=bool,state=bool'",
    ]
    assert found["model"] == "preset:sensors"
    words = [word.strip("'") for option in found["replay"] for word in option.split(" ", 1)]
    command.ok("replay", "log.csv", "-t", "events", "--db", "s.db", *words)
    (line,) = command.ok("tail", "events", "--db", "s.db", "-o", 0, "-n", 1).splitlines()
    event = json.loads(line)
    assert event == {
        "id": "r0",
        "ts": "2026-01-01T08:00:00+00:00",
        "key": "m0",
        "features": {"temp": 21.0, "ok": True, "note": "x 0"},
        "label": False,
    }


def test_without_a_label_anomalies_are_proposed_and_perhaps_a_candidate(command: Command) -> None:
    Path("a.csv").write_text("temp,fan\n" + "".join(f"{n / 7},{n % 3}\n" for n in range(50)))
    text = command.ok("look", "a.csv")
    assert tomllib.loads(text)["model"] == {"use": "preset:anomaly"}
    assert "# Perhaps the label, if it is what you want to predict: fan." in text


@pytest.mark.parametrize(
    ("name", "model"),
    [("WaterFlow", "regression"), ("Phishing", "classification"), ("ImageSegments", "classification")],
)
def test_data_sets_of_river(command: Command, name: str, model: str) -> None:
    found = proposed(command, f"river:{name}")
    assert found["model"] == {"use": f"preset:{model}"}
    assert found["app"] == {"name": name.lower()}
    assert "event" not in found


# --- records --------------------------------------------------------------------------------------------


def test_our_own_envelope_needs_no_event_table(command: Command) -> None:
    events = [
        {"id": str(n), "ts": 1_700_000_000.5 + n, "features": {"temp": n / 3}, "label": n % 3 == 0}
        for n in range(60)
    ]
    fill("machines", dumped(*events))
    found = proposed(command, "machines", "--db", "s.db")
    assert found["topics"] == {"input": "machines"}
    assert found["log"] == {"backend": "embedded", "path": "s.db"}
    assert found["event"] == {"time_unit": "s"}
    assert found["model"] == {"use": "preset:classification"}


def test_flat_json_lines(command: Command) -> None:
    found = proposed(command, lines("flat.jsonl", readings()))
    assert found["event"] == {
        "id": "reading_id",
        "key": "device",
        "label": "failure",
        "features": "*",
        "time_unit": "ms",
    }


def test_numbers_as_text_texts_without_sense_and_nested_members(command: Command) -> None:
    rows = [
        {
            "meta": {"uuid": f"u{n}", "at": "2026-01-01T00:00:00Z"},
            "temp": str(n / 7),
            "free": f"{n} words {n * n}",
            "target": n * 1.5,
        }
        for n in range(150)
    ]
    found = proposed(command, lines("nested.jsonl", rows))
    assert found["event"] == {
        "id": "meta.uuid",
        "time": "meta.at",
        "label": "target",
        "features": ["temp"],
        "types": {"temp": "float"},
    }
    assert found["model"] == {"use": "preset:regression"}


def test_arrays_and_objects_that_hold_all_features(command: Command) -> None:
    rows = [{"time": 1_700_000_000 + n, "values": [n / 3, n / 5], "y": n % 2} for n in range(50)]
    found = proposed(command, lines("values.jsonl", rows))
    assert found["event"] == {"time": "time", "label": "y", "features": "values", "time_unit": "s"}


def test_telegraf(command: Command) -> None:
    rows = [
        {"name": "fan", "tags": {"host": f"h{n % 3}"}, "timestamp": 1_700_000_000 + n,
         "fields": {"temp": n / 3, "rpm": 900 + n, "fault": n % 10 == 0}}
        for n in range(60)
    ]  # fmt: skip
    fill("telegraf", dumped(*rows))
    assert proposed(command, "telegraf", "--db", "s.db")["event"] == {
        "preset": "telegraf",
        "key": "tags.host",
        "label": "fields.fault",
        "time_unit": "s",
    }


def test_debezium_and_connect(command: Command) -> None:
    rows = readings(60)
    changes = [{"op": "c", "before": None, "after": row, "source": {"ts_ms": 1}, "ts_ms": 2} for row in rows]
    fill("changes", [*dumped(*changes), None])
    event = proposed(command, "changes", "--db", "s.db")["event"]
    assert event["preset"] == "debezium"
    assert (event["id"], event["label"], event["time"]) == ("reading_id", "failure", "ts")
    fill("sink", dumped(*({"schema": {"type": "struct"}, "payload": row} for row in rows)))
    assert proposed(command, "sink", "--db", "s.db")["event"]["preset"] == "connect"


def test_cloudevents_structured_and_binary(command: Command) -> None:
    data = [{"temp": n / 3, "failed": n % 4 == 0} for n in range(40)]
    frame = {"specversion": "1.0", "source": "/m", "type": "t", "time": "2026-01-01T00:00:00Z"}
    fill("structured", dumped(*({**frame, "id": str(n), "data": one} for n, one in enumerate(data))))
    expected = {"preset": "cloudevents", "label": "data.failed"}
    assert proposed(command, "structured", "--db", "s.db")["event"] == expected
    fill("binary", dumped(*data), ("ce_specversion", b"1.0"), ("ce_id", b"7"))
    assert proposed(command, "binary", "--db", "s.db")["event"] == expected


def test_lines_of_csv_in_a_topic(command: Command) -> None:
    fill("lines", [f"{n};{n / 3:.3f};{n % 2}".encode() for n in range(40)])
    event = proposed(command, "lines", "--db", "s.db")["event"]
    assert event == {"format": "csv", "columns": ["c1", "c2", "c3"], "delimiter": ";"}


def test_bytes_of_a_schema_registry_are_recognised(command: Command) -> None:
    fill("avro", [b"\0\0\0\0\x07" + bytes([n, 200, 255]) for n in range(30)])
    text = command.ok("look", "avro", "--db", "s.db")
    event = tomllib.loads(text)["event"]
    assert (event["format"], event["schema_registry"]) == ("avro", "http://127.0.0.1:8081")
    assert "streamlearn[avro]" in text


def test_bytes_whose_schema_is_named_by_a_guid_are_those_of_a_registry_too(command: Command) -> None:
    """They were nothing that is known, although the service reads them."""
    fill("avro", [b"\x01" + bytes(range(16)) + bytes([n, 200, 255]) for n in range(30)])
    event = proposed(command, "avro", "--db", "s.db")["event"]
    assert (event["format"], event["schema_registry"]) == ("avro", "http://127.0.0.1:8081")
    fill("json", [b"\x01" + bytes(range(16)) + value for value in dumped(*readings(30))])
    event = proposed(command, "json", "--db", "s.db")["event"]
    assert (event["format"], event["schema_registry"]) == ("json", "http://127.0.0.1:8081")


def test_mixed_shapes_are_said_and_the_commonest_is_proposed(command: Command) -> None:
    fill("mixed", [*dumped(*readings(50)), b"garbage", b"[1]"])
    text = command.ok("look", "mixed", "--db", "s.db")
    assert "2 of 52 records are neither JSON objects nor lines of CSV" in text
    assert tomllib.loads(text)["event"]["label"] == "failure"


# --- the command ----------------------------------------------------------------------------------------


def test_config_init_writes_the_same_and_never_over_a_file(command: Command) -> None:
    name = lines("flat.jsonl", readings())
    command.ok("config", "init", "--from", name, "-o", "new.toml")
    assert Path("new.toml").read_text() == command.ok("look", name)
    again = command("config", "init", "--from", name, "-o", "new.toml")
    assert (again.code, "new.toml exists already" in again.err) == (2, True)


def test_a_table_for_people(command: Command) -> None:
    out = command.ok("look", lines("flat.jsonl", readings()), "--table")
    assert "device" in out
    assert "flat: 200 rows" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("none.csv",), "none.csv cannot be read: there is no such file"),
        (("nothing", "--db", "s.db"), "there is no topic 'nothing'"),
        (("empty", "--db", "s.db"), "empty holds nothing to look at"),
    ],
)
def test_what_is_not_there_is_named(command: Command, words: tuple[str, ...], said: str) -> None:
    fill("empty", [])
    result = command("look", *words)
    assert (result.code, said in result.err) == (2, True), result


def test_of_many_topics_those_are_named_that_look_like_the_one_that_is_not_there(command: Command) -> None:
    for n in range(30):
        fill(f"t{n}", [])
    fill("readings", [])
    assert "'reading'; the topics are: readings and 30 more" in command("look", "reading", "--db", "s.db").err


def test_names_of_columns_cannot_break_out_of_the_file(command: Command) -> None:
    rows = [{'a "quoted"\nname\x7f': n / 3, "label\n[app]": n, "label": bool(n % 2)} for n in range(30)]
    found = proposed(command, lines("odd.jsonl", rows))
    assert set(found) == {"app", "log", "topics", "event", "model"}


def test_facts_about_a_field() -> None:
    (a, b) = profile_fields([{"a": 1, "b": {"c": "x"}}, {"a": 2.5}, {"a": None}, {"a": -1}])
    assert (a.path, a.kind, a.low, a.high, a.distinct, a.missing) == ("a", "float", -1, 2.5, 3, 0.25)
    assert (b.path, b.kind, b.texts) == ("b.c", "str", ("x",))


def test_numbers_that_are_no_plausible_times_are_a_feature_whatever_their_name(command: Command) -> None:
    Path("a.csv").write_text("time,label\n" + "".join(f"{n / 2},{n % 2}\n" for n in range(50)))
    assert json.loads(command.ok("look", "a.csv", "--json"))["replay"] == ["--label label"]


# --- what is proposed is tried on the sample -------------------------------------------------------------


def replay_of(command: Command, name: str) -> list[str]:
    found: list[str] = json.loads(command.ok("look", name, "--json"))["replay"]
    return found


def test_columns_of_numbers_with_words_for_no_value_are_numbers(command: Command) -> None:
    gust = [f"{n}.5" if n % 5 == 0 else "NA" for n in range(60)]
    ppa = [f"0.{n}" if n % 9 == 0 else "NULL" for n in range(60)]
    rows = (f"{n % 7},{gust[n]},{ppa[n]},{'-' if n % 6 else n},{'?' if n % 7 else 'true'}" for n in range(60))
    Path("w.csv").write_text("hour,wind_gust,Ppa,dash,flag\n" + "\n".join(rows))
    assert replay_of(command, "w.csv") == [
        *("--missing NA", "--missing NULL", "--missing -", "--missing '?'", "--types flag=bool")
    ]


def test_a_word_that_may_be_a_category_stays_one(command: Command) -> None:
    Path("r.csv").write_text("region,x\n" + "".join(f"{'NA' if n % 2 else 'EU'},{n}\n" for n in range(50)))
    assert replay_of(command, "r.csv") == []


@pytest.mark.parametrize("missing", ["NA", "NULL", "None", "nan", "n/a", "#N/A", "-", "?"])
def test_words_for_no_value_on_a_topic_are_proposed_and_nothing_is_refused(
    command: Command, missing: str
) -> None:
    rows = [{"id": f"e{n}", "temp": n / 7 if n % 3 else missing, "label": n % 2} for n in range(60)]
    fill("raw", dumped(*rows))
    text = command.ok("look", "raw", "--db", "s.db")
    event = tomllib.loads(text)["event"]
    assert (event["missing"], event.get("types")) == ([missing], None)
    assert "refused" not in text


def test_what_the_proposal_would_refuse_is_said_with_its_reason_and_first_example(command: Command) -> None:
    rows = [{"id": n, "ts": 1_700_000_000 + n, "temp": n / 7, "label": n % 2} for n in range(60)]
    rows[7]["temp"] = "broken"
    rows[9] = {"id": 9, "ts": "yesterday", "temp": 2.0, "label": 1}
    rows[11]["temp"] = {"unit": [1]}
    name = lines("odd.jsonl", rows)
    text = command.ok("look", name)
    assert "1 of 60 would be refused with this (bad_time), the first is number 10" in text
    fill("odd", dumped(*rows))
    assert "1 of 60 would be refused with this (bad_time), the first is number 9" in command.ok(
        "look", "odd", "--db", "s.db"
    )


def test_lines_of_csv_on_a_topic_are_served_as_proposed(command: Command) -> None:
    rows = [f"e{n}; {n / 7:+.3f};{'NA' if n % 9 == 0 else n};{'yes' if n % 2 else 'no'}" for n in range(200)]
    fill("raw", [b"id;t;v;label", *(row.replace(".", ",").encode() for row in rows)])
    command.ok("config", "init", "--from", "raw", "--db", "s.db", "-o", "streamlearn.toml")
    text = Path("streamlearn.toml").read_text()
    event = tomllib.loads(text)["event"]
    assert event == {
        "format": "csv", "columns": ["id", "t", "v", "label"], "delimiter": ";", "decimal": ",",
        "missing": ["NA"],
    }  # fmt: skip
    assert "refused" not in text


# --- times ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "proposed_form"),
    [("%b %d %Y", "%b %d %Y"), ("%b-%d-%Y", "%b-%d-%Y"), ("%Y%m%d", "%Y%m%d"), ("%d/%m/%Y", "%d/%m/%Y")],
)
def test_dates_of_other_formats_are_the_time(command: Command, form: str, proposed_form: str) -> None:
    start = datetime.date(1995, 1, 1)
    days = [(start + datetime.timedelta(31 * n)).strftime(form) for n in range(40)]
    Path("s.csv").write_text(
        "symbol,date,price\n" + "".join(f"A,{day},{n / 3}\n" for n, day in enumerate(days))
    )
    found = replay_of(command, "s.csv")
    assert found[:1] == ["--time date"]
    assert f"date=datetime:{proposed_form}" in found[-1]
    command.ok("replay", "s.csv", "-t", "events", "--db", "s.db", *shlex.split(" ".join(found)))


def test_a_first_column_without_a_name_that_holds_times_is_the_time(command: Command) -> None:
    rows = "".join(f"2007-01-{n % 28 + 1:02} 00:{n % 60:02}:00,{n},{n / 3}\n" for n in range(50))
    Path("selp.csv").write_text(",period,v\n" + rows)
    found = replay_of(command, "selp.csv")
    assert found == ["--time 'column 1'"]
    done = command("replay", "selp.csv", "-t", "events", "--db", "s.db", "--time", "column 1")
    assert (done.code, "no name" in done.err) == (0, False)
    (line,) = command.ok("tail", "events", "--db", "s.db", "-o", 0, "-n", 1).splitlines()
    assert json.loads(line)["ts"] == "2007-01-01T00:00:00+00:00"
    Path("numbers.csv").write_text(",a\n" + "".join(f"{n},{n / 3}\n" for n in range(50)))
    assert replay_of(command, "numbers.csv") == []


def test_what_looks_like_a_time_is_no_id_and_said(command: Command) -> None:
    rows = "".join(f"{n // 60:02}:{n % 60:02},{n % 5},{n / 3}\n" for n in range(500))
    Path("day.csv").write_text("Zeit,b,v\n" + rows)
    text = command.ok("look", "day.csv")
    assert "--id" not in text
    rows = "".join(f"r{n % 90},2026-01-01,2026-02-0{n % 9 + 1},{n}\n" for n in range(100))
    Path("two.csv").write_text("name,sent,arrived,v\n" + rows)
    text = command.ok("look", "two.csv")
    assert "arrived looks like a time: --time arrived" in text
    Path("odd.csv").write_text("date,v\n" + "".join(f"week {n} of 2026,{n}\n" for n in range(100)))
    assert "date may hold times, in a format that is not known here (e.g. 'week" in command.ok(
        "look", "odd.csv"
    )


def test_a_day_that_may_be_a_month_is_said(command: Command) -> None:
    Path("a.csv").write_text("when,v\n" + "".join(f"0{n % 9 + 1}/0{n % 8 + 1}/2018,{n}\n" for n in range(80)))
    assert "when is read as %d/%m/%Y, and could as well be %m/%d/%Y" in command.ok("look", "a.csv")


def test_an_id_without_a_known_name_is_different_in_all_rows_and_not_only_in_the_first(
    command: Command,
) -> None:
    rows = [f"x{n % 1500},{n}\n" for n in range(1600)]
    Path("a.csv").write_text("tag,v\n" + "".join(rows))
    assert replay_of(command, "a.csv")[:1] != ["--id tag"]
    Path("b.csv").write_text("tag,v\n" + "".join(rows[:300]))
    assert replay_of(command, "b.csv") == ["--id tag"]


@pytest.mark.parametrize("form", ["{:,.1f}", "{} %", "${}", "EUR {}", "{}'000", "{} 000"])
def test_numbers_in_a_coat_are_said(command: Command, form: str) -> None:
    rows = [{"id": n, "price": form.format(n + 1000), "label": n % 2} for n in range(80)]
    assert "price is text, and nearly all of it would be numbers" in command.ok(
        "look", lines("p.jsonl", rows)
    )


def test_decimals_without_their_schema_are_said(command: Command) -> None:
    rows = [{"id": n, "price": base64.b64encode((n * 977).to_bytes(2, "big")).decode()} for n in range(60)]
    fill("sink", dumped(*({"schema": None, "payload": row} for row in rows)))
    assert "price is text that looks like base 64 of a few bytes" in command.ok(
        "look", "sink", "--db", "s.db"
    )


def test_classes_that_are_written_as_floats_are_classes(command: Command) -> None:
    Path("loan.csv").write_text("x,repaid,label\n" + "".join(f"{n / 7},0.5,{n % 2}.0\n" for n in range(60)))
    found = json.loads(command.ok("look", "loan.csv", "--json"))
    assert found["replay"] == ["--label label", "--types label=int"]
    assert found["model"] == "preset:classification"
    Path("loan.csv").write_text("x,repaid,z\n" + "".join(f"{n / 7},{n % 2}.0,{n % 2}.5\n" for n in range(60)))
    assert json.loads(command.ok("look", "loan.csv", "--json"))["candidates"] == ["repaid"]
