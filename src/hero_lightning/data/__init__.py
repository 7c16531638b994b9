"""Corpora: samples, splits, coverage, and the loaders that serve them."""
