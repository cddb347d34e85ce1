"""What a running service shows: logs."""
