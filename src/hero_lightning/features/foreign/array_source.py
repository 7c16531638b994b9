"""Stored arrays looked up by clip."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hero_lightning.errors import ConfigError, FeatureError
from hero_lightning.features.source import Availability
from hero_lightning.types import Sample, StoredFeatures

Finding = tuple[int, int] | str
"""(T, D) of a feature, (0, 0) where it is absent, or why it is broken."""
PATCH_RULES = ("cls", "mean", "flatten")


def sequence(value: Any, key: str, patch_reduce: str, path: Path) -> np.ndarray | None:
    """One key's value as [T, D]; None where the clip has no such modality (missing, empty, all zeros).

    Args:
        value: what the file holds.
        key: its name, for messages.
        patch_reduce: what [F, P, D] becomes, see NpyDict.
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
        return None  # HERO's extractor writes zeros for what a clip does not have
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
    """Stored arrays looked up by clip. A FeatureSource whose subclass says where a clip's array is.

    Args:
        key: the feature's name, for messages.
        patch_reduce: what [F, P, D] becomes: cls (first patch), mean over patches, or flatten to [F * P, D].
        probe_count: how many readable clips must agree about the width.
    """

    def __init__(self, key: str, patch_reduce: str = "cls", probe_count: int = 8) -> None:
        if patch_reduce not in PATCH_RULES:
            raise ConfigError(
                "Unknown rule for patch features.",
                expected=", ".join(PATCH_RULES),
                got=patch_reduce,
                where="source.patch_reduce",
            )
        self.key, self.patch_reduce, self.probe_count = key, patch_reduce, probe_count
        self._width: int | None = None

    @abstractmethod
    def path(self, sample: Sample) -> Path:
        """The file that holds, or should hold, the clip's array."""

    @abstractmethod
    def found(self, sample: Sample) -> Finding | None:
        """(T, D), or why the feature is broken, or None where there is no file; (0, 0) = no such modality."""

    @abstractmethod
    def value(self, sample: Sample) -> Any:
        """The clip's array as stored; None where there is none. FeatureError where it cannot be read."""

    def content(self, sample: Sample) -> dict[str, Any]:
        """Everything that lies with the array: `<key>_time` and `<key>_measures`, as `convert` writes them."""
        return {}

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """See FeatureSource."""

    @abstractmethod
    def describe(self, sample: Sample) -> str:
        """See FeatureSource."""

    def status(self, sample: Sample) -> Availability:
        """See FeatureSource."""
        found = self.found(sample)
        if found is None or found == (0, 0):
            return Availability("absent", "no feature file" if found is None else f"no {self.key}")
        if isinstance(found, str):
            return Availability("broken", found)
        if self._width is not None and found[1] != self._width:
            return Availability("broken", f"width {found[1]}, expected {self._width}: {self.describe(sample)}")
        return Availability("preextracted", "features")

    def has(self, sample: Sample) -> bool:
        """See FeatureSource."""
        return self.status(sample).mode == "preextracted"

    def length(self, sample: Sample) -> int | None:
        """See FeatureSource."""
        found = self.found(sample)
        return (found[0] or None) if isinstance(found, tuple) else None

    def read(self, sample: Sample) -> StoredFeatures:
        """See FeatureSource; always float32."""
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
        beside = self.content(sample)
        clock = beside.get(f"{self.key}_time")
        timed = isinstance(clock, np.ndarray) and clock.shape == (array.shape[0],)
        return StoredFeatures(
            torch.from_numpy(np.array(array, dtype=np.float32)),
            torch.tensor(clock, dtype=torch.float32) if timed else None,
            dict(beside.get(f"{self.key}_measures", {})),
        )

    def _other_width(self, width: int, sample: Sample) -> FeatureError:
        return FeatureError(
            f"Feature {self.key} has another width than the others.",
            expected=self._width,
            got=width,
            where=self.describe(sample),
            hint="extract these files anew with the encoder of the others; widths are never padded or cut",
        )

    def width(self) -> int | None:
        """See FeatureSource; None before `probe` found a readable file."""
        return self._width

    def probe(self, samples: Iterable[Sample]) -> None:
        """See FeatureSource."""
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
