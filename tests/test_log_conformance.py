"""Every sentence of `streamlearn/log/port.py`, on every backend.

A backend gives `admin()` and `log(names)`, is picklable (a child process opens its own connections from
it), and nothing else: what differs between backends beyond that is tested in a file of its own.
Offsets are never compared with numbers, because Kafka leaves gaps; values are.
"""

import multiprocessing
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple, overload

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamlearn.core.journal import Entry, Unfinished
from streamlearn.core.records import Headers, Output, Positions, Range, Record, header_name
from streamlearn.env import RealEnv
from streamlearn.errors import Fenced, Gone
from streamlearn.log.embedded.admin import EmbeddedAdmin
from streamlearn.log.embedded.log import EmbeddedLog
from streamlearn.log.internal_topics import ARRIVAL
from streamlearn.log.kafka import ClientName
from streamlearn.log.port import Admin, Log, ProducerRecord, Reader, ShardLog, TopicNames, TopicSpec
from tests.simulator.memory_log import Cluster, MemoryLog, MemoryReader

DEADLINE_S = 60.0
QUIET_S = 0.5
ONE_MB = 1 << 20


class Embedded(NamedTuple):
    path: Path

    def admin(self) -> Admin:
        return EmbeddedAdmin(RealEnv(), self.path)

    def log(self, names: TopicNames) -> Log:
        return EmbeddedLog(RealEnv(), names, self.path, retention_s=3600)


class Kafka(NamedTuple):
    bootstrap_servers: str
    client: ClientName

    def admin(self) -> Admin:
        from streamlearn.log.kafka.log import KafkaAdmin

        return KafkaAdmin(RealEnv(), self.bootstrap_servers, {})

    def log(self, names: TopicNames) -> Log:
        from streamlearn.log.kafka.log import KafkaLog

        return KafkaLog(RealEnv(), names, self.bootstrap_servers, {}, client=self.client)


class RealClock:
    """The clock of this process."""

    now, sleep = staticmethod(time.time), staticmethod(time.sleep)


class Memory(NamedTuple):
    """The stage of the simulator: no other process sees it."""

    cluster: Cluster

    def admin(self) -> Admin:
        return MemoryReader(self.cluster, RealClock())

    def log(self, names: TopicNames) -> Log:
        return MemoryLog(self.cluster, names, RealClock())


Backend = Embedded | Kafka | Memory


CLIENTS = [pytest.param(name, marks=pytest.mark.kafka) for name in ("kafka-python", "confluent")]


@pytest.fixture(params=["embedded", "memory", *CLIENTS])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    if request.param in ("kafka-python", "confluent"):
        return Kafka(request.getfixturevalue("kafka"), request.param)
    if request.param == "memory":
        return Memory(Cluster())
    return Embedded(tmp_path / "log.db")


class World(NamedTuple):
    """One application's topics: an input of two partitions, outputs of two, dead letters of one."""

    backend: Backend
    names: TopicNames
    admin: Admin

    @property
    def input(self) -> str:
        return self.names.inputs[0]

    @property
    def predictions(self) -> str:
        return self.names.roles["predictions"]

    @property
    def dlq(self) -> str:
        return self.names.roles["dlq"]

    @property
    def journal(self) -> str:
        return self.names.roles["journal"]

    def log(self) -> Log:
        return self.backend.log(self.names)


def new_names() -> TopicNames:
    app = f"t-{uuid.uuid4().hex[:12]}"
    roles = {role: f"{app}.{role}" for role in ("predictions", "dlq", "journal")}
    return TopicNames(app, "", (f"{app}.events",), roles)


def make_topics(admin: Admin, names: TopicNames) -> None:
    roles = names.roles
    admin.create(
        [
            TopicSpec(names.inputs[0], 2),
            TopicSpec(roles["predictions"], 2, ARRIVAL),
            TopicSpec(roles["dlq"], 1, ARRIVAL),
            TopicSpec(roles["journal"], 1, {"cleanup.policy": "delete", "retention.ms": "-1", **ARRIVAL}),
        ]
    )


