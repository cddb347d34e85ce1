"""The ranges of an entry, written small where partitions take turns.

Two evenly filled partitions make a range of nearly every record. Such ranges are a few numbers each: which
partition, and how many offsets; all else follows from the turns before.

Invariant: `unpacked(packed(ranges)) == ranges` for every list that `packed` packs.
"""

import zlib
from collections.abc import Sequence
from typing import Final

import msgspec

from streamlearn.core.records import Range

FEW: Final = 16
"""So many ranges are written as they are, for people."""
_MAX_BYTES: Final = 1 << 24


class Turns(msgspec.Struct, frozen=True):
    """Ranges of partitions that take turns.

    Attributes:
        partitions: Topic, partition and the first offset, in the order of their first turns.
        runs: zlib over numbers of seven bits a byte, the low ones first. For each turn: twice the index of
            its partition, plus 1 where offsets were left out before it, and then how many; and how many it
            covers.

    Example:
        >>> ranges = [Range("events", n % 2, n // 2, n // 2 + 1) for n in range(1000)]
        >>> turns = packed(ranges)
        >>> turns.partitions, len(turns.runs) < 100, unpacked(turns) == ranges
        ([('events', 0, 0), ('events', 1, 0)], True, True)
    """

    partitions: list[tuple[str, int, int]]
    runs: bytes


def packed(ranges: Sequence[Range]) -> Turns | None:
    """The ranges as turns; None where that would not be smaller, or a partition goes back in its offsets."""
    if len(ranges) <= FEW:
        return None
    indices: dict[tuple[str, int], int] = {}
    partitions: list[tuple[str, int, int]] = []
    ends: list[int] = []
    numbers: list[int] = []
    for topic, partition, first, after in ranges:
        index = indices.get((topic, partition))
        if index is None:
            index = indices[topic, partition] = len(partitions)
            partitions.append((topic, partition, first))
            ends.append(first)
        left_out = first - ends[index]
        if left_out < 0 or after <= first:
            return None
        numbers += (2 * index + 1, left_out, after - first) if left_out else (2 * index, after - first)
        ends[index] = after
    if 2 * len(partitions) > len(ranges):
        return None
    return Turns(partitions, zlib.compress(_in_bytes(numbers), 1))


def unpacked(turns: Turns) -> list[Range]:
    """The inverse of `packed`. Raises `msgspec.ValidationError` for what it never gives."""
    try:
        numbers = iter(_numbers(turns.runs))
    except (zlib.error, ValueError) as error:
        raise msgspec.ValidationError(f"the turns of its records cannot be read: {error}") from error
    ends = [first for _, _, first in turns.partitions]
    ranges: list[Range] = []
    try:
        for number in numbers:
            topic, partition, _ = turns.partitions[number >> 1]
            first = ends[number >> 1] + (next(numbers) if number & 1 else 0)
            after = ends[number >> 1] = first + next(numbers)
            ranges.append(Range(topic, partition, first, after))
    except (IndexError, StopIteration) as error:
        raise msgspec.ValidationError("the turns of its records end early, or name no partition") from error
    return ranges


def _in_bytes(numbers: list[int]) -> bytes:
    if max(numbers) < 0x80:
        return bytes(numbers)
    result = bytearray()
    for number in numbers:
        rest = number
        while rest >= 0x80:
            result.append(rest & 0x7F | 0x80)
            rest >>= 7
        result.append(rest)
    return bytes(result)


def _numbers(runs: bytes) -> Sequence[int]:
    decompressor = zlib.decompressobj()
    data = decompressor.decompress(runs, _MAX_BYTES)
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError("they are cut off, too many, or something follows them")
    if data.isascii():
        return data
    numbers: list[int] = []
    number = shift = 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        shift = shift + 7 if byte & 0x80 else 0
        if not shift:
            numbers.append(number)
            number = 0
        elif shift > 63:
            raise ValueError("a number of them has no end")
    if shift:
        raise ValueError("the last number of them has no end")
    return numbers
