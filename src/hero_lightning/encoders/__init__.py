"""Encoders: raw material of one modality -> a sequence of feature vectors."""