@pytest.fixture
def world(backend: Backend) -> Iterator[World]:
    admin, names = backend.admin(), new_names()
    make_topics(admin, names)
    yield World(backend, names, admin)
    admin.close()


@pytest.fixture
def log(world: World) -> Iterator[Log]:
    log = world.log()
    yield log
    log.close()


@pytest.fixture
def shard(log: Log) -> Iterator[ShardLog]:
    shard = take(log)
    yield shard
    shard.close()


def take(log: Log) -> ShardLog:
    """Open shard 0 as soon as the election hands it out."""
    eventually(lambda: 0 in log.owned(1.0))
    return log.open(0)


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def reads_to(reader: Reader, journal: tuple[str, int], end: Entry) -> bool:
    return reader.end(journal) == end


def starts(world: World, topic: str) -> Positions:
    info = world.admin.topics([topic])[topic]
    return {(topic, partition): offset for partition, offset in enumerate(info.start)}


def drain(world: World, topic: str) -> dict[int, list[Record]]:
    """Every visible record of a topic, by partition; done when nothing came for a while."""
    positions = starts(world, topic)
    found: dict[int, list[Record]] = {partition: [] for _, partition in positions}
    while fetched := world.admin.poll(positions, 10_000, QUIET_S).records:
        for (_, partition), records in fetched.items():
            found[partition] += records
            positions[topic, partition] = records[-1].offset + 1
    return found


def values(records: Sequence[Record]) -> list[bytes | None]:
    return [record.value for record in records]


def feed(world: World, *contents: bytes, partition: int = 0) -> list[Record]:
    """Append values to one partition of the input and return them as they stand there."""
    world.admin.append(world.input, [ProducerRecord(None, value, (), partition) for value in contents])
    return drain(world, world.input)[partition]


def entry(seq: int, *ranges: Range) -> Entry:
    return Entry(seq, 0, f"{seq:064x}", list(ranges))


def prediction(value: bytes, partition: int = 0) -> Output:
    return Output("predictions", partition, None, value)


def entries(shard: ShardLog, after: int = -1) -> list[Entry]:
    return list(shard.entries(after))


# Appending and polling


def test_what_is_appended_is_polled_unchanged(world: World) -> None:
    headers: Headers = (("trace", b"\x00\xff"), ("empty", b""), ("null", None), ("trace", b"again"))
    records = [
        ProducerRecord(b"k", b"v", headers, 0),
        ProducerRecord(None, b"null key", (), 0),
        ProducerRecord(b"", b"empty key", (), 0),
        ProducerRecord(b"null value", None, (), 0),
        ProducerRecord(b"empty value", b"", (), 0),
    ]
    world.admin.append(world.input, records)
    found = drain(world, world.input)[0]
    assert [(r.key, r.value, r.headers, r.partition) for r in found] == [tuple(record) for record in records]
    assert {r.topic for r in found} == {world.input}


bytes_or_none = st.none() | st.binary(max_size=40)
records_strategy = st.lists(
    st.builds(
        ProducerRecord,
        bytes_or_none,
        bytes_or_none,
        st.lists(st.tuples(st.binary(max_size=5).map(header_name), bytes_or_none), max_size=3).map(tuple),
        st.just(1),
    ),
    min_size=1,
    max_size=600,
)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(records=records_strategy, limit=st.integers(1, 700))
def test_any_records_come_back_in_order_at_any_limit(
    world: World, records: list[ProducerRecord], limit: int
) -> None:
    at = (world.input, 1)
    position = world.admin.topics([world.input])[world.input].end[1]
    world.admin.append(world.input, records)
    found: list[Record] = []
    while len(found) < len(records):
        fetched = world.admin.poll({at: position}, limit, DEADLINE_S)
        assert 1 <= len(fetched.records[at]) <= limit
        found += fetched.records[at]
        position = found[-1].offset + 1
    assert [(r.key, r.value, r.headers) for r in found] == [(r.key, r.value, r.headers) for r in records]
    assert [r.offset for r in found] == sorted({r.offset for r in found})


