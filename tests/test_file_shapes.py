"""Files that are not what they seem are read, or refused with what they are and what to do about it."""

import bz2
import gzip
import json
import lzma
import zipfile
from pathlib import Path
from typing import Any

import pytest
from command import Command, command
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlearn.errors import ConfigError
from streamlearn.history.formats import files
from streamlearn.history.formats.delimited import Dialect
from streamlearn.history.formats.jsonlines import texts
from streamlearn.history.sources import ReadOptions, open_source

__all__ = ["command"]

ROWS = [{"id": str(n), "features": {"a": n / 7, "b": 'x "[{,' if n % 2 else "\u00e9"}} for n in range(30)]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str | bytes) -> str:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


def read(name: str) -> list[Any]:
    return [json.loads(item.row.value or b"") for item in open_source(name).items() if item]


def features(name: str, dialect: Dialect | None = None) -> list[dict[str, Any]]:
    source = open_source(name, ReadOptions(dialect=dialect or Dialect()))
    return [json.loads(item.row.value or b"")["features"] for item in source.items() if item]


# --- JSON ---------------------------------------------------------------------------------------------


def lines_of(rows: list[Any], between: str = "\n") -> str:
    return between.join(json.dumps(row) for row in rows)


DRESSES = {
    "lines": lines_of(ROWS),
    "an array": json.dumps(ROWS),
    "a pretty array": json.dumps(ROWS, indent=2),
    "an array, one element a line": f"[{lines_of(ROWS, ',' + chr(10))}]",
    "an array, brackets on lines of their own": f"[\n{lines_of(ROWS, ',' + chr(10))}\n]\n",
    "an array after blanks and a mark": "\ufeff \r\n\n" + json.dumps(ROWS) + "\r\n\n",
    "objects over several lines": "\n".join(json.dumps(row, indent=4) for row in ROWS),
    "lines of Windows": lines_of(ROWS, "\r\n\r\n") + "\r\n",
    "marks before lines": "\ufeff" + lines_of(ROWS, "\n\ufeff"),
}


