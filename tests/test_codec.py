"""Decoding against an oracle and against every bad input; predictions' and dead letters' bytes."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamlearn.core.events.event import (
    MAX_EVENT_BYTES,
    MAX_HEADER_BYTES,
    MAX_OUTPUT_BYTES,
    REASONS,
    Event,
    EventSpec,
    Refusal,
    event_time_ms,
    likely_unit,
)
from streamlearn.core.events.json_events import decode
from streamlearn.core.labels.record import LabelSpec, label_reader
from streamlearn.core.records import HEADER_BYTES, Headers, Record
from streamlearn.core.shard.encode import dead_letter, passed_on

SPEC = EventSpec()
KEYED = EventSpec(key="k")


def record(value: bytes, key: bytes | None = None, headers: Headers = ()) -> Record:
    return Record("events", 3, 41, 1_700_000_000_000, key, value, headers)


def decoded(value: bytes, spec: EventSpec = SPEC, key: bytes | None = None) -> Event:
    event = decode(spec, record(value, key))
    assert isinstance(event, Event), event
    return event


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    """An event that is `depth` deep: one for itself, the rest in a member that nobody reads."""
    return b'{"features":{"a":1},"m":' + opening * (depth - 1) + b"1" + closing * (depth - 1) + b"}"


FEATURES = b'{"features":{"a":1},'
BAD = {
    "empty": [b""],
    "not_json": [
        *(b" ", b"{", b"nope", b"{'features': {}}", b'{"features":{"a":1},}', b'{"features":{"a":01}}'),
        b'\xef\xbb\xbf{"features":{"a":1}}',
        b'{"features":{"a":"\\ud800"}}',
        b'{"features":{"a":"\x01"}}',
        b'{"features":{"a":1}} {}',
        b'{"features":{"a":"unterminated',
        b'{"features":{"a":"\\',
    ],
    "not_object": [b"1", b"null", b"[]", b'"x"', b"true", b'[{"features":{}}]'],
    "not_utf8": [b"\xff", b'{"features":{"a":"\xff"}}', b'{"\xed\xa0\x80":1,"features":{}}'],
    "not_finite": [
        *(b'{"features":{"a":%s}}' % number for number in (b"NaN", b"Infinity", b"-Infinity", b"1e999")),
        *(FEATURES + b'"m":%s}' % part for part in (b"NaN", b"[-1e999]", b'{"n":{"o":[0,1e999]}}')),
    ],
    "int_too_large": [
        *(b'{"features":{"a":%d}}' % n for n in (2**63, 2**64, 10**400, -(2**63) - 1, -(2**64))),
        *(b'{"features":{"a":1,"b":"text","c":null,"d":%d}}' % n for n in (2**63, 2**64, -(2**64))),
        *(FEATURES + b'"id":%d}' % n for n in (2**63, 2**64, -(2**63) - 1)),
        *(
            FEATURES + b'"m":%s}' % part
            for part in (b"[%d]" % 2**64, b'{"n":%d}' % 2**63, b"[[[%d]]]" % 2**63)
        ),
    ],
    "duplicate_key": [
        b'{"id":1,"id":1,"features":{"a":1}}',
        b'{"features":{"a":1},"features":{"a":1}}',
        b'{"features":{"a":1,"a":2}}',
        b'{"features":{"a":1,"\\u0061":2}}',
        b'{"features":{"a":null,"a":null}}',
        b'{"features":{"a:b":1,"a:b":1}}',
        b'{"features":{"a":1},"m":":","m":""}',
        b'{"features":{"a":1},"m":1,"m":"\\u003a"}',
        b'{"features":{"a":1},"m":{"n":1,"n":1}}',
        b'{"features":{"a":1},"m":[{"n":1,"n":1}]}',
        b'{"id":1,"id":1}',
        b'{"id":1,"id":1,"features":{"a":[]}}',
    ],
    "too_deep": [
        nested(401),
        nested(401, b'{"a":', b"}"),
        nested(100_000),
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"id":' + b"[" * 401 + b"]" * 401 + b"}",
    ],
    "too_large": [b'{"features":{"a":1}}'.ljust(MAX_EVENT_BYTES + 1)],
}


@pytest.mark.parametrize(
    ("reason", "value"),
    [pytest.param(reason, value, id=f"{reason}-{value[:40]!r}") for reason in BAD for value in BAD[reason]],
)
def test_what_is_not_clean_json_is_refused_by_the_decoder(reason: str, value: bytes) -> None:
    assert decode(SPEC, record(value)) == Refusal("decode", reason)


@pytest.mark.parametrize(
    ("reason", "value"),
    [
        ("no_features", b"{}"),
        ("no_features", b'{"features":null}'),
        ("no_features", b'{"features":"a"}'),
        ("bad_id", FEATURES + b'"id":true}'),
        ("bad_id", FEATURES + b'"id":1.5}'),
        ("bad_id", FEATURES + b'"id":[]}'),
        ("bad_key", FEATURES + b'"k":1.5}'),
        ("bad_key", FEATURES + b'"k":false}'),
        ("bad_key", FEATURES + b'"k":{}}'),
        ("bad_time", FEATURES + b'"ts":true}'),
        ("bad_time", FEATURES + b'"ts":{}}'),
    ],
)
def test_what_is_not_an_event_is_refused_by_the_guard(reason: str, value: bytes) -> None:
    assert decode(KEYED, record(value)) == Refusal("guard", reason)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (b'{"features":{"a":[1]}}', "a"),
        (b'{"features":{"b":1,"a":{"b":1}}}', "a"),
        (b'{"features":[0,[]]}', "1"),
    ],
)
def test_a_feature_that_is_no_scalar_is_named(value: bytes, name: str) -> None:
    refused = Refusal("guard", "bad_feature", name)
    assert decode(SPEC, record(value)) == refused
    assert dict(dead_letter(record(value), refused).headers)["streamlearn.feature"] == name.encode()


def test_an_array_of_features_is_named_by_its_places() -> None:
    assert decoded(b'{"features":[1.5,null,"x"],"id":"a:b"}').x == {"0": 1.5, "2": "x"}
    assert decode(SPEC, record(b'{"id":1,"id":2,"features":[1]}')) == Refusal("decode", "duplicate_key")
    assert decode(SPEC, record(b'{"features":[18446744073709551616]}')) == Refusal("decode", "int_too_large")


def test_a_label_that_is_no_scalar_is_refused() -> None:
    assert decode(SPEC, record(FEATURES + b'"label":[1]}')) == Refusal("label", "label_type")


@pytest.mark.parametrize(
    "features",
    [
        {"big": 1e150, "small": -1e150, "tiny": 5e-324},
        {"high": 2**63 - 1, "low": -(2**63), "float": 2.0**70},
        {"colon:in:name": 1, "b": "and:in:text"},
        {"escaped\n": '\\u0061 "quoted"', "é": "日本"},
        {"yes": True, "no": False, "": 0},
        {"braces": "[" * 500 + "{" * 500},
        {},
    ],
)
def test_odd_but_good_features_arrive_as_they_are(features: dict[str, Any]) -> None:
    event = decoded(json.dumps({"features": features, "meta": {"a": ["x:y", None]}}).encode())
    assert event.x == features
    assert list(map(type, event.x.values())) == list(map(type, features.values()))


def test_a_number_whose_square_overflows_is_refused_before_it_ends_a_scaler_for_ever() -> None:
    for value in (b'{"features":{"a":1,"t":1e151}}', b'{"features":{"t":-1e308,"s":"x"}}'):
        assert decode(SPEC, record(value)) == Refusal("guard", "feature_too_large", "t")


@pytest.mark.parametrize("value", [nested(399), nested(400), nested(400, b'{"a":', b"}")])
def test_nesting_up_to_the_limit_is_no_fault(value: bytes) -> None:
    assert decoded(value).x == {"a": 1}


def test_a_null_feature_is_absent_and_a_null_label_is_none_yet() -> None:
    event = decoded(b'{"features":{"a":null,"b":2},"label":null,"id":null,"ts":null}')
    assert (event.x, event.y, event.id, event.ts) == ({"b": 2}, None, "events-3-41", None)


@pytest.mark.parametrize("ident", ["", "x", 0, -(2**63), 2**63 - 1])
def test_an_id_is_text_or_an_integer(ident: str | int) -> None:
    assert decoded(json.dumps({"id": ident, "features": {}}).encode()).id == ident


def test_the_key_is_the_records_or_the_member_that_the_configuration_names() -> None:
    value = b'{"features":{},"k":7}'
    assert decoded(value).key is None
    assert decoded(value, key="é".encode()).key == "é"
    assert decoded(value, key=b"\xff\x00a").key == "\\xff\x00a"
    assert decoded(value, KEYED, key=b"other").key == 7
    assert decoded(b'{"features":{}}', KEYED, key=b"other").key is None


# --- the counting trick, against an oracle --------------------------------------------------------------

NAMES = st.sampled_from(
    ['"a"', '"b"', '"\\u0061"', '":"', '"a:"', '"features"', '"id"', '"\\""', '"{"', '"\\u003a"']
)
NUMBERS = st.one_of(
    st.integers(-3, 3), st.sampled_from([2**63 - 1, 2**63, 2**64, -(2**63), -(2**63) - 1, 10**30])
)
SCALARS = st.one_of(
    NAMES, NUMBERS.map(str), st.sampled_from(["null", "true", "1.5", "1e300", "-1e999", "1e19"])
)


def objects(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.lists(st.builds("{}:{}".format, NAMES, values), max_size=4)
    return members.map(lambda found: "{" + ",".join(found) + "}")


PARTS = st.recursive(
    SCALARS,
    lambda part: objects(part) | st.lists(part, max_size=3).map(lambda found: "[" + ",".join(found) + "]"),
    max_leaves=4,
)
MEMBERS = st.lists(
    st.builds("{}:{}".format, NAMES, PARTS)
    | st.builds('"features":{}'.format, objects(SCALARS))
    | st.sampled_from(['"id":1', '"id":":"', '"label":true', '"ts":"a:b"']),
    max_size=6,
).map(lambda found: "{" + ",".join(found) + "}")


class FoundError(Exception):
    pass


def is_clean(text: str) -> bool:
    """The oracle: no member twice anywhere, no integer beyond 64 bits, no infinity."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise FoundError
        return dict(pairs)

    def whole(digits: str) -> int:
        if not -(2**63) <= int(digits) < 2**63:
            raise FoundError
        return int(digits)

    def real(digits: str) -> float:
        if abs(float(digits)) == float("inf"):
            raise FoundError
        return float(digits)

    try:
        json.loads(text, object_pairs_hook=members, parse_int=whole, parse_float=real)
    except FoundError:
        return False
    return True


