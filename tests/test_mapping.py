"""The field mapping: where an event's parts are found, which records are kept, and what is refused."""

import datetime
import json
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from river import base, dummy

from streamlearn.core.events.event import MAX_EVENT_BYTES, REASONS, Event, EventSpec, NoEvent, Refusal
from streamlearn.core.events.mapping import compile_decoder
from streamlearn.core.events.paths import MISSING, flat, getter
from streamlearn.core.events.values import CONVERSIONS
from streamlearn.core.events.where import compile_where
from streamlearn.core.model.learner import Learner
from streamlearn.core.records import Headers, Record
from streamlearn.core.shard.facts import published
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.state import Memory, ShardSpec
from tests.test_codec import BAD, MEMBERS, is_clean

NOW_MS = 1_700_000_000_000
FLAT = {"id": "e1", "ts": 1.7e9, "temp": 21.5, "rpm": 900, "site": "north", "on": True, "label": "ok"}


def record(value: bytes | dict[str, Any], key: bytes | None = None, headers: Headers = ()) -> Record:
    data = value if isinstance(value, bytes) else orjson.dumps(value)
    return Record("events", 3, 41, NOW_MS, key, data, headers)


def read(value: bytes | dict[str, Any], **spec: Any) -> Event | Refusal | NoEvent:
    return compile_decoder(EventSpec(**spec))(record(value))


def features(value: bytes | dict[str, Any], **spec: Any) -> dict[str, Any]:
    event = read(value, **spec)
    assert isinstance(event, Event), event
    return event.x


# --- where things stand ---------------------------------------------------------------------------------


def test_a_star_takes_all_that_is_not_named_otherwise_in_the_order_of_the_value() -> None:
    event = read(FLAT, features="*", carry=("site",))
    assert event == Event("e1", None, 1.7e9, {"temp": 21.5, "rpm": 900, "on": True}, "ok", {"site": "north"})
    assert isinstance(event, Event) and list(event.x) == ["temp", "rpm", "on"]


def test_a_star_gives_nested_scalars_their_dotted_paths() -> None:
    doc = {"meta": {"at": 5, "id": "x"}, "acc": [1.5, {"z": 2}], "tags": {"none": None}, "empty": {}}
    event = read(doc, features="*", id="meta.id", time="meta.at")
    assert event == Event("x", None, 5, {"acc.0": 1.5, "acc.1.z": 2}, None)
    assert features({"label": {"why": 1}, "a": 1}, features="*", label="label.what") == {
        "label.why": 1,
        "a": 1,
    }


def test_what_is_inside_a_named_object_is_no_feature() -> None:
    assert features({"where": {"lat": 1}, "a": 2}, features="*", carry=("where",)) == {"a": 2}
    assert features({"o": {"where": {"lat": 1}}, "a": 2}, features="*", carry=("o.where",)) == {"a": 2}


def test_a_list_of_paths_names_features_as_written_and_in_its_order() -> None:
    doc = {"b": {"c": 2, "d": [7, 8]}, "a": 1, "e": None}
    assert list(features(doc, features=("b.d.1", "a", "b.c", "e", "gone")).items()) == [
        ("b.d.1", 8),
        ("a", 1),
        ("b.c", 2),
    ]
    assert features(doc, features=("a", "e")) == {"a": 1}
    assert read(doc, features=("b", "a")) == Refusal("guard", "bad_feature", "b")


@pytest.mark.parametrize("paths", [("x", "y"), ("x.y", "b.9", "a.b"), "x", "a", "b.0", "x.y"])
def test_features_that_are_absent_are_a_dead_letter(paths: Any) -> None:
    assert read({"a": 1, "b": [1]}, features=paths) == Refusal("guard", "no_features")


def test_a_value_with_nothing_left_has_no_features() -> None:
    assert read({"id": "a", "label": 1}, features="*") == Refusal("guard", "no_features")
    assert read({"meta": {"id": 1}}, features="*", id="meta.id") == Refusal("guard", "no_features")


def test_an_array_somewhere_inside_is_features_by_place() -> None:
    assert features({"d": {"v": [3, None, "x"]}}, features="d.v") == {"0": 3, "2": "x"}
    assert read({"d": {"v": [3, [4]]}}, features="d.v") == Refusal("guard", "bad_feature", "1")


