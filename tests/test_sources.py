"""SOURCE: whatever a table looks like, its rows become events whose values are those of its cells."""

import csv
import datetime
import gzip
import io
import json
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zstandard
from command import Command, command
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.core.events.event import Event, EventSpec
from streamlearn.core.events.mapping import compile_decoder
from streamlearn.core.records import ORDER_HEADER, Record
from streamlearn.env import RealEnv
from streamlearn.errors import ConfigError
from streamlearn.history.formats import delimited
from streamlearn.history.formats.cells import declared
from streamlearn.history.formats.column_mapping import ColumnMapping, ColumnRoles
from streamlearn.history.formats.delimited import Dialect
from streamlearn.history.formats.jsonlines import EventPaths
from streamlearn.history.label_delay import parse_delay, schedule
from streamlearn.history.send import Pace, Sender, SendTopics
from streamlearn.history.sources import ReadOptions, Source, open_source
from streamlearn.log.embedded.admin import EmbeddedAdmin
from streamlearn.log.port import ProducerRecord, TopicSpec
from tests.fake_env import FakeEnv

__all__ = ["command"]


def how(
    types: str = "",
    features: str = "",
    missing: tuple[str, ...] = (),
    decimal: str = ".",
    form: str = "",
    dialect: Dialect = Dialect(),  # noqa: B008
    timed: bool = True,
    **roles: Any,
) -> ReadOptions:
    wanted = ColumnRoles(features=tuple(features.split(",")) if features else (), **roles)
    columns = ColumnMapping(wanted, declared(types), frozenset(missing), decimal, timed=timed)
    return ReadOptions(columns=columns, dialect=dialect, format=form)


def write(name: str, text: str | bytes) -> str:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


def values(source: Source) -> list[bytes]:
    return [item.row.value or b"" for item in source.items() if item]


def events(name: str, told: ReadOptions | None = None) -> list[dict[str, Any]]:
    return [json.loads(value) for value in values(open_source(name, told or how()))]


def features(text: str | bytes, told: ReadOptions | None = None, name: str = "a.csv") -> list[dict[str, Any]]:
    return [event["features"] for event in events(write(name, text), told)]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# --- cells --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("1", 1),
        ("-1.50", -1.5),
        ("1e3", 1000.0),
        ("+5", 5),
        (".5", 0.5),
        ("5.", 5.0),
        (" 7 ", 7),
        ("007", "007"),
        ("00.5", "00.5"),
        ("NaN", "NaN"),
        ("inf", "inf"),
        ("1e999", "1e999"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("true", "true"),
        ("null", "null"),
        ("[1]", "[1]"),
        ("9223372036854775807", 9223372036854775807),
        ("9223372036854775808", "9223372036854775808"),
        ("-9223372036854775808", -9223372036854775808),
        ("99999999999999999999", "99999999999999999999"),
        ("0.1000000000000000055511151231257827", 0.1),
        ("１２", "１２"),
        ("a\\b", "a\\b"),
        ("é\x7f", "é\x7f"),
    ],
)
def test_an_undeclared_cell_is_a_number_only_when_it_surely_is_one(cell: str, value: object) -> None:
    for beside in ("1.5", "text", ""):
        rows = features(f"a,b\n{cell},0\n{beside},0\n")
        assert rows[0] == {"a": value, "b": 0}
        assert type(rows[0]["a"]) is type(value)


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1), min_size=1)
)
def test_every_number_arrives_as_it_was(numbers: list[float | int]) -> None:
    text = "a,b\n" + "".join(f"{number!r},x\n" for number in numbers)
    found = [row["a"] for row in features(text)]
    assert found == numbers
    assert [type(number) for number in found] == [type(number) for number in numbers]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1), min_size=1))
def test_every_text_arrives_as_it_was(texts: list[str]) -> None:
    out = io.StringIO(newline="")
    csv.writer(out).writerows([["a", "b"], *([text, 0] for text in texts)])
    found = [row.get("a") for row in features(out.getvalue(), how(types="a=str"))]
    assert found == [text if text.strip() else None for text in texts]


