"""Scores: metrics beside baselines, and the statistics of drift.

The door: other rooms import the modules in `__all__`, and no others (`scripts/rooms.py`).
"""

__all__ = ["metrics", "scores"]
