"""Values as others write them: Debezium, Connect, Telegraf, CloudEvents, and a schema registry's bytes."""

import base64
import datetime
import io
import json
from decimal import Decimal
from typing import Any

import fastavro
import orjson
import pytest
from cloudevents.core.bindings import kafka as binding
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlearn.config.schema import Config
from streamlearn.core.events.event import Event, EventSpec, NoEvent, Refusal
from streamlearn.core.events.mapping import compile_decoder
from streamlearn.core.events.registry import Schema
from streamlearn.core.records import Headers, Record
from streamlearn.engine.era import event_spec
from streamlearn.errors import NeedSchema
from streamlearn.history.formats.cells import ColumnType, value_encoder


def spec_for(**event: Any) -> EventSpec:
    return event_spec(Config.model_validate({"event": event}))


def read(
    value: bytes | dict[str, Any] | None, headers: Headers = (), /, **event: Any
) -> Event | Refusal | NoEvent:
    data = value if isinstance(value, bytes) else orjson.dumps(value)
    return compile_decoder(spec_for(**event))(Record("t", 0, 7, 0, None, data, headers))


# --- Debezium -------------------------------------------------------------------------------------------

ROW = {"id": 1004, "temp": 21.5, "site": "north", "broken": None}
CHANGE = {
    "before": None,
    "after": ROW,
    "source": {
        "version": "2.7.0",
        "connector": "postgresql",
        "ts_ms": 1_700_000_000_000,
        "table": "readings",
    },
    "op": "c",
    "ts_ms": 1_700_000_000_450,
    "transaction": None,
}


def both(change: Any) -> list[dict[str, Any]]:
    """A change event as JsonConverter writes it without and with its schema."""
    return [change, {"schema": {"type": "struct", "name": "t.Envelope"}, "payload": change}]


@pytest.mark.parametrize("op", ["c", "u", "r"])
def test_a_change_is_the_row_after_it_at_the_time_of_the_change(op: str) -> None:
    for value in both({**CHANGE, "op": op}):
        event = read(value, preset="debezium", label="")
        assert event == Event(1004, None, 1_700_000_000_000, {"temp": 21.5, "site": "north"}, None)


def test_columns_and_the_envelope_can_be_named() -> None:
    options = {
        "preset": "debezium",
        "id": "",
        "time": "__ts_ms",
        "where": "__op != 'r'",
        "features": ["temp", "id"],
    }
    for value in both(CHANGE):
        event = read(value, carry=["__source.table"], **options)
        carried = {"__source.table": "readings"}
        assert event == Event("t-0-7", None, 1_700_000_000_450, {"temp": 21.5, "id": 1004}, None, carried)
    for value in both({**CHANGE, "op": "r"}):
        assert read(value, **options) == NoEvent("where")


@pytest.mark.parametrize(("op", "reason"), [("d", "delete"), ("t", "truncate"), ("m", "message")])
def test_what_is_no_row_is_a_skip(op: str, reason: str) -> None:
    for value in both({**CHANGE, "op": op, "after": None}):
        assert read(value, preset="debezium") == NoEvent(reason)


@pytest.mark.parametrize("change", [ROW, {"op": "c"}, {"op": "c", "after": 3}, {"op": 1, "after": {}}, [1]])
def test_what_is_no_change_event_is_refused(change: Any) -> None:
    assert read({"schema": {}, "payload": change}, preset="debezium") == Refusal("decode", "envelope")


def test_a_payload_of_null_is_a_tombstone() -> None:
    for preset in ("debezium", "connect"):
        assert read({"schema": None, "payload": None}, preset=preset) == NoEvent("tombstone")


# --- Connect -------------------------------------------------------------------------------


def test_connect_gives_the_payload() -> None:
    value = {"schema": {"type": "struct"}, "payload": {"id": "a", "ts": 5, "x": {"y": 1}, "label": True}}
    assert read(value, preset="connect") == Event("a", None, 5, {"x.y": 1}, True)
    for wrong in (value["payload"], {"schema": {}, "payload": 3}):
        assert read(wrong, preset="connect") == Refusal("decode", "envelope")


# --- decimals -------------------------------------------------------------------------------------------


