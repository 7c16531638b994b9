"""Encoders: raw material of one stream -> a sequence of feature vectors."""
