"""A shard as it runs: what steps it, and what it needs to be stepped."""
