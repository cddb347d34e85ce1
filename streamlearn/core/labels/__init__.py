"""Late labels: records of labels, and the events that wait for them.

The door: other rooms import the modules in `__all__`, and no others (`scripts/rooms.py`).
"""

__all__ = [
    "joiner",
    "pending",
    "record",
    "stats",
]
