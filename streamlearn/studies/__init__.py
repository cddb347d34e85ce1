"""Studies: history stepped without a log, and what a service did looked at again."""
