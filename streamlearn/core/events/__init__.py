"""Events: bytes of any form to an event or a refusal, and the evidence and clocks that judge them.

The door: other rooms import the modules in `__all__`, and no others (`scripts/rooms.py`).
"""

__all__ = [
    "clocks",
    "common",
    "dedup",
    "envelopes",
    "event",
    "evidence",
    "json_events",
    "mapping",
    "paths",
    "registry",
    "values",
    "where",
]
