"""Baselines: the models that HERO is compared with."""
