"""A waiting event as a few bytes and back: features by the names that stand together, values as msgpack.

Invariants:
- `unpack(pack(event))` equals `event`: kinds of numbers, order of features, and a moment's offset from UTC.
- The table of names is bounded; events beyond it carry their own names.
"""

from typing import Any, Final

import msgspec

from streamlearn.core.events.event import as_moment
from streamlearn.core.records import RecordPlace, TopicPartition

SHAPES_MAX: Final = 4_096

PendingEvent = tuple[str, float, int, dict[str, Any], list[Any] | None, Any, RecordPlace]
"""An event that waits for its label: join key, time (ms), arrival (ms), features, captured prediction
(None where scores began after it was predicted), its `ts` as it came, and the place of its record.
"""

_pack: Final = msgspec.msgpack.Encoder(enc_hook=lambda value: value.item()).encode  # numpy's scalars
_unpack: Final = msgspec.msgpack.Decoder().decode


class _Name(msgspec.Struct, array_like=True):
    join: str
    time_ms: float


_unpack_name: Final = msgspec.msgpack.Decoder(_Name).decode


def named(data: bytes) -> tuple[str, float]:
    """The first two members of a packed event, without reading the others."""
    name = _unpack_name(data)
    return name.join, name.time_ms


class Packer:
    """`time_as`: the feature that is a moment, made again from the event's own time."""

    def __init__(self, time_as: str) -> None:
        self._time_as = time_as
        self._numbers: dict[tuple[str, ...], int] = {}
        self.names: list[tuple[str, ...]] = []
        """The table of names that stand together; packed events refer to it."""

    def pack(self, event: PendingEvent) -> bytes:
        """The event in bytes; of its place only the offset, because a lane is one partition."""
        join, time_ms, arrived_ms, x, captured, ts, (_, _, offset) = event
        names = tuple(x)
        shape: int | tuple[str, ...] | None = self._numbers.get(names)
        if shape is None:
            shape = names
            if len(self.names) < SHAPES_MAX:
                shape = self._numbers[names] = len(self.names)
                self.names.append(names)
        if self._time_as:
            values = [None if name == self._time_as else value for name, value in x.items()]
            return _pack((join, time_ms, arrived_ms, shape, values, captured, offset, ts))
        return _pack((join, time_ms, arrived_ms, shape, [*x.values()], captured, offset))

    def unpack(self, data: bytes, source: TopicPartition) -> PendingEvent:
        """The inverse of `pack`; `source` is the partition of the event."""
        join, time_ms, arrived_ms, shape, values, captured, offset, *moment = _unpack(data)
        ts = moment[0] if moment else None
        x = dict(zip(self.names[shape] if type(shape) is int else shape, values, strict=True))
        if self._time_as in x:
            x[self._time_as] = as_moment(ts, time_ms)
        return join, time_ms, arrived_ms, x, captured, ts, (*source, offset)

    def load(self, names: list[tuple[str, ...]]) -> None:
        """Take over the `names` of the packer that packed the events."""
        self.names = names
        self._numbers = {shape: number for number, shape in enumerate(names)}
