"""Scores: metrics beside baselines, and the statistics of drift."""
