"""Named numbers of a clip in words' reach: how the voice sounds, how much moves, how strong each action unit is.

Data flow: Waveform -> pitch, level, rate, pauses; Frames -> movement; ActionUnits -> action units (dict[str, float] each).

Shapes: N audio samples, F analysis frames of 40 ms every 10 ms, T pictures, C columns. Names carry units.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hero_lightning.media.types import ActionUnits, Frames, Waveform

WINDOW, HOP = 0.040, 0.010
"""Seconds: two periods of the deepest voice; the speech field's usual step."""
LOWEST, HIGHEST = 60.0, 500.0
"""Hz between which a voice's pitch is sought."""
VOICED = 0.5
"""Least normalised autocorrelation of a voiced frame."""
PAUSE_DB = 25.0
"""Decibels under the loudest frame from which on a frame counts as pause."""


def audio_measures(sound: Waveform) -> dict[str, float]:
    """Prosody of a clip.

    Returns:
        energy_db: mean level of the spoken frames, dB re full scale. syllables_per_s: peaks of the level per second.
        pause_share: share of frames without speech. pitch_hz: median over voiced frames; pitch_range_st: semitones
        from their 10th to their 90th percentile; both left out where nothing is voiced.
    """
    size, hop = round(WINDOW * sound.rate), round(HOP * sound.rate)
    x = torch.nn.functional.pad(sound.x, (0, max(size - len(sound.x), 0)))
    frames = x.unfold(0, size, hop)  # [F, size]
    frames = frames - frames.mean(dim=1, keepdim=True)
    level = 10 * torch.log10(frames.square().mean(dim=1) + 1e-10)  # [F] dB re full scale
    spoken = level > max(float(level.max()) - PAUSE_DB, -80.0)
    out = {
        "energy_db": float(level[spoken].mean()) if spoken.any() else -100.0,
        "syllables_per_s": _peaks(level) / (len(x) / sound.rate),
        "pause_share": float((~spoken).float().mean()),
    }
    pitch = _pitch(frames[spoken], sound.rate)
    if len(pitch):
        low, high = torch.quantile(pitch, torch.tensor([0.1, 0.9]))
        out |= {"pitch_hz": float(pitch.median()), "pitch_range_st": float(12 * torch.log2(high / low))}
    return out


def motion_measures(frames: Frames) -> dict[str, float]:
    """How much changes from one looked-at picture to the next, in percent of full brightness.

    Returns:
        movement: mean over the clip; movement_max: at its strongest. Nothing for a single picture.
    """
    if len(frames.pixels) < 2:
        return {}
    grey = frames.pixels[:, ::2, ::2].float().mean(dim=-1)  # [T, H / 2, W / 2]
    change = grey.diff(dim=0).abs().mean(dim=(1, 2)) * (100 / 255)  # [T - 1]
    return {"movement": float(change.mean()), "movement_max": float(change.max())}


def au_measures(table: ActionUnits) -> dict[str, float]:
    """Intensity (0..5) of every action unit over the clip: AU12 its mean, AU12_max its maximum."""
    out: dict[str, float] = {}
    mean, high = table.x.mean(dim=0), table.x.amax(dim=0)  # [C]
    for k, name in enumerate(table.names):
        if name.endswith("_r"):
            unit = name.removesuffix("_r")
            out |= {unit: float(mean[k]), f"{unit}_max": float(high[k])}
    return out


def _pitch(frames: Tensor, rate: int) -> Tensor:
    """Frames [F, size] -> pitch in Hz of the voiced ones [V], by autocorrelation.

    The window's own autocorrelation is divided out (Boersma 1993), and the shortest lag that comes near the best one
    is taken, so that a period is not mistaken for two.
    """
    size = frames.shape[1]
    first, last = int(rate / HIGHEST), min(int(rate / LOWEST) + 1, size - 2)
    window = torch.hann_window(size)
    padded = 1 << (size + last).bit_length()  # long enough that the lags do not wrap around
    both = torch.cat([frames * window, window[None]])
    spectrum = torch.fft.rfft(both, n=padded).abs().square()
    correlation = torch.fft.irfft(spectrum, n=padded)[:, : last + 2]  # [F + 1, lags]
    correlation = correlation / correlation[:, :1].clamp(min=1e-12)
    correlation = correlation[:-1] / correlation[-1].clamp(min=1e-3)
    sought = correlation[:, first : last + 1]
    peak = (sought >= correlation[:, first - 1 : last]) & (sought >= correlation[:, first + 1 : last + 2])
    sought = torch.where(peak, sought, -1.0)
    best = sought.amax(dim=1, keepdim=True) if len(sought) else sought.new_zeros(0, 1)
    lag = (sought >= 0.9 * best).int().argmax(dim=1) + first  # first of the near-best
    voiced = best[:, 0] > VOICED
    lag, rows = lag[voiced], torch.nonzero(voiced)[:, 0]
    left, mid, right = (correlation[rows, lag + d] for d in (-1, 0, 1))
    shift = (left - right) / (2 * (left - 2 * mid + right)).clamp(max=-1e-9)  # top of the parabola through the three
    return rate / (lag + shift.clamp(-0.5, 0.5))


def _peaks(level: Tensor) -> int:
    """Syllables in a track of levels [F] in dB: maxima that stand 3 dB above the valleys on both sides."""
    smooth = torch.nn.functional.avg_pool1d(level[None, None], 5, stride=1, padding=2, count_include_pad=False)[0, 0]
    count, valley, top, floor = 0, float("inf"), -float("inf"), float(smooth.max()) - PAUSE_DB
    for value in smooth.tolist():
        if value > top:
            top = value
        if top - value >= 3.0 and top - valley >= 3.0 and top > floor:
            count, valley, top = count + 1, value, value
        if value < valley:
            valley, top = value, value
    return count