def test_a_label_inside_the_features_object_does_not_leak_into_the_features() -> None:
    event = read({"data": {"a": 1, "y": True, "n": 4}}, features="data", label="data.y", id="data.n")
    assert event == Event(4, None, None, {"a": 1}, True)


def test_a_member_literally_named_with_dots_wins_over_the_nested_one() -> None:
    doc = {"a": {"b": 1, "c": {"d": 2}}, "a.b": 3, "a.c": {"e": 4}}
    assert [getter(path)(doc) for path in ("a.b", "a.c.d", "a.c.e", "a.c.f", "a.x")] == [
        3,
        2,
        4,
        MISSING,
        MISSING,
    ]
    assert read({"a": {"b": 1}, "a.b": 2}, features="*") == Refusal("guard", "same_path")


@pytest.mark.parametrize("place", ["01", "-1", "2", "١", "1e0", "", "99999999999999999999"])
def test_a_place_in_an_array_has_one_spelling(place: str) -> None:
    assert getter(f"a.{place}")({"a": [1, 2]}) is MISSING


JSON = st.recursive(
    st.integers(-5, 5) | st.booleans() | st.sampled_from(["x", "", None]),
    lambda part: (
        st.dictionaries(st.sampled_from(["a", "b", "c", "a.b", "b.c", "0"]), part, min_size=1, max_size=3)
        | st.lists(part, min_size=1, max_size=3)
    ),
    max_leaves=12,
)


def scalars(part: Any) -> int:
    if isinstance(part, dict | list):
        return sum(map(scalars, part.values() if isinstance(part, dict) else part))
    return 1


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "a.b", "b.c"]), JSON, max_size=4))
def test_the_flat_view_gives_every_scalar_the_path_that_finds_it(doc: dict[str, Any]) -> None:
    found = flat(doc)
    if isinstance(found, Refusal):
        assert any("." in name for name in json.dumps(doc).split('"')[1::2]), "only dotted names can collide"
        return
    assert len(found) == scalars(doc)
    for path, value in found.items():
        assert getter(path)(doc) == value or isinstance(getter(path)(doc), dict | list), path


# --- the checks of the envelope hold --------------------------------------------------------------------


@pytest.mark.parametrize("spec", [{"features": "*"}, {"features": ("a.b",)}, {"where": "a == 1"}])
@pytest.mark.parametrize("reason", list(BAD))
def test_what_is_not_clean_json_is_refused_as_in_the_envelope(reason: str, spec: dict[str, Any]) -> None:
    for value in BAD[reason]:
        assert read(value, **spec) == Refusal("decode", reason), value[:60]


@settings(max_examples=800, deadline=None)
@given(MEMBERS)
@example('{"a":1,"b":":","b":""}')
@example('{"a":[18446744073709551616],"id":1}')
def test_nothing_hides_from_the_mapping(text: str) -> None:
    answer = read(text.encode(), features="*", id="")
    assert (isinstance(answer, Refusal) and answer.stage == "decode") == (not is_clean(text)), answer


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=40) | st.text('{}[]":,ab1.', max_size=30).map(str.encode),
    st.sampled_from(
        [
            EventSpec(features="*", where="a.b > 1", types={"a": "int"}, carry=("a",)),
            EventSpec(features="*", format="csv", columns=("a", "b")),
            *(EventSpec(preset=name) for name in ("debezium", "connect", "telegraf", "cloudevents")),
        ]
    ),
)
def test_any_bytes_are_an_event_a_skip_or_a_refusal_with_a_known_reason(
    value: bytes, spec: EventSpec
) -> None:
    answer = compile_decoder(spec)(record(value))
    assert not isinstance(answer, Refusal) or answer.reason in REASONS


@pytest.mark.parametrize(
    ("doc", "refusal"),
    [
        ({"m": {"id": 1.5}, "a": 1}, Refusal("guard", "bad_id")),
        ({"m": {"id": [1]}, "a": 1}, Refusal("guard", "bad_id")),
        ({"m": {"k": True}, "a": 1}, Refusal("guard", "bad_key")),
        ({"m": {"t": {}}, "a": 1}, Refusal("guard", "bad_time")),
        ({"m": {"y": [1]}, "a": 1}, Refusal("label", "label_type")),
    ],
)
def test_a_part_of_the_wrong_kind_is_refused(doc: dict[str, Any], refusal: Refusal) -> None:
    spec = {"id": "m.id", "key": "m.k", "time": "m.t", "label": "m.y", "features": ("a",)}
    assert read(doc, **spec) == refusal


