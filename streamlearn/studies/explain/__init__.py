"""Explain: a past prediction made again, with the label that it got."""
