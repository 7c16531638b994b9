"""Metrics computed from additive per-row statistics: one formula for value, confidence interval and baselines."""