def test_arrival_times_are_now_and_never_decrease(world: World) -> None:
    before_ms = int(time.time() * 1000)
    for value in (b"a", b"b", b"c"):
        feed(world, value)
    times = [record.timestamp_ms for record in drain(world, world.input)[0]]
    assert times == sorted(times)
    assert before_ms - 1000 <= times[0]
    assert times[-1] <= int(time.time() * 1000) + 1000


def test_rows_with_one_key_share_a_partition_and_rows_without_are_spread(world: World) -> None:
    world.admin.append(world.input, [ProducerRecord(b"one", b"%d" % n) for n in range(20)])
    keyed = drain(world, world.input)
    assert sorted(len(records) for records in keyed.values()) == [0, 20]
    world.admin.append(world.predictions, [ProducerRecord(None, b"%d" % n) for n in range(400)])
    assert all(records for records in drain(world, world.predictions).values())


def test_poll_waits_for_the_first_record(world: World, shard: ShardLog) -> None:
    positions = starts(world, world.input)
    writer = in_child(append_later, world.backend, world.input, 0.5)
    fetched = shard.poll(positions, 10, ONE_MB, DEADLINE_S)
    assert values(fetched.records[world.input, 0]) == [b"late"]
    join(writer)


def test_poll_comes_back_with_nothing_when_nothing_arrives(world: World, shard: ShardLog) -> None:
    fetched = shard.poll(starts(world, world.input), 10, ONE_MB, 0.05)
    assert fetched.records == {}
    assert fetched.behind == frozenset()


def test_poll_gives_only_the_partitions_asked_for_from_their_positions_on(
    world: World, shard: ShardLog
) -> None:
    first, *rest = feed(world, b"a", b"b", b"c")
    feed(world, b"other", partition=1)
    fetched = shard.poll({(world.input, 0): first.offset + 1}, 10, ONE_MB, DEADLINE_S)
    assert fetched.records == {(world.input, 0): rest}


def test_poll_keeps_no_position_of_its_own(world: World, shard: ShardLog) -> None:
    (record,) = feed(world, b"a")
    for _ in range(2):
        assert shard.poll({(world.input, 0): record.offset}, 10, ONE_MB, DEADLINE_S).records == {
            (world.input, 0): [record]
        }


def test_poll_takes_no_more_than_max_records_and_says_what_is_behind(world: World, shard: ShardLog) -> None:
    feed(world, *[b"%d" % n for n in range(300)])
    fetched = shard.poll(starts(world, world.input), 7, ONE_MB, DEADLINE_S)
    assert values(fetched.records[world.input, 0]) == [b"%d" % n for n in range(7)]
    assert fetched.behind == {(world.input, 0)}


def test_a_backlog_in_one_partition_does_not_hide_another(world: World, shard: ShardLog) -> None:
    feed(world, *[b"%d" % n for n in range(300)])
    feed(world, b"other", partition=1)
    positions, seen = starts(world, world.input), set()
    for _ in range(20):
        fetched = shard.poll(positions, 10, ONE_MB, DEADLINE_S)
        seen |= set(fetched.records)
        for at, records in fetched.records.items():
            positions[at] = records[-1].offset + 1
    assert seen == {(world.input, 0), (world.input, 1)}


def test_poll_raises_gone_at_a_position_that_is_not_in_the_log(world: World, shard: ShardLog) -> None:
    (record,) = feed(world, b"a")
    with pytest.raises(Gone):
        shard.poll({(world.input, 0): record.offset + 1000}, 10, ONE_MB, DEADLINE_S)


def test_read_gives_a_range_and_nothing_else(world: World, shard: ShardLog) -> None:
    records = feed(world, *[b"%d" % n for n in range(2500)])
    run = Range(world.input, 0, records[1].offset, records[-1].offset)
    assert list(shard.read(run)) == records[1:-1]


def test_read_raises_gone_when_the_range_is_not_there_whole(world: World, shard: ShardLog) -> None:
    (record,) = feed(world, b"a")
    with pytest.raises(Gone):
        list(shard.read(Range(world.input, 0, record.offset, record.offset + 1000)))


# Topics


