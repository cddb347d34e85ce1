"""Replay, record and tail: what goes in comes out byte for byte, at its pace, in its order."""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from command import Command, command
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.core.events.event import EventSpec, Refusal
from streamlearn.core.events.mapping import compile_decoder
from streamlearn.core.records import Positions, Range, Record, TopicPartition
from streamlearn.env import RealEnv
from streamlearn.errors import CheckFailed, ConfigError, Unreachable
from streamlearn.history import sinks, topic_reader
from streamlearn.history.formats import record_json
from streamlearn.history.formats.jsonlines import EventPaths
from streamlearn.history.label_delay import schedule
from streamlearn.history.send import BATCH_RECORDS, Lateness, Pace, Pacer, Sender, SendTopics
from streamlearn.history.sources import ReadOptions, SourceRecord, open_source
from streamlearn.log.embedded.admin import EmbeddedAdmin
from streamlearn.log.kafka.client import ClientError
from streamlearn.log.kafka.reader import RecordReader
from streamlearn.log.port import Admin, FetchResult, ProducerRecord, TopicInfo, TopicSpec
from tests.fake_env import FakeEnv

__all__ = ["command"]

HOW = ReadOptions(EventPaths("key", "ts", "auto"))
AWKWARD = [b"", b"{}", b"not json", b"\xff\x00", b'{"a":"\xc3\xa9"}', b"with \r return", None]


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[EmbeddedAdmin]:
    opened = EmbeddedAdmin(RealEnv(), tmp_path / "log.db")
    opened.create([TopicSpec("one", 1), TopicSpec("three", 3)])
    yield opened
    opened.close()


def contents(admin: Admin, topic: str) -> list[Record]:
    return list(
        topic_reader.between(
            admin, topic, *(topic_reader.resolve_offsets(admin, topic, at) for at in ("beginning", "end"))
        )
    )


def send(admin: Admin, name: str, topic: str = "one", **options: int | bool) -> dict[str, float]:
    stop, limit, loop = RealEnv().flag(), options.get("limit"), bool(options.get("loop"))
    return Sender(RealEnv(), admin, SendTopics(topic), Pace(), stop, lambda _: None).run(
        partial(schedule, open_source(name, HOW), HOW, None), limit, loop
    )


optional_bytes = st.none() | st.binary() | st.text().map(str.encode)


@given(key=optional_bytes, value=optional_bytes, headers=st.lists(st.tuples(st.text(), optional_bytes)))
def test_a_record_is_the_same_after_a_line(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]
) -> None:
    record = Record("t", 1, 2, 3, key, value, tuple(headers))
    text = record_json.line(record)
    assert b"\n" not in text
    assert record_json.parse(text) == record


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b'{"topic":1}',
        b'{"topic":"t","partition":0,"offset":0,"timestamp":0,"key":null,"value":"x","headers":[],"more":1}',
        b'{"topic":"t","partition":0,"offset":0,"timestamp":0,"key":null,"value_base64":"?","headers":[]}',
        b'{"topic":"t","partition":"0","offset":0,"timestamp":0,"key":null,"value":"x","headers":[]}',
        b'{"topic":"t","partition":0,"offset":0,"timestamp":0,"key":null,"value":"x","headers":[{}]}',
        b'{"topic":"t","partition":0,"offset":0,"timestamp":0,"key":7,"value":"x","headers":[]}',
    ],
)
def test_any_other_line_is_plain(text: bytes) -> None:
    assert record_json.parse(text) is None


def test_a_file_is_sent_byte_for_byte_and_blank_lines_are_no_records(
    admin: EmbeddedAdmin, tmp_path: Path
) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"id":"1"}\n\nnot json\n\xff\xfe\n{"key":"k"} \r\n{"key":7}')
    assert send(admin, str(path))["sent"] == 5
    sent = [(record.key, record.value) for record in contents(admin, "one")]
    assert sent == [
        (None, b'{"id":"1"}'),
        (None, b"not json"),
        (None, b"\xff\xfe"),
        (b"k", b'{"key":"k"} \r'),
        (b"7", b'{"key":7}'),
    ]


