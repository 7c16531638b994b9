"""Signal measures of a clip: prosody of the voice, movement in the picture, strength of the action units.

Data flow: Waveform -> pitch, level, syllable rate, pauses; Frames -> movement; ActionUnits -> intensities; each as
dict[str, float] whose names carry units. `autocorrelation` and `movement` also serve the encoders and the peak finder.

Shapes: N audio samples, F analysis frames of 40 ms every 10 ms, S samples of a frame, T pictures, C table columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hero_lightning.media.types import ActionUnits, Frames, Waveform

WINDOW, HOP = 0.040, 0.010
"""Seconds: two periods of the lowest pitch; the usual step in speech processing."""
LOWEST, HIGHEST = 60.0, 500.0
"""Range of the pitch in Hz."""
VOICED = 0.5
"""Lowest normalised autocorrelation of a voiced frame."""
PAUSE_DB = 25.0
"""Frames this many decibels below the loudest frame count as pause."""


def audio_measures(sound: Waveform) -> dict[str, float]:
    """Prosody of a clip.

    Returns:
        energy_db: mean level of the spoken frames, dB re full scale. syllables_per_s: peaks of the level per second.
        pause_share: share of frames without speech. pitch_hz: median over voiced frames; pitch_range_st: semitones
        from their 10th to their 90th percentile; both left out if no frame is voiced.
    """
    size, hop = round(WINDOW * sound.rate), round(HOP * sound.rate)
    x = torch.nn.functional.pad(sound.x, (0, max(size - len(sound.x), 0)))
    frames = x.unfold(0, size, hop)  # [F, S]
    frames = frames - frames.mean(dim=1, keepdim=True)
    level = 10 * torch.log10(frames.square().mean(dim=1) + 1e-10)  # [F] dB re full scale
    spoken = level > max(float(level.max()) - PAUSE_DB, -80.0)
    out = {
        "energy_db": float(level[spoken].mean()) if spoken.any() else -100.0,
        "syllables_per_s": _syllables(level) / (len(x) / sound.rate),
        "pause_share": float((~spoken).float().mean()),
    }
    pitch = _pitch(frames[spoken], sound.rate)
    if len(pitch):
        low, high = torch.quantile(pitch, torch.tensor([0.1, 0.9]))
        out |= {"pitch_hz": float(pitch.median()), "pitch_range_st": float(12 * torch.log2(high / low))}
    return out


def motion_measures(frames: Frames) -> dict[str, float]:
    """Mean (`movement`) and maximum (`movement_max`) over the clip; empty for a single picture."""
    if len(frames.pixels) < 2:
        return {}
    change = movement(frames.pixels[:, ::2, ::2])
    return {"movement": float(change.mean()), "movement_max": float(change.max())}


def movement(pixels: Tensor) -> Tensor:
    """Mean absolute change from each picture to the next, in percent of full brightness: [T, H, W, 3] -> [T - 1]."""
    grey = pixels.float().mean(dim=-1)  # [T, H, W]
    return grey.diff(dim=0).abs().mean(dim=(1, 2)) * (100 / 255)


def au_measures(table: ActionUnits) -> dict[str, float]:
    """Intensity (0..5) of every action unit over the clip: AU12 its mean, AU12_max its maximum."""
    out: dict[str, float] = {}
    mean, high = table.x.mean(dim=0), table.x.amax(dim=0)  # [C]
    for k, name in enumerate(table.names):
        if name.endswith("_r"):
            unit = name.removesuffix("_r")
            out |= {unit: float(mean[k]), f"{unit}_max": float(high[k])}
    return out


def autocorrelation(frames: Tensor, lags: int, floor: float) -> Tensor:
    """Normalised autocorrelation of Hann-windowed frames; the window's own is divided out (Boersma 1993).

    Args:
        frames: [F, S], each of mean 0.
        lags: number of lags, from 0 on.
        floor: added to the energy, so that quiet frames do not correlate.

    Returns:
        [F, lags].
    """
    window = torch.hann_window(frames.shape[1], device=frames.device)
    padded = 1 << (frames.shape[1] + lags).bit_length()  # long enough that lags do not wrap around
    both = torch.cat([frames * window, window[None]])
    correlation = torch.fft.irfft(torch.fft.rfft(both, n=padded).abs().square(), n=padded)[:, :lags]
    return correlation[:-1] / (correlation[:-1, :1] + floor) / (correlation[-1] / correlation[-1, 0])


def _pitch(frames: Tensor, rate: int) -> Tensor:
    """Frames [F, S] -> pitch in Hz of the voiced ones [V].

    The shortest lag close to the best one is taken, so that two periods are not taken for one.
    """
    first, last = int(rate / HIGHEST), min(int(rate / LOWEST) + 1, frames.shape[1] - 2)
    correlation = autocorrelation(frames, last + 2, 1e-12)
    candidates = correlation[:, first : last + 1]
    peak = (candidates >= correlation[:, first - 1 : last]) & (candidates >= correlation[:, first + 1 : last + 2])
    candidates = torch.where(peak, candidates, -1.0)
    best = candidates.amax(dim=1, keepdim=True) if len(candidates) else candidates.new_zeros(0, 1)
    lag = (candidates >= 0.9 * best).int().argmax(dim=1) + first
    voiced = best[:, 0] > VOICED
    lag, rows = lag[voiced], torch.nonzero(voiced)[:, 0]
    left, mid, right = (correlation[rows, lag + d] for d in (-1, 0, 1))
    shift = (left - right) / (2 * (left - 2 * mid + right)).clamp(max=-1e-9)  # vertex of the parabola through them
    return rate / (lag + shift.clamp(-0.5, 0.5))


def _syllables(level: Tensor) -> int:
    """Syllables in levels [F] in dB: maxima at least 3 dB above the minima on both sides."""
    smooth = torch.nn.functional.avg_pool1d(level[None, None], 5, stride=1, padding=2, count_include_pad=False)[0, 0]
    count, valley, top, floor = 0, float("inf"), -float("inf"), float(smooth.max()) - PAUSE_DB
    for value in smooth.tolist():
        top = max(top, value)
        if top - value >= 3.0 and top - valley >= 3.0 and top > floor:
            count, valley, top = count + 1, value, value
        if value < valley:
            valley, top = value, value
    return count