def test_a_value_over_the_limit_is_refused_unread() -> None:
    assert read(b" " * (MAX_EVENT_BYTES + 1), features="*") == Refusal("decode", "too_large")


def test_a_key_that_is_no_text_stays_itself() -> None:
    event = compile_decoder(EventSpec(features="*"))(record({"a": 1}, key=b"\xff\x00"))
    assert isinstance(event, Event) and event.key == "\\xff\x00"


# --- types ----------------------------------------------------------------------------------------------

EXACT = [
    ("float", 21.5, 21.5),
    ("float", 3, 3.0),
    ("float", "21.5", 21.5),
    ("float", " -1e3 ", -1000.0),
    ("float", 2**53 + 1, MISSING),
    ("float", True, MISSING),
    ("float", "abc", MISSING),
    ("float", "21,5", MISSING),
    ("float", "nan", MISSING),
    ("float", "1_0", MISSING),
    ("float", "1e999", MISSING),
    ("float", "", MISSING),
    ("int", 3.0, 3),
    ("int", "-7", -7),
    ("int", 3.5, MISSING),
    ("int", "3.0", 3),
    ("int", "1e3", 1000),
    ("int", "3.5", MISSING),
    ("int", "9007199254740993.0", 9007199254740993),
    ("int", "1e400000", MISSING),
    ("int", 1e30, MISSING),
    ("int", "9223372036854775808", MISSING),
    ("int", False, MISSING),
    ("str", 7, "7"),
    ("str", 1.5, "1.5"),
    ("str", True, "true"),
    ("str", "x", "x"),
    ("bool", "True", True),
    ("bool", "0", False),
    ("bool", 1, True),
    ("bool", 0.0, False),
    ("bool", 2, MISSING),
    ("bool", "yes", True),
    ("bool", " OFF ", False),
    ("bool", "1.0", True),
    ("bool", "2", MISSING),
    ("bool", "maybe", MISSING),
]


@pytest.mark.parametrize(("kind", "value", "expected"), EXACT)
def test_a_declared_type_converts_exactly_or_not_at_all(kind: str, value: Any, expected: Any) -> None:
    found = CONVERSIONS[kind](value)
    assert found is expected or (type(found), found) == (type(expected), expected)


@settings(max_examples=300, deadline=None)
@given(st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans())
def test_a_conversion_to_text_and_back_is_the_value(value: Any) -> None:
    kind = {int: "int", float: "float", bool: "bool"}[type(value)]
    back = CONVERSIONS[kind](CONVERSIONS["str"](value))
    assert (type(back), back) == (type(value), value)


def test_types_hold_for_features_and_labels_and_name_what_does_not_fit() -> None:
    types = {"temp": "float", "site": "str", "on": "bool", "label": "int"}
    doc = {"temp": "21.5", "site": 7, "on": "true", "label": "1", "other": "x"}
    event = read(doc, features="*", types=types)
    assert isinstance(event, Event)
    assert (event.x, event.y) == ({"temp": 21.5, "site": "7", "on": True, "other": "x"}, 1)
    assert read(doc | {"temp": "abc"}, features="*", types=types) == Refusal("guard", "bad_type", "temp")
    assert read(doc | {"label": "x"}, features="*", types=types) == Refusal("label", "bad_type", "label")
    assert read(doc | {"temp": None}, features="*", types=types) == read(
        {name: part for name, part in doc.items() if name != "temp"}, features="*", types=types
    )


@pytest.mark.parametrize("declared", ["a", "features.a"])
def test_a_type_is_declared_by_the_features_name_or_its_path(declared: str) -> None:
    assert features({"features": {"a": "2"}}, types={declared: "int"}) == {"a": 2}


def test_what_is_carried_stays_as_it_came() -> None:
    doc = {"features": {"a": "2", "b": [1]}, "m": 1}
    event = read({**doc, "features": {"a": "2"}}, types={"a": "int"}, carry=("features", "m", "gone"))
    assert isinstance(event, Event)
    assert event.carry == {"features": {"a": "2"}, "m": 1, "gone": None}