def decimal(scale: int, **more: Any) -> dict[str, Any]:
    name = "org.apache.kafka.connect.data.Decimal"
    return {"type": "bytes", "name": name, "version": 1, "parameters": {"scale": str(scale)}, **more}


VARIABLE = {
    "type": "struct",
    "name": "io.debezium.data.VariableScaleDecimal",
    "fields": [{"type": "int32", "field": "scale"}, {"type": "bytes", "field": "value"}],
}


def base64_of(unscaled: int, length: int = 8) -> str:
    return base64.b64encode(unscaled.to_bytes(length, "big", signed=True)).decode()


def struct(**fields: Any) -> dict[str, Any]:
    return {"type": "struct", "fields": [{**kind, "field": name} for name, kind in fields.items()]}


def test_a_changed_row_has_its_decimals_as_numbers() -> None:
    row = struct(id={"type": "int32"}, price=decimal(4), free=VARIABLE, note={"type": "string"})
    schema = struct(before=row, after=row, op={"type": "string"})
    after = {"id": 7, "price": "BAg=", "free": {"scale": 2, "value": "AMgA"}, "note": "BAg="}
    value = {"schema": schema, "payload": {"before": None, "after": after, "op": "c", "ts_ms": 5}}
    event = read(value, preset="debezium")
    assert isinstance(event, Event)
    assert event.x == {"price": 0.1032, "free": 512.0, "note": "BAg="}


@pytest.mark.parametrize(
    ("kind", "value", "number"),
    [
        (decimal(4), "BAg=", 0.1032),
        (decimal(0), "AMgA", 51200),
        (decimal(0), base64_of(2**63, 9), float(2**63)),
        (decimal(2), base64_of(-1), -0.01),
        (decimal(-3), base64_of(5), 5000.0),
        (decimal(2), base64_of(10**37 + 1, 16), (10**37 + 1) / 100),
        (decimal(4), 0.5, 0.5),  # decimal.format=NUMERIC
        (decimal(4), None, None),
        (decimal(4), "no base 64", "refused"),
        (decimal(4), "", "refused"),
        (decimal(4), True, "refused"),
        ({**decimal(0), "parameters": {}}, "BAg=", "refused"),
        (decimal(4), base64_of(1, 129), "refused"),
        (decimal(10**9), "BAg=", "refused"),
        ({"type": "array", "items": decimal(1)}, ["BAg=", None], 103.2),
        ({"type": "map", "values": decimal(1)}, {"0": "BAg="}, 103.2),
    ],
)
def test_decimals_are_read_by_their_schema(kind: Any, value: Any, number: Any) -> None:
    doc = {"schema": struct(v=kind, w={"type": "int32"}), "payload": {"v": value, "w": 1}}
    event = read(doc, preset="connect")
    if number == "refused":
        assert event == Refusal("decode", "envelope")
        return
    assert isinstance(event, Event)
    found = event.x.get("v", event.x.get("v.0"))
    assert (found, type(found)) == (number, type(number))


def test_a_schema_that_is_odd_changes_nothing() -> None:
    name = "org.apache.kafka.connect.data.Decimal"
    for schema in (name, [name], {"fields": name}, {"fields": [name, {"field": 3, "name": name}]}):
        event = read({"schema": schema, "payload": {"v": "BAg=", "w": 1}}, preset="connect")
        assert isinstance(event, Event) and event.x == {"v": "BAg=", "w": 1}


# --- Telegraf -------------------------------------------------------------------------------------------


METRIC = {
    "fields": {"usage_idle": 97.5, "usage_user": 1, "state": "ok"},
    "name": "cpu",
    "tags": {"cpu": "cpu0", "host": "edge-1"},
    "timestamp": 1_700_000_000,
}


def test_telegraf_gives_its_fields() -> None:
    event = read(METRIC, preset="telegraf", key="tags.host", label="fields.state", where="name == 'cpu'")
    assert event == Event("t-0-7", "edge-1", 1_700_000_000, {"usage_idle": 97.5, "usage_user": 1}, "ok")
    assert read(METRIC, preset="telegraf", where="name == 'mem'") == NoEvent("where")
    named = read(
        METRIC, preset="telegraf", features=["fields.usage_idle", "tags.cpu"], types={"tags.cpu": "str"}
    )
    assert isinstance(named, Event) and named.x == {"fields.usage_idle": 97.5, "tags.cpu": "cpu0"}
    assert read({"metrics": [METRIC]}, preset="telegraf") == Refusal("guard", "no_features")


