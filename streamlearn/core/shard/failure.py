"""A record that could not be stepped, as a value; and how far records in a row were stepped."""

from typing import NamedTuple

import msgspec

from streamlearn.core.records import Record, Skip
from streamlearn.errors import ModelRaised, NeedSchema


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
