"""The pure function: records in, outputs and a new state out. No I/O, no clock, no threads, no logging."""
