"""The model: learning and answering, and its way into bytes and back.

The door: other rooms import the modules in `__all__`, and no others (`scripts/rooms.py`).
"""

__all__ = ["fingerprint", "fused", "learner", "pickles"]
