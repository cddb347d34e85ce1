"""How the journal on Kafka finds where to cut, whatever lies between its entries."""

from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streamlearn.core.journal import CLAIM_KEY, Entry, encode_entry
from streamlearn.core.records import Record
from streamlearn.log.kafka.journal import Journal

PLACE = ("j", 0)


class Partition:
    """A journal in memory, for its reader and its cluster: an entry or None, a claim, at each offset."""

    def __init__(self, seqs: list[int | None]) -> None:
        self.records = [self._record(offset, seq) for offset, seq in enumerate(seqs)]
        self.start = 0

    @staticmethod
    def _record(offset: int, seq: int | None) -> Record:
        if seq is None:
            return Record(*PLACE, offset, 0, CLAIM_KEY, b"{}")
        return Record(*PLACE, offset, 0, None, encode_entry(Entry(seq, 0, "")))

    def bounds(self, _: object) -> tuple[int, int]:
        return self.start, len(self.records)

    def between(self, _: object, first: int, upto: int) -> Iterator[Record]:
        return iter(self.records[max(first, self.start) : upto])

    def last(self, _: object, start: int, end: int, wanted: Callable[[Record], bool]) -> Record | None:
        return next((record for record in reversed(self.records[start:end]) if wanted(record)), None)

    def delete_before(self, _: object, offset: int) -> None:
        self.start = offset


def trimmed(seqs: list[int | None], before: int) -> int:
    """The first entry that is left."""
    partition: Any = Partition(seqs)
    journal = Journal(partition, partition, PLACE)
    journal.trim(before)
    return journal.first_seq()


def test_ten_thousand_claims_in_a_row_do_not_keep_a_journal_from_being_trimmed() -> None:
    claims: list[int | None] = [None] * 10_000
    assert trimmed([*range(100), *claims, 100], before=99) >= 93
    assert trimmed([0, *claims, *range(1, 101)], before=99) >= 93


@given(
    gaps=st.lists(st.integers(0, 40), min_size=1, max_size=40),
    before=st.integers(0, 60),
)
def test_what_is_needed_and_the_last_entry_are_never_trimmed(gaps: list[int], before: int) -> None:
    seqs = [item for seq, gap in enumerate(gaps) for item in (*[None] * gap, seq)]
    first = trimmed(seqs, before)
    assert first <= min(before, len(gaps) - 1)
