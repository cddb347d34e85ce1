"""The ids predicted lately, so that a repeated event is predicted and learned once.

The window is part of the state: it lives in `Memory` as a ring, of which this is the fast view. An id
enters when its event was predicted; a refused event does not, so a corrected one is welcome.
"""

from typing import Protocol


class Ring(Protocol):
    """The part of the shard's memory that the window lives in."""

    recent: list[str | int]
    recent_next: int


class RecentIds:
    """The last `size` ids in `ring`; one that was of another size keeps its newest ids."""

    def __init__(self, ring: Ring, size: int) -> None:
        assert size > 0
        oldest_first = ring.recent[ring.recent_next :] + ring.recent[: ring.recent_next]
        ring.recent = oldest_first[-size:]
        ring.recent_next = 0 if len(ring.recent) == size else len(ring.recent)
        self._ring = ring
        self._size = size
        self._ids = set(ring.recent)

    def __contains__(self, ident: str | int) -> bool:
        return ident in self._ids

    def add(self, ident: str | int) -> None:
        """Remember `ident`, which is not in the window, and forget the oldest when it is full."""
        ring = self._ring
        slot = ring.recent_next
        if len(ring.recent) < self._size:
            ring.recent.append(ident)
        else:
            self._ids.discard(ring.recent[slot])
            ring.recent[slot] = ident
        self._ids.add(ident)
        ring.recent_next = (slot + 1) % self._size
