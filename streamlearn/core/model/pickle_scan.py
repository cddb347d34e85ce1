"""The instructions of a pickle, looked at before any of them is carried out.

Invariants:
- What passes holds only the instructions that `core.model.pickles` writes: plain values and containers,
  references to what came before, names, and calls, of which only those of its own tools succeed.
- None that passes makes an object, sets its state, or reaches into a table of the interpreter by itself, and
  none takes more memory than a fixed multiple of the pickle's own size.

The lengths are those of the pickle protocol, versions 4 and 5 (PEP 3154, PEP 574).
"""

import re
from typing import Final

from streamlearn.errors import BadCheckpoint

_FIXED: Final = (
    rb"[N\x88\x89\]}\x8f)(\x94\x93R0aesu\x90\x91\x85\x86\x87t1]"  # no argument
    rb"|[hK].|G.{8}|M..|[jJ].{4}|\x95.{8}"
)
_SHORT: Final = rb"|".join(rb"%s.{%d}" % (re.escape(bytes((size,))), size) for size in range(1, 25))
_RUN: Final = re.compile(rb"(?:%s|[\x8c\x8aC](?:%s|\x00))*+" % (_FIXED, _SHORT), re.DOTALL)
"""As many instructions as there are whose length is known from their first two bytes."""

_LENGTH_BYTES: Final = {
    **dict.fromkeys((0x8C, 0x8A, 0x43), 1),  # short text, integer, bytes
    **dict.fromkeys((0x58, 0x42, 0x8B), 4),  # text, bytes, integer
    **dict.fromkeys((0x8D, 0x8E, 0x96), 8),  # long text, bytes, bytearray
}
"""The instructions with a length before their argument: in how many bytes it is written."""

_BYTES_OF: Final = {0x8F: 216, 0x7D: 232, 0x5D: 88, 0x29: 8, 0x52: 300, 0x74: 64}
"""The memory of an instruction's result (set, dict, list, tuple, call) in bytes, roughly."""

FREE_BYTES: Final = 256 << 20
GROWTH: Final = 40
"""A model may take so much memory, or so many times the size of its pickle. River's take 5 to 15 times."""


def check(data: bytes) -> None:
    """Raise `BadCheckpoint` when `data` is not a pickle of the instructions above, to its last byte."""
    if data[:2] not in (b"\x80\x04", b"\x80\x05"):
        raise BadCheckpoint("its model is not a pickle of protocol 4 or 5")
    position, end = 2, len(data) - 1
    while True:
        run = _RUN.match(data, position)
        assert run is not None, "the pattern matches nothing as well"
        position = run.end()
        if position >= end:
            break
        position = _after_long(data, position)
    if position != end or data[end] != 0x2E:
        raise BadCheckpoint("its model's pickle does not end where it says")
    needed = sum(data.count(code) * size for code, size in _BYTES_OF.items())
    if needed > max(FREE_BYTES, GROWTH * len(data)):
        raise BadCheckpoint(f"its model would take about {needed:,} bytes of memory, out of {len(data):,}")


def _after_long(data: bytes, position: int) -> int:
    """The place after the instruction at `position`, which has a length of its own."""
    width = _LENGTH_BYTES.get(data[position])
    if width is None:
        instruction = data[position : position + 1]
        raise BadCheckpoint(
            f"its model's pickle holds the instruction {instruction!r}, which is not allowed: "
            "another version of streamlearn wrote it, or something else did"
        )
    size = int.from_bytes(data[position + 1 : position + 1 + width], "little")
    after = position + 1 + width + size
    if after >= len(data):
        raise BadCheckpoint("its model's pickle is cut short")
    return after