def test_topics_tell_partitions_and_bounds(world: World, log: Log) -> None:
    records = feed(world, b"a", b"b")
    info = world.admin.topics([world.input])[world.input]
    assert info.partitions == 2
    assert info.start[0] == records[0].offset
    assert info.end == (records[-1].offset + 1, info.start[1])
    assert log.topics()[world.input] == info


def test_a_log_tells_only_the_topics_of_its_configuration(world: World, log: Log) -> None:
    stranger = new_names()
    make_topics(world.admin, stranger)
    assert set(log.topics()) == {*world.names.inputs, *world.names.roles.values()}
    assert set(log.topics()) | set(stranger.inputs) <= set(world.admin.topic_names())


def test_create_leaves_a_topic_that_exists_as_it_is(world: World) -> None:
    feed(world, b"a")
    before = world.admin.topics([world.input])[world.input]
    world.admin.create([TopicSpec(world.input, 2)])
    assert world.admin.topics([world.input])[world.input] == before


def test_settings_are_those_given_at_creation(world: World) -> None:
    assert world.admin.settings(world.journal)["retention.ms"] == "-1"


def test_every_topic_has_an_id_of_its_own(world: World) -> None:
    ids = [info.id for info in world.admin.topics([world.input, *world.names.roles.values()]).values()]
    assert len(set(ids)) == len(ids)


def test_offsets_at_finds_the_first_record_since_a_time(world: World, log: Log) -> None:
    for value in (b"a", b"b", b"c"):
        feed(world, value)
        time.sleep(0.005)
    first, second, third = drain(world, world.input)[0]
    end = world.admin.topics([world.input])[world.input].end
    for asked in (log.offsets_at, world.admin.offsets_at):
        assert asked(world.input, first.timestamp_ms)[0] == first.offset
        assert asked(world.input, first.timestamp_ms + 1)[0] == second.offset
        assert asked(world.input, third.timestamp_ms)[0] == third.offset
        assert asked(world.input, third.timestamp_ms + 1) == end
    assert log.offsets_at(world.input, 0)[0] == first.offset


# Publishing


def test_an_empty_journal_has_no_end(shard: ShardLog) -> None:
    assert shard.end is None
    assert entries(shard) == []


def test_publish_commits_outputs_and_entry_together(world: World, shard: ShardLog) -> None:
    first = entry(0, Range(world.input, 0, 0, 2))
    dead = Output("dlq", 1, b"k", None, (("streamlearn.stage", b"decode"), ("gone", None)))
    shard.publish(first, [prediction(b"p0"), dead, prediction(b"p1")], {})
    assert values(drain(world, world.predictions)[0]) == [b"p0", b"p1"]
    (letter,) = drain(world, world.dlq)[0]
    assert (letter.key, letter.value, letter.headers) == (dead.key, dead.value, dead.headers)
    assert entries(shard) == [first]


def test_outputs_go_to_the_source_partition_mod_n_in_their_order(world: World, shard: ShardLog) -> None:
    shard.publish(entry(0), [prediction(b"%d" % n, partition=n) for n in range(6)], {})
    found = drain(world, world.predictions)
    assert values(found[0]) == [b"0", b"2", b"4"]
    assert values(found[1]) == [b"1", b"3", b"5"]


def test_an_entry_without_outputs_is_published_too(shard: ShardLog) -> None:
    shard.publish(entry(0), [], {})
    shard.publish(entry(1), [], {})
    assert [found.seq for found in entries(shard)] == [0, 1]


def test_entries_after_a_seq_are_the_later_ones(shard: ShardLog) -> None:
    for seq in range(5):
        shard.publish(entry(seq), [], {})
    assert [found.seq for found in entries(shard, after=1)] == [2, 3, 4]
    assert entries(shard, after=4) == []


def test_the_next_owner_sees_the_journal_end(world: World, log: Log, shard: ShardLog) -> None:
    for seq in range(3):
        shard.publish(entry(seq), [prediction(b"%d" % seq)], {})
    shard.close()
    log.close()
    with_next = world.log()
    assert take(with_next).end == entry(2)
    with_next.close()


