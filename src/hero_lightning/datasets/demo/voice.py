"""The voice of the demo dataset: a source-filter synthesis whose pitch, level, length and timbre carry an emotion.

Data flow: Clip -> pitch track -> saw wave -> vowels (formants) -> syllables -> + noise -> samples.

Shapes: N samples at RATE.
"""

from __future__ import annotations

import numpy as np

from hero_lightning.datasets.demo.traits import TRAITS
from hero_lightning.datasets.demo.truth import Clip

RATE = 16_000
"""Hz of the sound track."""
VOWELS = ((700, 1200, 2600), (400, 2000, 2700), (450, 900, 2400), (550, 1700, 2500))
"""Formants in Hz of a, e, o and a central vowel (Peterson and Barney 1952, rounded)."""
LEVEL_DB = -27.0
"""Level of a neutral voice, dB re full scale."""
NOISE_DB = {0.0: -62.0, 0.33: -50.0, 0.67: -42.0, 1.0: -12.0}
"""Level of the noise, dB re full scale."""


def speak(clip: Clip, seed: int) -> np.ndarray:
    """The sound of a clip: [N] float32 in [-1, 1]."""
    rng = np.random.default_rng([seed, clip.number, 2])
    manner = TRAITS[clip.shows["audio"]].voice
    n = round(clip.seconds * RATE)
    time = np.arange(n) / RATE
    semitones = manner.tremor * np.sin(2 * np.pi * 8 * time)
    gate = np.zeros((len(VOWELS), n))  # [vowels, N] how loud each vowel is
    ends = [s for s, _ in clip.voiced[1:]] + [clip.seconds]
    for (start, end), stop in zip(clip.voiced, ends, strict=True):
        length = min((end - start) * manner.length, stop - start - 0.03)
        inside = (time >= start) & (time < start + length)
        part = (time[inside] - start) / length  # 0..1 through the syllable
        semitones[inside] += manner.glide * (part - 0.5) + rng.normal(0, 0.4)
        loud = np.minimum(part / 0.2, 1) * np.minimum((1 - part) / 0.35, 1)
        gate[rng.integers(len(VOWELS)), inside] = loud * 10 ** (rng.normal(0, 1) / 20)
    base = base_pitch(clip.speaker) * manner.pitch * (1 - 0.06 * time / clip.seconds)
    phase = np.cumsum(base * 2 ** (semitones / 12)) / RATE
    source = 2 * (phase % 1) - 1 + manner.breath * 4 * rng.normal(size=n)
    voice = np.sum(gate * _vowels(source, manner.tilt), axis=0)
    heard = voice[gate.sum(axis=0) > 0]
    level = LEVEL_DB + manner.level + rng.normal(0, 1)
    voice *= 10 ** (level / 20) / (np.sqrt(np.mean(heard**2)) + 1e-9)
    return np.clip(voice + _noise(rng, n, NOISE_DB[clip.noise["sound"]]), -1, 1).astype(np.float32)


def base_pitch(speaker: int) -> float:
    """Hz of a speaker's neutral voice; even speakers have the lower voices."""
    return (115.0 if speaker % 2 == 0 else 190.0) * (1 + 0.15 * np.sin(7.0 * speaker))


def _vowels(source: np.ndarray, tilt: float) -> np.ndarray:
    """The source spoken as each vowel: [N] -> [vowels, N] of equal level."""
    size = len(source) + -len(source) % 4096  # a length that is fast for the FFT
    hertz = np.fft.rfftfreq(size, 1 / RATE)
    slope = 10 ** (tilt * np.log2(np.maximum(hertz, 500) / 500) / 20) * (hertz > 60)
    peaks = np.array(VOWELS, dtype=float)[:, :, None]  # [vowels, 3, 1]
    shape = (1 / (1 + ((hertz - peaks) / 90) ** 2)).sum(axis=1) + 0.05  # [vowels, F]
    out = np.fft.irfft(np.fft.rfft(source, size) * slope * shape, size)[:, : len(source)]
    return out / np.sqrt(np.mean(out**2, axis=1, keepdims=True))


def _noise(rng: np.random.Generator, n: int, level: float) -> np.ndarray:
    """Background noise of random spectrum and varying loudness, about `level` dB re full scale: [N]."""
    spectrum = np.fft.rfft(rng.normal(size=n))
    hertz = np.fft.rfftfreq(n, 1 / RATE)
    octaves = np.log2(np.maximum(hertz, 100) / 100)
    colour = rng.uniform(-4, 0) * octaves + np.interp(octaves, np.arange(8), rng.normal(0, 6, size=8))
    noise = np.fft.irfft(spectrum * 10 ** (colour / 20) * (hertz > 60), n)
    swell = np.interp(np.linspace(0, 1, n), np.linspace(0, 1, 12), rng.normal(0, 5, size=12))  # dB
    noise *= 10 ** (swell / 20)
    return noise * 10 ** ((level + rng.normal(0, 1.5)) / 20) / np.sqrt(np.mean(noise**2))
