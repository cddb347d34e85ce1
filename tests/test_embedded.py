"""What only the embedded backend promises: its file, its retention, its clockless seq, and its errors."""

import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest

from streamlearn.core.journal import Entry
from streamlearn.core.records import Output, Range
from streamlearn.env import RealEnv
from streamlearn.errors import ConfigError, Fenced, Gone, Stop, Unknown, Unreachable
from streamlearn.log.embedded import log as embedded
from streamlearn.log.embedded.admin import EmbeddedAdmin
from streamlearn.log.embedded.log import EmbeddedLog, EmbeddedShardLog
from streamlearn.log.port import ProducerRecord, TopicNames, TopicSpec

NAMES = TopicNames("app", "", ("events",), {"predictions": "predictions", "journal": "app.journal"})
ONE_MB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def admin(path: Path) -> Iterator[EmbeddedAdmin]:
    admin = EmbeddedAdmin(RealEnv(), path)
    admin.create(
        [
            TopicSpec("events", 1),
            TopicSpec("predictions", 1),
            TopicSpec("app.journal", 1, {"retention.ms": "-1"}),
        ]
    )
    yield admin
    admin.close()


@pytest.fixture
def log(path: Path, admin: EmbeddedAdmin) -> Iterator[EmbeddedLog]:
    log = EmbeddedLog(RealEnv(), NAMES, path, retention_s=100)
    yield log
    log.close()


@pytest.fixture
def shard(log: EmbeddedLog) -> EmbeddedShardLog:
    return log.open(0)


class Clock:
    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def __call__(self) -> float:
        return self.ms / 1000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(RealEnv, "now", clock)
    return clock


def entry(seq: int) -> Entry:
    return Entry(seq, 0, f"{seq:064x}")


def prediction(value: bytes) -> Output:
    return Output("predictions", 0, None, value)


def producer_records(*values: bytes) -> list[ProducerRecord]:
    return [ProducerRecord(None, value) for value in values]


def bounds(admin: EmbeddedAdmin, topic: str) -> tuple[int, int]:
    info = admin.topics([topic])[topic]
    return info.start[0], info.end[0]


# The file


def test_a_file_that_is_not_sqlite_is_refused_and_left_alone(path: Path) -> None:
    path.write_bytes(b"my thesis" * 1000)
    with pytest.raises(ConfigError, match=r"log\.db.*not an SQLite file.*another log\.path"):
        EmbeddedAdmin(RealEnv(), path)
    assert path.read_bytes() == b"my thesis" * 1000


def test_a_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE thesis(page)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="another program"):
        EmbeddedAdmin(RealEnv(), path)
    assert path.read_bytes() == before


def test_a_file_with_another_layout_is_refused(path: Path, admin: EmbeddedAdmin) -> None:
    admin.close()
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(ConfigError, match="layout 99; this streamlearn reads layout 1"):
        EmbeddedAdmin(RealEnv(), path)


def test_a_missing_folder_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"nowhere/log\.db.*its folder must exist"):
        EmbeddedAdmin(RealEnv(), tmp_path / "nowhere" / "log.db")


def test_a_folder_in_the_files_place_is_an_error_without_traceback(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="cannot be used"):
        EmbeddedAdmin(RealEnv(), tmp_path)


def test_a_read_only_file_is_named_with_the_remedy(admin: EmbeddedAdmin) -> None:
    admin._file.db.execute("PRAGMA query_only = ON")  # the root user may write any file: SQLite may not
    with pytest.raises(Unreachable, match=r"log\.db.*writable for this user"):
        admin.append("events", producer_records(b"a"))


def test_a_full_disk_stops_and_has_written_nothing(admin: EmbeddedAdmin, shard: EmbeddedShardLog) -> None:
    pages = shard._file.db.execute("PRAGMA page_count").fetchone()[0]
    shard._file.db.execute(f"PRAGMA max_page_count = {pages + 10}")
    with pytest.raises(Stop, match=r"log\.db.*disk is full and nothing of this transaction was written"):
        shard.publish(entry(0), [prediction(b"x" * ONE_MB)], {})
    assert bounds(admin, "predictions") == bounds(admin, "app.journal") == (0, 0)
    shard.publish(entry(0), [prediction(b"small")], {})


