"""Backtest: models side by side on the same history, and the report."""
