"""Streams: how each named input of a clip is read, computed, stored and batched."""

from hero_lightning.streams.device import StreamEncoder
from hero_lightning.streams.extract import fill
from hero_lightning.streams.npydict import NpyDict
from hero_lightning.streams.read import read_clip
from hero_lightning.streams.source import FeatureSource, Resolution
from hero_lightning.streams.store import Store
from hero_lightning.streams.stream import Stream

__all__ = ["FeatureSource", "NpyDict", "Resolution", "Store", "Stream", "StreamEncoder", "fill", "read_clip"]
