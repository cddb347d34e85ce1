"""A record that kills the process: found by trying records one by one, each with a note in the journal.

What kills a process (memory, a fault in native code) leaves no error behind: only owners that claimed the
shard and wrote no entry. After `CLAIMS` of them records go one by one, and the journal has an attempt before
each. A record that was attempted `ATTEMPTS` times becomes a dead letter of the stage `crash`, unseen by
decoder and model.

Invariants:
- Nobody is convicted by kills that had other reasons, unless each came while this very record was tried.
- All that decides stands in the journal: the processes in question are dead.
"""

from collections.abc import Mapping
from typing import Final

import structlog

from streamlearn.core.journal import Entry
from streamlearn.core.records import CRASH_STAGE, Record, RecordPlace, Skip
from streamlearn.errors import Stop
from streamlearn.log.port import ShardLog

log = structlog.get_logger()

CLAIMS: Final = 3
ATTEMPTS: Final = 3
LETTERS: Final = 3
LETTERS_WITHIN: Final = 1_000
"""So many records that killed the process, within so many records, are no matter of records."""


class OneByOne:
    """Which records of one ownership go alone: the next `limit` after owners that ended without an entry."""

    def __init__(self, shard_log: ShardLog, limit: int) -> None:
        self._log = shard_log
        self._opened_at = -1 if shard_log.end is None else shard_log.end.seq
        unfinished = shard_log.unfinished
        self._attempts: Mapping[RecordPlace, int] = unfinished.attempts
        self._left = limit if unfinished.claims >= CLAIMS or unfinished.attempts else 0
        if self._left:
            log.warning(
                "records.one_by_one",
                claims=unfinished.claims,
                attempts=sum(unfinished.attempts.values()),
                records=limit,
                reason="the processes before this one ended without an entry: a record may kill them",
            )

    @property
    def is_on(self) -> bool:
        """True while the next record goes alone."""
        return self._left > 0

    def most(self, records: int) -> int:
        """How many of so many records go together next."""
        return 1 if self.is_on else records

    def release(self, seq: int) -> None:
        """Note that this ownership ends in order at entry `seq`, where no entry of it says so."""
        if seq == self._opened_at:
            self._log.release()

    def try_alone(self, record: Record) -> Skip | None:
        """Note the attempt at a record; or how to leave it out, if it was tried often enough."""
        self._left -= 1
        record_place = record.place
        tries = self._attempts.get(record_place, 0)
        if tries < ATTEMPTS:
            self._log.attempt(record_place)
            return None
        log.error(
            "record.crashed",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            attempts=tries,
            action="it becomes a dead letter",
        )
        return Skip(*record_place, CRASH_STAGE, "process_died")


def check_crashes(shard_log: ShardLog, entry: Entry) -> None:
    """After an entry that leaves out a record that killed the process: raise `Stop` when such records are too
    many to be the records' fault.
    """
    if all(skip.stage != CRASH_STAGE for skip in entry.skips):
        return
    lately = _crashed_lately(shard_log, entry.seq)
    if len(lately) < LETTERS:
        return
    places = ", ".join(f"{skip.topic}-{skip.partition} at {skip.offset}" for skip in lately[-LETTERS:])
    raise Stop(
        f"{len(lately)} of the last {LETTERS_WITHIN} records killed the process {ATTEMPTS} times each "
        f"({places}); they are dead letters of the stage {CRASH_STAGE}. Look for what they have in "
        "common (`streamlearn dlq list`), for memory (the machine's log names what the kernel killed), "
        "and at the model's native code; then start again: it goes on where it stopped."
    )


def _crashed_lately(shard_log: ShardLog, seq: int) -> list[Skip]:
    """Those of the last `LETTERS_WITHIN` records up to entry `seq` that killed the process, in order."""
    after = max(seq - LETTERS_WITHIN, shard_log.first_seq() - 1)
    crashed: list[tuple[int, Skip]] = []
    records = 0
    for past in shard_log.entries(after):
        records += sum(run.next - run.first for run in past.ranges)
        crashed += [(records, skip) for skip in past.skips if skip.stage == CRASH_STAGE]
    return [skip for number, skip in crashed if number > records - LETTERS_WITHIN]
