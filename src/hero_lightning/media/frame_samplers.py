"""Frame samplers choose the times of a clip to decode, from its header alone.

Data flow: ClipInfo + Sample (+ epoch, seed) -> FrameSampler.plan -> FramePlan (times in seconds, reason).

Legend: L pictures in the clip, K pictures in the plan. Picture k is shown at k / fps.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from hero_lightning.errors import ConfigError, in_range
from hero_lightning.media.action_units import au_info_file, read_au_info
from hero_lightning.media.types import NEVER, UNLESS_DEFAULT, ClipInfo, FramePlan, settings
from hero_lightning.types import Sample


@dataclass(frozen=True)
class FrameSampler(ABC):
    """A rule that chooses times of a clip; its fields are its settings.

    Attributes:
        name: value of `sampler` in the identity.
        deterministic: True if the plan depends on neither epoch nor seed; only then may its features be stored.
        peaks_folder: where the peaks of clips without an own file lie (`python -m hero_lightning.peaks`); None for
            samplers that do not read peaks.
    """

    name: ClassVar[str]
    deterministic: ClassVar[bool] = True
    peaks_folder: ClassVar[Path | None] = None

    def __post_init__(self) -> None:
        for key in ("count", "fps", "frames", "clips", "stride", "peaks", "max_frames"):
            if (value := getattr(self, key, None)) is not None:
                in_range(f"sampler.{key}", value, "(0, inf)")

    @abstractmethod
    def plan(self, info: ClipInfo, sample: Sample, epoch: int, seed: int) -> FramePlan:
        """The times of one clip, ascending, at least one."""

    def with_peaks(self, folder: Path) -> FrameSampler:
        """This sampler, reading peaks from `folder` if it reads peaks at all."""
        return self

    def identity(self) -> dict[str, Any]:
        """Name and settings: part of the identity of the features made with it."""
        return {"sampler": self.name, **settings(self)}


@dataclass(frozen=True)
class Uniform(FrameSampler):
    """One picture of each of K equal parts of the clip; the last is repeated if the clip has fewer than K pictures.

    Attributes:
        count: K.
        center: take the middle of each part instead of its start.
        ends: first and last picture included, the others evenly between, rounded as by numpy.linspace (V2V).
    """

    name = "uniform"
    count: int = 8
    center: bool = False
    ends: bool = field(default=False, metadata=UNLESS_DEFAULT)

    def plan(self, info: ClipInfo, sample: Sample, epoch: int, seed: int) -> FramePlan:
        if self.ends:
            step = max(info.num_frames - 1, 0) / max(self.count - 1, 1)
            return _plan([round(k * step) for k in range(self.count)], info, "uniform")
        return _plan(spread(info.num_frames, self.count, self.center), info, "uniform")


@dataclass(frozen=True)
class Fps(FrameSampler):
    """A fixed number of pictures per second.

    Attributes:
        fps: pictures per second.
        max_frames: longer plans are thinned evenly to this many; None = no limit.
    """

    name = "fps"
    fps: float = 1.0
    max_frames: int | None = None

    def plan(self, info: ClipInfo, sample: Sample, epoch: int, seed: int) -> FramePlan:
        total = max(int(info.duration * self.fps + 1e-6), 1)
        chosen = range(total) if self.max_frames is None else spread(total, min(total, self.max_frames))
        return FramePlan(tuple(k / self.fps for k in chosen), "fps")


@dataclass(frozen=True)
class Consecutive(FrameSampler):
    """Runs of consecutive pictures, spread evenly from the clip's first to its last picture (video encoders).

    Attributes:
        frames: pictures of a run.
        clips: number of runs.
        stride: step between the pictures of a run.
        center: runs start in the middle of equal parts of the clip instead (segments of the VideoMAE loader).
    """

    name = "consecutive"
    frames: int = 16
    clips: int = 1
    stride: int = 1
    center: bool = field(default=False, metadata=UNLESS_DEFAULT)

    def plan(self, info: ClipInfo, sample: Sample, epoch: int, seed: int) -> FramePlan:
        """clips x frames times, run after run; runs may overlap."""
        length = max(info.num_frames, 1)
        room = max(length - 1 - (self.frames - 1) * self.stride, 0)
        if self.center or self.clips == 1:
            starts = [room * (2 * c + 1) // (2 * self.clips) for c in range(self.clips)]
        else:
            starts = [room * c // (self.clips - 1) for c in range(self.clips)]
        chosen = [min(s + k * self.stride, length - 1) for s in starts for k in range(self.frames)]
        return _plan(chosen, info, "consecutive")


@dataclass(frozen=True)
class HeadTail(FrameSampler):
    """Random pictures, half from the first half of the clip and half from the second; new ones every epoch.

    Attributes:
        count: K; the first half gets the odd one.
    """

    name = "headtail"
    deterministic = False
    count: int = 8

    def plan(self, info: ClipInfo, sample: Sample, epoch: int, seed: int) -> FramePlan:
        length, draw = max(info.num_frames, 1), random.Random(f"{seed}/{epoch}/{sample.id}")
        middle = (length + 1) // 2
        head = _draw(draw, range(middle), (self.count + 1) // 2)
        tail = _draw(draw, range(middle, length) or range(middle), self.count // 2)
        return _plan(head + tail, info, "headtail")


@dataclass(frozen=True)
class All(FrameSampler):
    """Every picture of the clip."""

    name = "all"

    def plan(self, info: ClipInfo, sample: Sample, epoch: int, seed: int) -> FramePlan:
        return _plan(range(max(info.num_frames, 1)), info, "all")


@dataclass(frozen=True)
class EmotionPeak(FrameSampler):
    """Pictures around the strongest facial expression, the others spread over the whole clip.

    The peaks come from `sample.files["au_info"]`, else from `peaks_folder`. A clip without either is sampled uniformly
    (reason `no_au`), as is one whose file lists no peak (`no_peak`); a peak outside the clip is moved to its edge
    (`clamped`). With count=1 a ready-made picture of the peak, `sample.files["peak_frame"]`, is preferred
    (`peak_frame`).

    Attributes:
        count: K.
        width: neighbours on each side of a peak.
        peaks: number of peaks that share these 2 * width + 1 places, strongest first.
        legacy: the rule of the AffectGPT fork, to reproduce its features: first listed peak, context rounded down.
    """

    name = "emotion_peak"
    count: int = 8
    width: int = 2
    peaks: int = 1
    legacy: bool = False
    peaks_folder: Path | None = field(default=None, kw_only=True, metadata=NEVER)  # type: ignore[misc]

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("sampler.width", self.width, "[0, inf)")
        if self.legacy and (self.count, self.width, self.peaks) != (8, 2, 1):
            raise ConfigError(
                "The legacy rule has no settings.",
                expected="count=8 width=2 peaks=1",
                got=f"count={self.count} width={self.width} peaks={self.peaks}",
                where="sampler.legacy",
                hint="leave legacy at false",
            )

    def with_peaks(self, folder: Path) -> FrameSampler:
        return replace(self, peaks_folder=folder)

    def plan(self, info: ClipInfo, sample: Sample, epoch: int, seed: int) -> FramePlan:
        path, still = au_info_file(sample, self.peaks_folder), sample.files.get("peak_frame")
        length = max(info.num_frames, 1)
        if self.count == 1 and still is not None and still.is_file():
            return FramePlan((0.0,), "peak_frame", file=still)
        known = _peaks(path, path.stat().st_mtime_ns) if path is not None and path.is_file() else None
        if known is None and (peak := sample.truth.get("peak_index")) is not None:  # MERR lists the picture itself
            known = length, None, ({"peak_index": float(peak)},)
        total, rate, peaks = known or (None, None, ())
        if not peaks:
            chosen = [k * (length - 1) // 7 for k in range(8)] if self.legacy else spread(length, self.count)
            return _plan(chosen, info, "no_au" if known is None else "no_peak")
        if self.legacy:
            first = peaks[0]
            around = (int(first[k]) if k in first else None for k in ("frames_before_peak", "frames_after_peak"))
            chosen = legacy_peak_indices(total or length, int(first["peak_index"]), *around)
            inside = [min(k, length - 1) for k in chosen]
            return _plan(inside, info, "peak" if inside == chosen else "clamped")
        strongest = sorted(peaks, key=lambda p: -float(p.get("intensity", 0.0)))[: self.peaks]
        scale = 1.0
        if total != length:
            scale = info.fps / rate if rate and info.fps else length / total if total else 1.0
        found = [
            round(p["time"] * info.fps if "time" in p and info.fps else int(p["peak_index"]) * scale) for p in strongest
        ]
        inside = [min(max(p, 0), length - 1) for p in found]
        chosen = peak_indices(length, inside, self.count, self.width)
        plan = _plan(chosen, info, "peak" if found == inside else "clamped")
        plan.notes["peak"] = float(inside[0])
        return plan


def spread(length: int, count: int, center: bool = False) -> list[int]:
    """K indices, one from each of K equal parts of L pictures; the last one is repeated if L < K.

    Args:
        length: L.
        count: K.
        center: middle of a part (rounded down) instead of its start.
    """
    length = max(length, 1)
    n = min(count, length)
    chosen = [((2 * k + 1) * length) // (2 * n) if center else k * length // n for k in range(n)]
    return chosen + chosen[-1:] * (count - n)


def peak_indices(length: int, peaks: Sequence[int], count: int, width: int) -> list[int]:
    """Indices of a window around the peaks and of evenly spread context in the rest of the clip, ascending.

    Args:
        length: L.
        peaks: strongest first, inside the clip. They share 2 * width + 1 places, nearest pictures first.
        count: K; if L < K pictures are repeated evenly.
        width: neighbours on each side.
    """
    if length <= count:
        return [k * length // count for k in range(count)]
    near = [p + side * d for d in range(width + 1) for p in peaks for side in ((-1, 1) if d else (1,))]
    window = list(dict.fromkeys(k for k in near if 0 <= k < length))[: min(count, 2 * width + 1)]
    rest = sorted(set(range(length)) - set(window))
    places = count - len(window)
    return sorted(window + [rest[(2 * i + 1) * len(rest) // (2 * places)] for i in range(places)])


def legacy_peak_indices(total: int, peak: int, before: int | None = None, after: int | None = None) -> list[int]:
    """The rule of the AffectGPT fork for its first listed peak: 8 indices, context rounded down.

    Args:
        total: T, pictures that the AU file covers.
        peak: index of the peak.
        before, after: pictures on either side of it; None = up to the clip's ends.
    """
    p, before = peak, peak if before is None else before
    after = total - 1 - peak if after is None else after
    if before == 0:
        steps: tuple[int, ...] = (1, 2)
    elif after == 0:
        steps = (-1, -2)
    else:
        steps = (-2, -1, 1, 2)[0 if before >= 2 else 1 : 4 if after >= 2 else 3]
    chosen = {p} | {p + s for s in steps if 0 <= p + s < total}
    rest, places = sorted(set(range(total)) - chosen), 8 - len(chosen)
    chosen |= set(rest if len(rest) <= places else [rest[i * len(rest) // places] for i in range(places)])
    ordered = sorted(chosen)
    return sorted((ordered * 8)[:8])


@lru_cache(maxsize=65536)
def _peaks(path: Path, changed: int) -> tuple[int | None, float | None, tuple[dict[str, float], ...]]:
    """total_frames, fps and peaks (numbers only) of an au_info file; `changed`, its mtime, is a key of the cache."""
    found = read_au_info(path)
    numbers = ({k: v for k, v in p.items() if isinstance(v, int | float)} for p in found["peak_frames"])
    return found.get("total_frames"), found.get("fps"), tuple(numbers)


def _plan(indices: Sequence[int], info: ClipInfo, reason: str) -> FramePlan:
    return FramePlan(tuple(k / info.fps if info.fps else 0.0 for k in indices), reason)


def _draw(draw: random.Random, pool: range, count: int) -> list[int]:
    """`count` members of the pool in order, without repetition if it is large enough."""
    return sorted(draw.sample(pool, count) if len(pool) >= count else draw.choices(pool, k=count))