# --- CloudEvents, against the package -------------------------------------------------------------------

DATA = st.dictionaries(
    st.text("abcé:.", min_size=1, max_size=5).filter(lambda name: name != "label"),
    st.floats(-1e6, 1e6) | st.integers(-1000, 1000) | st.text(max_size=5) | st.booleans(),
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(
    st.text("abc-19", min_size=1, max_size=8),
    st.datetimes(min_value=datetime.datetime(2000, 1, 1), timezones=st.just(datetime.UTC)),
    DATA,
    st.booleans(),
    st.booleans(),
)
def test_a_cloud_event_reads_as_the_package_wrote_it(
    ident: str, when: datetime.datetime, data: dict[str, Any], label: bool, structured: bool
) -> None:
    attributes = {
        "id": ident,
        "source": "/s",
        "type": "reading",
        "time": when,
        "specversion": "1.0",
        "unit": "k9",
    }
    event = CloudEvent({**attributes, "datacontenttype": "application/json"}, {**data, "label": label})
    write = binding.to_structured if structured else binding.to_binary
    message = write(event, JSONFormat())
    found = read(
        message.value,
        tuple(message.headers.items()),
        preset="cloudevents",
        key="unit",
        where="type == 'reading'",
    )
    assert isinstance(found, Event), found
    assert (found.id, found.key, found.y) == (ident, "k9", label)
    assert datetime.datetime.fromisoformat(str(found.ts)) == when
    assert found.x == data


def test_structured_data_in_base_64_are_read_with_every_check() -> None:
    kind = (("content-type", b"application/cloudevents+json; charset=UTF-8"),)
    value = {"specversion": "1.0", "id": "a", "data_base64": "eyJ4IjogMX0="}
    assert read(value, kind, preset="cloudevents") == Event("a", None, None, {"x": 1}, None)
    twice = {**value, "data_base64": "eyJ4IjogMSwgIngiOiAyfQ=="}
    assert read(twice, kind, preset="cloudevents") == Refusal("decode", "duplicate_key")
    for wrong in ({**value, "data_base64": "%"}, {**value, "data": {}}, {"id": "a"}):
        assert read(wrong, kind, preset="cloudevents") == Refusal("decode", "envelope")


def test_a_mixed_topic_has_a_reason_for_each_stranger() -> None:
    binary = (("ce_specversion", b"1.0"), ("ce_id", b"a"))
    assert read({"x": 1}, preset="cloudevents") == Refusal("decode", "envelope")
    assert read(b"text", binary, preset="cloudevents") == Refusal("decode", "not_json")
    assert read(b"x,y", preset="debezium") == Refusal("decode", "not_json")


# --- a schema registry's bytes, against fastavro --------------------------------------------------------

SENSOR = {
    "type": "record",
    "name": "Reading",
    "namespace": "plant",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "temp", "type": ["null", "double"]},
        {"name": "site", "type": {"type": "enum", "name": "Site", "symbols": ["N", "S"]}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "raw", "type": "bytes"},
        {"name": "acc", "type": {"type": "array", "items": "float"}},
        {"name": "tags", "type": {"type": "map", "values": "string"}},
        {"name": "back", "type": ["null", "Site"]},
        {"name": "label", "type": "boolean"},
    ],
}
READING = {
    "id": "e1",
    "ts": datetime.datetime(2023, 11, 14, 22, 13, 20, tzinfo=datetime.UTC),
    "temp": 21.5,
    "site": "N",
    "price": Decimal("12.30"),
    "raw": b"\x00\xff",
    "acc": [0.5, 1.0],
    "tags": {"host": "h"},
    "back": "S",
    "label": True,
}
WANTED = Event(
    "e1",
    None,
    1_700_000_000_000,
    {
        **{"temp": 21.5, "site": "N", "price": 12.3, "raw": "AP8=", "acc.0": 0.5, "acc.1": 1.0},
        **{"tags.host": "h", "back": "S"},
    },
    True,
)
REGISTRY = EventSpec(features="*", registry=True)