def test_declared_types() -> None:
    text = (
        "f,i,b,s,d,t,n\n5,007,Yes,007,2026-01-31,2026-01-31 08:00:00,NA\n-1.50,+3,0,1.0,31.01.2026,x,-999\n"
    )
    told = how(types="f=float,i=int,b=bool,s=str,d=date", missing=("NA", "-999", "31.01.2026"))
    assert events(write("a.csv", text), told)[0]["features"] == {
        "f": 5.0,
        "i": 7,
        "b": True,
        "s": "007",
        "d": "2026-01-31",
        "t": "2026-01-31 08:00:00",
    }
    row = features(text, told)[1]
    assert row == {"f": -1.5, "i": 3, "b": False, "s": "1.0", "t": "x"}
    assert [type(row["f"]) for row in features("f,x\n5,1\n6.5,1\n", how(types="f=float"))] == [float, float]
    german = how(types="d=date:%d.%m.%Y,t=datetime:%d.%m.%Y %H:%M")
    assert features("d,t\n31.01.2026,31.01.2026 08:30\n", german) == [
        {"d": "2026-01-31", "t": "2026-01-31T08:30:00+00:00"}
    ]


def test_an_empty_cell_is_an_absent_feature() -> None:
    assert features("a,b,c\n1,,\n, ,3\n,,\n1,2,3\n") == [{"a": 1}, {"c": 3}, {}, {"a": 1, "b": 2, "c": 3}]


def test_decimal_commas_have_to_be_told() -> None:
    text = "t;p\n1,5;1013\n-0,25;7\n"
    with pytest.raises(ConfigError, match=r"a\.csv row 2, column 't': '1,5' looks like .* --decimal ,"):
        features(text)
    with pytest.raises(ConfigError, match=r"row 2, column 't': '1,5' is no float: .* say --decimal ,"):
        features(text, how(types="t=float"))
    assert features(text, how(decimal=",")) == [{"t": 1.5, "p": 1013}, {"t": -0.25, "p": 7}]
    assert features(text, how(types="t=str"))[0] == {"t": "1,5", "p": 1013}
    with pytest.raises(ConfigError, match="has a decimal point"):
        features("t;p\n1.234;5\n", how(decimal=","))


@pytest.mark.parametrize(
    ("types", "cell"),
    [("float", "x"), ("float", "NaN"), ("float", "1_0"), ("int", "1.5"), ("int", "9" * 19), ("bool", "maybe"),
     ("date", "31.1."), ("date", "2026-01-31T08:00:00"), ("datetime", "noon")],
)  # fmt: skip
def test_a_type_that_does_not_fit_names_file_row_and_column(types: str, cell: str) -> None:
    with pytest.raises(ConfigError, match=rf"^a\.csv row 3, column 'v': '{cell[:9]}"):
        features(f"v,w\n,1\n{cell},2\n", how(types=f"v={types}"))


# --- roles --------------------------------------------------------------------------------------------


def test_a_row_becomes_the_envelope() -> None:
    name = write("a.csv", "n,when,dev,t,ok\n007,2026-01-31 08:00:00,d1,1.50,yes\n8,,,2,\n")
    told = how(types="ok=bool", id="n", time="when", key="dev", label="ok")
    items = [item for item in open_source(name, told).items() if item]
    assert items[0].row == ProducerRecord(
        b"d1",
        b'{"id":"007","ts":"2026-01-31T08:00:00+00:00","key":"d1","features":{"t":1.50},"label":true}',
    )
    assert items[1].row == ProducerRecord(None, b'{"id":"8","features":{"t":2}}')
    assert [(item.time_s, item.place) for item in items] == [
        (1769846400.0, "a.csv row 2"),
        (None, "a.csv row 3"),
    ]


def test_columns_of_the_default_names_need_not_be_told() -> None:
    name = write("a.csv", "id,ts,key,x,label\n1,1700000000,k,2,y\n")
    assert events(name) == [{"id": "1", "ts": 1700000000, "key": "k", "features": {"x": 2}, "label": "y"}]


def test_chosen_features_come_in_their_order_and_rows_without_id_are_numbered_on() -> None:
    source = open_source(write("a.csv", "a,b,c\n1,2,3\n4,5,6\n"), how(features="c,a"))
    assert values(source) == [b'{"id":"0","features":{"c":3,"a":1}}', b'{"id":"1","features":{"c":6,"a":4}}']
    assert [json.loads(value)["id"] for value in values(source)] == ["2", "3"]


def test_a_column_that_is_not_there_is_refused_with_those_there_are() -> None:
    name = write("a.csv", "temp,rpm\n1,2\n")
    for told in (how(label="tempp"), how(features="tempp"), how(types="tempp=int")):
        with pytest.raises(ConfigError, match=r"has no column 'tempp'; did you mean 'temp'\? .*temp, rpm"):
            open_source(name, told)


