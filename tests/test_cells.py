"""One cell has one value: in a file, in a line of CSV on a topic, and as the model gets it from either."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from command import Command, command
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.core.events.event import Event, EventSpec, Refusal, as_moment, event_time_ms
from streamlearn.core.events.mapping import compile_decoder
from streamlearn.core.records import Record
from streamlearn.errors import ConfigError
from streamlearn.history.formats.cells import declared
from streamlearn.history.formats.column_mapping import ColumnMapping, ColumnRoles
from streamlearn.history.formats.delimited import Dialect
from streamlearn.history.sources import ReadOptions, open_source
from tests.service_process import Apps, apps

__all__ = ["apps", "command"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONHASHSEED", "0")  # so that `train` need not start the process again


COLUMNS = ("id", "v", "w")


def in_a_file(line: str, delimiter: str, decimal: str, missing: tuple[str, ...], types: str) -> Any:
    Path("a.csv").write_text(delimiter.join(COLUMNS) + f"\n{line}\n")
    columns = ColumnMapping(ColumnRoles(), declared(types), frozenset(missing), decimal)
    try:
        (item,) = open_source("a.csv", ReadOptions(columns=columns, dialect=Dialect(delimiter))).items()
    except ConfigError:
        return "refused"
    assert item
    return json.loads(item.row.value or b"")["features"]


def in_a_topic(line: str, delimiter: str, decimal: str, missing: tuple[str, ...], types: str) -> Any:
    spec = EventSpec(
        features="*", format="csv", columns=COLUMNS, delimiter=delimiter, decimal=decimal, missing=missing,
        types={name: kind for name, (kind, _) in declared(types).items()},
    )  # fmt: skip
    event = compile_decoder(spec)(Record("t", 0, 0, 0, None, line.encode()))
    return event.x if isinstance(event, Event) else "refused"


SPELLINGS = [
    *("1", "-1.50", "1e3", "1E-3", "+0.134", "+5", ".5", "5.", "-.5", " 7 ", " 21.5", "21.5\t", "\xa07\xa0"),
    *("007", "00.5", "-0", "0", "-0.0", "1_000", "0x10", "1e999", "-1e999", "9223372036854775807"),
    *("9223372036854775808", "-9223372036854775808", "99999999999999999999", "0.10000000000000000555"),
    *("inf", "-Infinity", "NaN", "nan", "١٢", "１２", "1.2.3", "1,5", "1.234,5", "1 000", "12%", "$3", "'7"),
    *("true", "True", "TRUE", "false", "t", "yes", "Yes", "no", "on", " off", "1.0", "0.0", "2", "maybe"),
    *("", " ", "\t", "NA", " NA ", "null", "NULL", "None", "n/a", "-", "?", "#N/A"),
    *("north", " north ", "a b", "[1]", '{"a"', "é\x7f", "a\\b", '"quoted"', '" 21.5 "', '"x ""y"""', '" "'),
]
TYPES = ["", "v=float", "v=int", "v=bool", "v=str"]


def same(one: Any, other: Any) -> bool:
    """Equal, and of equal types: 1, 1.0 and true are three values."""
    return repr(one) == repr(other)


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize(("delimiter", "decimal"), [(";", "."), (";", ","), (",", ".")])
def test_every_spelling_is_the_same_value_in_a_file_and_in_a_topic(
    delimiter: str, decimal: str, types: str
) -> None:
    for missing in ((), ("NA", "-", "1.0")):
        for cell in SPELLINGS:
            quoted = f'"{cell}"' if delimiter in cell and '"' not in cell else cell
            told = (f"e1{delimiter}{quoted}{delimiter}0", delimiter, decimal, missing, types)
            found, expected = in_a_topic(*told), in_a_file(*told)
            assert same(found, expected), (cell, missing)


@given(
    st.text(st.characters(codec="utf-8", exclude_characters='\0\r\n,"'), max_size=6), st.sampled_from(TYPES)
)
def test_any_cell_is_the_same_value_both_ways(cell: str, types: str) -> None:
    told = (f"e1,{cell},0", ",", ".", ("NA",), types)
    assert same(in_a_topic(*told), in_a_file(*told))


def test_quotes_after_a_blank_open_a_cell_on_a_topic_too() -> None:
    assert in_a_topic('e1, "a, b", "7"', ",", ".", (), "") == {"v": "a, b", "w": 7}


def test_a_number_with_the_other_decimal_sign_is_refused_and_no_category() -> None:
    spec = EventSpec(features="*", format="csv", columns=COLUMNS, delimiter=";")
    record = Record("t", 0, 0, 0, None, b"e1;21,5;0")
    assert compile_decoder(spec)(record) == Refusal("decode", "decimal_sign", "v")


