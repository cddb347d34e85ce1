"""The log that records come from and go to: the port, and one adapter per backend."""
