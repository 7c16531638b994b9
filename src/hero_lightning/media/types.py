"""Raw material of a clip as encoders take it, and the settings from which a feature identity is made.

Shapes: T pictures, H W picture size, N audio samples, C table columns. Times are seconds from the clip's start.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from hero_lightning.types import Turn

SAMPLE_RATE = 16_000
"""Hz; the rate on which speech encoders are trained."""
UNLESS_DEFAULT = {"identity": "unless default"}
"""Metadata of a dataclass field that was added later: at its default it is not part of the identity."""
NEVER = {"identity": "never"}
"""Metadata of a dataclass field that does not change the features."""


def settings(owner: Any) -> dict[str, Any]:
    """Fields of a dataclass instance, in order, that are part of the identity of stored features."""
    out = {}
    for f in fields(owner):
        value, rule = getattr(owner, f.name), f.metadata.get("identity")
        if rule is None or (rule == "unless default" and value != f.default):
            out[f.name] = value
    return out


@dataclass(frozen=True, slots=True)
class ClipInfo:
    """Header of a clip, read without decoding it.

    Attributes:
        duration: seconds (of the span).
        fps: mean picture rate; 0 without pictures.
        num_frames: pictures in the clip, counted or duration x fps; 0 without pictures.
        has_video, has_audio: which streams the file holds.
    """

    duration: float
    fps: float = 0.0
    num_frames: int = 0
    has_video: bool = False
    has_audio: bool = False


@dataclass(slots=True)
class Frames:
    """Pictures at chosen times.

    Attributes:
        pixels: [T, H, W, 3] uint8 RGB.
        time: [T] seconds.
    """

    pixels: Tensor
    time: Tensor


@dataclass(slots=True)
class Waveform:
    """Mono sound at SAMPLE_RATE, aligned to the clip's clock: x [N] float32 in [-1, 1]."""

    x: Tensor
    rate: int = SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Utterance:
    """Text and speaker of an utterance, with the turns before it (oldest first)."""

    text: str
    speaker: str | None = None
    turns: tuple[Turn, ...] = ()


@dataclass(slots=True)
class ActionUnits:
    """Facial action units over time.

    Attributes:
        x: [T, C] float32.
        time: [T] seconds.
        names: C column names.
    """

    x: Tensor
    time: Tensor
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FramePlan:
    """The times of a clip that are decoded.

    Attributes:
        times: seconds, ascending, at least one.
        reason: uniform, peak, no_au, no_peak, clamped, ... (counted in the run folder).
        notes: numbers behind the plan, e.g. the picture of the peak.
        file: an image that is read instead of the clip (the ready-made peak picture).
    """

    times: tuple[float, ...]
    reason: str = "uniform"
    notes: dict[str, float] = field(default_factory=dict)
    file: Path | None = None