def test_words_for_no_value_and_decimal_commas_in_json() -> None:
    spec = EventSpec(features="*", types={"a": "float"}, missing=("NA", "-"), decimal=",")
    value = b'{"id":"-","a":"1,5","b":" NA ","c":"x","ts":"NA","label":"-"}'
    event = compile_decoder(spec)(Record("t", 2, 7, 0, None, value))
    assert isinstance(event, Event)
    assert (event.x, event.ts, event.y) == ({"a": 1.5, "c": "x"}, None, None)


def test_a_service_that_was_trained_on_a_file_answers_every_line_of_it_on_a_topic(
    apps: Apps, command: Command
) -> None:
    signs = ("{:+.3f}", " {:.3f}", "{:.3f} ", "{:.0f}.", "{:.3f}", "{:+.0e}")
    rows = [
        f"e{n},{signs[n % 6].format(n / 7 - 9)},{'NA' if n % 9 == 0 else n},{'Yes' if n % 2 else ' no'}"
        for n in range(200)
    ]
    told: dict[str, object] = {
        "event.format": "csv",
        "event.columns": ["id", "t", "v", "label"],
        "event.missing": ["NA"],
        "model.use": "preset:classification",
    }
    app = apps("", **told)
    (app.folder / "log.csv").write_text("id,t,v,label\n" + "".join(f"{row}\n" for row in rows))
    out = f"file:{app.folder / 'trained'}"
    words = ("-n", app.config.app.name, "-m", "preset:classification", "--missing", "NA")
    assert "learned 200 of 200" in command.ok("train", app.folder / "log.csv", "-o", out, *words)
    app.produce([row.encode() for row in rows])
    process = app.serve("--from", f"{out}@latest")
    app.wait(process, 200)
    app.stop(process)
    assert app.config.event.missing == ("NA",)
    assert len(app.predictions()) == 200


def test_ints_and_bools_take_what_data_frames_write_for_them() -> None:
    for cell, value in (("1.0", 1), ("0.0", 0), ("1", 1)):
        assert in_a_file(f"e,{cell},2", ",", ".", (), "v=int") == {"v": value, "w": 2}


def test_a_number_is_never_to_be_made_absent() -> None:
    Path("a.csv").write_text("v,w\n1.5,x\nabc,y\n")
    for types, cell, advised in (("v=int", "1.5", False), ("w=int", "x", True)):
        with pytest.raises(ConfigError) as refused:
            list(open_source("a.csv", ReadOptions(columns=ColumnMapping(types=declared(types)))).items())
        assert cell in str(refused.value) and ("--missing" in str(refused.value)) is advised


def packed(unscaled: int) -> str:
    return base64.b64encode(unscaled.to_bytes(2, "big")).decode()


def test_a_service_says_once_that_a_feature_is_numbers_in_a_coat(apps: Apps) -> None:
    app = apps("")
    stream = [
        {"id": str(n), "features": {"price": f"1,{n:03}.5", "base": packed(n * 997), "a": n}}
        for n in range(60)
    ]
    app.produce(stream)
    process = app.serve()
    app.wait(process, 60)
    app.stop(process)
    (line,) = [line for line in app.log.splitlines() if "features.numbers_as_text" in line]
    assert "price" in line and "base" in line


def test_a_leap_second_is_a_time() -> None:
    days = (
        "2016-12-31T23:59:58Z",
        "2016-12-31T23:59:60Z",
        "2016-12-31 23:59:60.5+00:00",
        "2017-01-01T00:00:01Z",
    )
    Path("late.csv").write_text("a,ts\n" + "".join(f"1,{day}\n" for day in days))
    items = [item for item in open_source("late.csv").items() if item]
    assert [item.time_s for item in items] == [1483228798.0, 1483228800.0, 1483228800.5, 1483228801.0]


def test_a_leap_second_is_a_time_to_the_service_as_it_is_in_a_file() -> None:
    """RFC 3339 has them; as JSON lines, which are sent as they stand, such events were dead letters."""
    assert event_time_ms("2016-12-31T23:59:60Z", "rfc3339") == 1483228800000.0
    assert event_time_ms("2016-12-31t23:59:60.5z", "rfc3339") == 1483228800500.0
    assert event_time_ms("9999-12-31T23:59:60Z", "rfc3339") is None
    assert as_moment("2016-12-31T23:59:60Z", 0.0) == datetime(2017, 1, 1, tzinfo=UTC)