def test_a_time_that_is_none_names_its_place() -> None:
    name = write("a.csv", "ts,x\n31/01/2026,1\n")
    with pytest.raises(ConfigError, match=r"row 2, column 'ts': '31/01/2026' is no date and time .*--types"):
        events(name)


# --- CSV as it comes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,x y\n2,é\n",
        "\ufeffa,b\r\n1,x y\r\n2,é\r\n",
        "a;b\n1;x y\n2;é",
        "a\tb\n1\tx y\n2\té\n",
        "a|b\n\n1|x y\n\n2|é\n\n",
        '"a","b"\n"1","x y"\n"2","é"\n',
        " a , b \r1,x y\r2,é",
    ],
)
def test_the_same_table_in_many_dresses(text: str) -> None:
    assert features(text) == [{"a": 1, "b": "x y"}, {"a": 2, "b": "é"}]


def test_encodings() -> None:
    table, same = "a,b\n1,ü\n", [{"a": 1, "b": "ü"}]
    assert features(table.encode("utf-16")) == same
    assert features(table.encode("cp1252"), how(dialect=Dialect(encoding="cp1252"))) == same
    with pytest.raises(ConfigError, match=r"a\.csv row 2 is not UTF-8: .*--encoding"):
        features(table.encode("cp1252"))
    with pytest.raises(ConfigError, match="row 2 ends in the middle of a character"):
        features(table.strip().encode()[:-1])
    with pytest.raises(ConfigError, match="--encoding nope"):
        features(table, how(dialect=Dialect(encoding="nope")))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n3\n", "a.csv row 3 has 1 cells, and the header has 2"),
        ("a,b\n1,2\n\n3,4,5\n", "a.csv row 4 has 3 cells, and the header has 2"),
        ('a,b\n"x\ny",2\n3\n', "a.csv row 3 has 1 cells"),
        ("a,b\n1\n2,3,4\n", "a.csv row 2 has 1 cells"),
        ("a,b\na\nb\nc,d,e\n", "a.csv row 2 has 1 cells"),
        ("a,b,a\n1,2,3\n", "row 1 names 'a' more than once"),
        (
            "1.5,2,x\n1,2,3\n",
            "row 1 holds data and no column names ('1.5,2,x'): name the columns with --header",
        ),
        ('a,b\n1,"x\n2,3\n', "a.csv row 2 is not CSV"),
        ('a,b\n1,2\n1,"x"y\n', "a.csv row 3 is not CSV"),
        ("", "a.csv is empty"),
    ],
)
def test_a_broken_table_says_where_and_what(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        features(text)
    assert said in str(refused.value)


def test_a_file_without_header_takes_names() -> None:
    told = how(dialect=Dialect(header=("x", "y")))
    assert features("1.5,2\n3,4\n", told) == [{"x": 1.5, "y": 2}, {"x": 3, "y": 4}]


def test_columns_without_a_name_are_left_out_with_a_note() -> None:
    source = open_source(write("a.csv", ",a,\n0,1,\n1,2,\n"))
    assert [json.loads(value)["features"] for value in values(source)] == [{"a": 1}, {"a": 2}]
    assert source.notes == ("a.csv: column 1, 3 has no name and is left out (--header names columns)",)


def test_ten_thousand_columns() -> None:
    names = ",".join(f"c{n}" for n in range(10_000))
    row = ",".join(map(str, range(10_000)))
    assert features(f"{names}\n{row}\n{row}\n")[1] == {f"c{n}": n for n in range(10_000)}


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 16])
def test_the_size_of_pieces_changes_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamlearn.history.formats.files.CHUNK_BYTES", chunk)
    monkeypatch.setattr(delimited, "CHUNK_BYTES", chunk)
    rng = random.Random(1)
    rows = [
        [rng.choice(["1", "x", "", "é", '"', "a,b", "l\r\nm", "\n"]) for _ in range(3)] for _ in range(200)
    ]
    out = io.StringIO(newline="")
    csv.writer(out).writerows([["a", "b", "c"], *rows])
    write("a.csv", out.getvalue())
    wanted = [
        {name: 1 if cell == "1" else cell for name, cell in zip("abc", row, strict=True) if cell.strip()}
        for row in rows
    ]
    assert [event["features"] for event in events("a.csv")] == wanted


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_rows_are_counted_as_an_editor_shows_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamlearn.history.formats.files.CHUNK_BYTES", 64)
    monkeypatch.setattr(delimited, "CHUNK_BYTES", 64)
    head, row = ("id,x", "1,2") if name == "a.csv" else ("", '{"id":1,"x":2}')
    write(name, f"{head}\n" + f"{row}\n\n" * 500 + "bad\n")
    with pytest.raises(ConfigError, match=f"{name} row 1002 "):
        events(name, how(id="id"))


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_packed_file_and_one_cut_short(pack: Any) -> None:
    text = "a,b\n" + "".join(f"{n},{random.Random(n).random()}\n" for n in range(5000))
    name = "a.csv.gz" if pack is gzip.compress else "a.csv.zst"
    packed = pack(text.encode())
    assert len(features(packed, name=name)) == 5000
    assert len(features(packed + pack(b"5000,1\n"), name=name)) == 5001
    for cut in (len(packed) // 2, len(packed) - 1):
        with pytest.raises(ConfigError, match=f"{name} is damaged or was cut short .*copy it again"):
            features(packed[:cut], name=name)
    with pytest.raises(ConfigError, match="is damaged or was cut short"):
        features(b"this is not packed", name=name)


def test_an_error_of_a_row_comes_after_the_rows_before_it() -> None:
    name = write("a.csv", "a,b\n" + "1,2\n" * 50_000 + "3\n")
    rows = 0
    with pytest.raises(ConfigError, match=r"a\.csv row 50002 has 1 cells"):
        for item in open_source(name).items():
            rows += item is not None
    assert rows > 0


def test_csv_on_standard_input(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.BytesIO(b"a,b\n1,2\n3,4\n")
    monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": stdin, "isatty": lambda: False}))
    command.ok("replay", "-", "--format", "csv", "-t", "e", "--db", "s.db")
    assert command.ok("tail", "e", "--db", "s.db").splitlines() == [
        '{"id":"0","features":{"a":1,"b":2}}',
        '{"id":"1","features":{"a":3,"b":4}}',
    ]


def test_a_row_on_a_slow_pipe_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = [b"a,b\n1,2\n3", b",4\n", b""]
    pipe = type("Pipe", (io.RawIOBase,), {"read1": lambda _self, _size: chunks.pop(0)})()
    monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": pipe}))
    items = open_source("-", how(form="csv")).items()
    assert next(items) is not None
    assert (next(items), len(chunks)) == (None, 2)


# --- bit for bit --------------------------------------------------------------------------------------


def test_shuttle_through_csv_is_shuttle_bit_for_bit() -> None:
    from river import datasets

    with Path("shuttle.csv").open("w", newline="") as file:
        out = csv.writer(file)
        for number, (x, y) in enumerate(datasets.Shuttle()):
            if number == 0:
                out.writerow([*x, "class"])
            out.writerow([*x.values(), y])
    original = values(open_source("river:Shuttle"))
    assert len(original) == 49_097
    assert values(open_source("shuttle.csv", how(label="class"))) == original


# --- other sources ------------------------------------------------------------------------------------


def test_json_lines_as_rows() -> None:
    name = write("a.jsonl", '{"n":1,"t":"1.5","tags":{"dev":"d"},"ok":null}\n\n{"n":2,"t":"x","extra":[1]}\n')
    told = how(types="t=str", id="n", key="tags.dev", features="t")
    assert values(open_source(name, told)) == [
        b'{"id":1,"key":"d","features":{"t":"1.5"}}',
        b'{"id":2,"features":{"t":"x"}}',
    ]
    with pytest.raises(ConfigError, match=r"a\.jsonl row 3, column 't': 'x' is no float"):
        events(name, how(types="t=float", features="t"))
    with pytest.raises(ConfigError, match=r"row 1, column 'tags': a value of the type dict"):
        events(name, how(id="n"))
    with pytest.raises(ConfigError, match=r"b\.jsonl row 2 is not JSON"):
        events(write("b.jsonl", '{"a":1}\n{"a":\n'), how(id="a"))
    with pytest.raises(ConfigError, match="has no column 'nn'; did you mean 'n'"):
        events(name, how(id="nn"))


def test_parquet_and_arrow_keep_types() -> None:
    pa = pytest.importorskip("pyarrow")
    feather, parquet = pytest.importorskip("pyarrow.feather"), pytest.importorskip("pyarrow.parquet")
    when = datetime.datetime(2026, 1, 31, 8, tzinfo=datetime.UTC)
    table = pa.table(
        {
            "ts": pa.array([when, None], pa.timestamp("ns", "UTC")),
            "i": pa.array([1, 2**62]),
            "f": [1.5, float("nan")],
            "s": pa.array(["007", None]).dictionary_encode(),
            "b": [True, False],
            "d": [datetime.date(2026, 1, 31), None],
        }
    )
    parquet.write_table(table, "a.parquet")
    feather.write_feather(table, "a.arrow")
    with pa.ipc.new_stream("b.arrow", table.schema) as out:
        out.write_table(table)
    for name in ("a.parquet", "a.arrow", "b.arrow"):
        assert events(name, how(label="b")) == [
            {
                "id": "0",
                "ts": "2026-01-31T08:00:00+00:00",
                "features": {"i": 1, "f": 1.5, "s": "007", "d": "2026-01-31"},
                "label": True,
            },
            {"id": "1", "features": {"i": 2**62}, "label": False},
        ]
    assert open_source("a.parquet").total == 2
    for name in ("a.parquet", "a.arrow", "b.arrow"):
        whole = Path(name).read_bytes()
        write(f"cut.{name}", whole[: len(whole) // 2])
        with pytest.raises(ConfigError, match=rf"cut\.{name} is no whole .* cut short"):
            events(f"cut.{name}")
    parquet.write_table(pa.table({"a": [[1]], "b": [float("inf")]}), "odd.parquet")
    with pytest.raises(ConfigError, match=r"odd\.parquet row 1, column 'a': a value of the type list"):
        events("odd.parquet")
    with pytest.raises(ConfigError, match=r"column 'b': inf is an infinity"):
        events("odd.parquet", how(features="b"))


def test_without_pyarrow_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install pyarrow .*pip install '\.\[parquet\]'"):
        open_source(write("a.parquet", b"PAR1"))


PYTHON = """
import datetime
PAIRS = [({"a": 1, "when": datetime.datetime(2026, 1, 31)}, True), ({"a": 2.5}, None)]
ROWS = [{"n": "x", "a": 1}, {"n": "y", "a": float("nan")}]
ODD = [({"a": 1}, 0), 5]
INFINITE = [({"a": float("inf")}, 0)]
def pairs():
    yield from PAIRS
def breaks():
    yield PAIRS[0]
    raise KeyError("sensor")
def breaks_late():
    yield from [({"a": 1}, 0)] * 1000
    raise KeyError("late")
"""


def test_python_iterables(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    module = f"stream_{abs(hash(request.node.name))}"
    write(f"{module}.py", PYTHON)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    pairs = [
        {"id": "0", "ts": "2026-01-31T00:00:00+00:00", "features": {"a": 1}, "label": True},
        {"id": "1", "features": {"a": 2.5}, "label": None},
    ]
    assert events(f"{module}:PAIRS") == pairs
    source = open_source(f"{module}:pairs")
    assert [json.loads(value) for value in values(source)] == pairs
    assert [json.loads(value)["id"] for value in values(source)] == ["2", "3"]
    assert events(f"{module}:ROWS", how(id="n")) == [
        {"id": "x", "features": {"a": 1}},
        {"id": "y", "features": {}},
    ]
    assert [event["features"] for event in events(f"{module}:ROWS")] == [{"n": "x", "a": 1}, {"n": "y"}]
    for name, said in [
        ("ODD", "item 2 is a int"),
        ("breaks", "item 2: KeyError: 'sensor'"),
        ("INFINITE", "item 1, feature 'a': inf is an infinity"),
        ("datetime", "name an iterable"),
    ]:
        with pytest.raises(ConfigError) as refused:
            events(f"{module}:{name}")
        assert said in str(refused.value)


def test_nothing_is_read_past_the_limit(command: Command) -> None:
    write("stream_of_mine.py", PYTHON)
    words = ("replay", "stream_of_mine:breaks_late", "-t", "e", "--db", "s.db")
    assert json.loads(command.ok(*words, "--limit", 1000, "--json"))["sent"] == 1000
    assert command(*words).code == 2


def test_a_range_of_a_topic(command: Command) -> None:
    admin = EmbeddedAdmin(RealEnv(), Path("s.db"))
    admin.create([TopicSpec("in", 1)])
    admin.append("in", [ProducerRecord(b"k%d" % n, b'{"v":%d}' % n, (("h", b"\xff"),)) for n in range(6)])
    admin.append("in", [ProducerRecord(b"k", None)])
    admin.close()
    whole = [("", 7), ("@", 7), ("@beginning..end", 7)]
    parts = [("@2..4", 2), ("@..3", 3), ("@5", 2), ("@..-1", 6), ("@2999-01-01T00:00:00Z..", 0)]
    for span, sent in whole + parts:
        told = json.loads(command.ok("replay", f"topic:in{span}", "-t", "out", "--db", "s.db", "--json"))
        assert told["sent"] == sent, span
    command.ok("replay", "topic:in@1..3", "-t", "copy", "--db", "s.db")
    lines = [json.loads(line) for line in command.ok("tail", "copy", "--db", "s.db", "--json").splitlines()]
    assert [(line["key"], line["value"]) for line in lines] == [("k1", '{"v":1}'), ("k2", '{"v":2}')]
    assert lines[0]["headers"] == [{"name": "h", "value_base64": "/w=="}]
    command.ok("replay", "topic:in", "-t", "rows", "--db", "s.db", "--features", "v", "--id", "v")
    assert (
        command.ok("tail", "rows", "--db", "s.db", "-n", 1, "-o", "beginning")
        == '{"id":0,"features":{"v":0}}\n'
    )
    assert command("replay", "topic:none@0..1", "-t", "out", "--db", "s.db").code == 2
    assert command("replay", "topic:in@noon", "-t", "out", "--db", "s.db").code == 2


# --- labels later and apart ---------------------------------------------------------------------------


class World:
    """Replays into an embedded log, and what stands in its two topics afterwards."""

    def __init__(self) -> None:
        self.admin = EmbeddedAdmin(RealEnv(), Path("world.db"))
        self.admin.create([TopicSpec("e", 1), TopicSpec("l", 1)])

    def replay(self, name: str, delay: str, told: ReadOptions, limit: int | None = None) -> Any:
        meant = parse_delay(delay)
        roles = told.columns.roles._replace(group=meant.group, due=meant.field)
        source = open_source(name, told._replace(columns=told.columns._replace(roles=roles)))
        sender = Sender(RealEnv(), self.admin, SendTopics("e", "l"), Pace(), RealEnv().flag(), lambda _: None)
        return sender.run(partial(schedule, source, told, meant), limit, loop=False)

    @property
    def order(self) -> list[tuple[str, str]]:
        """What the records of both topics say of their order: topic, and the id."""
        found = self.admin.poll({("e", 0): 0, ("l", 0): 0}, 10_000, 0).records
        records = sorted(
            (record for some in found.values() for record in some),
            key=lambda record: int(dict(record.headers)[ORDER_HEADER] or 0),
        )
        return [(record.topic, json.loads(record.value or b"").get("id", "group")) for record in records]

    def of(self, topic: str) -> list[Any]:
        records = self.admin.poll({(topic, 0): 0}, 10_000, 0).records.get((topic, 0), [])
        return [json.loads(record.value or b"") for record in records]


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.admin.close()


TABLE = """id,ts,x,s,known,label
a,1700000000,1,g1,1700000050,p
b,1700000060,2,g2,,q
c,1700000120,3,g1,1700000060,p
d,1700000240,4,g2,1700000230,q
"""


def test_labels_follow_after_a_delay_in_event_time(world: World) -> None:
    report = world.replay(write("a.csv", TABLE), "2m", how(features="x"))
    assert (report["sent"], report["labels"]) == (8, 4)
    assert world.order == [
        ("e", "a"), ("e", "b"), ("l", "a"), ("e", "c"), ("l", "b"), ("l", "c"), ("e", "d"), ("l", "d"),
    ]  # fmt: skip
    assert world.of("e")[0] == {"id": "a", "ts": 1700000000, "features": {"x": 1}}
    assert world.of("l")[0] == {"id": "a", "label": "p", "ts": 1700000120}


def test_labels_follow_at_the_time_of_a_column(world: World) -> None:
    world.replay(write("a.csv", TABLE), "field:known", how(features="x"))
    assert world.order == [("e", "a"), ("l", "a"), ("e", "b"), ("e", "c"), ("l", "c"), ("e", "d"), ("l", "d")]
    assert world.of("e")[0] == {"id": "a", "ts": 1700000000, "features": {"x": 1}}
    assert [label["ts"] for label in world.of("l")] == [1700000050, 1700000060, 1700000230]


def test_labels_follow_a_number_of_events_later_whatever_the_times_are(world: World) -> None:
    world.replay(write("a.csv", TABLE), "2", how(features="x"))
    events = [("e", "a"), ("e", "b"), ("l", "a"), ("e", "c"), ("l", "b"), ("e", "d"), ("l", "c"), ("l", "d")]
    assert world.order == events
    assert world.of("l")[0] == {"id": "a", "label": "p", "ts": 1700000120}


def test_a_groups_label_follows_its_last_event_once(world: World) -> None:
    world.replay(write("a.csv", TABLE), "end-of:s", how(features="x"))
    assert world.order == [("e", "a"), ("e", "b"), ("e", "c"), ("l", "group"), ("e", "d"), ("l", "group")]
    assert world.of("e")[0] == {"id": "a", "ts": 1700000000, "group": "g1", "features": {"x": 1}}
    assert world.of("l") == [
        {"group": "g1", "label": "p", "ts": 1700000120},
        {"group": "g2", "label": "q", "ts": 1700000240},
    ]


def test_a_limit_ends_groups_too(world: World) -> None:
    table = TABLE.replace("id,", "name,")
    assert world.replay(write("a.csv", table), "end-of:s", how(features="x"), limit=2)["labels"] == 2
    assert [event["id"] for event in world.of("e")] == ["0", "1"], "looking ahead uses up no numbers"


def test_a_group_on_a_pipe_ends_where_the_next_begins(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = TABLE.splitlines(keepends=True)

    def pipe(*order: int) -> None:
        text = "".join(rows[n] for n in order).encode()
        monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": io.BytesIO(text)}))

    told = how(form="csv", features="x")
    pipe(0, 1, 3, 2, 4)
    world.replay("-", "end-of:s", told)
    assert world.order == [("e", "a"), ("e", "c"), ("l", "group"), ("e", "b"), ("e", "d"), ("l", "group")]
    pipe(0, 1, 2, 3)
    with pytest.raises(ConfigError, match="standard input row 4: the group 'g1' comes again after its end"):
        world.replay("-", "end-of:s", told)


def test_json_lines_lose_only_their_label(world: World) -> None:
    big = 2**70
    kept = f'{{"id":"a","ts":"2026-01-31T08:00:00+01:00","features":{{"x":1}},"n":{big}'
    text = kept + ',"label":false}\nnot json\n'
    world.replay(write("a.jsonl", text), "90s", ReadOptions())
    value = world.admin.poll({("e", 0): 0}, 9, 0).records["e", 0]
    assert value[0].value == (kept + "}").encode()
    assert value[1].value == b"not json"
    assert world.of("l") == [{"id": "a", "label": False, "ts": "2026-01-31T08:01:30+01:00"}]


@pytest.mark.parametrize("delay", ["90s", "1", "field:meta.known.0", "end-of:meta.run"])
def test_the_parts_of_an_event_stand_where_the_service_finds_them(world: World, delay: str) -> None:
    """A label at a path stayed in its event, and was learned at once; times at paths were not found."""
    spec = EventSpec("meta.id", "meta.of.0", "at.ts", label="meta.out.0", features="x", group="meta.run")
    meta = {"id": 7, "of": ["k"], "out": ["p", 5], "run": "g", "known": [1700000050]}
    text = json.dumps({"meta": meta, "at": {"ts": 1700000000}, "x": {"a": 1}})
    told = ReadOptions(EventPaths(spec.key, spec.time, "auto", spec.id, spec.label, "x"))
    served = compile_decoder(spec)(Record("e", 0, 0, 0, None, text.encode()))
    assert isinstance(served, Event) and served.y == "p"
    world.replay(write("a.jsonl", text), delay, told)
    (event,) = world.admin.poll({("e", 0): 0}, 9, 0).records["e", 0]
    without = compile_decoder(spec)(event)
    assert isinstance(without, Event) and without.y is None
    assert (without.id, without.ts, without.x, without.group) == (7, 1700000000, {"a": 1}, "g")
    assert event.key == b"k"
    assert [label["label"] for label in world.of("l")] == ["p"]
    assert json.loads(event.value or b"")["meta"]["out"] == [None, 5], "the others keep their places"


@pytest.mark.parametrize(
    ("text", "delay", "said"),
    [
        ("x,label\n1,a\n", "5m", "a.csv row 2 has no event time, .* with --time"),
        ("id,ts,x,label\n,1700000000,1,a\n", "5m", "a.csv row 2 has no id"),
        (
            "ts,x,g,label\n1700000000,1,u,a\n1700000001,1,u,b\n",
            "end-of:g",
            "row 3: the group 'u' has the label 'b'",
        ),
        ("ts,x,g,label\n1700000000,1,,a\n", "end-of:g", "row 2 has no group in 'g'"),
        ("ts,x,label\n1700000000,1,a\n", "end-of:g", "has no column 'g'"),
        ("ts,x,label\n1700000000,1,a\n", "field:g", "has no column 'g'"),
    ],
)
def test_labels_that_cannot_be_sent_apart_say_why(world: World, text: str, delay: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        world.replay(write("a.csv", text), delay, how())
    assert world.of("l") == []


def test_the_pace_holds_for_both(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    env = FakeEnv(1000.0)
    append, sent = world.admin.append, []
    monkeypatch.setattr(
        world.admin,
        "append",
        lambda topic, rows: (sent.append((env.now_s - 1000, topic, len(rows))), append(topic, rows)),
    )
    source = open_source(write("a.csv", TABLE), how(features="x"))
    report = Sender(env, world.admin, SendTopics("e", "l"), Pace(speed=60), env.flag(), lambda _: None).run(
        partial(schedule, source, ReadOptions(), parse_delay("2m")), None, False
    )
    assert [(round(at_s), topic, count) for at_s, topic, count in sent] == [
        (0, "e", 1),
        (1, "e", 1),
        (2, "e", 1),
        (2, "l", 1),
        (3, "l", 1),
        (4, "e", 1),
        (4, "l", 1),
        (6, "l", 1),
    ]
    assert report["late_max_ms"] < 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--labels-topic", "l"], "--labels-topic TOPIC and --delay go together"),
        (["--delay", "5m"], "--labels-topic TOPIC and --delay go together"),
        (["--labels-topic", "e", "--delay", "5m"], "labels need a topic of their own"),
        (
            ["--labels-topic", "l", "--delay", "soon"],
            "--delay soon: write a duration like 5m, a number of events",
        ),
        (["--labels-topic", "l", "--delay", "5m", "--rate", "9"], "has no event time"),
        (["--types", "x"], "--types x: write COLUMN=TYPE with a type of float"),
        (["--types", "x=double"], "--types x=double: write COLUMN=TYPE"),
        (["--types", "x=int"], "a.csv row 3, column 'x': 'b' is no int"),
        (["--delimiter", "ab"], "--delimiter ab: give one sign"),
        (["--decimal", ";"], "--decimal ;: the decimal sign is"),
        (["--format", "xml"], "--format xml: the formats are csv, jsonl"),
        (["--id", "nope"], "has no column 'nope'"),
    ],
)
def test_words_that_do_not_fit_are_refused_before_anything_is_sent(
    command: Command, words: list[str], said: str
) -> None:
    write("a.csv", "x,label\n1,a\nb,c\n")
    result = command("replay", "a.csv", "-t", "e", "--db", "s.db", *words)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert "Traceback" not in result.err
    if Path("s.db").exists():
        assert command("tail", "e", "--db", "s.db").out == ""


@pytest.mark.kafka
def test_a_table_and_its_late_labels_on_kafka(command: Command, kafka: str, topic_prefix: str) -> None:
    events_topic, labels = f"{topic_prefix}.events", f"{topic_prefix}.labels"
    for topic in (events_topic, labels):
        command.ok("topics", "ensure", "-i", topic, "--partitions", 1, "-n", topic_prefix, "-b", kafka)
    write("a.csv", TABLE)
    command.ok(
        "replay",
        "a.csv",
        "-t",
        events_topic,
        "--labels-topic",
        labels,
        "--delay",
        "end-of:s",
        "--features",
        "x",
        "-b",
        kafka,
    )
    assert len(command.ok("tail", events_topic, "-b", kafka).splitlines()) == 4
    assert command.ok("tail", labels, "-b", kafka).splitlines() == [
        '{"group":"g1","label":"p","ts":1700000120}',
        '{"group":"g2","label":"q","ts":1700000240}',
    ]
    told = command.ok("replay", f"topic:{events_topic}@1..3", "-t", labels, "-b", kafka, "--json")
    assert json.loads(told)["sent"] == 2
