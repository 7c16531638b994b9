"""Brings decoded sound to one rate and one channel, and lays it on a clip's clock.

Data flow: decoded audio frames -> mono -> pieces (start, samples) -> laid_out -> [N] samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hero_lightning.media.types import SAMPLE_RATE

GAP = 0.04
"""Seconds between the end of one frame and the start of the next that count as a hole in the recording."""


def mono(heard: Iterable[Any]) -> list[tuple[float, np.ndarray]]:
    """Resamples to SAMPLE_RATE and averages the channels; a new piece starts after every hole.

    Args:
        heard: decoded audio frames in order.

    Returns:
        (seconds on the file's clock, samples float32) per piece.
    """
    from av.audio.resampler import AudioResampler

    runs: list[tuple[float, list[Any]]] = []
    due = -np.inf
    for frame in heard:
        at = frame.time if frame.time is not None else max(due, 0.0)
        if abs(at - due) > GAP:
            runs.append((at, []))
        runs[-1][1].append(frame)
        due = at + frame.samples / frame.sample_rate
    pieces = []
    for at, frames in runs:
        # to floats it would mix louder than 1; large blocks cost less
        resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE, frame_size=32_768)
        parts = [part.to_ndarray()[0] for frame in [*frames, None] for part in resampler.resample(frame)]
        pieces.append((at, np.concatenate(parts).astype(np.float32) / 32_768))
    return pieces


def laid_out(pieces: Sequence[tuple[float, np.ndarray]], end: float) -> np.ndarray:
    """Pieces (seconds, samples) -> [N] from second 0 to `end`: what lies outside is cut, holes are silent."""
    out = np.zeros(max(round(end * SAMPLE_RATE), 1), dtype=np.float32)
    for at, x in pieces:
        first = round(at * SAMPLE_RATE)
        x = x[max(-first, 0) :][: max(len(out) - max(first, 0), 0)]
        out[max(first, 0) :][: len(x)] = x
    return out
