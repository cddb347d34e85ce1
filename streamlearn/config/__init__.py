"""The configuration: what values there are, and where each came from."""
