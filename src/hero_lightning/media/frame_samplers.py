"""Which times of a clip are looked at: a FrameSampler makes a FramePlan from the clip's header, never from its pictures.

Data flow: ClipInfo + Sample (+ epoch, seed) -> FrameSampler.plan -> FramePlan (times in seconds, reason).

Legend: L pictures in the clip, K pictures in the plan. Picture k is shown at k / fps.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from hero_lightning.errors import ConfigError
from hero_lightning.media.action_units import au_info_file, read_au_info
from hero_lightning.media.types import ClipInfo, FramePlan
from hero_lightning.types import Sample

Number = TypeVar("Number", int, float)


class FrameSampler(ABC):
    """A rule that picks times of a clip.

    Attributes:
        deterministic: True if the plan depends on neither epoch nor seed; only then may its features be stored.
        follows_peaks: whether it reads the peaks of a clip.
        peaks_folder: where they are looked for besides the sample's own file (`python -m hero_lightning.peaks`).
    """

    deterministic: bool = True
    follows_peaks: bool = False
    peaks_folder: Path | None = None

    @abstractmethod
    def plan(self, info: ClipInfo, sample: Sample, epoch: int, seed: int) -> FramePlan:
        """The times of one clip, ascending, at least one."""

    @abstractmethod
    def identity(self) -> dict[str, str | int | float | bool | None]:
        """Name and parameters: part of the identity of the features made with it."""


class Uniform(FrameSampler):
    """Equal parts of the clip, one picture each; the last is repeated where the clip is shorter.

    Args:
        count: K.
        center: take the middle of each part instead of its start.
        ends: first and last picture belong to it, the others evenly between, as numpy.linspace rounds (V2V).
    """

    def __init__(self, count: int = 8, center: bool = False, ends: bool = False) -> None:
        self.count, self.center, self.ends = _positive("count", count), center, ends

    def plan(self, info: ClipInfo, sample: Sample, epoch: int, seed: int) -> FramePlan:
        """See FrameSampler."""
        if self.ends:
            step = max(info.num_frames - 1, 0) / max(self.count - 1, 1)
            return _shown([round(k * step) for k in range(self.count)], info, "uniform")
        return _shown(spread(info.num_frames, self.count, self.center), info, "uniform")

    def identity(self) -> dict[str, str | int | float | bool | None]:
        """See FrameSampler."""
        own: dict[str, str | int | float | bool | None] = {"ends": True} if self.ends else {}  # stores before it match
        return {"sampler": "uniform", "count": self.count, "center": self.center, **own}


class Fps(FrameSampler):
    """A fixed number of pictures per second.

    Args:
        fps: pictures per second.
        max_frames: longer plans are thinned evenly to this many; None = no limit.
    """

    def __init__(self, fps: float = 1.0, max_frames: int | None = None) -> None:
        self.fps = _positive("fps", fps)
        self.max_frames = max_frames if max_frames is None else _positive("max_frames", max_frames)

    def plan(self, info: ClipInfo, sample: Sample, epoch: int, seed: int) -> FramePlan:
        """See FrameSampler."""
        total = max(int(info.duration * self.fps + 1e-6), 1)
        chosen = range(total) if self.max_frames is None else spread(total, min(total, self.max_frames))
        return FramePlan(tuple(k / self.fps for k in chosen), "fps")

    def identity(self) -> dict[str, str | int | float | bool | None]:
        """See FrameSampler."""
        return {"sampler": "fps", "fps": self.fps, "max_frames": self.max_frames}


class Consecutive(FrameSampler):
    """Runs of neighbouring pictures, spread evenly from the clip's first to its last picture (video encoders).

    Args:
        frames: pictures of a run.
        clips: runs.
        stride: every how manieth picture belongs to a run.
        center: runs start in the middle of equal parts of the clip instead (the VideoMAE loader's segments).
    """

    def __init__(self, frames: int = 16, clips: int = 1, stride: int = 1, center: bool = False) -> None:
        self.frames, self.clips = _positive("frames", frames), _positive("clips", clips)
        self.stride, self.center = _positive("stride", stride), center

    def plan(self, info: ClipInfo, sample: Sample, epoch: int, seed: int) -> FramePlan:
        """See FrameSampler. The plan holds clips x frames times, run after run; runs may overlap."""
        length = max(info.num_frames, 1)
        room = max(length - 1 - (self.frames - 1) * self.stride, 0)
        if self.center or self.clips == 1:
            starts = [room * (2 * c + 1) // (2 * self.clips) for c in range(self.clips)]
        else:
            starts = [room * c // (self.clips - 1) for c in range(self.clips)]
        chosen = [min(s + k * self.stride, length - 1) for s in starts for k in range(self.frames)]
        return _shown(chosen, info, "consecutive")

    def identity(self) -> dict[str, str | int | float | bool | None]:
        """See FrameSampler."""
        own: dict[str, str | int | float | bool | None] = {"center": True} if self.center else {}
        return {"sampler": "consecutive", "frames": self.frames, "clips": self.clips, "stride": self.stride, **own}


class HeadTail(FrameSampler):
    """Half of the pictures at random from the first half of the clip, half from the second; new ones every epoch.

    Args:
        count: K; the first half gets the odd one.
    """

    deterministic = False

    def __init__(self, count: int = 8) -> None:
        self.count = _positive("count", count)

    def plan(self, info: ClipInfo, sample: Sample, epoch: int, seed: int) -> FramePlan:
        """See FrameSampler."""
        length, draw = max(info.num_frames, 1), random.Random(f"{seed}/{epoch}/{sample.id}")
        middle = (length + 1) // 2
        head = _drawn(draw, range(middle), (self.count + 1) // 2)
        tail = _drawn(draw, range(middle, length) or range(middle), self.count // 2)
        return _shown(head + tail, info, "headtail")

    def identity(self) -> dict[str, str | int | float | bool | None]:
        """See FrameSampler."""
        return {"sampler": "headtail", "count": self.count}


class All(FrameSampler):
    """Every picture of the clip."""

    def plan(self, info: ClipInfo, sample: Sample, epoch: int, seed: int) -> FramePlan:
        """See FrameSampler."""
        return _shown(range(max(info.num_frames, 1)), info, "all")

    def identity(self) -> dict[str, str | int | float | bool | None]:
        """See FrameSampler."""
        return {"sampler": "all"}


class EmotionPeak(FrameSampler):
    """Pictures around the strongest facial expression, the rest spread over the whole clip.

    The peaks come from `sample.files["au_info"]`, else from what the `peaks` command found. A clip without either is
    looked at uniformly (reason `no_au`), as is one whose file names no peak (`no_peak`); a peak outside the clip is
    moved to its edge (`clamped`). With count=1 a ready-made picture of the peak, `sample.files["peak_frame"]`, goes
    before (`peak_frame`).

    Args:
        count: K.
        width: neighbours taken on each side of a peak.
        peaks: how many peaks share these 2 * width + 1 places, strongest first.
        legacy: the fork's reference rule, to repeat its features: first listed peak, context rounded down.
    """

    follows_peaks = True

    def __init__(self, count: int = 8, width: int = 2, peaks: int = 1, legacy: bool = False) -> None:
        self.count, self.peaks, self.legacy = _positive("count", count), _positive("peaks", peaks), legacy
        self.width = width
        if width < 0:
            raise ConfigError("The window cannot be negative.", expected="0 or more", got=width, where="sampler.width")
        if legacy and (count, width, peaks) != (8, 2, 1):
            raise ConfigError(
                "The legacy rule has no settings.",
                expected="count=8 width=2 peaks=1",
                got=f"count={count} width={width} peaks={peaks}",
                where="sampler.legacy",
                hint="leave legacy at false",
            )

    def plan(self, info: ClipInfo, sample: Sample, epoch: int, seed: int) -> FramePlan:
        """See FrameSampler."""
        path, still = au_info_file(sample, self.peaks_folder), sample.files.get("peak_frame")
        length = max(info.num_frames, 1)
        if self.count == 1 and still is not None and still.is_file():
            return FramePlan((0.0,), "peak_frame", file=still)
        known = _peaks(path, path.stat().st_mtime_ns) if path is not None and path.is_file() else None
        if known is None and (peak := sample.truth.get("peak_index")) is not None:  # MERR names the frame itself
            known = length, None, ({"peak_index": float(peak)},)
        total, rate, listed = known or (None, None, ())
        if not listed:
            chosen = [k * (length - 1) // 7 for k in range(8)] if self.legacy else spread(length, self.count)
            return _shown(chosen, info, "no_au" if known is None else "no_peak")
        if self.legacy:
            first = listed[0]
            around = (int(first[k]) if k in first else None for k in ("frames_before_peak", "frames_after_peak"))
            chosen = legacy_peak_indices(total or length, int(first["peak_index"]), *around)
            inside = [min(k, length - 1) for k in chosen]
            return _shown(inside, info, "peak" if inside == chosen else "clamped")
        strongest = sorted(listed, key=lambda p: -float(p.get("intensity", 0.0)))[: self.peaks]
        scale = 1.0
        if total != length:
            scale = info.fps / rate if rate and info.fps else length / total if total else 1.0
        timed = {id(p): p["time"] * info.fps for p in strongest if "time" in p and info.fps}
        found = [round(timed.get(id(p), int(p["peak_index"]) * scale)) for p in strongest]
        inside = [min(max(p, 0), length - 1) for p in found]
        plan = _shown(
            peak_indices(length, inside, self.count, self.width), info, "peak" if found == inside else "clamped"
        )
        plan.notes["peak"] = float(inside[0])
        return plan

    def identity(self) -> dict[str, str | int | float | bool | None]:
        """See FrameSampler."""
        own = {"count": self.count, "width": self.width, "peaks": self.peaks, "legacy": self.legacy}
        return {"sampler": "emotion_peak", **own}


def spread(length: int, count: int, center: bool = False) -> list[int]:
    """K indices, one from each of K equal parts of L pictures; the last one repeated where L < K.

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
    """Indices of a window around the peaks and of an even context over the rest of the clip, ascending.

    Args:
        length: L.
        peaks: strongest first, inside the clip. They share 2 * width + 1 places, nearest pictures first.
        count: K; where L < K the pictures are repeated evenly.
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
    """The reference rule of the AffectGPT fork for its first listed peak: 8 indices, context rounded down.

    Args:
        total: T, pictures that the AU file saw.
        peak: its picture.
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
    """total_frames, fps and peaks of an au_info file, numbers only; read once. `changed`: the file's mtime."""
    found = read_au_info(path)
    numbers = ({k: v for k, v in p.items() if isinstance(v, int | float)} for p in found["peak_frames"])
    return found.get("total_frames"), found.get("fps"), tuple(numbers)


def _shown(indices: Sequence[int], info: ClipInfo, reason: str) -> FramePlan:
    return FramePlan(tuple(k / info.fps if info.fps else 0.0 for k in indices), reason)


def _drawn(draw: random.Random, pool: range, count: int) -> list[int]:
    """`count` of the pool in order, without repetition where it is large enough."""
    return sorted(draw.sample(pool, count) if len(pool) >= count else draw.choices(pool, k=count))


def _positive(name: str, value: Number) -> Number:
    if value <= 0:
        raise ConfigError(f"{name} must be positive.", expected="more than 0", got=value, where=f"sampler.{name}")
    return value
