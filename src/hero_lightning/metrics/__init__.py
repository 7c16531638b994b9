"""Metrics, each with one formula for its value, its interval and its baselines, and the rows they come from."""
