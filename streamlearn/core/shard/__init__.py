"""The shard: the pure function from records and a state to facts and a new state.

The door: other rooms import the modules in `__all__`, and no others (`scripts/rooms.py`).
"""

__all__ = [
    "commands",
    "dead_letter_rate",
    "encode",
    "facts",
    "guard",
    "run",
    "shard",
    "snapshot",
    "state",
    "trials",
    "work",
]
