"""Arrays of foreign layouts as a FeatureSource: shapes, faults and widths.

Data flow: subclass (finds a clip's array) -> sequence -> [T, D] -> StoredFeatures.

Shapes: T steps, F frames, P patches, D feature width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hero_lightning.errors import FeatureError, one_of
from hero_lightning.features.source import LIMIT, Availability
from hero_lightning.types import Sample, StoredFeatures

Finding = tuple[int, int] | str
"""(T, D) of a feature, (0, 0) if it is absent, or why it is broken."""
PATCH_RULES = ("cls", "mean", "flatten")


def sequence(value: Any, key: str, patch_reduce: str, path: Path) -> np.ndarray | None:
    """One key's value as [T, D]; None if the clip has no such modality (missing, empty, all zeros).

    Args:
        value: content of the file.
        key: its name, for messages.
        patch_reduce: how [F, P, D] is reduced, see ArraySource.
        path: the file, for messages.

    Raises:
        FeatureError: not floats, NaN or Inf, or another rank.
    """

    def broken(problem: str, got: object) -> FeatureError:
        hint = "replace the file, or missing=mask to go on without it"
        return FeatureError(f"Feature {key} {problem}", expected="floats [T, D]", got=got, where=path, hint=hint)

    if value is None or (hasattr(value, "__len__") and len(value) == 0):
        return None
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        raise broken("is not an array of floats.", getattr(value, "dtype", type(value).__name__))
    if not np.isfinite(value).all():
        raise broken("holds NaN or Inf.", "NaN or Inf")
    if not value.any():
        return None  # HERO's extractor writes zeros for absent modalities
    if (largest := np.abs(value).max()) >= LIMIT:  # MMSA's pickles hold -1.8e308, which is -Inf in float32
        raise broken("holds numbers that are too large.", f"{largest:g}, at most {LIMIT:g}")
    if value.ndim in (1, 2):
        return np.atleast_2d(value)  # [D] -> [1, D]
    if value.ndim != 3:
        raise broken("has another rank than 1, 2 or 3.", f"shape {value.shape}")
    if value.shape[0] == 1:
        return value[0]  # [1, T, D]
    if patch_reduce == "cls":
        return value[:, 0]  # [F, P, D] -> [F, D]
    return value.mean(axis=1) if patch_reduce == "mean" else value.reshape(-1, value.shape[2])


class ArraySource(ABC):
    """A FeatureSource of arrays; the subclass finds the array of a clip.

    Args:
        key: the feature's name, for messages.
        patch_reduce: how [F, P, D] is reduced: cls (first patch), mean over patches, or flatten to [F * P, D].
        probe_count: number of readable clips whose widths are compared.
    """

    def __init__(self, key: str, patch_reduce: str = "cls", probe_count: int = 8) -> None:
        one_of("source.patch_reduce", patch_reduce, PATCH_RULES)
        self.key, self.patch_reduce, self.probe_count = key, patch_reduce, probe_count
        self._width: int | None = None

    @abstractmethod
    def path(self, sample: Sample) -> Path:
        """The file of the clip's array, whether it exists or not."""

    @abstractmethod
    def found(self, sample: Sample) -> Finding | None:
        """(T, D), or why the feature is broken, or None if there is no file; (0, 0) = no such modality."""

    @abstractmethod
    def value(self, sample: Sample) -> Any:
        """The clip's array as stored; None if there is none. FeatureError if it cannot be read."""

    def content(self, sample: Sample) -> dict[str, Any]:
        """Everything in the array's file, e.g. `<key>_time` and `<key>_measures` as written by `convert`."""
        return {}

    @abstractmethod
    def identity(self) -> dict[str, Any]: ...

    @abstractmethod
    def describe(self, sample: Sample) -> str: ...

    def status(self, sample: Sample) -> Availability:
        found = self.found(sample)
        if found is None or found == (0, 0):
            return Availability("absent", "no feature file" if found is None else f"no {self.key}")
        if isinstance(found, str):
            return Availability("broken", found)
        if self._width is not None and found[1] != self._width:
            return Availability("broken", f"width {found[1]}, expected {self._width}: {self.describe(sample)}")
        return Availability("preextracted", "features")

    def contains(self, sample: Sample) -> bool:
        return self.status(sample).mode == "preextracted"

    def length(self, sample: Sample) -> int | None:
        found = self.found(sample)
        return (found[0] or None) if isinstance(found, tuple) else None

    def read(self, sample: Sample) -> StoredFeatures:
        """Always float32."""
        path = self.path(sample)
        array = sequence(self.value(sample), self.key, self.patch_reduce, path)
        if array is None:
            raise FeatureError(
                f"Sample {sample.id} has no feature {self.key}.",
                expected="an array that is not all zeros",
                got=self.status(sample).reason,
                where=path,
                hint="missing=mask to go on without it",
            )
        if self._width is not None and array.shape[1] != self._width:
            raise self._other_width(array.shape[1], sample)
        content = self.content(sample)
        time = content.get(f"{self.key}_time")
        timed = isinstance(time, np.ndarray) and time.shape == (array.shape[0],)
        return StoredFeatures(
            torch.from_numpy(np.array(array, dtype=np.float32)),
            torch.tensor(time, dtype=torch.float32) if timed else None,
            dict(content.get(f"{self.key}_measures", {})),
        )

    def _other_width(self, width: int, sample: Sample) -> FeatureError:
        return FeatureError(
            f"Feature {self.key} has another width than the others.",
            expected=self._width,
            got=width,
            where=self.describe(sample),
            hint="extract these files again with the encoder of the others",
        )

    def width(self) -> int | None:
        """None before `probe` found a readable file."""
        return self._width

    def probe(self, samples: Iterable[Sample]) -> None:
        agreed = 0
        for sample in samples:
            found = self.found(sample)
            if not isinstance(found, tuple) or found == (0, 0):
                continue
            self._width = self._width or found[1]
            if found[1] != self._width:
                raise self._other_width(found[1], sample)
            agreed += 1
            if agreed == self.probe_count:
                return