class FailingDisk:
    """A connection on which one kind of statement raises what SQLite raises when the disk fails under it."""

    def __init__(self, db: sqlite3.Connection, statement: str, code: int) -> None:
        self._db = db
        self._statement = statement
        self._code = code

    def __getattr__(self, name: str) -> object:
        return getattr(self._db, name)

    def execute(self, sql: str, *args: object) -> sqlite3.Cursor:
        if sql.startswith(self._statement):
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = self._code
            raise error
        return self._db.execute(sql, *args)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("statement", "code", "raised"),
    [
        ("COMMIT", sqlite3.SQLITE_IOERR_FSYNC, Unknown),
        ("COMMIT", sqlite3.SQLITE_FULL, Stop),
        ("UPDATE", sqlite3.SQLITE_IOERR_WRITE, Stop),
    ],
)
def test_only_a_failing_disk_inside_the_commit_leaves_the_outcome_unknown(
    shard: EmbeddedShardLog, statement: str, code: int, raised: type[Exception]
) -> None:
    db = shard._file.db
    shard._file.db = FailingDisk(db, statement, code)  # type: ignore[assignment]
    with pytest.raises(raised):
        shard.publish(entry(0), [], {})
    assert not db.in_transaction
    shard._file.db = db
    shard.publish(entry(0), [], {})


def test_a_lock_that_is_never_released_is_an_error_that_says_so(path: Path, shard: EmbeddedShardLog) -> None:
    shard._file.db.execute("PRAGMA busy_timeout = 10")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unreachable, match="write lock"):
        shard.publish(entry(0), [], {})
    other.close()
    shard.publish(entry(0), [], {})


def test_a_new_file_has_new_topic_ids(tmp_path: Path) -> None:
    ids = set()
    for name in ("one.db", "two.db"):
        admin = EmbeddedAdmin(RealEnv(), tmp_path / name)
        admin.create([TopicSpec("events", 1)])
        ids.add(admin.topics(["events"])["events"].id)
        admin.close()
    assert len(ids) == 2


@pytest.mark.parametrize(
    "spec",
    [
        TopicSpec("", 1),
        TopicSpec("a/b", 1),
        TopicSpec("a" * 250, 1),
        TopicSpec("a", 0),
        TopicSpec("a", 1, {"retention.ms": "7d"}),
    ],
)
def test_a_topic_that_kafka_would_refuse_is_refused(admin: EmbeddedAdmin, spec: TopicSpec) -> None:
    with pytest.raises(ConfigError):
        admin.create([TopicSpec("fine", 1), spec])
    assert "fine" not in admin.topic_names()


def test_a_topic_or_partition_that_is_not_there_is_named(admin: EmbeddedAdmin) -> None:
    with pytest.raises(ConfigError, match="no topic 'evnets'"):
        admin.append("evnets", producer_records(b"a"))
    with pytest.raises(ConfigError, match="1 partitions, so no partition 3"):
        admin.append("events", [ProducerRecord(None, b"a", (), 3)])
    with pytest.raises(ConfigError, match="no topic 'evnets'"):
        admin.poll({("evnets", 0): 0}, 1, 0.0)