def test_what_record_wrote_is_sent_as_it_was(admin: EmbeddedAdmin, tmp_path: Path) -> None:
    rows = [
        ProducerRecord(key, value, (("h", key), ("h", value)), partition)
        for partition in range(3)
        for key in AWKWARD
        for value in AWKWARD
    ]
    admin.append("three", rows)
    recorded = contents(admin, "three")
    assert len(recorded) == len(rows)
    path = tmp_path / "recorded.jsonl"
    path.write_bytes(b"".join(record_json.line(record) + b"\n" for record in recorded))

    admin.create([TopicSpec("again", 3)])
    send(admin, str(path), "again")

    def by_partition(records: list[Record]) -> list[object]:
        rows = [(r.partition, r.offset, r.key, r.value, r.headers) for r in records]
        return sorted(rows, key=lambda row: row[:2])

    assert by_partition(contents(admin, "again")) == by_partition(recorded)
    send(admin, str(path), "one")
    assert len(contents(admin, "one")) == len(rows)


def test_limit_and_loop(admin: EmbeddedAdmin, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("1\n2\n3\n")
    assert send(admin, str(path), limit=2)["sent"] == 2
    assert send(admin, str(path), loop=True, limit=7)["sent"] == 7
    assert [record.value for record in contents(admin, "one")][2:] == [
        b"1",
        b"2",
        b"3",
        b"1",
        b"2",
        b"3",
        b"1",
    ]


def test_an_empty_source_does_not_loop_for_ever(admin: EmbeddedAdmin, tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text("\n")
    assert send(admin, str(path), loop=True)["sent"] == 0


def test_batches_are_bounded(admin: EmbeddedAdmin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("1\n" * (2 * BATCH_RECORDS + 1))
    sizes = []
    append = admin.append
    monkeypatch.setattr(admin, "append", lambda topic, rows: (sizes.append(len(rows)), append(topic, rows)))
    assert send(admin, str(path))["sent"] == sum(sizes) == 2 * BATCH_RECORDS + 1
    assert max(sizes) == BATCH_RECORDS


class SlowPipe(io.RawIOBase):
    """Gives one chunk a read, as a pipe does whose writer is slow."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks)

    def read1(self, _size: int) -> bytes:
        return self.chunks.pop(0) if self.chunks else b""


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[bytes | None]]:
    """Values that standard input gives when these chunks arrive in it, None where more is awaited."""

    def read(*chunks: bytes) -> list[bytes | None]:
        monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": SlowPipe(*chunks)}))
        return [item and item.row.value for item in open_source("-", HOW).items()]

    return read


def test_a_pipe_gives_whole_lines_at_once_and_the_rest_when_it_comes(
    pipe: Callable[..., list[bytes | None]],
) -> None:
    assert pipe(b"1\n2", b"2\n", b"\n3") == [b"1", None, b"22", None, None, b"3", None]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_pipe_in_pieces_of_any_size_gives_the_same_lines(
    size: int, pipe: Callable[..., list[bytes | None]]
) -> None:
    text = b'{"id":"1"}\n\n{"id":"2"}\nlast'
    values = pipe(*(text[at : at + size] for at in range(0, len(text), size)))
    assert [value for value in values if value] == [b'{"id":"1"}', b'{"id":"2"}', b"last"]


def test_river_data_becomes_events() -> None:
    source = open_source("river:waterflow", HOW)
    first = next(iter(source.items()))
    assert first == SourceRecord(
        ProducerRecord(None, b'{"id":"0","ts":"2022-03-20T11:00:00+01:00","features":{},"label":100.59}'),
        1647770400.0,
        "river:waterflow row 1",
        1,
    )
    phishing = open_source("river:Phishing", HOW)
    assert len(list(phishing.items())) == 1250
    events = [json.loads(item.row.value or b"") for item in phishing.items() if item]
    assert len(events) == phishing.total == 1250
    assert events[0]["id"] == "1250"
    assert set(events[0]) == {"id", "features", "label"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("river:HTTP", "Those are: AirlinePassengers, Bananas"),
        ("river:SolarFlare", "one label per row"),
        ("none.jsonl", "there is no such file; a source is a file (.csv"),
        ("https://host/a.csv", "bring it to this machine first"),
        ("topic:events@0..5", "say where the log is"),
        ("json:nothing", "json has no 'nothing'"),
        ("no_such_module:x", "ModuleNotFoundError"),
        (".", "it is a folder"),
    ],
)
def test_a_source_that_cannot_be_read_says_what_can(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=name) as refused:
        open_source(name, HOW)
    assert said in str(refused.value)


def test_deadlines_come_from_one_anchor() -> None:
    pacer = Pacer(Pace(speed=10), anchor_s=100)
    assert [pacer.due_s(time_s) for time_s in (50, 60, 55, None, 70)] == [100, 101, None, None, 102]
    assert (pacer.out_of_order, pacer.without_time) == (1, 1)
    by_rate = Pacer(Pace(rate=4), anchor_s=100)
    assert [by_rate.due_s(None) for _ in range(3)] == [100, 100.25, 100.5]
    assert Pacer(Pace(), anchor_s=100).due_s(50) is None


def test_lateness_percentiles_are_within_five_percent() -> None:
    lateness = Lateness()
    for late_ms in range(1, 1001):
        lateness.add(late_ms / 1000)
    assert lateness.percentile_ms(0.5) == pytest.approx(500, rel=0.06)
    assert lateness.percentile_ms(0.99) == pytest.approx(990, rel=0.06)
    assert lateness.summary()["late_max_ms"] == 1000
    assert Lateness().summary() == {}


def test_records_go_out_when_they_are_due(
    admin: EmbeddedAdmin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = FakeEnv(1000.0)
    path = tmp_path / "events.jsonl"
    times = [1700000000, 1700000060, 1700000030, None, 1700000120]
    path.write_text("".join(json.dumps({"id": str(n), "ts": ts}) + "\n" for n, ts in enumerate(times)))
    sent: list[tuple[float, list[str]]] = []
    append = admin.append

    def watch(topic: str, rows: Sequence[ProducerRecord]) -> None:
        sent.append((env.now_s - 1000, [json.loads(row.value or b"")["id"] for row in rows]))
        append(topic, rows)

    monkeypatch.setattr(admin, "append", watch)
    report = Sender(env, admin, SendTopics("one"), Pace(speed=60), env.flag(), lambda _: None).run(
        partial(schedule, open_source(str(path), HOW), HOW, None), None, False
    )
    assert sent == [(0, ["0"]), (1, ["1", "2", "3"]), (2, ["4"])]
    assert (report["sent"], report["out_of_order"], report["without_time"], report["late_max_ms"]) == (
        5,
        1,
        1,
        0,
    )


def test_a_stopped_replay_sends_nothing_before_its_time(admin: EmbeddedAdmin, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"ts": 1700000000}\n{"ts": 1800000000}\n{"ts": 1800000001}\n')
    stop = RealEnv().flag()
    sender = Sender(RealEnv(), admin, SendTopics("one"), Pace(speed=1), stop, lambda _: stop.set())
    report = sender.run(partial(schedule, open_source(str(path), HOW), HOW, None), None, False)
    assert report["sent"] == 1
    assert len(contents(admin, "one")) == 1


@pytest.mark.parametrize(
    ("where", "offsets"),
    [
        ("beginning", (0,)),
        ("end", (5,)),
        ("2", (2,)),
        ("-2", (3,)),
        ("-99", (0,)),
        ("99", (5,)),
        ("1970-01-01T00:00:00Z", (0,)),
        ("2999-01-01T00:00:00Z", (5,)),
    ],
)
def test_places_in_a_topic(admin: EmbeddedAdmin, where: str, offsets: tuple[int, ...]) -> None:
    admin.append("one", [ProducerRecord(None, b"x")] * 5)
    assert topic_reader.resolve_offsets(admin, "one", where) == offsets


@pytest.mark.parametrize("where", ["middle", "2026-01-01T00:00:00", "1.5"])
def test_no_place_in_a_topic(admin: EmbeddedAdmin, where: str) -> None:
    with pytest.raises(ConfigError, match="is no place in a topic"):
        topic_reader.resolve_offsets(admin, "one", where)


class Scripted:
    """A client of Kafka, and its consumer of one partition, which answers fetches as it is told."""

    bootstrap = "kafka:9092"

    def __init__(
        self, env: FakeEnv, end: int, fetches: Sequence[tuple[int, ...] | ClientError | int]
    ) -> None:
        self.env = env
        self.end = end
        self.fetches = [*fetches]
        self.next = 0

    def __getattr__(self, name: str) -> Any:
        assert name in {"assign", "pause", "resume", "close"}, name
        return lambda *_words: None

    def consumer(self, **_words: object) -> "Scripted":
        return self

    def fetch(self, timeout_s: float) -> dict[TopicPartition, list[Record]]:
        """Records at these offsets; or none, for an offset up to which there are none; or an error."""
        self.env.sleep(timeout_s)
        answer = self.fetches.pop(0) if len(self.fetches) > 1 else self.fetches[0]
        if isinstance(answer, ClientError):
            raise answer
        offsets = answer if isinstance(answer, tuple) else ()
        self.next = offsets[-1] + 1 if offsets else self.next if isinstance(answer, tuple) else answer
        return {("t", 0): [Record("t", 0, offset, 0, None, b"x") for offset in offsets]} if offsets else {}

    def seek(self, _partition: TopicPartition, offset: int) -> None:
        self.next = offset

    def position(self, _partition: TopicPartition) -> int:
        return self.next

    def known_end(self, _partition: TopicPartition) -> int:
        return self.end

    def bounds(self, _partition: TopicPartition) -> tuple[int, int]:
        return 0, self.end

    def ends(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, self.end)


class OneTopic(Admin):
    """A log of one topic, `t`, in which `upto` is the end."""

    def __init__(self, end: int, *fetches: tuple[int, ...] | ClientError | int) -> None:
        env = FakeEnv()
        self.end = end
        self.reader = RecordReader(env, cast(Any, Scripted(env, end, fetches)))

    def topics(self, names: Iterable[str]) -> dict[str, TopicInfo]:
        return {"t": TopicInfo("id", (0,), (self.end,))}

    def poll(self, positions: Positions, max_records: int, timeout_s: float) -> FetchResult:
        return self.reader.poll(positions, max_records, 1 << 62, timeout_s)

    def read(self, run: Range) -> Iterator[Record]:
        return self.reader.read(run)


def offsets_read(admin: Admin, upto: int) -> list[int]:
    return [record.offset for record in topic_reader.between(admin, "t", (0,), (upto,))]


def test_marks_of_transactions_at_the_end_are_no_records() -> None:
    assert offsets_read(OneTopic(4, (0, 1), (2,), (), 4), 4) == [0, 1, 2]


def test_one_empty_answer_is_no_end() -> None:
    assert offsets_read(OneTopic(3, (0, 1), (), (2,), ()), 3) == [0, 1, 2]


def test_failed_fetches_are_no_end() -> None:
    moving = ClientError("the leader is moving", retriable=True)
    assert offsets_read(OneTopic(3, (0,), moving, moving, moving, (1, 2), ()), 3) == [0, 1, 2]


def test_records_past_the_range_are_left() -> None:
    assert offsets_read(OneTopic(9, (0, 1, 5, 6)), 4) == [0, 1]


def test_silence_before_the_end_is_an_error_and_not_a_short_file() -> None:
    with pytest.raises(Unreachable, match="t-0 gives nothing from offset 1 on"):
        offsets_read(OneTopic(3, (0,), ()), 3)


def test_partitions_are_merged_by_arrival(admin: EmbeddedAdmin, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, partition in enumerate([0, 2, 1, 1, 0, 2]):
        monkeypatch.setattr(RealEnv, "now", lambda _env, number=number: (1000 + number) / 1000)
        admin.append("three", [ProducerRecord(None, b"%d" % number, (), partition)])
    assert [record.value for record in contents(admin, "three")] == [b"%d" % number for number in range(6)]


def test_commands_carry_records_there_and_back(command: Command) -> None:
    sent = json.loads(
        command.ok("replay", "river:Shuttle", "-t", "events", "--db", "s.db", "--limit", 500, "--json")
    )
    assert sent["sent"] == 500
    command.ok("record", "-t", "events", "--db", "s.db", "-o", "all.jsonl")
    assert len(Path("all.jsonl").read_bytes().splitlines()) == 500
    assert [path.name for path in Path().iterdir() if path.name.startswith(".")] == []
    command.ok("replay", "all.jsonl", "-t", "copy", "--db", "s.db")
    values = command.ok("tail", "events", "--db", "s.db", "-o", "beginning")
    assert values == command.ok("tail", "copy", "--db", "s.db", "-o", "beginning")
    assert len(values.splitlines()) == 500
    assert len(command.ok("tail", "events", "--db", "s.db").splitlines()) == 10
    assert (
        command.ok("tail", "events", "--db", "s.db", "-o", "-3", "-n", "2")
        == "\n".join(values.splitlines()[497:499]) + "\n"
    )
    part = command.ok("record", "-t", "events", "--db", "s.db", "--from", "10", "--to", "12")
    assert [json.loads(line)["offset"] for line in part.splitlines()] == [10, 11]
    assert command.ok("tail", "events", "--db", "s.db", "-o", "10", "-n", "2", "--json") == part


def test_an_error_says_how_much_was_sent_before_it(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    append = EmbeddedAdmin.append

    def fails_at_the_second(self: EmbeddedAdmin, topic: str, rows: Sequence[ProducerRecord]) -> None:
        if self.topics([topic])[topic].end[0]:
            raise Unreachable("the disk went away")
        append(self, topic, rows)

    monkeypatch.setattr(EmbeddedAdmin, "append", fails_at_the_second)
    result = command("replay", "river:Shuttle", "-t", "events", "--db", "s.db")
    assert (result.code, result.out) == (4, "")
    assert result.err.endswith("2000 records were sent to events before this:\nerror: the disk went away\n")


def test_a_recording_that_fails_leaves_the_old_file(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    command.ok("replay", "river:Shuttle", "-t", "events", "--db", "s.db", "--limit", 5)
    Path("out.jsonl").write_text("old")

    def fails(_record: Record) -> bytes:
        raise Unreachable("the disk went away")

    monkeypatch.setattr(record_json, "line", fails)
    assert command("record", "-t", "events", "--db", "s.db", "-o", "out.jsonl").code == 4
    assert Path("out.jsonl").read_text() == "old"
    assert sorted(path.name for path in Path().iterdir() if "out" in path.name) == ["out.jsonl"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["replay", "none", "-t", "e", "--db", "s.db"], 2, "there is no such file"),
        (["replay", "-", "-t", "e", "--db", "s.db", "--loop"], 2, "standard input cannot begin again"),
        (["replay", "river:Phishing", "-t", "e", "--db", "s.db", "--speed", "0"], 2, "--speed 0: must be"),
        (["replay", "river:Phishing", "-t", "e", "--db", "s.db", "--speed", "fast"], 2, "or max"),
        (
            ["replay", "river:Phishing", "-t", "e", "--db", "s.db", "--speed", "2", "--rate", "5"],
            2,
            "keep one",
        ),
        (["replay", "river:Phishing", "-t", "e", "--db", "s.db", "--rate", "-1"], 2, "must be above 0"),
        (["tail", "e", "--db", "none.db"], 2, "there is no file none.db"),
        (["record", "-t", "e", "--db", "none.db"], 2, "there is no file none.db"),
    ],
)
def test_what_cannot_be_done_is_said(command: Command, words: list[str], code: int, said: str) -> None:
    result = command(*words)
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith("error: ")
    assert said in result.err


@pytest.mark.kafka
def test_kafka_gives_back_what_was_sent(command: Command, kafka: str, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.events"
    missing = command("replay", "river:Phishing", "-t", topic, "-b", kafka)
    assert missing.code == 2
    assert f"streamlearn topics ensure -i {topic}" in missing.err
    command.ok("topics", "ensure", "-i", topic, "--partitions", 3, "-n", topic_prefix, "-b", kafka)
    command.ok("replay", "river:Shuttle", "-t", topic, "--limit", 5000, "-b", kafka)
    command.ok("record", "-t", topic, "-b", kafka, "-o", "all.jsonl")
    recorded = [record_json.parse(line) for line in Path("all.jsonl").read_bytes().splitlines()]
    ids = [int(json.loads(record.value or b"")["id"]) for record in recorded if record]
    assert sorted(ids) == list(range(5000))
    command.ok("replay", "all.jsonl", "-t", topic, "-b", kafka)
    again = command.ok("tail", topic, "-b", kafka, "-o", "beginning").splitlines()
    assert sorted(again) == sorted(2 * [(record.value or b"").decode() for record in recorded if record])
    assert len(command.ok("tail", topic, "-b", kafka, "-o", "-1").splitlines()) == 3


def test_a_value_with_two_members_of_one_path_is_no_row_of_a_table() -> None:
    """The second one's value stood for both."""
    record = Record("t", 1, 2, 3, None, b'{"a.b":1,"a":{"b":2}}')
    with pytest.raises(CheckFailed, match=r"t-1 offset 2 has two members with the path 'a\.b'"):
        sinks.csv_columns([record])
    refusal = compile_decoder(EventSpec(features="*"))(record)
    assert isinstance(refusal, Refusal) and refusal.reason == "same_path"