def avro(schema: Any, datum: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), datum)
    return out.getvalue()


def framed(ident: int, value: bytes) -> bytes:
    return b"\x00" + ident.to_bytes(4, "big") + value


def decoded(
    value: bytes, schemas: dict[str, Schema], spec: EventSpec = REGISTRY, headers: Headers = ()
) -> Event | Refusal | NoEvent:
    return compile_decoder(spec, schemas)(Record("t", 0, 7, 0, None, value, headers))


@pytest.mark.parametrize("number", ["7", "-3.50", "7.00", str(2**63)])
def test_a_decimal_is_the_same_number_whoever_wrote_it(number: str) -> None:
    """Connect's and a data frame's were different ones: an id 7 was refused in Avro, and 7.0 in a file."""
    exact = Decimal(number)
    scale = -int(exact.as_tuple().exponent)
    kind = {"type": "bytes", "logicalType": "decimal", "precision": 30, "scale": scale}
    schema = {"type": "record", "name": "r", "fields": [{"name": "n", "type": kind}]}
    whole = int(exact.scaleb(scale))
    spec = EventSpec(features=("n",), carry=("n",), registry=True)
    from_avro = decoded(
        framed(1, avro(schema, {"n": exact})), {"1": Schema("AVRO", json.dumps(schema))}, spec
    )
    payload = {"schema": struct(n=decimal(scale)), "payload": {"n": base64_of(whole, 16)}}
    from_connect = read(payload, preset="connect", features=["n"], carry=("n",))
    in_file = value_encoder(ColumnType("n"))(exact)
    assert isinstance(from_avro, Event) and isinstance(from_connect, Event)
    assert repr(from_avro.carry) == repr(from_connect.carry)
    assert repr(json.loads(in_file or "")) == repr((from_avro.carry or {})["n"])


def test_framed_avro_is_read_once_its_schema_was_handed_over() -> None:
    schemas: dict[str, Schema] = {}
    decode = compile_decoder(REGISTRY, schemas)
    record = Record("t", 0, 7, 0, None, framed(70_000, avro(SENSOR, READING)))
    with pytest.raises(NeedSchema) as need:
        decode(record)
    assert need.value.ident == "70000"
    schemas["70000"] = Schema("AVRO", json.dumps(SENSOR))
    assert decode(record) == WANTED


GUID = bytes.fromhex("89791762233640499f3bf9d0cc9b6f5a")


def test_a_schema_is_also_named_by_its_guid_before_the_value_or_in_a_header() -> None:
    schemas = {"89791762-2336-4049-9f3b-f9d0cc9b6f5a": Schema("AVRO", json.dumps(SENSOR))}
    value = avro(SENSOR, READING)
    assert decoded(b"\x01" + GUID + value, schemas) == WANTED
    assert decoded(value, schemas, headers=(("__value_schema_id", b"\x01" + GUID),)) == WANTED


def test_json_schema_values_lose_their_frame_and_plain_json_is_read_beside_them() -> None:
    schemas = {"1": Schema("JSON", "{}")}
    for value in (framed(1, b'{"a":1}'), b'{"a":1}'):
        event = decoded(value, schemas)
        assert isinstance(event, Event) and event.x == {"a": 1}
    assert decoded(framed(1, b'{"a":1,"a":2}'), schemas) == Refusal("decode", "duplicate_key")


def test_without_a_registry_framed_bytes_have_a_reason_that_names_the_remedy() -> None:
    value = avro(SENSOR, READING)
    for found in (
        read(framed(1, value)),
        read(b"\x01" + GUID + value),
        read(value, (("__value_schema_id", b"\x01" + GUID),)),
        read(framed(1, b'{"a":1}'), features="*"),
    ):
        assert found == Refusal("decode", "confluent_framed")


