"""Resamples decoded sound to one rate and one channel, and aligns it to a clip's clock.

Data flow: decoded audio frames -> mono -> segments (start, samples) -> on_clock -> [N] samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hero_lightning.media.types import SAMPLE_RATE

GAP = 0.04
"""Seconds between the end of one frame and the start of the next that count as a gap in the recording."""


def mono(decoded: Iterable[Any]) -> list[tuple[float, np.ndarray]]:
    """Resamples audio frames, given in order, to SAMPLE_RATE and averages the channels.

    Returns:
        (seconds on the file's clock, samples float32) per segment; a segment ends at a gap in the recording.
    """
    from av.audio.resampler import AudioResampler

    runs: list[tuple[float, list[Any]]] = []
    end = -np.inf
    for frame in decoded:
        at = frame.time if frame.time is not None else max(end, 0.0)
        if abs(at - end) > GAP:
            runs.append((at, []))
        runs[-1][1].append(frame)
        end = at + frame.samples / frame.sample_rate
    segments = []
    for at, frames in runs:
        # a mix to float samples exceeds 1; large blocks are faster
        resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE, frame_size=32_768)
        parts = [part.to_ndarray()[0] for frame in [*frames, None] for part in resampler.resample(frame)]
        segments.append((at, np.concatenate(parts).astype(np.float32) / 32_768))
    return segments


def on_clock(segments: Sequence[tuple[float, np.ndarray]], end: float) -> np.ndarray:
    """Segments (seconds, samples) -> [N] from second 0 to `end`; gaps are silent, samples outside are dropped."""
    out = np.zeros(max(round(end * SAMPLE_RATE), 1), dtype=np.float32)
    for at, x in segments:
        first = round(at * SAMPLE_RATE)
        x = x[max(-first, 0) :][: max(len(out) - max(first, 0), 0)]
        out[max(first, 0) :][: len(x)] = x
    return out