# --- where ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "keeps"),
    [
        ("type == 'reading'", True),
        ('type != "reading"', False),
        ("temp > 20 and temp <= 21.5", True),
        ("temp < 20 or tags.site in ['a', 'north']", True),
        ("not (temp < 20) and not on == false", True),
        ("tags.site not in ['a', 'b']", True),
        ("on", True),
        ("temp", False),
        ("gone == 1", False),
        ("gone != 1", True),
        ("gone < 1 or gone >= 1", False),
        ("gone == null and none == null and temp != null", True),
        ("gone in [1, null]", True),
        ("on == 1", False),
        ("temp == '21.5'", False),
        ("rpm == 900.0", True),
        ("rpm in [900.0]", True),
        ("on in [1]", False),
        ("temp > rpm", False),
        ("tags == null", False),
        ("tags in ['a']", False),
        ("tags.dev-id == 'x\\'y'", True),
        ("`odd name` == True", True),
        ("1 == 1", True),
        ("'a' < type", True),
        ("temp > -1e2", True),
    ],
)
def test_where_keeps_what_it_says(text: str, keeps: bool) -> None:
    doc = {
        "type": "reading",
        "temp": 21.5,
        "rpm": 900,
        "on": True,
        "none": None,
        "tags": {"site": "north", "dev-id": "x'y"},
        "odd name": True,
    }
    assert compile_where(text)(doc) is keeps


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a path or a value is expected at character 1"),
        ("a =", "'=' is not understood; equality is ==, at character 3"),
        ("a && b", "write and, at character 3"),
        ("a == 'x", "is not understood, at character 6"),
        ("a == 1 b", "end is expected at character 8"),
        ("(a == 1", ") is expected at character 8"),
        ("a in []", "a path or a value is expected at character 7"),
        ("a in [b]", "a path or a value is expected at character 7"),
        ("a not b", "in is expected at character 7"),
        ("and a", "expected before and at character 1"),
        ("__import__('os')", "functions are not known here at character 1 "),
        ("a.b.__class__()", "functions are not known"),
        ("a + 1 > 2", "'+' is not understood"),
        ("1x == 2", "not understood"),
        ("(" * 60 + "a" + ")" * 60, "nested too deeply"),
        ("not " * 60 + "a", "nested too deeply"),
    ],
)
def test_a_mistake_in_where_is_named_with_its_place(text: str, says: str) -> None:
    with pytest.raises(ValueError, match="at character") as refused:
        compile_where(text)
    assert says in str(refused.value)


NAMES = ["a", "b", "a.b", "c"]
LITERALS = st.sampled_from([True, False, None, 0, 1, 1.0, -2.5, "x", "it's", "1", ""])
COMPARED = st.tuples(st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), st.sampled_from(NAMES), LITERALS)
INSIDE = st.tuples(st.sampled_from(["in", "not in"]), st.sampled_from(NAMES), st.lists(LITERALS, min_size=1))
EXPRESSIONS: st.SearchStrategy[Any] = st.recursive(
    COMPARED | INSIDE,
    lambda inner: (
        st.tuples(st.just("not"), inner)
        | st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3))
    ),
    max_leaves=6,
)


def written(tree: Any) -> str:
    """An expression as a user would write it, with every bracket it needs."""
    op = tree[0]
    if op == "not":
        return f"not ({written(tree[1])})"
    if op in ("and", "or"):
        return f" {op} ".join(f"({written(part)})" for part in tree[1])
    right = f"[{', '.join(map(json.dumps, tree[2]))}]" if "in" in op else json.dumps(tree[2])
    return f"{tree[1]} {op} {right}"


def same(a: Any, b: Any) -> bool:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (a, b))
    return bool(a == b) and (numbers or type(a) is type(b))


def holds(tree: Any, doc: dict[str, Any]) -> bool:
    """The oracle: the sentence of the documentation, word by word."""
    op = tree[0]
    if op == "not":
        return not holds(tree[1], doc)
    if op in ("and", "or"):
        return (all if op == "and" else any)(holds(part, doc) for part in tree[1])
    value, right = doc.get(tree[1]), tree[2]
    if op in ("in", "not in"):
        return any(same(value, one) for one in right) == (op == "in")
    if op in ("==", "!="):
        return same(value, right) == (op == "==")
    ordered = (isinstance(value, str) and isinstance(right, str)) or all(
        isinstance(v, int | float) and not isinstance(v, bool) for v in (value, right)
    )
    if not ordered:
        return False
    return {"<": value < right, "<=": value <= right, ">": value > right, ">=": value >= right}[op]


