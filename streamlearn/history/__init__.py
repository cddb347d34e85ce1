"""Streams of the past and files: read, paced, sent to a topic, and written."""
