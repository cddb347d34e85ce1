"""Work on records that does not end with them: a record that makes the model learn many events, done a little
at a time; one that could not be stepped; and how far records in a row were stepped.

One label may be about every event that waits, and one event may be the end of a thousand. `Shard.begin` does
a part of that and leaves the rest here; `Shard.work_on` goes on.

Invariants:
- While there is work, its record has no outcome yet, and no other record is stepped.
- How much is done at a time changes no output and no bit of the state at the record's end.
- A unit is one event that is learned. `done` counts those of the whole record.
"""

from typing import NamedTuple

import msgspec

from streamlearn.core.events.event import Event, Label
from streamlearn.core.labels.record import LabelRecord
from streamlearn.core.records import Record, Skip, TopicPartition, header_name, header_name_bytes
from streamlearn.errors import ModelRaised, NeedSchema


class LabelWork(msgspec.Struct):
    """A label with more events to learn; those wait where they did, and are found by what it says, so this is
    small. A transaction may end inside it: it is a part of the state. `join`: what it named them by.
    """

    record: Record
    label: LabelRecord
    join: str
    done: int


class EventWork(msgspec.Struct):
    """An event before whose prediction others end, at most `DUE_PER_RECORD`, and learn `default` (None: as
    unlabelled). It was accepted already, so a transaction ends after it or before it, never inside.
    """

    record: Record
    event: Event
    default: Label | None
    done: int = 0

    @property
    def source(self) -> TopicPartition:
        """Topic and partition of the events that end."""
        return self.record.topic, self.record.partition


def dump_work(work: LabelWork | EventWork | None) -> bytes | None:
    """The section `work` of a checkpoint; None where there is no work."""
    if work is None:
        return None
    assert isinstance(work, LabelWork), "a transaction does not end inside an event"
    headers = [(header_name_bytes(name), content) for name, content in work.record.headers]
    plain = msgspec.structs.replace(work.record, headers=())
    return msgspec.msgpack.encode(_Saved(msgspec.structs.replace(work, record=plain), headers))


class _Saved(msgspec.Struct):
    """A label's work as bytes: names of headers need not be UTF-8, so they stand beside their record."""

    work: LabelWork
    headers: list[tuple[bytes, bytes | None]]


def load_work(data: bytes) -> LabelWork:
    """The work in that section. Raises `msgspec.MsgspecError`."""
    saved = msgspec.msgpack.decode(data, type=_Saved)
    headers = tuple((header_name(name), content) for name, content in saved.headers)
    record = msgspec.structs.replace(saved.work.record, headers=headers)
    return msgspec.structs.replace(saved.work, record=record)


class Failure(msgspec.Struct, frozen=True):
    """A record that could not be stepped: a value, to be acted on.

    Attributes:
        skip: The note of its journal entry, for `ShardDriver.leave_out`.
        cause: The model's exception; None for an answer that is no number.
        schema: The id of a schema that the registry does not have, else "".

    Example:
        >>> Failure(Skip("events", 0, 7, "decode", "schema_unknown"), schema="42").undoes
        False
    """

    skip: Skip
    cause: BaseException | None = None
    schema: str = ""

    @property
    def undoes(self) -> bool:
        """True when the state is undefined now. A record without a schema has changed nothing."""
        return not self.schema


class Ran(NamedTuple):
    """How far records in a row were stepped.

    Attributes:
        next: The index of the first record that was not stepped.
        failure: The failure of that record; None when it has none.
    """

    next: int
    failure: Failure | None = None


def failure_at(record: Record, raised: ModelRaised | NeedSchema) -> Failure:
    """The failure of a record at which the model raised, or whose schema there is not."""
    if isinstance(raised, NeedSchema):
        return Failure(Skip(*record.place, "decode", "schema_unknown"), schema=raised.ident)
    return Failure(Skip(*record.place, raised.stage, raised.reason), raised.__cause__)