@settings(max_examples=500, deadline=None)
@given(EXPRESSIONS, st.dictionaries(st.sampled_from(NAMES), LITERALS | st.just([1]), max_size=4))
def test_where_agrees_with_its_documentation(tree: Any, doc: dict[str, Any]) -> None:
    assert compile_where(written(tree))(doc) is holds(tree, doc), written(tree)


@settings(max_examples=300, deadline=None)
@given(st.text("ab.`'\" ()[]=<>!,10-notadri\\", max_size=25))
def test_any_text_is_an_expression_or_a_mistake(text: str) -> None:
    try:
        test = compile_where(text)
    except ValueError as error:
        assert "character" in str(error)
    else:
        assert test({"a": 1}) in (True, False)


# --- CSV ------------------------------------------------------------------------------------------------

CSV: dict[str, Any] = {"format": "csv", "columns": ("id", "ts", "temp", "site", "label"), "features": "*"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"e1,5,21.5,north,ok", ("e1", 5, {"temp": 21.5, "site": "north"}, "ok")),
        (b"7,5,-1e3,007,1\r\n", (7, 5, {"temp": -1000.0, "site": "007"}, 1)),
        (b"1.50,5,,,", ("1.50", 5, None, None)),
        (b'e1,,1,"a,b ""c""\n",', ("e1", None, {"temp": 1, "site": 'a,b "c"\n'}, None)),
        ("\ufeffe1,5,1,é,".encode(), ("e1", 5, {"temp": 1, "site": "é"}, None)),
        (
            b"e1,5,9223372036854775808,1e999,",
            ("e1", 5, {"temp": "9223372036854775808", "site": "1e999"}, None),
        ),
    ],
)
def test_a_line_of_csv_is_an_event(line: bytes, expected: tuple[Any, ...]) -> None:
    event = read(line, **CSV)
    if expected[2] is None:
        assert event == Refusal("guard", "no_features")
    else:
        assert isinstance(event, Event)
        assert (event.id, event.ts, event.x, event.y) == expected
        assert list(map(type, event.x.values())) == list(map(type, expected[2].values()))


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"e1,5,21.5,north", Refusal("decode", "csv_ragged")),
        (b"e1,5,21.5,north,ok,more", Refusal("decode", "csv_ragged")),
        (b"id,ts,temp,site,label", NoEvent("header")),
        (b"", Refusal("decode", "empty")),
        (b"\xff,1,2,3,4", Refusal("decode", "not_utf8")),
        (b'e1,5,1,"open,ok', Refusal("decode", "not_csv")),
        (b"a,1,2,3,4\nb,1,2,3,4", Refusal("decode", "not_csv")),
        (b",".join([b"1"] * 10_000), Refusal("decode", "csv_ragged")),
        (b'{"id": 1}', Refusal("decode", "csv_ragged")),
    ],
)
def test_a_line_that_does_not_fit_is_refused_with_its_reason(line: bytes, answer: Any) -> None:
    assert read(line, **CSV) == answer


def test_semicolons_and_declared_types() -> None:
    spec = CSV | {"delimiter": ";", "types": {"temp": "float", "label": "bool"}}
    event = read(b"e1;5;3;x;true", **spec)
    assert isinstance(event, Event) and (event.x, event.y) == ({"temp": 3.0, "site": "x"}, True)
    assert read(b"e1;5;21,5;x;true", **spec) == Refusal("guard", "bad_type", "temp")


# --- in a shard -----------------------------------------------------------------------------------------


