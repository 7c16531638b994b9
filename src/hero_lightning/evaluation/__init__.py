"""Metrics of splits and prediction files, comparisons of systems, probes."""
