"""Look: what is in a stream, and the configuration that fits it."""