def test_trimmed_entries_are_gone_and_the_last_one_never(world: World, log: Log, shard: ShardLog) -> None:
    for seq in range(5):
        shard.publish(entry(seq), [], {})
    shard.trim(3)
    eventually(lambda: is_gone(shard, after=-1))
    assert [found.seq for found in entries(shard, after=2)] == [3, 4]
    shard.trim(1000)
    eventually(lambda: is_gone(shard, after=2))
    assert [found.seq for found in entries(shard, after=3)] == [4]
    shard.publish(entry(5), [], {})
    shard.close()
    assert log.open(0).end == entry(5)


def is_gone(shard: ShardLog, after: int) -> bool:
    try:
        entries(shard, after)
    except Gone:
        return True
    return False


def test_sync_returns(shard: ShardLog) -> None:
    shard.publish(entry(0), [], {})
    shard.sync()
    assert entries(shard) == [entry(0)]


# Ownership


def test_who_opened_the_shard_goes_on_owning_it(log: Log, shard: ShardLog) -> None:
    assert log.owned(0.1) == {0}
    assert log.owned(0.1) == {0}


def test_only_the_newest_open_can_publish(world: World, log: Log) -> None:
    old = take(log)
    old.publish(entry(0), [prediction(b"old")], {})
    new = log.open(0)
    assert new.end == entry(0)
    with pytest.raises(Fenced):
        old.publish(entry(1), [prediction(b"zombie")], {})
    new.publish(entry(1), [prediction(b"new")], {})
    with pytest.raises(Fenced):
        old.publish(entry(2), [prediction(b"zombie again")], {})
    assert values(drain(world, world.predictions)[0]) == [b"old", b"new"]
    assert entries(new) == [entry(0), entry(1)]


def test_every_opening_has_a_claim_of_its_own_that_grows(world: World, log: Log) -> None:
    claims = []
    for seq in range(3):
        shard = take(log)
        claims.append(shard.claim)
        shard.publish(entry(seq), [], {})
        shard.close()
        other = world.log()
        claims.append(other.open(0).claim)
        other.close()
    assert claims == sorted(set(claims))
    assert entries(take(log)) == [entry(seq) for seq in range(3)]


def test_a_reader_follows_a_journal_and_fences_nobody(world: World, shard: ShardLog) -> None:
    reader: Reader = world.backend.admin()
    journal = (world.journal, 0)
    assert reader.end(journal) is None
    assert list(reader.entries(journal, -1)) == []
    feed(world, b"a", b"b", b"c")
    for seq in range(5):
        shard.publish(entry(seq), [], {})
        eventually(partial(reads_to, reader, journal, entry(seq)))
        assert list(reader.entries(journal, seq - 1)) == [entry(seq)]
    assert list(reader.entries(journal, 1)) == [entry(seq) for seq in (2, 3, 4)]
    assert list(reader.entries(journal, 4)) == []
    first, *_, last = drain(world, world.input)[0]
    run = Range(world.input, 0, first.offset, last.offset + 1)
    assert values(list(reader.read(run))) == [b"a", b"b", b"c"]
    with pytest.raises(Gone):
        list(reader.read(run._replace(next=run.next + 1000)))
    shard.publish(entry(5), [], {})
    reader.close()


def test_a_reader_raises_gone_where_the_journal_was_trimmed(world: World, shard: ShardLog) -> None:
    for seq in range(40):
        shard.publish(entry(seq), [], {})
    shard.trim(30)
    first = shard.first_seq()
    assert 0 < first <= 30
    reader: Reader = world.admin
    with pytest.raises(Gone):
        list(reader.entries((world.journal, 0), -1))
    assert list(reader.entries((world.journal, 0), first - 1)) == [entry(n) for n in range(first, 40)]


def test_a_shard_tells_whether_a_newer_owner_has_come(log: Log) -> None:
    old = take(log)
    assert old.newer_owner() == ""
    old.publish(entry(0), [], {})
    assert old.newer_owner() == ""
    new = log.open(0)
    assert old.newer_owner() != ""
    assert new.newer_owner() == ""
    with pytest.raises(Fenced):
        old.publish(entry(1), [], {})
    assert old.newer_owner() != ""


