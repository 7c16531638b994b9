"""Modalities: how each named input of a clip is read, computed, stored and batched."""

from hero_lightning.features.device import ModalityEncoder
from hero_lightning.features.extraction import fill
from hero_lightning.features.foreign.hero_npy import NpyDict
from hero_lightning.features.modality import Modality, ModalityOptions
from hero_lightning.features.read import read_clip
from hero_lightning.features.source import Availability, FeatureSource
from hero_lightning.features.store import Store

__all__ = [
    "Availability", "FeatureSource", "Modality", "ModalityEncoder", "ModalityOptions", "NpyDict", "Store", "fill",
    "read_clip",
]  # fmt: skip