def test_offsets_are_contiguous_also_across_large_records(admin: EmbeddedAdmin) -> None:
    admin.append("events", producer_records(*[b"x" * (ONE_MB // 3)] * 10, *[b"small"] * 1000))
    admin.append("events", producer_records(b"last"))
    position, found = 0, []
    while position < 1011:
        found += admin.poll({("events", 0): position}, 100, 0.0).records["events", 0]
        position = found[-1].offset + 1
    assert [record.offset for record in found] == list(range(1011))
    (largest,) = admin._file.db.execute("SELECT max(length(records)) FROM packs").fetchone()
    assert largest <= ONE_MB, "what a poll decodes at once is bounded"
    assert [len(record.value or b"") for record in found] == [ONE_MB // 3] * 10 + [5] * 1000 + [4]


def test_poll_stops_after_the_record_that_passes_max_bytes(
    admin: EmbeddedAdmin, shard: EmbeddedShardLog
) -> None:
    admin.append("events", producer_records(*[b"x" * 100] * 50))
    for max_bytes, count in [(1, 1), (100, 1), (101, 2), (1000, 10), (1001, 11), (ONE_MB, 50)]:
        fetched = shard.poll({("events", 0): 0}, 1000, max_bytes, 0.0)
        assert len(fetched.records["events", 0]) == count
        assert bool(fetched.behind) == (count < 50)


def test_each_waiting_partition_gets_its_share_of_a_poll(admin: EmbeddedAdmin) -> None:
    admin.create([TopicSpec("wide", 3)])
    admin.append("wide", producer_records(*[b"x"] * 300))
    start = {("wide", partition): 0 for partition in range(3)}
    shares = admin.poll(start, 10, 0.0).records
    assert sorted(len(records) for records in shares.values()) == [3, 3, 4]
    served = [set(admin.poll(start, 1, 0.0).records) for _ in range(3)]
    assert set.union(*served) == set(start), "with less than one each they take turns"


def test_rows_without_a_key_take_turns_across_appends(admin: EmbeddedAdmin) -> None:
    admin.create([TopicSpec("wide", 3)])
    for _ in range(9):
        admin.append("wide", producer_records(b"x"))
    assert admin.topics(["wide"])["wide"].end == (3, 3, 3)


def test_timestamps_do_not_follow_a_clock_that_is_set_back(admin: EmbeddedAdmin, clock: Clock) -> None:
    admin.append("events", producer_records(b"a"))
    clock.ms -= 5000
    admin.append("events", producer_records(b"b"))
    found = admin.poll({("events", 0): 0}, 10, 0.0).records["events", 0]
    assert [record.timestamp_ms for record in found] == [clock.ms + 5000] * 2


def test_one_leap_of_a_clock_is_not_for_ever(admin: EmbeddedAdmin, clock: Clock) -> None:
    begun_ms, day_ms = clock.ms, 86_400_000
    for ahead_ms in (0, 400 * day_ms, 0, -5000, 10):
        clock.ms = begun_ms + ahead_ms
        admin.append("events", producer_records(b"a", b"b"))
    found = admin.poll({("events", 0): 0}, 99, 0.0).records["events", 0]
    seen = [record.timestamp_ms - begun_ms for record in found[::2]]
    assert seen == [0, 400 * day_ms, 0, 0, 10]
    assert admin.offsets_at("events", begun_ms + 10)[0] in (2, 8)


# The journal


def test_an_entry_out_of_sequence_is_refused_and_leaves_nothing(
    admin: EmbeddedAdmin, shard: EmbeddedShardLog
) -> None:
    shard.publish(entry(0), [], {})
    for seq in (0, 2):
        with pytest.raises(AssertionError):
            shard.publish(entry(seq), [prediction(b"no")], {})
    assert bounds(admin, "predictions") == (0, 0)
    shard.publish(entry(1), [], {})


def test_an_entry_that_cannot_be_read_stops_and_names_it(admin: EmbeddedAdmin, log: EmbeddedLog) -> None:
    admin.append("app.journal", producer_records(b"not an entry"))
    with pytest.raises(Stop, match=r"entry 0 of app\.journal"):
        log.open(0)


def test_a_journal_that_does_not_exist_is_a_configuration_error(path: Path) -> None:
    log = EmbeddedLog(RealEnv(), NAMES, path, retention_s=100)
    with pytest.raises(ConfigError, match=r"no topic 'app\.journal'.*topics ensure"):
        log.open(0)
    log.close()


def test_positions_are_remembered_at_a_trim_as_a_witness(log: EmbeddedLog, shard: EmbeddedShardLog) -> None:
    assert shard.seen == {}
    shard.publish(entry(0), [], {("events", 0): 7})
    shard.trim(0)
    assert log.open(0).seen == {("events", 0): 7}


# Ownership


def test_a_second_service_gets_the_shard_at_once_and_the_first_waits(
    path: Path, log: EmbeddedLog, shard: EmbeddedShardLog, clock: Clock
) -> None:
    second = EmbeddedLog(RealEnv(), NAMES, path, retention_s=100)
    assert second.owned(0) == {0}
    second.open(0)
    assert log.owned(0) == frozenset()
    clock.ms += embedded.SILENT_MS
    assert second.owned(0) == {0}  # this is its heartbeat
    clock.ms += embedded.SILENT_MS
    assert log.owned(0) == frozenset()
    clock.ms += 1
    assert log.owned(0) == {0}
    second.close()


def test_a_file_from_before_the_lock_was_named_by_the_journal_keeps_its_witness(
    path: Path, log: EmbeddedLog, shard: EmbeddedShardLog
) -> None:
    shard.publish(entry(0), [], {("events", 0): 7})
    shard.trim(0)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE owners SET app = 'app'")
    second = EmbeddedLog(RealEnv(), NAMES, path, retention_s=100)
    opened = second.open(0)
    assert opened.seen == {("events", 0): 7}
    with pytest.raises(Fenced, match=r"shard 0 of app\.journal was taken over by app on "):
        shard.publish(entry(1), [], {})
    second.close()


def test_a_fenced_service_takes_over_at_once_when_the_other_closes(
    path: Path, log: EmbeddedLog, shard: EmbeddedShardLog
) -> None:
    second = EmbeddedLog(RealEnv(), NAMES, path, retention_s=100)
    second.open(0)
    assert log.owned(0) == frozenset()
    second.close()
    assert log.owned(0) == {0}


def test_a_fenced_owner_neither_trims_nor_gives_away_what_it_lost(
    path: Path, admin: EmbeddedAdmin, log: EmbeddedLog, shard: EmbeddedShardLog
) -> None:
    shard.publish(entry(0), [], {})
    shard.publish(entry(1), [], {})
    second, third = (EmbeddedLog(RealEnv(), NAMES, path, retention_s=100) for _ in range(2))
    newer = second.open(0)
    shard.trim(1)
    assert bounds(admin, "app.journal") == (0, 2)
    third.open(0)
    second.close()
    with pytest.raises(Fenced):
        shard.publish(entry(2), [], {})
    assert log.owned(0) == frozenset(), "the third owner is there, whatever the second one closed"
    assert newer.end == entry(1)
    third.close()


# Retention


def test_retention_takes_old_records_but_never_input_that_a_checkpoint_may_need(
    admin: EmbeddedAdmin, shard: EmbeddedShardLog, clock: Clock
) -> None:
    admin.append("events", producer_records(b"a", b"b"))
    shard.publish(entry(0), [prediction(b"a")], {("events", 0): 1})
    clock.ms += 200_000
    admin.append("events", producer_records(b"c"))
    shard.publish(entry(1), [prediction(b"b")], {("events", 0): 2})
    shard.trim(0)
    assert bounds(admin, "predictions") == (1, 2)
    assert bounds(admin, "events") == (0, 3), (
        "no checkpoint was made since the first trim could tell where it is"
    )
    shard.trim(0)
    assert bounds(admin, "events") == (2, 3)
    clock.ms += 200_000
    shard.trim(0)
    assert bounds(admin, "events") == (2, 3), "nobody has stepped the third event yet"
    assert bounds(admin, "app.journal") == (0, 2)
    with pytest.raises(Gone):
        list(shard.read(Range("events", 0, 0, 3)))
    admin.append("events", producer_records(b"d"))
    assert bounds(admin, "events") == (2, 4)


def test_offsets_go_on_after_everything_was_deleted(
    admin: EmbeddedAdmin, shard: EmbeddedShardLog, clock: Clock
) -> None:
    shard.publish(entry(0), [prediction(b"a")] * 1000, {})
    clock.ms += 200_000
    shard.trim(0)
    assert bounds(admin, "predictions") == (1000, 1000)
    assert admin.offsets_at("predictions", 0) == (1000,)
    shard.publish(entry(1), [prediction(b"b")], {})
    assert bounds(admin, "predictions") == (1000, 1001)


def test_a_topics_own_retention_goes_before_the_configured_one(
    admin: EmbeddedAdmin, shard: EmbeddedShardLog, clock: Clock
) -> None:
    admin.create(
        [
            TopicSpec("short", 1, {"retention.ms": "10"}),
            TopicSpec("for.ever", 1, {"retention.ms": "-1"}),
            TopicSpec("compacted", 1, {"cleanup.policy": "compact"}),
        ]
    )
    for topic in ("short", "for.ever", "compacted"):
        admin.append(topic, producer_records(b"a"))
    clock.ms += 20
    shard.trim(0)
    assert bounds(admin, "short") == (1, 1)
    clock.ms += 10**9
    shard.trim(0)
    assert bounds(admin, "for.ever") == bounds(admin, "compacted") == (0, 1)


def test_retention_spares_the_input_of_every_application_in_the_file(
    path: Path, admin: EmbeddedAdmin, shard: EmbeddedShardLog, clock: Clock
) -> None:
    admin.create([TopicSpec("a.journal", 1, {"retention.ms": "-1"})])
    other = EmbeddedLog(
        RealEnv(),
        TopicNames("a", "", ("events",), {"predictions": "predictions", "journal": "a.journal"}),
        path,
        100,
    )
    other.open(0)
    admin.append("events", producer_records(b"a"))
    shard.publish(entry(0), [], {("events", 0): 1})
    clock.ms += 200_000
    shard.trim(0)
    shard.trim(0)
    assert bounds(admin, "events") == (0, 1)
    other.close()


def test_the_write_ahead_log_stays_small(path: Path, admin: EmbeddedAdmin, shard: EmbeddedShardLog) -> None:
    position = 0
    for seq in range(200):
        admin.append("events", producer_records(*[b"x" * 1000] * 200))
        fetched = shard.poll({("events", 0): position}, 1000, ONE_MB, 0.0)
        position = fetched.records["events", 0][-1].offset + 1
        shard.publish(entry(seq), [prediction(b"y" * 1000)] * 200, {("events", 0): position})
    assert path.stat().st_size > 60 * ONE_MB
    assert Path(f"{path}-wal").stat().st_size < 16 * ONE_MB


# Processes


def in_children(task: Callable[..., None], *argument_lists: tuple[object, ...]) -> list[int | None]:
    children = [get_context("spawn").Process(target=task, args=args) for args in argument_lists]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    return [child.exitcode for child in children]


def die_at_commit(path: Path) -> None:
    log = EmbeddedLog(RealEnv(), NAMES, path, retention_s=100)
    shard = log.open(0)

    def kill(statement: str) -> None:
        if statement == "COMMIT":
            os.kill(os.getpid(), signal.SIGKILL)

    shard.publish(entry(0), [prediction(b"kept")], {})
    shard._file.db.set_trace_callback(kill)
    shard.publish(entry(1), [prediction(b"lost" * 1000)] * 5000, {})


def test_a_process_killed_at_the_commit_leaves_nothing(
    path: Path, admin: EmbeddedAdmin, log: EmbeddedLog
) -> None:
    assert in_children(die_at_commit, (path,)) == [-signal.SIGKILL]
    assert bounds(admin, "predictions") == (0, 1)
    shard = log.open(0)
    assert shard.end == entry(0)
    shard.publish(entry(1), [prediction(b"next")], {})
    assert bounds(admin, "predictions") == (0, 2)


def make_and_append(path: Path, writer: int) -> None:
    admin = EmbeddedAdmin(RealEnv(), path)
    admin.create([TopicSpec("events", 1)])
    for number in range(100):
        admin.append("events", producer_records(b"%d %d" % (writer, number)))
    admin.close()


def test_processes_that_make_and_fill_one_file_at_once_all_succeed(path: Path) -> None:
    assert in_children(make_and_append, *[(path, writer) for writer in range(4)]) == [0, 0, 0, 0]
    admin = EmbeddedAdmin(RealEnv(), path)
    found = admin.poll({("events", 0): 0}, 1000, 0.0).records["events", 0]
    for writer in range(4):
        mine = [r.value for r in found if r.value and r.value.startswith(b"%d " % writer)]
        assert mine == [b"%d %d" % (writer, number) for number in range(100)]
    admin.close()
