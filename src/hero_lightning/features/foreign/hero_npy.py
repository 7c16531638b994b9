"""Reads HERO's feature-only layout: one file per clip with a dict of arrays, through a loader that runs nothing.

Data flow: <root>/<id>.npy (pickled dict) | .npz | .safetensors -> restricted loader -> array -> [T, D] -> StoredFeatures.

Shapes: T steps, F frames, P patches, D feature width.
"""

from __future__ import annotations

import logging
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from hero_lightning.errors import FeatureError
from hero_lightning.features.foreign.array_source import ArraySource, Finding, sequence
from hero_lightning.features.foreign.safe_pickle import SUFFIXES, load_features
from hero_lightning.types import Sample

log = logging.getLogger(__name__)

HERO_KEYS = {"frame": "clip", "motion": "video_mae", "audio": "hubert", "au": "au", "text": "bert"}
"""HERO's key of each modality."""


@lru_cache(maxsize=2)
def _loaded(path: Path, changed: int) -> dict[str, Any]:
    """The last files read: all modalities of a clip come out of one load. `changed`: the file's mtime."""
    return load_features(path)


@cache
def _findings(path: Path, changed: int, patch_reduce: str) -> dict[str, Finding] | str:
    """Every key of a file, looked at once; or why the file cannot be read."""
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
        root: folder of <id>.npy files; a sample's files["features"] goes before it.
        key: entry of the dict: clip, video_mae, hubert, bert, au.
        patch_reduce, probe_count: see ArraySource.
    """

    def __init__(self, root: Path | str, key: str, patch_reduce: str = "cls", probe_count: int = 8) -> None:
        super().__init__(key, patch_reduce, probe_count)
        self.root = Path(root)

    def path(self, sample: Sample) -> Path:
        """The clip's feature file; the .npy name where none exists."""
        if "features" in sample.files:
            return sample.files["features"]
        names = [self.root / f"{sample.id}{suffix}" for suffix in SUFFIXES]
        return next((p for p in names if p.is_file()), names[0])

    def found(self, sample: Sample) -> Finding | None:
        """See ArraySource."""
        path = self.path(sample)
        if not path.is_file():
            return None
        found = _findings(path, path.stat().st_mtime_ns, self.patch_reduce)
        return found if isinstance(found, str) else found.get(self.key, (0, 0))

    def content(self, sample: Sample) -> dict[str, Any]:
        """See ArraySource."""
        path = self.path(sample)
        return _loaded(path, path.stat().st_mtime_ns) if path.is_file() else {}

    def value(self, sample: Sample) -> Any:
        """See ArraySource."""
        return self.content(sample).get(self.key)

    def transcript(self, sample: Sample) -> str | None:
        """The clip's transcript where its file holds one; a broken or missing file has none."""
        try:
            path = self.path(sample)
            said = _loaded(path, path.stat().st_mtime_ns).get("transcript")
        except (FeatureError, FileNotFoundError):
            return None
        return said if isinstance(said, str) and said.strip() else None

    def identity(self) -> dict[str, Any]:
        """See FeatureSource."""
        return {"class": "NpyDict", "root": self.root.name, "key": self.key, "patch_reduce": self.patch_reduce}

    def describe(self, sample: Sample) -> str:
        """See FeatureSource."""
        return f"{self.path(sample)} [{self.key}]"
