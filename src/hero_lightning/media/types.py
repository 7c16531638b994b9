"""EncoderInput material of a clip as the encoders take it.

Shapes: T pictures, H W picture size, N audio samples, C table columns. Times are seconds from the clip's start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from hero_lightning.types import Turn

SAMPLE_RATE = 16_000
"""Hz; what every speech encoder of the field was trained on."""


@dataclass(frozen=True, slots=True)
class ClipInfo:
    """What a probe of a clip says, without decoding it.

    Attributes:
        duration: seconds (of the span).
        fps: mean picture rate; 0 without pictures.
        num_frames: pictures in the clip, counted or duration x fps; 0 without pictures.
        has_video, has_audio: what the file holds.
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
    """What is said, and by whom, with the turns before it (oldest first)."""

    text: str
    speaker: str | None = None
    turns: tuple[Turn, ...] = ()


@dataclass(slots=True)
class ActionUnits:
    """Numbers per step from a file (OpenFace action units).

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
    """Which times of a clip are looked at, and why.

    Attributes:
        times: seconds, ascending, at least one.
        reason: uniform, peak, no_au, no_peak, clamped, ... (counted in the run folder).
        file: an image that is looked at instead of the clip (the ready-made peak picture).
    """

    times: tuple[float, ...]
    reason: str = "uniform"
    notes: dict[str, float] = field(default_factory=dict)
    file: Path | None = None
