"""Which checkpoints stay, which go, and what becomes of a write that fails."""

import hashlib
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.core.journal import Checkpoint, Entry, Era
from streamlearn.core.shard.snapshot import Header, open_header, unseal
from streamlearn.engine.checkpoints import REDO_S, WORK_PER_COST, BlobName, Checkpointer, to_drop
from streamlearn.env import RealEnv
from streamlearn.errors import BadCheckpoint, Unreachable
from streamlearn.log.background_store import BackgroundStore

ERA = Era("genesis", {}, "h", "v", 1, {}, {}, [], "f")
SECTIONS = {"model": b"model", "memory": b"{}"}


class Shelf:
    """Blobs in memory that can be told to fail."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.failure: Exception | None = None
        self.cannot_forget: Exception | None = None

    def names(self) -> list[str]:
        return sorted(self.kept)

    def seqs(self) -> list[int]:
        return [int(name[:12]) for name in self.names()]

    def read(self, name: str, where: str = "") -> bytes:
        if name not in self.kept:
            raise BadCheckpoint("gone")
        return self.kept[name]

    def write(self, name: str, data: bytes | bytearray) -> str:
        if self.failure is not None:
            raise self.failure
        assert name not in self.kept, "nobody uses a name twice"
        self.kept[name] = bytes(data)
        return "here"

    def forget(self, blobs: Mapping[str, str]) -> None:
        if self.cannot_forget is not None:
            raise self.cannot_forget
        for name in blobs:
            self.kept.pop(name, None)

    def close(self) -> None: ...


def header(seq: int, position: int = 0) -> Header:
    return Header(seq, "ab" * 32, 0, ERA, [("t", 0, position)], 0)


class Owner:
    """A checkpointer, and a journal that commits what it is told at once."""

    def __init__(
        self, shelf: Shelf, keep: int = 2, interval_s: float = 0.0, key: bytes = b"", claim: int = 0,
        kept: list[Checkpoint] | None = None,
    ) -> None:  # fmt: skip
        self.store = BackgroundStore(RealEnv(), shelf)
        birth = BlobName(0, "journal", 0, claim, 0)
        self.kept = kept or []
        self.subject = Checkpointer(RealEnv(), self.store, birth, self.kept, interval_s, keep, key)
        self.subject.begins(None, self.kept[-1].seq if self.kept else None)
        self.oldest_seq: int | None = None

    def write(self, seq: int, position: int = 0, start: int = 0, dumped_s: float = 0.5) -> None:
        """Write the state at entry `seq`, and name it in the next one."""
        self.subject.write(header(seq, position), SECTIONS, {("t", 0): start}, dumped_s)
        self.subject.wait()
        self.subject.collect()
        self.name(seq + 1)

    def name(self, seq: int) -> None:
        if self.subject.has_unnamed:
            entry = Entry(seq, 0, "ab" * 32, checkpoints=self.subject.to_name(), named=seq)
            self.kept = entry.checkpoints
            self.subject.named(entry)
            self.oldest_seq = self.subject.oldest_needed()

    def seqs(self) -> list[int]:
        return [one.seq for one in self.kept]


SEQS = st.lists(st.integers(0, 10**6), unique=True, max_size=60).map(sorted)


@given(SEQS, st.integers(1, 8))
def test_the_newest_stay_and_the_older_ones_thin_out_with_age(seqs: list[int], keep: int) -> None:
    drop = to_drop(seqs, keep)
    kept = [seq for seq in seqs if seq not in drop]
    assert len(drop) == len(set(drop)) == len(seqs) - len(kept)
    assert kept[-keep:] == seqs[-keep:]
    ages = [(seqs[-1] - seq).bit_length() for seq in kept[:-keep]]
    assert len(ages) == len(set(ages))
    assert kept[:1] == seqs[:1]


def test_over_a_long_life_few_are_kept_and_the_oldest_is_old() -> None:
    seqs: list[int] = []
    for seq in range(2000):
        seqs.append(seq)
        dropped = set(to_drop(seqs, 5))
        seqs = [seq for seq in seqs if seq not in dropped]
        assert len(seqs) <= 5 + 12
    assert seqs[0] == 0


@given(
    st.builds(
        BlobName,
        st.integers(0, 10**12 - 1),
        st.from_regex(r"[A-Za-z0-9_-]{1,32}", fullmatch=True),
        st.integers(0, 99),
        st.integers(0, 10**9),
        st.integers(0, 10**9),
    )
)
def test_a_name_says_what_it_was_made_from(name: BlobName) -> None:
    assert BlobName.parse(name.text) == name


def test_a_checkpoint_is_written_whole_and_named_with_its_hash() -> None:
    shelf = Shelf()
    owner = Owner(shelf, key=b"k", claim=7)
    owner.write(42, position=7)
    ((name, data),) = shelf.kept.items()
    assert BlobName.parse(name) == BlobName(42, "journal", 0, 7, 1)
    assert owner.kept == [
        Checkpoint(42, "ab" * 32, name, len(data), hashlib.sha256(data).hexdigest(), "here")
    ]
    assert owner.oldest_seq == 42
    found, sections = unseal(data, b"k")
    assert (found.seq, found.next_offsets(), sections) == (42, {("t", 0): 7}, SECTIONS)


def test_what_no_entry_names_any_more_goes_with_the_next_write() -> None:
    shelf = Shelf()
    owner = Owner(shelf, keep=1)
    seen = []
    for seq in (1, 2, 3, 4, 5):
        owner.write(seq)
        seen.append((owner.seqs(), shelf.seqs()))
    assert seen[-2:] == [([1, 3, 4], [1, 2, 3, 4]), ([1, 3, 4, 5], [1, 3, 4, 5])]


def test_nothing_is_forgotten_whose_successor_was_not_named() -> None:
    shelf = Shelf()
    owner = Owner(shelf, keep=1)
    for seq in (1, 2):
        owner.write(seq)
    for seq in (3, 4):  # written, and the entry that would name it never comes
        owner.subject.write(header(seq), SECTIONS, {}, 0.0)
        owner.subject.wait()
        owner.subject.collect()
    assert shelf.seqs() == [1, 2, 3, 4]
    owner.name(5)
    assert owner.seqs() == [1, 3, 4]
    assert shelf.seqs() == [1, 2, 3, 4]
    owner.write(6)
    assert 2 not in shelf.seqs()


def test_what_could_not_be_forgotten_is_tried_again() -> None:
    shelf = Shelf()
    owner = Owner(shelf, keep=1)
    for seq in (1, 2, 3):
        owner.write(seq)
    shelf.cannot_forget = Unreachable("no broker")
    owner.write(4)
    assert (owner.seqs(), owner.subject.failure) == ([1, 3, 4], "")
    assert shelf.seqs() == [1, 2, 3, 4]
    shelf.cannot_forget = None
    owner.write(5)
    assert 2 not in shelf.seqs()


def test_unnamed_blobs_of_older_claims_are_swept_and_no_others() -> None:
    shelf = Shelf()
    owner = Owner(shelf, claim=3)
    owner.write(5)
    kept = [BlobName(5, "journal", 0, 3, 1), BlobName(9, "journal", 0, 5, 1), BlobName(8, "journal", 1, 3, 1)]
    others = ["copy-of-it", BlobName(8, "another", 0, 3, 1).text, "000000000007", *(n.text for n in kept)]
    zombie = BlobName(8, "journal", 0, 3, 2).text
    shelf.kept |= {name: shelf.kept.get(name, b"junk") for name in (*others, zombie)}
    next_owner = Owner(shelf, claim=4, kept=owner.kept)
    assert zombie in shelf.kept
    next_owner.write(10)
    assert set(shelf.kept) == {*others, BlobName(10, "journal", 0, 4, 1).text}


def test_those_after_which_the_input_is_gone_are_dropped_but_never_the_newest() -> None:
    shelf = Shelf()
    owner = Owner(shelf)
    for seq in (1, 2):
        owner.write(seq, position=seq * 10)
    owner = Owner(shelf, keep=9, claim=1, kept=owner.kept)  # knows 1 and 2 by their headers
    owner.write(3, position=30, start=20)
    assert owner.seqs() == [2, 3]
    assert owner.oldest_seq == 2
    owner = Owner(shelf, keep=9, claim=2, kept=owner.kept)
    owner.write(4, position=40, start=99)
    assert owner.seqs() == [4]


def test_one_that_cannot_be_read_is_kept_for_a_look_because_only_the_key_may_be_wrong() -> None:
    shelf = Shelf()
    owner = Owner(shelf)
    owner.write(1)
    (name,) = shelf.kept
    shelf.kept[name] = b"garbage"
    owner = Owner(shelf, claim=1, kept=owner.kept)
    owner.write(2)
    assert owner.seqs() == shelf.seqs() == [1, 2]


def test_checkpoints_in_another_hosts_folder_are_kept_beside_ones_own() -> None:
    here, there = Shelf(), Shelf()
    owner = Owner(there, keep=1)
    owner.write(1)
    owner = Owner(here, keep=1, claim=1, kept=owner.kept)
    for seq in (5, 6, 7, 8):
        owner.write(seq)
    assert owner.seqs() == [1, 5, 7, 8]
    assert there.seqs() == [1]


@pytest.mark.parametrize("failure", [OSError("disk full"), Unreachable("no broker")])
def test_a_failed_write_keeps_the_old_ones_and_is_tried_again(failure: Exception) -> None:
    shelf = Shelf()
    owner = Owner(shelf, keep=1)
    owner.write(1)
    shelf.failure = failure
    owner.write(2)
    assert (owner.seqs(), owner.subject.failure) == ([1], str(failure))
    assert shelf.seqs() == [1]
    shelf.failure = None
    assert owner.subject.due(2, 0.0)
    owner.write(2)
    assert (owner.seqs(), owner.subject.failure) == ([1, 2], "")
    assert open_header(shelf.kept[owner.kept[-1].name]).seq == 2


def test_one_is_due_after_the_interval_and_only_when_the_state_went_on() -> None:
    assert not Owner(Shelf(), interval_s=3600).subject.due(5, 0.0)
    owner = Owner(Shelf())
    assert owner.subject.due(5, 0.0)
    owner.write(5)
    assert not owner.subject.due(5, 0.0)
    assert owner.subject.covers(5)
    assert owner.subject.due(6, 0.0)
    assert not owner.subject.covers(6)


def test_a_state_that_a_named_checkpoint_holds_already_needs_no_other() -> None:
    shelf = Shelf()
    owner = Owner(shelf)
    owner.write(5)
    assert not Owner(shelf, claim=1, kept=owner.kept).subject.due(5, 1000.0)


def test_much_work_makes_one_due_before_its_time_unless_checkpoints_cost_too_much() -> None:
    owner = Owner(Shelf(), interval_s=3600)
    assert owner.subject.due(5, REDO_S)
    owner.write(5)  # which cost the loop half a second
    assert not owner.subject.due(6, REDO_S)
    assert not owner.subject.due(6, 0.5 * WORK_PER_COST)
    assert owner.subject.due(6, 1000.0)


def test_what_an_ownership_before_had_begun_to_write_is_named_by_nobody() -> None:
    shelf = Shelf()
    first = Owner(shelf)
    first.subject.write(header(5), SECTIONS, {}, 0.0)
    second = Owner(shelf, claim=1)
    second.store = first.store
    second.subject._store = first.store
    second.subject.collect()
    second.write(7)
    assert second.seqs() == [7]
    assert 7 in shelf.seqs()
