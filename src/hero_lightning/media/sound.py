"""Resamples decoded sound to one rate and one channel, and aligns it to a clip's clock.

Data flow: decoded audio frames -> mono -> segments (start, samples) -> on_clock -> [N] samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
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


def declared_size(path: Path, part: tuple[int, int] | None = None) -> float:
    """Size of a wav, avi or mp3 by its header, as a multiple of its present size if it is truncated; else 1.

    Args:
        path: the file.
        part: (start, size) of the clip inside it.

    The header of RIFF (wav, avi) holds the bytes after it; mp3 holds those of its stream where the encoder has written
    a Xing frame.
    """
    start, size = part or (0, path.stat().st_size)
    with path.open("rb") as file:
        file.seek(start)
        head = file.read(min(size, 10))
        if head[:4] == b"RIFF":
            declared, skipped = int.from_bytes(head[4:8], "little"), 8
            declared = 0 if declared == 0xFFFFFFFF else declared  # written as a stream
        elif head[:3] == b"ID3" or head[:1] == b"\xff":
            skipped = 10 + sum(b << 7 * (3 - k) for k, b in enumerate(head[6:10])) if head[:3] == b"ID3" else 0
            file.seek(start + skipped)
            frame = file.read(256)
            at = max(frame.find(b"Xing"), frame.find(b"Info"))
            flags = int.from_bytes(frame[at + 4 : at + 8], "big") if at > 0 else 0
            field = at + 8 + 4 * (flags & 1)  # after the number of frames
            declared = int.from_bytes(frame[field : field + 4], "big") if flags & 2 else 0
        else:
            return 1.0
    return max((skipped + declared) / size, 1.0)