@pytest.mark.parametrize(
    "schema",
    [
        Schema("PROTOBUF", 'syntax = "proto3";'),
        Schema("AVRO", "{"),
        Schema("AVRO", '{"type": "record", "name": "a", "fields": [{"name": "b", "type": "nothing"}]}'),
        Schema("AVRO", '{"type": "record", "name": "a", "fields": [{"name": "b", "type": ["null", "a"]}]}'),
        Schema(
            "AVRO",
            '{"type":"record","name":"a","fields":[{"name":"b","type":{"type":"array","items":"null"}}]}',
        ),
        Schema("AVRO", '{"type":"array","items":' * 100 + '"int"' + "}" * 100),
    ],
    ids=["protobuf", "broken", "unknown type", "recursive", "items without bytes", "deep"],
)
def test_a_schema_that_cannot_be_read_safely_is_refused(schema: Schema) -> None:
    assert decoded(framed(1, b"\x00" * 20), {"1": schema}) == Refusal("decode", "schema_kind")


def test_bytes_must_fit_their_schema_from_the_first_to_the_last() -> None:
    schemas = {"1": Schema("AVRO", json.dumps(SENSOR))}
    value = avro(SENSOR, READING)
    for wrong in (value[:-1], value + b"\x00", b"\xff" * 30, b""):
        found = decoded(framed(1, wrong) if wrong else framed(1, b"\x01"), schemas)
        assert found == Refusal("decode", "not_avro"), wrong
    nan = avro(SENSOR, READING | {"temp": float("nan")})
    assert decoded(framed(1, nan), schemas) == Refusal("decode", "not_finite")
    assert decoded(framed(1, avro("int", 5)), {"1": Schema("AVRO", '"int"')}) == Refusal(
        "decode", "not_object"
    )


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_behind_a_frame_are_an_event_or_a_refusal(value: bytes) -> None:
    schemas = {"1": Schema("AVRO", json.dumps(SENSOR))}
    assert isinstance(decoded(framed(1, value + b"\x00"), schemas), Event | Refusal)


def test_schemas_that_refer_to_others_are_read_with_them() -> None:
    point = '{"type": "record", "name": "geo.Point", "fields": [{"name": "lat", "type": "double"}]}'
    outer = '{"type": "record", "name": "R", "fields": [{"name": "at", "type": "geo.Point"}]}'
    value = avro(
        {"type": "record", "name": "R", "fields": [{"name": "at", "type": json.loads(point)}]},
        {"at": {"lat": 1.5}},
    )
    found = decoded(framed(1, value), {"1": Schema("AVRO", outer, (point,))})
    assert isinstance(found, Event) and found.x == {"at.lat": 1.5}


@pytest.mark.parametrize("how", ["avro", "avro-bare", "json"])
def test_a_schema_from_a_file_needs_no_registry(how: str, tmp_path: Any) -> None:
    file = tmp_path / "reading.avsc"
    file.write_text(json.dumps(SENSOR))
    options = {"format": how, "schema_file": str(file), "features": "*"}
    value = avro(SENSOR, READING)
    assert read(value if how == "avro-bare" else framed(9, value), **options) == WANTED
    stranger = read(b'{"a":1}', **options)
    if how == "json":
        assert isinstance(stranger, Event) and stranger.x == {"a": 1}
    else:
        assert stranger == Refusal("decode", "not_avro")


def test_a_debezium_topic_in_avro_is_read_like_one_in_json(tmp_path: Any) -> None:
    row = {"type": "record", "name": "Row", "fields": [{"name": "temp", "type": "double"}]}
    fields = [
        {"name": "after", "type": ["null", row]},
        {"name": "op", "type": "string"},
        {"name": "before", "type": ["null", "Row"]},
    ]
    file = tmp_path / "envelope.avsc"
    file.write_text(json.dumps({"type": "record", "name": "Envelope", "fields": fields}))
    options = {"format": "avro", "schema_file": str(file), "preset": "debezium"}
    schema = json.loads(file.read_text())
    change = avro(schema, {"after": {"temp": 2.5}, "op": "c", "before": None})
    event = read(framed(3, change), **options)
    assert isinstance(event, Event) and event.x == {"temp": 2.5}
    gone = avro(schema, {"after": None, "op": "d", "before": {"temp": 1}})
    assert read(framed(3, gone), **options) == NoEvent("delete")
