"""Where a modality's stored features come from: the protocol that Store and NpyDict share.

Data flow: Sample -> status (index time) -> read (worker) -> StoredFeatures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from hero_lightning.types import Sample, StoredFeatures

Found = Literal["preextracted", "realtime", "absent", "broken"]


@dataclass(frozen=True, slots=True)
class Availability:
    """How one clip's features of one modality are had, decided once at index time.

    Attributes:
        mode: preextracted (read), realtime (decode and encode), absent (the clip has no such modality), broken (it
            should have, but the file is bad).
        reason: why, in a few words; counted in the run folder.
    """

    mode: Found
    reason: str = ""

    @property
    def present(self) -> bool:
        """Whether a row will come."""
        return self.mode in ("preextracted", "realtime")


class FeatureSource(Protocol):
    """Stored features of one modality."""

    def status(self, sample: Sample) -> Availability:
        """preextracted, absent or broken, with the reason. Never raises for a bad file."""
        ...

    def has(self, sample: Sample) -> bool:
        """Whether `read` will succeed."""
        ...

    def read(self, sample: Sample) -> StoredFeatures:
        """One clip's features. FeatureError where they are missing or broken."""
        ...

    def length(self, sample: Sample) -> int | None:
        """Steps T of the clip, or None where unknown."""
        ...

    def width(self) -> int | None:
        """Feature width D, or None where nothing is stored yet."""
        ...

    def probe(self, samples: Iterable[Sample]) -> None:
        """Learns the width from the first readable of these samples (the train split); all probed must agree."""
        ...

    def identity(self) -> dict[str, Any]:
        """What decides the features, plain builtins."""
        ...

    def describe(self, sample: Sample) -> str:
        """File (and key) of this clip's features, for messages."""
        ...