@settings(max_examples=1500, deadline=None)
@given(MEMBERS)
@example('{"id":":","id":"","features":{"a":1}}')
@example('{"features":{"a":1},"b":[18446744073709551616]}')
@example('{"features":{"a":null,"a":1}}')
def test_nothing_hides_from_the_decoder(text: str) -> None:
    answer = decode(SPEC, record(text.encode()))
    refused_json = isinstance(answer, Refusal) and answer.stage == "decode"
    assert refused_json == (not is_clean(text)), answer
    if isinstance(answer, Event):
        features = json.loads(text)["features"]
        pairs = features.items() if isinstance(features, dict) else enumerate(features)
        assert answer.x == {str(k): v for k, v in pairs if v is not None}


LABELS = st.lists(
    st.builds("{}:{}".format, st.sampled_from(['"id"', '"label"', '"ts"', '"z"', '"i\\u0064"']), PARTS)
    | st.sampled_from(['"id":"e"', '"id":"a:b"', '"label":true', '"ts":1700000000000']),
    max_size=6,
).map(lambda found: "{" + ",".join(found) + "}")


@settings(max_examples=1500, deadline=None)
@given(LABELS)
@example('{"id":"e","label":true,"ts":1700000000000,"z":99999999999999999999}')
@example('{"id":"e","label":true,"ts":1700000000000,"z":[99999999999999999999]}')
def test_nothing_hides_from_the_reader_of_labels_whether_or_not_the_time_unit_is_settled(text: str) -> None:
    read = label_reader(LabelSpec("labels"))
    answer = read(record(text.encode()), "ms", "ms", 1.8e12)
    refused_json = isinstance(answer, Refusal) and answer.reason in (
        "duplicate_key",
        "int_too_large",
        "not_finite",
    )
    assert refused_json == (not is_clean(text)), answer


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=40) | st.text('{}[]":,\\u0061 e-', max_size=30).map(str.encode))
def test_any_bytes_are_an_event_or_a_refusal_with_a_known_reason(value: bytes) -> None:
    answer = decode(SPEC, record(value))
    assert isinstance(answer, Event) or answer.reason in REASONS


