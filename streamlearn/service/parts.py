"""The work that is left of a record, taken in parts of a few milliseconds, so that heartbeats go on between.

How long a part takes decides how many events it has, and that changes nothing but when they are learned
(`core.work`); redo takes other parts than live work did, and ends at the same state.
"""

import time
from collections.abc import Iterator
from typing import Final

from streamlearn.core.facts import Facts
from streamlearn.core.pending import ALL
from streamlearn.core.shard import Shard

PART_S: Final = 0.02
"""A part that took less is followed by one of twice as many events."""

_UNITS_MAX: Final = 1_000


def parts(shard: Shard, units: int = ALL) -> Iterator[Facts]:
    """Go on with the shard's work to its end, or until `units` events are done; after each part its facts.
    Raises what `Shard.work_on` raises.
    """
    size = 1
    while units > 0 and (work := shard.work) is not None:
        before, began_s = work.done, time.monotonic()
        facts = shard.work_on(min(size, units))
        units -= work.done - before
        if time.monotonic() - began_s < PART_S:
            size = min(2 * size, _UNITS_MAX)
        yield facts
