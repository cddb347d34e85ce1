"""The log on one machine: SQLite files, locks, and a folder for checkpoints."""
