"""Datasets: samples, splits, availability, and the loaders that serve them."""
