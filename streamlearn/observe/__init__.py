"""Signs of a running service: logs."""