@pytest.mark.parametrize("chunk", [1, 13, 1 << 16])
@pytest.mark.parametrize("dress", DRESSES)
def test_the_same_objects_in_many_dresses(dress: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CHUNK_BYTES", chunk)
    assert read(write("a.json", DRESSES[dress])) == ROWS


@settings(max_examples=60, deadline=None)
@given(st.lists(st.recursive(st.integers() | st.text() | st.booleans() | st.none(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8), min_size=1),
    st.sampled_from([None, 1, 4]), st.integers(1, 50))  # fmt: skip
def test_any_array_is_its_elements(rows: list[Any], indent: int | None, chunk: int) -> None:
    name = write("any.json", json.dumps(rows, indent=indent))
    before, files.CHUNK_BYTES = files.CHUNK_BYTES, chunk
    try:
        found = [json.loads(text) for some in texts(name) for _, text in some]
    finally:
        files.CHUNK_BYTES = before
    assert found == rows


def test_arrays_are_looked_at_trained_on_and_replayed(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    rows = [{"id": n, "speed": n % 13, "weight": n / 3, "label": n % 2 == 0} for n in range(60)]
    write("cars.json", json.dumps(rows, indent=2))
    command.ok("config", "init", "--from", "cars.json", "-o", "streamlearn.toml")
    assert "sent 60 records" in command.ok("replay", "cars.json", "-t", "events", "--db", "s.db")
    assert "learned 60 of 60" in command.ok("train", "cars.json", "-o", "file:t")
    assert json.loads(command.ok("backtest", "cars.json", "--json"))["models"][0]["scores"]["accuracy"]
    table = command.ok("replay", "cars.json", "-t", "rows", "--db", "s.db", "--label", "label")
    assert "sent 60 records" in table


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"a": 1},\n{"a": 2},\n{"a"', "after element 2 it ends inside of it"),
        ('[{"a": 1} {"a": 2}]', "where a comma should stand"),
        ('{\n "rows": [\n {"a": 1},\n {"a": 2}\n ]\n}\n', "jq -c '.[\"rows\"][]' a.json"),
        ('{\n "a": 1\n', "ends inside of it"),
        ('{"a": 1}\n'.encode("utf-16"), "is UTF-16, and JSON is read as UTF-8: iconv"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(100), "is no text"),
        (gzip.compress(b'{"a": 1}\n', mtime=0), "is gzip by its first bytes"),
        (b"PAR1abc", "is Parquet by its first bytes"),
    ],
)
def test_what_cannot_be_read_says_what_it_is(command: Command, text: str | bytes, said: str) -> None:
    write("a.json", text)
    for words in (("look", "a.json"), ("replay", "a.json", "-t", "events", "--db", "s.db")):
        result = command(*words)
        assert (result.code, said in result.err) == (2, True), result
        assert result.out == ""


@pytest.mark.parametrize("text", ["hello\nworld\n", "<xml>\n<a/>\n", "42\n", '"text"\n', "\n\n"])
def test_nothing_recognised_is_no_configuration(command: Command, text: str) -> None:
    write("a.txt", text)
    for words in (("look", "a.txt"), ("config", "init", "--from", "a.txt", "-o", "new.toml")):
        assert command(*words).code == 2
    assert not Path("new.toml").exists()


def test_a_giant_element_is_refused_and_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamlearn.history.formats.jsonlines.MAX_LINE_BYTES", 100_000)
    name = write("a.json", "[" + json.dumps({"a": [0] * 100_000}) + "]")
    with pytest.raises(ConfigError, match="an element of more than"):
        read(name)


# --- packed ---------------------------------------------------------------------------------------------


def zipped(name: str, **members: str) -> str:
    with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, text in members.items():
            archive.writestr(member.replace("__", "/").replace("_", "."), text)
    return name


def test_one_file_in_a_zip_is_read_whatever_the_archive_is_called() -> None:
    for name in ("flights.csv.zip", "flights.zip"):
        zipped(name, flights_csv="a,b\n1,x\n2,y\n", MACOSX="")
        with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("data/flights.csv", "a,b\n1,x\n2,y\n")
            archive.writestr("__MACOSX/data/._flights.csv", "\0\0")
        assert features(name) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    assert read(zipped("a.json.zip", a_json=json.dumps(ROWS))) == ROWS


def test_archives_that_cannot_be_read_say_why(command: Command) -> None:
    zipped("two.zip", a_csv="a\n1\n", b_csv="a\n2\n")
    result = command("look", "two.zip")
    assert (result.code, "holds 2 files (a.csv, b.csv)" in result.err) == (2, True), result
    packed = bytearray(Path(zipped("secret.csv.zip", a_csv="a,b\n1,2\n")).read_bytes())
    packed[packed.index(b"PK\x01\x02") + 8] |= 1
    write("secret.csv.zip", bytes(packed))
    assert "is encrypted" in command("look", "secret.csv.zip").err
    odd = bytearray(Path(zipped("odd.csv.zip", a_csv="a,b\n1,2\n")).read_bytes())
    odd[odd.index(b"PK\x01\x02") + 10] = 9
    write("odd.csv.zip", bytes(odd))
    assert "packed by method 9" in command("look", "odd.csv.zip").err
    write("cut.csv.zip", Path("odd.csv.zip").read_bytes()[:40])
    assert command("look", "cut.csv.zip").code == 2


def test_a_bomb_is_read_piece_by_piece() -> None:
    with zipfile.ZipFile("bomb.csv.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.csv", "a,b\n" + "0" * (40 << 20))
    with pytest.raises(ConfigError, match="no line end within"):
        features("bomb.csv.zip")


@pytest.mark.parametrize(("suffix", "pack"), [(".bz2", bz2.compress), (".xz", lzma.compress)])
def test_other_packings(suffix: str, pack: Any) -> None:
    packed = pack(b"a,b\n1,x\n")
    assert features(write(f"a.csv{suffix}", packed)) == [{"a": 1, "b": "x"}]
    with pytest.raises(ConfigError, match="damaged or was cut short"):
        features(write(f"b.csv{suffix}", packed[:-9]))


# --- CSV ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,x\n2,y\na,b\n3,z\n",
        "\ufeffa,b\r\n1,x\r\n2,y\r\n\ufeffa,b\r\n3,z\r\n",
        '"a","b"\n1,x\n2,y\n"a","b"\n3,z\n',
        "a, b\n1, x\n2, y\na, b\n3, z\n",
        "a,b\n1,x\n2,y\n\r\n \na,b\n3,z",
    ],
)
def test_a_repeated_header_is_no_row_and_said_once(command: Command, text: str) -> None:
    write("a.csv", text)
    assert features("a.csv") == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}, {"a": 3, "b": "z"}]
    result = command("replay", "a.csv", "-t", "events", "--db", "s.db")
    assert (result.code, result.err.count("a.csv: 1 row repeats the header")) == (0, 1), result
    assert "1 row repeats the header" in command("look", "a.csv").out


