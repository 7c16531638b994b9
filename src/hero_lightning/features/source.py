"""Source of a modality's stored features: the protocol shared by Store and the foreign layouts.

Data flow: Sample -> status (when a dataset is indexed) -> read (worker) -> StoredFeatures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from hero_lightning.types import Sample, StoredFeatures

LIMIT = 1e15
"""Bound of an absolute feature value: sums of squares of larger ones overflow float32."""


@dataclass(frozen=True, slots=True)
class Availability:
    """Where the features of one clip and modality come from, determined once when the dataset is indexed.

    Attributes:
        mode: preextracted (read), realtime (decode and encode), absent (the clip has no such modality), broken (it
            should have, but the file is damaged).
        reason: why, in a few words; counted in the run folder.
    """

    mode: Literal["preextracted", "realtime", "absent", "broken"]
    reason: str = ""

    @property
    def present(self) -> bool:
        """Whether the clip has features of this modality."""
        return self.mode in ("preextracted", "realtime")


class FeatureSource(Protocol):
    """Stored features of one modality."""

    def status(self, sample: Sample) -> Availability:
        """preextracted, absent or broken, with the reason. Never raises for a damaged file."""
        ...

    def contains(self, sample: Sample) -> bool:
        """Whether `read` will succeed."""
        ...

    def read(self, sample: Sample) -> StoredFeatures:
        """One clip's features. FeatureError if they are missing or broken."""
        ...

    def length(self, sample: Sample) -> int | None:
        """Steps T of the clip, or None if unknown."""
        ...

    def width(self) -> int | None:
        """Feature width D, or None if nothing is stored yet."""
        ...

    def probe(self, samples: Iterable[Sample]) -> None:
        """Finds the width in the first readable of these samples (the train split). FeatureError if they differ."""
        ...

    def identity(self) -> dict[str, Any]:
        """Everything the features depend on, in builtins."""
        ...

    def describe(self, sample: Sample) -> str:
        """File (and key) of this clip's features, for messages."""
        ...