# --- event time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ts", "unit"),
    [(1.7e9, "s"), (1.7e12, "ms"), (17 * 10**14, "us"), (17 * 10**17, "ns"), (-1, "s"), ("x", "rfc3339")],
)
def test_the_time_unit_follows_from_the_size(ts: str | float, unit: str) -> None:
    assert likely_unit(ts) == unit


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_number_is_a_time_of_its_unit_and_a_text_is_not(unit: str) -> None:
    per_s = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    assert event_time_ms(1_700_000_000 * per_s, unit) == pytest.approx(1.7e12)
    assert event_time_ms("2026-01-01T00:00:00Z", unit) is None


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        *(("1970-01-01T00:00:02Z", 2e3), ("1970-01-01t00:00:02z", 2e3), ("1970-01-01T01:00:00+01:00", 0)),
        *(("1970-01-01T00:00:00.0015Z", 1.5), ("1970-01-01T00:00:00", None), ("1970-01-01", None)),
        *(("yesterday", None), ("", None), ("9999-99-99T00:00:00Z", None), (5, None)),
    ],
)
def test_rfc_3339_needs_an_offset(text: str | int, ms: float | None) -> None:
    assert event_time_ms(text, "rfc3339") == ms


# --- headers and dead letters ---------------------------------------------------------------------------


