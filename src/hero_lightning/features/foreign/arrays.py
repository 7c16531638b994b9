"""Arrays in memory as a FeatureSource: features that a Python program has already computed.

Data flow: {sample id: array} -> sequence -> [T, D] -> StoredFeatures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from hero_lightning.errors import FeatureError
from hero_lightning.features.foreign.array_source import ArraySource, Finding, sequence
from hero_lightning.features.modality import Modality, ModalityOptions
from hero_lightning.types import Sample


class Arrays(ArraySource):
    """One modality of clips whose features are arrays.

    Args:
        key: name of the modality.
        width: feature width D that the model reads.
        arrays: sample id -> [T, D] or [D] of floats: an array, a CPU tensor or a nested list.
    """

    def __init__(self, key: str, width: int, arrays: Mapping[str, Any]) -> None:
        super().__init__(key)
        self._width = width
        self.arrays = {id: np.asarray(value, dtype=np.float32) for id, value in arrays.items()}

    def path(self, sample: Sample) -> Path:
        """There is no file: the name of the clip, for messages."""
        return Path(sample.id)

    def found(self, sample: Sample) -> Finding | None:
        """(T, D), or why the array is broken, or None if there is none; (0, 0) = empty or all zeros."""
        if sample.id not in self.arrays:
            return None
        try:
            array = sequence(self.arrays[sample.id], self.key, self.patch_reduce, self.path(sample))
        except FeatureError as error:
            return error.problem
        return (0, 0) if array is None else (array.shape[0], array.shape[1])

    def value(self, sample: Sample) -> Any:
        """The clip's array."""
        return self.arrays.get(sample.id)

    def identity(self) -> dict[str, Any]:
        """Where the features come from: nothing is known about how they were made."""
        return {"source": "arrays"}

    def describe(self, sample: Sample) -> str:
        """The clip and the modality, for messages."""
        return f"{self.key} of {sample.id}"


def in_memory(name: str, width: int, node: Mapping[str, Any]) -> Modality:
    """The modality of a config node whose features will be given as arrays; its encoder is not needed."""
    kept = {f.name: node[f.name] for f in fields(ModalityOptions) if f.name in node and f.name != "fallback"}
    return Modality(name, "preextracted", source=Arrays(name, width, {}), options=ModalityOptions(**kept))
