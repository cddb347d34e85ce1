"""The shard: the pure function from records and a state to facts and a new state."""
