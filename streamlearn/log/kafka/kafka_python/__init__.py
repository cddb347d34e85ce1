"""kafka-python (3.0.12): all that is known of it, its private attributes included.

Underscored attributes of kafka-python are used here on purpose, each with its reason; the dependency is
pinned to `>=3.0.12,<3.1` for them. No other folder imports `kafka` (a test says so).
"""