def test_a_header_that_was_named_is_found_in_the_file_too() -> None:
    write("a.csv", "a,b\n1,x\n")
    assert features("a.csv", Dialect(header=("a", "b"))) == [{"a": 1, "b": "x"}]


def test_blank_lines_of_windows_are_blank() -> None:
    assert read(write("a.jsonl", b'{"a":1}\r\n\r\n{"a":2}')) == [{"a": 1}, {"a": 2}]
    assert features(write("a.csv", "a,b\r\n1,x\r\n\r\n2,y\r\n")) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


def test_blanks_after_delimiters_belong_to_them() -> None:
    write("a.csv", 'Name,   Country, when\nAnn,   "US, or so",  1\nBob,   DE,  2\n')
    found = features("a.csv")
    assert found == [
        {"Name": "Ann", "Country": "US, or so", "when": 1},
        {"Name": "Bob", "Country": "DE", "when": 2},
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n\0\0,3\n", "row 3 holds NUL bytes"),
        ("a,b\n1,2\n\0\0\0\0", "row 3 holds NUL bytes"),
        ("a,b\n1,2\n\0\0\0\n3,4\n", "row 3 holds NUL bytes"),
        (b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml" + bytes(50), "is an Excel workbook"),
        ("a,b\n1,2,\n3,4,\n", "if every row ends with a delimiter, end the header with one, too"),
        ("# made by x\na;b\n1;2\n3;4\n", "leave such lines out with --skip-rows 1"),
        ("station 723170 Greensboro\na,b\n1,2\n3,4\n", "leave such lines out with --skip-rows 1"),
        ("723170,36.1,-79.9\na,b,c\n1,2,3\n", "row 1 holds data and no column names"),
        ("a,b\n1,2\n# note\n3,4\n", "it is perhaps a comment ('# note')"),
        (b"\xd0\xcf\x11\xe0" + bytes(50), "is no text"),
        (b"PK\x03\x04" + bytes(50), "zip (or Excel: save the sheet as CSV)"),
        ("a,b\n1,2\n".encode("utf-16-le"), "is no text: it holds NUL bytes"),
    ],
)
def test_a_bad_row_says_what_it_most_likely_is(command: Command, text: str | bytes, said: str) -> None:
    write("a.csv", text)
    for words in (("look", "a.csv"), ("replay", "a.csv", "-t", "events", "--db", "s.db")):
        result = command(*words)
        assert (result.code, said in result.err) == (2, True), result


def test_lines_above_the_header_are_left_out_where_asked(command: Command) -> None:
    write("a.csv", "723170,GREENSBORO\n\na,label\n1,x\n2,y\n")
    assert features("a.csv", Dialect(skip=2)) == [{"a": 1}, {"a": 2}]
    item = next(item for item in open_source("a.csv", ReadOptions(dialect=Dialect(skip=2))).items() if item)
    assert item.place == "a.csv row 4"
    found = json.loads(command.ok("look", "a.csv", "--skip-rows", 2, "--json"))["replay"]
    assert found[0] == "--skip-rows 2"


def test_numbers_in_a_coat_are_said_on_the_way_to_a_topic(command: Command) -> None:
    write("a.csv", "price,b\n" + "".join(f'"1,{n:03}.5",{n}\n' for n in range(50)))
    err = command("replay", "a.csv", "-t", "events", "--db", "s.db").err
    assert "price is text, and nearly all of it would be numbers" in err and "'1,000.5'" in err
    assert (
        "price is text"
        not in command("replay", "a.csv", "-t", "e", "--db", "s.db", "--types", "price=str").err
    )
    write("a.jsonl", "".join(json.dumps({"features": {"p": f"{n} %"}}) + "\n" for n in range(50)))
    assert "p is text" in command("replay", "a.jsonl", "-t", "events", "--db", "s.db").err
