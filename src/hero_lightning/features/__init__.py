"""Streams: how each named input of a clip is read, computed, stored and batched."""

from hero_lightning.features.device import StreamEncoder
from hero_lightning.features.extraction import fill
from hero_lightning.features.foreign.hero_npy import NpyDict
from hero_lightning.features.modality import Stream
from hero_lightning.features.read import read_clip
from hero_lightning.features.source import FeatureSource, Resolution
from hero_lightning.features.store import Store

__all__ = ["FeatureSource", "NpyDict", "Resolution", "Store", "Stream", "StreamEncoder", "fill", "read_clip"]
