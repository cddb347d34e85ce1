"""Which checkpoints stay, which go, and what becomes of a write that fails."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.core.records import Era
from streamlearn.core.shard.snapshot import Header, open_header, unseal
from streamlearn.engine.checkpoints import REDO_S, WORK_PER_COST, Checkpointer, name_of, to_drop
from streamlearn.env import RealEnv
from streamlearn.errors import BadCheckpoint, Unreachable

ERA = Era("genesis", {}, "h", "v", 1, {}, {}, [], "f")
SECTIONS = {"champion": b"model", "memory": b"{}"}


class Shelf:
    """A store in memory that can be told to fail."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.failure: Exception | None = None

    def names(self) -> list[str]:
        return sorted(self.kept)

    def read(self, name: str) -> bytes:
        if name not in self.kept:
            raise BadCheckpoint("gone")
        return self.kept[name]

    def write(self, name: str, data: bytes, drop: Sequence[str]) -> None:
        if self.failure is not None:
            raise self.failure
        self.kept[name] = data
        for old in drop:
            self.kept.pop(old, None)

    def close(self) -> None: ...


def header(seq: int, position: int = 0) -> Header:
    return Header(seq, "ab" * 32, 0, ERA, [("t", 0, position)], 0)


def checkpointer(shelf: Shelf, keep: int = 2, interval_s: float = 0.0, key: bytes = b"") -> Checkpointer:
    return Checkpointer(RealEnv(), shelf, interval_s, keep, key)


def write(subject: Checkpointer, seq: int, position: int = 0, start: int = 0) -> list[Any]:
    subject.write(header(seq, position), SECTIONS, {("t", 0): start}, dumped_s=0.5)
    subject.wait()
    return subject.collect()


SEQS = st.lists(st.integers(0, 10**6), unique=True, max_size=60).map(sorted)


@given(SEQS, st.integers(1, 8))
def test_the_newest_stay_and_the_older_ones_thin_out_with_age(seqs: list[int], keep: int) -> None:
    names = [name_of(seq) for seq in seqs]
    drop = to_drop(names, keep)
    kept = [int(name) for name in names if name not in drop]
    assert len(drop) == len(set(drop)) == len(names) - len(kept)
    assert kept[-keep:] == seqs[-keep:]
    ages = [(seqs[-1] - seq).bit_length() for seq in kept[:-keep]]
    assert len(ages) == len(set(ages))
    assert kept[:1] == seqs[:1]


def test_over_a_long_life_few_are_kept_and_the_oldest_is_old() -> None:
    names: list[str] = []
    for seq in range(2000):
        names.append(name_of(seq))
        dropped = set(to_drop(names, 5))
        names = [name for name in names if name not in dropped]
        assert len(names) <= 5 + 12
    assert int(names[0]) == 0


def test_a_checkpoint_is_written_whole_under_its_entrys_name() -> None:
    shelf = Shelf()
    (written,) = write(checkpointer(shelf, key=b"k"), 42, position=7)
    assert (written.seq, written.size_bytes, written.oldest_seq) == (42, len(shelf.kept[name_of(42)]), 42)
    found, sections = unseal(shelf.kept[name_of(42)], b"k")
    assert (found.seq, found.next_offsets(), sections) == (42, {("t", 0): 7}, SECTIONS)


def test_those_after_which_the_input_is_gone_are_dropped_but_never_the_newest() -> None:
    shelf = Shelf()
    for seq in (1, 2):
        write(checkpointer(shelf), seq, position=seq * 10)
    (written,) = write(
        checkpointer(shelf, keep=9), 3, position=30, start=20
    )  # knows 1 and 2 by their headers
    assert shelf.names() == [name_of(2), name_of(3)]
    assert written.oldest_seq == 2
    write(checkpointer(shelf, keep=9), 4, position=40, start=99)
    assert shelf.names() == [name_of(4)]


def test_one_that_cannot_be_read_is_kept_for_a_look_because_only_the_key_may_be_wrong() -> None:
    shelf = Shelf()
    shelf.kept[name_of(1)] = b"garbage"
    write(checkpointer(shelf), 2)
    assert shelf.names() == [name_of(1), name_of(2)]


@pytest.mark.parametrize("failure", [OSError("disk full"), Unreachable("no broker")])
def test_a_failed_write_keeps_the_old_ones_and_is_tried_again(failure: Exception) -> None:
    shelf = Shelf()
    subject = checkpointer(shelf, keep=1)
    write(subject, 1)
    shelf.failure = failure
    assert write(subject, 2) == []
    assert shelf.names() == [name_of(1)]
    shelf.failure = None
    assert subject.due(2, 0.0)
    assert [one.seq for one in write(subject, 2)] == [2]
    assert open_header(shelf.kept[name_of(2)]).seq == 2


def test_one_is_due_after_the_interval_and_only_when_the_journal_went_on() -> None:
    assert not checkpointer(Shelf(), interval_s=3600).due(5, 0.0)
    subject = checkpointer(Shelf())
    assert subject.due(5, 0.0)
    write(subject, 5)
    assert not subject.due(5, 0.0)
    assert subject.due(6, 0.0)


def test_much_work_makes_one_due_before_its_time_unless_checkpoints_cost_too_much() -> None:
    subject = checkpointer(Shelf(), interval_s=3600)
    assert subject.due(5, REDO_S)
    write(subject, 5)  # which cost the loop half a second
    assert not subject.due(6, REDO_S)
    assert not subject.due(6, 0.5 * WORK_PER_COST)
    assert subject.due(6, 1000.0)


def test_the_same_entry_twice_is_one_checkpoint() -> None:
    shelf = Shelf()
    subject = checkpointer(shelf)
    write(subject, 5)
    (written,) = write(subject, 5)
    assert (shelf.names(), written.oldest_seq) == ([name_of(5)], 5)


def test_nothing_is_written_behind_a_newer_checkpoint_that_is_whole() -> None:
    shelf = Shelf()
    (newer,) = write(checkpointer(shelf), 9)
    late = checkpointer(shelf)
    assert write(late, 3) == []
    assert "is newer: another process has gone on" in late.failure
    assert sorted(shelf.kept) == [name_of(newer.seq)]
    shelf.kept[name_of(99)] = b"junk"
    assert [written.seq for written in write(late, 10)] == [10]