class Keeps(base.Regressor):
    """Keeps the features it was shown."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def learn_one(self, x: dict[str, Any], y: Any) -> None: ...

    def predict_one(self, x: dict[str, Any]) -> float:
        self.seen.append(dict(x))
        return 0.0


def shard(spec: EventSpec, memory: Memory | None = None, model: Any = None) -> Shard:
    return Shard(ShardSpec("m", "v1", 1, spec), Learner(model or Keeps()), memory or Memory())


def step(subject: Shard, **doc: Any) -> dict[str, Any] | None:
    outputs = published(subject.step(record(doc)))
    return orjson.loads(outputs[0].value or b"") if outputs else None


def test_carried_values_stand_right_before_the_model() -> None:
    found = step(shard(EventSpec(features="*", carry=("site", "gone"))), a=1, site={"x": [1]})
    assert found is not None
    assert list(found) == ["id", "key", "ts", "prediction", "carry", "model", "source"]
    assert found["carry"] == {"site": {"x": [1]}, "gone": None}


def test_a_filtered_record_is_a_counted_skip() -> None:
    subject = shard(EventSpec(features="*", where="type == 'reading'"))
    assert step(subject, type="status", a=1) is None
    assert step(subject, type="reading", a=1) is not None
    assert subject.memory.outcomes == {"skip.where": 1, "prediction": 1}
    assert subject.memory.records == 2


@pytest.mark.parametrize(
    ("ts", "unit", "expected"),
    [
        (1_700_000_000, "auto", "2023-11-14T22:13:20+00:00"),
        (1_699_999_999_500, "ms", "2023-11-14T22:13:19.500000+00:00"),
        ("2023-11-14t23:13:20+01:00", "auto", "2023-11-14T23:13:20+01:00"),
        (None, "auto", "2023-11-14T22:13:20+00:00"),
    ],
)
def test_the_event_time_is_a_feature_where_asked_for(ts: Any, unit: str, expected: str) -> None:
    for spec in (
        EventSpec(time_as="moment", time_unit=unit),
        EventSpec(features="*", time_as="moment", time_unit=unit),
    ):
        subject = shard(spec)
        step(subject, ts=ts, **({"features": {"a": 1}} if spec.features == "features" else {"a": 1}))
        assert subject.learner.model.seen == [{"a": 1, "moment": datetime.datetime.fromisoformat(expected)}]
        assert subject.learner.model.seen[0]["moment"].tzinfo is not None


def test_a_time_that_no_calendar_reaches_is_refused_where_it_is_a_feature() -> None:
    subject = shard(EventSpec(time_as="moment", time_unit="s"))
    (letter,) = published(subject.step(record({"features": {"a": 1}, "ts": -1e300})))
    assert dict(letter.headers)["__connect.errors.exception.class.name"] == b"streamlearn.bad_time"


def test_a_clock_in_the_wrong_unit_is_a_dead_letter_by_the_future_rule() -> None:
    subject = shard(EventSpec(features="*", time="t", time_unit="s"))
    (letter,) = published(subject.step(record({"a": 1, "t": NOW_MS})))
    assert dict(letter.headers)["__connect.errors.exception.class.name"] == b"streamlearn.future"


def test_a_feature_that_is_not_of_its_type_is_named_in_the_dead_letter() -> None:
    subject = shard(EventSpec(features="*", types={"temp": "float"}))
    (letter,) = published(subject.step(record({"temp": "abc"})))
    headers = dict(letter.headers)
    assert headers["__connect.errors.exception.message"] == REASONS["bad_type"].encode()
    assert headers["streamlearn.feature"] == b"temp"


# --- duplicates -----------------------------------------------------------------------------------------


def test_an_id_in_the_window_is_predicted_and_learned_once() -> None:
    subject = shard(EventSpec(duplicates=2), model=dummy.NoChangeClassifier())
    taken = [
        step(subject, id=i, features={}, label=True) is not None for i in ["a", "a", 1, "1", "a", "a", "1"]
    ]
    # "a" left the window of two when "1" entered, so it is taken once more, and again absorbed.
    assert taken == [True, False, True, True, True, False, False]
    assert subject.memory.outcomes == {"prediction": 4, "skip.duplicate": 3}
    assert subject.memory.learned == 4


def test_a_refused_event_leaves_no_trace_in_the_window() -> None:
    subject = shard(EventSpec(duplicates=5))
    assert step(subject, id="a", features={"a": 1}, ts="never") is not None
    assert step(subject, id="a", features={"a": 1}) is not None
    assert subject.memory.outcomes == {"dlq.guard.bad_time": 1, "prediction": 1}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=40), st.integers(1, 5), st.integers(1, 5), st.integers(0, 40))
def test_the_window_survives_a_checkpoint_and_a_change_of_its_size(
    ids: list[int], size: int, then: int, at: int
) -> None:
    recent: list[int] = []
    subject = shard(EventSpec(duplicates=size))
    for n, ident in enumerate(ids):
        if n == at:
            memory = msgspec.json.decode(msgspec.json.encode(subject.memory), type=Memory)
            subject, size = shard(EventSpec(duplicates=then), memory), then
            recent = recent[-then:]
        assert (step(subject, id=ident, features={}) is None) == (ident in recent)
        recent = recent if ident in recent else [*recent, ident][-size:]
        assert len(subject.memory.recent) <= size