def test_two_applications_do_not_fence_each_other(world: World, shard: ShardLog) -> None:
    stranger = new_names()
    make_topics(world.admin, stranger)
    other = world.backend.log(stranger)
    take(other).publish(entry(0), [], {})
    shard.publish(entry(0), [], {})
    other.close()


def test_two_applications_on_one_journal_fence_each_other(world: World, shard: ShardLog) -> None:
    shard.publish(entry(0), [prediction(b"first")], {})
    copied = new_names()
    make_topics(world.admin, copied)
    roles = {**copied.roles, "journal": world.journal, "predictions": world.predictions}
    other = world.backend.log(copied._replace(roles=roles))
    second = other.open(0)
    assert second.end == entry(0)
    with pytest.raises(Fenced):
        shard.publish(entry(1), [prediction(b"the first goes on")], {})
    second.publish(entry(1), [prediction(b"second")], {})
    assert values(drain(world, world.predictions)[0]) == [b"first", b"second"]
    other.close()


def test_one_application_with_two_journals_does_not_fence_itself(world: World, shard: ShardLog) -> None:
    apart = new_names()
    make_topics(world.admin, apart)
    other = world.backend.log(apart._replace(app=world.names.app))
    take(other).publish(entry(0), [], {})
    shard.publish(entry(0), [], {})
    other.close()


def test_closing_lets_a_standby_take_over_at_once(world: World, log: Log) -> None:
    take(log)
    standby = world.log()
    eventually(lambda: 0 in log.owned(0) or 0 in standby.owned(0.1))
    log.close()
    take(standby).publish(entry(0), [], {})
    standby.close()


# Owners that ended without an entry


def test_an_owner_is_told_how_many_came_before_it_and_wrote_no_entry(log: Log) -> None:
    shards = []
    for earlier in range(4):
        shards.append(take(log))
        assert shards[-1].unfinished == Unfinished(earlier)
    shards[-1].publish(entry(0), [], {})
    assert take(log).unfinished == Unfinished()
    assert take(log).unfinished == Unfinished(1)


def test_attempts_are_told_by_record_until_the_next_entry(world: World, log: Log) -> None:
    one, other = (world.input, 0, 7), (world.input, 1, 2)
    shard = take(log)
    shard.publish(entry(0), [], {})
    shard.attempt(one)
    shard = take(log)
    assert shard.unfinished == Unfinished(0, {one: 1})
    shard.attempt(one)
    shard.attempt(other)
    shard = take(log)
    assert shard.unfinished == Unfinished(1, {one: 2, other: 1})
    assert entries(shard) == [entry(0)]
    shard.publish(entry(1), [], {})
    shard = take(log)
    assert shard.unfinished == Unfinished()
    assert shard.end == entry(1)


def test_an_owner_that_ends_in_order_leaves_nothing_unfinished(world: World, log: Log) -> None:
    take(log)
    shard = take(log)
    shard.attempt((world.input, 0, 7))
    shard.release()
    shard.close()
    assert take(log).unfinished == Unfinished()


def test_an_older_owner_attempts_and_releases_nothing(world: World, log: Log) -> None:
    old = take(log)
    new = log.open(0)
    with pytest.raises(Fenced):
        old.attempt((world.input, 0, 7))
    with pytest.raises(Fenced):
        old.release()
    new.publish(entry(0), [], {})
    assert entries(new) == [entry(0)]


# Several processes


def in_child(task: Callable[..., None], *args: object) -> BaseProcess:
    if any(isinstance(arg, Memory) for arg in args):
        pytest.skip("memory is not shared with another process")
    child = multiprocessing.get_context("spawn").Process(target=task, args=args, daemon=True)
    child.start()
    return child


def join(child: BaseProcess) -> None:
    child.join(DEADLINE_S)
    assert child.exitcode == 0, f"a child process ended with {child.exitcode}"


def append_later(backend: Backend, topic: str, delay_s: float) -> None:
    admin = backend.admin()
    time.sleep(delay_s)
    admin.append(topic, [ProducerRecord(None, b"late", (), 0)])
    admin.close()


