"""Checks of a running service: of its topics, its learning and its checkpoints, and what they tell."""