def test_headers_are_passed_on_in_order_up_to_the_limit() -> None:
    fits: Headers = (("traceparent", b"00-1"), ("none", None), ("fill", b"x" * (MAX_HEADER_BYTES - 53)))
    assert passed_on(fits) == fits
    assert passed_on((*fits, ("a", None))) == fits
    assert passed_on(()) == ()
    assert len(passed_on((("", None),) * 100_000)) == MAX_HEADER_BYTES // HEADER_BYTES


def test_a_dead_letter_keeps_the_record_and_says_why() -> None:
    letter = dead_letter(record(b"\xff", b"\xfe", (("trace", b"1"),)), Refusal("decode", "not_utf8"))
    assert (letter.role, letter.partition, letter.key, letter.value) == ("dlq", 3, b"\xfe", b"\xff")
    assert letter.headers == (
        ("trace", b"1"),
        ("__connect.errors.topic", b"events"),
        ("__connect.errors.partition", b"3"),
        ("__connect.errors.offset", b"41"),
        ("__connect.errors.exception.class.name", b"streamlearn.not_utf8"),
        ("__connect.errors.exception.message", b"the value is not UTF-8"),
        ("streamlearn.stage", b"decode"),
    )


@pytest.mark.parametrize(
    ("key_size", "value_size", "kept"),
    [
        (10, MAX_OUTPUT_BYTES - 10, (True, True)),
        (10, MAX_OUTPUT_BYTES, (True, False)),
        (MAX_OUTPUT_BYTES + 1, 5, (False, False)),
    ],
)
def test_a_dead_letter_that_is_too_large_is_cut_and_says_so(
    key_size: int, value_size: int, kept: tuple[bool, bool]
) -> None:
    letter = dead_letter(record(b"v" * value_size, b"k" * key_size), Refusal("decode", "too_large"))
    assert (letter.key is not None, letter.value is not None) == kept
    truncated = dict(letter.headers).get("streamlearn.truncated")
    assert truncated == (None if kept == (True, True) else b"%d" % (key_size + value_size))


def test_orjson_still_turns_huge_integers_into_floats() -> None:
    """Why the decoder looks at huge numbers twice: if this fails, it need not any more."""
    assert type(orjson.loads(b"18446744073709551616")) is float