class Lethal(Sequence[Output]):
    """Outputs that kill the process at the last one, when the adapter is in the middle of publishing."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Output: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Output]: ...
    def __getitem__(self, index: int | slice) -> Output | Sequence[Output]:
        raise NotImplementedError("it is only iterated over")

    def __iter__(self) -> Iterator[Output]:
        for number in range(self._count - 1):
            yield prediction(b"never seen %d" % number)
        os.kill(os.getpid(), signal.SIGKILL)


def die_publishing(backend: Backend, names: TopicNames) -> None:
    shard = take(backend.log(names))
    shard.publish(entry(0), [prediction(b"kept")], {})
    shard.publish(entry(1), Lethal(5000), {})


def test_nothing_of_a_publish_that_was_killed_is_ever_visible(world: World) -> None:
    child = in_child(die_publishing, world.backend, world.names)
    child.join(DEADLINE_S)
    assert child.exitcode == -signal.SIGKILL
    log = world.log()
    shard = take(log)
    assert shard.end == entry(0)
    shard.publish(entry(1), [prediction(b"next")], {})
    assert values(drain(world, world.predictions)[0]) == [b"kept", b"next"]
    log.close()


BATCH, BATCHES = 50, 40


def append_batches(backend: Backend, topic: str) -> None:
    admin = backend.admin()
    for batch in range(BATCHES):
        admin.append(topic, [ProducerRecord(None, b"%d" % (batch * BATCH + n), (), 0) for n in range(BATCH)])
    admin.close()


def serve_doubles(backend: Backend, names: TopicNames) -> None:
    """For each input record one prediction and one dead letter, until all have been seen."""
    log = backend.log(names)
    shard, at = take(log), (names.inputs[0], 0)
    position, seq, done = log.topics()[at[0]].start[0], 0, 0
    while done < BATCH * BATCHES:
        assert log.owned(0) == {0}
        records = shard.poll({at: position}, 70, ONE_MB, DEADLINE_S).records[at]
        outputs = [Output(role, 0, None, r.value) for r in records for role in ("predictions", "dlq")]
        run = Range(*at, position, records[-1].offset + 1)
        shard.publish(entry(seq, run), outputs, {at: run.next})
        position, seq, done = run.next, seq + 1, done + len(records)
    log.close()


def test_a_reader_beside_producer_and_service_sees_everything_once_and_whole_transactions(
    world: World,
) -> None:
    children = [
        in_child(serve_doubles, world.backend, world.names),
        in_child(append_batches, world.backend, world.input),
    ]
    topics = [(world.predictions, 0), (world.dlq, 0), (world.journal, 0)]
    positions: Positions = {at: world.admin.topics([at[0]])[at[0]].start[0] for at in topics}
    found: dict[str, list[Record]] = {topic: [] for topic, _ in topics}
    deadline = time.monotonic() + DEADLINE_S
    while min(len(found[world.predictions]), len(found[world.dlq])) < BATCH * BATCHES:
        assert time.monotonic() < deadline, "the reader never saw everything"
        for at, records in world.admin.poll(positions, 100_000, 1.0).records.items():
            found[at[0]] += records
            positions[at] = records[-1].offset + 1
    for child in children:
        join(child)
    expected = [b"%d" % n for n in range(BATCH * BATCHES)]
    assert values(found[world.predictions]) == expected
    assert values(found[world.dlq]) == expected


def publish_growing(backend: Backend, names: TopicNames) -> None:
    """Transaction n holds n predictions, all with the value n."""
    log = backend.log(names)
    shard = take(log)
    for seq in range(60):
        shard.publish(entry(seq), [prediction(b"%d" % seq)] * seq, {})
    log.close()


def test_a_reader_never_sees_a_part_of_a_transaction(world: World) -> None:
    child = in_child(publish_growing, world.backend, world.names)
    at = (world.predictions, 0)
    start = starts(world, at[0])[at]
    seen = 0
    while seen < 59:
        records = world.admin.poll({at: start}, 100_000, DEADLINE_S).records[at]
        seen = int(records[-1].value or b"0")
        assert values(records) == [b"%d" % seq for seq in range(seen + 1) for _ in range(seq)]
    join(child)
