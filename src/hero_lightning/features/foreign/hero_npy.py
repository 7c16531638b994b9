"""Reads and writes HERO's feature-only layout: one file per clip with a dict of arrays.

Data flow: <root>/<file_name(id)>.npy (pickled dict) | .npz | .safetensors -> safe_pickle -> array -> [T, D]
-> StoredFeatures; dict -> write_npydict -> .npy.

Shapes: T steps, F frames, P patches, D feature width.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hero_lightning.errors import FeatureError
from hero_lightning.features.files import write_atomic
from hero_lightning.features.foreign.array_source import ArraySource, Finding, sequence
from hero_lightning.features.foreign.safe_pickle import SUFFIXES, load_features
from hero_lightning.types import Sample, file_name

HERO_KEYS = {"frame": "clip", "motion": "video_mae", "audio": "hubert", "au": "au", "text": "bert"}
"""HERO's key of each modality."""


def encode_npydict(features: Mapping[str, Any]) -> bytes:
    """One clip's dict as the content of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.array(dict(features), dtype=object), allow_pickle=True)
    return buffer.getvalue()


def write_npydict(path: Path, features: Mapping[str, Any]) -> None:
    """Writes one clip's dict as .npy, atomically. DataError if the file cannot be written."""
    write_atomic(path, encode_npydict(features))


@lru_cache(maxsize=2)
def _loaded(path: Path, changed: int) -> dict[str, Any]:
    """Caches the last files: one load serves all modalities of a clip. `changed`: the file's mtime."""
    return load_features(path)


@cache
def _findings(path: Path, changed: int, patch_reduce: str) -> dict[str, Finding] | str:
    """Shape or fault of every key of a file; or why the file cannot be read."""
    found: dict[str, Finding] = {}
    try:
        content = load_features(path)
    except FeatureError as error:
        return f"{error.problem} {error.details['got']}: {path}"
    for key, value in content.items():
        try:
            array = sequence(value, key, patch_reduce, path)
            found[key] = (0, 0) if array is None else (array.shape[0], array.shape[1])
        except FeatureError as error:
            found[key] = f"{error.problem} {error.details['got']}: {path}"
    return found


class NpyDict(ArraySource):
    """One key of HERO's feature-only layout. A FeatureSource.

    Args:
        root: folder of <id>.npy files; a sample's files["features"] is preferred.
        key: entry of the dict: clip, video_mae, hubert, bert, au.
        patch_reduce, probe_count: see ArraySource.
    """

    def __init__(self, root: Path | str, key: str, patch_reduce: str = "cls", probe_count: int = 8) -> None:
        super().__init__(key, patch_reduce, probe_count)
        self.root = Path(root)

    def path(self, sample: Sample) -> Path:
        """The clip's feature file; <id>.npy if there is none."""
        if "features" in sample.files:
            return sample.files["features"]
        names = [self.root / f"{file_name(sample.id)}{suffix}" for suffix in SUFFIXES]
        return next((p for p in names if p.is_file()), names[0])

    def found(self, sample: Sample) -> Finding | None:
        path = self.path(sample)
        if not path.is_file():
            return None
        found = _findings(path, path.stat().st_mtime_ns, self.patch_reduce)
        return found if isinstance(found, str) else found.get(self.key, (0, 0))

    def content(self, sample: Sample) -> dict[str, Any]:
        path = self.path(sample)
        return _loaded(path, path.stat().st_mtime_ns) if path.is_file() else {}

    def value(self, sample: Sample) -> Any:
        return self.content(sample).get(self.key)

    def transcript(self, sample: Sample) -> str | None:
        """The clip's transcript if its file is readable and holds one, else None."""
        try:
            text = self.content(sample).get("transcript")
        except FeatureError:
            return None
        return text if isinstance(text, str) and text.strip() else None

    def identity(self) -> dict[str, Any]:
        return {"class": "NpyDict", "root": self.root.name, "key": self.key, "patch_reduce": self.patch_reduce}

    def describe(self, sample: Sample) -> str:
        return f"{self.path(sample)} [{self.key}]"
